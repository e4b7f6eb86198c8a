/* The blocks and cells that a pair has in common: pairfit/overlap_blocks.py. */

#include "algebra.h"

#include <math.h>
#include <string.h>

/* Numbers of a block or cell, in the order of overlap_blocks.KINDS. */
enum { VALUE, VARIANCE, GRADIENT_U, GRADIENT_V, LAPLACIAN, KINDS };

/* Rows of a preview's blocks, in the order of Preview.blocks. */
enum { BLOCK_HIGHEST = 2, BLOCK_CELL_COUNT = 6 };
static const int block_row[KINDS] = {0, 1, 3, 4, 5};

enum { CHUNK = 128 }; /* blocks added at once */

/* A preview. Cells are counted along the grid; preview blocks from the corner of the frame. */
typedef struct {
    const float *blocks, *values, *variance;
    Index x0, y0, height, width;
    Index column, row, block_rows, block_columns, block_count;
} Tile;

/* overlap_blocks.Frame: the overlap, cells along a block, and the blocks that cover the overlap. */
typedef struct {
    Index x0, y0, x1, y1, side, left, top, width, height;
} Frame;

/* The pair as the kernels read it. */
typedef struct {
    Tile tiles[2];
    Frame frame;
    Index channels, preview_side;
    double border_error;
} Pair;

/* Sums over the cells of each block of the frame, as in overlap_blocks.Blocks. */
typedef struct {
    double *values, *position, *highest, *cell_count;
    Index blocks;
} Sums;

typedef struct {
    const Sizes *size;
    PREVIEW_PAIR(READS_FIELD)
} PreviewPair;

#define COPY_FIELD(type, name, ...) a->name,
#define PREVIEW_PAIR_OF(a) {&(a)->size, PREVIEW_PAIR(COPY_FIELD)}

static Tile first_tile(const PreviewPair *a)
{
    const Sizes *const size = a->size;
    const Index *const origin = a->origins;
    const Index rows = size->first_block_rows, columns = size->first_block_columns;
    const Tile tile = {
        a->first_blocks, a->first_values, a->first_variance, origin[0], origin[1],
        size->first_height, size->first_width, origin[2], origin[3], rows, columns, rows * columns,
    };
    return tile;
}

static Tile second_tile(const PreviewPair *a)
{
    const Sizes *const size = a->size;
    const Index *const origin = a->origins + 4;
    const Index rows = size->second_block_rows, columns = size->second_block_columns;
    const Tile tile = {
        a->second_blocks, a->second_values, a->second_variance, origin[0], origin[1],
        size->second_height, size->second_width, origin[2], origin[3], rows, columns,
        rows * columns,
    };
    return tile;
}

/* Set tiles, frame and channels of a pair; -1 if a tile does not cover the overlap. */
static int set_pair(const PreviewPair *a, Pair *pair)
{
    Frame *const frame = &pair->frame;
    memcpy(frame, a->frame, sizeof *frame);
    pair->channels = a->size->channels;
    pair->tiles[0] = first_tile(a);
    pair->tiles[1] = second_tile(a);
    for (int t = 0; t < 2; t++) {
        const Tile *const tile = &pair->tiles[t];
        if (frame->x0 < tile->x0 || frame->x1 > tile->x0 + tile->width || frame->y0 < tile->y0 ||
            frame->y1 > tile->y0 + tile->height)
            return -1;
    }
    return 0;
}

static const float *cell_of(const float *image, const Tile *tile, Index channel, Index row,
                            Index column)
{
    return image + (channel * tile->height + row - tile->y0) * tile->width + column - tile->x0;
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

/* Compute the numbers of a cell of the grid; return whether it is valid. See
overlap_blocks._cells. */
static int read_cell(const Tile *tile, Index channel, Index row, Index column, double error,
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

/* Add one channel of a cell to block b; return whether the cell is valid in both tiles. */
static int add_cell_channel(const Pair *pair, Index channel, Index row, Index column, Index b,
                            const Sums *sums)
{
    const Index channels = pair->channels, n = sums->blocks;
    double numbers[2][KINDS];
    for (int t = 0; t < 2; t++)
        if (!read_cell(&pair->tiles[t], channel, row, column, pair->border_error, numbers[t]))
            return 0;
    for (int k = 0; k < 2 * KINDS; k++)
        sums->values[(k * channels + channel) * n + b] += numbers[k % 2][k / 2];
    for (int t = 0; t < 2; t++) {
        double *const highest = sums->highest + (t * channels + channel) * n + b;
        *highest = larger(*highest, numbers[t][VALUE]);
    }
    return 1;
}

/* Add all channels of a cell to block b; -1 if the cell is valid in some of them only, else
whether it is valid. */
static int add_cell(const Pair *pair, Index row, Index column, Index b, const Sums *sums)
{
    int valid = 0;
    for (Index channel = 0; channel < pair->channels; channel++) {
        const int added = add_cell_channel(pair, channel, row, column, b, sums);
        if (channel && added != valid) return -1;
        valid = added;
    }
    return valid;
}

/* Cells of the grid. */
typedef struct {
    Index top, bottom, left, right;
} Box;

/* Add the cells of a box, which lies in one block unless blocks are cells; return 0 if channels
are not valid in the same cells. */
static int add_cells(const Pair *pair, Box box, const Sums *sums)
{
    const Frame *const frame = &pair->frame;
    const Index x = frame->left * frame->side, y = frame->top * frame->side;
    for (Index row = box.top; row < box.bottom; row++) {
        Index b = (row - y) / frame->side * frame->width + (box.left - x) / frame->side;
        for (Index column = box.left; column < box.right; column++, b += frame->side == 1) {
            const int valid = add_cell(pair, row, column, b, sums);
            if (valid < 0) return 0;
            if (!valid) continue;
            sums->cell_count[b] += 1;
            sums->position[b] += (double)(column - x);
            sums->position[sums->blocks + b] += (double)(row - y);
        }
    }
    return 1;
}

/* Add those cells of a preview block that lie in the overlap. */
static int add_cells_of_block(const Pair *pair, Index row, Index column, const Sums *sums)
{
    const Frame *const f = &pair->frame;
    const Index side = pair->preview_side;
    const Index top = f->top * f->side + row * side, left = f->left * f->side + column * side;
    const Box box = {
        top > f->y0 ? top : f->y0, top + side < f->y1 ? top + side : f->y1,
        left > f->x0 ? left : f->x0, left + side < f->x1 ? left + side : f->x1,
    };
    return add_cells(pair, box, sums);
}

/* Return the preview blocks that both tiles have, counted from the corner of the frame. */
static Box shared_blocks(const Pair *pair)
{
    const Frame *const frame = &pair->frame;
    const Index k = frame->side / pair->preview_side;
    Box shared = {0, frame->height * k, 0, frame->width * k};
    for (int t = 0; t < 2; t++) {
        const Tile *const tile = &pair->tiles[t];
        const Index bottom = tile->row + tile->block_rows;
        const Index right = tile->column + tile->block_columns;
        if (tile->row > shared.top) shared.top = tile->row;
        if (tile->column > shared.left) shared.left = tile->column;
        if (bottom < shared.bottom) shared.bottom = bottom;
        if (right < shared.right) shared.right = right;
    }
    return shared;
}

/* Return the index of a preview block among those of its tile. */
static Index index_in_tile(const Tile *tile, Index row, Index column)
{
    return (row - tile->row) * tile->block_columns + column - tile->column;
}

/* Return the number of valid cells of a preview block; -1 if channels differ in it. */
static double valid_cells(const Tile *tile, Index channels, Index index)
{
    const Index area = tile->block_count;
    const float *const count = tile->blocks + BLOCK_CELL_COUNT * channels * area + index;
    for (Index channel = 1; channel < channels; channel++)
        if (count[channel * area] != *count) return -1;
    return (double)*count;
}

/* Preview blocks that are whole in both tiles: their indices in the frame and in each tile. */
typedef struct {
    Index count, block[CHUNK], in_tile[2][CHUNK];
} Whole;

static void add_scaled(double *restrict sum, const Index *restrict block,
                       const float *restrict numbers, const Index *restrict index, Index count,
                       double factor)
{
    for (Index i = 0; i < count; i++) sum[block[i]] += factor * (double)numbers[index[i]];
}

/* Add the numbers of one channel of a tile; `layer` is tile * channels + channel. */
static void add_layer(const Pair *pair, Index layer, const Whole *whole, double full,
                      const Sums *sums)
{
    const Index channels = pair->channels, n = sums->blocks, t = layer >= channels;
    const Index area = pair->tiles[t].block_count, count = whole->count;
    const Index *const block = whole->block, *const index = whole->in_tile[t];
    const float *const blocks = pair->tiles[t].blocks + (layer - t * channels) * area;
    for (Index kind = 0; kind < KINDS; kind++) {
        const float *const numbers = blocks + block_row[kind] * channels * area;
        double *const sum = sums->values + (2 * kind * channels + layer) * n;
        add_scaled(sum, block, numbers, index, count, full);
    }
    double *const highest = sums->highest + layer * n;
    for (Index i = 0; i < count; i++) {
        const double value = (double)blocks[BLOCK_HIGHEST * channels * area + index[i]];
        if (value > highest[block[i]]) highest[block[i]] = value;
    }
}

/* Find the whole blocks in a piece of a row, and add their numbers of cells and positions; add to
`bound` the largest possible number of common cells. Return 0 if channels differ. */
static int find_whole_blocks(const Pair *pair, Index row, Index begin, Index end, Whole *whole,
                             double *bound, const Sums *sums)
{
    const Index side = pair->preview_side, k = pair->frame.side / side;
    const double full = (double)(side * side), centre = (double)(side - 1) / 2;
    Index next = row / k * pair->frame.width + begin / k, within = begin % k;
    whole->count = 0;
    for (Index column = begin; column < end; column++) {
        const Index b = next;
        double fewest = full;
        if (++within == k) within = 0, next++;
        for (int t = 0; t < 2; t++) {
            const Index index = index_in_tile(&pair->tiles[t], row, column);
            const double count = valid_cells(&pair->tiles[t], pair->channels, index);
            if (count < 0) return 0;
            fewest = count < fewest ? count : fewest;
            whole->in_tile[t][whole->count] = index;
        }
        bound[b] += fewest;
        if (fewest < full) continue;
        whole->block[whole->count++] = b;
        sums->cell_count[b] += full;
        sums->position[b] += full * ((double)(column * side) + centre);
        sums->position[sums->blocks + b] += full * ((double)(row * side) + centre);
    }
    return 1;
}

/* Add the preview blocks that are whole in both tiles; return 0 if channels differ. */
static int add_whole_blocks(const Pair *pair, double *bound, const Sums *sums)
{
    const Box shared = shared_blocks(pair);
    const double full = (double)(pair->preview_side * pair->preview_side);
    for (Index row = shared.top; row < shared.bottom; row++)
        for (Index begin = shared.left; begin < shared.right; begin += CHUNK) {
            const Index end = begin + CHUNK < shared.right ? begin + CHUNK : shared.right;
            Whole whole;
            if (!find_whole_blocks(pair, row, begin, end, &whole, bound, sums)) return 0;
            for (Index layer = 0; whole.count && layer < 2 * pair->channels; layer++)
                add_layer(pair, layer, &whole, full, sums);
        }
    return 1;
}

/* Add the preview blocks that are not whole, cell by cell; return 0 if channels differ. */
static int add_cut_blocks(const Pair *pair, const double *bound, const Sums *sums)
{
    const Index k = pair->frame.side / pair->preview_side;
    const Box shared = shared_blocks(pair);
    const double full = (double)(pair->preview_side * pair->preview_side);
    for (Index row = shared.top; row < shared.bottom; row++) {
        Index next = row / k * pair->frame.width + shared.left / k, within = shared.left % k;
        for (Index column = shared.left; column < shared.right; column++) {
            const Index b = next;
            double fewest = full;
            if (++within == k) within = 0, next++;
            if (!(bound[b] > sums->cell_count[b])) continue;
            for (int t = 0; t < 2; t++) {
                const Index index = index_in_tile(&pair->tiles[t], row, column);
                const double count = valid_cells(&pair->tiles[t], pair->channels, index);
                fewest = count < fewest ? count : fewest;
            }
            if (fewest > 0 && fewest < full && !add_cells_of_block(pair, row, column, sums))
                return 0;
        }
    }
    return 1;
}

static double total(const double *values, Index n)
{
    double sum = 0;
    for (Index i = 0; i < n; i++) sum += values[i];
    return sum;
}

static void clear(const Sums *sums, Index channels, double *bound)
{
    const Index n = sums->blocks;
    for (Index i = 0; i < 2 * KINDS * channels * n; i++) sums->values[i] = 0;
    for (Index i = 0; i < 2 * channels * n; i++) sums->highest[i] = -HUGE_VAL;
    for (Index b = 0; b < n; b++)
        sums->cell_count[b] = sums->position[b] = sums->position[n + b] = bound[b] = 0;
}

/* Turn sums into means; `share` is scratch space. */
static void divide_by_count(const Sums *sums, Index channels, double *share)
{
    const Index n = sums->blocks;
    for (Index b = 0; b < n; b++) share[b] = 1 / larger(sums->cell_count[b], 1);
    for (Index k = 0; k < 2 * KINDS * channels; k++)
        for (Index b = 0; b < n; b++) sums->values[k * n + b] *= share[b];
    for (Index b = 0; b < n; b++) {
        sums->position[b] *= share[b];
        sums->position[n + b] *= share[b];
    }
}

/* Compute the means of all blocks of the frame. */
int gather_blocks(const GatherBlocks *a)
{
    const PreviewPair previews = PREVIEW_PAIR_OF(a);
    const Index n = a->size.blocks;
    const Sums sums = {a->means, a->position, a->highest, a->cell_count, n};
    double *const bound = a->count_work; /* largest possible number of cells in each block */
    Pair pair = {.preview_side = (Index)a->preview_side, .border_error = a->border_error};
    if (set_pair(&previews, &pair) < 0) return -1;
    const Frame *const f = &pair.frame;
    if (f->width * f->height != n || f->side < 1) return -1;
    if (f->side > 1 && (pair.preview_side < 1 || f->side % pair.preview_side)) return -1;
    a->outcome[0] = -1;
    a->outcome[1] = 0;
    clear(&sums, pair.channels, bound);
    if (f->side == 1) {
        const Box overlap = {f->y0, f->y1, f->x0, f->x1};
        if (!add_cells(&pair, overlap, &sums)) return 0;
        a->outcome[0] = total(sums.cell_count, n);
    } else {
        if (!add_whole_blocks(&pair, bound, &sums)) return 0;
        a->outcome[0] = total(bound, n);
        if (a->outcome[0] <= a->few_cells) {
            a->outcome[1] = 1;
            return 0;
        }
        if (total(sums.cell_count, n) < a->whole_share * a->outcome[0]) {
            if (!add_cut_blocks(&pair, bound, &sums)) {
                a->outcome[0] = -1;
                return 0;
            }
            a->outcome[0] = total(sums.cell_count, n);
        }
    }
    divide_by_count(&sums, pair.channels, bound);
    return 0;
}

/* Gather the cells of a chosen block that are valid in both tiles and all channels. */
static Index gather_cells_of_block(const Pair *pair, Index chosen, Index block, Index found,
                                   const GatherCells *a)
{
    const Frame *const f = &pair->frame;
    const Index layers = 2 * pair->channels, n = a->size.cells;
    const Index top = block / f->width * f->side, left = block % f->width * f->side;
    for (Index v = top; v < top + f->side; v++)
        for (Index u = left; u < left + f->side; u++) {
            const Index row = v + f->top * f->side, column = u + f->left * f->side;
            int valid = row >= f->y0 && row < f->y1 && column >= f->x0 && column < f->x1;
            for (Index layer = 0; valid && layer < layers; layer++) {
                const Index t = layer / pair->channels;
                double numbers[KINDS];
                valid = read_cell(&pair->tiles[t], layer % pair->channels, row, column,
                                  pair->border_error, numbers);
                for (int kind = 0; valid && kind < KINDS; kind++)
                    a->cells[(layers * kind + layer) * n + found] = numbers[kind];
            }
            if (!valid) continue;
            a->position[found] = (double)u;
            a->position[n + found] = (double)v;
            a->chosen_index[found++] = chosen;
        }
    return found;
}

/* Gather the common cells of chosen blocks. */
int gather_cells(const GatherCells *a)
{
    const PreviewPair previews = PREVIEW_PAIR_OF(a);
    Pair pair = {.border_error = a->border_error};
    Index found = 0;
    if (set_pair(&previews, &pair) < 0) return -1;
    const Frame *const f = &pair.frame;
    if (a->size.cells != a->size.chosen * f->side * f->side) return -1;
    for (Index k = 0; k < a->size.chosen; k++) {
        const Index block = a->chosen_blocks[k];
        if (block < 0 || block >= f->width * f->height) return -1;
        found = gather_cells_of_block(&pair, k, block, found, a);
    }
    *a->found_cells = found;
    return 0;
}

/* Return the median size of the values of non-empty blocks. */
static double typical_size(const double *values, const double *nonempty, Index count, Index step)
{
    double sample[SAMPLE + 1];
    for (Index i = 0; i < count; i++) sample[i] = fabs(values[(Index)nonempty[i * step]]);
    return count ? select_rank(sample, count, count / 2) : 1;
}

/* Make the variances of cells in `means` the variances of the means, in place. */
int block_weights(const BlockWeights *a)
{
    const Index channels = a->size.channels, n = a->size.blocks, layers = 2 * channels;
    double *const values = a->means, *const variance = values + layers * n;
    double *const typical = a->typical_variance, *const nonempty = a->index_work;
    Index count = 0, step = 1;
    for (Index b = 0; b < n; b++)
        if (a->cell_count[b] != 0) nonempty[count++] = (double)b;
    if (count) count = thinned_count(count, &step);
    for (Index k = 0; k < layers; k++) {
        /* Sky without noise would get infinite weights. */
        const double least = 1e-6 * typical_size(values + k * n, nonempty, count, step);
        const double floor = 1e-12 + least * least;
        typical[k] = typical_size(variance + k * n, nonempty, count, step) + floor;
        for (Index b = 0; b < n; b++) variance[k * n + b] += floor;
    }
    for (Index b = 0; b < n; b++) {
        const double share = a->shared_noise / larger(a->cell_count[b], 1);
        double *const prominence = a->prominence + b;
        *prominence = -HUGE_VAL;
        for (Index channel = 0; channel < channels; channel++) {
            double sum = 0;
            for (Index k = channel; k < layers; k += channels) {
                variance[k * n + b] *= share < 1 ? share : 1;
                sum += (a->highest[k * n + b] - values[k * n + b]) / sqrt(typical[k]);
            }
            *prominence = larger(*prominence, sum);
        }
    }
    for (Index k = 0; k < layers; k++) typical[k] *= a->shared_noise / a->block_cells;
    return 0;
}
