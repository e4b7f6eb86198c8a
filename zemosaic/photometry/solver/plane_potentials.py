"""Planes on a graph from measured differences of their levels and slopes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import csc_array

from .potentials import Grounding, assemble
from .robust_lsq import robust_least_squares

MEDIAN_CHI2 = 0.455  # of one degree of freedom
LEAST_SLOPE_VARIANCE = 1e-12  # (level error per cell)², of the prior without any measured tilt


@dataclass(frozen=True, eq=False)
class PlaneDifferences:
    """Measured differences of planes between the ends of each pair, plane of i minus plane of j.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    level, level_err : ndarray
        ``(P,)`` difference at the pivot and its standard error, in ADU.
    tilt : ndarray
        ``(P, 2)`` difference of the slopes in ADU per cell.
    tilt_cov : ndarray
        ``(P, 2, 2)`` covariance of the tilt; infinite if no tilt was measured.
    pivot : ndarray
        ``(P, 2)`` position of the level in cells.
    """

    i: np.ndarray
    j: np.ndarray
    level: np.ndarray
    level_err: np.ndarray
    tilt: np.ndarray
    tilt_cov: np.ndarray
    pivot: np.ndarray

    @property
    def has_tilt(self) -> np.ndarray:
        """Whether the tilt of each pair ``(P,)`` was measured."""
        return np.isfinite(self.tilt_cov).all(axis=(1, 2))

    def of(self, chosen: np.ndarray) -> PlaneDifferences:
        """Return the differences of some pairs, chosen by a boolean array ``(P,)``."""
        return PlaneDifferences(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class PlanePotentials:
    """Planes fitted to their differences.

    Parameters
    ----------
    planes : ndarray
        ``(nodes, 3)``: level at the centre in ADU and both slopes in ADU per cell.
    level_variance : ndarray
        ``(nodes,)``; NaN for a node without a difference.
    residual : ndarray
        ``(P,)`` measured minus fitted levels in ADU.
    chi : ndarray
        ``(P,)`` residual of level and tilt together, in units of their errors.
    """

    planes: np.ndarray
    level_variance: np.ndarray
    residual: np.ndarray
    chi: np.ndarray


def plane_potentials(
    differences: PlaneDifferences, centre: np.ndarray, anchor: int | None = None
) -> PlanePotentials:
    """Fit planes to their measured differences, robustly.

    Slopes have a prior of mean 0, as wide as the measured tilts. It sets the slope common to all
    planes and keeps unconstrained slopes small.

    Parameters
    ----------
    differences : PlaneDifferences
        Measured differences.
    centre : ndarray
        ``(nodes, 2)`` position in cells at which the level of each plane is given.
    anchor : int or None
        The node with a plane of 0. In all other components the mean level is 0.

    Returns
    -------
    PlanePotentials
    """
    nodes, pairs = len(centre), len(differences.i)
    grounding = Grounding.of(nodes, differences.i, differences.j, anchor)
    unknowns = _unknowns(grounding, anchor)
    is_level = unknowns % 3 == 0
    design, right = _whitened(differences, centre)
    fit = robust_least_squares(
        design[:, unknowns], right, np.where(is_level, 0.0, _slope_prior(differences)), pairs
    )
    planes = np.zeros((nodes, 3))
    planes.ravel()[unknowns] = fit.solution
    planes[:, 0] -= grounding.mean(planes[:, 0])
    return PlanePotentials(
        planes=planes,
        level_variance=grounding.variance(fit, is_level),
        residual=fit.residual[:pairs] * differences.level_err,
        chi=fit.chi / np.sqrt(3),
    )


def _unknowns(grounding: Grounding, anchor: int | None) -> np.ndarray:
    """Return the columns to solve for; 3k, 3k + 1 and 3k + 2 are level and slopes of plane k."""
    slope_free = grounding.joined.copy()
    if anchor is not None:
        slope_free[anchor] = False
    return np.flatnonzero(np.stack([grounding.free, slope_free, slope_free], axis=1).ravel())


def _slope_prior(differences: PlaneDifferences) -> float:
    """Compute the inverse variance of the slopes' prior from the scatter of the tilts."""
    tilt = differences.tilt[differences.has_tilt]
    variance = np.median(np.square(tilt)) / MEDIAN_CHI2 if len(tilt) else 0.0
    return 1 / max(variance, LEAST_SLOPE_VARIANCE)


def _whitened(differences: PlaneDifferences, centre: np.ndarray) -> tuple[csc_array, np.ndarray]:
    """Return design matrix ``(3 P, 3 nodes)`` and right-hand side in units of the errors.

    The first P rows are levels, followed by two rows of tilt for each pair.
    """
    pair = np.arange(len(differences.i))
    whitening, tilt = _whitened_tilts(differences)
    entries = []
    for node, sign in ((differences.i, 1.0), (differences.j, -1.0)):
        lever = (differences.pivot - centre[node]) / differences.level_err[:, None]
        entries.append((pair, 3 * node, sign / differences.level_err))
        entries += [(pair, 3 * node + 1 + b, sign * lever[:, b]) for b in range(2)]
        entries += [
            (len(pair) + 2 * pair + a, 3 * node + 1 + b, sign * whitening[:, a, b])
            for a in range(2)
            for b in range(2)
        ]
    right = np.concatenate([differences.level / differences.level_err, tilt.ravel()])
    return assemble(entries, (3 * len(pair), 3 * len(centre))), right


def _whitened_tilts(differences: PlaneDifferences) -> tuple[np.ndarray, np.ndarray]:
    """Return roots ``(P, 2, 2)`` of the inverse covariances, and their products with the tilts.

    Both are 0 for a pair without a measured tilt.
    """
    measured = differences.has_tilt
    precision = np.zeros_like(differences.tilt_cov)
    precision[measured] = np.linalg.inv(differences.tilt_cov[measured])
    root = np.linalg.cholesky(precision + 1e-30 * np.eye(2)).transpose(0, 2, 1)
    tilt = np.where(measured[:, None], differences.tilt, 0.0)
    return root, np.einsum("pab,pb->pa", root, tilt)
