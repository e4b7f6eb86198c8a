/* The variances of the means of blocks, and how far their brightest cells stand out. */

#include "algebra.h"

#include <math.h>

/* Return the median of the absolute values of non-empty blocks; 1 if there are none. */
static double typical_size(const double *values, const double *nonempty, Index count, Index step)
{
    double sample[SAMPLE + 1];
    for (Index i = 0; i < count; i++) sample[i] = fabs(values[(Index)nonempty[i * step]]);
    return count ? select_rank(sample, count, count / 2) : 1;
}

/* Turn the variances of cells in `means` into those of the means, in place. Compute the typical
variance of whole blocks, and how far the brightest cells of each block are above its mean, in
standard deviations of both tiles together. */
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
        /* Sky without noise would get infinite weights. The constant is far below any noise. */
        const double least = 1e-6 * typical_size(values + k * n, nonempty, count, step);
        const double floor = 1e-60 + least * least;
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
