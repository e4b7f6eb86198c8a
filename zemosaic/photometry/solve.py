"""Measurements -> one gain and one offset per tile and channel.

``corrected = gain * data + offset`` shall agree in every overlap. For a pair with the line
y = a·x + b and the pivot (x, y):

    log g_i - log g_j = log a                        (gains first)
    o_i - o_j         = g_j·y - g_i·x                (then offsets, at the pivots)

Both are differences of potentials on a graph: a weighted least squares whose normal matrix is
the graph's Laplacian, sparse and solved per connected component, with weights renewed so that
a pair that disagrees with all others loses its say. What the differences leave free is set by
the gauge: geometric-mean gain 1 and the median sky level kept, or an anchor tile with gain 1
and offset 0. Levels are solved at each tile's own reference level, which makes them almost
independent of the gains; the errors of offsets then follow from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

from zemosaic.photometry.measure import Measurement, PairMeasurement
from zemosaic.photometry.overlap import component_labels

ROUNDS = 20  # of reweighting at most
BIWEIGHT = 6.0  # Tukey's constant for pairs, in robust standard deviations
MIN_RELATIVE_ERROR = 1e-6  # of a pair's gain: float32 previews know no more
MIN_LEVEL_ERROR = 1e-3  # ADU, likewise


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections ``corrected = gain * data + offset`` for every tile and channel.

    Parameters
    ----------
    gain, offset : ndarray
        ``(T, C)`` float64; offsets in ADU. A tile without a measured pair has gain 1 and
        offset 0; a tile that could not be read has NaN.
    gain_err, offset_err : ndarray
        ``(T, C)`` standard errors within the component, gauge fixed; NaN: not known, because
        nothing was measured.
    component : ndarray
        ``(T, C)`` int: tiles of one component are matched to one another; how two components
        relate is not known. -1 for a tile that could not be read.
    pairs : ndarray
        ``(T, C)`` int: measured pairs of each tile.
    residual : ndarray
        ``(P, C)`` float64: level residual of every pair at its pivot in ADU, after correction;
        NaN where the pair was not measured.
    gain_residual : ndarray
        ``(P, C)`` float64: residual of every pair's log-gain; NaN where it was not measured.
    """

    gain: np.ndarray
    gain_err: np.ndarray
    offset: np.ndarray
    offset_err: np.ndarray
    component: np.ndarray
    pairs: np.ndarray
    residual: np.ndarray
    gain_residual: np.ndarray


def solve(
    i: np.ndarray,
    j: np.ndarray,
    measurements: Sequence[Sequence[Measurement]],
    sky: np.ndarray,
    model: str = "gain+offset",
    anchor: int | None = None,
) -> Solution:
    """Solve all tiles and channels.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int: the tiles of each pair.
    measurements : sequence
        ``P`` sequences of one measurement per channel.
    sky : ndarray
        ``(T, C)`` sky level of each tile in ADU; NaN for a tile that could not be read.
    model : {"gain+offset", "offset", "gain"}
        What is left free.
    anchor : int or None
        The tile that keeps gain 1 and offset 0 in its component.
    """
    solved = [
        _solve_channel(i, j, [m[c] for m in measurements], sky[:, c], model, anchor)
        for c in range(sky.shape[1])
    ]
    stacked = [np.stack(column, axis=1) for column in zip(*solved, strict=True)]
    solution = Solution(*stacked)
    missing = np.isnan(sky)
    for array in (solution.gain, solution.offset):
        array[missing] = np.nan
    solution.component[missing] = -1
    return solution


def _solve_channel(
    i: np.ndarray,
    j: np.ndarray,
    measurements: Sequence[Measurement],
    sky: np.ndarray,
    model: str,
    anchor: int | None,
) -> tuple[np.ndarray, ...]:
    tiles, pairs = len(sky), len(measurements)
    good = np.array([isinstance(m, PairMeasurement) for m in measurements], dtype=bool)
    lines = [m for m in measurements if isinstance(m, PairMeasurement)]
    i, j = np.asarray(i)[good], np.asarray(j)[good]
    component = component_labels(tiles, i, j)
    a, a_err, x, y, level_err = (
        np.array([getattr(m, name) for m in lines], dtype=np.float64)
        for name in ("gain", "gain_err", "x", "y", "level_err")
    )
    steep = np.array([m.gain_measured for m in lines], dtype=bool)

    # Tiles joined by pairs without a measured gain alone keep their groups' mean gain at 1.
    relative = np.maximum(a_err[steep] / a[steep], MIN_RELATIVE_ERROR)
    log_gain, log_var, log_residual = potentials(
        tiles, i[steep], j[steep], np.log(a[steep]), relative**-2.0, anchor
    )
    gain = np.exp(log_gain)

    offset, level_var = np.zeros(tiles), np.zeros(tiles)
    residual = gain[j] * y - gain[i] * x
    if model != "gain":
        reference = _reference_levels(tiles, i, j, x, y, sky)
        difference = gain[j] * (y - reference[j]) - gain[i] * (x - reference[i])
        error = np.maximum(gain[j] * level_err, MIN_LEVEL_ERROR)
        level, level_var, residual = potentials(tiles, i, j, difference, error**-2.0, anchor)
        offset = level - gain * reference
        offset = _level_gauge(offset, gain, sky, component, anchor)
        # A gain's error moves the offset by the level at which the tile was measured.
        level_var = level_var + np.nan_to_num(log_var) * (gain * reference) ** 2
    count = np.bincount(np.r_[i, j], minlength=tiles)
    nothing = count == 0
    gain[nothing], offset[nothing] = 1.0, 0.0
    gain_err = gain * np.sqrt(log_var) if model != "offset" else np.zeros(tiles)
    offset_err = np.sqrt(level_var)
    offset_err[nothing], gain_err[nothing] = np.nan, np.nan
    all_residuals, all_log_residuals = np.full(pairs, np.nan), np.full(pairs, np.nan)
    all_residuals[good] = -residual
    all_log_residuals[np.flatnonzero(good)[steep]] = log_residual
    return (
        gain, gain_err, offset, offset_err, component, count, all_residuals, all_log_residuals,
    )  # fmt: skip


def _reference_levels(
    tiles: int, i: np.ndarray, j: np.ndarray, x: np.ndarray, y: np.ndarray, sky: np.ndarray
) -> np.ndarray:
    """Mean pivot of each tile over its pairs, its sky level where it has none; ADU."""
    ends, levels = np.r_[i, j], np.r_[x, y]
    count = np.bincount(ends, minlength=tiles)
    total = np.bincount(ends, weights=levels, minlength=tiles)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan_to_num(sky))


def _level_gauge(
    offset: np.ndarray,
    gain: np.ndarray,
    sky: np.ndarray,
    component: np.ndarray,
    anchor: int | None,
) -> np.ndarray:
    """Shift the offsets of each component: anchor 0, or the median sky level kept."""
    shifted = offset.copy()
    for label in np.unique(component):
        inside = component == label
        if anchor is not None and inside[anchor]:
            shifted[inside] -= offset[anchor]
        else:
            shift = np.median(sky[inside]) - np.median((gain * sky + offset)[inside])
            shifted[inside] += np.nan_to_num(shift)
    return shifted


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
    label = component_labels(nodes, i, j)
    ground = np.full(label.max(initial=-1) + 1, -1)
    ground[label[::-1]] = np.arange(nodes)[::-1]  # the first node of each component
    if anchor is not None:
        ground[label[anchor]] = anchor
    free = np.ones(nodes, dtype=bool)
    free[ground] = False
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
        u = np.abs(residual) * np.sqrt(weight)
        # At least 1: pairs that agree better than their errors are no reason to doubt others.
        scale = max(1.0, float(np.median(u)) / 0.6745)
        # Never 0, so that the graph stays connected and the matrix regular.
        robust = np.maximum(np.clip(1 - (u / scale / BIWEIGHT) ** 2, 0, None) ** 2, 1e-6)
        if np.abs(potential - before).max() <= 1e-12 * max(1.0, np.abs(potential).max()):
            break
    centred = np.ones(len(ground), dtype=bool)
    if anchor is not None:
        centred[label[anchor]] = False
    mean = np.bincount(label, potential) / np.bincount(label)
    potential -= np.where(centred, mean, 0.0)[label]
    variance = _variances(factor, free, label, centred) * scale**2
    variance[np.bincount(np.r_[i, j], minlength=nodes) == 0] = np.nan
    return potential, variance, residual


def _laplacian(nodes: int, i: np.ndarray, j: np.ndarray, weight: np.ndarray) -> csc_array:
    rows, columns = np.r_[i, j, i, j], np.r_[i, j, j, i]
    values = np.r_[weight, weight, -weight, -weight]
    return coo_array((values, (rows, columns)), shape=(nodes, nodes)).tocsc()


def _variances(
    factor: object, free: np.ndarray, label: np.ndarray, centred: np.ndarray
) -> np.ndarray:
    """Diagonal of the covariance of the potentials.

    With the grounded inverse G it is G_kk for an anchored component; where the mean is 0 it is
    that of the projected matrix, G_kk - 2 mean_l(G_kl) + mean_lm(G_lm).
    """
    nodes = len(free)
    number = np.cumsum(free) - 1
    diagonal, row_mean = np.zeros(nodes), np.zeros(nodes)
    size = np.bincount(label)
    places = np.flatnonzero(free)
    for start in range(0, len(places), 512):  # bounds the memory: 512 columns at a time
        part = places[start : start + 512]
        unit = np.zeros((len(places), len(part)))
        unit[number[part], np.arange(len(part))] = 1.0
        columns = factor.solve(unit)  # type: ignore[attr-defined]
        diagonal[part] = columns[number[part], np.arange(len(part))]
    # The sum of each row of G, within its component: one solve, since G is block diagonal.
    row_mean[free] = factor.solve(np.ones(len(places)))  # type: ignore[attr-defined]
    row_mean /= size[label]
    overall = (np.bincount(label, row_mean) / size)[label]
    return np.where(centred[label], diagonal - 2 * row_mean + overall, diagonal)
