/* Solutions of a sparse symmetric system from its factor. */

#include "fronts.h"

/* Subtract a multiple of one row from another. */
static void subtract(double *restrict to, const double *restrict from, double factor, Index n)
{
    for (Index k = 0; k < n; k++) to[k] -= factor * from[k];
}

static void scale(double *row, double factor, Index n)
{
    for (Index k = 0; k < n; k++) row[k] *= factor;
}

/* Solve for the right-hand sides in `solution`, in place. */
int solve_fronts(const SolveFronts *a)
{
    const Tree tree = TREE_OF(a);
    const Index sides = a->size.sides;
    Front front;
    if (sides < 1) return 0;
    for (Index number = 0; number < tree.fronts; number++) {
        if (read_front(&tree, number, &front) < 0) return -1;
        const double *row = a->panels + front.panel;
        for (Index i = 0; i < front.own; i++, row += front.size) {
            double *const own = a->solution + front.columns[i] * sides;
            scale(own, 1 / row[i], sides);
            for (Index j = i + 1; j < front.size; j++)
                subtract(a->solution + front.columns[j] * sides, own, row[j], sides);
        }
    }
    for (Index number = tree.fronts - 1; number >= 0; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        for (Index i = front.own - 1; i >= 0; i--) {
            const double *const row = a->panels + front.panel + i * front.size;
            double *const own = a->solution + front.columns[i] * sides;
            for (Index j = i + 1; j < front.size; j++)
                subtract(own, a->solution + front.columns[j] * sides, row[j], sides);
            scale(own, 1 / row[i], sides);
        }
    }
    return 0;
}
