/* The kernels and their arguments, in the order in which Python may pass them.

A kernel does the same as the numpy function of its name, up to the last bits. It keeps no state and
runs without the interpreter's lock.

Each list below yields the struct that a kernel reads, the signature that module.c checks Python's
arguments against, and the names in error messages. `reads` is an array that the kernel reads,
`writes` one that it writes, each with the type and the axes of its elements; `number` is a float64.
An axis is a length or one of AXES; axes of the same name must have the same length in all arrays of
a call. Arrays named *_work are scratch space. */

#ifndef ZEMOSAIC_ARGUMENTS_H
#define ZEMOSAIC_ARGUMENTS_H

#include <stddef.h>

#include "fit_summary.h"

typedef ptrdiff_t Index; /* numpy's intp */

/* Columns of the design matrix of a pair's fit. */
enum {
    COLUMN_X,
    COLUMN_Y,
    COLUMN_INSTRUMENT, /* for the noisy x */
    COLUMN_LEVEL,      /* the first of the nuisance terms */
    COLUMN_GRADIENT_U, /* of the scene; its coefficient is a shift between the tiles */
    COLUMN_GRADIENT_V,
    COLUMN_LAPLACIAN, /* of the scene; its coefficient is a difference in seeing */
    COLUMN_U,         /* the second-order surface */
    COLUMN_V,
    COLUMN_UU,
    COLUMN_UV,
    COLUMN_VV,
    COLUMNS_MAX,
    TERMS_MAX = COLUMNS_MAX - COLUMN_LEVEL
};

#define AXES(axis)                                                                              \
    axis(POLYGONS, polygons) axis(VERTICES, vertices) axis(TILES, tiles) axis(PAIRS, pairs)     \
    axis(LAYERS, layers) axis(BLOCK_ROWS, block_rows) axis(BLOCK_COLUMNS, block_columns)        \
    axis(IMAGE_ROWS, image_rows) axis(IMAGE_COLUMNS, image_columns)                             \
    axis(NODE_ROWS, node_rows) axis(NODE_COLUMNS, node_columns) axis(HEIGHT, height)            \
    axis(WIDTH, width) axis(FIRST_BLOCK_ROWS, first_block_rows)                                 \
    axis(FIRST_BLOCK_COLUMNS, first_block_columns) axis(FIRST_HEIGHT, first_height)             \
    axis(FIRST_WIDTH, first_width) axis(SECOND_BLOCK_ROWS, second_block_rows)                   \
    axis(SECOND_BLOCK_COLUMNS, second_block_columns) axis(SECOND_HEIGHT, second_height)         \
    axis(SECOND_WIDTH, second_width) axis(CHANNELS, channels) axis(BLOCKS, blocks)              \
    axis(CHOSEN, chosen) axis(CELLS, cells) axis(ROWS, rows) axis(COLUMNS, columns)             \
    axis(PATCHES, patches) axis(SMALL_ROWS, small_rows) axis(MIDDLE_ROWS, middle_rows)         \
    axis(WORK_ROWS, work_rows) axis(BAND_ROWS, band_rows) axis(GROUP_ROWS, group_rows) \
    axis(FRONT_ENDS, front_ends) axis(ENTRIES, entries) axis(CHILDREN, children)                \
    axis(ORDERED, ordered) axis(CLIQUE, clique) axis(UNKNOWNS, unknowns) axis(PANELS, panels)   \
    axis(UPDATES, updates) axis(FRONT_WORK, front_work) axis(SIDES, sides)                      \
    axis(FRONT_COLUMNS, front_columns) axis(TERMS, terms)

#define OVERLAP_AREAS(reads, writes, number)                                                    \
    reads(double, polygons, POLYGONS, VERTICES, 3)                                              \
    reads(double, normals, TILES, 4, 3)                                                         \
    reads(Index, polygon_index, PAIRS)                                                          \
    reads(Index, tile_index, PAIRS)                                                             \
    writes(double, areas, PAIRS)

#define SAMPLE_SPLINE(reads, writes, number)                                                    \
    reads(float, smoothed, LAYERS, BLOCK_ROWS, BLOCK_COLUMNS)                                   \
    reads(double, nodes, 2, NODE_ROWS, NODE_COLUMNS)                                            \
    writes(float, values, LAYERS, HEIGHT, WIDTH)                                                \
    writes(float, variance_factor, HEIGHT, WIDTH)                                               \
    writes(float, weights_work, 8, WIDTH)                                                       \
    writes(double, position_work, 3, WIDTH)

#define SAMPLE_LINEAR(reads, writes, number)                                                    \
    reads(float, image, LAYERS, IMAGE_ROWS, IMAGE_COLUMNS)                                      \
    reads(double, nodes, 2, NODE_ROWS, NODE_COLUMNS)                                            \
    writes(float, values, LAYERS, HEIGHT, WIDTH)                                                \
    writes(double, position_work, 2, WIDTH)                                                     \
    number(step)

/* Two previews, the origin of each (x0, y0, and its first block's column and row in the frame), and
the frame (see Frame in preview_pair.h). */
#define PREVIEW_PAIR(reads)                                                                     \
    reads(float, first_blocks, 7, CHANNELS, FIRST_BLOCK_ROWS, FIRST_BLOCK_COLUMNS)              \
    reads(float, first_values, CHANNELS, FIRST_HEIGHT, FIRST_WIDTH)                             \
    reads(float, first_variance, CHANNELS, FIRST_HEIGHT, FIRST_WIDTH)                           \
    reads(float, second_blocks, 7, CHANNELS, SECOND_BLOCK_ROWS, SECOND_BLOCK_COLUMNS)           \
    reads(float, second_values, CHANNELS, SECOND_HEIGHT, SECOND_WIDTH)                          \
    reads(float, second_variance, CHANNELS, SECOND_HEIGHT, SECOND_WIDTH)                        \
    reads(Index, origins, 8)                                                                    \
    reads(Index, frame, 9)

#define GATHER_BLOCKS(reads, writes, number)                                                    \
    PREVIEW_PAIR(reads)                                                                         \
    writes(double, means, 5, 2, CHANNELS, BLOCKS)                                               \
    writes(double, position, 2, BLOCKS)                                                         \
    writes(double, highest, 2, CHANNELS, BLOCKS)                                                \
    writes(double, cell_count, BLOCKS)                                                          \
    writes(double, count_work, BLOCKS)                                                          \
    writes(double, outcome, 2) /* common cells (-1: channels differ); whether they are few */   \
    number(preview_side)       /* cells along a block of the previews */                        \
    number(few_cells)                                                                           \
    number(whole_share)                                                                         \
    number(border_error)

#define GATHER_CELLS(reads, writes, number)                                                     \
    PREVIEW_PAIR(reads)                                                                         \
    reads(Index, chosen_blocks, CHOSEN)                                                         \
    writes(double, cells, 5, 2, CHANNELS, CELLS)                                                \
    writes(double, position, 2, CELLS)                                                          \
    writes(Index, chosen_index, CELLS)                                                          \
    writes(Index, found_cells, 1)                                                               \
    number(border_error)

#define BLOCK_WEIGHTS(reads, writes, number)                                                    \
    writes(double, means, 5, 2, CHANNELS, BLOCKS)                                               \
    reads(double, highest, 2, CHANNELS, BLOCKS)                                                 \
    reads(double, cell_count, BLOCKS)                                                           \
    writes(double, typical_variance, 2, CHANNELS, 1)                                            \
    writes(double, prominence, BLOCKS)                                                          \
    writes(double, index_work, BLOCKS)                                                          \
    number(shared_noise)                                                                        \
    number(block_cells)

#define SKY_PLANES(reads, writes, number)                                                       \
    reads(double, x, CHANNELS, BLOCKS)                                                          \
    reads(double, y, CHANNELS, BLOCKS)                                                          \
    reads(double, u, BLOCKS)                                                                    \
    reads(double, v, BLOCKS)                                                                    \
    reads(Index, bright, BLOCKS)                                                                \
    writes(double, planes, 3, 2, CHANNELS, 1)                                                   \
    writes(double, index_work, BLOCKS)

#define DESIGN_MATRIX(reads, writes, number)                                                    \
    reads(double, x, CHANNELS, BLOCKS)                                                          \
    reads(double, y, CHANNELS, BLOCKS)                                                          \
    reads(double, derivatives, 3, 2, CHANNELS, BLOCKS)                                          \
    reads(double, variance, 2, CHANNELS, ROWS)                                                  \
    reads(double, u, BLOCKS)                                                                    \
    reads(double, v, BLOCKS)                                                                    \
    reads(double, slope, CHANNELS)                                                              \
    reads(double, cell_count, BLOCKS)                                                           \
    reads(Index, block_index, BLOCKS)                                                           \
    reads(double, cells, 4, 2, CHANNELS, CELLS)                                                 \
    reads(double, cell_position, 2, CELLS)                                                      \
    reads(Index, cell_block, CELLS)                                                             \
    reads(double, typical_variance, 2, CHANNELS, 1)                                             \
    reads(double, planes, 3, 2, CHANNELS, 1)                                                    \
    writes(double, columns, CHANNELS, COLUMNS_MAX, ROWS)                                        \
    writes(double, scene_work, 2, BLOCKS)                                                       \
    writes(double, image_work, 6, BLOCK_ROWS, BLOCK_COLUMNS)                                    \
    number(detail_noise_1) /* between a block and the 3 x 3 about it */                         \
    number(detail_noise_3) /* between 3 x 3 and 9 x 9 */                                        \
    number(detail_noise_9) /* between 9 x 9 and the plane */                                    \
    reads(double, derivative_noise, 2, 2)

#define INITIAL_SLOPE(reads, writes, number)                                                    \
    reads(double, x, CHANNELS, BLOCKS)                                                          \
    reads(double, y, CHANNELS, BLOCKS)                                                          \
    reads(double, x_variance, CHANNELS, BLOCKS)                                                 \
    reads(double, y_variance, CHANNELS, BLOCKS)                                                 \
    reads(double, u, BLOCKS)                                                                    \
    reads(double, v, BLOCKS)                                                                    \
    reads(Index, bright, BLOCKS)                                                                \
    reads(double, planes, 3, 2, CHANNELS, 1)                                                    \
    writes(double, slope, CHANNELS)                                                             \
    writes(double, flattened_work, 2, CHANNELS, BLOCKS)                                         \
    writes(double, block_work, 6, BLOCKS)                                                       \
    writes(double, line_work, 8, CHANNELS)                                                      \
    number(bright_quantile)                                                                     \
    number(huber)                                                                               \
    number(rounds)                                                                              \
    number(tolerance)                                                                           \
    number(outlier_limit)

#define FIT_IRLS(reads, writes, number)                                                         \
    writes(double, columns, CHANNELS, COLUMNS, ROWS)                                            \
    reads(double, x_variance, CHANNELS, ROWS)                                                   \
    reads(double, y_variance, CHANNELS, ROWS)                                                   \
    reads(Index, cell_block, CELLS)                                                             \
    writes(double, slope, CHANNELS)                                                             \
    writes(double, weights, CHANNELS, ROWS)                                                     \
    writes(double, gram, CHANNELS, COLUMNS, COLUMNS)                                            \
    writes(double, line, CHANNELS, 2, COLUMNS)                                                  \
    writes(double, scale, CHANNELS)                                                             \
    writes(double, bread, CHANNELS)                                                             \
    writes(double, instrument_noise, CHANNELS)                                                  \
    writes(double, lost_work, CHANNELS)                                                         \
    writes(double, residual_work, CHANNELS, ROWS)                                               \
    writes(double, row_work, 6, ROWS)                                                           \
    reads(double, scene_information, 3)                                                         \
    number(fixed_slope)                                                                         \
    number(biweight)                                                                            \
    number(rounds)                                                                              \
    number(tolerance)

#define SUMMARIZE_FIT(reads, writes, number)                                                    \
    reads(double, x, CHANNELS, BLOCKS)                                                          \
    reads(double, y, CHANNELS, BLOCKS)                                                          \
    reads(double, u, BLOCKS)                                                                    \
    reads(double, v, BLOCKS)                                                                    \
    reads(Index, patch, ROWS)                                                                   \
    reads(double, columns, CHANNELS, COLUMNS, ROWS)                                             \
    reads(double, weights, CHANNELS, ROWS)                                                      \
    reads(double, gram, CHANNELS, COLUMNS, COLUMNS)                                             \
    reads(double, line, CHANNELS, 2, COLUMNS)                                                   \
    reads(double, instrument_noise, CHANNELS)                                                   \
    writes(double, patch_sum_work, 2, PATCHES)                                                  \
    writes(double, patch_share_work, 2, PATCHES)                                                \
    writes(double, residual_work, 2, ROWS)                                                      \
    writes(FitSummary, summary, CHANNELS, FIT_SUMMARY_LENGTH)

#define SUMMARIZE_BANDS(reads, writes, number)                                                  \
    reads(double, x, CHANNELS, BLOCKS)                                                          \
    reads(double, y, CHANNELS, BLOCKS)                                                          \
    reads(double, u, BLOCKS)                                                                    \
    reads(double, v, BLOCKS)                                                                    \
    reads(Index, block_index, BLOCKS)                                                           \
    reads(Index, cell_block, CELLS)                                                             \
    reads(Index, patch, ROWS)                                                                   \
    reads(Index, lattice, 8)                                                                    \
    reads(double, columns, CHANNELS, COLUMNS, ROWS)                                             \
    reads(double, weights, CHANNELS, ROWS)                                                      \
    reads(double, scale, CHANNELS)                                                              \
    reads(double, instrument_noise, CHANNELS)                                                   \
    reads(double, scene_information, 3)                                                         \
    writes(double, bands, CHANNELS, 2, 8)                                                       \
    writes(double, shares, CHANNELS, 2, 16)                                                     \
    writes(double, levels, CHANNELS, 16, 12)                                                    \
    writes(Index, row_index, 2, ROWS)                                                           \
    writes(Index, unit_index, 2, MIDDLE_ROWS)                                                   \
    writes(double, small_work, BAND_ROWS, SMALL_ROWS)                                           \
    writes(double, middle_work, BAND_ROWS, MIDDLE_ROWS)                                         \
    writes(double, product_work, 3, WORK_ROWS)                                                  \
    writes(double, patch_work, 3, PATCHES)                                                      \
    writes(double, group_work, 2 + COLUMNS_MAX, GROUP_ROWS)

/* The fronts of a sparse symmetric system; see fronts.py. */
#define FRONTS(reads)                                                                           \
    reads(Index, table, FRONT_ENDS, 7)                                                          \
    reads(Index, columns, ENTRIES)                                                              \
    reads(Index, above, ENTRIES)                                                                \
    reads(Index, children, CHILDREN)                                                            \
    reads(Index, order, ORDERED)                                                                \
    reads(Index, place, PAIRS, CLIQUE)

#define FACTORIZE_FRONTS(reads, writes, number)                                                 \
    FRONTS(reads)                                                                               \
    reads(double, diagonal, UNKNOWNS)                                                           \
    reads(double, blocks, PAIRS, CLIQUE, CLIQUE)                                                \
    writes(double, panels, PANELS)                                                              \
    writes(double, updates, UPDATES)                                                            \
    writes(double, definite, 1)                                                                 \
    writes(double, front_work, FRONT_WORK)

#define SOLVE_FRONTS(reads, writes, number)                                                     \
    FRONTS(reads)                                                                               \
    reads(double, panels, PANELS)                                                               \
    writes(double, solution, UNKNOWNS, SIDES)                                                   \
    writes(double, side_work, FRONT_COLUMNS, SIDES)

#define INVERT_FRONTS(reads, writes, number)                                                    \
    FRONTS(reads)                                                                               \
    reads(double, panels, PANELS)                                                               \
    writes(double, updates, UPDATES)                                                            \
    writes(double, diagonal, UNKNOWNS)                                                          \
    writes(double, blocks, PAIRS, CLIQUE, CLIQUE)                                               \
    writes(double, front_work, FRONT_WORK)

#define TILE_LEVELS(reads, writes, number)                                                      \
    reads(Index, tile, CHOSEN)                                                                  \
    reads(double, measured, CHOSEN, 16)                                                         \
    reads(double, gain, TILES)                                                                  \
    reads(double, reference, TILES)                                                             \
    reads(double, offset, TILES)                                                                \
    reads(double, bias, TILES)                                                                  \
    reads(double, coefficients, TILES, TERMS)                                                   \
    reads(double, basis, TERMS, CHOSEN, 16)                                                     \
    reads(double, glow, CHOSEN, 16)                                                             \
    reads(double, by_level, CHOSEN, 16)                                                         \
    writes(double, lever, CHOSEN, 16)                                                           \
    writes(double, light, CHOSEN, 16)                                                           \
    writes(double, value, CHOSEN, 16)

/* The derivatives of n pairs; see pair_derivatives.py. */
#define NORMAL_BLOCKS(reads, writes, number)                                                    \
    reads(Index, pairs, CHOSEN)                                                                 \
    reads(double, first_lever, CHOSEN, 16)                                                      \
    reads(double, second_lever, CHOSEN, 16)                                                     \
    reads(double, first_by_level, CHOSEN, 16)                                                   \
    reads(double, second_by_level, CHOSEN, 16)                                                  \
    reads(double, first_surface, TERMS, CHOSEN, 16)                                             \
    reads(double, second_surface, TERMS, CHOSEN, 16)                                            \
    reads(double, precision, CHOSEN, 17)                                                        \
    reads(double, residual, CHOSEN, 17)                                                         \
    writes(double, blocks, PAIRS, CLIQUE, CLIQUE)                                               \
    writes(double, products, PAIRS, CLIQUE)

#define PAIR_RESIDUALS(reads, writes, number)                                                   \
    reads(Index, pairs, CHOSEN)                                                                 \
    reads(double, residual, CHOSEN, 17)                                                         \
    reads(double, variance, CHOSEN, 17)                                                         \
    writes(double, mean, 2, PAIRS)                                                              \
    writes(double, chi, 3, PAIRS)

#define KERNELS(kernel)                                                                         \
    kernel(overlap_areas, OverlapAreas, OVERLAP_AREAS)                                          \
    kernel(sample_spline, SampleSpline, SAMPLE_SPLINE)                                          \
    kernel(sample_linear, SampleLinear, SAMPLE_LINEAR)                                          \
    kernel(gather_blocks, GatherBlocks, GATHER_BLOCKS)                                          \
    kernel(gather_cells, GatherCells, GATHER_CELLS)                                             \
    kernel(block_weights, BlockWeights, BLOCK_WEIGHTS)                                          \
    kernel(sky_planes, SkyPlanes, SKY_PLANES)                                                   \
    kernel(design_matrix, DesignMatrix, DESIGN_MATRIX)                                          \
    kernel(initial_slope, InitialSlope, INITIAL_SLOPE)                                          \
    kernel(fit_irls, FitIrls, FIT_IRLS)                                                         \
    kernel(summarize_fit, SummarizeFit, SUMMARIZE_FIT)                                          \
    kernel(summarize_bands, SummarizeBands, SUMMARIZE_BANDS)                                    \
    kernel(factorize_fronts, FactorizeFronts, FACTORIZE_FRONTS)                                 \
    kernel(solve_fronts, SolveFronts, SOLVE_FRONTS)                                             \
    kernel(invert_fronts, InvertFronts, INVERT_FRONTS)                                          \
    kernel(tile_levels, TileLevels, TILE_LEVELS)                                                \
    kernel(normal_blocks, NormalBlocks, NORMAL_BLOCKS)                                          \
    kernel(pair_residuals, PairResiduals, PAIR_RESIDUALS)

/* Named axes are numbered from FIRST_AXIS on, so that smaller numbers are lengths. */
#define AXIS_NUMBER(NAME, name) NAME,
#define AXIS_LENGTH(NAME, name) name,
enum { FIRST_AXIS = 64, AXIS_BEFORE_FIRST = FIRST_AXIS - 1, AXES(AXIS_NUMBER) AXES_END };

typedef struct {
    Index AXES(AXIS_LENGTH) unused;
} Sizes;

#define READS_FIELD(type, name, ...) const type *name;
#define WRITES_FIELD(type, name, ...) type *name;
#define NUMBER_FIELD(name) double name;

/* A kernel returns 0, or -1 if an index or a length in its arrays is out of range. */
#define KERNEL_DECLARATION(name, Struct, ARGUMENTS)          \
    typedef struct {                                         \
        Sizes size;                                          \
        ARGUMENTS(READS_FIELD, WRITES_FIELD, NUMBER_FIELD)   \
    } Struct;                                                \
    int name(const Struct *a);
KERNELS(KERNEL_DECLARATION)

#endif
