"""Areas of intersections of convex polygons on the sphere."""

from __future__ import annotations

import numpy as np

from .._kernels import compiled


def _inward_normals(units: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Compute the inward normals ``(T, 4, 3)`` of the great circles along the sides."""
    normals = np.cross(units, np.roll(units, -1, axis=1))
    side = np.einsum("tkx,tx->tk", normals, centres)
    return normals * np.sign(side)[..., None]


def _shared(
    polygons: np.ndarray, which: np.ndarray, normals: np.ndarray, tiles: np.ndarray
) -> np.ndarray:
    """Areas ``(N,)`` in steradian that some polygons share with some tiles, by their indices.

    `polygons` is ``(P, K, 3)``, `normals` the ``(T, 4, 3)`` inward normals of the tiles.
    """
    if not compiled.fused:
        return _areas(_clipped(polygons[which], normals[tiles]))
    found = np.empty(len(which))
    compiled.fused.overlap_areas(polygons, normals, which, tiles, found)
    return found


def _clipped(polygons: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Sutherland and Hodgman's clipping of many polygons at once, on the sphere.

    `polygons` is ``(P, 4, 3)``, `normals` the ``(P, 4, 3)`` inward normals of the clipping
    polygons. A vertex that is cut away is replaced by one that stays, which adds no area, so
    that all polygons keep the same number of vertices.
    """
    for side in range(normals.shape[1]):
        here = np.einsum("pkx,px->pk", polygons, normals[:, side])
        polygons = np.concatenate([polygons, polygons[:, :1]], axis=1)
        cut = (here <= 0).any(axis=1)  # most lie on the inner side as they are
        polygons[cut] = _cut(polygons[cut, :-1], here[cut])
    return polygons


def _cut(polygons: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Polygons with one vertex more, of which nothing lies beyond a great circle.

    `here` is ``(P, K)``: how far on its inner side each vertex lies.
    """
    there, ahead = np.roll(here, -1, axis=1), np.roll(polygons, -1, axis=1)
    crossing = (here > 0) != (there > 0)
    span = np.where(crossing, here - there, 1.0)
    cut = polygons + (here / span)[..., None] * (ahead - polygons)
    length = np.linalg.norm(cut, axis=2, keepdims=True)
    cut /= np.where(length > 0, length, 1.0)
    vertices = np.stack([polygons, cut], axis=2).reshape(len(polygons), 2 * polygons.shape[1], 3)
    kept = np.stack([here > 0, crossing], axis=2).reshape(vertices.shape[:2])
    # The kept vertices move to the front, in order; a convex polygon gains at most one.
    order = np.argsort(~kept, axis=1, kind="stable")[:, : polygons.shape[1] + 1]
    count = kept.sum(axis=1)
    order = np.where(np.arange(order.shape[1]) < count[:, None], order, order[:, :1])
    polygons = np.take_along_axis(vertices, order[..., None], axis=1)
    polygons[count == 0] = polygons[count == 0, :1]
    return polygons


def _areas(polygons: np.ndarray) -> np.ndarray:
    """Areas ``(P,)`` in steradian of convex spherical polygons ``(P, K, 3)``.

    A fan of triangles, each by the solid-angle formula of Van Oosterom and Strackee (1983),
    IEEE Trans. Biomed. Eng. BME-30, 125.
    """
    a = polygons[:, :1]
    b, c = polygons[:, 1:-1], polygons[:, 2:]
    # Differences first: the triple product of nearly equal unit vectors cancels otherwise.
    triple = np.einsum("pkx,pkx->pk", np.broadcast_to(a, b.shape), np.cross(b - a, c - a))
    below = 1 + (a * b).sum(axis=2) + (b * c).sum(axis=2) + (c * a).sum(axis=2)
    return np.abs(2 * np.arctan2(triple, below).sum(axis=1))
