/* Pixels of a tile at positions between them, linear and without its invalid pixels. */

#include "algebra.h"

#include <math.h>

/* The four pixels around a position, of which some may be the same at an edge. */
typedef struct {
    Index corner[4];
    double weight[4], across, down;
} Neighbours;

/* Return the mean of the valid ones of four pixels by their weights, NaN without any. */
static float valid_mean(const float *image, const Neighbours *at)
{
    double sum = 0, valid = 0;
    for (int k = 0; k < 4; k++) {
        const float value = image[at->corner[k]];
        if (isfinite(value) && at->weight[k] > 0) {
            sum += at->weight[k] * (double)value;
            valid += at->weight[k];
        }
    }
    return valid > 0 ? (float)(sum / valid) : NAN;
}

/* Find the neighbours of a position; 0 if it lies outside the pixels. */
static int find_neighbours(double x, double y, Index rows, Index columns, Neighbours *at)
{
    if (!(x >= -0.5 && x <= (double)columns - 0.5 && y >= -0.5 && y <= (double)rows - 0.5)) return 0;
    const double left = floor(x), top = floor(y);
    const Index i0 = left < 0 ? 0 : (Index)left, j0 = top < 0 ? 0 : (Index)top;
    const Index i1 = (Index)left + 1 < columns ? (Index)left + 1 : columns - 1;
    const Index j1 = (Index)top + 1 < rows ? (Index)top + 1 : rows - 1;
    const double u = x - left, v = y - top;
    at->corner[0] = j0 * columns + i0;
    at->corner[1] = j0 * columns + i1;
    at->corner[2] = j1 * columns + i0;
    at->corner[3] = j1 * columns + i1;
    at->weight[0] = (1 - u) * (1 - v);
    at->weight[1] = u * (1 - v);
    at->weight[2] = (1 - u) * v;
    at->weight[3] = u * v;
    at->across = u;
    at->down = v;
    return 1;
}

static void sample_pixel(const SampleLinear *a, double x, double y, Index pixel)
{
    const Index rows = a->size.image_rows, columns = a->size.image_columns;
    const Index area = a->size.height * a->size.width;
    Neighbours at;
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

/* Sample all layers at positions that are linear between nodes. */
int sample_linear(const SampleLinear *a)
{
    const Index width = a->size.width, node_columns = a->size.node_columns;
    const Index step = (Index)a->step, node_count = a->size.node_rows * node_columns;
    if (a->size.image_rows < 1 || a->size.image_columns < 1 || !(a->step >= 1 && a->step < 65536) ||
        (node_columns - 1) * step < width || (a->size.node_rows - 1) * step < a->size.height)
        return -1;
    for (Index row = 0; row < a->size.height; row++) {
        const double down = (double)(row % step) / (double)step;
        const double *const x = a->nodes + row / step * node_columns, *const y = x + node_count;
        for (Index k = 0; k * step < width; k++) {
            double start[2], slope[2];
            for (int axis = 0; axis < 2; axis++) {
                const double *const above = (axis ? y : x) + k, *const below = above + node_columns;
                const double next = down > 0 ? above[1] + down * (below[1] - above[1]) : above[1];
                start[axis] = down > 0 ? above[0] + down * (below[0] - above[0]) : above[0];
                slope[axis] = step > 1 ? (next - start[axis]) / (double)step : 0;
            }
            const Index end = (k + 1) * step < width ? step : width - k * step;
            for (Index i = 0; i < end; i++)
                sample_pixel(a, start[0] + (double)i * slope[0], start[1] + (double)i * slope[1],
                             row * width + k * step + i);
        }
    }
    return 0;
}
