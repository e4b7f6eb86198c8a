"""Factors of sparse symmetric matrices, and the diagonal of their inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu


def factorize(matrix: csc_array) -> Any:
    """Factorize a symmetric positive definite matrix as ``L D Lᵀ``, without pivoting.

    The matrix is permuted symmetrically by minimum degree, which keeps the fill-in of a mosaic's
    graph small. SuperLU's symmetric mode is no faster, and with it the last bits of one component
    depend on another.
    """
    # SuperLU has 32-bit indices, to which splu itself converts from scipy 1.12 on.
    indices, starts = (a.astype(np.int32, copy=False) for a in (matrix.indices, matrix.indptr))
    matrix = csc_array((matrix.data, indices, starts), shape=matrix.shape)
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0)


def inverse_diagonal(matrix: csc_array, factor: Any) -> np.ndarray:
    """Compute the exact diagonal of the inverse of a symmetric positive definite matrix.

    Of the inverse Z of ``L D Lᵀ`` only the entries in the pattern of L are computed, last column
    first (Takahashi, Fagan and Chen 1973; Erisman and Tinney 1975, Comm. ACM 18, 177). For the
    columns J of a supernode with the rows R below them, and ``Y = L_RJ L_JJ⁻¹``::

        Z_RJ = - Z_RR Y          Z_JJ = L_JJ⁻ᵀ D_J⁻¹ L_JJ⁻¹ + Yᵀ Z_RR Y

    R is a subset of the rows of the supernode's parent in the elimination tree, which passes Z_RR
    down as a dense block: as many operations as the factorization, and no more memory.

    Parameters
    ----------
    matrix : csc_array
        ``(N, N)``.
    factor : SuperLU
        As returned by `factorize`.

    Returns
    -------
    ndarray
        ``(N,)``.
    """
    columns, pivots = fill_pattern(matrix, factor.L), factor.U.diagonal()
    tree = _EliminationTree.of(columns)
    diagonal = np.zeros(len(pivots))
    passed_down: dict[int, np.ndarray] = {}
    for node in range(len(tree.first) - 1, -1, -1):
        begin, end = tree.first[node], tree.last[node] + 1
        inverse = _inverse_blocks(columns, pivots, begin, end, passed_down.pop(node, None))
        diagonal[begin:end] = inverse.own.diagonal()
        children = tree.children(node)
        if children:
            rows, front = columns.rows_of(begin), inverse.assembled()
            for child in children:
                place = np.searchsorted(rows, columns.rows_of(tree.last[child])[1:])
                passed_down[child] = front[place[:, None], place]
    return diagonal[factor.perm_c]


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of L, with the zeros that belong to its pattern.

    Parameters
    ----------
    pointers : ndarray
        ``(N + 1,)`` int start of each column in `rows` and `values`.
    rows : ndarray
        ``(nnz,)`` int row of each entry, sorted within each column; the diagonal comes first.
    values : ndarray
        ``(nnz,)``.
    """

    pointers: np.ndarray
    rows: np.ndarray
    values: np.ndarray

    def rows_of(self, column: int) -> np.ndarray:
        """Rows of a column, its own first."""
        return self.rows[self.pointers[column] : self.pointers[column + 1]]


def fill_pattern(matrix: csc_array, lower: csc_array) -> Columns:
    """Restore the entries of the factor's pattern that SuperLU drops because they are zero.

    The factor of a matrix with the same pattern, diagonally dominant and negative elsewhere, has
    no accidental zeros.
    """
    degree = np.diff(matrix.indptr)
    dominant = csc_array((np.full(matrix.nnz, -1.0), matrix.indices, matrix.indptr), matrix.shape)
    dominant.setdiag(degree.astype(float))
    full = factorize(dominant).L
    full.sort_indices()
    lower.sort_indices()
    if full.nnz == lower.nnz:
        return Columns(full.indptr, full.indices, lower.data)
    values = np.zeros(full.nnz)
    values[np.searchsorted(_entry_keys(full), _entry_keys(lower))] = lower.data
    return Columns(full.indptr, full.indices, values)


def _entry_keys(matrix: csc_array) -> np.ndarray:
    """Number ``(nnz,)`` the entries of a square matrix by column, then row."""
    size = matrix.shape[1]
    start = np.arange(size, dtype=np.int64) * size
    return matrix.indices + np.repeat(start, np.diff(matrix.indptr))


@dataclass(frozen=True, eq=False)
class _EliminationTree:
    """Supernodes of a factor, columns with a common pattern, and their tree.

    `first` and `last` ``(S,)`` are the columns of each supernode, `by_parent` ``(S,)`` the
    supernodes sorted by parent, and `bounds` ``(S + 1,)`` the range of each parent therein.
    """

    first: np.ndarray
    last: np.ndarray
    by_parent: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, columns: Columns) -> _EliminationTree:
        """Find the supernodes of a factor."""
        count = np.diff(columns.pointers)
        below = np.full(len(count), -1)  # row of the first entry under the diagonal
        below[count > 1] = columns.rows[columns.pointers[:-1][count > 1] + 1]
        same_pattern = (below[:-1] == np.arange(1, len(count))) & (count[:-1] == count[1:] + 1)
        first = np.flatnonzero(np.r_[True, ~same_pattern])
        last = np.r_[first[1:], len(count)] - 1
        supernode = np.repeat(np.arange(len(first)), last - first + 1)
        parent = np.where(below[last] >= 0, supernode[below[last]], -1)
        by_parent = np.argsort(parent, kind="stable")
        bounds = np.searchsorted(parent[by_parent], np.arange(len(first) + 1))
        return cls(first, last, by_parent, bounds)

    def children(self, node: int) -> list[int]:
        """Supernodes with this parent."""
        return self.by_parent[self.bounds[node] : self.bounds[node + 1]].tolist()


@dataclass(frozen=True, eq=False)
class _InverseBlocks:
    """The inverse on the rows of a supernode, in blocks.

    `own` is Z_JJ, `across` Z_JR and `outer` Z_RR; the last two are None without rows below.
    """

    own: np.ndarray
    across: np.ndarray | None
    outer: np.ndarray | None

    def assembled(self) -> np.ndarray:
        """Return the inverse on all rows of the supernode as one array."""
        if self.across is None or self.outer is None:
            return self.own
        width, size = len(self.own), len(self.own) + len(self.outer)
        front = np.empty((size, size))
        front[:width, :width], front[width:, width:] = self.own, self.outer
        front[:width, width:], front[width:, :width] = self.across, self.across.T
        return front


def _inverse_blocks(
    columns: Columns, pivots: np.ndarray, begin: int, end: int, outer: np.ndarray | None
) -> _InverseBlocks:
    """Compute the inverse on the columns from `begin` to `end`, given Z_RR."""
    own, y_transposed = _eliminated(columns, pivots, begin, end)
    if outer is None:
        return _InverseBlocks(own, None, None)
    across = -y_transposed @ outer
    return _InverseBlocks(own - across @ y_transposed.T, across, outer)


def _eliminated(
    columns: Columns, pivots: np.ndarray, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``L_JJ⁻ᵀ D_J⁻¹ L_JJ⁻¹`` and ``Yᵀ`` for the columns from `begin` to `end`."""
    pointers, width = columns.pointers, end - begin
    if width == 1:
        below = columns.values[None, pointers[begin] + 1 : pointers[end]]
        return 1 / pivots[begin:end, None], below
    rows = pointers[begin + 1] - pointers[begin]
    transposed = np.zeros((width, rows))
    in_pattern = np.arange(rows) >= np.arange(width)[:, None]
    transposed[in_pattern] = columns.values[pointers[begin] : pointers[end]]
    inverse = np.linalg.inv(transposed[:, :width])
    return (inverse / pivots[begin:end]) @ inverse.T, inverse @ transposed[:, width:]
