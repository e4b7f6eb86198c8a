"""Log-gains and levels on a graph, from measured differences that involve both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from .potentials import Grounding, assemble
from .selected_inverse import factorize, inverse_diagonal
from .ties import Ties

GAIN, LEVEL = 0, 1  # columns of the potentials


@dataclass(frozen=True, eq=False)
class JointDifferences:
    """Measured differences of log-gains g and levels p between the ends of each pair.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    log_ratio, log_ratio_err : ndarray
        ``(P,)`` measured g_i - g_j and its standard error; infinite if not measured.
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


def joint_potentials(
    nodes: int,
    differences: JointDifferences,
    gain_free: np.ndarray,
    anchor: int | None = None,
    ties: Ties | None = None,
) -> JointPotentials:
    """Fit log-gains and levels to their measured differences by least squares.

    Levels measured at different distances from the reference levels constrain the gains as well.
    Errors are taken at face value: the caller enlarges those of outliers.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    differences : JointDifferences
        Measured differences.
    gain_free : ndarray
        ``(nodes,)`` bool: nodes with a log-gain to fit. All others keep 0.
    anchor : int or None
        The node with log-gain and level 0. In all other components their means are 0.
    ties : Ties or None
        Nodes that share their log-gain or their level.

    Returns
    -------
    JointPotentials
    """
    ties = ties or Ties.none(nodes)
    free = np.zeros(nodes, dtype=bool)
    free[ties.gain[gain_free]] = True
    grounding = Grounding.of(nodes, *_ends(differences, ties.level), _node(ties.level, anchor))
    gauge = _gauge(nodes, differences, ties, anchor)
    unknowns = _unknowns(grounding, differences, free, ties.gain, anchor)
    design, right = _whitened(nodes, differences, ties)
    design = design[:, unknowns]
    normal = (design.T.tocsr() @ design).tocsc()
    factor = factorize(normal)
    grounded = np.zeros((nodes, 2))
    grounded.ravel()[unknowns] = factor.solve(design.T @ right)
    level = grounded[:, LEVEL] - grounding.mean(grounded[:, LEVEL])
    # Centred levels are proportional to the common gain.
    common_gain = gauge.mean(grounded[:, GAIN], free)
    value = np.stack(
        [grounded[:, GAIN] - np.where(free, common_gain, 0.0), level * (1 - common_gain)], axis=1
    )
    value = np.take_along_axis(value, ties.node, axis=0)
    return JointPotentials(
        value, level, grounding, gauge, free, ties.node, unknowns, normal, factor
    )


@dataclass(frozen=True, eq=False)
class JointPotentials:
    """Log-gains and levels fitted together.

    Parameters
    ----------
    value : ndarray
        ``(nodes, 2)`` log-gain, and level in ADU.
    level : ndarray
        ``(nodes,)`` levels in ADU before the common gain was divided out.
    grounding, gauge : Grounding
        Components of the levels, with grounded nodes, and components with one common gain.
    gain_free : ndarray
        ``(nodes,)`` bool: nodes with a log-gain to fit, one of each group of tied nodes.
    node : ndarray
        ``(nodes, 2)`` int: nodes with the log-gain and the level of each node.
    unknowns : ndarray
        ``(N,)`` int: columns of the normal matrix, of all ``2 * nodes``.
    normal, factor : csc_array, SuperLU
        ``(N, N)`` normal matrix, and its factor.
    """

    value: np.ndarray
    level: np.ndarray
    grounding: Grounding
    gauge: Grounding
    gain_free: np.ndarray
    node: np.ndarray
    unknowns: np.ndarray
    normal: csc_array
    factor: Any

    def variance(self) -> np.ndarray:
        """Compute the variances ``(nodes, 2)`` of the potentials; 0 for one that is held.

        The gauge enters by the covariances with the mean log-gain and the mean level.
        """
        grounding, gauge = self.grounding, self.gauge
        level, gain_free = self.level, self.gain_free
        with_gain = self._mean_covariance(GAIN, gauge, gain_free)
        with_level = self._mean_covariance(LEVEL, grounding, np.ones(len(level), dtype=bool))
        gain_mean = gauge.mean(with_gain[:, GAIN], gain_free)
        gain_change = gain_mean - 2 * with_gain[:, GAIN]
        by_gain = level * (level * gain_mean - 2 * with_gain[:, LEVEL])
        by_level = grounding.mean(with_level[:, LEVEL]) - 2 * (
            with_level[:, LEVEL] - level * grounding.mean(with_gain[:, LEVEL])
        )
        variance = np.zeros(self.value.shape)
        variance.ravel()[self.unknowns] = inverse_diagonal(self.normal, self.factor)
        of_gains = gauge.centred[gauge.component]
        variance[:, GAIN] += np.where(of_gains & gain_free, gain_change, 0.0)
        variance[:, LEVEL] += np.where(of_gains, by_gain, 0.0)
        variance[:, LEVEL] += np.where(grounding.centred[grounding.component], by_level, 0.0)
        return np.take_along_axis(variance, self.node, axis=0)

    def _mean_covariance(
        self, column: int, grounding: Grounding, members: np.ndarray
    ) -> np.ndarray:
        """Compute the covariances ``(nodes, 2)`` with the mean of a column over the component.

        `members` ``(nodes,)`` are the nodes that count.
        """
        component, covariance = grounding.component, np.zeros(self.value.shape)
        is_column = (self.unknowns % 2 == column).astype(float)
        covariance.ravel()[self.unknowns] = self.factor.solve(is_column)
        count = np.bincount(component, members.astype(float))[component]
        return covariance / np.maximum(count, 1)[:, None]


def _ends(differences: JointDifferences, node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return node[differences.i], node[differences.j]


def _node(node: np.ndarray, anchor: int | None) -> int | None:
    return None if anchor is None else int(node[anchor])


def _gauge(nodes: int, differences: JointDifferences, ties: Ties, anchor: int | None) -> Grounding:
    """Return the components of nodes whose levels a common factor on the gains changes."""
    tiles = np.arange(nodes)
    i = np.r_[differences.i, tiles, tiles]
    j = np.r_[differences.j, ties.gain, ties.level]
    return Grounding.of(nodes, i, j, anchor)


def _unknowns(
    grounding: Grounding,
    differences: JointDifferences,
    gain_free: np.ndarray,
    gain_node: np.ndarray,
    anchor: int | None,
) -> np.ndarray:
    """Return the columns to solve for; 2k and 2k + 1 are log-gain and level of node k."""
    measured = np.isfinite(differences.log_ratio_err)
    i, j = (ends[measured] for ends in _ends(differences, gain_node))
    gains = Grounding.of(len(gain_free), i, j, _node(gain_node, anchor))
    return np.flatnonzero(np.stack([gains.free & gain_free, grounding.free], axis=1).ravel())


def _whitened(
    nodes: int, differences: JointDifferences, ties: Ties
) -> tuple[csc_array, np.ndarray]:
    """Return design matrix ``(2 P, 2 nodes)`` and right-hand side in units of the errors.

    The first P rows are levels, the other P rows log-ratios.
    """
    pair = np.arange(len(differences.i))
    measured = np.isfinite(differences.log_ratio_err)
    inverse_err = np.where(measured, 1 / np.where(measured, differences.log_ratio_err, 1.0), 0.0)
    entries = []
    for end, (tile, sign) in enumerate(((differences.i, 1.0), (differences.j, -1.0))):
        gain, level = 2 * ties.gain[tile] + GAIN, 2 * ties.level[tile] + LEVEL
        entries += [
            (pair, level, sign / differences.level_err),
            (pair, gain, sign * differences.lever[:, end] / differences.level_err),
            (len(pair) + pair, gain, sign * inverse_err),
        ]
    log_ratio = inverse_err * np.where(measured, differences.log_ratio, 0.0)
    right = np.concatenate([differences.level / differences.level_err, log_ratio])
    return assemble(entries, (2 * len(pair), 2 * nodes)), right
