/* The scene that both tiles share, and the columns of the fit: Rows.planes, Rows.scene and
refine.design. */

#include "kernels.h"

int planes(const Arg *a, const Index *size)
{ /* x, y, u, v, bright; planes; work */
    const Index c = SIZE('c'), n = SIZE('r');
    double *const plane = a[5].D, *const dark = a[6].D, m[9] = {0};
    Index count = 0, step = 1;
    for (Index i = 0; i < n; i++)
        if (!a[4].i[i]) dark[count++] = (double)i;
    if (count >= 3) count = thinned(count, &step);
    else
        for (count = 0; count < n; count++) dark[count] = (double)count;
    for (Index i = 0; i < 6 * c; i++) plane[i] = 0;
    for (Index i = 0; i < count; i++) {
        const Index at = (Index)dark[i * step];
        const double basis[3] = {1, a[2].d[at], a[3].d[at]};
        for (int q = 0; q < 3; q++) {
            for (int r = 0; r < 3; r++) m[q * 3 + r] += basis[q] * basis[r];
            for (Index r = 0; r < 2 * c; r++)
                plane[q * 2 * c + r] += basis[q] * a[r / c].d[r % c * n + at];
        }
    }
    solve(m, plane, 3, (int)(2 * c));
    return 0;
}

static double mean_scene(double x, double y, double vx, double vy, double slope, double level,
                         double *variance)
{
    const double wide = slope * slope * vx, share = wide / (wide + vy);
    *variance = share * vy;
    return slope * x + share * (y - level - slope * x);
}

static double cut(double detail, double variance)
{
    const double share = 1 - 9 * variance / most(detail * detail, 1e-300);
    return (share > 0 ? share : 0) * detail;
}

static void threes(const double *z, Index h, Index w, Index step, double *rows, double *out)
{
    for (Index i = 0; i < h * w; i++)
        rows[i] = z[i] + (i >= step * w ? z[i - step * w] : 0) +
                  (i + step * w < h * w ? z[i + step * w] : 0);
    for (Index j = 0; j < h; j++)
        for (Index i = 0; i < w; i++)
            out[j * w + i] = rows[j * w + i] + (i >= step ? rows[j * w + i - step] : 0) +
                             (i + step < w ? rows[j * w + i + step] : 0);
}

static double mean(const double *z, Index n)
{
    double sum = 0;
    for (Index i = 0; i < n; i++) sum += z[i];
    return sum / (double)n;
}

int design_matrix(const Arg *a, const Index *size)
{ /* x, y, derivatives, variance, u, v, slope; count, at; cells, their place and block; typical,
     planes; columns; image and its variance, work; noise of details, of 3 and of 9, of derivatives */
    const Index c = SIZE('c'), b = SIZE('b'), f = SIZE('f'), n = SIZE('r');
    const Index h = SIZE('h'), w = SIZE('w'), area = h * w;
    const Index *const at = a[8].i, *const block = a[11].i;
    const double *const count = a[7].d, *const u = a[4].d, *const v = a[5].d, *const in = a[10].d;
    double *const image = a[15].D, *const variance = image + b, *const sum = a[16].D;
    double *const rows = sum + area, *const three = rows + area, *const nine = three + area;
    double *const many = nine + area, *const more = many + area;
    if (SIZE('k') != COLUMNS || b < 1 || n != b + f) return -1;
    for (Index i = 0; i < f; i++)
        if (block[i] < 0 || block[i] >= b) return -1;
    for (Index i = 0; i < b; i++)
        if (at[i] < 0 || at[i] >= area) return -1;
    for (Index i = 0; i < area; i++) sum[i] = 0;
    for (Index i = 0; i < b; i++) sum[at[i]] = count[i];
    threes(sum, h, w, 1, rows, many);
    threes(many, h, w, 3, rows, more);
    for (Index m = 0; m < c; m++) {
        const double *const x = a[0].d + m * b, *const y = a[1].d + m * b, s = a[6].d[m];
        const double *const vx = a[3].d + m * n, *const vy = vx + c * n, *const q = a[13].d + m;
        const double noise_x = a[12].d[m], noise_y = a[12].d[c + m];
        double *const out = a[14].D + m * COLUMNS * n, typical, wide;
        for (Index i = 0; i < b; i++) out[i] = y[i] - s * x[i];
        const double level = median(out, b);
        const double flat = mean_scene(q[0], q[c], noise_x, noise_y, s, level, &typical);
        const double up = mean_scene(q[2 * c], q[3 * c], noise_x, noise_y, s, 0, &wide);
        const double down = mean_scene(q[4 * c], q[5 * c], noise_x, noise_y, s, 0, &wide);
        for (Index i = 0; i < b; i++) {
            image[i] = mean_scene(x[i], y[i], vx[i], vy[i], s, level, variance + i);
            sum[at[i]] = image[i] * count[i];
        }
        threes(sum, h, w, 1, rows, three);
        threes(three, h, w, 3, rows, nine);
        for (Index i = 0; i < b; i++) {
            const double low = three[at[i]] / many[at[i]], least = nine[at[i]] / more[at[i]];
            const double under = flat + up * u[i] + down * v[i];
            out[i] = x[i];
            out[n + i] = y[i];
            out[2 * n + i] = (cut(image[i] - low, variance[i] * a[17].n * a[17].n) +
                              cut(low - least, typical * a[18].n * a[18].n) +
                              cut(least - under, typical * a[19].n * a[19].n) + under) / s;
            out[3 * n + i] = 1;
            out[7 * n + i] = u[i];
            out[8 * n + i] = v[i];
        }
        for (int k = 0; k < 9; k = k == 2 ? 7 : k + 1) {
            double *const column = out + k * n, middle = mean(column, b);
            for (Index i = 0; i < b; i++) column[i] -= middle;
            for (Index i = b; k > 2 && i < n; i++) column[i] = in[(k - 7) * f + i - b] - middle;
        }
        for (Index i = 0; i < n; i++) {
            out[9 * n + i] = out[7 * n + i] * out[7 * n + i];
            out[10 * n + i] = out[7 * n + i] * out[8 * n + i];
            out[11 * n + i] = out[8 * n + i] * out[8 * n + i];
        }
        /* Of cells what they differ by from their blocks. */
        for (int k = 7; k < COLUMNS; k++)
            for (Index i = 0; i < f; i++) out[k * n + b + i] -= out[k * n + block[i]];
        for (Index k = 0; k < 4; k++) {
            const double *const by_x = a[9].d + (2 * k * c + m) * f, *const by_y = by_x + c * f;
            const double *of_x = x, *of_y = y;
            const double *const noise = a[20].d + (k == 3);
            if (k) of_x = a[2].d + (2 * (k - 1) * c + m) * b, of_y = of_x + c * b;
            for (Index i = 0; k && i < b; i++) {
                const double mixed = mean_scene(of_x[i], of_y[i], vx[i], vy[i], s, 0, &wide);
                out[(3 + k) * n + i] = cut(mixed, wide * noise[0]);
            }
            for (Index i = 0; i < f; i++) {
                const double dx = by_x[i] - of_x[block[i]], dy = by_y[i] - of_y[block[i]];
                const double near = mean_scene(dx, dy, vx[b + i], vy[b + i], s, 0, &wide);
                if (k) {
                    out[(3 + k) * n + b + i] = cut(near, wide * noise[2]);
                    continue;
                }
                out[b + i] = dx;
                out[n + b + i] = dy;
                out[2 * n + b + i] = cut(near, wide) / s;
                out[3 * n + b + i] = 0;
            }
        }
    }
    return 0;
}
