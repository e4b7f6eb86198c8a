"""The fronts of a sparse symmetric system, and the places of their numbers.

Each part of a dissection becomes a dense front: the columns eliminated there, and the columns of
later fronts that remain coupled to them (Duff and Reid 1983, ACM TOMS 9, 302).
"""

from __future__ import annotations

import numpy as np

from .._kernels.fronts import Fronts
from .dissection import Dissection, sorted_unique


def front_tree(dissection: Dissection, node: np.ndarray, cliques: np.ndarray) -> Fronts:
    """Lay out the fronts of a system whose matrix is a sum of dense blocks.

    Parameters
    ----------
    dissection : Dissection
        The order of the nodes.
    node : ndarray
        ``(N,)`` int node of each column.
    cliques : ndarray
        ``(P, m)`` int columns that each block couples; N stands for none.
    """
    number, parent = dissection.front[node], dissection.parent
    size, fronts = len(number), len(parent)
    eliminated = np.argsort(number, kind="stable")
    rank = np.empty(size, dtype=np.intp)
    rank[eliminated] = np.arange(size)
    later = np.append(number, fronts)[cliques]
    first = later.min(axis=1, initial=fronts)
    front, column = _members(number, parent, first, cliques)
    # Own columns first, then the others as they will be eliminated.
    key = np.sort(front * (size + 1) + rank[column])
    front, ranked = np.divmod(key, size + 1)
    column = eliminated[ranked]
    start = np.searchsorted(front, np.arange(fronts + 1))
    above, place = _places(key, start, rank, front, column, parent, number, first, cliques)
    return Fronts(
        _table(np.bincount(number, minlength=fronts), np.diff(start), start, parent, first),
        column, above,
        np.argsort(parent, kind="stable")[np.count_nonzero(parent < 0) :],
        np.argsort(first, kind="stable")[: np.count_nonzero(first < fronts)], place,
    )  # fmt: skip


def _places(
    key: np.ndarray,
    start: np.ndarray,
    rank: np.ndarray,
    front: np.ndarray,
    column: np.ndarray,
    parent: np.ndarray,
    number: np.ndarray,
    first: np.ndarray,
    cliques: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of each front's columns in its parent, and of each clique's columns.

    The entries of all lists of columns have ascending keys, from the front and the rank of the
    column; `start` is the first of each front.
    """
    size = len(number)

    def places(of_front: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found = np.searchsorted(key, of_front * (size + 1) + rank[columns])
        return np.asarray(found - start[of_front])

    above, place = np.full(len(column), -1), np.full(cliques.shape, -1)
    rest = (number[column] != front) & (parent[front] >= 0)
    above[rest] = places(parent[front[rest]], column[rest])
    used = cliques < size
    place[used] = places(np.broadcast_to(first[:, None], used.shape)[used], cliques[used])
    return above, place


def _members(
    number: np.ndarray, parent: np.ndarray, first: np.ndarray, cliques: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return front and column of all entries of the lists of columns, each once.

    A front has the columns of its cliques, and those that its children do not eliminate.
    """
    fronts, size = len(parent), len(number)
    level = np.zeros(fronts, dtype=np.intp)  # below the root
    for k in range(fronts - 1, -1, -1):
        level[k] = level[parent[k]] + 1 if parent[k] >= 0 else 0
    of_cliques = (first[:, None] * (size + 1) + cliques)[cliques < size]
    pairs = sorted_unique(np.append(of_cliques, number * (size + 1) + np.arange(size)))
    of_level, done = level[pairs // (size + 1)], []
    passed = np.empty(0, dtype=np.int64)
    for depth in range(level.max(initial=-1), -1, -1):
        here = sorted_unique(np.append(pairs[of_level == depth], passed))
        done.append(here)
        front, column = np.divmod(here, size + 1)
        up = number[column] > front
        passed = parent[front[up]] * (size + 1) + column[up]
    every = np.concatenate([*done, passed])
    return every // (size + 1), every % (size + 1)


def _table(
    own: np.ndarray, size: np.ndarray, start: np.ndarray, parent: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Return the table of a `Fronts`, with a last row for the ends."""
    fronts = len(own)
    rest = size - own
    children = np.bincount(parent[parent >= 0], minlength=fronts)
    cliques = np.bincount(first, minlength=fronts + 1)[:fronts]
    # Updates of fronts lie on a stack: the update of a front replaces its children's.
    place, top = np.zeros(fronts + 1, dtype=np.intp), 0
    waiting: list[int] = []
    for front, (below, length) in enumerate(
        zip(children.tolist(), (rest**2).tolist(), strict=True)
    ):
        for _ in range(below):
            top = int(place[waiting.pop()])
        place[front] = top
        waiting.append(front)
        top += length
        place[-1] = max(place[-1], top)
    ends = [np.append(0, np.cumsum(numbers)) for numbers in (children, cliques, own * size)]
    return np.ascontiguousarray(
        np.stack([np.append(own, 0), start, *ends, place, np.append(parent, -1)], axis=1)
    )
