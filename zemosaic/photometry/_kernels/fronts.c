/* Access to the fronts of a sparse symmetric system. */

#include "fronts.h"

static int outside(Index begin, Index end, Index limit)
{
    return begin < 0 || end < begin || end > limit;
}

int block_place(const Tree *tree, const Front *front, Index index, const Index **place)
{
    const Index block = tree->order[index];
    if (block < 0 || block >= tree->places) return -1;
    *place = tree->place + block * tree->width;
    for (Index k = 0; k < tree->width; k++)
        if ((*place)[k] >= front->size) return -1;
    return 0;
}

/* Read the bounds of a front; -1 if they do not fit the arrays. */
static int read_bounds(const Tree *tree, Index number, Front *front)
{
    if (number < 0 || number >= tree->fronts) return -1;
    const Index *const row = tree->table + number * FIELDS, *const next = row + FIELDS;
    if (outside(row[FIELD_START], next[FIELD_START], tree->entries) ||
        outside(row[FIELD_CHILDREN], next[FIELD_CHILDREN], tree->sons) ||
        outside(row[FIELD_BLOCKS], next[FIELD_BLOCKS], tree->ordered) ||
        outside(row[FIELD_PANEL], next[FIELD_PANEL], tree->panels))
        return -1;
    front->own = row[FIELD_OWN];
    front->size = next[FIELD_START] - row[FIELD_START];
    front->rest = front->size - front->own;
    front->panel = row[FIELD_PANEL];
    front->update = row[FIELD_UPDATE];
    front->first_child = row[FIELD_CHILDREN];
    front->last_child = next[FIELD_CHILDREN];
    front->first_block = row[FIELD_BLOCKS];
    front->last_block = next[FIELD_BLOCKS];
    front->columns = tree->columns + row[FIELD_START];
    front->above = tree->above + row[FIELD_START];
    if (front->own < 0 || front->rest < 0 ||
        front->own * front->size != next[FIELD_PANEL] - front->panel)
        return -1;
    if (tree->updates >= 0 &&
        (front->size * front->size > tree->work || front->update < 0 ||
         front->update + front->rest * front->rest > tree->updates))
        return -1;
    return 0;
}

int read_front(const Tree *tree, Index number, Front *front)
{
    if (read_bounds(tree, number, front) < 0) return -1;
    for (Index k = 0; k < front->size; k++)
        if (front->columns[k] < 0 || front->columns[k] >= tree->size) return -1;
    return 0;
}

int read_child(const Tree *tree, const Front *front, Index index, Front *child)
{
    if (read_bounds(tree, tree->children[index], child) < 0) return -1;
    for (Index k = child->own; k < child->size; k++)
        if (child->above[k] < 0 || child->above[k] >= front->size) return -1;
    return 0;
}
