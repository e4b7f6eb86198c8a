/* The fronts of a sparse symmetric system, as `_kernels.fronts` lays them out. */

#ifndef ZEMOSAIC_FRONTS_H
#define ZEMOSAIC_FRONTS_H

#include "algebra.h"

enum { FIELD_OWN, FIELD_START, FIELD_CHILDREN, FIELD_BLOCKS, FIELD_PANEL, FIELD_UPDATE,
       FIELD_PARENT, FIELDS };

typedef struct {
    const Index *table, *columns, *above, *children, *order, *place;
    Index fronts, size, entries, sons, ordered, places, width, panels, updates, work;
} Tree;

/* A front of `size` columns, of which `own` are eliminated and `rest` are left. */
typedef struct {
    Index own, size, rest, panel, update, first_child, last_child, first_block, last_block;
    const Index *columns, *above;
} Front;

/* The lengths of arrays that a kernel does not have are -1. */
#define TREE_OF(a)                                                                              \
    {(a)->table, (a)->columns, (a)->above, (a)->children, (a)->order, (a)->place,               \
     (a)->size.front_ends - 1, (a)->size.unknowns, (a)->size.entries, (a)->size.children,       \
     (a)->size.ordered, (a)->size.pairs, (a)->size.clique, (a)->size.panels,                    \
     (a)->size.updates, (a)->size.front_work}

/* A matrix by its rows, as a factor of a product. */
typedef struct {
    const double *values;
    Index row_step, column_step;
} Factor;

/* Subtract the product leftᵀ right (rows, columns) of two factors of `depth` rows from a matrix
whose rows are `step` apart; if it is symmetric, only right of its diagonal, with some others. */
void subtract_product(double *matrix, Index step, Factor left, Factor right, Index depth,
                      Index rows, Index columns, int symmetric);

/* Read a front; -1 if its numbers do not fit the arrays. */
int read_front(const Tree *tree, Index number, Front *front);

/* Set the places of the columns of a block in its front; -1 if they lie outside. */
int block_place(const Tree *tree, const Front *front, Index index, const Index **place);

/* Read a child of a front, whose places lie in the front. */
int read_child(const Tree *tree, const Front *front, Index index, Front *child);

#endif
