/* Pixels of a tile at positions between them, linear and without its invalid pixels. */

#include "algebra.h"

#include <math.h>

/* The four pixels around a position, of which some may be the same at an edge, and its distance from
the first of them. */
typedef struct {
    Index corner[4];
    double across, down;
} Neighbours;

/* Return the mean of the valid ones of four pixels by their weights, NaN without any. */
static float valid_mean(const float *image, const Neighbours *at)
{
    const double u = at->across, v = at->down;
    const double weights[4] = {(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v};
    double sum = 0, valid = 0;
    for (int k = 0; k < 4; k++) {
        const float value = image[at->corner[k]];
        if (isfinite(value) && weights[k] > 0) {
            sum += weights[k] * (double)value;
            valid += weights[k];
        }
    }
    return valid > 0 ? (float)(sum / valid) : NAN;
}

/* Find the neighbours of a position; 0 if it lies outside the pixels. */
static int find_neighbours(double x, double y, Index rows, Index columns, Neighbours *at)
{
    if (!(x >= -0.5 && x <= (double)columns - 0.5 && y >= -0.5 && y <= (double)rows - 0.5)) return 0;
    const Index i = (Index)(x + 1) - 1, j = (Index)(y + 1) - 1; /* rounds down, without a call */
    const Index i0 = i < 0 ? 0 : i, i1 = i + 1 < columns ? i + 1 : columns - 1;
    const Index j0 = (j < 0 ? 0 : j) * columns, j1 = (j + 1 < rows ? j + 1 : rows - 1) * columns;
    const double u = x - (double)i, v = y - (double)j;
    at->corner[0] = j0 + i0;
    at->corner[1] = j0 + i1;
    at->corner[2] = j1 + i0;
    at->corner[3] = j1 + i1;
    at->across = u;
    at->down = v;
    return 1;
}

/* Sample all layers at a position. */
static void sample_pixel(const SampleLinear *a, double x, double y, Index pixel)
{
    const Index rows = a->size.image_rows, columns = a->size.image_columns;
    const Index area = a->size.height * a->size.width;
    Neighbours at = {{0}, 0, 0};
    const int inside = find_neighbours(x, y, rows, columns, &at);
    for (Index k = 0; k < a->size.layers; k++) {
        float *const value = a->values + k * area + pixel;
        if (!inside) {
            *value = NAN;
            continue;
        }
        const float *const image = a->image + k * rows * columns;
        const double first = image[at.corner[0]], third = image[at.corner[2]];
        /* Differences keep a constant exactly. */
        const double upper = first + at.across * (image[at.corner[1]] - first);
        const double lower = third + at.across * (image[at.corner[3]] - third);
        const double mean = upper + at.down * (lower - upper);
        *value = isfinite(mean) ? (float)mean : valid_mean(image, &at);
    }
}

/* Compute one coordinate of a row of samples, linear between nodes; at a node others do not matter. */
static void interpolate_row(const double *nodes, Index node_columns, double fraction, Index step,
                            Index width, double *position)
{
    for (Index k = 0; k * step < width; k++) {
        const double *const above = nodes + k, *const below = above + node_columns;
        const double first = fraction > 0 ? above[0] + fraction * (below[0] - above[0]) : above[0];
        const double next = fraction > 0 ? above[1] + fraction * (below[1] - above[1]) : above[1];
        const double slope = next - first;
        const Index start = k * step, count = width - start < step ? width - start : step;
        position[start] = first;
        for (Index i = 1; i < count; i++)
            position[start + i] = first + (double)i / (double)step * slope;
    }
}

/* Sample all layers at positions that are linear between nodes. */
int sample_linear(const SampleLinear *a)
{
    const Index width = a->size.width, node_columns = a->size.node_columns;
    const Index node_count = a->size.node_rows * node_columns;
    double *const x = a->position_work, *const y = x + width;
    if (a->size.image_rows < 1 || a->size.image_columns < 1 || !(a->step >= 1 && a->step < 65536))
        return -1;
    const Index step = (Index)a->step;
    if ((node_columns - 1) * step < width || (a->size.node_rows - 1) * step < a->size.height)
        return -1;
    for (Index row = 0; row < a->size.height; row++) {
        const double *const nodes = a->nodes + row / step * node_columns;
        const double fraction = (double)(row % step) / (double)step;
        interpolate_row(nodes, node_columns, fraction, step, width, x);
        interpolate_row(nodes + node_count, node_columns, fraction, step, width, y);
        for (Index i = 0; i < width; i++) sample_pixel(a, x[i], y[i], row * width + i);
    }
    return 0;
}
