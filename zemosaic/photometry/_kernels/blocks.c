/* What a pair has in common: blocks.py. */

#include "kernels.h"

enum { KINDS = 5, CHUNK = 128 }; /* blocks.KINDS; blocks taken at once */

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
    return 0;
}

static const float *of_tile(const float *plane, const Tile *p, Index channel, Index row, Index column)
{
    return plane + (channel * p->height + row - p->y0) * p->width + column - p->x0;
}

static int cell_of(const Tile *p, Index channel, Index row, Index column, double error,
                   double z[KINDS])
{ /* What blocks._cells says of a cell of the grid; whether it is valid. */
    const float *const at = of_tile(p->values, p, channel, row, column);
    const int there[4] = {column > p->x0, column + 1 < p->x0 + p->width, row > p->y0,
                          row + 1 < p->y0 + p->height};
    const Index step[4] = {-1, 1, -p->width, p->width};
    double border = 0;
    z[0] = (double)*at;
    z[4] = 0;
    if (!isfinite(z[0])) return 0;
    z[1] = (double)*of_tile(p->variance, p, channel, row, column);
    if (there[0] && there[1] && there[2] && there[3] &&
        isfinite(at[-1] + at[1] + at[-p->width] + at[p->width])) { /* nearly all */
        const double left = (double)at[-1] - z[0], right = (double)at[1] - z[0];
        const double low = (double)at[-p->width] - z[0], high = (double)at[p->width] - z[0];
        z[1] += error * error * (left * left + right * right + low * low + high * high);
        z[2] = (right - left) / 2;
        z[3] = (high - low) / 2;
        z[4] = left + right + (low + high);
        return 1;
    }
    for (int axis = 0; axis < 2; axis++) {
        double to[2];
        for (int k = 0; k < 2; k++) {
            to[k] = there[2 * axis + k] ? (double)at[step[2 * axis + k]] - z[0] : NAN;
            if (isfinite(to[k])) border += to[k] * to[k];
        }
        const int both = isfinite(to[0] + to[1]);
        z[2 + axis] = both ? (to[1] - to[0]) / 2 : 0;
        z[4] += both ? to[0] + to[1] : 0;
    }
    z[1] += error * error * border;
    return 1;
}

typedef struct { /* sums over the blocks of the frame: see blocks.Blocks */
    double *z, *place, *highest, *number;
} Sums;

static int looked_up(const Tile tiles[2], const Frame *f, Index c, double error, const Index box[4],
                     const Sums *to)
{ /* Adds cells of a box (first and last row and column), which lies in one block if these are not
     cells; 0 where the channels are not valid in the same. */
    const Index n = f->width * f->height, x = f->left * f->side, y = f->top * f->side;
    for (Index row = box[0]; row < box[1]; row++) {
        Index b = (row - y) / f->side * f->width + (box[2] - x) / f->side;
        for (Index column = box[2]; column < box[3]; column++, b += f->side == 1) {
            int known = 0;
            for (Index m = 0; m < c; m++) {
                double z[2][KINDS];
                int valid = 1;
                for (int t = 0; t < 2 && valid; t++)
                    valid = cell_of(&tiles[t], m, row, column, error, z[t]);
                if (m && valid != known) return 0;
                known = valid;
                for (int q = 0; known && q < 2 * KINDS; q++)
                    to->z[(q * c + m) * n + b] += z[q % 2][q / 2];
                for (int t = 0; known && t < 2; t++) {
                    double *const highest = to->highest + (t * c + m) * n + b;
                    *highest = most(*highest, z[t][0]);
                }
            }
            if (!known) continue;
            to->number[b] += 1;
            to->place[b] += (double)(column - x);
            to->place[n + b] += (double)(row - y);
        }
    }
    return 1;
}

static int cut_looked_up(const Tile tiles[2], const Frame *f, Index c, Index unit, double error,
                         Index row, Index column, const Sums *to)
{ /* A block of `unit` cells, as far as it lies in the overlap. */
    const Index low = f->top * f->side + row * unit, left = f->left * f->side + column * unit;
    const Index box[4] = {
        low > f->y0 ? low : f->y0, low + unit < f->y1 ? low + unit : f->y1,
        left > f->x0 ? left : f->x0, left + unit < f->x1 ? left + unit : f->x1,
    };
    return looked_up(tiles, f, c, error, box, to);
}

static int added(const Tile tiles[2], const Frame *f, Index c, Index unit, double error, int whole,
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
        for (Index begin = first[1]; begin < beyond[1]; begin += CHUNK) {
            const Index end = begin + CHUNK < beyond[1] ? begin + CHUNK : beyond[1];
            Index count = 0, block[CHUNK], place[2][CHUNK]; /* those that are whole */
            Index next = row / k * f->width + begin / k, within = begin % k;
            for (Index column = begin; column < end; column++) {
                const Index b = next;
                double fewest = full;
                if (++within == k) within = 0, next++;
                if (!whole && !(least[b] > to->number[b])) continue;
                for (int t = 0; t < 2; t++) {
                    const Tile *const p = &tiles[t];
                    const Index at = (row - p->low) * p->across + column - p->left;
                    const float *const number = p->blocks + 6 * c * p->n + at;
                    for (Index m = 1; m < c; m++)
                        if (number[m * p->n] != *number) return 0;
                    fewest = (double)*number < fewest ? (double)*number : fewest;
                    place[t][count] = at;
                }
                if (!whole && fewest > 0 && fewest < full &&
                    !cut_looked_up(tiles, f, c, unit, error, row, column, to))
                    return 0;
                if (!whole) continue;
                least[b] += fewest;
                if (fewest < full) continue;
                block[count++] = b;
                to->number[b] += full;
                to->place[b] += full * ((double)(column * unit) + middle);
                to->place[n + b] += full * ((double)(row * unit) + middle);
            }
            for (Index q = 0; count && q < 2 * c; q++) { /* Both tiles, all channels. */
                const Index t = q >= c, area = tiles[t].n, *const at = place[t];
                const float *const from = tiles[t].blocks + (q - t * c) * area;
                double *const highest = to->highest + q * n;
                for (Index kind = 0; kind < KINDS; kind++) {
                    const float *const one = from + (kind + (kind > 1)) * c * area;
                    double *const sum = to->z + (2 * kind * c + q) * n;
                    for (Index i = 0; i < count; i++) sum[block[i]] += full * (double)one[at[i]];
                }
                for (Index i = 0; i < count; i++) {
                    const double top = (double)from[2 * c * area + at[i]];
                    if (top > highest[block[i]]) highest[block[i]] = top;
                }
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

int gather_blocks(const Arg *a, const Index *size)
{ /* the pair; blocks, place, highest, number, least; cells (-1 where the channels part) and few;
     cells along a block, few, whole enough, the error at borders */
    const Index c = SIZE('c'), n = SIZE('n'), unit = (Index)a[14].n;
    const Sums to = {a[8].D, a[9].D, a[10].D, a[11].D};
    const double error = a[17].n;
    double *const least = a[12].D, *const told = a[13].D, bound = HUGE_VAL;
    Tile tiles[2];
    Frame f;
    if (pair_of(a, size, tiles, &f) < 0 || f.width * f.height != n) return -1;
    told[0] = -1;
    told[1] = 0;
    for (Index b = 0; b < 2 * KINDS * c * n; b++) to.z[b] = 0;
    for (Index b = 0; b < 2 * c * n; b++) to.highest[b] = -HUGE_VAL;
    for (Index b = 0; b < n; b++) to.number[b] = to.place[b] = to.place[n + b] = least[b] = 0;
    int looked = f.side == 1;
    if (looked) {
        const Index box[4] = {f.y0, f.y1, f.x0, f.x1};
        if (!looked_up(tiles, &f, c, error, box, &to)) return 0;
    } else {
        if (!added(tiles, &f, c, unit, error, 1, least, &to)) return 0;
        bound = total(least, n);
        if (bound <= a[15].n) {
            told[0] = bound;
            told[1] = 1;
            return 0;
        }
        looked = total(to.number, n) < a[16].n * bound;
        if (looked && !added(tiles, &f, c, unit, error, 0, least, &to)) return 0;
    }
    for (Index b = 0; b < n; b++) least[b] = 1 / most(to.number[b], 1);
    for (Index q = 0; q < 2 * KINDS * c; q++)
        for (Index b = 0; b < n; b++) to.z[q * n + b] *= least[b];
    for (Index b = 0; b < n; b++) {
        to.place[b] *= least[b];
        to.place[n + b] *= least[b];
    }
    told[0] = looked ? total(to.number, n) : bound;
    return 0;
}

int block_weights(const Arg *a, const Index *size)
{ /* blocks, highest, number; typical, above; work; share, cells of a block */
    const Index c = SIZE('c'), n = SIZE('n');
    double *const z = a[0].D, *const typical = a[3].D, *const there = a[5].D;
    double some[SAMPLE + 1];
    Index count = 0, step = 1;
    for (Index i = 0; i < n; i++)
        if (a[2].d[i] != 0) there[count++] = (double)i;
    if (count) count = thinned(count, &step);
    for (Index q = 0; q < 2 * c; q++) {
        double tiny = 0;
        for (Index k = q; k < 4 * c; k += 2 * c) {
            for (Index i = 0; i < count; i++) some[i] = fabs(z[k * n + (Index)there[i * step]]);
            const double found = count ? ranked(some, count, count / 2) : 1, part = 1e-6 * found;
            if (k == q) tiny = 1e-12 + part * part;
            else typical[q] = found + tiny;
        }
        for (Index i = 0; i < n; i++) z[(2 * c + q) * n + i] += tiny;
    }
    for (Index i = 0; i < n; i++) {
        const double share = a[6].n / most(a[2].d[i], 1);
        double *const above = a[4].D + i;
        *above = -HUGE_VAL;
        for (Index m = 0; m < c; m++) {
            double sum = 0;
            for (Index q = m; q < 2 * c; q += c) {
                z[(2 * c + q) * n + i] *= share < 1 ? share : 1;
                sum += (a[1].d[q * n + i] - z[q * n + i]) / sqrt(typical[q]);
            }
            *above = most(*above, sum);
        }
    }
    for (Index q = 0; q < 2 * c; q++) typical[q] *= a[6].n / a[7].n;
    return 0;
}

int gather_cells(const Arg *a, const Index *size)
{ /* the pair; blocks; z, place, which; rows; the error at borders */
    const Index c = SIZE('c'), n = SIZE('q');
    Index rows = 0;
    Tile tiles[2];
    Frame f;
    if (pair_of(a, size, tiles, &f) < 0 || n != SIZE('l') * f.side * f.side) return -1;
    for (Index k = 0; k < SIZE('l'); k++) {
        const Index b = a[8].i[k];
        if (b < 0 || b >= f.width * f.height) return -1;
        const Index low = b / f.width * f.side, left = b % f.width * f.side;
        for (Index v = low; v < low + f.side; v++)
            for (Index u = left; u < left + f.side; u++) {
                const Index row = v + f.top * f.side, column = u + f.left * f.side;
                int valid = row >= f.y0 && row < f.y1 && column >= f.x0 && column < f.x1;
                for (Index q = 0; valid && q < 2 * c; q++) {
                    double z[KINDS];
                    valid = cell_of(&tiles[q / c], q % c, row, column, a[13].n, z);
                    for (int i = 0; valid && i < KINDS; i++)
                        a[9].D[(2 * c * i + q) * n + rows] = z[i];
                }
                if (!valid) continue;
                a[10].D[rows] = (double)u;
                a[10].D[n + rows] = (double)v;
                a[11].I[rows++] = k;
            }
    }
    a[12].I[0] = rows;
    return 0;
}
