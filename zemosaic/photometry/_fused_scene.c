/* The scene that both tiles share, and the columns of the fit: Rows.planes, Rows.scene and
refine.design. */

#include "_fused.h"

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

int design(const Arg *a, const Index *size)
{ /* x, y, u, v, slope; pixels, places, fine, count, typical, planes; columns; image, work;
     cells along a block, corner u and v, rows of blocks, noise of details, of 3 and of 9 */
    const Index c = SIZE('c'), n = SIZE('r'), p = SIZE('p'), h = SIZE('h'), w = SIZE('w');
    const Index blocks = h * w, side = (Index)a[14].n, around = (side + 2) * (side + 2);
    const Index *const places = a[6].i, *const fine = a[7].i, coarse = (Index)a[17].n;
    const double *const count = a[8].d;
    double *const image = a[12].D, *const variance = a[13].D, *const sum = variance + blocks;
    double *const rows = sum + blocks, *const three = rows + blocks, *const nine = three + blocks;
    double *const many = nine + blocks, *const more = many + blocks;
    if (SIZE('k') != COLUMNS || n < 1 || p != blocks + SIZE('l') * around) return -1;
    for (Index i = 0; i < 5 * n; i++)
        if (places[i] < 0 || places[i] >= p) return -1;
    for (Index i = 0; i < SIZE('l'); i++)
        if (fine[i] < 0 || fine[i] >= blocks) return -1;
    threes(count, h, w, 1, rows, many);
    threes(many, h, w, 3, rows, more);
    for (Index m = 0; m < c; m++) {
        const double *const x = a[5].d + m * p, *const y = x + c * p, *const vx = y + c * p;
        const double *const vy = vx + c * p, *const q = a[10].d + m, s = a[4].d[m];
        const double noise_x = a[9].d[m], noise_y = a[9].d[c + m];
        double *const out = a[11].D + m * COLUMNS * n, typical, unused;
        for (Index i = 0; i < n; i++) out[i] = a[1].d[m * n + i] - s * a[0].d[m * n + i];
        const double level = median(out, n);
        const double flat = mean_scene(q[0], q[c], noise_x, noise_y, s, level, &typical);
        const double up = mean_scene(q[2 * c], q[3 * c], noise_x, noise_y, s, 0, &unused);
        const double down = mean_scene(q[4 * c], q[5 * c], noise_x, noise_y, s, 0, &unused);
        for (Index i = 0; i < blocks; i++) {
            image[i] = mean_scene(x[i], y[i], vx[i], vy[i], s, level, variance + i);
            sum[i] = image[i] * count[i];
        }
        threes(sum, h, w, 1, rows, three);
        threes(three, h, w, 3, rows, nine);
        for (Index i = 0, row = 0, column = 0; i < blocks; i++, column++) {
            if (column == w) column = 0, row++;
            const double u = ((double)column + 0.5) * (double)side - 0.5 + a[15].n;
            const double v = ((double)row + 0.5) * (double)side - 0.5 + a[16].n;
            const double low = three[i] / most(many[i], 1), least = nine[i] / most(more[i], 1);
            const double under = flat + up * u + down * v;
            image[i] = cut(image[i] - low, variance[i] * a[18].n * a[18].n) +
                       cut(low - least, typical * a[19].n * a[19].n) +
                       cut(least - under, typical * a[20].n * a[20].n) + under;
        }
        for (Index b = 0, i = blocks; b < SIZE('l'); b++)
            for (const Index beyond = i + around; i < beyond; i++) {
                const double behind = image[fine[b]];
                double wide;
                const double near = mean_scene(x[i], y[i], vx[i], vy[i], s, level, &wide);
                image[i] = behind + cut(near - behind, wide);
            }
        for (Index i = 0; i < blocks; i++) image[i] = count[i] == 0 ? NAN : image[i];
        for (Index i = 0; i < n; i++) {
            const double step = i < coarse ? 1 / (double)side : 1, at = image[places[i]];
            const double left = image[places[n + i]], right = image[places[2 * n + i]];
            const double low = image[places[3 * n + i]], high = image[places[4 * n + i]];
            const double bend = (left + right + (low + high) - 4 * at) * step * step;
            const int known = !isnan(bend);
            out[2 * n + i] = at / s;
            out[3 * n + i] = 1;
            out[4 * n + i] = known ? (right - left) * step / 2 : 0;
            out[5 * n + i] = known ? (high - low) * step / 2 : 0;
            out[6 * n + i] = known ? bend : 0;
        }
        memcpy(out, a[0].d + m * n, (size_t)n * sizeof(double));
        memcpy(out + n, a[1].d + m * n, (size_t)n * sizeof(double));
        memcpy(out + 7 * n, a[2].d, (size_t)n * sizeof(double));
        memcpy(out + 8 * n, a[3].d, (size_t)n * sizeof(double));
        for (int k = 0; k < 9; k = k == 2 ? 7 : k + 1) {
            const double middle = mean(out + k * n, n);
            for (Index i = 0; i < n; i++) out[k * n + i] -= middle;
        }
        const double *const u = out + 7 * n, *const v = out + 8 * n;
        for (Index i = 0; i < n; i++) {
            out[9 * n + i] = u[i] * u[i];
            out[10 * n + i] = u[i] * v[i];
            out[11 * n + i] = v[i] * v[i];
        }
    }
    return 0;
}
