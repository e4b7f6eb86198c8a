/* Products of matrices, tile by tile: the elements of a tile stay in registers.

Each element is summed in the order of the rows, whatever the vector unit, so that results have the
same bits on every machine. */

#include "fronts.h"

#include <string.h>

enum { TILE_ROWS = 8, TILE_COLUMNS = 8, STRIP_ROWS = 4 };
enum { FEW_ROWS = 16 }; /* of the left factor, for which the right one is not packed */
enum { DEPTH = 64, BLOCK = 64 }; /* of the left factor that is packed at once: 32 KiB */

#ifdef __GNUC__
#define VECTOR(bytes) __attribute__((vector_size(bytes), aligned(8), may_alias))
#else
#define VECTOR(bytes)
#endif
typedef double Vector VECTOR(16);

/* Subtract a product from two vectors in each of four rows of a tile; the left factor is packed. */
#define SUBTRACT_STRIP(Lanes)                                                                   \
    {                                                                                           \
        Lanes *const row_a = (Lanes *)tile, *const row_c = (Lanes *)(tile + 2 * step);          \
        Lanes *const row_b = (Lanes *)(tile + step), *const row_d = (Lanes *)(tile + 3 * step); \
        Lanes a = row_a[0], b = row_b[0], c = row_c[0], d = row_d[0];                           \
        Lanes e = row_a[1], f = row_b[1], g = row_c[1], h = row_d[1];                           \
        for (; depth > 0; depth--, left += TILE_ROWS, right += right_step) {                    \
            const Lanes first = *(const Lanes *)right, second = ((const Lanes *)right)[1];      \
            a -= left[0] * first, e -= left[0] * second;                                        \
            b -= left[1] * first, f -= left[1] * second;                                        \
            c -= left[2] * first, g -= left[2] * second;                                        \
            d -= left[3] * first, h -= left[3] * second;                                        \
        }                                                                                       \
        row_a[0] = a, row_b[0] = b, row_c[0] = c, row_d[0] = d;                                 \
        row_a[1] = e, row_b[1] = f, row_c[1] = g, row_d[1] = h;                                 \
    }

static void subtract_strip(double *tile, Index step, const double *left, const double *right,
                           Index right_step, Index depth) SUBTRACT_STRIP(Vector)

/* Subtract a product from a tile whose rows are `step` apart, and those of the right factor
`right_step`; the left one is packed. */
#if defined(__GNUC__) && defined(__x86_64__)
typedef double WideVector VECTOR(32);
typedef double RowVector VECTOR(64);
__attribute__((target("avx2")))
static void subtract_wide_strip(double *tile, Index step, const double *left, const double *right,
                                Index right_step, Index depth) SUBTRACT_STRIP(WideVector)
__attribute__((target("avx512f")))
static void subtract_rows(double *tile, Index step, const double *left, const double *right,
                          Index right_step, Index depth)
{
    RowVector a = *(RowVector *)tile, b = *(RowVector *)(tile + step);
    RowVector c = *(RowVector *)(tile + 2 * step), d = *(RowVector *)(tile + 3 * step);
    RowVector e = *(RowVector *)(tile + 4 * step), f = *(RowVector *)(tile + 5 * step);
    RowVector g = *(RowVector *)(tile + 6 * step), h = *(RowVector *)(tile + 7 * step);
    for (; depth > 0; depth--, left += TILE_ROWS, right += right_step) {
        const RowVector row = *(const RowVector *)right;
        a -= left[0] * row, b -= left[1] * row, c -= left[2] * row, d -= left[3] * row;
        e -= left[4] * row, f -= left[5] * row, g -= left[6] * row, h -= left[7] * row;
    }
    *(RowVector *)tile = a, *(RowVector *)(tile + step) = b;
    *(RowVector *)(tile + 2 * step) = c, *(RowVector *)(tile + 3 * step) = d;
    *(RowVector *)(tile + 4 * step) = e, *(RowVector *)(tile + 5 * step) = f;
    *(RowVector *)(tile + 6 * step) = g, *(RowVector *)(tile + 7 * step) = h;
}
#define HAS_WIDE_VECTORS __builtin_cpu_supports("avx2")
#define HAS_ROW_VECTORS __builtin_cpu_supports("avx512f")
#else
#define HAS_WIDE_VECTORS 0
#define HAS_ROW_VECTORS 0
#define subtract_wide_strip subtract_strip
#define subtract_rows subtract_strip
#endif

static void subtract_tile(double *tile, Index step, const double *left, const double *right,
                          Index right_step, Index depth)
{
    enum { LANES = sizeof(Vector) / sizeof(double) };
    if (HAS_ROW_VECTORS) {
        subtract_rows(tile, step, left, right, right_step, depth);
        return;
    }
    for (int i = 0; i < TILE_ROWS; i += STRIP_ROWS)
        if (HAS_WIDE_VECTORS) subtract_wide_strip(tile + i * step, step, left + i, right, right_step, depth);
        else
            for (int k = 0; k < TILE_COLUMNS; k += 2 * LANES)
                subtract_strip(tile + i * step + k, step, left + i, right + k, right_step, depth);
}

/* Likewise from a tile of which only some rows and columns lie in the matrix. */
static void subtract_at_border(double *tile, Index step, const double *left, const double *right,
                               Index right_step, Index depth, Index rows, Index columns)
{
    double whole[TILE_ROWS * TILE_COLUMNS] = {0};
    for (Index i = 0; i < rows; i++)
        for (Index j = 0; j < columns; j++) whole[i * TILE_COLUMNS + j] = tile[i * step + j];
    subtract_tile(whole, TILE_COLUMNS, left, right, right_step, depth);
    for (Index i = 0; i < rows; i++)
        for (Index j = 0; j < columns; j++) tile[i * step + j] = whole[i * TILE_COLUMNS + j];
}

static Index smaller(Index a, Index b) { return a < b ? a : b; }

/* Copy `width` columns of a factor, of which only some exist, row by row. */
static inline void pack(double *packed, Index width, Factor factor, Index row, Index column,
                        Index depth, Index columns)
{
    const double *from = factor.values + row * factor.row_step + column * factor.column_step;
    const Index some = smaller(columns, width);
    if (some < width) memset(packed, 0, (size_t)(depth * width) * sizeof *packed);
    if (factor.column_step == 1)
        for (; depth > 0; depth--, from += factor.row_step, packed += width)
            if (some == width) memcpy(packed, from, (size_t)width * sizeof *packed);
            else memcpy(packed, from, (size_t)some * sizeof *packed);
    else
        for (Index j = 0; j < some; j++)
            for (Index k = 0; k < depth; k++)
                packed[k * width + j] = from[k * factor.row_step + j * factor.column_step];
}

/* Subtract leftᵀ right (rows, columns) from a matrix, or, if it is symmetric, from the elements
right of its diagonal at least. */
void subtract_product(double *matrix, Index step, Factor left, Factor right, Index depth,
                      Index rows, Index columns, int symmetric)
{
    double packed[BLOCK * DEPTH], slab[DEPTH * TILE_COLUMNS];
    for (Index k = 0; k < depth; k += DEPTH)
        for (Index top = 0; top < rows; top += BLOCK) {
            const Index deep = smaller(depth - k, DEPTH), high = smaller(rows - top, BLOCK);
            for (Index i = 0; i < high; i += TILE_ROWS)
                pack(packed + i * deep, TILE_ROWS, left, k, top + i, deep, high - i);
            for (Index j = symmetric ? top : 0; j < columns; j += TILE_COLUMNS) {
                const Index wide = columns - j;
                const Index end = symmetric ? smaller(high, j + TILE_COLUMNS - top) : high;
                const int in_place = right.column_step == 1 && high <= FEW_ROWS &&
                                     wide >= TILE_COLUMNS;
                const double *const row = in_place ? right.values + k * right.row_step + j : slab;
                const Index row_step = in_place ? right.row_step : TILE_COLUMNS;
                if (!in_place) pack(slab, TILE_COLUMNS, right, k, j, deep, wide);
                for (Index i = 0; i < end; i += TILE_ROWS) {
                    double *const tile = matrix + (top + i) * step + j;
                    if (high - i >= TILE_ROWS && wide >= TILE_COLUMNS)
                        subtract_tile(tile, step, packed + i * deep, row, row_step, deep);
                    else
                        subtract_at_border(tile, step, packed + i * deep, row, row_step, deep,
                                           smaller(high - i, TILE_ROWS),
                                           smaller(wide, TILE_COLUMNS));
                }
            }
        }
}
