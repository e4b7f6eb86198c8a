/* Areas on the sphere: overlap.py. */

#include "kernels.h"

enum { VERTICES = 32 }; /* at most: four sides add one each to a convex polygon */

typedef double Vector[3];

static double inner(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static Index cut(Vector *given, Index n, const double *normal, Vector *out)
{ /* overlap._cut, without vertices that add nothing: how many are left. */
    Index count = 0;
    for (Index i = 0; i < n && count + 2 < VERTICES; i++) {
        const double *const at = given[i], *const next = given[i + 1 < n ? i + 1 : 0];
        const double here = inner(normal, at), there = inner(normal, next);
        if (here > 0) memcpy(out[count++], at, sizeof(Vector));
        if ((here > 0) == (there > 0)) continue;
        double *const between = out[count++], part = here / (here - there);
        for (int k = 0; k < 3; k++) between[k] = at[k] + part * (next[k] - at[k]);
        const double length = sqrt(inner(between, between));
        for (int k = 0; k < 3; k++) between[k] /= length > 0 ? length : 1;
    }
    return count;
}

static double area(Vector *p, Index n)
{ /* overlap._areas */
    double sum = 0;
    for (Index i = 1; i + 1 < n; i++) {
        const double *const a = p[0], *const b = p[i], *const c = p[i + 1];
        const Vector d = {b[0] - a[0], b[1] - a[1], b[2] - a[2]};
        const Vector e = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
        const double triple = a[0] * (d[1] * e[2] - d[2] * e[1]) +
                              a[1] * (d[2] * e[0] - d[0] * e[2]) +
                              a[2] * (d[0] * e[1] - d[1] * e[0]);
        sum += atan2(triple, 1 + inner(a, b) + inner(b, c) + inner(c, a));
    }
    return fabs(2 * sum);
}

int shared_areas(const Arg *a, const Index *size)
{ /* polygons, normals of tiles; which polygon and which tile; areas */
    const Index k = SIZE('k');
    if (k + 5 > VERTICES) return -1;
    for (Index i = 0; i < SIZE('n'); i++) {
        const Index polygon = a[2].i[i], tile = a[3].i[i];
        Vector p[VERTICES], q[VERTICES];
        if (polygon < 0 || polygon >= SIZE('p') || tile < 0 || tile >= SIZE('t')) return -1;
        memcpy(p, a[0].d + 3 * k * polygon, (size_t)k * sizeof(Vector));
        Index count = k;
        for (int side = 0; side < 4; side++) {
            count = cut(p, count, a[1].d + (4 * tile + side) * 3, q);
            memcpy(p, q, sizeof p);
        }
        a[4].D[i] = area(p, count);
    }
    return 0;
}
