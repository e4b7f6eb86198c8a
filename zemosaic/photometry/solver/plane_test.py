"""The test of model "auto": whether the tiles of a component have sky gradients of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .channel import MOST_TILES, Channel
from .groups import group_medians
from .potentials import Differences, potentials

MEDIAN_CHI2 = 1.386  # of two degrees of freedom
# First criterion: the median χ² of the tilts of the pairs. Without gradients it reaches 4, since
# the errors of tilts are estimated from few patches; gradients of a few noise widths exceed 50.
PLANE_CHI2 = 10.0
FEWEST_PAIRS = 3  # or independent loops, to judge a component by
# Second criterion, for tilts with overestimated errors: median tile-slope χ² divided by median
# pair-residual χ². Tilts that are noise do not close around loops. Noise-only mosaics reach 9
# (nine tiles of flat sky); real gradients exceed 39. Slopes must also exceed their own errors.
PLANE_RATIO = 20.0
LEAST_SLOPE_CHI2 = 1.5 * MEDIAN_CHI2
LEAST_VARIANCE = 1e-30  # (level error per cell)², of the tilts of tiles without noise


@dataclass(frozen=True, eq=False)
class PlaneEvidence:
    """The two criteria, by tile; both are those of the tile's component.

    Parameters
    ----------
    chi2 : ndarray
        ``(T,)`` result of `plane_chi2`.
    ratio : ndarray
        ``(T,)`` result of `plane_ratio`; NaN unless the model is "auto".
    """

    chi2: np.ndarray
    ratio: np.ndarray


def plane_evidence(channel: Channel) -> PlaneEvidence:
    """Compute both criteria from the tilts of a channel's pairs."""
    pairs = channel.pairs
    # The gain of each pair itself, because a wrong gain turns a slope of the scene into a plane.
    gain = np.where(np.isfinite(pairs.plane_gain), pairs.plane_gain, pairs.gain)
    known_gain = np.where(np.isfinite(gain), gain, 1.0)
    has_tilt = np.isfinite(pairs.tilt_cov).all(axis=(1, 2))
    i, j, cov = pairs.i[has_tilt], pairs.j[has_tilt], pairs.tilt_cov[has_tilt]
    tilt = (pairs.y_tilt - known_gain[:, None] * pairs.x_tilt)[has_tilt]
    chi2 = plane_chi2(channel.component, i, tilt, cov)
    if channel.model != "auto" or channel.frame is None or channel.tiles > MOST_TILES:
        return PlaneEvidence(chi2, np.full(channel.tiles, np.nan))
    # Planes are added after gains, so tilts are compared in the approximate unit of all tiles.
    log_gain = _approximate_gains(channel, gain)
    unit = np.exp(log_gain[j])[:, None]
    ratio = plane_ratio(channel.component, i, j, tilt * unit, cov * unit[..., None] ** 2)
    return PlaneEvidence(chi2, ratio)


def _approximate_gains(channel: Channel, gain: np.ndarray) -> np.ndarray:
    """Compute log-gains ``(T,)`` by plain least squares from the gains ``(P,)`` of the pairs."""
    measured = np.isfinite(gain)
    i, j, log_ratio = channel.pairs.i[measured], channel.pairs.j[measured], np.log(gain[measured])
    differences = Differences(i, j, log_ratio, np.ones(len(log_ratio)))
    return potentials(channel.tiles, differences, rounds=1).value


def choose_planes(channel: Channel, evidence: PlaneEvidence) -> np.ndarray:
    """Choose the tiles ``(T,)`` that get a plane; either criterion suffices in model "auto"."""
    if channel.frame is None:
        return np.zeros(channel.tiles, dtype=bool)
    if channel.model == "auto":
        by_chi2 = np.nan_to_num(evidence.chi2) > PLANE_CHI2
        return by_chi2 | (np.nan_to_num(evidence.ratio) > PLANE_RATIO)
    return np.full(channel.tiles, channel.model.endswith("plane"))


def plane_chi2(
    component: np.ndarray, i: np.ndarray, tilt: np.ndarray, cov: np.ndarray
) -> np.ndarray:
    """Compute the median χ² of the tilts of each component's pairs.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    i : ndarray
        ``(P,)`` int: one tile of each pair.
    tilt, cov : ndarray
        ``(P, 2)`` and ``(P, 2, 2)``: differences of slopes in ADU per cell, and their covariances.

    Returns
    -------
    ndarray
        ``(T,)``; NaN in a component with fewer than `FEWEST_PAIRS` pairs.
    """
    inverse = np.linalg.inv(cov + 1e-300 * np.eye(2))
    chi2 = np.einsum("pi,pij,pj->p", tilt, inverse, tilt)
    median, count = group_medians(component[i], chi2, component.max(initial=-1) + 1)
    return np.where(count >= FEWEST_PAIRS, median, np.nan)[component]


def plane_ratio(
    component: np.ndarray, i: np.ndarray, j: np.ndarray, tilt: np.ndarray, cov: np.ndarray
) -> np.ndarray:
    """Compute the ratio of the χ² of the tiles' slopes to the χ² of the pairs' residuals.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    tilt, cov : ndarray
        As for `plane_chi2`, in the unit of all tiles.

    Returns
    -------
    ndarray
        ``(T,)`` ratio of the medians of each component; 0 if the slopes are within their
        errors, NaN in a component with fewer than `FEWEST_PAIRS` independent loops.
    """
    components = component.max(initial=-1) + 1
    slope_chi2, residual_chi2 = _slope_fit(component, i, j, tilt, cov)
    joined = ~np.isnan(slope_chi2)
    of_tiles, tiles = group_medians(component[joined], slope_chi2[joined], components)
    of_pairs, pairs = group_medians(component[i], residual_chi2, components)
    loops = pairs - tiles + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = of_tiles / of_pairs * (loops / pairs)
    ratio[of_tiles < LEAST_SLOPE_CHI2] = 0.0
    return np.where(loops >= FEWEST_PAIRS, ratio, np.nan)[component]


def _slope_fit(
    component: np.ndarray, i: np.ndarray, j: np.ndarray, tilt: np.ndarray, cov: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit slopes of the tiles to the tilts of the pairs.

    Return the χ² of each tile's slope ``(T,)`` about the median of its component, NaN without a
    pair, and the χ² of each pair's residual ``(P,)``; both with two degrees of freedom.
    """
    components = component.max(initial=-1) + 1
    slope_chi2, residual_chi2 = np.zeros(len(component)), np.zeros(len(i))
    for axis in (0, 1):
        weight = 1 / np.maximum(cov[:, axis, axis], LEAST_VARIANCE)
        fit = potentials(len(component), Differences(i, j, tilt[:, axis], weight), rounds=1)
        joined = np.isfinite(fit.variance)
        median, _ = group_medians(component[joined], fit.value[joined], components)
        slope_chi2 += (fit.value - median[component]) ** 2 / fit.variance
        residual_chi2 += fit.residual**2 * weight
    return slope_chi2, residual_chi2
