/* Iteratively reweighted least squares with Tukey's biweight: the rounds of a pair's fit. */

#include "algebra.h"

#include <math.h>

/* One channel: its rows, its line and the weighted products of its columns. */
typedef struct {
    Index rows, blocks, cells;
    int columns;
    const Index *cell_block;
    const double *x_variance, *y_variance;
    double *column, *weights, *residual, *gram, *line;
} Channel;

/* Scratch space, a row for each; `products` has three. */
typedef struct {
    double *inverse, *kept, *spread, *products;
} Work;

static Channel channel_of(const FitIrls *a, Index m)
{
    const Index rows = a->size.rows, k = a->size.columns;
    const Channel c = {
        .rows = rows,
        .blocks = rows - a->size.cells,
        .cells = a->size.cells,
        .columns = (int)k,
        .cell_block = a->cell_block,
        .x_variance = a->x_variance + m * rows,
        .y_variance = a->y_variance + m * rows,
        .column = a->columns + m * k * rows,
        .weights = a->weights + m * rows,
        .residual = a->residual_work + m * rows,
        .gram = a->gram + m * k * k,
        .line = a->line + m * 2 * k,
    };
    return c;
}

/* With terms of the scene, these are the instrument; otherwise York's adjusted points are. */
static int has_scene(const Channel *c) { return c->columns > COLUMN_GRADIENT_U; }

/* Compute what the initial slope leaves, less its median if there is a level. */
static void initial_residual(const Channel *c, double slope)
{
    const Index n = c->rows;
    const double *const x = c->column + COLUMN_X * n, *const y = c->column + COLUMN_Y * n;
    double *const restrict residual = c->residual;
    for (Index i = 0; i < n; i++) residual[i] = y[i] - slope * x[i];
    const double level = c->columns > COLUMN_LEVEL ? median(residual, n) : 0;
    for (Index i = 0; i < n; i++) residual[i] -= level;
}

/* Compute what the line leaves. */
static void line_residual(const Channel *c)
{
    const Index n = c->rows;
    const double *const x = c->column + COLUMN_X * n, *const y = c->column + COLUMN_Y * n;
    const double *const line = c->line;
    double *const restrict residual = c->residual;
    const double of_x = line[COLUMN_X], of_y = line[COLUMN_Y];
    for (Index i = 0; i < n; i++) residual[i] = of_x * x[i] + of_y * y[i];
    for (int j = COLUMN_LEVEL; j < c->columns; j++) {
        const double *const column = c->column + j * n, factor = line[j];
        for (Index i = 0; i < n; i++) residual[i] += factor * column[i];
    }
}

/* Compute the square roots of Tukey's biweights in `kept`; return the robust scale. */
static double biweight_roots(const Channel *c, double slope, double biweight, Work work)
{
    const Index n = c->rows, *const block = c->cell_block;
    const double *const restrict residual = c->residual;
    double *const restrict inverse = work.inverse, *const restrict kept = work.kept;
    const double *const x_variance = c->x_variance, *const y_variance = c->y_variance;
    for (Index i = 0; i < n; i++) {
        inverse[i] = 1 / (y_variance[i] + slope * slope * x_variance[i]);
        kept[i] = residual[i] * residual[i] * inverse[i];
    }
    const double scale = robust_scale(kept, n);
    const double share = 1 / (biweight * scale * (biweight * scale));
    for (Index i = 0; i < n; i++) {
        const double root = 1 - kept[i] * share;
        kept[i] = root > 0 ? root : 0;
    }
    /* A block weighs no more than the worst of its cells: light that is cut off bends its mean. */
    for (Index i = 0; i < c->cells; i++) {
        const double cell = kept[c->blocks + i];
        kept[block[i]] = cell < kept[block[i]] ? cell : kept[block[i]];
    }
    return scale;
}

/* Compute the weights and the noise variance of York's points; update these if they are the
instrument. Their noise is unlike that of the residual. */
static void weigh_rows(const Channel *c, double slope, Work work)
{
    const Index n = c->rows;
    const double *const restrict inverse = work.inverse, *const restrict kept = work.kept;
    const double *const restrict residual = c->residual, *const x = c->column + COLUMN_X * n;
    double *const restrict weights = c->weights, *const restrict spread = work.spread;
    double *const instrument = c->column + COLUMN_INSTRUMENT * n;
    const double *const x_variance = c->x_variance, *const y_variance = c->y_variance;
    for (Index i = 0; i < n; i++) {
        weights[i] = kept[i] * kept[i] * inverse[i];
        spread[i] = x_variance[i] * y_variance[i] * inverse[i];
    }
    if (has_scene(c)) return;
    for (Index i = 0; i < n; i++)
        instrument[i] = x[i] + slope * x_variance[i] * residual[i] * inverse[i];
}

/* Compute the factor by which the biweight enlarges errors, and the instrument's noise. */
static void noise_terms(const Channel *c, double scale, Work work, double *bread, double *noise)
{
    const Index n = c->rows;
    double *const ones = work.products, product[9];
    const double *const left[3] = {work.kept, c->weights, c->weights};
    const double *const right[3] = {work.kept, ones, work.spread};
    for (Index i = 0; i < n; i++) ones[i] = 1;
    dots(left, right, n, product);
    const double squares = product[0], derivative = 5 * squares - 4 * product[1];
    *bread = larger(1, squares / (derivative == 0 ? HUGE_VAL : derivative));
    *noise = has_scene(c) ? 0 : product[5] * scale * scale;
}

/* Reweight a channel and fit its line. */
static void fit_channel(const FitIrls *a, Index m, int first_round, Work work)
{
    const Channel c = channel_of(a, m);
    const double slope = a->slope[m];
    const int k = c.columns;
    if (first_round) initial_residual(&c, slope);
    else line_residual(&c);
    a->scale[m] = biweight_roots(&c, slope, a->biweight, work);
    weigh_rows(&c, slope, work);
    noise_terms(&c, a->scale[m], work, a->bread + m, a->instrument_noise + m);
    weighted_products(c.column, c.weights, k, c.rows, work.products, c.gram);
    for (int j = COLUMN_GRADIENT_U; has_scene(&c) && j <= COLUMN_LAPLACIAN; j++)
        c.gram[j * k + j] += a->scene_information[j - COLUMN_GRADIENT_U];
    line_coefficients(c.gram, k, k - COLUMN_LEVEL, a->fixed_slope != 0, slope, c.line);
    a->slope[m] = -c.line[COLUMN_X];
}

/* Fit all channels until their slopes, or their scales if the slopes are fixed, are steady; a slope
that was lost becomes NaN. */
int fit_irls(const FitIrls *a)
{
    const Index channels = a->size.channels, n = a->size.rows, k = a->size.columns;
    const Index cells = a->size.cells, blocks = n - cells;
    double *const rows = a->row_work, *const lost = a->lost_work;
    const Work work = {rows, rows + n, rows + 2 * n, rows + 3 * n};
    if (k < COLUMN_LEVEL || k > COLUMNS_MAX || blocks < 1) return -1;
    for (Index i = 0; i < cells; i++)
        if (a->cell_block[i] < 0 || a->cell_block[i] >= blocks) return -1;
    for (Index m = 0; m < channels; m++) lost[m] = a->slope[m] <= 0;
    for (int round = 0, steady = 0; round < a->rounds && !steady; round++) {
        steady = 1;
        for (Index m = 0; m < channels; m++) {
            double *const slope = a->slope + m;
            const double *const watched = a->fixed_slope != 0 ? a->scale + m : slope;
            const double before = a->fixed_slope != 0 && round == 0 ? HUGE_VAL : *watched;
            fit_channel(a, m, round == 0, work);
            if (!(*slope > 0)) lost[m] = 1;
            if (lost[m] != 0) *slope = 1;
            if (!(fabs(*watched - before) <= a->tolerance * *watched)) steady = 0;
        }
    }
    for (Index m = 0; m < channels; m++)
        if (lost[m] != 0) a->slope[m] = NAN;
    return 0;
}
