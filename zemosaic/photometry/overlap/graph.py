"""The graph of overlapping tiles, from their footprints, and its pruning.

All geometry uses great circles between unit vectors, so right ascension 0, the poles and the
position of a reference pixel need no special treatment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from .. import _kernels
from .._kernels.polygons import clip_polygons, inward_normals, polygon_areas
from ..tiles.sky import unit_vectors

CANDIDATES = 1 << 16  # pairs or triples processed at a time: bounds the memory
#: Most tiles of which all pairs are candidates; for more, scipy.spatial is worth its import.
FEW_TILES = 512


@dataclass(frozen=True, eq=False)
class OverlapGraph:
    """Pairs of overlapping tiles, sorted by (i, j) with i < j.

    Parameters
    ----------
    tiles : int
        Number of tiles T.
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    area : ndarray
        ``(P,)`` float64: area of the overlap in square degrees.
    fraction : ndarray
        ``(P,)`` float64: the overlap as a fraction of the smaller footprint.
    """

    tiles: int
    i: np.ndarray
    j: np.ndarray
    area: np.ndarray
    fraction: np.ndarray

    def components(self) -> np.ndarray:
        """Label ``(T,)`` the connected component of each tile."""
        return component_labels(self.tiles, self.i, self.j)

    def keep(self, chosen: np.ndarray) -> OverlapGraph:
        """Return the graph of some pairs, chosen by a boolean or index array."""
        return OverlapGraph(
            self.tiles, self.i[chosen], self.j[chosen], self.area[chosen], self.fraction[chosen]
        )


def csgraph_array(values: np.ndarray, i: np.ndarray, j: np.ndarray, tiles: int) -> csr_array:
    """Return a sparse matrix for `scipy.sparse.csgraph`, which before 1.13 needs 32-bit indices."""
    indices = i.astype(np.int32), j.astype(np.int32)
    return coo_array((values, indices), shape=(tiles, tiles)).tocsr()


def component_labels(tiles: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Label ``(tiles,)`` the component of each tile, in the order of their first tiles."""
    graph = csgraph_array(np.ones(len(i)), i, j, tiles)
    _, labels = connected_components(graph, directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def loose_ends(tiles: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return which pairs ``(P,)`` are parts of chains that end in a tile without other pairs.

    Nothing contradicts them.
    """
    loose, ends, pair = np.zeros(len(i), dtype=bool), np.r_[i, j], np.tile(np.arange(len(i)), 2)
    count = np.bincount(ends, minlength=tiles)
    # The sum of the pairs of a tile is its pair where only one is left.
    left = np.bincount(ends, pair, minlength=tiles).astype(np.intp)
    last = np.flatnonzero(count == 1).tolist()
    while last:
        tile = last.pop()
        if count[tile] != 1:  # another end had the same pair
            continue
        number = left[tile]
        loose[number] = True
        for end in (i[number], j[number]):
            count[end] -= 1
            left[end] -= number
            if count[end] == 1:
                last.append(end)
    return loose


def find_overlaps(corners: np.ndarray, min_fraction: float = 0.0) -> OverlapGraph:
    """Find all pairs of footprints that overlap on the sky.

    Parameters
    ----------
    corners : ndarray
        ``(T, 4, 2)`` float64: right ascension and declination in degrees of the corners of
        each tile, in order around it. The footprint is the convex quadrilateral of great
        circles between them. A tile with a NaN overlaps nothing.
    min_fraction : float
        Smaller overlaps are left out; a fraction of the smaller footprint.

    Returns
    -------
    OverlapGraph
    """
    footprints = _Footprints.of(corners)
    own = polygon_areas(footprints.units)
    batches = [np.empty((4, 0))]
    for i, j in _candidates(footprints):
        shared = _kernels.overlap_areas(footprints.units, footprints.inward, i, j)
        smaller = np.minimum(own[i], own[j])
        fraction = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
        overlap = (shared > 0) & (fraction >= min_fraction)
        batches.append(np.stack([i, j, np.rad2deg(np.rad2deg(shared)), fraction])[:, overlap])
    i, j, area, fraction = np.concatenate(batches, axis=1)
    graph = OverlapGraph(len(corners), i.astype(int), j.astype(int), area, fraction)
    return graph.keep(np.lexsort((j, i)))


@dataclass(frozen=True, eq=False)
class _Footprints:
    """Footprints of T tiles as unit vectors.

    Parameters
    ----------
    units, inward : ndarray
        ``(T, 4, 3)`` corners, and inward normals of the great circles along the sides.
    centre : ndarray
        ``(T, 3)``.
    radius : ndarray
        ``(T,)`` largest distance (chord) of a corner from the centre.
    usable : ndarray
        Int indices of the tiles without a NaN; all others have corners of zeros.
    """

    units: np.ndarray
    inward: np.ndarray
    centre: np.ndarray
    radius: np.ndarray
    usable: np.ndarray

    @classmethod
    def of(cls, corners: np.ndarray) -> _Footprints:
        """Convert corners ``(T, 4, 2)`` in degrees."""
        units = unit_vectors(np.deg2rad(corners))
        usable = np.flatnonzero(np.isfinite(units).all(axis=(1, 2)))
        units = np.nan_to_num(units)
        centre = units.sum(axis=1)
        centre /= np.maximum(np.linalg.norm(centre, axis=1), 1e-300)[:, None]
        radius = np.linalg.norm(units - centre[:, None], axis=2).max(axis=1)
        return cls(units, inward_normals(units, centre), centre, radius, usable)

    def touching(self, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the pairs whose circles meet, up to `CANDIDATES` at a time."""
        distance = np.linalg.norm(self.centre[i] - self.centre[j], axis=1)
        close = np.flatnonzero(distance <= self.radius[i] + self.radius[j])
        for start in range(0, len(close), CANDIDATES):
            batch = close[start : start + CANDIDATES]
            yield i[batch], j[batch]


def _candidates(footprints: _Footprints) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield once each pair i < j of footprints whose circles meet, in batches.

    All pairs of few tiles are tried. The footprints of many are sorted into classes by the power of
    two of their radius, with a tree of centres for each class, and searched for in the trees of
    their own class and of the smaller ones. So a huge footprint finds all within it, but does not
    widen the search of any other.
    """
    usable, radius = footprints.usable, footprints.radius
    if len(usable) <= FEW_TILES:
        yield from footprints.touching(*usable[np.stack(np.triu_indices(len(usable), 1))])
        return
    from scipy.spatial import cKDTree

    octave = np.frexp(np.maximum(radius, 1e-12))[1]
    for size in np.unique(octave[usable]):
        small = usable[octave[usable] == size]
        large = usable[octave[usable] >= size]
        tree = cKDTree(footprints.centre[small])
        reach = radius[large] + radius[small].max()
        count = tree.query_ball_point(footprints.centre[large], reach, return_length=True)
        for batch in _batches(count):
            hits = tree.query_ball_point(footprints.centre[large[batch]], reach[batch])
            near = small[np.fromiter(chain.from_iterable(hits), int, count[batch].sum())]
            tile = np.repeat(large[batch], count[batch])
            once = (octave[tile] > size) | (tile < near)
            yield from footprints.touching(
                np.minimum(tile, near)[once], np.maximum(tile, near)[once]
            )


def _batches(count: np.ndarray) -> list[np.ndarray]:
    """Split the indices of `count` into runs with a total count of about `CANDIDATES` each."""
    run = np.cumsum(count) // CANDIDATES
    return np.split(np.arange(len(count)), np.flatnonzero(np.diff(run)) + 1)


def prune(graph: OverlapGraph, neighbours: int) -> OverlapGraph:
    """Keep the largest overlaps of each tile, and each component connected.

    A pair stays if it is among the `neighbours` largest overlaps of either of its tiles, or in the
    maximum spanning tree. 0 keeps all pairs.
    """
    if neighbours == 0 or not len(graph.i):
        return graph
    return graph.keep(_among_largest(graph, neighbours) | _in_spanning_tree(graph))


def _among_largest(graph: OverlapGraph, neighbours: int) -> np.ndarray:
    """Find the pairs ``(P,)`` among the largest overlaps of either of their tiles."""
    pairs = np.arange(len(graph.i))
    pair, tile = np.r_[pairs, pairs], np.r_[graph.i, graph.j]
    order = np.lexsort((pair, -graph.area[pair], tile))
    tile = tile[order]
    first = np.flatnonzero(np.r_[True, tile[1:] != tile[:-1]])
    rank = np.arange(len(tile)) - np.repeat(first, np.diff(np.r_[first, len(tile)]))
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[pair[order][rank < neighbours]] = True
    return chosen


def _in_spanning_tree(graph: OverlapGraph) -> np.ndarray:
    """Find the pairs ``(P,)`` in the spanning tree of the largest overlaps."""
    pairs = len(graph.i)
    # Ranks instead of areas: equal areas have an order, and no cost is 0, which means "no edge".
    cost = np.empty(pairs)
    cost[np.lexsort((np.arange(pairs), -graph.area))] = np.arange(1, pairs + 1)
    costs = csgraph_array(cost, graph.i, graph.j, graph.tiles)
    return np.isin(cost, minimum_spanning_tree(costs).data)


def repetition(graph: OverlapGraph, corners: np.ndarray) -> np.ndarray:
    """Compute the redundancy of the pairs, the factor by which their variances have to grow.

    The m (m - 1) / 2 pairs of m tiles that lie on top of each other share the noise of m tiles.
    Only m - 1 of them are independent, so each pair counts as 2 / m of a pair there.

    Parameters
    ----------
    graph : OverlapGraph
        The measured pairs.
    corners : ndarray
        ``(T, 4, 2)`` as for `find_overlaps`.

    Returns
    -------
    ndarray
        ``(P,)`` mean of m / 2 over each overlap; 1 without a third tile.
    """
    factor = np.ones(len(graph.i))
    units = np.nan_to_num(unit_vectors(np.deg2rad(corners)))
    inward = inward_normals(units, units.sum(axis=1))
    area = np.maximum(np.deg2rad(np.deg2rad(graph.area)), 1e-300)
    overlaps = clip_polygons(units[graph.i], inward[graph.j])
    for triangle in _triangles(graph):
        ij, jk, _ = triangle
        shared = _kernels.overlap_areas(overlaps, inward, ij, graph.j[jk])
        for pair in triangle:
            np.add.at(factor, pair, shared / area[pair] / 2)
    return factor


def _triangles(graph: OverlapGraph) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the indices of the pairs (i, j), (j, k) and (i, k) of all i < j < k, in batches."""
    key = graph.i * graph.tiles + graph.j  # ascending, since pairs are sorted
    degree = np.bincount(np.r_[graph.i, graph.j], minlength=graph.tiles)
    at_i = degree[graph.i] <= degree[graph.j]
    hinge, opposite = np.where(at_i, graph.i, graph.j), np.where(at_i, graph.j, graph.i)
    for pair, side, third in _wedges(graph, hinge):
        wanted = opposite[pair] * graph.tiles + third
        closing = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        closed = key[closing] == wanted
        with_j = np.where(at_i[pair], closing, side)
        with_i = np.where(at_i[pair], side, closing)
        yield pair[closed], with_j[closed], with_i[closed]


def _wedges(
    graph: OverlapGraph, hinge: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pairs (i, j), the pairs that join their hinge to a tile k > j, and k, in batches.

    `hinge` ``(P,)`` is the tile of each pair with fewer neighbours, so a tile with many costs no
    more than others: at most P to the power of 3/2 altogether.
    """
    ends, others = np.r_[graph.i, graph.j], np.r_[graph.j, graph.i]
    order = np.argsort(ends, kind="stable")
    degree = np.bincount(ends, minlength=graph.tiles)
    first = np.cumsum(degree) - degree  # of each tile's neighbours, in `order`
    for batch in _batches(degree[hinge]):
        count = degree[hinge[batch]]
        pair = np.repeat(batch, count)
        along = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        end = order[first[hinge[pair]] + along]
        last = others[end] > graph.j[pair]  # each triangle once, from its (i, j)
        yield pair[last], end[last] % len(hinge), others[end[last]]
