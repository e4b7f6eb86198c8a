/* What the compiled kernels share.

Each kernel does what the function of the same name does in numpy, for which it stands where it was
built; the two differ in their last bits. C99 without extensions, and no option that lets a
compiler reorder sums: they are the same bits wherever, whatever else runs. A kernel holds no
state, and not the interpreter's lock. */

#ifndef ZEMOSAIC_FUSED_H
#define ZEMOSAIC_FUSED_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <string.h>

#ifdef _MSC_VER
#define restrict __restrict
#endif

typedef Py_ssize_t Index;

/* An argument of a kernel: arrays that it reads, those that it writes in capitals, or a number. */
typedef union {
    const double *d;
    const float *f;
    const Index *i;
    double *D;
    float *F;
    Index *I;
    double n;
} Arg;

/* A kernel gets its arguments and the lengths of their axes, which its signature gives letters. */
typedef int Kernel(const Arg *a, const Index *size);
#define SIZE(letter) (size[(letter) - 'a'])

Kernel shared_areas, sample_spline, gather_blocks, block_weights, gather_cells;
Kernel planes, design_matrix, initial_slope, fit_irls, summarize_fit;

enum { SAMPLE = 600, TERMS = 9, COLUMNS = 12 }; /* regression.SAMPLE; of a fit at most */

double most(double a, double b);
double ranked(double *z, Index n, Index rank);
Index thinned(Index n, Index *step);
double median(const double *z, Index n);
double robust_scale(const double *square, Index n);
void dots(const double *const p[3], const double *const q[3], Index n, double out[9]);
void products(const double *z, const double *w, int k, Index n, double *work, double *gram);
void solve(double *matrix, double *right, int n, int k);
void line(const double *gram, int k, int terms, int held, double slope, double *found);

#endif
