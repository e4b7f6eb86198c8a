"""Areas of intersections of convex polygons on the sphere."""

from __future__ import annotations

import numpy as np

from ..polygons import clip_polygons, polygon_areas


def overlap_areas(
    polygons: np.ndarray, normals: np.ndarray, polygon_index: np.ndarray, tile_index: np.ndarray
) -> np.ndarray:
    """Compute the areas that polygons share with tiles on the sphere.

    Parameters
    ----------
    polygons : ndarray
        ``(P, K, 3)`` unit vectors of the vertices.
    normals : ndarray
        ``(T, 4, 3)`` inward normals of the sides of the tiles.
    polygon_index, tile_index : ndarray
        ``(N,)`` intp: the polygon and the tile of each area.

    Returns
    -------
    ndarray
        ``(N,)`` in steradian.
    """
    return polygon_areas(clip_polygons(polygons[polygon_index], normals[tile_index]))
