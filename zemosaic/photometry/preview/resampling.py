"""Sampling of the bins of a tile at the cells of the grid, with one smooth kernel.

Bins of half a cell are smoothed with [1, 2, 1] / 4 along both axes and sampled at the centres of
the cells with a quadratic B-spline. A cell is thus the sky convolved with a smooth kernel about
one cell wide. The kernel depends neither on the position of the cell between the pixels of the
tile nor on the rotation of the tile. Bins as large as a cell would alias.

Images are processed strip by strip, so that the data stays in the processor's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _kernels

#: Smallest valid fraction of the kernel: without one of its sides it leans to the other.
MIN_FRACTION = 0.8
#: Bins along each axis that a sample of the spline depends on.
SPLINE_BINS = 3
#: Rows smoothed at once.
STRIP_ROWS = 32


class Samples(NamedTuple):
    """Samples of bins at cells.

    Parameters
    ----------
    values : ndarray
        ``(C, h, w)`` float32; NaN where the kernel does not lie in the tile.
    variance_factor : ndarray
        ``(1, h, w)`` or ``(C, h, w)`` float32: variance of a sample in units of a bin's variance.
        It depends on the position of the sample between the bins and so differs between tiles;
        without it, a line fit through two tiles of low contrast would be biased.
    missing : ndarray
        ``(C, h, w)`` float32: missing fraction of the kernel; ``(1, 1, 1)`` if it is 0 everywhere.
    """

    values: np.ndarray
    variance_factor: np.ndarray
    missing: np.ndarray


def sample(
    means: np.ndarray, valid_fraction: np.ndarray | None, nodes: np.ndarray, shape: tuple[int, int]
) -> Samples:
    """Sample bins at cells.

    Parameters
    ----------
    means, valid_fraction : ndarray
        As returned by `bin_tile`.
    nodes : ndarray
        ``(2, rows, columns)`` float64: x and y, in bins, of every sixteenth cell.
    shape : tuple of int
        Height and width of the result in cells.
    """
    if valid_fraction is None:
        values, factor = _sample_layers(means, nodes, shape)
        return Samples(values, factor[np.newaxis], np.zeros((1, 1, 1), dtype=np.float32))
    layers = np.concatenate([means * valid_fraction, valid_fraction])
    sampled, factor = _sample_layers(layers, nodes, shape)
    values, covered = sampled[: len(means)], sampled[len(means) :]
    covered[covered < MIN_FRACTION] = np.nan
    values /= covered
    return Samples(values, factor / covered, 1 - covered)


def _sample_layers(
    layers: np.ndarray, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return samples ``(N, *shape)`` of ``(N, h, w)`` and their variance factor.

    They are NaN everywhere in a tile of less than five bins, which is smaller than the kernel.
    """
    smoothed = _smooth(layers)
    if min(smoothed.shape[1:]) < SPLINE_BINS:
        nothing = np.full((len(layers), *shape), np.nan, dtype=np.float32)
        return nothing, np.full(shape, np.nan, dtype=np.float32)
    return _kernels.sample_spline(smoothed, nodes, shape)


def _smooth(layers: np.ndarray) -> np.ndarray:
    """Convolve ``(N, h, w)`` with [1, 2, 1] along both axes; 16 times a mean, one bin narrower."""
    count, height, width = layers.shape
    smoothed = np.empty((count, max(height - 2, 0), max(width - 2, 0)), dtype=np.float32)
    for layer, out in zip(layers, smoothed, strict=True):
        for top in range(0, len(out), STRIP_ROWS):
            strip = layer[top : top + STRIP_ROWS + 2]
            strip = strip[:-1] + strip[1:]
            strip = strip[:-1] + strip[1:]
            strip = strip[:, :-1] + strip[:, 1:]
            np.add(strip[:, :-1], strip[:, 1:], out=out[top : top + STRIP_ROWS])
    return smoothed


def local_contrast(values: np.ndarray) -> np.ndarray:
    """Return the largest absolute difference of each cell ``(C, h, w)`` to its four neighbours.

    Differences to NaN are ignored; without any other the contrast is 0.
    """
    contrast = np.zeros_like(values)
    for axis in (1, 2):
        before_axis, last = (slice(None),) * axis, values.shape[axis] - 1
        low, high = (*before_axis, slice(0, last)), (*before_axis, slice(1, last + 1))
        difference = values[high] - values[low]
        np.abs(difference, out=difference)
        np.fmax(contrast[low], difference, out=contrast[low])
        np.fmax(contrast[high], difference, out=contrast[high])
    return contrast
