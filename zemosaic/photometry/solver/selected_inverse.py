"""Factors of sparse symmetric matrices, and the diagonal of their inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu


def factorize(matrix: csc_array) -> Any:
    """LU of a symmetric positive definite matrix, without pivoting: L, and D times its transpose.

    Permuted symmetrically, by minimum degree: the fill of a mosaic's graph is small. SuperLU's
    symmetric mode is no quicker, and lets one component move the last bits of another.
    """
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0)


def inverse_diagonal(matrix: csc_array, factor: Any) -> np.ndarray:
    """Diagonal ``(N,)`` of the inverse of a symmetric positive definite matrix: exact.

    Of the inverse Z of ``L D Lᵀ`` only the entries where L has some are worked out, last column
    first (Takahashi, Fagan and Chen 1973; Erisman and Tinney 1975, Comm. ACM 18, 177). For the
    columns J of a supernode with the rows R below them, and ``Y = L_RJ L_JJ⁻¹``::

        Z_RJ = - Z_RR Y          Z_JJ = L_JJ⁻ᵀ D_J⁻¹ L_JJ⁻¹ + Yᵀ Z_RR Y

    R lies within the rows of the supernode's parent in the elimination tree, which hands Z_RR
    down as a dense block: as many operations as the factor took, and no more memory.
    """
    lower, pivots = factor.L, factor.U.diagonal()
    pointers, indices, values = filled(matrix, lower)
    size, count = len(pivots), np.diff(pointers)
    below = np.full(size, -1)
    below[count > 1] = indices[pointers[:-1][count > 1] + 1]
    joined = (below[:-1] == np.arange(1, size)) & (count[:-1] == count[1:] + 1)
    first = np.flatnonzero(np.r_[True, ~joined])
    last = np.r_[first[1:], size] - 1
    owner = np.repeat(np.arange(len(first)), last - first + 1)
    parent = np.where(below[last] >= 0, owner[below[last]], -1)
    by_parent = np.argsort(parent, kind="stable")
    of_parent = np.searchsorted(parent[by_parent], np.arange(len(first) + 1))
    diagonal = np.zeros(size)
    handed: dict[int, np.ndarray] = {}
    for node in range(len(first) - 1, -1, -1):
        begin, end = first[node], last[node] + 1
        width, rows = end - begin, indices[pointers[begin] : pointers[begin + 1]]
        if width > 1:  # the block is the transpose of L's columns
            block = np.zeros((width, len(rows)))
            within = np.arange(len(rows)) >= np.arange(width)[:, None]
            block[within] = values[pointers[begin] : pointers[end]]
            inverse = np.linalg.inv(block[:, :width])
            own, y = (inverse / pivots[begin:end]) @ inverse.T, inverse @ block[:, width:]
        else:
            own, y = 1 / pivots[begin:end, None], values[None, pointers[begin] + 1 : pointers[end]]
        outer = handed.pop(node, None)
        if outer is not None:
            across = -y @ outer
            own = own - across @ y.T
        diagonal[begin:end] = own.diagonal()
        children = by_parent[of_parent[node] : of_parent[node + 1]]
        if len(children):
            front = np.empty((len(rows), len(rows)))
            front[:width, :width] = own
            if outer is not None:
                front[:width, width:], front[width:, :width] = across, across.T
                front[width:, width:] = outer
            for child in children.tolist():
                inner = indices[pointers[last[child]] + 1 : pointers[last[child] + 1]]
                place = np.searchsorted(rows, inner)
                handed[child] = front[place[:, None], place]
    return diagonal[factor.perm_c]


def filled(matrix: csc_array, lower: csc_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointers, rows and values of L with the zeros that SuperLU leaves out put back.

    The factor of a matrix with the same pattern, but dominated by its diagonal and negative
    elsewhere, has no zeros by chance.
    """
    degree = np.diff(matrix.indptr)
    twin = csc_array((np.full(matrix.nnz, -1.0), matrix.indices, matrix.indptr), matrix.shape)
    twin.setdiag(degree.astype(float))
    full = factorize(twin).L
    full.sort_indices()
    lower.sort_indices()
    if full.nnz == lower.nnz:
        return full.indptr, full.indices, lower.data
    column = np.arange(len(degree), dtype=np.int64) * len(degree)
    there = full.indices + np.repeat(column, np.diff(full.indptr))
    here = lower.indices + np.repeat(column, np.diff(lower.indptr))
    values = np.zeros(full.nnz)
    values[np.searchsorted(there, here)] = lower.data
    return full.indptr, full.indices, values
