/* The gains of a pair in two bands of scales, and the levels of both tiles by area. */

#include "algebra.h"

#include <math.h>
#include <string.h>

/* Contrast within units, and between the units of an area. */
enum { SMALL, MIDDLE, BANDS };

/* Numbers of a band; see Band in lattice.py. */
enum { SLOPE, INFORMATION, NORM, SQUARE, AREA_SQUARE, SCALE, CONCENTRATION, COMMON, NUMBERS };

/* Means of an area. */
enum { MEAN_U, MEAN_V, MEAN_X, MEAN_Y, MEANS, WEIGHT = 11, LEVELS };
/* The covariances between MEANS and WEIGHT: of u and v, and of x and y with these. */
static const int SPREAD[WEIGHT - MEANS][2] = {
    {MEAN_U, MEAN_U}, {MEAN_U, MEAN_V}, {MEAN_V, MEAN_V}, {MEAN_X, MEAN_U},
    {MEAN_X, MEAN_V}, {MEAN_Y, MEAN_U}, {MEAN_Y, MEAN_V},
};

enum { AREAS_MAX = 16, FEWEST_FREE = 3 };

/* Squared spread, in cells, of the positions in a group for which a gradient is fitted. */
static const double LEAST_SPREAD = 1e-3;

/* The lattice of units over the frame of blocks, and of areas over the units. */
enum { UNIT_BLOCKS, FRAME_COLUMNS, SHIFT_U, SHIFT_V, UNITS_U, UNITS_V, AREAS_U, AREAS_V };

/* Rows of a band: differences from the means of their area, or from the plane of their unit. */
typedef struct {
    Index rows;
    int columns, terms; /* of the fit; `terms` are those of the scene and the surface */
    Index fitted; /* numbers that were subtracted, by group */
    double *weights, *column; /* (columns, rows) */
    const Index *patch, *area;
} Band;

static Index area_of(const Index *lattice, Index column, Index row)
{
    return row * lattice[AREAS_V] / lattice[UNITS_V] * lattice[AREAS_U] +
           column * lattice[AREAS_U] / lattice[UNITS_U];
}

/* Find the area of each row, the unit of each row of the small band, and the area and patch of each
unit; -1 if a block lies outside the lattice. */
static int locate_rows(const SummarizeBands *a)
{
    const Index blocks = a->size.blocks, rows = a->size.rows, units = a->size.middle_rows;
    const Index *const lattice = a->lattice, step = lattice[UNIT_BLOCKS];
    Index *const area = a->row_index, *const unit = area + rows;
    for (Index i = 0; i < rows; i++) area[i] = 0;
    if (step == 0) return 0;
    for (Index i = 0; i < blocks; i++) {
        const Index left = a->block_index[i] % lattice[FRAME_COLUMNS] + lattice[SHIFT_U];
        const Index top = a->block_index[i] / lattice[FRAME_COLUMNS] + lattice[SHIFT_V];
        const Index column = left / step, row = top / step;
        if (left < 0 || top < 0 || column >= lattice[UNITS_U] || row >= lattice[UNITS_V]) return -1;
        area[i] = area_of(lattice, column, row);
        if (step == 1) continue;
        unit[i] = row * lattice[UNITS_U] + column;
        if (unit[i] >= units) return -1;
        a->unit_index[unit[i]] = a->patch[i];
        a->unit_index[units + unit[i]] = area[i];
    }
    for (Index i = blocks, block = -1, count = 0; i < rows; i++) {
        count += a->cell_block[i - blocks] != block;
        block = a->cell_block[i - blocks];
        area[i] = area[block];
        unit[i] = count - 1;
    }
    return 0;
}

/* Take rows of the fit from the first one on. */
static void copy_rows(const SummarizeBands *a, Index channel, Index first, Band *b)
{
    const Index rows = a->size.rows;
    const double *const from = a->columns + channel * a->size.columns * rows + first;
    const size_t bytes = (size_t)b->rows * sizeof(double);
    for (Index k = 0; k < a->size.columns; k++)
        memcpy(b->column + k * b->rows, from + k * rows, bytes);
    memcpy(b->weights, a->weights + channel * rows + first, bytes);
    b->patch = a->patch + first;
    b->area = a->row_index + first;
}

/* Subtract the weighted mean of each group from columns, or, with the number of a column, the
projection on that column, unless it hardly varies. The means (columns, groups) and their weights
are stored. */
static void project_out(Band *b, int columns, int basis_column, const Index *group, Index groups,
                        double *basis, double *weight, double *total, double *mean)
{
    const int flat = basis_column < 0;
    for (Index i = 0; i < b->rows; i++)
        basis[i] = flat ? 1 : b->column[basis_column * b->rows + i];
    for (Index g = 0; g < groups; g++) total[g] = 0;
    for (Index i = 0; i < b->rows; i++) total[group[i]] += b->weights[i] * basis[i] * basis[i];
    for (Index g = 0; g < groups; g++) {
        if (flat) weight[g] = total[g];
        b->fitted += weight[g] > 0;
        if (!(total[g] > LEAST_SPREAD * weight[g])) total[g] = HUGE_VAL;
    }
    for (Index g = 0; g < columns * groups; g++) mean[g] = 0;
    /* All columns at once: each waits for the sum of the last row, which often is in its group. */
    for (Index i = 0; i < b->rows; i++) {
        const double share = b->weights[i] * basis[i], *const value = b->column + i;
        double *const sum = mean + group[i];
        for (int k = 0; k < columns; k++) sum[k * groups] += share * value[k * b->rows];
    }
    for (int k = 0; k < columns; k++) {
        double *const column = b->column + k * b->rows, *const factor = mean + k * groups;
        for (Index g = 0; g < groups; g++) factor[g] /= total[g];
        for (Index i = 0; i < b->rows; i++) column[i] -= factor[group[i]] * basis[i];
    }
}

/* Split the rows of a channel into bands. */
static void split_bands(const SummarizeBands *a, Index channel, Band band[BANDS])
{
    const int columns = (int)a->size.columns;
    const Index step = a->lattice[UNIT_BLOCKS], rows = a->size.rows, units = a->size.middle_rows;
    const Index small_rows = a->size.small_rows, groups = a->size.group_rows;
    const Index *const unit = a->row_index + rows + (step == 1 ? a->size.blocks : 0);
    double *const basis = a->product_work, *const weight = a->group_work;
    double *const total = weight + groups, *const mean = total + groups;
    Band small = {small_rows, COLUMN_U, COLUMN_U - COLUMN_LEVEL, 0, a->small_work,
                  a->small_work + small_rows, a->patch, a->row_index};
    Band middle = {units, columns, columns - COLUMN_LEVEL, 0, a->middle_work,
                   a->middle_work + units, a->unit_index, a->unit_index + units};
    if (small_rows > 0) copy_rows(a, channel, step == 1 ? a->size.blocks : 0, &small);
    if (step <= 1) copy_rows(a, channel, 0, &middle);
    if (step == 1)
        project_out(&small, COLUMN_UU, -1, unit, groups, basis, weight, total, mean);
    if (step > 1) {
        project_out(&small, columns, -1, unit, units, basis, weight, total, middle.column);
        memcpy(middle.weights, weight, (size_t)units * sizeof(double));
    }
    for (int k = COLUMN_U; step > 0 && k <= COLUMN_V; k++)
        project_out(&small, COLUMN_UU, k, unit, step == 1 ? groups : units, basis, weight, total,
                    mean);
    if (step > 0)
        project_out(&middle, columns, -1, middle.area, AREAS_MAX, basis, weight, total, mean);
    band[SMALL] = small;
    band[MIDDLE] = middle;
}

/* Compute what a line leaves of each row. */
static void subtract_line(const Band *b, const double *line, double *left)
{
    for (Index i = 0; i < b->rows; i++) left[i] = 0;
    for (int k = 0; k < b->columns; k++) {
        const double factor = line[k], *const column = b->column + k * b->rows;
        for (Index i = 0; factor != 0 && i < b->rows; i++) left[i] += factor * column[i];
    }
}

/* Return the robust scale of the residuals of rows that have weight; 0 if there are too few. */
static double residual_scale(const Band *b, const double *residual, double *squares)
{
    Index n = 0;
    for (Index i = 0; i < b->rows; i++)
        if (b->weights[i] > 0) squares[n++] = b->weights[i] * residual[i] * residual[i];
    const Index free = n - b->fitted - b->terms;
    return free < FEWEST_FREE ? 0 : robust_scale(squares, n) * sqrt((double)n / (double)free);
}

/* Return the sum of the squares of sums over groups, each enlarged by its leverage. */
static double square_sum(const double *sum, const double *share, Index groups, double norm)
{
    double square = 0;
    for (Index g = 0; g < groups; g++) {
        const double enlarged = sum[g] / larger(1 - share[g] / larger(norm, 1e-300), 0.1);
        square += enlarged * enlarged;
    }
    return square;
}

/* Fit the line of a band; set its numbers, and its shares by area and by patch. `noise` is that of
the instrument. */
static void fit_band(const SummarizeBands *a, const Band *b, double noise, double *numbers,
                     double *area_share, double *patch_share)
{
    const Index n = b->rows, columns = b->columns, patches = a->size.patches;
    double gram[COLUMNS_MAX * COLUMNS_MAX], line[2 * COLUMNS_MAX], area_sum[AREAS_MAX] = {0};
    double product_x = 0, product_y = 0, norm = 0;
    double *const residual = a->product_work, *const instrument = residual + n;
    double *const patch_sum = a->patch_work;
    const double *const x = b->column + COLUMN_X * n, *const y = b->column + COLUMN_Y * n;
    weighted_products(b->column, b->weights, b->columns, n, a->product_work, gram);
    for (Index j = COLUMN_GRADIENT_U; columns > COLUMN_GRADIENT_U && j <= COLUMN_LAPLACIAN; j++)
        gram[j * columns + j] += a->scene_information[j - COLUMN_GRADIENT_U];
    line_coefficients(gram, b->columns, b->terms, 0, 0, line);
    subtract_line(b, line, residual);
    subtract_line(b, line + columns, instrument);
    for (Index p = 0; p < patches; p++) patch_sum[p] = 0;
    for (Index i = 0; i < n; i++) {
        const double z = b->weights[i] * instrument[i], share = z * instrument[i];
        product_x += z * x[i];
        product_y += z * y[i];
        norm += share;
        patch_sum[b->patch[i]] += z * residual[i];
        patch_share[b->patch[i]] += share;
        area_sum[b->area[i]] += z * residual[i];
        area_share[b->area[i]] += share;
    }
    numbers[SLOPE] = product_y / (product_x == 0 ? HUGE_VAL : product_x);
    numbers[INFORMATION] = product_x - noise;
    numbers[NORM] = norm - noise;
    numbers[SQUARE] = square_sum(patch_sum, patch_share, patches, norm);
    numbers[AREA_SQUARE] = square_sum(area_sum, area_share, AREAS_MAX, norm);
    numbers[SCALE] = residual_scale(b, residual, residual + 2 * n);
}

/* Set how far the information of each band, and that of both, is concentrated in few patches. */
static void concentrate(const double *share, Index patches, double *numbers)
{
    double product[BANDS][BANDS] = {{0}}, norm[BANDS] = {0};
    for (int b = 0; b < BANDS; b++)
        for (Index p = 0; p < patches; p++) norm[b] += share[b * patches + p];
    for (int b = 0; b < BANDS; b++) norm[b] = larger(norm[b], 1e-300);
    for (int b = 0; b < BANDS; b++)
        for (int c = 0; c < BANDS; c++)
            for (Index p = 0; p < patches; p++)
                product[b][c] += share[b * patches + p] / norm[b] *
                                 (share[c * patches + p] / norm[c]);
    for (int b = 0; b < BANDS; b++) {
        numbers[b * NUMBERS + CONCENTRATION] = product[b][b];
        numbers[b * NUMBERS + COMMON] = product[SMALL][MIDDLE];
    }
}

/* Compute the weighted means of u, v, x and y over the blocks of each area, and the covariances of
u and v, and of x and y with these. */
static void average_areas(const SummarizeBands *a, Index channel, double *levels)
{
    const Index blocks = a->size.blocks;
    const double *const weights = a->weights + channel * a->size.rows;
    const double *const x = a->x + channel * blocks, *const y = a->y + channel * blocks;
    for (Index i = 0; i < blocks; i++) {
        const double u = a->u[i], v = a->v[i];
        const double values[LEVELS] = {
            u,     v,        x[i],     y[i],     u * u,    u * v,
            v * v, x[i] * u, x[i] * v, y[i] * u, y[i] * v, 1,
        };
        double *const mean = levels + a->row_index[i] * LEVELS;
        for (int k = 0; k < LEVELS; k++) mean[k] += weights[i] * values[k];
    }
    for (Index g = 0; g < AREAS_MAX; g++) {
        double *const mean = levels + g * LEVELS;
        for (int k = 0; k < WEIGHT; k++) mean[k] /= mean[WEIGHT] > 0 ? mean[WEIGHT] : 1;
        for (int k = MEANS; k < WEIGHT; k++)
            mean[k] -= mean[SPREAD[k - MEANS][0]] * mean[SPREAD[k - MEANS][1]];
    }
}

/* Return whether the bands have the numbers of rows that the lattice gives them. */
static int rows_fit(const SummarizeBands *a)
{
    const Index blocks = a->size.blocks, cells = a->size.cells, step = a->lattice[UNIT_BLOCKS];
    const Index small = a->size.small_rows, middle = a->size.middle_rows;
    const Index groups = step == 1 ? cells : step == 0 ? 0 : middle;
    if (a->size.work_rows < small || a->size.work_rows < middle) return 0;
    if (a->size.group_rows < AREAS_MAX || a->size.group_rows < groups) return 0;
    if (step == 0) return small == 0 && middle == a->size.rows;
    return step == 1 ? small == cells && middle == blocks : small == blocks;
}

/* Return whether the lattice and the indices are in range. */
static int indices_fit(const SummarizeBands *a)
{
    const Index *const lattice = a->lattice;
    for (Index i = 0; i < a->size.rows; i++)
        if (a->patch[i] < 0 || a->patch[i] >= a->size.patches) return 0;
    for (Index i = 0; i < a->size.cells; i++)
        if (a->cell_block[i] < 0 || a->cell_block[i] >= a->size.blocks) return 0;
    for (int k = FRAME_COLUMNS; k <= AREAS_V; k++)
        if (lattice[k] < 1 && k != SHIFT_U && k != SHIFT_V) return 0;
    return lattice[AREAS_U] * lattice[AREAS_V] <= AREAS_MAX;
}

static int is_valid(const SummarizeBands *a)
{
    const Index columns = a->size.columns, blocks = a->size.blocks, step = a->lattice[UNIT_BLOCKS];
    if (columns < COLUMN_LEVEL || columns > COLUMNS_MAX) return 0;
    if (blocks < 1 || a->size.band_rows != columns + 1) return 0;
    if (a->size.rows != blocks + a->size.cells) return 0;
    return step >= 0 && (step == 0 || columns == COLUMNS_MAX) && rows_fit(a) && indices_fit(a);
}

/* Summarize the bands and the areas of each channel. */
int summarize_bands(const SummarizeBands *a)
{
    const Index channels = a->size.channels, patches = a->size.patches;
    if (!is_valid(a)) return -1;
    for (Index i = 0; i < 2 * a->size.middle_rows; i++) a->unit_index[i] = 0;
    if (locate_rows(a) < 0) return -1;
    for (Index i = 0; i < channels * BANDS * NUMBERS; i++) a->bands[i] = 0;
    for (Index i = 0; i < channels * BANDS * AREAS_MAX; i++) a->shares[i] = 0;
    for (Index i = 0; i < channels * AREAS_MAX * LEVELS; i++) a->levels[i] = 0;
    for (Index m = 0; m < channels; m++) {
        double *const numbers = a->bands + m * BANDS * NUMBERS;
        double *const patch_share = a->patch_work + patches;
        Band band[BANDS];
        split_bands(a, m, band);
        for (Index p = 0; p < BANDS * patches; p++) patch_share[p] = 0;
        for (int b = 0; b < BANDS; b++)
            if (band[b].rows > 0)
                fit_band(a, band + b, a->instrument_noise[m], numbers + b * NUMBERS,
                         a->shares + (m * BANDS + b) * AREAS_MAX, patch_share + b * patches);
        if (a->lattice[UNIT_BLOCKS] == 0) numbers[MIDDLE * NUMBERS + SCALE] = a->scale[m];
        concentrate(patch_share, patches, numbers);
        average_areas(a, m, a->levels + m * AREAS_MAX * LEVELS);
    }
    return 0;
}
