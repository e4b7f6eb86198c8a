"""Sparse symmetric systems of blocks on the graph of a mosaic, solved by nested dissection.

The tiles are halved along the wider side of the mosaic again and again. Those at a cut that have
neighbours beyond it are a separator, which is eliminated after both halves (George 1973, SIAM J.
Num. Anal. 10, 345). Each part becomes one dense front with the columns that remain coupled to it
(Duff and Reid 1983, ACM TOMS 9, 302), so nearly all work is done by dense linear algebra. On the
way back the same fronts give the inverse within each front (Erisman and Tinney 1975, Comm. ACM 18,
177): all variances, and the covariances of the columns of each pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import coo_array, csr_array

LEAF = 48  # nodes of a part that is not divided further
LARGEST_SEPARATOR = 0.4  # of a part: a denser one is not divided


@dataclass(eq=False)
class Front:
    """A part of the nodes, and the columns that it is coupled to.

    Parameters
    ----------
    nodes : ndarray
        Int nodes that are eliminated here.
    children : list of int
        Fronts whose remaining columns are all columns of this one.
    own : int
        Number of columns that are eliminated here.
    columns : ndarray
        Int columns: those eliminated here, then those of later fronts, sorted.
    cliques : ndarray
        Int cliques that are assembled here.
    """

    nodes: np.ndarray
    children: list[int]
    own: int = 0
    columns: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    cliques: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp))


class BlockSystem:
    """The structure of a system whose matrix is a sum of dense blocks, one for each clique.

    Parameters
    ----------
    node : ndarray
        ``(N,)`` int node of each column.
    cliques : ndarray
        ``(P, m)`` int columns of each clique; N stands for none.
    position : ndarray
        ``(nodes, 2)`` float64 positions by which nodes are divided.
    """

    def __init__(self, node: np.ndarray, cliques: np.ndarray, position: np.ndarray) -> None:
        self.size, self.cliques = len(node), cliques
        nodes = len(position)
        node_of = np.append(node, nodes)[cliques]
        columns = np.argsort(node, kind="stable")
        bounds = np.searchsorted(node[columns], np.arange(nodes + 1))
        adjacent = _adjacency(node_of, nodes)
        self.fronts: list[Front] = []
        self._dissect(np.arange(nodes), adjacent, position)
        place = np.zeros(nodes + 1, dtype=np.intp)  # front of each node
        place[-1] = len(self.fronts)
        for number, front in enumerate(self.fronts):
            place[front.nodes] = number
        first = place[node_of].min(axis=1, initial=len(self.fronts))
        by_front = np.argsort(first, kind="stable")
        limits = np.searchsorted(first[by_front], np.arange(len(self.fronts) + 1))
        boundaries: list[np.ndarray] = []
        for number, front in enumerate(self.fronts):
            coupled = [adjacent[front.nodes].indices, *(boundaries[c] for c in front.children)]
            around = np.unique(np.concatenate(coupled))
            boundaries.append(around[place[around] > number])
            parts = [front.nodes, boundaries[-1]]
            own, rest = (
                [place for k in part for place in columns[bounds[k] : bounds[k + 1]].tolist()]
                for part in parts
            )
            front.own = len(own)
            front.columns = np.array([*own, *rest], dtype=np.intp)
            front.cliques = by_front[limits[number] : limits[number + 1]]

    def _dissect(self, part: np.ndarray, adjacent: csr_array, position: np.ndarray) -> list[int]:
        """Append the fronts of some nodes, separators last, and return those without a parent."""
        if not len(part):
            return []
        separator, children = part, []
        if len(part) > LEAF:
            axis = int(np.argmax(np.ptp(position[part], axis=0)))
            ranked = part[np.argsort(position[part, axis], kind="stable")]
            low, high = ranked[: len(part) // 2], ranked[len(part) // 2 :]
            is_high = np.zeros(len(position))
            is_high[high] = 1
            at_cut = (adjacent[low] @ is_high) > 0
            if np.count_nonzero(at_cut) <= LARGEST_SEPARATOR * len(part):
                separator = low[at_cut]
                for half in (low[~at_cut], high):
                    children += self._dissect(np.sort(half), adjacent, position)
        if children and not len(separator):
            return children
        self.fronts.append(Front(np.sort(separator), children))
        return [len(self.fronts) - 1]

    def factorize(self, diagonal: np.ndarray, blocks: np.ndarray) -> BlockFactor:
        """Factorize ``diag(diagonal) + Σ blocks``.

        Parameters
        ----------
        diagonal : ndarray
            ``(N,)``.
        blocks : ndarray
            ``(P, m, m)`` symmetric blocks of the cliques.

        Raises
        ------
        numpy.linalg.LinAlgError
            The matrix is not positive definite.
        """
        where = np.empty(self.size + 1, dtype=np.intp)
        lower, coupling = [], []
        updates: dict[int, np.ndarray] = {}
        for number, front in enumerate(self.fronts):
            size, own = len(front.columns), front.own
            where[front.columns], where[-1] = np.arange(size), size
            matrix = _assemble(where[self.cliques[front.cliques]], blocks[front.cliques], size)
            matrix[np.arange(own), np.arange(own)] += diagonal[front.columns[:own]]
            for child in front.children:
                rest = where[self.fronts[child].columns[self.fronts[child].own :]]
                matrix[rest[:, None], rest] += updates.pop(child)
            lower.append(cholesky(matrix[:own, :own], lower=True, check_finite=False))
            coupling.append(_solve_lower(lower[-1], matrix[:own, own:]))
            updates[number] = matrix[own:, own:] - coupling[-1].T @ coupling[-1]
        return BlockFactor(self, lower, coupling)


@dataclass(frozen=True, eq=False)
class BlockFactor:
    """The Cholesky factor of a `BlockSystem`, front by front.

    Parameters
    ----------
    system : BlockSystem
        Its structure.
    lower, coupling : list of ndarray
        ``(n, n)`` factor of the own columns of each front, and ``(n, r)`` of the remaining ones.
    """

    system: BlockSystem
    lower: list[np.ndarray]
    coupling: list[np.ndarray]

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve for one right-hand side ``(N,)`` or several ``(N, k)``."""
        fronts = list(zip(self.system.fronts, self.lower, self.coupling, strict=True))
        solution = right.copy()
        for front, lower, coupling in fronts:
            own, rest = np.split(front.columns, [front.own])
            part = _solve_lower(lower, solution[own])
            solution[own] = part
            solution[rest] -= coupling.T @ part
        for front, lower, coupling in reversed(fronts):
            own, rest = np.split(front.columns, [front.own])
            part = solution[own] - coupling @ solution[rest]
            solution[own] = _solve_lower(lower, part, transposed=True)
        return solution

    def log_determinant(self) -> float:
        """Return the logarithm of the determinant."""
        return 2 * sum(float(np.log(lower.diagonal()).sum()) for lower in self.lower)

    def inverse_diagonal(self) -> np.ndarray:
        """Compute the diagonal ``(N,)`` of the inverse."""
        diagonal = np.empty(self.system.size)
        for front, inverse in self._inverses():
            diagonal[front.columns[: front.own]] = inverse.diagonal()[: front.own]
        return diagonal

    def inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute the diagonal ``(N,)`` and the blocks ``(P, m, m)`` of the inverse."""
        cliques = self.system.cliques
        diagonal = np.empty(self.system.size)
        blocks = np.zeros((*cliques.shape, cliques.shape[1]))
        where = np.empty(self.system.size + 1, dtype=np.intp)
        for front, inverse in self._inverses():
            size = len(front.columns)
            diagonal[front.columns[: front.own]] = inverse.diagonal()[: front.own]
            where[front.columns], where[-1] = np.arange(size), size
            padded = np.pad(inverse, (0, 1))
            index = where[cliques[front.cliques]]
            blocks[front.cliques] = padded[index[:, :, None], index[:, None, :]]
        return diagonal, blocks

    def _inverses(self) -> Iterator[tuple[Front, np.ndarray]]:
        """Yield each front, from the last to the first, with the inverse at its columns."""
        fronts = self.system.fronts
        passed_down: dict[int, np.ndarray] = {}
        where = np.empty(self.system.size, dtype=np.intp)
        for number in range(len(fronts) - 1, -1, -1):
            front, own, size = fronts[number], fronts[number].own, len(fronts[number].columns)
            outer = passed_down.pop(number, np.empty((0, 0)))
            inverse = np.empty((size, size))
            root = _solve_lower(self.lower[number], np.eye(own))
            ratio = root.T @ self.coupling[number]
            across = -ratio @ outer
            inverse[:own, :own] = root.T @ root - across @ ratio.T
            inverse[:own, own:], inverse[own:, :own] = across, across.T
            inverse[own:, own:] = outer
            where[front.columns] = np.arange(size)
            for child in front.children:
                rest = where[fronts[child].columns[fronts[child].own :]]
                passed_down[child] = inverse[rest[:, None], rest]
            yield front, inverse


def _adjacency(cliques: np.ndarray, nodes: int) -> csr_array:
    """Return the matrix of nodes that share a clique, ``(nodes, nodes)``.

    `cliques` ``(P, m)`` are nodes, or the number of nodes for none.
    """
    distinct = np.unique(np.sort(cliques, axis=1), axis=0) if len(cliques) else cliques
    changed = np.ones(distinct.shape, dtype=bool)
    changed[:, 1:] = distinct[:, 1:] != distinct[:, :-1]
    clique, place = np.nonzero(changed & (distinct < nodes))
    member = coo_array(
        (np.ones(len(clique)), (clique, distinct[clique, place])), shape=(len(distinct), nodes)
    ).tocsr()
    return (member.T @ member).tocsr()


def _solve_lower(lower: np.ndarray, right: np.ndarray, transposed: bool = False) -> np.ndarray:
    """Solve ``L x = right``, or ``Lᵀ x = right``; scipy before 1.14 refuses an empty right side."""
    if not right.size:
        return right
    return solve_triangular(lower, right, lower=True, trans=int(transposed), check_finite=False)


def _assemble(index: np.ndarray, blocks: np.ndarray, size: int) -> np.ndarray:
    """Return the sum ``(size, size)`` of blocks at rows and columns ``(P, m)``, `size` for none."""
    flat = (index[:, :, None] * (size + 1) + index[:, None, :]).ravel()
    total = np.bincount(flat, blocks.ravel(), (size + 1) ** 2)
    return np.array(total.reshape(size + 1, size + 1)[:size, :size], dtype=float)
