/* Access to the fronts of a sparse symmetric system. */

#include "fronts.h"

static int outside(Index begin, Index end, Index limit)
{
    return begin < 0 || end < begin || end > limit;
}

/* Return whether the blocks of a front lie outside the arrays. */
static int blocks_outside(const Tree *tree, const Front *front)
{
    for (Index k = front->first_block; k < front->last_block; k++) {
        const Index block = tree->order[k];
        if (block < 0 || block >= tree->places) return 1;
        for (Index m = 0; m < tree->width; m++)
            if (tree->place[block * tree->width + m] >= front->size) return 1;
    }
    return 0;
}

int read_front(const Tree *tree, Index number, Front *front)
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
    for (Index k = 0; k < front->size; k++)
        if (front->columns[k] < 0 || front->columns[k] >= tree->size) return -1;
    return blocks_outside(tree, front) ? -1 : 0;
}

int read_child(const Tree *tree, const Front *front, Index index, Front *child)
{
    if (read_front(tree, tree->children[index], child) < 0) return -1;
    for (Index k = child->own; k < child->size; k++)
        if (child->above[k] < 0 || child->above[k] >= front->size) return -1;
    return 0;
}
