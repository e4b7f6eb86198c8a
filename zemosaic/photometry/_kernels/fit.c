/* The line through the rows: rough.initial_slope, and from refine.py the rounds and what is told. */

#include "kernels.h"

static int starts(const Arg *a, Index c, Index n, double *z, double *slope, double *work)
{ /* Flattens the blocks; two slopes a channel, that of all light and that of the bright blocks; how
     many of them are to be tried. NaN as the result where a channel is flat. */
    const Index *const bright = a[6].i;
    int many = 1;
    for (Index i = 0; i < n; i++) many = bright[i] ? 2 : many;
    for (Index m = 0; m < c; m++) {
        const double *const light[2] = {z + m * n, z + (c + m) * n};
        double spread[2], middle[2];
        Index count = 0;
        int flat = 0;
        for (Index t = 0; t < 2; t++) {
            const double *const plane = a[7].d + t * c + m, *const given = a[t].d + m * n;
            double *const flattened = z + (t * c + m) * n;
            for (Index i = 0; i < n; i++)
                work[i] = flattened[i] = given[i] - (plane[0] + plane[2 * c] * a[4].d[i] +
                                                     plane[4 * c] * a[5].d[i]);
            const double noise = median(a[2 + t].d + m * n, n);
            middle[t] = median(work, n);
            spread[t] = ranked(work, n, (Index)(a[12].n * (double)(n - 1))) - middle[t];
            /* Constant: nothing but rounding. */
            if (spread[t] * fabs(spread[t]) < noise) flat = 1;
        }
        for (Index i = 0; i < n; i++) {
            const double p = light[0][i] - middle[0], q = light[1][i] - middle[1];
            if (bright[i] && p > 0 && q > 0) work[count++] = q / p;
        }
        a[8].D[m] = flat ? NAN : 0;
        slope[m] = flat ? 1 : spread[1] / spread[0];
        slope[c + m] = count ? ranked(work, count, count / 2) : slope[m];
    }
    return many;
}

static void judged(const Arg *a, Index c, Index n, Index jobs, const double *slope)
{ /* Of some lines those that leave less unexplained than any before. */
    const double *const level = slope + 2 * c, *const lost = level + 2 * c, far = a[16].n * a[16].n;
    double *const least = a[11].D + 6 * c, *const best = least + c;
    for (Index k = 0; k < jobs; k++) {
        const Index m = k % c;
        const double *const x = a[9].D + m * n, *const y = x + c * n;
        const double *const vx = a[2].d + m * n, *const vy = a[3].d + m * n;
        double left = 0;
        for (Index i = 0; i < n; i++) {
            const double rest = y[i] - slope[k] * x[i] - level[k];
            const double square = rest * rest / (vy[i] + slope[k] * slope[k] * vx[i]);
            left += square < far ? square : far;
        }
        if (lost[k] != 0 || !(left < least[m])) continue;
        least[m] = left;
        best[m] = slope[k];
    }
}

int initial_slope(const Arg *a, const Index *size)
{ /* x, y, vx, vy, u, v, bright, planes; slope; flattened, work, lines; quantile, Huber, rounds,
     nearly, far */
    const Index c = SIZE('c'), n = SIZE('r');
    double *const restrict inverse = a[10].D, *const restrict bent = inverse + n;
    double *const restrict w = bent + n, *const restrict wide = w + n;
    double *const restrict dx = wide + n, *const restrict dy = dx + n;
    double *const slope = a[11].D, *const level = slope + 2 * c, *const lost = level + 2 * c;
    double *const least = lost + 2 * c, *const best = least + c;
    if (n < 1) return -1;
    const Index jobs = c * starts(a, c, n, a[9].D, slope, bent);
    for (Index m = 0; m < c; m++) least[m] = HUGE_VAL, best[m] = NAN;
    for (Index k = 0; k < jobs; k++) {
        const double *const x = a[9].D + k % c * n, *const y = x + c * n;
        lost[k] = slope[k] <= 0;
        for (Index i = 0; i < n; i++) bent[i] = y[i] - slope[k] * x[i];
        level[k] = median(bent, n);
    }
    judged(a, c, n, jobs, slope);
    for (int round = 0, steady = 0; round < a[14].n && !steady; round++) {
        steady = 1;
        for (Index k = 0; k < jobs; k++) {
            const Index first = k % c * n;
            const double *const x = a[9].D + first, *const y = x + c * n;
            const double *const vx = a[2].d + first, *const vy = a[3].d + first;
            const double *const weights[3] = {w, w, w}, *const ones[3] = {dx, x, y};
            const double *const wides[3] = {wide, wide, wide}, *const from[3] = {dx, dy, dy};
            const double s = slope[k], at = level[k];
            double sum[9];
            for (Index i = 0; i < n; i++) {
                const double rest = y[i] - s * x[i] - at;
                inverse[i] = 1 / (vy[i] + s * s * vx[i]);
                bent[i] = rest * rest * inverse[i];
            }
            /* Huber's weights: 1, or the limit in units of the deviation. */
            const double limit = a[13].n * robust_scale(bent, n), share = 1 / (limit * limit);
            for (Index i = 0; i < n; i++) {
                const double far = bent[i] * share;
                w[i] = inverse[i] / sqrt(far > 1 ? far : 1);
                dx[i] = 1;
            }
            dots(weights, ones, n, sum);
            const double mean_x = sum[1] / sum[0], mean_y = sum[2] / sum[0];
            for (Index i = 0; i < n; i++) {
                dx[i] = x[i] - mean_x;
                dy[i] = y[i] - mean_y;
                wide[i] = (s * vx[i] * dy[i] + dx[i] * vy[i]) * w[i] * inverse[i];
            }
            dots(wides, from, n, sum);
            slope[k] = sum[1] / (sum[0] > 0 ? sum[0] : HUGE_VAL);
            if (!(slope[k] > 0)) lost[k] = 1;
            if (lost[k] != 0) slope[k] = 1;
            if (!(fabs(slope[k] - s) <= a[15].n * slope[k])) steady = 0;
            level[k] = mean_y - slope[k] * mean_x;
        }
    }
    judged(a, c, n, jobs, slope);
    for (Index m = 0; m < c; m++)
        if (!isnan(a[8].D[m])) a[8].D[m] = best[m];
    return 0;
}

int fit_irls(const Arg *a, const Index *size)
{ /* columns, vx, vy, block; slope, w, gram, line, scale, bread, noise; lost, residual, work;
     information; held, biweight, rounds, steady */
    const Index c = SIZE('c'), n = SIZE('r');
    const int k = (int)SIZE('k'), scenic = k > 4, held = a[15].n != 0;
    double *const restrict inverse = a[13].D, *const restrict kept = inverse + n;
    double *const restrict spread = kept + n, *const restrict work = spread + n;
    const Index *const block = a[3].i, f = SIZE('f'), b = n - f;
    if (k < 3 || k > COLUMNS || b < 1) return -1;
    for (Index i = 0; i < f; i++)
        if (block[i] < 0 || block[i] >= b) return -1;
    for (Index m = 0; m < c; m++) a[11].D[m] = a[4].D[m] <= 0;
    for (int round = 0, steady = 0; round < a[17].n && !steady; round++) {
        steady = 1;
        for (Index m = 0; m < c; m++) {
            double *const z = a[0].D + m * k * n, *const restrict w = a[5].D + m * n;
            double *const restrict rest = a[12].D + m * n, *const gram = a[6].D + m * k * k;
            double *const found = a[7].D + m * 2 * k, *const slope = a[4].D + m;
            double *const lost = a[11].D + m, sum[9];
            const double *const vx = a[1].d + m * n, *const vy = a[2].d + m * n, s = *slope;
            const double *const p[3] = {kept, w, w}, *const q[3] = {kept, work, spread};
            if (round == 0) {
                for (Index i = 0; i < n; i++) rest[i] = z[n + i] - s * z[i];
                const double level = k > 3 ? median(rest, n) : 0;
                for (Index i = 0; i < n; i++) rest[i] -= level;
            } else {
                for (Index i = 0; i < n; i++) rest[i] = found[0] * z[i] + found[1] * z[n + i];
                for (int j = 3; j < k; j++)
                    for (Index i = 0; i < n; i++) rest[i] += found[j] * z[j * n + i];
            }
            for (Index i = 0; i < n; i++) {
                inverse[i] = 1 / (vy[i] + s * s * vx[i]);
                kept[i] = rest[i] * rest[i] * inverse[i];
            }
            const double scale = a[8].D[m] = robust_scale(kept, n);
            const double share = 1 / (a[16].n * scale * (a[16].n * scale));
            for (Index i = 0; i < n; i++) {
                const double left = 1 - kept[i] * share;
                kept[i] = left > 0 ? left : 0;
            }
            /* Nor is a mean better than the worst of what it is made of. */
            for (Index i = 0; i < f; i++)
                kept[block[i]] = kept[b + i] < kept[block[i]] ? kept[b + i] : kept[block[i]];
            for (Index i = 0; i < n; i++) {
                w[i] = kept[i] * kept[i] * inverse[i];
                spread[i] = vx[i] * vy[i] * inverse[i];
                work[i] = 1;
                if (!scenic) z[2 * n + i] = z[i] + s * vx[i] * rest[i] * inverse[i];
            }
            dots(p, q, n, sum);
            const double down = 5 * sum[0] - 4 * sum[1];
            a[9].D[m] = most(1, sum[0] / (down == 0 ? HUGE_VAL : down));
            a[10].D[m] = scenic ? 0 : sum[5] * scale * scale;
            products(z, w, k, n, work, gram);
            for (int j = 4; scenic && j < 7; j++) gram[j * k + j] += a[14].d[j - 4];
            line(gram, k, k - 3, held, s, found);
            *slope = -found[0];
            if (!(*slope > 0)) *lost = 1;
            if (*lost != 0) *slope = 1;
            if (!(fabs(*slope - s) <= a[18].n * *slope)) steady = 0;
        }
    }
    for (Index m = 0; m < c; m++)
        if (a[11].D[m] != 0) a[4].D[m] = NAN;
    return 0;
}

static double unexplained(const double *gram, const double *rest, int k)
{
    double sum = 0;
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) sum += rest[i] * gram[i * k + j] * rest[j];
    return sum;
}

int summarize_fit(const Arg *a, const Index *size)
{ /* x, y, u, v, cluster; columns, w, gram, line, slope, noise; sums, shares, left; told;
     held, terms of a plain line, and with a plane, what the curvature must explain */
    const Index c = SIZE('c'), n = SIZE('r'), b = SIZE('b'), p = SIZE('p');
    const Index *const cluster = a[4].i;
    const double *const u = a[2].d, *const v = a[3].d;
    const int k = (int)SIZE('k'), held = a[15].n != 0;
    double *const sums = a[11].D, *const shares = a[12].D, *const left = a[13].D;
    if (SIZE('s') != 32 || k < 3 || k > COLUMNS || b < 1 || b > n) return -1;
    for (Index i = 0; i < n; i++)
        if (cluster[i] < 0 || cluster[i] >= p) return -1;
    for (Index m = 0; m < c; m++) {
        const double *const x = a[0].d + m * b, *const y = a[1].d + m * b;
        const double *const w = a[6].d + m * n;
        const double *const z = a[5].d + m * k * n, *const gram = a[7].d + m * k * k;
        const double *const full = a[8].d + m * 2 * k;
        double *const out = a[14].D + m * 32, *const squares = out + 6, *const pivot = out + 13;
        double lines[4 * COLUMNS], slope[2], seen[2] = {0}, sum[5] = {0}, moments[10] = {0};
        for (int t = 0; t < 2; t++) {
            const int terms = (int)(t ? a[17].n : a[16].n);
            line(gram, k, k - 3 < terms ? k - 3 : terms, held, a[9].d[m], lines + t * 2 * k);
        }
        /* The second order too where the overlap clearly shows it. */
        if (unexplained(gram, lines + 2 * k, k) - unexplained(gram, full, k) > a[18].n)
            memcpy(lines + 2 * k, full, 2 * (size_t)k * sizeof(double));
        for (int t = 0; t < 4; t++) {
            double *const restrict to = left + t * n;
            for (Index i = 0; i < n; i++) to[i] = 0;
            for (int j = 0; j < k; j++) {
                const double part = lines[t * k + j];
                for (Index i = 0; part != 0 && i < n; i++) to[i] += part * z[j * n + i];
            }
        }
        for (int t = 0; t < 2; t++) {
            out[t] = -lines[t * 2 * k];
            slope[t] = out[t] > 0 ? out[t] : 1;
        }
        /* What cells differ by from their blocks tells of the slope alone. */
        for (Index i = 0; i < b; i++) {
            sum[0] += w[i];
            sum[1] += w[i] * u[i];
            sum[2] += w[i] * v[i];
            sum[3] += w[i] * x[i];
            sum[4] += w[i] * y[i];
        }
        out[12] = sum[0];
        for (int t = 0; t < 4; t++) pivot[t] = sum[t + 1] / sum[0];
        for (Index i = 0; i < 5 * p; i++) sums[i] = shares[i] = 0;
        for (Index i = 0; i < n; i++) {
            double about[4] = {0};
            if (i < b) {
                const double at[4] = {u[i], v[i], x[i], y[i]};
                for (int t = 0; t < 4; t++) about[t] = at[t] - pivot[t];
            }
            const double regressors[5] = {left[n + i], left[3 * n + i], 1, about[0], about[1]};
            for (int q = 0; q < (i < b ? 5 : 2); q++) {
                const double one = w[i] * regressors[q];
                sums[q * p + cluster[i]] += one * left[q ? 2 * n + i : i];
                shares[q * p + cluster[i]] += one * regressors[q];
            }
            /* The same from either side: the scene terms' prior is felt by x and y unlike. */
            for (int t = 0; t < 2; t++)
                seen[t] += w[i] * regressors[t] * (z[i] + z[n + i] / slope[t]) / 2;
            for (int t = 0, q = 0; i < b && t < 4; t++)
                for (int r = t; r < 4; r++) moments[q++] += w[i] * about[t] * about[r];
        }
        squares[5] = 0;
        for (int q = 0; q < 5; q++) {
            double whole = 0;
            squares[q] = 0;
            for (Index i = q * p; i < (q + 1) * p; i++) whole += shares[i];
            if (q < 2) out[2 + q] = whole - a[10].d[m];
            for (Index i = q * p; i < (q + 1) * p; i++) {
                sums[i] /= most(1 - shares[i] / most(whole, 1e-300), 0.1);
                squares[q] += sums[i] * sums[i];
                if (q == 4) squares[5] += sums[i - p] * sums[i];
            }
        }
        for (int t = 0; t < 2; t++) out[4 + t] = seen[t] - a[10].d[m];
        memcpy(out + 17, moments, sizeof moments);
        for (Index i = 0; i < b; i++) left[i] = fabs(left[2 * n + i]);
        out[27] = median(left, b) / 0.6745;
        /* The shift of the scene, and its variances in units of the scale squared. */
        const int terms = k - 3;
        for (int t = 28; t < 32; t++) out[t] = NAN;
        if (terms <= (int)a[16].n) continue;
        double matrix[TERMS * TERMS], unit[2 * TERMS] = {0};
        for (int i = 0; i < terms * terms; i++)
            matrix[i] = gram[(3 + i / terms) * k + 3 + i % terms];
        unit[2] = unit[5] = 1;
        solve(matrix, unit, terms, 2);
        for (int t = 0; t < 2; t++) {
            out[28 + t] = full[4 + t];
            out[30 + t] = unit[(1 + t) * 2 + t];
        }
    }
    return 0;
}
