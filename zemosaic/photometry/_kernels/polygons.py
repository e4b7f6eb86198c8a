"""Convex polygons on the sphere, as arrays of unit vectors."""

from __future__ import annotations

import numpy as np


def inward_normals(units: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Compute the inward normals ``(T, 4, 3)`` of the great circles along the sides.

    `units` are the ``(T, 4, 3)`` vertices, `centres` are ``(T, 3)`` points inside.
    """
    normals = np.cross(units, np.roll(units, -1, axis=1))
    side = np.einsum("tkx,tx->tk", normals, centres)
    return normals * np.sign(side)[..., None]


def clip_polygons(polygons: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Clip many polygons at once, by the algorithm of Sutherland and Hodgman.

    `polygons` is ``(P, K, 3)``, `normals` the ``(P, 4, 3)`` inward normals of the clipping
    polygons. A vertex that is cut away is replaced by one that stays, which adds no area, so
    all polygons keep the same number of vertices.
    """
    for side in range(normals.shape[1]):
        height = np.einsum("pkx,px->pk", polygons, normals[:, side])
        polygons = np.concatenate([polygons, polygons[:, :1]], axis=1)
        crossed = (height <= 0).any(axis=1)  # most polygons lie on the inner side entirely
        polygons[crossed] = _clip_side(polygons[crossed, :-1], height[crossed])
    return polygons


def _clip_side(polygons: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Clip polygons at a great circle; the result has one vertex more.

    `height` is ``(P, K)``: the distance of each vertex from the circle, positive inside.
    """
    crossing, crossings = _side_crossings(polygons, height)
    vertices = np.stack([polygons, crossings], axis=2)
    vertices = vertices.reshape(len(polygons), 2 * polygons.shape[1], 3)
    kept = np.stack([height > 0, crossing], axis=2).reshape(vertices.shape[:2])
    # The kept vertices move to the front, in order; a convex polygon gains at most one.
    order = np.argsort(~kept, axis=1, kind="stable")[:, : polygons.shape[1] + 1]
    count = kept.sum(axis=1)
    order = np.where(np.arange(order.shape[1]) < count[:, None], order, order[:, :1])
    clipped = np.take_along_axis(vertices, order[..., None], axis=1)
    clipped[count == 0] = clipped[count == 0, :1]
    return clipped


def _side_crossings(polygons: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each side of the polygons crosses the great circle, and the crossings."""
    next_height, next_vertex = np.roll(height, -1, axis=1), np.roll(polygons, -1, axis=1)
    crossing = (height > 0) != (next_height > 0)
    span = np.where(crossing, height - next_height, 1.0)
    crossings = polygons + (height / span)[..., None] * (next_vertex - polygons)
    length = np.linalg.norm(crossings, axis=2, keepdims=True)
    crossings /= np.where(length > 0, length, 1.0)
    return crossing, crossings


def polygon_areas(polygons: np.ndarray) -> np.ndarray:
    """Compute the areas ``(P,)`` in steradian of convex spherical polygons ``(P, K, 3)``.

    Sums a fan of triangles, each by the solid-angle formula of Van Oosterom and Strackee (1983,
    IEEE Trans. Biomed. Eng. BME-30, 125).
    """
    a = polygons[:, :1]
    b, c = polygons[:, 1:-1], polygons[:, 2:]
    # Differences first: the triple product of nearly equal unit vectors cancels otherwise.
    triple = np.einsum("pkx,pkx->pk", np.broadcast_to(a, b.shape), np.cross(b - a, c - a))
    denominator = 1 + (a * b).sum(axis=2) + (b * c).sum(axis=2) + (c * a).sum(axis=2)
    return np.abs(2 * np.arctan2(triple, denominator).sum(axis=1))
