/* Planes through the sky of a pair. */

#include "algebra.h"

/* Fit planes through the blocks without stars. */
int sky_planes(const SkyPlanes *a)
{
    const Index channels = a->size.channels, n = a->size.blocks, layers = 2 * channels;
    double *const dark = a->index_work, matrix[9] = {0};
    Index count = 0, step = 1;
    for (Index i = 0; i < n; i++)
        if (!a->bright[i]) dark[count++] = (double)i;
    if (count >= 3) count = thinned_count(count, &step);
    else
        for (count = 0; count < n; count++) dark[count] = (double)count;
    for (Index i = 0; i < 3 * layers; i++) a->planes[i] = 0;
    for (Index i = 0; i < count; i++) {
        const Index block = (Index)dark[i * step];
        const double basis[3] = {1, a->u[block], a->v[block]};
        for (int j = 0; j < 3; j++) {
            for (int k = 0; k < 3; k++) matrix[j * 3 + k] += basis[j] * basis[k];
            for (Index k = 0; k < channels; k++)
                a->planes[j * layers + k] += basis[j] * a->x[k * n + block];
            for (Index k = 0; k < channels; k++)
                a->planes[j * layers + channels + k] += basis[j] * a->y[k * n + block];
        }
    }
    solve_normal_equations(matrix, a->planes, 3, (int)layers);
    return 0;
}
