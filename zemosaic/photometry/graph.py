"""Potentials on a graph from their measured differences: the algebra under the solver.

The normal matrix of such a least squares is the graph's Laplacian, sparse and singular by one
freedom per connected component. One node of each component is grounded, the rest is factorised.
Pairs are weighted anew (Tukey's biweight) until one that disagrees with all others has lost its
say; none loses it whole, so that the graph stays connected.

On the graph of a mosaic, which is nearly plane, all of it grows little faster than the tiles: the
factor with minimum degree ordering, the reweighting (conjugate gradients with a factor of earlier
weights), and the variances, which are exact (the selected inverse of Takahashi).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array, csc_array

from zemosaic.photometry.overlap import component_labels
from zemosaic.photometry.sparse import conjugate, factorised, inverse_diagonal

ROUNDS = 26  # of reweighting at most
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations
# The first rounds have Huber's weights: after plain least squares a wrong pair has pulled its tile
# so far that Tukey's would give up the right ones, and never take them back.
HUBER, MILD_ROUNDS = 1.345, 6
LEAST_WEIGHT = 1e-6  # of a pair that disagrees with all others
DIRECT = 3_000  # unknowns up to which every round has a factor of its own
STEADY = 1e-12  # change relative to the largest unknown that ends the rounds; beyond DIRECT:
STEADY_ERRORS = 1e-3  # change of any residual, in its errors; 20 rounds come as far


def potentials(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    difference: np.ndarray,
    weight: np.ndarray,
    anchor: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Potentials p whose differences p_i - p_j match those measured, robustly.

    Parameters
    ----------
    nodes : int
        Number of potentials.
    i, j : ndarray
        ``(P,)`` int ends of each difference.
    difference, weight : ndarray
        ``(P,)`` measured differences and the inverses of their variances.
    anchor : int or None
        A node whose potential is 0; in other components the mean is 0.

    Returns
    -------
    potential, variance : ndarray
        ``(nodes,)``; the variance of a node without a difference is NaN.
    residual : ndarray
        ``(P,)`` difference minus p_i + p_j.
    """
    label, free, centred = _grounded(nodes, i, j, anchor)
    potential, variance = np.zeros(nodes), np.full(nodes, np.nan)
    if not free.any():
        return potential, variance, difference.copy()
    number, root = np.arange(len(i)), np.sqrt(weight)
    where = np.r_[number, number], np.r_[i, j]
    incidence = coo_array((np.r_[root, -root], where), shape=(len(i), nodes)).tocsc()
    columns = np.flatnonzero(free)
    potential[columns], rest, _, scale, normal, factor = _robust(
        incidence[:, columns], root * difference, np.zeros(len(columns)), len(i)
    )
    diagonal, row_sum = np.zeros((2, nodes))
    diagonal[columns] = inverse_diagonal(normal, factor)
    row_sum[columns] = factor.solve(np.ones(len(columns)))  # stays within components
    mean = np.bincount(label, potential) / np.bincount(label)
    potential -= np.where(centred, mean, 0.0)[label]
    used = np.bincount(np.r_[i, j], minlength=nodes) > 0
    variance[used] = (_projected(diagonal, row_sum, label, centred) * scale**2)[used]
    return potential, variance, rest / root


def vector_potentials(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    level: np.ndarray,
    level_err: np.ndarray,
    tilt: np.ndarray,
    tilt_cov: np.ndarray,
    pivot: np.ndarray,
    centre: np.ndarray,
    anchor: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Planes P whose differences P_i - P_j match measured levels and tilts, robustly.

    Parameters
    ----------
    nodes : int
        Number of planes.
    i, j : ndarray
        ``(P,)`` int ends of each difference.
    level, level_err : ndarray
        ``(P,)`` differences of the planes at the pivots, and their errors.
    tilt, tilt_cov : ndarray
        ``(P, 2)`` and ``(P, 2, 2)``: differences of the slopes, and their covariances; an
        infinite variance is a slope that was not measured.
    pivot : ndarray
        ``(P, 2)`` places of the levels.
    centre : ndarray
        ``(nodes, 2)`` the place at which each plane's level is given.
    anchor : int or None
        A node whose plane is 0. In other components the mean level is 0. Slopes have a prior
        of mean 0, as wide as the measured tilts, which sets what all slopes have in common and
        holds what the overlaps leave open at its least.

    Returns
    -------
    planes : ndarray
        ``(nodes, 3)``: level at the centre, and both slopes.
    variance : ndarray
        ``(nodes,)`` of the levels; NaN without a difference.
    residual, chi : ndarray
        ``(P,)`` residual of the level, and of level and tilt together in units of the errors.
    """
    label, free, centred = _grounded(nodes, i, j, anchor)
    used = np.zeros(nodes, dtype=bool)
    used[np.r_[i, j]] = True
    measured = np.isfinite(tilt_cov).all(axis=(1, 2))
    inverse = np.zeros_like(tilt_cov)
    inverse[measured] = np.linalg.inv(tilt_cov[measured])
    tilt = np.where(measured[:, None], tilt, 0.0)
    spread = np.median(np.square(tilt[measured])) / 0.455 if measured.any() else 0.0
    prior = 1 / max(spread, 1e-12)
    # Columns 3k, 3k + 1, 3k + 2: level and slopes of plane k. Rows: level and tilts of pairs,
    # each whitened by its error.
    root = np.linalg.cholesky(inverse + 1e-30 * np.eye(2)).transpose(0, 2, 1)
    tilting = used.copy()
    if anchor is not None:
        tilting[anchor] = False
    columns = np.flatnonzero(np.stack([free & used, tilting, tilting], axis=1).ravel())
    is_level = columns % 3 == 0
    right = np.concatenate([level / level_err, np.einsum("pab,pb->pa", root, tilt).ravel()])
    solution, rest, chi, scale, normal, factor = _robust(
        _design(nodes, i, j, level_err, root, pivot, centre)[:, columns],
        right,
        np.where(is_level, 0.0, prior),
        len(i),
    )
    planes = np.zeros((nodes, 3))
    planes.ravel()[columns] = solution
    diagonal, row_sum = np.zeros((2, nodes))
    which = columns[is_level] // 3
    diagonal[which] = inverse_diagonal(normal, factor)[is_level]
    row_sum[which] = factor.solve(is_level.astype(float))[is_level]
    mean = np.bincount(label, planes[:, 0]) / np.bincount(label)
    planes[:, 0] -= np.where(centred, mean, 0.0)[label]
    variance = _projected(diagonal, row_sum, label, centred) * scale**2
    variance[~used] = np.nan
    return planes, variance, rest[: len(i)] * level_err, chi / np.sqrt(3)


def _design(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    level_err: np.ndarray,
    root: np.ndarray,
    pivot: np.ndarray,
    centre: np.ndarray,
) -> csc_array:
    """Rows of whitened levels and tilts; columns of levels and slopes of all planes."""
    pairs = len(i)
    number = np.arange(pairs)
    rows, columns, values = [], [], []
    for node, sign in ((i, 1.0), (j, -1.0)):
        lever = (pivot - centre[node]) / level_err[:, None]
        entries = [(number, 3 * node, sign / level_err)]
        entries += [(number, 3 * node + 1 + b, sign * lever[:, b]) for b in range(2)]
        entries += [
            (pairs + 2 * number + a, 3 * node + 1 + b, sign * root[:, a, b])
            for a in range(2)
            for b in range(2)
        ]
        for row, column, value in entries:
            rows.append(row)
            columns.append(column)
            values.append(value)
    shape = (3 * pairs, 3 * nodes)
    where = (np.concatenate(rows), np.concatenate(columns))
    return coo_array((np.concatenate(values), where), shape=shape).tocsc()


def _grounded(
    nodes: int, i: np.ndarray, j: np.ndarray, anchor: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Component of each node, which nodes are free, and which components are centred."""
    label = component_labels(nodes, i, j)
    ground = np.full(label.max(initial=-1) + 1, -1)
    ground[label[::-1]] = np.arange(nodes)[::-1]  # the first node of each component
    centred = np.ones(len(ground), dtype=bool)
    if anchor is not None:
        ground[label[anchor]] = anchor
        centred[label[anchor]] = False
    free = np.ones(nodes, dtype=bool)
    free[ground] = False
    return label, free, centred


def _robust(
    design: csc_array, right: np.ndarray, ridge: np.ndarray, pairs: int
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
    factor, then, anew = None, np.zeros(size), True
    for left in reversed(range(ROUNDS)):
        weight = np.concatenate([robust, np.repeat(robust, tilts)])
        normal = (transposed @ design.multiply(weight[:, None]).tocsc() + diagonal).tocsc()
        gradient = transposed @ (weight * rest) - ridge * solution
        now, change = normal.diagonal(), None
        # An unknown that has lost its weight would drift, since its error costs no energy.
        if not anew and left and ((now > then / 2) & (now < then * 10)).all():
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
        robust, scale = _reweighted(chi, 1 + tilts, mild=left >= ROUNDS - MILD_ROUNDS)
        if size <= DIRECT:
            steady = np.abs(change).max() <= STEADY * max(1.0, np.abs(solution).max())
        else:
            steady = np.abs(rest - before).max() <= STEADY_ERRORS
        if steady and exact and left < ROUNDS - MILD_ROUNDS:
            break
        anew = steady or size <= DIRECT
    return solution, rest, chi, scale, normal, factor


def _reweighted(u: np.ndarray, freedoms: int, mild: bool) -> tuple[np.ndarray, float]:
    """Weights of residuals in units of their errors (Huber's or Tukey's), and their scale."""
    usual = {1: 0.6745, 3: 1.5382}[freedoms]  # medians of chi with so many freedoms
    # At least 1: pairs that agree better than their errors are no reason to doubt others.
    scale = max(1.0, float(np.median(u)) / usual)
    if mild:
        return 1 / np.maximum(1, u / (scale * HUBER * usual / 0.6745)), scale
    bend = np.clip(1 - (u / (scale * BIWEIGHT * usual / 0.6745)) ** 2, 0, None) ** 2
    return np.maximum(bend, LEAST_WEIGHT), scale


def _projected(
    diagonal: np.ndarray, row_sum: np.ndarray, label: np.ndarray, centred: np.ndarray
) -> np.ndarray:
    """From the grounded inverse G to variances under the gauge.

    It is G_kk for an anchored component; where the mean is 0 it is the diagonal of the
    projected matrix, G_kk - 2 mean_l(G_kl) + mean_lm(G_lm).
    """
    size = np.bincount(label)
    row_mean = row_sum / size[label]
    overall = (np.bincount(label, row_mean) / size)[label]
    return np.where(centred[label], diagonal - 2 * row_mean + overall, diagonal)
