"""Sparse symmetric systems: factors, preconditioned gradients, the diagonal of the inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

ROUNDS = 32  # of reweighting at most
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations
# The first rounds have Huber's weights: after plain least squares a wrong pair has pulled its tile
# so far that Tukey's would give up the right ones, and never take them back.
HUBER, MILD_ROUNDS = 1.345, 6
# Then Tukey's limit comes down from the worst pair: where all pairs of a tile disagree with what
# it was pulled to, those nearest to one another shall win, and not none.
NARROWING = 6  # rounds
LEAST_WEIGHT = 1e-6  # of a pair that disagrees with all others
DIRECT = 3_000  # unknowns up to which every round has a factor of its own
STEADY = 1e-12  # change relative to the largest unknown that ends the rounds; beyond DIRECT:
STEADY_ERRORS = 1e-3  # change of any residual, in its errors; 20 rounds come as far
STEPS = 20  # of conjugate gradients at most, before a new factor is cheaper
GAIN_OF_STEPS = 0.03  # by which they diminish the error of a round


def conjugate(matrix: csc_array, right: np.ndarray, factor: Any) -> np.ndarray | None:
    """Preconditioned conjugate gradients (Hestenes and Stiefel 1952); None: too many steps."""
    solution, rest = np.zeros(len(right)), right
    direction, before, goal = np.zeros(len(right)), np.inf, 0.0
    for step in range(STEPS):
        better = factor.solve(rest)
        now = (rest * better).sum()  # no dot product, whose bits depend on the number of threads
        goal = goal if step else now * GAIN_OF_STEPS**2
        if now <= goal:
            return solution
        direction = better + now / before * direction
        image = matrix @ direction
        length = now / (direction * image).sum()
        solution, rest, before = solution + length * direction, rest - length * image, now
    return None


def factorised(matrix: csc_array) -> Any:
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
    full = factorised(twin).L
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


def robust_least_squares(
    design: csc_array, right: np.ndarray, ridge: np.ndarray, pairs: int, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, csc_array, Any]:
    """Least squares of whitened rows, reweighted by Tukey's biweight, pair by pair.

    Each round solves for the change of the solution: exactly, or, in a large system, by conjugate
    gradients that are preconditioned by the factor of earlier weights, and only as far as the
    next round moves anyway. The last round is exact again.

    Parameters
    ----------
    design : csc_array
        ``(R, N)``: a row for the level of each pair, then perhaps two for its tilts.
    right, ridge : ndarray
        ``(R,)`` right-hand side; ``(N,)`` added to the diagonal of the normal matrix.
    pairs : int
        Number of pairs.
    rounds : int
        At most; 1 is plain least squares.

    Returns
    -------
    solution, rest, chi : ndarray
        ``(N,)``, ``(R,)`` right minus design · solution, ``(P,)`` norm of the rest of each pair.
    scale : float
        By which the errors were too small, judged by the scatter; at least 1.
    normal, factor : csc_array, SuperLU
        ``(N, N)`` normal matrix of the last round, and its factor.
    """
    size, tilts = len(ridge), (len(right) - pairs) // pairs
    diagonal = csc_array((ridge, (np.arange(size), np.arange(size))), shape=(size, size))
    transposed = design.T.tocsr()
    robust, solution, rest = np.ones(pairs), np.zeros(size), right
    factor, then, anew, wide = None, np.zeros(size), True, 1.0
    for turn in range(1, rounds + 1):
        weight = np.concatenate([robust, np.repeat(robust, tilts)])
        weighted = csc_array(
            (design.data * weight[design.indices], design.indices, design.indptr), design.shape
        )
        normal = (transposed @ weighted + diagonal).tocsc()
        gradient = transposed @ (weight * rest) - ridge * solution
        now, change = normal.diagonal(), None
        # An unknown that has lost its weight would drift, since its error costs no energy.
        if not anew and turn < rounds and ((now > then / 2) & (now < then * 10)).all():
            change = conjugate(normal, gradient, factor)
        exact = change is None
        if change is None:
            factor = None  # frees the memory of the last one
            factor, then = factorised(normal), now
            change = factor.solve(gradient)
        solution, before = solution + change, rest
        rest = right - design @ solution
        chi = np.sqrt(
            np.square(np.c_[rest[:pairs], rest[pairs:].reshape(pairs, tilts)]).sum(axis=1)
        )
        if turn <= MILD_ROUNDS:
            robust, scale = reweighted(chi, 1 + tilts, mild=True)
            wide = max(1.0, chi.max() / (scale * BIWEIGHT))
        else:
            narrow = min(1.0, (turn - MILD_ROUNDS) / NARROWING)
            robust, scale = reweighted(chi, 1 + tilts, wide ** (1 - narrow))
        if size <= DIRECT:
            steady = np.abs(change).max() <= STEADY * max(1.0, np.abs(solution).max())
        else:
            steady = np.abs(rest - before).max() <= STEADY_ERRORS
        if steady and exact and turn > MILD_ROUNDS + NARROWING:
            break
        anew = steady or size <= DIRECT
    return solution, rest, chi, scale, normal, factor


def reweighted(
    u: np.ndarray, freedoms: int = 1, wide: float = 1.0, mild: bool = False
) -> tuple[np.ndarray, float]:
    """Weights of residuals in units of their errors, and their scale.

    Huber's if `mild`, else Tukey's with his constant that many times as `wide`.
    """
    usual = {1: 0.6745, 2: 1.1774, 3: 1.5382}[freedoms]  # medians of chi with so many freedoms
    # At least 1: pairs that agree better than their errors are no reason to doubt others.
    scale = max(1.0, float(np.median(u)) / usual)
    if mild:
        return 1 / np.maximum(1, u / (scale * HUBER * usual / 0.6745)), scale
    bend = np.clip(1 - (u / (scale * wide * BIWEIGHT * usual / 0.6745)) ** 2, 0, None) ** 2
    return np.maximum(bend, LEAST_WEIGHT), scale
