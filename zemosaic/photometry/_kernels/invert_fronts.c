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

/* Compute Z of a front from its panel (U₁ C) and Z₂₂; `ratio` (own, size) gets (U₁⁻¹ Y). */
static void invert(const double *panel, const double *outer, Index own, Index size, double *ratio,
                   double *inverse)
{
    const Index rest = size - own;
    for (Index i = own - 1; i >= 0; i--) {
        const double *const upper = panel + i * size;
        double *const row = ratio + i * size;
        for (Index j = 0; j < size; j++) row[j] = j < own ? j == i : upper[j];
        subtract(row, upper + i + 1, row + size, size, own - i - 1, size);
        for (Index j = 0; j < size; j++) row[j] *= 1 / upper[i];
    }
    for (Index i = 0; i < rest; i++)
        memcpy(inverse + (own + i) * size + own, outer + i * rest, (size_t)rest * sizeof *outer);
    for (Index i = own - 1; i >= 0; i--) {
        double *const row = inverse + i * size;
        for (Index j = own; j < size; j++) row[j] = 0;
        subtract(row + own, ratio + i * size + own, outer, rest, rest, rest);
        for (Index j = own; j < size; j++) inverse[j * size + i] = row[j];
        for (Index j = i; j < own; j++) {
            double sum = 0;
            for (Index k = j; k < own; k++) sum += ratio[i * size + k] * ratio[j * size + k];
            for (Index k = own; k < size; k++) sum -= row[k] * ratio[j * size + k];
            row[j] = inverse[j * size + i] = sum;
        }
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

/* Compute the inverse in the fronts from `end` down to `first`. */
int invert_fronts(const InvertFronts *a)
{
    const Tree tree = TREE_OF(a);
    Front front;
    if (a->size.kept_blocks && a->size.kept_blocks != a->size.pairs) return -1;
    for (Index number = (Index)a->end - 1; number >= (Index)a->first; number--) {
        if (read_front(&tree, number, &front) < 0) return -1;
        invert(a->panels + front.panel, a->updates + front.update, front.own, front.size,
               a->ratio_work, a->front_work);
        if (distribute(a, &tree, &front, a->front_work) < 0) return -1;
    }
    return 0;
}
