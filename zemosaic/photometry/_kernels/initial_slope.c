/* A robust first slope without nuisance terms.

A robust fit converges to the line next to its start: where clouds hold most blocks and a few stars
most of the light, either may look like outliers to the other. So it starts from both. */

#include "algebra.h"

#include <math.h>

/* One channel: flattened blocks and their variances. */
typedef struct {
    Index blocks;
    const double *x, *y, *x_variance, *y_variance;
} Channel;

/* Up to two candidate lines a channel, and the best line of each channel so far. */
typedef struct {
    Index channels, count; /* line k belongs to channel k % channels */
    double *slope, *level, *lost, *least_misfit, *best_slope;
} Lines;

/* Scratch space, a row for each. */
typedef struct {
    double *inverse, *squares, *weights, *instrument, *dx, *dy;
} Work;

static Channel channel_of(const InitialSlope *a, Index channel)
{
    const Index n = a->size.blocks, first = channel * n;
    const double *const x = a->flattened_work + first;
    const Channel c = {
        n, x, x + a->size.channels * n, a->x_variance + first, a->y_variance + first,
    };
    return c;
}

/* Subtract the plane of a tile from its blocks; `plane` holds a coefficient every `step`. */
static void flatten(const double *values, const double *plane, Index step, const InitialSlope *a,
                    double *flattened)
{
    for (Index i = 0; i < a->size.blocks; i++)
        flattened[i] = values[i] - (plane[0] + plane[step] * a->u[i] + plane[2 * step] * a->v[i]);
}

/* Flatten a channel and set its candidate slopes: that of all light, and that of bright blocks.
NaN as the result if a tile is constant. */
static void start_channel(const InitialSlope *a, Index channel, const Lines *lines, double *work)
{
    const Index n = a->size.blocks, channels = lines->channels;
    double spread[2], middle[2];
    Index count = 0;
    int constant = 0;
    for (Index t = 0; t < 2; t++) {
        const double *const values = (t ? a->y : a->x) + channel * n;
        const double *const variance = (t ? a->y_variance : a->x_variance) + channel * n;
        double *const flattened = a->flattened_work + (t * channels + channel) * n;
        flatten(values, a->planes + t * channels + channel, 2 * channels, a, flattened);
        for (Index i = 0; i < n; i++) work[i] = flattened[i];
        const double noise = median(variance, n);
        middle[t] = median(work, n);
        spread[t] = select_rank(work, n, (Index)(a->bright_quantile * (double)(n - 1))) - middle[t];
        /* Nothing but rounding. */
        if (spread[t] * fabs(spread[t]) < noise) constant = 1;
    }
    const Channel c = channel_of(a, channel);
    for (Index i = 0; i < n; i++) {
        const double dx = c.x[i] - middle[0], dy = c.y[i] - middle[1];
        if (a->bright[i] && dx > 0 && dy > 0) work[count++] = dy / dx;
    }
    double *const slope = lines->slope + channel;
    a->slope[channel] = constant ? NAN : 0;
    slope[0] = constant ? 1 : spread[1] / spread[0];
    slope[channels] = count ? select_rank(work, count, count / 2) : slope[0];
}

/* Set the levels of all candidates: medians of what their slopes leave. */
static void start_levels(const InitialSlope *a, const Lines *lines, double *work)
{
    for (Index m = 0; m < lines->channels; m++) {
        lines->least_misfit[m] = HUGE_VAL;
        lines->best_slope[m] = NAN;
    }
    for (Index k = 0; k < lines->count; k++) {
        const Channel c = channel_of(a, k % lines->channels);
        const double slope = lines->slope[k];
        lines->lost[k] = slope <= 0;
        for (Index i = 0; i < c.blocks; i++) work[i] = c.y[i] - slope * c.x[i];
        lines->level[k] = median(work, c.blocks);
    }
}

/* Keep the lines that leave less unexplained than any before. */
static void keep_best(const InitialSlope *a, const Lines *lines)
{
    const double largest = a->outlier_limit * a->outlier_limit;
    for (Index k = 0; k < lines->count; k++) {
        const Index m = k % lines->channels;
        const Channel c = channel_of(a, m);
        const double slope = lines->slope[k], level = lines->level[k];
        double misfit = 0;
        for (Index i = 0; i < c.blocks; i++) {
            const double residual = c.y[i] - slope * c.x[i] - level;
            const double square = residual * residual /
                                  (c.y_variance[i] + slope * slope * c.x_variance[i]);
            misfit += square < largest ? square : largest;
        }
        if (lines->lost[k] != 0 || !(misfit < lines->least_misfit[m])) continue;
        lines->least_misfit[m] = misfit;
        lines->best_slope[m] = slope;
    }
}

/* Compute Huber's weights over the variances of the residuals: 1, or the limit in units of the
deviation. */
static void huber_weights(const Channel *c, double slope, double level, double huber, Work work)
{
    double *const restrict inverse = work.inverse, *const restrict squares = work.squares;
    double *const restrict weights = work.weights;
    const Index n = c->blocks;
    for (Index i = 0; i < n; i++) {
        const double residual = c->y[i] - slope * c->x[i] - level;
        inverse[i] = 1 / (c->y_variance[i] + slope * slope * c->x_variance[i]);
        squares[i] = residual * residual * inverse[i];
    }
    const double limit = huber * robust_scale(squares, n), share = 1 / (limit * limit);
    for (Index i = 0; i < n; i++) {
        const double excess = squares[i] * share;
        weights[i] = inverse[i] / sqrt(excess > 1 ? excess : 1);
    }
}

/* Return the slope of the line through the weighted blocks, and set the means of x and y that it
passes. The instrument for the noisy x is York's adjusted point. */
static double weighted_slope(const Channel *c, double slope, Work work, double mean[2])
{
    double *const restrict dx = work.dx, *const restrict dy = work.dy;
    double *const restrict instrument = work.instrument;
    const double *const restrict inverse = work.inverse, *const restrict weights = work.weights;
    const double *const weighted[3] = {weights, weights, weights};
    const double *const summed[3] = {dx, c->x, c->y};
    const double *const instruments[3] = {instrument, instrument, instrument};
    const double *const differences[3] = {dx, dy, dy};
    const Index n = c->blocks;
    double product[9];
    for (Index i = 0; i < n; i++) dx[i] = 1;
    dots(weighted, summed, n, product);
    const double mean_x = mean[0] = product[1] / product[0];
    const double mean_y = mean[1] = product[2] / product[0];
    for (Index i = 0; i < n; i++) {
        dx[i] = c->x[i] - mean_x;
        dy[i] = c->y[i] - mean_y;
        instrument[i] = (slope * c->x_variance[i] * dy[i] + dx[i] * c->y_variance[i]) * weights[i] *
                        inverse[i];
    }
    dots(instruments, differences, n, product);
    return product[1] / (product[0] > 0 ? product[0] : HUGE_VAL);
}

/* Fit all candidates once; return whether no slope changed by more than the tolerance. */
static int fit_round(const InitialSlope *a, const Lines *lines, Work work)
{
    int steady = 1;
    for (Index k = 0; k < lines->count; k++) {
        const Channel c = channel_of(a, k % lines->channels);
        double *const slope = lines->slope + k, mean[2];
        const double before = *slope;
        huber_weights(&c, before, lines->level[k], a->huber, work);
        *slope = weighted_slope(&c, before, work, mean);
        if (!(*slope > 0)) lines->lost[k] = 1;
        if (lines->lost[k] != 0) *slope = 1;
        if (!(fabs(*slope - before) <= a->tolerance * *slope)) steady = 0;
        lines->level[k] = mean[1] - *slope * mean[0];
    }
    return steady;
}

/* Find the robust line that leaves the least unexplained, of the candidates and of the lines that
they converge to. */
int initial_slope(const InitialSlope *a)
{
    const Index channels = a->size.channels, n = a->size.blocks;
    double *const rows = a->block_work, *const values = a->line_work;
    const Work work = {rows, rows + n, rows + 2 * n, rows + 3 * n, rows + 4 * n, rows + 5 * n};
    Lines lines = {
        channels, channels, values, values + 2 * channels, values + 4 * channels,
        values + 6 * channels, values + 7 * channels,
    };
    if (n < 1 || !(a->bright_quantile >= 0 && a->bright_quantile <= 1)) return -1;
    for (Index i = 0; i < n; i++)
        if (a->bright[i]) lines.count = 2 * channels;
    for (Index m = 0; m < channels; m++) start_channel(a, m, &lines, work.squares);
    start_levels(a, &lines, work.squares);
    keep_best(a, &lines);
    for (int round = 0, steady = 0; round < a->rounds && !steady; round++)
        steady = fit_round(a, &lines, work);
    keep_best(a, &lines);
    for (Index m = 0; m < channels; m++)
        if (!isnan(a->slope[m])) a->slope[m] = lines.best_slope[m];
    return 0;
}
