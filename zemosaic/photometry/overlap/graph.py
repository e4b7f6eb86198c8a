"""Footprints -> overlap graph, and its pruning.

All geometry is that of great circles between unit vectors, so nothing is special at right
ascension 0, at a pole, or about where a reference pixel lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from ..tiles.sky import unit_vectors
from .spherical import _areas, _clipped, _inward_normals, _shared

CANDIDATES = 1 << 16  # pairs or triples whose geometry is worked out at once: bounds the memory


@dataclass(frozen=True, eq=False)
class OverlapGraph:
    """Which tiles overlap, and by how much; pairs in order of (i, j), with i < j.

    Parameters
    ----------
    tiles : int
        Number of tiles.
    i, j : ndarray
        ``(P,)`` int: the two tiles of each pair.
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
        """Label ``(tiles,)`` of the connected component of each tile."""
        return component_labels(self.tiles, self.i, self.j)

    def keep(self, which: np.ndarray) -> OverlapGraph:
        """The graph with some of its pairs, chosen by a boolean or index array."""
        return OverlapGraph(
            self.tiles, self.i[which], self.j[which], self.area[which], self.fraction[which]
        )


def component_labels(tiles: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Label ``(tiles,)`` of each tile's component, counted in the order of their first tiles."""
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(tiles, tiles))
    _, labels = connected_components(graph, directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def find_overlaps(corners: np.ndarray, min_fraction: float = 0.0) -> OverlapGraph:
    """Find all pairs of footprints that overlap on the sky.

    Parameters
    ----------
    corners : ndarray
        ``(T, 4, 2)`` float64: right ascension and declination in degrees of the corners of
        each tile, in order around it; the footprint is the convex quadrilateral of great
        circles between them. A tile with a NaN overlaps nothing.
    min_fraction : float
        Overlaps of less than this fraction of the smaller footprint are left out.

    Returns
    -------
    OverlapGraph
    """
    units = unit_vectors(np.deg2rad(corners))
    tiles = len(units)
    usable = np.flatnonzero(np.isfinite(units).all(axis=(1, 2)))
    units = np.nan_to_num(units)
    centres = units.sum(axis=1)
    centres /= np.maximum(np.linalg.norm(centres, axis=1), 1e-300)[:, None]
    radius = np.linalg.norm(units - centres[:, None], axis=2).max(axis=1)
    inward = _inward_normals(units, centres)
    own = _areas(units)
    found = [np.empty((4, 0))]
    for i, j in _candidates(centres, radius, usable):
        shared = _shared(units, i, inward, j)
        smaller = np.minimum(own[i], own[j])
        fraction = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
        enough = (shared > 0) & (fraction >= min_fraction)
        found.append(np.stack([i, j, np.rad2deg(np.rad2deg(shared)), fraction])[:, enough])
    i, j, area, fraction = np.concatenate(found, axis=1)
    order = np.lexsort((j, i))
    return OverlapGraph(tiles, i.astype(int), j.astype(int), area, fraction).keep(order)


def _candidates(
    centres: np.ndarray, radius: np.ndarray, usable: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j of footprints whose circles meet, each once, some at a time.

    Footprints are sorted into classes by the power of two of their radius, with a tree of
    centres for each class, and asked for in the trees of their own class and of the smaller ones:
    a huge footprint finds what lies within it, and widens the search of no other.
    """
    octave = np.frexp(np.maximum(radius, 1e-12))[1]
    for size in np.unique(octave[usable]):
        small = usable[octave[usable] == size]
        large = usable[octave[usable] >= size]
        tree = cKDTree(centres[small])
        reach = radius[large] + radius[small].max()
        count = tree.query_ball_point(centres[large], reach, return_length=True)
        part = np.cumsum(count) // CANDIDATES
        for chunk in np.split(np.arange(len(large)), np.flatnonzero(np.diff(part)) + 1):
            hits = tree.query_ball_point(centres[large[chunk]], reach[chunk])
            near = small[np.fromiter(chain.from_iterable(hits), int, count[chunk].sum())]
            this = np.repeat(large[chunk], count[chunk])
            once = (octave[this] > size) | (this < near)
            i, j = np.minimum(this, near)[once], np.maximum(this, near)[once]
            close = np.linalg.norm(centres[i] - centres[j], axis=1) <= radius[i] + radius[j]
            for start in range(0, close.sum(), CANDIDATES):
                piece = np.flatnonzero(close)[start : start + CANDIDATES]
                yield i[piece], j[piece]


def prune(graph: OverlapGraph, neighbours: int) -> OverlapGraph:
    """Keep the strongest pairs of each tile, and each component in one piece.

    A pair stays when it is among the `neighbours` largest overlaps of either of its tiles, or
    when it belongs to the maximum spanning tree. 0 keeps all.
    """
    if neighbours == 0 or not len(graph.i):
        return graph
    pairs = np.arange(len(graph.i))
    ends = np.concatenate([graph.i, graph.j])
    both = np.concatenate([pairs, pairs])
    order = np.lexsort((both, -graph.area[both], ends))
    ends = ends[order]
    first = np.flatnonzero(np.r_[True, ends[1:] != ends[:-1]])
    rank = np.arange(len(ends)) - np.repeat(first, np.diff(np.r_[first, len(ends)]))
    keep = np.zeros(len(pairs), dtype=bool)
    keep[both[order][rank < neighbours]] = True
    # Ranks, not areas: equal areas then have an order, and no weight is 0 (which is "no edge").
    cost = np.empty(len(pairs))
    cost[np.lexsort((pairs, -graph.area))] = np.arange(1, len(pairs) + 1)
    tree = minimum_spanning_tree(
        coo_array((cost, (graph.i, graph.j)), shape=(graph.tiles, graph.tiles)).tocsr()
    )
    keep[np.isin(cost, tree.data)] = True
    return graph.keep(keep)


def repetition(graph: OverlapGraph, corners: np.ndarray) -> np.ndarray:
    """How often the pairs of a graph tell the same thing.

    Where m tiles lie over one another, their m (m - 1) / 2 pairs share the noise of m tiles, and
    only m - 1 of them are independent: each pair is worth 2 / m of what it claims there.

    Parameters
    ----------
    graph : OverlapGraph
        The pairs that are measured.
    corners : ndarray
        ``(T, 4, 2)`` as for `find_overlaps`.

    Returns
    -------
    ndarray
        ``(P,)`` mean of m / 2 over each overlap, 1 where no third tile lies: the factor by
        which the variances of the pairs have to grow.
    """
    factor = np.ones(len(graph.i))
    units = np.nan_to_num(unit_vectors(np.deg2rad(corners)))
    inward = _inward_normals(units, units.sum(axis=1))
    area = np.maximum(np.deg2rad(np.deg2rad(graph.area)), 1e-300)
    overlaps = _clipped(units[graph.i], inward[graph.j])
    for triple in _triangles(graph):
        ij, jk, _ = triple
        shared = _shared(overlaps, ij, inward, graph.j[jk])
        for pair in triple:
            np.add.at(factor, pair, shared / area[pair] / 2)
    return factor


def _triangles(graph: OverlapGraph) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs (i, j), (j, k) and (i, k), by their indices, of every i < j < k; some at a time.

    Each pair asks for the neighbours of that of its tiles which has the fewer, so that a tile
    with very many costs no more than others; at most the pairs to the power of 3/2 altogether.
    """
    pairs = np.arange(len(graph.i))
    ends, others = np.r_[graph.i, graph.j], np.r_[graph.j, graph.i]
    key = graph.i * graph.tiles + graph.j
    by_key = np.argsort(key)
    order = np.argsort(ends, kind="stable")
    degree = np.bincount(ends, minlength=graph.tiles)
    first = np.cumsum(degree) - degree
    few = np.where(degree[graph.i] <= degree[graph.j], graph.i, graph.j)
    many = graph.i + graph.j - few
    part = np.cumsum(degree[few]) // CANDIDATES
    for chunk in np.split(pairs, np.flatnonzero(np.diff(part)) + 1):
        count = degree[few[chunk]]
        pair = np.repeat(chunk, count)
        along = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        side = order[first[few[pair]] + along]
        third = others[side]
        last = third > graph.j[pair]  # each triangle once, found from its (i, j)
        pair, side, third = pair[last], side[last] % len(pairs), third[last]
        wanted = many[pair] * graph.tiles + third
        place = np.minimum(np.searchsorted(key, wanted, sorter=by_key), len(key) - 1)
        closing = by_key[place]
        closed = key[closing] == wanted
        pair, side, closing = pair[closed], side[closed], closing[closed]
        straight = few[pair] == graph.i[pair]
        yield pair, np.where(straight, closing, side), np.where(straight, side, closing)
