"""Sampling of a tile's smoothed bins at the cells of the grid.

It proceeds strip by strip, so that the arrays of a strip stay in the processor's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..nodes import interpolate_nodes

STRIP_CELLS = 1 << 14  # sampled at once: about ten arrays of 64 KiB


def sample_spline(
    smoothed: np.ndarray, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sample smoothed bins with a quadratic B-spline.

    Parameters
    ----------
    smoothed : ndarray
        ``(P, h, w)`` float32, at least 3 x 3: bins convolved with [1, 2, 1] along both axes,
        which drops the outermost bins and multiplies by 16. The result is divided by 16.
    nodes : ndarray
        ``(2, rows, columns)`` float64 x and y of the nodes, in bins before smoothing.
    shape : tuple of int
        Height and width of the samples in cells.

    Returns
    -------
    values : ndarray
        ``(P, *shape)`` float32; NaN where the spline reaches beyond the bins.
    variance_factor : ndarray
        ``shape`` float32: variance of a sample in units of the variance of a bin.
    """
    layers, rows, columns = smoothed.shape
    height, width = shape
    values = np.empty((layers, *shape), dtype=np.float32)
    variance_factor = np.empty(shape, dtype=np.float32)
    nodes = interpolate_nodes(nodes - 1, 0, width, 2)  # smoothing took the outermost bins
    step = max(1, STRIP_CELLS // width)
    for top in range(0, height, step):
        strip = slice(top, min(top + step, height))
        x, y = interpolate_nodes(nodes, strip.start, strip.stop, 1)
        across, along = _spline(x, columns), _spline(y, rows)
        np.multiply(across.variance, along.variance, out=variance_factor[strip])
        _sample_strip(smoothed, across, along, values[:, strip])
    return values, variance_factor


class _Spline(NamedTuple):
    """Middle bin of each sample, weights of three bins, and the variance factor."""

    middle: np.ndarray
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]
    variance: np.ndarray


def _spline(x: np.ndarray, bins: int) -> _Spline:
    """Compute the quadratic B-spline at positions along one axis.

    Its width does not depend on the position between the bins, in contrast to linear
    interpolation, so a star has the same shape everywhere. Weights and variance are NaN where
    the spline reaches beyond the bins, and include the factor 1/4 of the smoothing.
    """
    middle = np.fmax(np.fmin(np.rint(x), bins - 2), 1)
    t = (x - middle).astype(np.float32)
    t[~(np.abs(t) <= 0.5)] = np.nan
    square = t * t
    half = np.float32(0.125)
    side = half * square
    side += np.float32(1 / 32)
    centre = np.float32(3 / 16) - square * np.float32(0.25)
    t *= half
    # The sum of squares of the spline convolved with [1, 2, 1] / 4.
    variance = square * np.float32(3 / 32)
    variance -= np.float32(3 / 64)
    variance *= square
    variance += np.float32(163 / 512)
    return _Spline(middle, (side - t, centre, side + t), variance)


def _sample_strip(
    smoothed: np.ndarray, across: _Spline, along: _Spline, values: np.ndarray
) -> None:
    """Compute the samples of a strip into `values`, ``(P, rows, width)``."""
    layers, height, width = smoothed.shape
    flat = smoothed.reshape(layers, height * width)
    corner = ((along.middle - 1) * width + (across.middle - 1)).astype(np.intp)
    term = np.empty(corner.shape, dtype=np.float32)
    values[:] = 0
    for m in range(3):
        for n in range(3):
            weight = along.weights[m] * across.weights[n]
            for layer in range(layers):
                # Indices are in range; mode "clip" skips the check.
                flat[layer, m * width + n :].take(corner, out=term, mode="clip")
                term *= weight
                values[layer] += term
