/* The cells of two previews. */

#include "preview_pair.h"

#include <math.h>

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

int is_covered(const Pair *pair)
{
    const Frame *const frame = pair->frame;
    for (int t = 0; t < 2; t++) {
        const Tile *const tile = &pair->tiles[t];
        if (frame->x0 < tile->x0 || frame->x1 > tile->x0 + tile->width || frame->y0 < tile->y0 ||
            frame->y1 > tile->y0 + tile->height)
            return 0;
    }
    return 1;
}

static const float *cell_of(const float *image, const Tile *tile, Index channel, Index row,
                            Index column)
{
    return image + (channel * tile->height + row - tile->y0) * tile->width + column - tile->x0;
}

void prefetch_cells(const Tile *tile, Index channel, const Box *box)
{
    const Index below = box->top > tile->y0, above = box->bottom < tile->y0 + tile->height;
    for (Index row = box->top - below; row < box->bottom + above; row++) {
        PREFETCH(cell_of(tile->values, tile, channel, row, box->left));
        PREFETCH(cell_of(tile->values, tile, channel, row, box->right - 1));
        PREFETCH(cell_of(tile->variance, tile, channel, row, box->left));
    }
}

/* Compute the numbers of a cell which lacks a neighbour; `exists` as in read_cell. */
static void read_border_cell(const float *cell, Index width, const int exists[4], double error,
                             double numbers[KINDS])
{
    const Index step[4] = {-1, 1, -width, width};
    double squares = 0;
    for (int axis = 0; axis < 2; axis++) {
        double difference[2];
        for (int k = 0; k < 2; k++) {
            difference[k] = NAN;
            if (exists[2 * axis + k])
                difference[k] = (double)cell[step[2 * axis + k]] - numbers[VALUE];
            if (isfinite(difference[k])) squares += difference[k] * difference[k];
        }
        const int both = isfinite(difference[0] + difference[1]);
        numbers[GRADIENT_U + axis] = both ? (difference[1] - difference[0]) / 2 : 0;
        numbers[LAPLACIAN] += both ? difference[0] + difference[1] : 0;
    }
    numbers[VARIANCE] += error * error * squares;
}

int read_cell(const Tile *tile, Index channel, Index row, Index column, double error,
              double numbers[KINDS])
{
    const float *const cell = cell_of(tile->values, tile, channel, row, column);
    const Index width = tile->width;
    const int exists[4] = {column > tile->x0, column + 1 < tile->x0 + width, row > tile->y0,
                           row + 1 < tile->y0 + tile->height};
    const double value = (double)*cell;
    numbers[VALUE] = value;
    numbers[LAPLACIAN] = 0;
    if (!isfinite(value)) return 0;
    numbers[VARIANCE] = (double)*cell_of(tile->variance, tile, channel, row, column);
    if (!(exists[0] && exists[1] && exists[2] && exists[3] &&
          isfinite(cell[-1] + cell[1] + cell[-width] + cell[width]))) { /* few cells */
        read_border_cell(cell, width, exists, error, numbers);
        return 1;
    }
    const double left = (double)cell[-1] - value, right = (double)cell[1] - value;
    const double low = (double)cell[-width] - value, high = (double)cell[width] - value;
    numbers[VARIANCE] += error * error * (left * left + right * right + low * low + high * high);
    numbers[GRADIENT_U] = (right - left) / 2;
    numbers[GRADIENT_V] = (high - low) / 2;
    numbers[LAPLACIAN] = left + right + (low + high);
    return 1;
}
