/* The residuals of pairs of tiles from those of their patches and their gains. */

#include "algebra.h"

#include <math.h>

enum { LEVELS = 16, LANES = 8 };

static double sum_of_lanes(const double *lanes)
{
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/* Write the residuals of one pair, and these in units of their errors, to columns of two arrays. */
static void summarize(const double *residual, const double *variance, Index step, double *mean,
                      double *chi)
{
    double weights[LANES] = {0}, products[LANES] = {0}, squares[LANES] = {0};
    Index patches = 0;
    for (Index k = 0; k < LEVELS; k += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const double weight = 1 / variance[k + lane], weighted = weight * residual[k + lane];
            weights[lane] += weight;
            products[lane] += weighted;
            squares[lane] += weighted * residual[k + lane];
        }
    for (Index k = 0; k < LEVELS; k++) patches += !isinf(variance[k]);
    const double total = sum_of_lanes(weights), product = sum_of_lanes(products);
    const double known = total > 0 ? total : 1;
    const double scatter = patches > 1 ? sum_of_lanes(squares) - product * product / known : 0;
    const double ratio = residual[LEVELS], gain_variance = variance[LEVELS];
    mean[0] = total > 0 ? product / total : NAN;
    mean[step] = isfinite(gain_variance) ? ratio : NAN;
    chi[0] = fabs(product) / sqrt(known);
    chi[step] = fabs(ratio) / sqrt(gain_variance);
    chi[2 * step] = scatter > 0 ? sqrt(scatter / (double)(patches - 1)) : 0;
}

/* Summarize each pair at its place. */
int pair_residuals(const PairResiduals *a)
{
    for (Index pair = 0; pair < a->size.chosen; pair++) {
        const Index place = a->pairs[pair], row = pair * (LEVELS + 1);
        if (place < 0 || place >= a->size.pairs) return -1;
        summarize(a->residual + row, a->variance + row, a->size.pairs, a->mean + place,
                  a->chi + place);
    }
    return 0;
}
