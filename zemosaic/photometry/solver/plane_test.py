"""Whether the planes of a component's pairs are those of its tiles: sky gradients of their own."""

from __future__ import annotations

import numpy as np

from .potentials import potentials

CHANCE = 1.386  # median of chi² with two freedoms
# Planes are taken to be real when the median over pairs of their chi² is above this. Without
# gradients it has been seen at up to 4, since the errors of tilts are known from few patches; with
# gradients of a few noise widths it is above 50.
PLANE_CHI2 = 10.0
FEWEST_PAIRS = 3  # to judge that by
# Or when slopes of tiles explain those of the pairs: where the errors of tilts are too large, their
# chi² says nothing, but tilts that are noise do not close around loops. So many times what the
# pairs leave is what the median tile's slope is above the error that it has from them; without
# gradients that has been seen at up to 9 (nine tiles of flat sky), with those of real nights at 39
# and more. And it has to be above the errors that are known.
PLANE_RATIO = 20.0
PLANE_LEAST = 1.5
FAR_SLOPE = 5.0  # medians of the distances from the median: beyond is not what most have in common
LEAST_VARIANCE = 1e-30  # (ADU per cell)², of the tilts of tiles without noise


def plane_chi2(
    component: np.ndarray, i: np.ndarray, tilt: np.ndarray, cov: np.ndarray
) -> np.ndarray:
    """Median over each component's pairs of the chi² of their planes, by tile.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    i : ndarray
        ``(P,)`` int: one end of each pair.
    tilt, cov : ndarray
        ``(P, 2)`` and ``(P, 2, 2)``: differences of slopes in ADU per cell, and their covariances.

    Returns
    -------
    ndarray
        ``(T,)``; NaN where there are too few pairs to tell.
    """
    inverse = np.linalg.inv(cov + 1e-300 * np.eye(2))
    chi2 = np.einsum("pi,pij,pj->p", tilt, inverse, tilt)
    median, count = medians(component[i], chi2, component.max(initial=-1) + 1)
    return np.where(count >= FEWEST_PAIRS, median, np.nan)[component]


def plane_ratio(
    component: np.ndarray, i: np.ndarray, j: np.ndarray, tilt: np.ndarray, cov: np.ndarray
) -> np.ndarray:
    """How many times more slopes of tiles explain of the pairs' planes than they leave, by tile.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    tilt, cov : ndarray
        As of `plane_chi2`, in the unit of all tiles.

    Returns
    -------
    ndarray
        ``(T,)``; 0 where slopes are within their errors, NaN where there are too few loops to tell.
    """
    tiles, groups = len(component), component.max(initial=-1) + 1
    explained, left = np.zeros(tiles), np.zeros(len(i))
    for axis in (0, 1):
        weight = 1 / np.maximum(cov[:, axis, axis], LEAST_VARIANCE)
        slope, variance, rest = potentials(tiles, i, j, tilt[:, axis], weight, rounds=1)
        joined = np.isfinite(variance)
        usual, _ = medians(component[joined], slope[joined], groups)
        explained += (slope - usual[component]) ** 2 / variance
        left += rest**2 * weight
    of_tiles, size = medians(component[joined], explained[joined], groups)
    of_pairs, pairs = medians(component[i], left, groups)
    loops = pairs - size + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = of_tiles / of_pairs * (loops / pairs)
    ratio[of_tiles < PLANE_LEAST * CHANCE] = 0.0
    return np.where(loops >= FEWEST_PAIRS, ratio, np.nan)[component]


def without_common_slope(
    component: np.ndarray, planes: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Planes less the slope that those of a component have in common, which no overlap tells.

    It is the mean of those that are not far from most: a cloud's slope is not the sky's.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    planes : ndarray
        ``(T, 3)``: level at the centre in ADU, and both slopes in ADU per cell.
    centre : ndarray
        ``(T, 2)`` in cells.

    Returns
    -------
    ndarray
        ``(T, 3)``: the same differences of planes at all places.
    """
    groups = component.max(initial=-1) + 1

    def usual(values: np.ndarray) -> np.ndarray:
        return np.stack([medians(component, z, groups)[0] for z in values.T], axis=1)[component]

    away = np.abs(planes[:, 1:] - usual(planes[:, 1:]))
    near = (away <= FAR_SLOPE * usual(away)).all(axis=1)
    number = np.maximum(np.bincount(component, near, groups), 1)[:, None]
    sums = np.stack([np.bincount(component, near * z, groups) for z in planes[:, 1:].T], axis=1)
    common = (sums / number)[component]
    level = np.einsum("tg,tg->t", common, centre - usual(centre))
    return planes - np.column_stack([level, common])


def medians(group: np.ndarray, values: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and number ``(groups,)`` of the values of each group; NaN as `numpy.median` does."""
    count = np.bincount(group, minlength=groups)
    median = np.full(groups, np.nan)
    some = np.flatnonzero(count)
    ranked = values[np.lexsort((values, group))]  # NaNs come last in each group
    first, size = (np.cumsum(count) - count)[some], count[some]
    middle = (ranked[first + (size - 1) // 2] + ranked[first + size // 2]) / 2
    median[some] = np.where(np.isnan(ranked[first + size - 1]), np.nan, middle)
    return median, count
