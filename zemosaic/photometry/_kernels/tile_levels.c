/* The corrected levels of tiles in the patches of their pairs. */

#include "algebra.h"

enum { LEVELS = 16 };

/* Add the terms of a surface to the levels of one pair. */
static void add_surface(const TileLevels *a, Index pair, const double *coefficients, double *value)
{
    for (Index term = 0; term < a->size.terms; term++) {
        const double *const basis = a->basis + (term * a->size.chosen + pair) * LEVELS;
        for (int k = 0; k < LEVELS; k++) value[k] += basis[k] * coefficients[term];
    }
}

/* Correct the levels of one tile of each pair. */
int tile_levels(const TileLevels *a)
{
    for (Index pair = 0; pair < a->size.chosen; pair++) {
        const Index tile = a->tile[pair], start = pair * LEVELS;
        if (tile < 0 || tile >= a->size.tiles) return -1;
        const double gain = a->gain[tile], reference = a->reference[tile];
        const double bias = a->bias[tile], added = a->offset[tile] - bias;
        const double *const measured = a->measured + start, *const glow = a->glow + start;
        const double *const by_level = a->by_level + start;
        double *const lever = a->lever + start, *const light = a->light + start;
        double *const value = a->value + start;
        for (int k = 0; k < LEVELS; k++) {
            const double part = gain * (measured[k] - (reference + glow[k]));
            lever[k] = part * by_level[k];
            light[k] = (part + added) * by_level[k];
            value[k] = light[k] + bias;
        }
        add_surface(a, pair, a->coefficients + tile * a->size.terms, value);
    }
    return 0;
}
