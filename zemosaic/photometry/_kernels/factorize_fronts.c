/* The factor Uᵀ U of a sparse symmetric system, front by front. */

#include "fronts.h"

#include <math.h>
#include <string.h>

enum { FEW = 8 }; /* rows that are eliminated one by one */

/* Sum the matrix of a front right of its diagonal: the diagonal, the blocks and the updates of the
children. */
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
                if (place[i] >= 0 && place[j] >= place[i])
                    matrix[place[i] * size + place[j]] += block[i * width + j];
    }
    for (Index k = front->first_child; k < front->last_child; k++) {
        if (read_child(tree, front, k, &child) < 0) return -1;
        const Index *const place = child.above + child.own;
        const double *update = a->updates + child.update;
        for (Index i = 0; i < child.rest; i++, update += child.rest) {
            double *const row = matrix + place[i] * size;
            for (Index j = i; j < child.rest; j++) row[place[j]] += update[j];
        }
    }
    return 0;
}

/* Subtract the products of the rows from `begin` to `middle` from those from there to `end`. */
static void subtract_rows(double *matrix, Index begin, Index middle, Index end, Index size)
{
    const Factor above = {matrix + begin * size + middle, size, 1};
    subtract_product(matrix + middle * (size + 1), size, above, above, middle - begin,
                     end - middle, size - middle, 1);
}

/* Eliminate the rows from `begin` to `end` of a matrix whose rows before have been subtracted; 0 if
it is not positive definite. */
static int eliminate(double *matrix, Index begin, Index end, Index size)
{
    if (end - begin > FEW) {
        const Index middle = begin + (end - begin) / 2;
        if (!eliminate(matrix, begin, middle, size)) return 0;
        subtract_rows(matrix, begin, middle, end, size);
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
        a->definite[0] = eliminate(matrix, 0, own, size);
        if (!a->definite[0]) return 0;
        subtract_rows(matrix, 0, own, size, size);
        double *const panel = a->panels + front.panel, *const update = a->updates + front.update;
        for (Index i = 0; i < own; i++) {
            memset(panel + i * size, 0, (size_t)i * sizeof *panel);
            memcpy(panel + i * (size + 1), matrix + i * (size + 1), (size_t)(size - i) * sizeof *panel);
        }
        for (Index i = 0; i < front.rest; i++)
            memcpy(update + i * (front.rest + 1), matrix + (own + i) * (size + 1),
                   (size_t)(front.rest - i) * sizeof *update);
    }
    return 0;
}
