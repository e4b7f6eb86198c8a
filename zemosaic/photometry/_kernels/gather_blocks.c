/* The blocks that a pair has in common.

"Preview blocks" are those of the previews; a block of the frame is made of one or more of them, or
is a single cell. */

#include "preview_pair.h"

#include <math.h>

/* Rows of a preview's blocks, in the order of Preview.blocks, and those of the numbers. */
enum { BLOCK_HIGHEST = 2, BLOCK_CELL_COUNT = 6 };
static const int block_row[KINDS] = {0, 1, 3, 4, 5};

enum { CHUNK = 128, CUT_CHUNK = 8 }; /* preview blocks added at once, whole or cut */

/* The pair, and sums over the common cells of each block of the frame. */
typedef struct {
    Pair pair;
    Index blocks;
    Index preview_side, along; /* cells along a preview block; preview blocks along a block */
    double full;               /* cells of a whole preview block */
    double *values, *position, *highest, *cell_count;
    double *bound; /* largest possible number of common cells */
} Gathering;

/* Preview blocks that are whole in both tiles: their blocks, and their indices in each tile. */
typedef struct {
    Index count, block[CHUNK], in_tile[2][CHUNK];
} Whole;

/* Add one channel of a cell to block b; return whether the cell is valid in both tiles. */
static int add_cell_channel(const Gathering *g, Index channel, Index row, Index column, Index b)
{
    const Index channels = g->pair.channels, n = g->blocks, step = channels * n;
    double numbers[2][KINDS];
    for (int t = 0; t < 2; t++)
        if (!read_cell(&g->pair.tiles[t], channel, row, column, g->pair.border_error, numbers[t]))
            return 0;
    double *sum = g->values + channel * n + b, *highest = g->highest + channel * n + b;
    for (int kind = 0; kind < KINDS; kind++)
        for (int t = 0; t < 2; t++, sum += step) *sum += numbers[t][kind];
    for (int t = 0; t < 2; t++, highest += step) *highest = larger(*highest, numbers[t][VALUE]);
    return 1;
}

/* Add a cell to block b; return whether it is valid, -1 if it is in some channels only. */
static int add_cell(const Gathering *g, Index row, Index column, Index b)
{
    int valid = 0;
    for (Index channel = 0; channel < g->pair.channels; channel++) {
        const int added = add_cell_channel(g, channel, row, column, b);
        if (channel && added != valid) return -1;
        valid = added;
    }
    return valid;
}

/* Add the cells of a box, which lies in one block unless blocks are cells; return 0 if channels
differ. */
static int add_cells(const Gathering *g, Box box)
{
    const Frame *const frame = g->pair.frame;
    const Index x = frame->left * frame->side, y = frame->top * frame->side;
    for (Index row = box.top; row < box.bottom; row++) {
        Index b = (row - y) / frame->side * frame->width + (box.left - x) / frame->side;
        for (Index column = box.left; column < box.right; column++, b += frame->side == 1) {
            const int valid = add_cell(g, row, column, b);
            if (valid < 0) return 0;
            if (!valid) continue;
            g->cell_count[b] += 1;
            g->position[b] += (double)(column - x);
            g->position[g->blocks + b] += (double)(row - y);
        }
    }
    return 1;
}

/* Return those cells of a preview block that lie in the overlap, and load them. */
static Box cells_of_block(const Gathering *g, Index row, Index column)
{
    const Frame *const f = g->pair.frame;
    const Index side = g->preview_side;
    const Index top = f->top * f->side + row * side, left = f->left * f->side + column * side;
    const Box box = {
        top > f->y0 ? top : f->y0, top + side < f->y1 ? top + side : f->y1,
        left > f->x0 ? left : f->x0, left + side < f->x1 ? left + side : f->x1,
    };
    for (Index layer = 0; layer < 2 * g->pair.channels; layer++)
        prefetch_cells(&g->pair.tiles[layer % 2], layer / 2, &box);
    return box;
}

/* Return the preview blocks that both tiles have, counted from the corner of the frame. */
static Box shared_blocks(const Gathering *g)
{
    Box shared = {0, g->pair.frame->height * g->along, 0, g->pair.frame->width * g->along};
    for (int t = 0; t < 2; t++) {
        const Tile *const tile = &g->pair.tiles[t];
        const Index bottom = tile->row + tile->block_rows;
        const Index right = tile->column + tile->block_columns;
        if (tile->row > shared.top) shared.top = tile->row;
        if (tile->column > shared.left) shared.left = tile->column;
        if (bottom < shared.bottom) shared.bottom = bottom;
        if (right < shared.right) shared.right = right;
    }
    return shared;
}

/* Return the number of valid cells of a preview block in the tile that has fewer of them, -1 if
channels differ; set its index in each tile. */
static double fewest_cells(const Gathering *g, Index row, Index column, Index in_tile[2])
{
    double fewest = g->full;
    for (int t = 0; t < 2; t++) {
        const Tile *const tile = &g->pair.tiles[t];
        const Index area = tile->block_rows * tile->block_columns;
        in_tile[t] = (row - tile->row) * tile->block_columns + column - tile->column;
        const float *const count =
            tile->blocks + BLOCK_CELL_COUNT * g->pair.channels * area + in_tile[t];
        for (Index channel = 1; channel < g->pair.channels; channel++)
            if (count[channel * area] != *count) return -1;
        fewest = (double)*count < fewest ? (double)*count : fewest;
    }
    return fewest;
}

/* Add the numbers of one channel of a tile; `layer` is tile * channels + channel. */
static void add_layer(const Gathering *g, Index layer, const Whole *whole)
{
    const Index channels = g->pair.channels, n = g->blocks, t = layer >= channels;
    const Tile *const tile = &g->pair.tiles[t];
    const Index area = tile->block_rows * tile->block_columns, step = 2 * channels * n;
    const float *const blocks = tile->blocks + (layer - t * channels) * area;
    const float *from[KINDS], *const highest = blocks + BLOCK_HIGHEST * channels * area;
    for (int kind = 0; kind < KINDS; kind++) from[kind] = blocks + block_row[kind] * channels * area;
    /* All kinds at once: each waits for the sum of the last block, which often is in the same. */
    for (Index i = 0; i < whole->count; i++) {
        const Index b = layer * n + whole->block[i], index = whole->in_tile[t][i];
        double *const sum = g->values + b;
        for (int kind = 0; kind < KINDS; kind++)
            sum[kind * step] += g->full * (double)from[kind][index];
        g->highest[b] = larger(g->highest[b], (double)highest[index]);
    }
}

/* Find the whole blocks in a piece of a row, and add their numbers of cells and their positions.
Return 0 if channels differ. */
static int find_whole_blocks(const Gathering *g, Index row, Index begin, Index end, Whole *whole)
{
    const double centre = (double)(g->preview_side - 1) / 2;
    Index next = row / g->along * g->pair.frame->width + begin / g->along;
    Index within = begin % g->along;
    whole->count = 0;
    for (Index column = begin; column < end; column++) {
        const Index b = next;
        Index in_tile[2];
        const double fewest = fewest_cells(g, row, column, in_tile);
        if (fewest < 0) return 0;
        if (++within == g->along) within = 0, next++;
        g->bound[b] += fewest;
        if (fewest < g->full) continue;
        for (int t = 0; t < 2; t++) whole->in_tile[t][whole->count] = in_tile[t];
        whole->block[whole->count++] = b;
        g->cell_count[b] += g->full;
        g->position[b] += g->full * ((double)(column * g->preview_side) + centre);
        g->position[g->blocks + b] += g->full * ((double)(row * g->preview_side) + centre);
    }
    return 1;
}

/* Add the preview blocks that are whole in both tiles, and sum up the bound. Return 0 if channels
differ. */
static int add_whole_blocks(const Gathering *g)
{
    const Box shared = shared_blocks(g);
    Whole whole;
    for (Index row = shared.top; row < shared.bottom; row++)
        for (Index begin = shared.left; begin < shared.right; begin += CHUNK) {
            const Index end = begin + CHUNK < shared.right ? begin + CHUNK : shared.right;
            if (!find_whole_blocks(g, row, begin, end, &whole)) return 0;
            for (Index layer = 0; whole.count && layer < 2 * g->pair.channels; layer++)
                add_layer(g, layer, &whole);
        }
    return 1;
}

/* Add the cells of some boxes; return 0 if channels differ. */
static int add_boxes(const Gathering *g, const Box *boxes, Index count)
{
    for (Index i = 0; i < count; i++)
        if (!add_cells(g, boxes[i])) return 0;
    return 1;
}

/* Add the preview blocks that are not whole in both tiles, cell by cell. Return 0 if channels
differ. */
static int add_cut_blocks(const Gathering *g)
{
    const Box shared = shared_blocks(g);
    Box cut[CUT_CHUNK];
    Index count = 0;
    for (Index row = shared.top; row < shared.bottom; row++) {
        Index next = row / g->along * g->pair.frame->width + shared.left / g->along;
        Index within = shared.left % g->along;
        for (Index column = shared.left; column < shared.right; column++) {
            const Index b = next;
            Index in_tile[2];
            if (++within == g->along) within = 0, next++;
            if (!(g->bound[b] > g->cell_count[b])) continue;
            const double fewest = fewest_cells(g, row, column, in_tile);
            if (!(fewest > 0 && fewest < g->full)) continue;
            cut[count++] = cells_of_block(g, row, column);
            if (count < CUT_CHUNK) continue;
            if (!add_boxes(g, cut, count)) return 0;
            count = 0;
        }
    }
    return add_boxes(g, cut, count);
}

static double total(const double *values, Index n)
{
    double sum = 0;
    for (Index i = 0; i < n; i++) sum += values[i];
    return sum;
}

static void clear(const Gathering *g)
{
    const Index n = g->blocks, layers = 2 * g->pair.channels;
    for (Index i = 0; i < KINDS * layers * n; i++) g->values[i] = 0;
    for (Index i = 0; i < layers * n; i++) g->highest[i] = -HUGE_VAL;
    for (Index b = 0; b < n; b++)
        g->cell_count[b] = g->position[b] = g->position[n + b] = g->bound[b] = 0;
}

/* Turn the sums into means; `share` is scratch space. */
static void divide_by_count(const Gathering *g, double *share)
{
    const Index n = g->blocks;
    for (Index b = 0; b < n; b++) share[b] = 1 / larger(g->cell_count[b], 1);
    for (Index k = 0; k < 2 * KINDS * g->pair.channels; k++)
        for (Index b = 0; b < n; b++) g->values[k * n + b] *= share[b];
    for (Index b = 0; b < n; b++) {
        g->position[b] *= share[b];
        g->position[n + b] *= share[b];
    }
}

/* Sum over all common cells; return their number, -1 if channels differ. If they are few, set
`few` and stop early. */
static double sum_cells(const Gathering *g, double few_cells, double whole_share, double *few)
{
    const Frame *const f = g->pair.frame;
    const Box overlap = {f->y0, f->y1, f->x0, f->x1};
    if (f->side == 1) return add_cells(g, overlap) ? total(g->cell_count, g->blocks) : -1;
    if (!add_whole_blocks(g)) return -1;
    const double bound = total(g->bound, g->blocks);
    *few = bound <= few_cells;
    if (*few || !(total(g->cell_count, g->blocks) < whole_share * bound)) return bound;
    return add_cut_blocks(g) ? total(g->cell_count, g->blocks) : -1;
}

/* Compute the means of all blocks of the frame. */
int gather_blocks(const GatherBlocks *a)
{
    const Index side = a->frame[4], preview_side = (Index)a->preview_side;
    if (side < 1 || preview_side < 1 || (side > 1 && side % preview_side)) return -1;
    const Gathering g = {
        PAIR(a), a->size.blocks, preview_side, side / preview_side,
        (double)(preview_side * preview_side), a->means, a->position, a->highest, a->cell_count,
        a->count_work,
    };
    if (!is_covered(&g.pair) || g.pair.frame->width * g.pair.frame->height != g.blocks) return -1;
    clear(&g);
    a->outcome[1] = 0;
    a->outcome[0] = sum_cells(&g, a->few_cells, a->whole_share, a->outcome + 1);
    if (a->outcome[0] >= 0 && a->outcome[1] == 0) divide_by_count(&g, a->count_work);
    return 0;
}
