/* Areas of intersections of convex polygons on the sphere. */

#include <math.h>
#include <string.h>

#include "arguments.h"

enum { VERTICES_MAX = 32 }; /* each of the four sides adds one to a convex polygon at most */

typedef double Vector[3];

static double inner(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* Clip a polygon of n vertices by the great circle of a side, after Sutherland and Hodgman; return
the new number of vertices. */
static Index clip(Vector *polygon, Index n, const double *normal, Vector *out)
{
    Index count = 0;
    for (Index i = 0; i < n && count + 2 < VERTICES_MAX; i++) {
        const double *const vertex = polygon[i], *const next = polygon[i + 1 < n ? i + 1 : 0];
        const double here = inner(normal, vertex), there = inner(normal, next);
        if (here > 0) memcpy(out[count++], vertex, sizeof(Vector));
        if ((here > 0) == (there > 0)) continue;
        double *const crossing = out[count++], fraction = here / (here - there);
        for (int k = 0; k < 3; k++) crossing[k] = vertex[k] + fraction * (next[k] - vertex[k]);
        const double length = sqrt(inner(crossing, crossing));
        for (int k = 0; k < 3; k++) crossing[k] /= length > 0 ? length : 1;
    }
    return count;
}

/* Return the area of a polygon in steradian: a fan of triangles, each by the formula of Van Oosterom
and Strackee (1983). */
static double polygon_area(Vector *polygon, Index n)
{
    double sum = 0;
    for (Index i = 1; i + 1 < n; i++) {
        const double *const a = polygon[0], *const b = polygon[i], *const c = polygon[i + 1];
        const Vector d = {b[0] - a[0], b[1] - a[1], b[2] - a[2]};
        const Vector e = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
        const double triple = a[0] * (d[1] * e[2] - d[2] * e[1]) +
                              a[1] * (d[2] * e[0] - d[0] * e[2]) +
                              a[2] * (d[0] * e[1] - d[1] * e[0]);
        sum += atan2(triple, 1 + inner(a, b) + inner(b, c) + inner(c, a));
    }
    return fabs(2 * sum);
}

/* Compute the areas that polygons share with tiles. */
int overlap_areas(const OverlapAreas *a)
{
    const Index vertices = a->size.vertices;
    if (vertices + 5 > VERTICES_MAX) return -1;
    for (Index i = 0; i < a->size.pairs; i++) {
        const Index index = a->polygon_index[i], tile = a->tile_index[i];
        Vector polygon[VERTICES_MAX], clipped[VERTICES_MAX];
        if (index < 0 || index >= a->size.polygons || tile < 0 || tile >= a->size.tiles) return -1;
        memcpy(polygon, a->polygons + 3 * vertices * index, (size_t)vertices * sizeof(Vector));
        Index count = vertices;
        for (int side = 0; side < 4; side++) {
            count = clip(polygon, count, a->normals + (4 * tile + side) * 3, clipped);
            memcpy(polygon, clipped, sizeof polygon);
        }
        a->areas[i] = polygon_area(polygon, count);
    }
    return 0;
}
