/* The inverse of a sparse symmetric system within its fronts (Erisman and Tinney 1975). */

#include "fronts.h"

#include <string.h>

enum { TERMS = 4 }; /* rows that are subtracted at once */

/* Subtract multiples of `count` rows, `step` apart, from a row of n elements. */
static void subtract(double *restrict row, const double *factors, const double *restrict rows,
                     Index step, Index count, Index n)
{
    Index k = 0;
    for (; k + TERMS <= count; k += TERMS, rows += TERMS * step) {
        const double *const restrict v = rows + step, *const restrict w = v + step;
        const double *const restrict x = w + step;
        const double p = factors[k], q = factors[k + 1], r = factors[k + 2], s = factors[k + 3];
        for (Index j = 0; j < n; j++)
            row[j] -= (p * rows[j] + q * v[j]) + (r * w[j] + s * x[j]);
    }
    for (; k < count; k++, rows += step)
        for (Index j = 0; j < n; j++) row[j] -= factors[k] * rows[j];
}

/* Compute Z of a front, last row first: Z₂₂ is known, and U Z is lower triangular with the diagonal
1 / U. */
static void invert(const double *panel, const double *outer, Index own, Index size, double *inverse)
{
    const Index rest = size - own;
    for (Index i = 0; i < rest; i++)
        memcpy(inverse + (own + i) * size + own, outer + i * rest, (size_t)rest * sizeof *outer);
    for (Index i = own - 1; i >= 0; i--) {
        const Index right = i + 1, count = size - right;
        const double *const upper = panel + i * size + right;
        const double scale = 1 / panel[i * size + i];
        double *const row = inverse + i * size + right, diagonal = scale;
        for (Index j = 0; j < count; j++) row[j] = 0;
        subtract(row, upper, inverse + right * size + right, size, count, count);
        for (Index j = 0; j < count; j++) {
            row[j] *= scale;
            inverse[(right + j) * size + i] = row[j];
            diagonal -= upper[j] * row[j];
        }
        inverse[i * size + i] = diagonal * scale;
    }
}

/* Write the inverse of a front to the diagonal, the blocks and the children. */
static int distribute(const InvertFronts *a, const Tree *tree, const Front *front,
                      const double *inverse)
{
    const Index size = front->size, width = tree->width;
    Front child;
    for (Index i = 0; i < front->own; i++) a->diagonal[front->columns[i]] = inverse[i * size + i];
    for (Index k = front->first_block; a->size.kept_blocks && k < front->last_block; k++) {
        const Index *const place = tree->place + tree->order[k] * width;
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
    if (a->size.kept_blocks && a->size.kept_blocks != a->size.pairs) return -1;
    for (Index number = tree.fronts - 1; number >= 0; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        invert(a->panels + front.panel, a->updates + front.update, front.own, front.size,
               a->front_work);
        if (distribute(a, &tree, &front, a->front_work) < 0) return -1;
    }
    return 0;
}
