/* Algebra that the kernels of a pair's fit share. */

#include "algebra.h"

#include <math.h>

/* Move the elements below the pivot to the front; return how many there are. */
static Index partition_below(double *values, Index low, Index high, double pivot)
{
    Index end = low;
    for (Index i = low; i < high; i++) {
        const double value = values[i];
        values[i] = values[end];
        values[end] = value;
        end += value < pivot;
    }
    return end;
}

/* Likewise the elements not above the pivot. */
static Index partition_not_above(double *values, Index low, Index high, double pivot)
{
    Index end = low;
    for (Index i = low; i < high; i++) {
        const double value = values[i];
        values[i] = values[end];
        values[end] = value;
        end += !(value > pivot);
    }
    return end;
}

/* Quickselect. The loops hold no branches, which the processor would mispredict half the time. */
double select_rank(double *values, Index n, Index rank)
{
    Index low = 0, high = n;
    while (high - low > 1) {
        const double a = values[low], b = values[(low + high) / 2], c = values[high - 1];
        const double pivot = a < b ? (b < c ? b : larger(a, c)) : (a < c ? a : larger(b, c));
        Index end = partition_below(values, low, high, pivot);
        if (end > low) {
            if (rank < end) high = end;
            else low = end;
            continue;
        }
        /* None is below the pivot: elements equal to it come first. */
        end = partition_not_above(values, low, high, pivot);
        if (rank < end) return pivot;
        low = end;
    }
    return values[rank];
}

Index thinned_count(Index n, Index *step)
{
    *step = n > SAMPLE ? (n + SAMPLE - 1) / SAMPLE : 1;
    return ((n + *step - 1) / *step - 1) | 1;
}

double median(const double *values, Index n)
{
    double sample[SAMPLE + 1];
    Index step, count = thinned_count(n, &step);
    for (Index k = 0; k < count; k++) sample[k] = values[k * step];
    return select_rank(sample, count, count / 2);
}

double robust_scale(const double *squares, Index n)
{
    const double scale = sqrt(median(squares, n)) / 0.6745;
    return scale > 0 ? scale : 1.0;
}

/* Each sum has two lanes, which fill the vector unit. */
void dots(const double *const left[3], const double *const right[3], Index n, double out[9])
{
    const double *const a = left[0], *const b = left[1], *const c = left[2];
    const double *const d = right[0], *const e = right[1], *const f = right[2];
    double sum[9][2] = {{0}};
    Index i = 0;
    for (; i + 2 <= n; i += 2)
        for (int lane = 0; lane < 2; lane++) {
            sum[0][lane] += a[i + lane] * d[i + lane];
            sum[1][lane] += a[i + lane] * e[i + lane];
            sum[2][lane] += a[i + lane] * f[i + lane];
            sum[3][lane] += b[i + lane] * d[i + lane];
            sum[4][lane] += b[i + lane] * e[i + lane];
            sum[5][lane] += b[i + lane] * f[i + lane];
            sum[6][lane] += c[i + lane] * d[i + lane];
            sum[7][lane] += c[i + lane] * e[i + lane];
            sum[8][lane] += c[i + lane] * f[i + lane];
        }
    for (int k = 0; k < 9; k++) {
        out[k] = sum[k][0] + sum[k][1];
        if (i < n) out[k] += left[k / 3][i] * right[k % 3][i];
    }
}

void weighted_products(const double *rows, const double *weights, int count, Index n, double *work,
                       double *gram)
{
    const double *const left[3] = {work, work + n, work + 2 * n};
    for (int i = 0; i < count; i += 3) {
        for (int l = 0; l < 3; l++)
            for (Index m = 0; m < n; m++)
                work[l * n + m] = weights[m] * rows[(i + l < count ? i + l : i) * n + m];
        for (int j = i; j < count; j += 3) {
            const double *right[3];
            double sum[9];
            for (int l = 0; l < 3; l++) right[l] = rows + (j + l < count ? j + l : j) * n;
            dots(left, right, n, sum);
            for (int l = 0; l < 9; l++) {
                const int row = i + l / 3, column = j + l % 3;
                if (row < count && column < count)
                    gram[row * count + column] = gram[column * count + row] = sum[l];
            }
        }
    }
}

void solve_normal_equations(double *matrix, double *right, int n, int k)
{
    double scale[COLUMNS_MAX];
    for (int i = 0; i < n; i++) scale[i] = 1 / sqrt(matrix[i * n + i] + 1e-300);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) matrix[i * n + j] *= scale[i] * scale[j];
        for (int j = 0; j < k; j++) right[i * k + j] *= scale[i];
        matrix[i * n + i] += 1e-12;
    }
    /* The matrix is positive definite, so elimination needs no pivoting. */
    for (int p = 0; p < n; p++)
        for (int i = p + 1; i < n; i++) {
            const double factor = matrix[i * n + p] / matrix[p * n + p];
            for (int j = p + 1; j < n; j++) matrix[i * n + j] -= factor * matrix[p * n + j];
            for (int j = 0; j < k; j++) right[i * k + j] -= factor * right[p * k + j];
        }
    for (int i = n - 1; i >= 0; i--)
        for (int j = 0; j < k; j++) {
            double *const value = right + i * k + j;
            for (int p = i + 1; p < n; p++) *value -= matrix[i * n + p] * right[p * k + j];
            *value /= matrix[i * n + i];
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) right[i * k + j] *= scale[i];
}

void line_coefficients(const double *gram, int columns, int terms, int fixed, double slope,
                       double *line)
{
    double matrix[TERMS_MAX * TERMS_MAX], explained[TERMS_MAX * 3];
    for (int i = 0; i < terms; i++) {
        const double *const row = gram + (COLUMN_LEVEL + i) * columns;
        for (int j = 0; j < terms; j++) matrix[i * terms + j] = row[COLUMN_LEVEL + j];
        for (int j = 0; j < 3; j++) explained[i * 3 + j] = row[j];
    }
    solve_normal_equations(matrix, explained, terms, 3);
    if (!fixed) {
        const double *const instrument = gram + COLUMN_INSTRUMENT * columns;
        double product[2] = {instrument[COLUMN_X], instrument[COLUMN_Y]};
        for (int i = 0; i < terms; i++)
            for (int j = 0; j < 2; j++)
                product[j] -= instrument[COLUMN_LEVEL + i] * explained[i * 3 + j];
        slope = product[1] / (product[0] == 0 ? HUGE_VAL : product[0]);
    }
    double *const of_instrument = line + columns;
    for (int i = 0; i < 2 * columns; i++) line[i] = 0;
    line[COLUMN_X] = -slope;
    line[COLUMN_Y] = of_instrument[COLUMN_INSTRUMENT] = 1;
    for (int i = 0; i < terms; i++) {
        line[COLUMN_LEVEL + i] = slope * explained[i * 3] - explained[i * 3 + 1];
        of_instrument[COLUMN_LEVEL + i] = -explained[i * 3 + 2];
    }
}
