"""The order in which the nodes of a graph are eliminated: nested dissection.

The nodes are halved along the wider side of the mosaic again and again. On the side of a cut with
fewer of them, the nodes with neighbours beyond it are a separator, which is eliminated after both
halves (George 1973, SIAM J. Num. Anal. 10, 345). Nodes with very many neighbours are eliminated
last, as by minimum degree (Amestoy, Davis and Duff 1996, SIAM J. Matrix Anal. 17, 886).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ..overlap.graph import csgraph_array

LEAF = 16  # nodes of a part that is not divided further
LARGEST_SEPARATOR = 0.4  # of a part: a denser one is not divided
MANY_NEIGHBOURS = 10.0  # in units of the root of the number of nodes


class Dissection(NamedTuple):
    """A tree of fronts, each a part of the nodes, in postorder.

    Parameters
    ----------
    front : ndarray
        ``(nodes,)`` int front in which each node is eliminated.
    parent : ndarray
        ``(F,)`` int front eliminated next among those coupled to each front; -1 for none.
    """

    front: np.ndarray
    parent: np.ndarray


def dissect(edges: np.ndarray, position: np.ndarray) -> Dissection:
    """Divide the nodes of a graph.

    Parameters
    ----------
    edges : ndarray
        ``(E, 2)`` int coupled nodes, each pair at least once.
    position : ndarray
        ``(nodes, 2)`` float64 positions by which nodes are divided.

    Returns
    -------
    Dissection
    """
    nodes = len(position)
    # Parts are numbered as in a heap: part k is divided into 2 k and 2 k + 1.
    part, done = np.ones(nodes, dtype=np.int64), np.zeros(nodes, dtype=bool)
    neighbours = np.bincount(edges.ravel(), minlength=nodes)
    done |= neighbours > MANY_NEIGHBOURS * np.sqrt(nodes)
    rank = np.empty(position.shape, dtype=np.int64)
    for axis in (0, 1):
        rank[np.argsort(position[:, axis], kind="stable"), axis] = np.arange(nodes)
    todo, (i, j) = np.flatnonzero(~done), edges[edges[:, 0] != edges[:, 1]].T.copy()
    while len(todo):
        apart = np.where(done, -1 - np.arange(nodes), part)  # each done node
        inside = apart[i] == apart[j]
        i, j = i[inside], j[inside]
        is_high, divided = _halve(todo, part, position, rank)
        in_separator = _separators(todo, part, (i, j), is_high)
        divided &= _shares(part[todo], in_separator[todo]) <= LARGEST_SEPARATOR
        done[todo] = in_separator[todo] | ~divided
        todo = todo[~done[todo]]
        part[todo] = 2 * part[todo] + is_high[todo]
    return _in_postorder(part)


def coupled_nodes(cliques: np.ndarray, nodes: int) -> np.ndarray:
    """Return the pairs ``(E, 2)`` of nodes sharing a clique ``(P, m)``; -1 for none."""
    members = np.sort(cliques, axis=1)
    members[:, 1:][members[:, 1:] == members[:, :-1]] = -1
    distinct = int((members >= 0).sum(axis=1).max(initial=0))
    members = np.sort(members, axis=1)[:, members.shape[1] - distinct :]
    keys = [np.empty(0, dtype=np.intp)]
    for a, b in zip(*np.triu_indices(distinct, 1), strict=True):
        both = members[members[:, a] >= 0]  # the larger one exists too
        keys.append(both[:, a] * nodes + both[:, b])
    return np.stack(np.divmod(sorted_unique(np.concatenate(keys)), nodes), axis=1)


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """Return the distinct integers in ascending order, sooner than `numpy.unique`."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]


def _halve(
    todo: np.ndarray, part: np.ndarray, position: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes ``(nodes,)`` are in the upper half of their part, and of which parts.

    The latter is for each node of `todo` whether its part is large enough to be divided. `rank`
    ``(nodes, 2)`` is the order of positions along each axis; all keys that are sorted differ.
    """
    sizes = np.bincount(part[todo])
    count = sizes[sizes > 0]
    label = (np.cumsum(sizes > 0) - 1)[part[todo]]
    first = np.cumsum(count) - count
    places = position[todo[np.argsort(label * len(part) + todo)]]
    extent = np.maximum.reduceat(places, first) - np.minimum.reduceat(places, first)
    order = np.argsort(label * len(part) + rank[todo, np.argmax(extent, axis=1)[label]])
    beyond = np.arange(len(todo)) - first[label[order]]
    is_high = np.zeros(len(part), dtype=bool)
    is_high[todo[order]] = beyond >= count[label[order]] // 2
    return is_high, count[label] > LEAF


def _separators(
    todo: np.ndarray, part: np.ndarray, ends: tuple[np.ndarray, np.ndarray], is_high: np.ndarray
) -> np.ndarray:
    """Return the nodes ``(nodes,)`` at the cut of their part, on the side with fewer of them."""
    cut = is_high[ends[0]] != is_high[ends[1]]
    at_cut = np.zeros(len(part), dtype=bool)
    at_cut[ends[0][cut]] = at_cut[ends[1][cut]] = True
    low, high = (_shares(part[todo], at_cut[todo] & (is_high[todo] == side)) for side in (0, 1))
    chosen = np.zeros(len(part), dtype=bool)
    chosen[todo] = at_cut[todo] & (is_high[todo] == (high < low))
    return chosen


def _shares(part: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the share of chosen nodes in the part of each node."""
    share = np.bincount(part, chosen) / np.maximum(np.bincount(part), 1)
    return np.asarray(share[part])


def _in_postorder(part: np.ndarray) -> Dissection:
    """Number the parts with nodes in postorder."""
    used, front = np.unique(part, return_inverse=True)
    depth = np.frexp(used.astype(float))[1] - 1
    deepest = depth.max(initial=0)
    last = ((used + 1) << (deepest - depth)) - 1  # of the deepest parts in each
    order = np.lexsort((-depth, last))
    number = np.empty(len(used), dtype=np.intp)
    number[order] = np.arange(len(used))
    parent, above = np.full(len(used), -1), used >> 1
    for _ in range(int(deepest)):
        place = np.minimum(np.searchsorted(used, above), len(used) - 1)
        found = (used[place] == above) & (parent < 0)
        parent[found] = number[place[found]]
        above = above >> 1
    return Dissection(number[front], parent[order])


def graph_positions(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Return positions ``(nodes, 2)`` of the nodes of a graph: distances from two far nodes.

    A cut by distance from one node separates the graph by one level of its neighbourhood (George
    and Liu 1978, SIAM J. Num. Anal. 15, 1053). Components lie beyond each other.
    """
    graph = csgraph_array(np.ones(len(edges)), edges[:, 0], edges[:, 1], nodes)
    count, component = connected_components(graph, directed=False)
    by_component = np.argsort(component, kind="stable")
    last = np.searchsorted(component[by_component], np.arange(count), side="right") - 1
    distance, both = np.zeros(nodes, dtype=np.intp), []
    for _ in range(3):  # the first distance finds the first far node
        farthest = np.lexsort((distance, component))[last]
        distance = _distances(edges, farthest, nodes)
        both.append(distance)
    beyond = np.cumsum(both[1][np.lexsort((both[1], component))[last]] + 1)
    return np.stack([both[1] + np.append(0, beyond)[component], both[2]], axis=1).astype(float)


def _distances(edges: np.ndarray, sources: np.ndarray, nodes: int) -> np.ndarray:
    """Count the edges ``(nodes,)`` from each node to the source in its component."""
    ends = np.concatenate([edges, np.stack([sources, np.full(len(sources), nodes)], axis=1)])
    graph = csgraph_array(np.ones(len(ends)), ends[:, 0], ends[:, 1], nodes + 1)
    towards = breadth_first_order(graph, nodes, directed=False)[1]
    towards[nodes] = nodes
    steps = (np.arange(nodes + 1) != nodes).astype(np.intp)
    while (towards != nodes).any():
        steps += steps[towards]
        towards = towards[towards]
    return steps[:nodes] - 1
