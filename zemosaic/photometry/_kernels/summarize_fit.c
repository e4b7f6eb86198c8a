/* The summary of a pair's fit: its slope, sums over the rows and over patches. */

#include "algebra.h"

#include <math.h>
#include <string.h>

/* Products of the regressors with the residuals, summed over patches. */
enum { SLOPE, LEVEL, REGRESSORS };

/* Rows left of y and of the instrument. */
enum { RESIDUAL, INSTRUMENT, LEFT_ROWS };

/* Quantities with weighted means. */
enum { POSITION_U, POSITION_V, VALUE_X, VALUE_Y, PIVOTS };

/* One channel: its rows, columns and line. */
typedef struct {
    Index rows, blocks, patches;
    int columns;
    const Index *patch;
    const double *pivoted[PIVOTS]; /* u, v, x and y of blocks */
    const double *column, *weights, *gram, *line;
    double instrument_noise;
    double *left; /* (LEFT_ROWS, rows) */
    double *patch_sum, *patch_share;
} Channel;

static Channel channel_of(const SummarizeFit *a, Index m)
{
    const Index rows = a->size.rows, blocks = a->size.blocks, k = a->size.columns;
    const Channel c = {
        .rows = rows,
        .blocks = blocks,
        .patches = a->size.patches,
        .columns = (int)k,
        .patch = a->patch,
        .pivoted = {a->u, a->v, a->x + m * blocks, a->y + m * blocks},
        .column = a->columns + m * k * rows,
        .weights = a->weights + m * rows,
        .gram = a->gram + m * k * k,
        .line = a->line + m * 2 * k,
        .instrument_noise = a->instrument_noise[m],
        .left = a->residual_work,
        .patch_sum = a->patch_sum_work,
        .patch_share = a->patch_share_work,
    };
    return c;
}

/* Compute what the line leaves of each row. */
static void subtract_line(const Channel *c)
{
    for (int t = 0; t < LEFT_ROWS; t++) {
        double *const left = c->left + t * c->rows;
        for (Index i = 0; i < c->rows; i++) left[i] = 0;
        for (int k = 0; k < c->columns; k++) {
            const double factor = c->line[t * c->columns + k], *const z = c->column + k * c->rows;
            for (Index i = 0; factor != 0 && i < c->rows; i++) left[i] += factor * z[i];
        }
    }
}

/* Compute the weighted means of u, v, x and y. Blocks alone enter, since the difference of a cell
from its block depends on the slope only. */
static void set_pivot(const Channel *c, FitSummary *summary)
{
    const double *const weights = c->weights, *const u = c->pivoted[POSITION_U];
    const double *const v = c->pivoted[POSITION_V], *const x = c->pivoted[VALUE_X];
    const double *const y = c->pivoted[VALUE_Y];
    double sum[1 + PIVOTS] = {0};
    for (Index i = 0; i < c->blocks; i++) {
        sum[0] += weights[i];
        sum[1 + POSITION_U] += weights[i] * u[i];
        sum[1 + POSITION_V] += weights[i] * v[i];
        sum[1 + VALUE_X] += weights[i] * x[i];
        sum[1 + VALUE_Y] += weights[i] * y[i];
    }
    summary->weight = sum[0];
    for (int t = 0; t < PIVOTS; t++) summary->pivot[t] = sum[1 + t] / sum[0];
}

/* Add products of row i to its patch. */
static void add_to_patch(const Channel *c, Index i)
{
    const double weighted = c->weights[i] * c->left[RESIDUAL * c->rows + i];
    const double instrument = c->left[INSTRUMENT * c->rows + i];
    double *const sum = c->patch_sum + c->patch[i], *const share = c->patch_share + c->patch[i];
    sum[SLOPE * c->patches] += weighted * instrument;
    share[SLOPE * c->patches] += c->weights[i] * instrument * instrument;
    if (i >= c->blocks) return;
    sum[LEVEL * c->patches] += weighted;
    share[LEVEL * c->patches] += c->weights[i];
}

/* Compute the sums over patches, the moments about the pivot, and the information. */
static void sum_rows(const Channel *c, FitSummary *summary)
{
    const Index n = c->rows;
    const double *const x = c->column + COLUMN_X * n, *const y = c->column + COLUMN_Y * n;
    const double slope = summary->slope > 0 ? summary->slope : 1;
    double information = 0, moments[3] = {0};
    for (Index i = 0; i < REGRESSORS * c->patches; i++) c->patch_sum[i] = c->patch_share[i] = 0;
    for (Index i = 0; i < n; i++) {
        const double weight = c->weights[i];
        add_to_patch(c, i);
        /* The mean of x and y / slope: the prior on the scene affects them differently. */
        information += weight * c->left[INSTRUMENT * n + i] * (x[i] + y[i] / slope) / 2;
        if (i >= c->blocks) continue;
        const double dx = c->pivoted[VALUE_X][i] - summary->pivot[VALUE_X];
        const double dy = c->pivoted[VALUE_Y][i] - summary->pivot[VALUE_Y];
        moments[0] += weight * dx * dx;
        moments[1] += weight * dx * dy;
        moments[2] += weight * dy * dy;
    }
    summary->information = information - c->instrument_noise;
    memcpy(summary->moments, moments, sizeof moments);
}

/* Compute the squares of the sums over patches, each sum enlarged by its leverage. */
static void square_patches(const Channel *c, FitSummary *summary)
{
    const Index patches = c->patches;
    for (int k = 0; k < REGRESSORS; k++) {
        const double *const sum = c->patch_sum + k * patches;
        const double *const share = c->patch_share + k * patches;
        double whole = 0;
        summary->patch_squares[k] = 0;
        for (Index i = 0; i < patches; i++) whole += share[i];
        if (k == SLOPE) summary->instrument_norm = whole - c->instrument_noise;
        for (Index i = 0; i < patches; i++) {
            const double enlarged = sum[i] / larger(1 - share[i] / larger(whole, 1e-300), 0.1);
            summary->patch_squares[k] += enlarged * enlarged;
        }
    }
}

static void set_rms(const Channel *c, FitSummary *summary)
{
    const double *const residual = c->left + RESIDUAL * c->rows;
    double *const size = c->left;
    for (Index i = 0; i < c->blocks; i++) size[i] = fabs(residual[i]);
    summary->rms = median(size, c->blocks) / 0.6745;
}

/* Compute the shift of the scene and its variance; NaN if the fit has no terms for it. */
static void set_shift(const Channel *c, FitSummary *summary)
{
    const int terms = c->columns - COLUMN_LEVEL;
    double matrix[TERMS_MAX * TERMS_MAX], unit[2 * TERMS_MAX] = {0};
    for (int t = 0; t < 2; t++) summary->shift[t] = summary->shift_variance[t] = NAN;
    if (c->columns <= COLUMN_GRADIENT_U) return;
    for (int i = 0; i < terms * terms; i++)
        matrix[i] = c->gram[(COLUMN_LEVEL + i / terms) * c->columns + COLUMN_LEVEL + i % terms];
    for (int t = 0; t < 2; t++) unit[(COLUMN_GRADIENT_U + t - COLUMN_LEVEL) * 2 + t] = 1;
    solve_normal_equations(matrix, unit, terms, 2);
    for (int t = 0; t < 2; t++) {
        summary->shift[t] = c->line[COLUMN_GRADIENT_U + t];
        summary->shift_variance[t] = unit[(COLUMN_GRADIENT_U + t - COLUMN_LEVEL) * 2 + t];
    }
}

/* Summarize the fit of each channel. */
int summarize_fit(const SummarizeFit *a)
{
    const Index columns = a->size.columns, blocks = a->size.blocks;
    if (columns < COLUMN_LEVEL || columns > COLUMNS_MAX || blocks < 1 || blocks > a->size.rows)
        return -1;
    for (Index i = 0; i < a->size.rows; i++)
        if (a->patch[i] < 0 || a->patch[i] >= a->size.patches) return -1;
    for (Index m = 0; m < a->size.channels; m++) {
        FitSummary *const summary = a->summary + m;
        const Channel c = channel_of(a, m);
        summary->slope = -c.line[COLUMN_X];
        subtract_line(&c);
        set_pivot(&c, summary);
        sum_rows(&c, summary);
        square_patches(&c, summary);
        set_rms(&c, summary);
        set_shift(&c, summary);
    }
    return 0;
}
