/* The inverse of a sparse symmetric system within its fronts (Erisman and Tinney 1975). */

#include "fronts.h"

#include <string.h>

enum { BLOCK = 32 }; /* rows that are inverted at once */
enum { LINE = 8 };   /* columns that are copied at once: a line of the cache */

/* Solve for the rows from `begin` to `end` of the inverse, in the columns from there on, to which
the rows after them have been added. */
static void solve_rows(const double *panel, Index begin, Index end, Index size, double *inverse)
{
    for (Index i = end - 1; i >= begin; i--) {
        double *const restrict row = inverse + i * size;
        const double scale = 1 / panel[i * size + i];
        for (Index k = i + 1; k < end; k++) {
            const double *const restrict below = inverse + k * size;
            const double factor = panel[i * size + k];
            for (Index j = end; j < size; j++) row[j] -= factor * below[j];
        }
        for (Index j = end; j < size; j++) row[j] *= scale;
    }
    for (Index column = end; column < size; column += LINE)
        for (Index i = begin; i < end; i++)
            for (Index j = column; j < column + LINE && j < size; j++)
                inverse[j * size + i] = inverse[i * size + j];
}

/* Solve likewise for the columns of these rows, on both sides of the diagonal. */
static void solve_diagonal(const double *panel, Index begin, Index end, Index size, double *inverse)
{
    for (Index i = end - 1; i >= begin; i--) {
        const double *const upper = panel + i * size;
        double *const row = inverse + i * size;
        const double scale = 1 / upper[i];
        double diagonal = row[i] + scale;
        for (Index j = i + 1; j < end; j++) {
            for (Index k = i + 1; k < end; k++) row[j] -= upper[k] * inverse[k * size + j];
            inverse[j * size + i] = row[j] *= scale;
        }
        for (Index k = i + 1; k < end; k++) diagonal -= upper[k] * row[k];
        row[i] = diagonal * scale;
    }
}

/* Compute Z of a front, last rows first: Z₂₂ is known, and U Z is lower triangular with the diagonal
1 / U. */
static void invert(const double *panel, const double *outer, Index own, Index size, double *inverse)
{
    const Index rest = size - own;
    for (Index i = 0; i < rest; i++)
        memcpy(inverse + (own + i) * size + own, outer + i * rest, (size_t)rest * sizeof *outer);
    for (Index end = own; end > 0;) {
        const Index begin = end > BLOCK ? end - BLOCK : 0, count = end - begin;
        const Factor coupling = {panel + begin * size + end, 1, size};
        const Factor known = {inverse + end * (size + 1), size, 1};
        const Factor across = {inverse + begin * size + end, 1, size};
        for (Index i = begin; i < end; i++)
            memset(inverse + i * size + begin, 0, (size_t)(size - begin) * sizeof *inverse);
        subtract_product(inverse + begin * size + end, size, coupling, known, size - end, count,
                         size - end, 0);
        solve_rows(panel, begin, end, size, inverse);
        subtract_product(inverse + begin * (size + 1), size, coupling, across, size - end, count,
                         count, 1);
        solve_diagonal(panel, begin, end, size, inverse);
        end = begin;
    }
}

/* Write the inverse of a front to the diagonal, the blocks and the children. */
static int distribute(const InvertFronts *a, const Tree *tree, const Front *front,
                      const double *inverse)
{
    const Index size = front->size, width = tree->width;
    Front child;
    for (Index i = 0; i < front->own; i++) a->diagonal[front->columns[i]] = inverse[i * size + i];
    for (Index k = front->first_block; k < front->last_block; k++) {
        const Index *place;
        if (block_place(tree, front, k, &place) < 0) return -1;
        double *const block = a->blocks + tree->order[k] * width * width;
        for (Index i = 0; i < width; i++)
            for (Index j = 0; j < width; j++) {
                const int both = place[i] >= 0 && place[j] >= 0;
                block[i * width + j] = both ? inverse[place[i] * size + place[j]] : 0;
            }
    }
    for (Index k = front->first_child; k < front->last_child; k++) {
        if (read_child(tree, front, k, &child) < 0) return -1;
        const Index *const place = child.above + child.own;
        double *update = a->updates + child.update;
        for (Index i = 0; i < child.rest; i++, update += child.rest)
            for (Index j = 0; j < child.rest; j++)
                update[j] = inverse[place[i] * size + place[j]];
    }
    return 0;
}

/* Compute the inverse within all fronts, last front first. */
int invert_fronts(const InvertFronts *a)
{
    const Tree tree = TREE_OF(a);
    Front front;
    for (Index number = tree.fronts - 1; number >= 0; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        invert(a->panels + front.panel, a->updates + front.update, front.own, front.size,
               a->front_work);
        if (distribute(a, &tree, &front, a->front_work) < 0) return -1;
    }
    return 0;
}
