/* The factor Uᵀ U of a sparse symmetric system, front by front. */

#include "fronts.h"

#include <math.h>
#include <string.h>

enum { PIVOTS = 4 }; /* rows that are subtracted at once */

/* Sum the matrix of a front: its diagonal, its blocks and the updates of its children. */
static int assemble(const FactorizeFronts *a, const Tree *tree, const Front *front, double *matrix)
{
    const Index size = front->size, width = tree->width;
    Front child;
    memset(matrix, 0, (size_t)(size * size) * sizeof *matrix);
    for (Index k = 0; k < front->own; k++)
        matrix[k * size + k] = a->diagonal[front->columns[k]];
    for (Index k = front->first_block; k < front->last_block; k++) {
        const Index *const place = tree->place + tree->order[k] * width;
        const double *const block = a->blocks + tree->order[k] * width * width;
        for (Index i = 0; i < width; i++)
            for (Index j = 0; j < width; j++)
                if (place[i] >= 0 && place[j] >= 0)
                    matrix[place[i] * size + place[j]] += block[i * width + j];
    }
    for (Index k = front->first_child; k < front->last_child; k++) {
        if (read_child(tree, front, k, &child) < 0) return -1;
        const Index *const place = child.above + child.own;
        const double *update = a->updates + child.update;
        for (Index i = 0; i < child.rest; i++, update += child.rest) {
            double *const row = matrix + place[i] * size;
            for (Index j = 0; j < child.rest; j++) row[place[j]] += update[j];
        }
    }
    return 0;
}

/* Subtract the products of `count` rows u of U from the row i of a matrix, right of the diagonal. */
static void subtract(double *restrict row, const double *restrict u, Index count, Index size,
                     Index i)
{
    if (count == PIVOTS) {
        const double *const restrict v = u + size, *const restrict w = v + size;
        const double *const restrict x = w + size;
        const double p = u[i], q = v[i], r = w[i], s = x[i];
        for (Index j = i; j < size; j++)
            row[j] -= (p * u[j] + q * v[j]) + (r * w[j] + s * x[j]);
        return;
    }
    for (Index k = 0; k < count; k++, u += size) {
        const double p = u[i];
        for (Index j = i; j < size; j++) row[j] -= p * u[j];
    }
}

/* Eliminate the first `own` columns of a matrix; 0 if it is not positive definite. */
static int eliminate(double *matrix, Index own, Index size)
{
    for (Index begin = 0; begin < own; begin += PIVOTS) {
        const Index count = own - begin < PIVOTS ? own - begin : PIVOTS;
        double *const rows = matrix + begin * size;
        for (Index k = 0; k < count; k++) {
            double *const row = rows + k * size;
            const Index pivot = begin + k;
            subtract(row, rows, k, size, pivot);
            if (!(row[pivot] > 0) || !isfinite(row[pivot])) return 0;
            row[pivot] = sqrt(row[pivot]);
            const double inverse = 1 / row[pivot];
            for (Index j = pivot + 1; j < size; j++) row[j] *= inverse;
        }
        for (Index i = begin + count; i < size; i++)
            subtract(matrix + i * size, rows, count, size, i);
    }
    return 1;
}

/* Factorize all fronts. */
int factorize_fronts(const FactorizeFronts *a)
{
    const Tree tree = TREE_OF(a);
    double *const matrix = a->front_work;
    Front front;
    a->definite[0] = 1;
    for (Index number = 0; number < tree.fronts; number++) {
        if (read_front(&tree, number, &front) < 0 || assemble(a, &tree, &front, matrix) < 0)
            return -1;
        const Index own = front.own, size = front.size;
        a->definite[0] = eliminate(matrix, own, size);
        if (!a->definite[0]) return 0;
        double *const panel = a->panels + front.panel, *const update = a->updates + front.update;
        for (Index i = 0; i < own; i++)
            for (Index j = 0; j < size; j++) panel[i * size + j] = j < i ? 0 : matrix[i * size + j];
        for (Index i = own; i < size; i++)
            for (Index j = i; j < size; j++)
                update[(i - own) * front.rest + j - own] = update[(j - own) * front.rest + i - own] =
                    matrix[i * size + j];
    }
    return 0;
}
