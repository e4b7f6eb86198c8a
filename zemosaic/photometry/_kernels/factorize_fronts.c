/* The factor Uᵀ U of a sparse symmetric system, front by front. */

#include "fronts.h"

#include <math.h>
#include <string.h>

enum { FEW = 8 }; /* rows that are eliminated one by one: those of a tile of a product */

/* The matrix of a front right of its diagonal: the rows (own, size) that are eliminated, and those
(rest, rest) that are left. */
typedef struct {
    double *panel, *rest;
    const Front *front;
} Matrix;

/* Return a row of the matrix, and set the column of its first element. */
static double *row_of(const Matrix *matrix, Index row, Index *first)
{
    const Front *const front = matrix->front;
    *first = row < front->own ? 0 : front->own;
    return row < front->own ? matrix->panel + row * front->size
                            : matrix->rest + (row - front->own) * front->rest;
}

/* Sum the matrix of a front: the diagonal, the blocks and the updates of the children. */
static int assemble(const FactorizeFronts *a, const Tree *tree, const Matrix *matrix)
{
    const Front *const front = matrix->front;
    const Index width = tree->width;
    Front child;
    Index first;
    for (Index k = 0; k < front->own; k++) {
        double *const row = matrix->panel + k * front->size;
        memset(row, 0, (size_t)front->size * sizeof *row);
        row[k] = a->diagonal[front->columns[k]];
    }
    for (Index k = 0; k < front->rest; k++)
        memset(matrix->rest + k * (front->rest + 1), 0, (size_t)(front->rest - k) * sizeof(double));
    for (Index k = front->first_block; k < front->last_block; k++) {
        const Index *place;
        if (block_place(tree, front, k, &place) < 0) return -1;
        const double *block = a->blocks + tree->order[k] * width * width;
        for (Index i = 0; i < width; i++, block += width) {
            if (place[i] < 0) continue;
            double *const row = row_of(matrix, place[i], &first);
            for (Index j = 0; j < width; j++)
                if (place[j] >= place[i]) row[place[j] - first] += block[j];
        }
    }
    for (Index k = front->first_child; k < front->last_child; k++) {
        if (read_child(tree, front, k, &child) < 0) return -1;
        const Index *const place = child.above + child.own;
        const double *update = a->updates + child.update;
        for (Index i = 0; i < child.rest; i++, update += child.rest) {
            double *const row = row_of(matrix, place[i], &first);
            for (Index j = i; j < child.rest; j++) row[place[j] - first] += update[j];
        }
    }
    return 0;
}

/* Eliminate the rows from `begin` to `end` of a matrix whose rows before have been subtracted; 0 if
it is not positive definite. */
static int eliminate(double *matrix, Index begin, Index end, Index size)
{
    if (end - begin > FEW) {
        const Index middle = begin + ((end - begin) / 2 + FEW - 1) / FEW * FEW;
        if (!eliminate(matrix, begin, middle, size)) return 0;
        const Factor above = {matrix + begin * size + middle, size, 1};
        subtract_product(matrix + middle * (size + 1), size, above, above, middle - begin,
                         end - middle, size - middle, 1);
        return eliminate(matrix, middle, end, size);
    }
    for (Index pivot = begin; pivot < end; pivot++) {
        double *const restrict row = matrix + pivot * size;
        for (Index k = begin; k < pivot; k++) {
            const double *const restrict above = matrix + k * size;
            const double factor = above[pivot];
            for (Index j = pivot; j < size; j++) row[j] -= factor * above[j];
        }
        if (!(row[pivot] > 0) || !isfinite(row[pivot])) return 0;
        row[pivot] = sqrt(row[pivot]);
        const double inverse = 1 / row[pivot];
        for (Index j = pivot + 1; j < size; j++) row[j] *= inverse;
    }
    return 1;
}

/* Factorize all fronts. The updates of a front take the place of those of its children, so they are
computed apart. */
int factorize_fronts(const FactorizeFronts *a)
{
    const Tree tree = TREE_OF(a);
    Front front;
    a->definite[0] = 1;
    for (Index number = 0; number < tree.fronts; number++) {
        if (read_front(&tree, number, &front) < 0) return -1;
        const Index own = front.own, size = front.size, rest = front.rest;
        const Matrix matrix = {a->panels + front.panel, a->front_work, &front};
        if (assemble(a, &tree, &matrix) < 0) return -1;
        a->definite[0] = eliminate(matrix.panel, 0, own, size);
        if (!a->definite[0]) return 0;
        const Factor coupling = {matrix.panel + own, size, 1};
        subtract_product(matrix.rest, rest, coupling, coupling, own, rest, rest, 1);
        double *const update = a->updates + front.update;
        for (Index i = 0; i < own; i++)
            memset(matrix.panel + i * size, 0, (size_t)i * sizeof *update);
        for (Index i = 0; i < rest; i++)
            memcpy(update + i * (rest + 1), matrix.rest + i * (rest + 1),
                   (size_t)(rest - i) * sizeof *update);
    }
    return 0;
}
