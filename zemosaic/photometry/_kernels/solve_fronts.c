/* Solutions of a sparse symmetric system from its factor. */

#include "fronts.h"

enum { MANY = 8 }; /* right-hand sides, from which on they are solved for together */
enum { LANES = 4 }; /* partial sums of a scalar product */

/* Subtract a multiple of one row from another. */
static void subtract(double *restrict to, const double *restrict from, double factor, Index n)
{
    for (Index k = 0; k < n; k++) to[k] -= factor * from[k];
}

static void scale(double *row, double factor, Index n)
{
    for (Index k = 0; k < n; k++) row[k] *= factor;
}

/* Eliminate the columns of a front from its rows (size, sides) of the right-hand sides. */
static void eliminate(const double *panel, const Front *front, double *rows, Index sides)
{
    const Index own = front->own, size = front->size;
    for (Index i = 0; i < own; i++) {
        scale(rows + i * sides, 1 / panel[i * size + i], sides);
        for (Index j = i + 1; j < own; j++)
            subtract(rows + j * sides, rows + i * sides, panel[i * size + j], sides);
    }
    const Factor coupling = {panel + own, size, 1}, solved = {rows, sides, 1};
    subtract_product(rows + own * sides, sides, coupling, solved, own, front->rest, sides, 0);
}

/* Solve for the columns of a front, where all others are solved. */
static void substitute(const double *panel, const Front *front, double *rows, Index sides)
{
    const Index own = front->own, size = front->size;
    const Factor coupling = {panel + own, 1, size}, solved = {rows + own * sides, sides, 1};
    subtract_product(rows, sides, coupling, solved, front->rest, own, sides, 0);
    for (Index i = own - 1; i >= 0; i--) {
        for (Index j = i + 1; j < own; j++)
            subtract(rows + i * sides, rows + j * sides, panel[i * size + j], sides);
        scale(rows + i * sides, 1 / panel[i * size + i], sides);
    }
}

static double scalar_product(const double *restrict left, const double *restrict right, Index n)
{
    double sum[LANES] = {0};
    Index k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int lane = 0; lane < LANES; lane++) sum[lane] += left[k + lane] * right[k + lane];
    for (; k < n; k++) sum[0] += left[k] * right[k];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Eliminate the columns of a front from one right-hand side. */
static void eliminate_side(const double *row, const Front *front, double *side)
{
    for (Index i = 0; i < front->own; i++, row += front->size) {
        side[i] /= row[i];
        subtract(side + i + 1, row + i + 1, side[i], front->size - i - 1);
    }
}

static void substitute_side(const double *panel, const Front *front, double *side)
{
    for (Index i = front->own - 1; i >= 0; i--) {
        const double *const row = panel + i * front->size;
        const Index next = i + 1;
        side[i] -= scalar_product(row + next, side + next, front->size - next);
        side[i] /= row[i];
    }
}

/* Copy `count` rows of a front from the solution, or back; few sides lie one after the other. */
static void copy(double *solution, const Front *front, Index count, Index sides, double *work,
                 int back)
{
    const Index row_step = sides < MANY ? 1 : sides, side_step = sides < MANY ? front->size : 1;
    for (Index k = 0; k < count; k++)
        for (Index side = 0; side < sides; side++) {
            double *const outer = solution + front->columns[k] * sides + side;
            double *const inner = work + k * row_step + side * side_step;
            if (back) *outer = *inner;
            else *inner = *outer;
        }
}

/* Solve for the right-hand sides in `solution`, in place. */
int solve_fronts(const SolveFronts *a)
{
    const Tree tree = TREE_OF(a);
    const Index sides = a->size.sides, single = sides < MANY ? sides : 0;
    double *const work = a->side_work;
    Front front;
    for (Index number = 0; number < tree.fronts; number++) {
        if (read_front(&tree, number, &front) < 0 || front.size > a->size.front_columns) return -1;
        const double *const panel = a->panels + front.panel;
        copy(a->solution, &front, front.size, sides, work, 0);
        for (Index k = 0; k < single; k++) eliminate_side(panel, &front, work + k * front.size);
        if (!single) eliminate(panel, &front, work, sides);
        copy(a->solution, &front, front.size, sides, work, 1);
    }
    for (Index number = tree.fronts - 1; number >= 0; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        const double *const panel = a->panels + front.panel;
        copy(a->solution, &front, front.size, sides, work, 0);
        for (Index k = 0; k < single; k++) substitute_side(panel, &front, work + k * front.size);
        if (!single) substitute(panel, &front, work, sides);
        copy(a->solution, &front, front.own, sides, work, 1);
    }
    return 0;
}
