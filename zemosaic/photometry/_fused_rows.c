/* What a pair has in common: blocks.py. */

#include "_fused.h"

typedef struct {
    const float *blocks, *values, *variance;
    Index x0, y0, width, height;    /* cells of the grid */
    Index left, low, across, up, n; /* blocks, of SIDE cells, from the frame's corner */
} Tile;

typedef struct { /* blocks.Frame */
    Index x0, y0, x1, y1, side, left, top, width, height;
} Frame;

static int pair_of(const Arg *a, const Index *size, Tile tiles[2], Frame *frame)
{ /* From blocks, values and variance of both tiles, their corners and the frame. */
    memcpy(frame, a[7].i, sizeof *frame);
    for (int t = 0; t < 2; t++) {
        const Arg *const given = a + 3 * t;
        const Index *const corner = a[6].i + 4 * t, *const axes = size + 6 * t; /* a to e; g to k */
        const Tile tile = {
            given[0].f, given[1].f, given[2].f, corner[0], corner[1], axes[4], axes[3],
            corner[2], corner[3], axes[1], axes[0], axes[0] * axes[1],
        };
        if (frame->x0 < tile.x0 || frame->x1 > tile.x0 + tile.width || frame->y0 < tile.y0 ||
            frame->y1 > tile.y0 + tile.height)
            return -1;
        tiles[t] = tile;
    }
    return frame->width * frame->height == SIZE('n') ? 0 : -1;
}

static const float *of_tile(const float *plane, const Tile *p, Index channel, Index row, Index column)
{
    return plane + (channel * p->height + row - p->y0) * p->width + column - p->x0;
}

static int cell_of(const Tile tiles[2], const Frame *f, Index channel, Index row, Index column,
                   double z[4])
{ /* x, y, vx, vy of a cell of the grid; whether it is valid in both tiles. */
    if (row < f->y0 || row >= f->y1 || column < f->x0 || column >= f->x1) return 0;
    for (int t = 0; t < 2; t++) {
        const Tile *const p = &tiles[t];
        z[t] = (double)*of_tile(p->values, p, channel, row, column);
        z[2 + t] = (double)*of_tile(p->variance, p, channel, row, column);
    }
    return isfinite(z[0] + z[1]);
}

typedef struct { /* sums over the blocks of the frame: see blocks.Blocks */
    double *z, *place, *highest, *number;
} Sums;

static int looked_up(const Tile tiles[2], const Frame *f, Index c, Index unit, Index row,
                     Index column, Index b, const Sums *to)
{ /* Adds a block of SIDE cells cell by cell; 0 where the channels are not valid in the same. */
    const Index n = f->width * f->height, x = f->left * f->side, y = f->top * f->side;
    Index left = x + column * unit, right = left + unit, low = y + row * unit, high = low + unit;
    left = left > f->x0 ? left : f->x0, right = right < f->x1 ? right : f->x1;
    low = low > f->y0 ? low : f->y0, high = high < f->y1 ? high : f->y1;
    for (Index m = 0; m < c; m++) {
        double sum[4] = {0}, top[2] = {-HUGE_VAL, -HUGE_VAL}, known = 0, u = 0, v = 0;
        for (Index j = low; j < high && left < right; j++) {
            const float *one[2], *first[2], *spread[2];
            for (int t = 0; t < 2; t++) {
                one[t] = of_tile(tiles[t].values, &tiles[t], m, j, left);
                first[t] = of_tile(tiles[t].values, &tiles[t], 0, j, left);
                spread[t] = of_tile(tiles[t].variance, &tiles[t], m, j, left);
            }
            for (Index k = 0; k < right - left; k++) {
                const double p = (double)one[0][k], q = (double)one[1][k];
                const double same = (double)first[0][k] + (double)first[1][k];
                const int valid = isfinite(p + q) != 0;
                if (valid != (isfinite(same) != 0)) return 0;
                if (!valid) continue;
                sum[0] += p;
                sum[1] += q;
                sum[2] += (double)spread[0][k];
                sum[3] += (double)spread[1][k];
                top[0] = most(top[0], p);
                top[1] = most(top[1], q);
                known++;
                u += (double)(left + k - x);
                v += (double)(j - y);
            }
        }
        for (int q = 0; q < 4; q++) to->z[(q * c + m) * n + b] += sum[q];
        for (int t = 0; t < 2; t++) {
            double *const highest = to->highest + (t * c + m) * n + b;
            *highest = most(*highest, top[t]);
        }
        if (m) continue;
        to->number[b] += known;
        to->place[b] += u;
        to->place[n + b] += v;
    }
    return 1;
}

static int added(const Tile tiles[2], const Frame *f, Index c, Index unit, int whole,
                 double *least, const Sums *to)
{ /* Those blocks of SIDE cells that are whole in both tiles and, in `least`, how many cells there
     can be; or the others, cell by cell. 0 where the channels part. */
    const Index n = f->width * f->height, k = f->side / unit;
    const double full = (double)(unit * unit), middle = (double)(unit - 1) / 2;
    Index first[2] = {0, 0}, beyond[2] = {f->height * k, f->width * k}; /* the blocks of both */
    for (int t = 0; t < 2; t++) {
        const Index low[2] = {tiles[t].low, tiles[t].left};
        const Index own[2] = {tiles[t].up, tiles[t].across};
        for (int q = 0; q < 2; q++) {
            if (low[q] > first[q]) first[q] = low[q];
            if (low[q] + own[q] < beyond[q]) beyond[q] = low[q] + own[q];
        }
    }
    for (Index row = first[0]; row < beyond[0]; row++)
        for (Index column = first[1]; column < beyond[1]; column++) {
            const Index b = row / k * f->width + column / k;
            const float *at[2];
            double fewest = full;
            if (!whole && !(least[b] > to->number[b])) continue;
            for (int t = 0; t < 2; t++) {
                const Tile *const p = &tiles[t];
                at[t] = p->blocks + (row - p->low) * p->across + column - p->left;
                const double count = (double)at[t][3 * c * p->n];
                for (Index m = 1; m < c; m++)
                    if ((double)at[t][(3 * c + m) * p->n] != count) return 0;
                fewest = count < fewest ? count : fewest;
            }
            if (!whole && fewest > 0 && fewest < full &&
                !looked_up(tiles, f, c, unit, row, column, b, to))
                return 0;
            if (!whole) continue;
            least[b] += fewest;
            if (fewest < full) continue;
            to->number[b] += full;
            to->place[b] += full * ((double)(column * unit) + middle);
            to->place[n + b] += full * ((double)(row * unit) + middle);
            for (Index m = 0; m < 2 * c; m++) {
                const Index t = m >= c, area = tiles[t].n, here = m * n + b;
                const float *const block = at[t] + (m - t * c) * area;
                to->z[here] += full * (double)block[0];
                to->z[here + 2 * c * n] += full * (double)block[c * area];
                to->highest[here] = most(to->highest[here], (double)block[2 * c * area]);
            }
        }
    return 1;
}

static double total(const double *z, Index n)
{
    double sum = 0;
    for (Index i = 0; i < n; i++) sum += z[i];
    return sum;
}

int in_common(const Arg *a, const Index *size)
{ /* the pair; blocks, place, highest, number, least; cells (-1 where the channels part) and few;
     cells along a block, few, whole enough */
    const Index c = SIZE('c'), n = SIZE('n'), unit = (Index)a[14].n;
    const Sums to = {a[8].D, a[9].D, a[10].D, a[11].D};
    double *const least = a[12].D, *const told = a[13].D;
    Tile tiles[2];
    Frame f;
    if (pair_of(a, size, tiles, &f) < 0) return -1;
    told[0] = -1;
    for (Index b = 0; b < 4 * c * n; b++) to.z[b] = 0;
    for (Index b = 0; b < 2 * c * n; b++) to.highest[b] = -HUGE_VAL;
    for (Index b = 0; b < n; b++) to.number[b] = to.place[b] = to.place[n + b] = least[b] = 0;
    if (!added(tiles, &f, c, unit, 1, least, &to)) return 0;
    double bound = total(least, n);
    told[1] = bound <= a[15].n;
    if (told[1] != 0 || total(to.number, n) < a[16].n * bound) {
        if (!added(tiles, &f, c, unit, 0, least, &to)) return 0;
        bound = total(to.number, n);
    }
    for (Index b = 0; b < n; b++) {
        const double share = 1 / most(to.number[b], 1);
        for (Index q = b; q < 4 * c * n; q += n) to.z[q] *= share;
        to.place[b] *= share;
        to.place[n + b] *= share;
    }
    told[0] = bound;
    return 0;
}

int weighed(const Arg *a, const Index *size)
{ /* blocks, highest, number; tiny, typical, above; work; share, cells of a block */
    const Index c = SIZE('c'), n = SIZE('n');
    double *const z = a[0].D, *const tiny = a[3].D, *const typical = a[4].D, *const there = a[6].D;
    double some[SAMPLE + 1];
    Index count = 0, step = 1;
    for (Index i = 0; i < n; i++)
        if (a[2].d[i] != 0) there[count++] = (double)i;
    if (count) count = thinned(count, &step);
    for (Index q = 0; q < 4 * c; q++) {
        for (Index i = 0; i < count; i++) some[i] = fabs(z[q * n + (Index)there[i * step]]);
        const double found = count ? ranked(some, count, count / 2) : 1, part = 1e-6 * found;
        if (q < 2 * c) tiny[q] = 1e-12 + part * part;
        else typical[q - 2 * c] = 1 / sqrt(found + tiny[q - 2 * c]);
    }
    for (Index i = 0; i < n; i++) {
        const double share = a[7].n / most(a[2].d[i], 1);
        double *const above = a[5].D + i;
        *above = -HUGE_VAL;
        for (Index m = 0; m < c; m++) {
            double sum = 0;
            for (Index q = m; q < 2 * c; q += c) {
                double *const variance = z + (2 * c + q) * n + i;
                sum += (a[1].d[q * n + i] - z[q * n + i]) * typical[q];
                *variance = (*variance + tiny[q]) * (share < 1 ? share : 1);
            }
            *above = most(*above, sum);
        }
    }
    for (Index q = 0; q < 2 * c; q++) typical[q] = a[7].n / a[8].n / (typical[q] * typical[q]);
    return 0;
}

static Index floored(Index a, Index b) { return a / b - (a % b < 0); }

int gathered(const Arg *a, const Index *size)
{ /* the pair; fine, coarse, blocks, place, tiny; pixels, places, cells, at, patch, block, rows;
     cells along a patch */
    const Index c = SIZE('c'), n = SIZE('n'), p = SIZE('p'), r = SIZE('q'), coarse = SIZE('m');
    const Index patch = (Index)a[20].n;
    double *const pixels = a[13].D, *const at = a[16].D;
    Index *const places = a[14].I, rows = 0;
    Tile tiles[2];
    Frame f;
    if (pair_of(a, size, tiles, &f) < 0) return -1;
    const Index side = f.side, across = side + 2;
    if (p != n + SIZE('l') * across * across || r != coarse + SIZE('l') * side * side) return -1;
    for (Index q = 0; q < 4 * c; q++)
        memcpy(pixels + q * p, a[10].d + q * n, (size_t)n * sizeof(double));
    for (; rows < coarse; rows++) {
        const Index b = a[9].i[rows];
        if (b < 0 || b >= n) return -1;
        places[rows] = b;
        at[rows] = a[11].d[b] + (double)(f.left * side - f.x0);
        at[r + rows] = a[11].d[n + b] + (double)(f.top * side - f.y0);
    }
    for (Index k = 0, i = n; k < SIZE('l'); k++) {
        const Index b = a[8].i[k];
        if (b < 0 || b >= n) return -1;
        const Index low = (b / f.width + f.top) * side, left = (b % f.width + f.left) * side;
        for (Index v = low - 1; v <= low + side; v++)
            for (Index u = left - 1; u <= left + side; u++, i++) {
                int known = 0;
                for (Index m = 0; m < c; m++) {
                    double z[4] = {0};
                    const int here = cell_of(tiles, &f, m, v, u, z);
                    known = m ? known : here;
                    for (int q = 0; q < 4; q++)
                        pixels[(q * c + m) * p + i] = z[q] + (q < 2 ? 0 : a[12].d[(q - 2) * c + m]);
                    if (!here) pixels[m * p + i] = NAN;
                }
                if (!known || v < low || u < left || v == low + side || u == left + side) continue;
                places[rows] = i;
                at[rows] = (double)(u - f.x0);
                at[r + rows] = (double)(v - f.y0);
                a[18].I[rows++] = k;
            }
    }
    /* Patches lie on the grid's lattice, too. */
    const Index first = floored(f.x0, patch), low = floored(f.y0, patch) * patch;
    const Index width = floored(f.x1, patch) + 1 - first;
    for (Index i = 0; i < rows; i++) {
        const Index next = i < coarse ? f.width : across;
        const Index step[4] = {-1, 1, -next, next};
        for (int q = 0; q < 4; q++) places[(q + 1) * r + i] = places[i] + step[q];
        a[17].I[i] = (Index)((at[r + i] + (double)(f.y0 - low)) / (double)patch) * width +
                     (Index)((at[i] + (double)(f.x0 - first * patch)) / (double)patch);
        for (Index q = 0; q < 4 * c; q++) a[15].D[q * r + i] = pixels[q * p + places[i]];
    }
    a[19].I[0] = rows;
    return 0;
}
