"""Potentials on a graph from their measured differences: the algebra under the solver.

The normal matrix of such a least squares is the graph's Laplacian, sparse and singular by one
freedom per connected component. One node of each component is grounded, the rest is factorised.
Pairs are weighted anew (Tukey's biweight) until one that disagrees with all others has lost its
say; none loses it whole, so that the graph stays connected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

from zemosaic.photometry.overlap import component_labels

ROUNDS = 20  # of reweighting at most
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations
LEAST_WEIGHT = 1e-6  # of a pair that disagrees with all others


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
    potential, residual = np.zeros(nodes), difference.copy()
    if not free.any():
        return potential, np.full(nodes, np.nan), residual
    robust = np.ones(len(difference))
    for _ in range(ROUNDS):
        factor = splu(_laplacian(nodes, i, j, weight * robust)[free][:, free].tocsc())
        flow = weight * robust * difference
        right = np.bincount(i, flow, nodes) - np.bincount(j, flow, nodes)
        before = potential.copy()
        potential[free] = factor.solve(right[free])
        residual = difference - (potential[i] - potential[j])
        robust, scale = _reweighted(np.abs(residual) * np.sqrt(weight), 1)
        if np.abs(potential - before).max() <= 1e-12 * max(1.0, np.abs(potential).max()):
            break
    mean = np.bincount(label, potential) / np.bincount(label)
    potential -= np.where(centred, mean, 0.0)[label]
    variance = _variances(factor, free, label, centred) * scale**2
    variance[np.bincount(np.r_[i, j], minlength=nodes) == 0] = np.nan
    return potential, variance, residual


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
    pairs = len(i)
    root = np.linalg.cholesky(inverse + 1e-30 * np.eye(2)).transpose(0, 2, 1)
    tilting = used.copy()
    if anchor is not None:
        tilting[anchor] = False
    unknown = np.concatenate([free & used, np.repeat(tilting, 2)])
    place = np.concatenate([3 * np.arange(nodes), _slopes(np.arange(nodes))])
    columns = place[unknown]
    design = _design(nodes, i, j, level_err, root, pivot, centre)[:, columns].tocsc()
    right = np.concatenate([level / level_err, np.einsum("pab,pb->pa", root, tilt).ravel()])
    ridge = np.where(columns % 3 > 0, prior, 0.0)
    robust, solution = np.ones(pairs), np.zeros(len(columns))
    for _ in range(ROUNDS):
        row_weight = np.concatenate([robust, np.repeat(robust, 2)])
        weighted = design.multiply(row_weight[:, None]).tocsc()
        normal = (design.T @ weighted + _diagonal(ridge)).tocsc()
        factor = splu(normal)
        before = solution
        solution = factor.solve(weighted.T @ right)
        rest = right - design @ solution
        chi = np.sqrt(rest[:pairs] ** 2 + (rest[pairs:].reshape(-1, 2) ** 2).sum(axis=1))
        robust, scale = _reweighted(chi, 3)
        if np.abs(solution - before).max() <= 1e-12 * max(1.0, np.abs(solution).max()):
            break
    planes = np.zeros((nodes, 3))
    planes.ravel()[columns] = solution
    variance = np.zeros(nodes)
    levels = np.flatnonzero(columns % 3 == 0)
    diagonal, row_sum = _inverse_diagonal(factor, levels, len(columns))
    variance[columns[levels] // 3] = diagonal
    row_mean = np.zeros(nodes)
    row_mean[columns[levels] // 3] = row_sum
    mean = np.bincount(label, planes[:, 0]) / np.bincount(label)
    planes[:, 0] -= np.where(centred, mean, 0.0)[label]
    variance = _projected(variance, row_mean, label, centred) * scale**2
    variance[~used] = np.nan
    return planes, variance, rest[:pairs] * level_err, chi / np.sqrt(3)


def _slopes(nodes: np.ndarray) -> np.ndarray:
    return (3 * nodes[:, None] + np.array([1, 2])).ravel()


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


def _diagonal(values: np.ndarray) -> csc_array:
    number = np.arange(len(values))
    return coo_array((values, (number, number)), shape=(len(values),) * 2).tocsc()


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


def _reweighted(u: np.ndarray, freedoms: int) -> tuple[np.ndarray, float]:
    """Tukey's weights of residuals in units of their errors, and the scale of those."""
    usual = {1: 0.6745, 3: 1.5382}[freedoms]  # medians of chi with so many freedoms
    # At least 1: pairs that agree better than their errors are no reason to doubt others.
    scale = max(1.0, float(np.median(u)) / usual)
    bend = np.clip(1 - (u / (scale * BIWEIGHT * usual / 0.6745)) ** 2, 0, None) ** 2
    return np.maximum(bend, LEAST_WEIGHT), scale


def _laplacian(nodes: int, i: np.ndarray, j: np.ndarray, weight: np.ndarray) -> csc_array:
    rows, columns = np.r_[i, j, i, j], np.r_[i, j, j, i]
    values = np.r_[weight, weight, -weight, -weight]
    return coo_array((values, (rows, columns)), shape=(nodes, nodes)).tocsc()


def _variances(factor: Any, free: np.ndarray, label: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """Diagonal of the covariance of the potentials."""
    places = np.flatnonzero(free)
    diagonal, row_sum = np.zeros(len(free)), np.zeros(len(free))
    diagonal[places], row_sum[places] = _inverse_diagonal(
        factor, np.arange(len(places)), len(places)
    )
    return _projected(diagonal, row_sum, label, centred)


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


def _inverse_diagonal(factor: Any, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal of the inverse at some places, and the sums of its rows over those places."""
    diagonal = np.zeros(len(places))
    for start in range(0, len(places), 512):  # bounds the memory: 512 columns at a time
        part = places[start : start + 512]
        unit = np.zeros((size, len(part)))
        unit[part, np.arange(len(part))] = 1.0
        diagonal[start : start + 512] = factor.solve(unit)[part, np.arange(len(part))]
    ones = np.zeros(size)
    ones[places] = 1.0  # G is block diagonal, so these sums stay within components
    return diagonal, factor.solve(ones)[places]
