/* Solutions of a sparse symmetric system from its factor. */

#include "fronts.h"

enum { LANES = 4 }; /* partial sums of a scalar product */

static double product(const double *restrict left, const double *restrict right, Index n)
{
    double sum[LANES] = {0};
    Index k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int lane = 0; lane < LANES; lane++) sum[lane] += left[k + lane] * right[k + lane];
    for (; k < n; k++) sum[0] += left[k] * right[k];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Eliminate the columns of a front from its rows of one right-hand side. */
static void eliminate(const double *row, const Front *front, double *restrict side)
{
    for (Index i = 0; i < front->own; i++, row += front->size) {
        const double value = side[i] /= row[i];
        for (Index j = i + 1; j < front->size; j++) side[j] -= value * row[j];
    }
}

/* Solve for the columns of a front in one right-hand side, in which all others are solved. */
static void substitute(const double *panel, const Front *front, double *side)
{
    for (Index i = front->own - 1; i >= 0; i--) {
        const double *const row = panel + i * front->size;
        const Index right = i + 1;
        side[i] = (side[i] - product(row + right, side + right, front->size - right)) / row[i];
    }
}

/* Copy rows of the solution to the right-hand sides of a front, one after the other, or back. */
static void gather(const double *solution, const Front *front, Index sides, double *work)
{
    for (Index k = 0; k < front->size; k++)
        for (Index side = 0; side < sides; side++)
            work[side * front->size + k] = solution[front->columns[k] * sides + side];
}

static void scatter(double *solution, const Front *front, Index rows, Index sides,
                    const double *work)
{
    for (Index k = 0; k < rows; k++)
        for (Index side = 0; side < sides; side++)
            solution[front->columns[k] * sides + side] = work[side * front->size + k];
}

/* Solve for the right-hand sides in `solution`, in place. */
int solve_fronts(const SolveFronts *a)
{
    const Tree tree = TREE_OF(a);
    const Index sides = a->size.sides;
    double *const work = a->side_work;
    Front front;
    for (Index number = 0; number < tree.fronts; number++) {
        if (read_front(&tree, number, &front) < 0 || front.size > a->size.front_columns) return -1;
        gather(a->solution, &front, sides, work);
        for (Index side = 0; side < sides; side++)
            eliminate(a->panels + front.panel, &front, work + side * front.size);
        scatter(a->solution, &front, front.size, sides, work);
    }
    for (Index number = tree.fronts - 1; number >= 0; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        gather(a->solution, &front, sides, work);
        for (Index side = 0; side < sides; side++)
            substitute(a->panels + front.panel, &front, work + side * front.size);
        scatter(a->solution, &front, front.own, sides, work);
    }
    return 0;
}
