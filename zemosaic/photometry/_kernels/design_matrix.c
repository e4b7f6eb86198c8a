/* The columns of a pair's fit, with the scene that both tiles share. */

#include "algebra.h"

#include <math.h>

/* Return the mean of slope * x and y whose noise the residual does not share; set its variance. */
static double mean_scene(double x, double y, double x_variance, double y_variance, double slope,
                         double level, double *variance)
{
    const double scaled = slope * slope * x_variance, share = scaled / (scaled + y_variance);
    *variance = share * y_variance;
    return slope * x + share * (y - level - slope * x);
}

/* Shrink a detail: to 0 below three times its noise, and hardly if it is far above. */
static double cut(double detail, double variance)
{
    const double share = 1 - 9 * variance / larger(detail * detail, 1e-300);
    return (share > 0 ? share : 0) * detail;
}

/* Compute sums over 3 x 3 elements `step` apart; beyond the edges are zeros. */
static void sum_threes(const double *image, Index height, Index width, Index step, double *rows,
                       double *out)
{
    const Index area = height * width, above = step * width;
    for (Index i = 0; i < area; i++)
        rows[i] = image[i] + (i >= above ? image[i - above] : 0) +
                  (i + above < area ? image[i + above] : 0);
    for (Index j = 0; j < height; j++)
        for (Index i = 0; i < width; i++) {
            const double *const sum = rows + j * width + i;
            out[j * width + i] = *sum + (i >= step ? sum[-step] : 0) +
                                 (i + step < width ? sum[step] : 0);
        }
}

static double mean(const double *values, Index n)
{
    double sum = 0;
    for (Index i = 0; i < n; i++) sum += values[i];
    return sum / (double)n;
}

/* Images over the frame of blocks: sums over 1, 3 x 3 and 9 x 9, and their numbers of cells. */
typedef struct {
    Index height, width;
    double *one, *rows, *three, *nine, *three_count, *nine_count;
} Images;

static Images count_cells(const DesignMatrix *a)
{
    const Index height = a->size.block_rows, width = a->size.block_columns, area = height * width;
    double *const work = a->image_work;
    const Images images = {
        height, width, work, work + area, work + 2 * area, work + 3 * area, work + 4 * area,
        work + 5 * area,
    };
    for (Index i = 0; i < area; i++) images.one[i] = 0;
    for (Index i = 0; i < a->size.blocks; i++) images.one[a->block_index[i]] = a->cell_count[i];
    sum_threes(images.one, height, width, 1, images.rows, images.three_count);
    sum_threes(images.three_count, height, width, 3, images.rows, images.nine_count);
    return images;
}

/* One channel: what the kernel reads of it, its line and its columns. */
typedef struct {
    Index channel, rows;
    double slope;
    const double *x, *y, *x_variance, *y_variance;
    double *columns;
} Channel;

static Channel channel_of(const DesignMatrix *a, Index channel)
{
    const Index blocks = a->size.blocks, rows = a->size.rows;
    const double *const variance = a->variance + channel * rows;
    const Channel c = {
        channel, rows, a->slope[channel], a->x + channel * blocks, a->y + channel * blocks,
        variance, variance + a->size.channels * rows, a->columns + channel * COLUMNS_MAX * rows,
    };
    return c;
}

/* Compute the columns of x, y, instrument, level, u and v of blocks. The instrument is the scene
without details that may be noise. */
static void fill_blocks(const DesignMatrix *a, const Channel *c, const Images *images)
{
    const Index blocks = a->size.blocks, rows = c->rows, channels = a->size.channels;
    const double *const plane = a->planes + c->channel, s = c->slope;
    const double x_typical = a->typical_variance[c->channel];
    const double y_typical = a->typical_variance[channels + c->channel];
    double *const scene = a->scene_work, *const variance = scene + blocks, *const out = c->columns;
    double typical, unused;
    for (Index i = 0; i < blocks; i++) out[i] = c->y[i] - s * c->x[i];
    const double level = median(out, blocks);
    const double flat = mean_scene(plane[0], plane[channels], x_typical, y_typical, s, level,
                                   &typical);
    const double along_u = mean_scene(plane[2 * channels], plane[3 * channels], x_typical,
                                      y_typical, s, 0, &unused);
    const double along_v = mean_scene(plane[4 * channels], plane[5 * channels], x_typical,
                                      y_typical, s, 0, &unused);
    for (Index i = 0; i < blocks; i++) {
        scene[i] = mean_scene(c->x[i], c->y[i], c->x_variance[i], c->y_variance[i], s, level,
                              variance + i);
        images->one[a->block_index[i]] = scene[i] * a->cell_count[i];
    }
    sum_threes(images->one, images->height, images->width, 1, images->rows, images->three);
    sum_threes(images->three, images->height, images->width, 3, images->rows, images->nine);
    const double noise_1 = a->detail_noise_1, noise_3 = a->detail_noise_3;
    const double noise_9 = a->detail_noise_9;
    for (Index i = 0; i < blocks; i++) {
        const Index k = a->block_index[i];
        const double three = images->three[k] / images->three_count[k];
        const double nine = images->nine[k] / images->nine_count[k];
        const double sky = flat + along_u * a->u[i] + along_v * a->v[i];
        out[COLUMN_X * rows + i] = c->x[i];
        out[COLUMN_Y * rows + i] = c->y[i];
        out[COLUMN_INSTRUMENT * rows + i] =
            (cut(scene[i] - three, variance[i] * noise_1 * noise_1) +
             cut(three - nine, typical * noise_3 * noise_3) +
             cut(nine - sky, typical * noise_9 * noise_9) + sky) / s;
        out[COLUMN_LEVEL * rows + i] = 1;
        out[COLUMN_U * rows + i] = a->u[i];
        out[COLUMN_V * rows + i] = a->v[i];
    }
}

/* Count x, y, instrument, u and v from their means over the blocks; set u and v of cells. */
static void centre_columns(const DesignMatrix *a, const Channel *c)
{
    static const int centred[] = {COLUMN_X, COLUMN_Y, COLUMN_INSTRUMENT, COLUMN_U, COLUMN_V};
    const Index blocks = a->size.blocks, cells = a->size.cells;
    for (int k = 0; k < 5; k++) {
        double *const column = c->columns + centred[k] * c->rows, middle = mean(column, blocks);
        for (Index i = 0; i < blocks; i++) column[i] -= middle;
        if (centred[k] < COLUMN_U) continue;
        const double *const position = a->cell_position + (centred[k] - COLUMN_U) * cells;
        for (Index i = 0; i < cells; i++) column[blocks + i] = position[i] - middle;
    }
}

/* Compute the second-order surface; cells hold the difference from their block. */
static void fill_surface(const DesignMatrix *a, const Channel *c)
{
    const Index blocks = a->size.blocks, rows = c->rows;
    double *const out = c->columns;
    const double *const u = out + COLUMN_U * rows, *const v = out + COLUMN_V * rows;
    for (Index i = 0; i < rows; i++) {
        out[COLUMN_UU * rows + i] = u[i] * u[i];
        out[COLUMN_UV * rows + i] = u[i] * v[i];
        out[COLUMN_VV * rows + i] = v[i] * v[i];
    }
    for (int k = COLUMN_U; k < COLUMNS_MAX; k++) {
        double *const column = out + k * rows;
        for (Index i = 0; i < a->size.cells; i++) column[blocks + i] -= column[a->cell_block[i]];
    }
}

/* Compute the columns of x, y, instrument and level of cells: differences from their blocks. */
static void fill_cells(const DesignMatrix *a, const Channel *c)
{
    const Index blocks = a->size.blocks, cells = a->size.cells, rows = c->rows;
    const double *const x = a->cells + c->channel * cells, *const y = x + a->size.channels * cells;
    for (Index i = 0; i < cells; i++) {
        const Index block = a->cell_block[i], row = blocks + i;
        const double dx = x[i] - c->x[block], dy = y[i] - c->y[block];
        double variance, scene = mean_scene(dx, dy, c->x_variance[row], c->y_variance[row],
                                            c->slope, 0, &variance);
        c->columns[COLUMN_X * rows + row] = dx;
        c->columns[COLUMN_Y * rows + row] = dy;
        c->columns[COLUMN_INSTRUMENT * rows + row] = cut(scene, variance) / c->slope;
        c->columns[COLUMN_LEVEL * rows + row] = 0;
    }
}

/* Compute the column of a derivative of the scene: along u, along v, Laplacian. */
static void fill_derivative(const DesignMatrix *a, const Channel *c, int derivative)
{
    const Index blocks = a->size.blocks, cells = a->size.cells, channels = a->size.channels;
    const Index layer = 2 * derivative * channels + c->channel;
    const double *const x = a->derivatives + layer * blocks, *const y = x + channels * blocks;
    const double *const cell_x = a->cells + (layer + 2 * channels) * cells;
    const double *const cell_y = cell_x + channels * cells;
    const double *const noise = a->derivative_noise + (derivative == 2);
    double *const column = c->columns + (COLUMN_GRADIENT_U + derivative) * c->rows, variance;
    for (Index i = 0; i < blocks; i++) {
        const double scene = mean_scene(x[i], y[i], c->x_variance[i], c->y_variance[i], c->slope,
                                        0, &variance);
        column[i] = cut(scene, variance * noise[0]);
    }
    for (Index i = 0; i < cells; i++) {
        const Index block = a->cell_block[i], row = blocks + i;
        const double scene = mean_scene(cell_x[i] - x[block], cell_y[i] - y[block],
                                        c->x_variance[row], c->y_variance[row], c->slope, 0,
                                        &variance);
        column[row] = cut(scene, variance * noise[2]);
    }
}

static int indices_fit(const DesignMatrix *a)
{
    const Index blocks = a->size.blocks, area = a->size.block_rows * a->size.block_columns;
    for (Index i = 0; i < a->size.cells; i++)
        if (a->cell_block[i] < 0 || a->cell_block[i] >= blocks) return 0;
    for (Index i = 0; i < blocks; i++)
        if (a->block_index[i] < 0 || a->block_index[i] >= area) return 0;
    return 1;
}

/* Compute all columns of the fit. */
int design_matrix(const DesignMatrix *a)
{
    const Index blocks = a->size.blocks;
    if (blocks < 1 || a->size.rows != blocks + a->size.cells || !indices_fit(a)) return -1;
    const Images images = count_cells(a);
    for (Index channel = 0; channel < a->size.channels; channel++) {
        const Channel c = channel_of(a, channel);
        fill_blocks(a, &c, &images);
        centre_columns(a, &c);
        fill_surface(a, &c);
        fill_cells(a, &c);
        for (int derivative = 0; derivative < 3; derivative++) fill_derivative(a, &c, derivative);
    }
    return 0;
}
