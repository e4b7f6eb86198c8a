/* Samples of a tile's smoothed blocks at the cells of the grid. */

#include "algebra.h"

#include <math.h>

enum { NODE_STEP = 16 }; /* cells between nodes, as in nodes.py */

/* Compute the positions of a row of cells, linear between nodes. `nodes` is the row of nodes above
the cells; the row below follows it, and `fraction` is the distance from the one above. */
static void interpolate_nodes(const double *nodes, Index node_columns, double fraction, Index width,
                              double *position)
{
    for (Index k = 0; k * NODE_STEP < width; k++) {
        const double *const above = nodes + k, *const below = above + node_columns;
        /* Smoothing took the outermost block, hence - 1. */
        const double first = above[0] + fraction * (below[0] - above[0]) - 1;
        const double step = above[1] + fraction * (below[1] - above[1]) - 1 - first;
        const Index start = k * NODE_STEP;
        const Index count = width - start < NODE_STEP ? width - start : NODE_STEP;
        for (Index i = 0; i < count; i++)
            position[start + i] = first + (double)i / NODE_STEP * step;
    }
}

/* Compute the weights of three blocks, the first of them (-1 where not all three exist), and what
sampling does to the variance. The quadratic B-spline is equally wide wherever the sample lies. */
static void spline(const double *restrict position, Index n, Index blocks, double *restrict first,
                   float *restrict weight_before, float *restrict weight_middle,
                   float *restrict weight_after, float *restrict variance_factor)
{
    /* Adding 1.5 * 2**52 leaves no bits for a fraction. */
    const double last = (double)(blocks - 2), rounding = 6755399441055744.0;
    for (Index i = 0; i < n; i++) {
        double middle = position[i] + rounding - rounding;
        middle = middle < last ? middle : last;
        middle = middle > 1 ? middle : 1;
        const double distance = position[i] - middle;
        const float t = (float)distance, square = t * t, lean = 0.125f * t;
        const float half = 0.125f * square + 1.0f / 32;
        first[i] = fabs(distance) <= 0.5 + 0x1p-25 ? middle - 1 : -1; /* rounds to 0.5f */
        weight_before[i] = half - lean;
        weight_middle[i] = 3.0f / 16 - 0.25f * square;
        weight_after[i] = half + lean;
        variance_factor[i] = (square * (3.0f / 32) - 3.0f / 64) * square + 163.0f / 512;
    }
}

/* Sample one row of cells with the weights `across` and `along` (4, width). */
static void sample_row(const SampleSpline *a, Index row, const double *first_column,
                       const double *first_row, const float *across, const float *along)
{
    const Index width = a->size.width, columns = a->size.block_columns;
    const Index area = a->size.block_rows * columns;
    float *const factor = a->variance_factor + row * width;
    for (Index i = 0; i < width; i++) factor[i] = across[3 * width + i] * along[3 * width + i];
    for (Index i = 0; i < width; i++) {
        const int outside = first_column[i] < 0 || first_row[i] < 0;
        const Index corner = outside ? 0 : (Index)first_row[i] * columns + (Index)first_column[i];
        const float w0 = across[i], w1 = across[width + i], w2 = across[2 * width + i];
        if (outside) factor[i] = NAN;
        for (Index k = 0; k < a->size.layers; k++) {
            const float *const low = a->smoothed + k * area + corner, *const mid = low + columns;
            const float *const high = mid + columns;
            const float sum = along[i] * (w0 * low[0] + w1 * low[1] + w2 * low[2]) +
                              along[width + i] * (w0 * mid[0] + w1 * mid[1] + w2 * mid[2]) +
                              along[2 * width + i] * (w0 * high[0] + w1 * high[1] + w2 * high[2]);
            a->values[(k * a->size.height + row) * width + i] = outside ? NAN : sum;
        }
    }
}

/* Sample the smoothed blocks with a quadratic B-spline at every cell. */
int sample_spline(const SampleSpline *a)
{
    const Index rows = a->size.block_rows, columns = a->size.block_columns;
    const Index width = a->size.width, node_columns = a->size.node_columns;
    const Index node_count = a->size.node_rows * node_columns;
    float *const across = a->weights_work, *const along = across + 4 * width;
    double *const position = a->position_work;
    double *const first_column = position + width, *const first_row = first_column + width;
    if (rows < 3 || columns < 3 || (node_columns - 1) * NODE_STEP < width ||
        (a->size.node_rows - 1) * NODE_STEP < a->size.height)
        return -1;
    for (Index row = 0; row < a->size.height; row++) {
        const double *const nodes = a->nodes + row / NODE_STEP * node_columns;
        const double fraction = (double)(row % NODE_STEP) / NODE_STEP;
        interpolate_nodes(nodes, node_columns, fraction, width, position);
        spline(position, width, columns, first_column, across, across + width, across + 2 * width,
               across + 3 * width);
        interpolate_nodes(nodes + node_count, node_columns, fraction, width, position);
        spline(position, width, rows, first_row, along, along + width, along + 2 * width,
               along + 3 * width);
        sample_row(a, row, first_column, first_row, across, along);
    }
    return 0;
}
