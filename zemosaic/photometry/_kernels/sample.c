/* Samples of a tile's blocks at the cells of the grid: sampling.py. */

#include "kernels.h"

enum { STEP = 16 }; /* sampling.NODE_STEP */

static void line_between(const double *nodes, Index across, double down, Index n, double *x)
{ /* sampling.between, of one row: nodes of the row above and, `across` later, of that below. */
    for (Index k = 0; k * STEP < n; k++) {
        const double *const z = nodes + k, *const below = z + across;
        const double first = z[0] + down * (below[0] - z[0]) - 1; /* smoothing took one block */
        const double step = z[1] + down * (below[1] - z[1]) - 1 - first;
        const Index here = k * STEP, many = n - here < STEP ? n - here : STEP;
        for (Index i = 0; i < many; i++) x[here + i] = first + (double)i / STEP * step;
    }
}

static void spline(const double *restrict x, Index n, Index blocks, double *restrict first,
                   float *restrict side, float *restrict middle, float *restrict other,
                   float *restrict noise)
{ /* sampling._spline: weights, and the first of three blocks; -1 where these are not all there. */
    const double last = (double)(blocks - 2), whole = 6755399441055744.0;
    for (Index i = 0; i < n; i++) {
        double at = x[i] + whole - whole; /* to the nearest */
        at = at < last ? at : last;
        at = at > 1 ? at : 1;
        const double off = x[i] - at;
        const float t = (float)off, square = t * t, lean = 0.125f * t;
        const float half = 0.125f * square + 1.0f / 32;
        first[i] = fabs(off) <= 0.5 + 0x1p-25 ? at - 1 : -1; /* 0.5 as a float */
        side[i] = half - lean;
        middle[i] = 3.0f / 16 - 0.25f * square;
        other[i] = half + lean;
        noise[i] = (square * (3.0f / 32) - 3.0f / 64) * square + 163.0f / 512;
    }
}

int sample_spline(const Arg *a, const Index *size)
{ /* planes, nodes; values, factor; weights and noise; x, and the first blocks across and along */
    const Index p = SIZE('p'), h = SIZE('h'), w = SIZE('w'), height = SIZE('a'), n = SIZE('b');
    const Index across = SIZE('n'), next = SIZE('m') * across;
    float *const u = a[4].F, *const v = u + 4 * n;
    double *const x = a[5].D, *const column = x + n, *const row = column + n;
    if (h < 3 || w < 3 || (across - 1) * STEP < n || (SIZE('m') - 1) * STEP < height) return -1;
    for (Index j = 0; j < height; j++) {
        const double *const nodes = a[1].d + j / STEP * across, down = (double)(j % STEP) / STEP;
        float *const factor = a[3].F + j * n;
        line_between(nodes, across, down, n, x);
        spline(x, n, w, column, u, u + n, u + 2 * n, u + 3 * n);
        line_between(nodes + next, across, down, n, x);
        spline(x, n, h, row, v, v + n, v + 2 * n, v + 3 * n);
        for (Index i = 0; i < n; i++) factor[i] = u[3 * n + i] * v[3 * n + i];
        for (Index i = 0; i < n; i++) {
            const int out = column[i] < 0 || row[i] < 0;
            const Index at = out ? 0 : (Index)row[i] * w + (Index)column[i];
            const float s = u[i], t = u[n + i], r = u[2 * n + i];
            if (out) factor[i] = NAN;
            for (Index k = 0; k < p; k++) {
                const float *const low = a[0].f + k * h * w + at, *const mid = low + w;
                const float *const high = mid + w;
                const float sum = v[i] * (s * low[0] + t * low[1] + r * low[2]) +
                                  v[n + i] * (s * mid[0] + t * mid[1] + r * mid[2]) +
                                  v[2 * n + i] * (s * high[0] + t * high[1] + r * high[2]);
                a[2].F[(k * height + j) * n + i] = out ? NAN : sum;
            }
        }
    }
    return 0;
}
