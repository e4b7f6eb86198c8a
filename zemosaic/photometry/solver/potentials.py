"""Potentials on a graph from their measured differences: the algebra under the solver.

The normal matrix of such a least squares is the graph's Laplacian, sparse and singular by one
freedom per connected component. One node of each component is grounded, the rest is factorize.
Pairs are weighted anew (Tukey's biweight) until one that disagrees with all others has lost its
say; none loses it whole, so that the graph stays connected.

On the graph of a mosaic, which is nearly plane, all of it grows little faster than the tiles: the
factor with minimum degree ordering, the reweighting (pcg gradients with a factor of earlier
weights), and the variances, which are exact (the selected inverse of Takahashi).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csc_array

from ..overlap.graph import component_labels
from .robust_lsq import ROUNDS, robust_least_squares
from .selected_inverse import factorize, inverse_diagonal


def potentials(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    difference: np.ndarray,
    weight: np.ndarray,
    anchor: int | None = None,
    rounds: int = ROUNDS,
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
    rounds : int
        Of weighting differences anew, at most.

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
    potential[columns], rest, _, scale, normal, factor = robust_least_squares(
        incidence[:, columns], root * difference, np.zeros(len(columns)), len(i), rounds
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
    solution, rest, chi, scale, normal, factor = robust_least_squares(
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


def affine_potentials(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    ratio: np.ndarray,
    ratio_err: np.ndarray,
    level: np.ndarray,
    level_err: np.ndarray,
    lever: np.ndarray,
    free: np.ndarray,
    anchor: int | None = None,
    errors: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials d and p together: d_i - d_j is measured, and p_i - p_j + l_i d_i - l_j d_j is.

    Log-gains and levels, where each level was measured l ADU from its tile's reference level:
    around a loop whose levels lie apart they tell of the gains as well. Errors are taken as they
    are given, those of pairs that contradict all others included.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    ratio, ratio_err : ndarray
        ``(P,)`` measured differences of d, and their errors; infinite where not measured.
    level, level_err : ndarray
        ``(P,)`` likewise of p.
    lever : ndarray
        ``(P, 2)`` l at both ends.
    free : ndarray
        ``(nodes,)`` bool: those with a d that pairs join; of the others it is 0.
    anchor : int or None
        A node where d and p are 0; in other components their means are 0.
    errors : bool
        Whether variances are wanted.

    Returns
    -------
    potential, variance : ndarray
        ``(nodes, 2)`` of d and p; the variance of what is held is 0.
    """
    label, p_free, centred = _grounded(nodes, i, j, anchor)
    known = np.isfinite(ratio_err)
    _, d_free, _ = _grounded(nodes, i[known], j[known], anchor)
    columns = np.flatnonzero(np.stack([d_free & free, p_free], axis=1).ravel())
    pairs, number = len(i), np.arange(len(i))
    root = np.where(known, 1 / np.where(known, ratio_err, 1.0), 0.0)
    entries = []
    for end, sign in ((0, 1.0), (1, -1.0)):
        node = (i, j)[end]
        entries += [
            (number, 2 * node + 1, sign / level_err),
            (number, 2 * node, sign * lever[:, end] / level_err),
            (pairs + number, 2 * node, sign * root),
        ]
    row, column, value = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    design = coo_array((value, (row, column)), shape=(2 * pairs, 2 * nodes)).tocsc()
    right = np.concatenate([level / level_err, root * np.where(known, ratio, 0.0)])
    design = design[:, columns]
    normal = (design.T.tocsr() @ design).tocsc()
    factor = factorize(normal)
    potential, variance, with_d, with_p = np.zeros((4, nodes, 2))
    potential.ravel()[columns] = factor.solve(design.T @ right)
    if errors:
        variance.ravel()[columns] = inverse_diagonal(normal, factor)
    # Covariances with the sums of d and of p over the component, by which the gauge is set.
    with_d.ravel()[columns], with_p.ravel()[columns] = (
        factor.solve((columns % 2 == k).astype(float)) for k in (0, 1)
    )

    def mean(values: np.ndarray, of: np.ndarray) -> np.ndarray:
        number = np.bincount(label, of)
        sums = np.bincount(label, values * of)
        return np.where(centred, sums / np.maximum(number, 1), 0.0)[label]

    every = np.ones(nodes)
    size, some = (np.bincount(label, w)[label] for w in (every, free.astype(float)))
    with_d, with_p = with_d / np.maximum(some, 1)[:, None], with_p / size[:, None]
    # A factor of all is a factor of the levels too, about their mean.
    shift = mean(potential[:, 0], free)
    p = potential[:, 1] - mean(potential[:, 1], every)
    potential[:, 0] -= np.where(free, shift, 0.0)
    potential[:, 1] = p * (1 - shift)
    own = centred[label]
    variance[:, 0] += np.where(own & free, mean(with_d[:, 0], free) - 2 * with_d[:, 0], 0.0)
    of_levels = mean(with_p[:, 1], every) - 2 * (with_p[:, 1] - p * mean(with_d[:, 1], every))
    variance[:, 1] += np.where(own, p * (p * mean(with_d[:, 0], free) - 2 * with_d[:, 1]), 0.0)
    variance[:, 1] += np.where(own, of_levels, 0.0)
    return potential, variance


def _design(
    nodes: int,
    i: np.ndarray,
    j: np.ndarray,
    level_err: np.ndarray,
    root: np.ndarray,
    pivot: np.ndarray,
    centre: np.ndarray,
) -> csc_array:
    """PairSamples of whitened levels and tilts; columns of levels and slopes of all planes."""
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
