/* The weighted products of the equations of pairs of tiles. */

#include "algebra.h"

#include <string.h>

enum { LEVELS = 16, TILE_TERMS_MAX = 15, WIDTH_MAX = 2 * (2 + TILE_TERMS_MAX) };

/* Set the derivatives (2 + terms) of the level of a patch by the terms of one tile. */
static void set_derivatives(double *row, double sign, const double *lever, const double *by_level,
                            const double *surface, Index terms, Index step, Index patch)
{
    row[0] = sign * lever[patch];
    row[1] = sign * by_level[patch];
    for (Index k = 0; k < terms; k++) row[2 + k] = sign * surface[k * step + patch];
}

/* Add the products of the levels of one pair; `terms` are those of a surface and a bias. */
static inline void add_levels(const NormalBlocks *a, Index pair, Index terms,
                              double *restrict block, double *restrict product)
{
    const Index half = 2 + terms, width = 2 * half;
    const Index start = pair * LEVELS, step = a->size.chosen * LEVELS;
    const double *const precision = a->precision + pair * (LEVELS + 1);
    const double *const residual = a->residual + pair * (LEVELS + 1);
    double row[WIDTH_MAX];
    for (Index patch = 0; patch < LEVELS; patch++) {
        if (precision[patch] == 0) continue;
        set_derivatives(row, -1, a->first_lever + start, a->first_by_level + start,
                        a->first_surface + start, terms, step, patch);
        set_derivatives(row + half, 1, a->second_lever + start, a->second_by_level + start,
                        a->second_surface + start, terms, step, patch);
        for (Index i = 0; i < width; i++) {
            const double factor = precision[patch] * row[i];
            double *const sums = block + i * width;
            for (Index j = 0; j < width; j++) sums[j] += factor * row[j];
            product[i] += factor * residual[patch];
        }
    }
}

/* Write the products of each pair to its place. */
int normal_blocks(const NormalBlocks *a)
{
    const Index half = 2 + a->size.terms, width = 2 * half;
    if (a->size.terms > TILE_TERMS_MAX || a->size.clique != width) return -1;
    for (Index pair = 0; pair < a->size.chosen; pair++) {
        const Index place = a->pairs[pair];
        if (place < 0 || place >= a->size.pairs) return -1;
        double *const block = a->blocks + place * width * width;
        double *const product = a->products + place * width;
        memset(block, 0, (size_t)(width * width) * sizeof *block);
        memset(product, 0, (size_t)width * sizeof *product);
        /* Without further terms the sums stay in registers. */
        if (a->size.terms) add_levels(a, pair, a->size.terms, block, product);
        else add_levels(a, pair, 0, block, product);
        const double gain = a->precision[pair * (LEVELS + 1) + LEVELS];
        if (gain == 0) continue;
        const double ratio = gain * a->residual[pair * (LEVELS + 1) + LEVELS];
        block[0] += gain, block[half * (width + 1)] += gain;
        block[half] -= gain, block[half * width] -= gain;
        product[0] += ratio, product[half] -= ratio;
    }
    return 0;
}
