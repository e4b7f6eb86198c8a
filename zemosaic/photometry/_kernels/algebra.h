/* Algebra that the kernels of a pair's fit share.

C99 without extensions or options that reorder sums, so that results have the same bits on every
machine. Systems are small and vectors have one or two thousand elements. */

#ifndef ZEMOSAIC_ALGEBRA_H
#define ZEMOSAIC_ALGEBRA_H

#include "arguments.h"

#ifdef _MSC_VER
#define restrict __restrict
#endif

enum { SAMPLE = 600 }; /* elements of which a median is taken, one more at most */

/* Return the larger of two numbers. */
static inline double larger(double a, double b) { return a > b ? a : b; }

/* Return the element of `rank` in ascending order, from 0; reorder `values`. */
double select_rank(double *values, Index n, Index rank);

/* Return how many of n elements enter a median, an odd number, and set the step between them. */
Index thinned_count(Index n, Index *step);

/* Return the median of a thinned vector without NaN. */
double median(const double *values, Index n);

/* Return the robust standard deviation of residuals from their squares; 1 where most are 0. */
double robust_scale(const double *squares, Index n);

/* Compute the scalar products of three vectors with three others, row by row. */
void dots(const double *const left[3], const double *const right[3], Index n, double out[9]);

/* Compute the weighted scalar products (count, count) of `count` rows; `work` holds three rows. */
void weighted_products(const double *rows, const double *weights, int count, Index n, double *work,
                       double *gram);

/* Solve small normal equations in place: `right` (n, k) becomes the solution. */
void solve_normal_equations(double *matrix, double *right, int n, int k);

/* Compute the coefficients (2, columns) of the line with the first `terms` nuisance terms, and of
the instrument less what these explain; `slope` is used if it is fixed. */
void line_coefficients(const double *gram, int columns, int terms, int fixed, double slope,
                       double *line);

#endif
