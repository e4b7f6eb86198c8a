"""Planes on a graph from measured differences of their levels and slopes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import coo_array, csc_array

from .potentials import Grounding
from .robust_lsq import robust_least_squares

MEDIAN_CHI2 = 0.455  # of one degree of freedom
LEAST_SLOPE_VARIANCE = 1e-12  # (ADU per cell)², of the prior where no tilt was measured


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
        ``(P, 2, 2)`` covariance of the tilt; infinite where no tilt was measured.
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
    planes and keeps slopes small where the overlaps do not constrain them.

    Parameters
    ----------
    differences : PlaneDifferences
        Measured differences.
    centre : ndarray
        ``(nodes, 2)`` position in cells at which the level of each plane is given.
    anchor : int or None
        A node whose plane is 0. In all other components the mean level is 0.

    Returns
    -------
    PlanePotentials
    """
    nodes, pairs = len(centre), len(differences.i)
    grounding = Grounding.of(nodes, differences.i, differences.j, anchor)
    tilt, precision = _measured_tilts(differences)
    whitening = np.linalg.cholesky(precision + 1e-30 * np.eye(2)).transpose(0, 2, 1)
    unknowns = _unknowns(grounding, anchor)
    is_level = unknowns % 3 == 0
    level, whitened_tilt = (
        differences.level / differences.level_err,
        np.einsum("pab,pb->pa", whitening, tilt),
    )
    fit = robust_least_squares(
        _design(differences, whitening, centre)[:, unknowns],
        np.concatenate([level, whitened_tilt.ravel()]),
        np.where(is_level, 0.0, _slope_prior(differences)),
        pairs,
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


def _has_tilt(differences: PlaneDifferences) -> np.ndarray:
    return np.isfinite(differences.tilt_cov).all(axis=(1, 2))


def _measured_tilts(differences: PlaneDifferences) -> tuple[np.ndarray, np.ndarray]:
    """Return tilts ``(P, 2)`` and inverse covariances ``(P, 2, 2)``; 0 where not measured."""
    measured = _has_tilt(differences)
    precision = np.zeros_like(differences.tilt_cov)
    precision[measured] = np.linalg.inv(differences.tilt_cov[measured])
    return np.where(measured[:, None], differences.tilt, 0.0), precision


def _slope_prior(differences: PlaneDifferences) -> float:
    """Compute the inverse variance of the slopes' prior from the scatter of the tilts."""
    tilt = differences.tilt[_has_tilt(differences)]
    variance = np.median(np.square(tilt)) / MEDIAN_CHI2 if len(tilt) else 0.0
    return 1 / max(variance, LEAST_SLOPE_VARIANCE)


def _unknowns(grounding: Grounding, anchor: int | None) -> np.ndarray:
    """Return the columns to solve for; 3k, 3k + 1 and 3k + 2 are level and slopes of plane k."""
    slope_free = grounding.joined.copy()
    if anchor is not None:
        slope_free[anchor] = False
    return np.flatnonzero(np.stack([grounding.free, slope_free, slope_free], axis=1).ravel())


def _design(differences: PlaneDifferences, whitening: np.ndarray, centre: np.ndarray) -> csc_array:
    """Return the design matrix ``(3 P, 3 nodes)`` in units of the errors.

    The first P rows are levels, followed by two rows of whitened tilt for each pair.
    """
    pairs, nodes = len(differences.i), len(centre)
    pair = np.arange(pairs)
    entries = []
    for node, sign in ((differences.i, 1.0), (differences.j, -1.0)):
        lever = (differences.pivot - centre[node]) / differences.level_err[:, None]
        entries.append((pair, 3 * node, sign / differences.level_err))
        entries += [(pair, 3 * node + 1 + b, sign * lever[:, b]) for b in range(2)]
        entries += [
            (pairs + 2 * pair + a, 3 * node + 1 + b, sign * whitening[:, a, b])
            for a in range(2)
            for b in range(2)
        ]
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return coo_array((values, (rows, columns)), shape=(3 * pairs, 3 * nodes)).tocsc()
