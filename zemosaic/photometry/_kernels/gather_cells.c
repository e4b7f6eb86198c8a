/* The common cells of chosen blocks, those with bright stars. */

#include "preview_pair.h"

/* Gather the cells of a block that are valid in both tiles and all channels; return the number of
cells gathered so far. */
static Index gather_block(const GatherCells *a, const Pair *pair, Index chosen, Index found)
{
    const Frame *const f = pair->frame;
    const Index layers = 2 * pair->channels, n = a->size.cells, block = a->chosen_blocks[chosen];
    const Index top = block / f->width * f->side, left = block % f->width * f->side;
    for (Index v = top; v < top + f->side; v++)
        for (Index u = left; u < left + f->side; u++) {
            const Index row = v + f->top * f->side, column = u + f->left * f->side;
            int valid = row >= f->y0 && row < f->y1 && column >= f->x0 && column < f->x1;
            for (Index layer = 0; valid && layer < layers; layer++) {
                const Tile *const tile = &pair->tiles[layer / pair->channels];
                double numbers[KINDS];
                valid = read_cell(tile, layer % pair->channels, row, column, pair->border_error,
                                  numbers);
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
    const Pair pair = PAIR(a);
    const Frame *const f = pair.frame;
    Index found = 0;
    if (!is_covered(&pair) || a->size.cells != a->size.chosen * f->side * f->side) return -1;
    for (Index k = 0; k < a->size.chosen; k++) {
        const Index block = a->chosen_blocks[k];
        if (block < 0 || block >= f->width * f->height) return -1;
        found = gather_block(a, &pair, k, found);
    }
    *a->found_cells = found;
    return 0;
}
