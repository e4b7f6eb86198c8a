"""Log-gains and levels on a graph, from measured differences that involve both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csc_array

from .potentials import Grounding
from .selected_inverse import factorize, inverse_diagonal

GAIN, LEVEL = 0, 1  # columns of the potentials


@dataclass(frozen=True, eq=False)
class JointDifferences:
    """Measured differences of log-gains g and levels p between the ends of each pair.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    log_ratio, log_ratio_err : ndarray
        ``(P,)`` measured g_i - g_j and its standard error; infinite where not measured.
    level, level_err : ndarray
        ``(P,)`` measured p_i - p_j + l_i g_i - l_j g_j and its standard error in ADU.
    lever : ndarray
        ``(P, 2)`` distances l_i and l_j of the measured level from the reference level of its
        tile, in ADU.
    """

    i: np.ndarray
    j: np.ndarray
    log_ratio: np.ndarray
    log_ratio_err: np.ndarray
    level: np.ndarray
    level_err: np.ndarray
    lever: np.ndarray


@dataclass(frozen=True, eq=False)
class JointPotentials:
    """Log-gains and levels fitted together.

    Parameters
    ----------
    value : ndarray
        ``(nodes, 2)`` log-gain, and level in ADU.
    variance : ndarray or None
        ``(nodes, 2)``; 0 for a potential that is held. None unless asked for.
    """

    value: np.ndarray
    variance: np.ndarray | None


def joint_potentials(
    nodes: int,
    differences: JointDifferences,
    gain_free: np.ndarray,
    anchor: int | None = None,
    errors: bool = True,
) -> JointPotentials:
    """Fit log-gains and levels to their measured differences by least squares.

    Around a loop whose levels lie apart, levels constrain the gains as well. Errors are taken at
    face value: the caller enlarges those of outliers.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    differences : JointDifferences
        Measured differences.
    gain_free : ndarray
        ``(nodes,)`` bool: nodes with a log-gain to fit. All others keep 0.
    anchor : int or None
        A node where log-gain and level are 0. In all other components their means are 0.
    errors : bool
        Whether to compute variances.

    Returns
    -------
    JointPotentials
    """
    grounding = Grounding.of(nodes, differences.i, differences.j, anchor)
    unknowns = _unknowns(grounding, differences, gain_free, anchor)
    design, right = _whitened(nodes, differences)
    design = design[:, unknowns]
    normal = (design.T.tocsr() @ design).tocsc()
    factor = factorize(normal)
    value = np.zeros((nodes, 2))
    value.ravel()[unknowns] = factor.solve(design.T @ right)
    # Centred levels are proportional to the common gain.
    common_gain = grounding.mean(value[:, GAIN], gain_free)
    level = value[:, LEVEL] - grounding.mean(value[:, LEVEL])
    value[:, GAIN] -= np.where(gain_free, common_gain, 0.0)
    value[:, LEVEL] = level * (1 - common_gain)
    if not errors:
        return JointPotentials(value, None)
    variance = np.zeros((nodes, 2))
    variance.ravel()[unknowns] = inverse_diagonal(normal, factor)
    covariance = np.zeros((2, nodes, 2))
    for column in (GAIN, LEVEL):
        covariance[column].ravel()[unknowns] = factor.solve((unknowns % 2 == column).astype(float))
    return JointPotentials(
        value, _centred_variance(grounding, gain_free, level, variance, covariance)
    )


def _unknowns(
    grounding: Grounding, differences: JointDifferences, gain_free: np.ndarray, anchor: int | None
) -> np.ndarray:
    """Return the columns to solve for; 2k and 2k + 1 are log-gain and level of node k."""
    measured = np.isfinite(differences.log_ratio_err)
    gains = Grounding.of(len(gain_free), differences.i[measured], differences.j[measured], anchor)
    return np.flatnonzero(np.stack([gains.free & gain_free, grounding.free], axis=1).ravel())


def _whitened(nodes: int, differences: JointDifferences) -> tuple[csc_array, np.ndarray]:
    """Return design matrix ``(2 P, 2 nodes)`` and right-hand side in units of the errors.

    The first P rows are levels, the other P rows log-ratios.
    """
    pairs = len(differences.i)
    pair = np.arange(pairs)
    measured = np.isfinite(differences.log_ratio_err)
    inverse_err = np.where(measured, 1 / np.where(measured, differences.log_ratio_err, 1.0), 0.0)
    entries = []
    for end, (node, sign) in enumerate(((differences.i, 1.0), (differences.j, -1.0))):
        entries += [
            (pair, 2 * node + LEVEL, sign / differences.level_err),
            (pair, 2 * node + GAIN, sign * differences.lever[:, end] / differences.level_err),
            (pairs + pair, 2 * node + GAIN, sign * inverse_err),
        ]
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    design = coo_array((values, (rows, columns)), shape=(2 * pairs, 2 * nodes)).tocsc()
    log_ratio = np.where(measured, differences.log_ratio, 0.0)
    return design, np.concatenate(
        [differences.level / differences.level_err, inverse_err * log_ratio]
    )


def _centred_variance(
    grounding: Grounding,
    gain_free: np.ndarray,
    level: np.ndarray,
    variance: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """Compute the variances ``(nodes, 2)`` under the gauge from those of the grounded solution.

    `level` are the centred levels, and `covariance` ``(2, nodes, 2)`` holds the covariances of
    each potential with the sum of the log-gains and the sum of the levels of its component.
    """
    component, centred = grounding.component, grounding.centred[grounding.component]
    gains = np.bincount(component, gain_free.astype(float))[component]
    levels = np.bincount(component, np.ones(len(level)))[component]
    with_gain = covariance[GAIN] / np.maximum(gains, 1)[:, None]
    with_level = covariance[LEVEL] / levels[:, None]
    mean_gain_variance = grounding.mean(with_gain[:, GAIN], gain_free)
    gain_change = mean_gain_variance - 2 * with_gain[:, GAIN]
    from_gain = level * (level * mean_gain_variance - 2 * with_gain[:, LEVEL])
    from_level = grounding.mean(with_level[:, LEVEL]) - 2 * (
        with_level[:, LEVEL] - level * grounding.mean(with_gain[:, LEVEL])
    )
    return np.stack(
        [
            variance[:, GAIN] + np.where(centred & gain_free, gain_change, 0.0),
            variance[:, LEVEL]
            + np.where(centred, from_gain, 0.0)
            + np.where(centred, from_level, 0.0),
        ],
        axis=1,
    )
