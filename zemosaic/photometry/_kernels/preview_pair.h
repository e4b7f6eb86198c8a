/* Two previews and their overlap, as gather_blocks and gather_cells read them. */

#ifndef ZEMOSAIC_PREVIEW_PAIR_H
#define ZEMOSAIC_PREVIEW_PAIR_H

#include "algebra.h"

/* Numbers of a block or cell, in the order of the first axis of `means` and `cells`. */
enum { VALUE, VARIANCE, GRADIENT_U, GRADIENT_V, LAPLACIAN, KINDS };

/* A preview. Cells are counted along the grid, its blocks from the corner of the frame. */
typedef struct {
    const float *blocks, *values, *variance;
    Index x0, y0, height, width;
    Index column, row, block_rows, block_columns;
} Tile;

/* The overlap in cells, cells along a block, and the blocks that cover the overlap. */
typedef struct {
    Index x0, y0, x1, y1, side, left, top, width, height;
} Frame;

typedef struct {
    Tile tiles[2];
    const Frame *frame;
    Index channels;
    double border_error; /* relative error of the differences between neighbouring cells */
} Pair;

/* Ranges of rows and columns. */
typedef struct {
    Index top, bottom, left, right;
} Box;

/* Initialize a Pair from the arguments of a kernel. */
#define TILE(a, which, origin)                                                        \
    {                                                                                 \
        (a)->which##_blocks, (a)->which##_values, (a)->which##_variance, (origin)[0], \
        (origin)[1], (a)->size.which##_height, (a)->size.which##_width, (origin)[2],  \
        (origin)[3], (a)->size.which##_block_rows, (a)->size.which##_block_columns,   \
    }
#define PAIR(a)                                                                       \
    {                                                                                 \
        {TILE(a, first, (a)->origins), TILE(a, second, (a)->origins + 4)},            \
        (const Frame *)(a)->frame, (a)->size.channels, (a)->border_error,             \
    }

/* Return whether both tiles cover the overlap. */
int is_covered(const Pair *pair);

/* Load the cells of a box, of one channel of a tile, into the caches; reading them later takes
much less time than waiting for each. */
void prefetch_cells(const Tile *tile, Index channel, const Box *box);

/* Compute the numbers of a cell of the grid; return whether it is valid. */
int read_cell(const Tile *tile, Index channel, Index row, Index column, double error,
              double numbers[KINDS]);

#endif
