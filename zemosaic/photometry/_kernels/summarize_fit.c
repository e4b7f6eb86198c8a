/* The summary of a pair's fit: slopes, sums over the rows and over patches. */

#include "algebra.h"

#include <math.h>
#include <string.h>

/* Products of the regressors with the residuals, summed over patches: both slopes (without and with
a plane), level, tilt along u and tilt along v. */
enum { SLOPE_PLAIN, SLOPE_WITH_PLANE, LEVEL, TILT_U, TILT_V, REGRESSORS };

/* Rows left of y and of the instrument, by the lines without and with a plane. */
enum { RESIDUAL_PLAIN, INSTRUMENT_PLAIN, RESIDUAL, INSTRUMENT, LEFT_ROWS };

/* Quantities about their weighted means. */
enum { POSITION_U, POSITION_V, VALUE_X, VALUE_Y, PIVOTS };

/* One channel: its rows and columns, the line with all terms, and the lines chosen. */
typedef struct {
    Index rows, blocks, patches;
    int columns;
    const Index *patch;
    const double *pivoted[PIVOTS]; /* u, v, x and y of blocks */
    const double *column, *weights, *gram, *full_line;
    double instrument_noise;
    double lines[LEFT_ROWS * COLUMNS_MAX];
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
        .full_line = a->line + m * 2 * k,
        .instrument_noise = a->instrument_noise[m],
        .left = a->residual_work,
        .patch_sum = a->patch_sum_work,
        .patch_share = a->patch_share_work,
    };
    return c;
}

/* Return the weighted sum of squares that a line leaves. */
static double unexplained(const double *gram, const double *line, int columns)
{
    double sum = 0;
    for (int i = 0; i < columns; i++)
        for (int j = 0; j < columns; j++) sum += line[i] * gram[i * columns + j] * line[j];
    return sum;
}

/* Compute the lines without and with a plane. */
static void choose_lines(const SummarizeFit *a, Channel *c, double slope)
{
    const int columns = c->columns, all_terms = columns - COLUMN_LEVEL;
    const int terms[2] = {(int)a->plain_terms, (int)a->plane_terms};
    double *const with_plane = c->lines + 2 * columns;
    for (int t = 0; t < 2; t++)
        line_coefficients(c->gram, columns, all_terms < terms[t] ? all_terms : terms[t],
                          a->fixed_slope != 0, slope, c->lines + t * 2 * columns);
    /* The second order too if the overlap clearly shows it. */
    if (unexplained(c->gram, with_plane, columns) - unexplained(c->gram, c->full_line, columns) >
        a->curvature_chi2)
        memcpy(with_plane, c->full_line, 2 * (size_t)columns * sizeof(double));
}

/* Compute what the lines leave of each row. */
static void subtract_lines(const Channel *c)
{
    for (int t = 0; t < LEFT_ROWS; t++) {
        double *const restrict left = c->left + t * c->rows;
        for (Index i = 0; i < c->rows; i++) left[i] = 0;
        for (int j = 0; j < c->columns; j++) {
            const double factor = c->lines[t * c->columns + j], *const z = c->column + j * c->rows;
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

/* Add products of row i to its patch; `about` is u, v, x and y about the pivot. */
static void add_to_patch(const Channel *c, Index i, const double about[PIVOTS])
{
    const Index n = c->rows, patches = c->patches;
    const double *const left = c->left;
    const double regressors[REGRESSORS] = {left[INSTRUMENT_PLAIN * n + i], left[INSTRUMENT * n + i],
                                           1, about[POSITION_U], about[POSITION_V]};
    for (int k = 0; k < (i < c->blocks ? REGRESSORS : LEVEL); k++) {
        const double weighted = c->weights[i] * regressors[k];
        const double residual = left[(k == SLOPE_PLAIN ? RESIDUAL_PLAIN : RESIDUAL) * n + i];
        c->patch_sum[k * patches + c->patch[i]] += weighted * residual;
        c->patch_share[k * patches + c->patch[i]] += weighted * regressors[k];
    }
}

/* Compute the sums over patches, the moments about the pivot, and the information. */
static void sum_rows(const Channel *c, FitSummary *summary)
{
    const Index n = c->rows;
    const double *const x = c->column + COLUMN_X * n, *const y = c->column + COLUMN_Y * n;
    double information[2] = {0}, moments[10] = {0}, slope[2];
    for (int t = 0; t < 2; t++) slope[t] = summary->slope[t] > 0 ? summary->slope[t] : 1;
    for (Index i = 0; i < REGRESSORS * c->patches; i++) c->patch_sum[i] = c->patch_share[i] = 0;
    for (Index i = 0; i < n; i++) {
        const double weight = c->weights[i];
        double about[PIVOTS] = {0};
        for (int t = 0; i < c->blocks && t < PIVOTS; t++)
            about[t] = c->pivoted[t][i] - summary->pivot[t];
        add_to_patch(c, i, about);
        /* The mean of x and y / slope: the prior on the scene affects them differently. */
        for (int t = 0; t < 2; t++)
            information[t] += weight * c->left[(INSTRUMENT_PLAIN + 2 * t) * n + i] *
                              (x[i] + y[i] / slope[t]) / 2;
        for (int t = 0, k = 0; i < c->blocks && t < PIVOTS; t++)
            for (int r = t; r < PIVOTS; r++) moments[k++] += weight * about[t] * about[r];
    }
    for (int t = 0; t < 2; t++) summary->information[t] = information[t] - c->instrument_noise;
    memcpy(summary->moments, moments, sizeof moments);
}

/* Compute the squares of the sums over patches, each sum enlarged by its leverage. */
static void square_patches(const Channel *c, FitSummary *summary)
{
    const Index patches = c->patches;
    summary->tilt_patch_product = 0;
    for (int k = 0; k < REGRESSORS; k++) {
        double *const sum = c->patch_sum + k * patches, *const share = c->patch_share + k * patches;
        double whole = 0;
        summary->patch_squares[k] = 0;
        for (Index i = 0; i < patches; i++) whole += share[i];
        if (k < 2) summary->instrument_norm[k] = whole - c->instrument_noise;
        for (Index i = 0; i < patches; i++) {
            sum[i] /= larger(1 - share[i] / larger(whole, 1e-300), 0.1);
            summary->patch_squares[k] += sum[i] * sum[i];
            if (k == TILT_V) summary->tilt_patch_product += sum[i - patches] * sum[i];
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
static void set_shift(const Channel *c, int plain_terms, FitSummary *summary)
{
    const int terms = c->columns - COLUMN_LEVEL;
    double matrix[TERMS_MAX * TERMS_MAX], unit[2 * TERMS_MAX] = {0};
    for (int t = 0; t < 2; t++) summary->shift[t] = summary->shift_variance[t] = NAN;
    if (terms <= plain_terms) return;
    for (int i = 0; i < terms * terms; i++)
        matrix[i] = c->gram[(COLUMN_LEVEL + i / terms) * c->columns + COLUMN_LEVEL + i % terms];
    for (int t = 0; t < 2; t++) unit[(COLUMN_GRADIENT_U + t - COLUMN_LEVEL) * 2 + t] = 1;
    solve_normal_equations(matrix, unit, terms, 2);
    for (int t = 0; t < 2; t++) {
        summary->shift[t] = c->full_line[COLUMN_GRADIENT_U + t];
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
        Channel c = channel_of(a, m);
        choose_lines(a, &c, a->slope[m]);
        for (int t = 0; t < 2; t++) summary->slope[t] = -c.lines[t * 2 * c.columns + COLUMN_X];
        subtract_lines(&c);
        set_pivot(&c, summary);
        sum_rows(&c, summary);
        square_patches(&c, summary);
        set_rms(&c, summary);
        set_shift(&c, (int)a->plain_terms, summary);
    }
    return 0;
}
