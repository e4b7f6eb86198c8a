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

from .._kernels import compiled

#: Cells between exact positions; over this distance SIP bends by less than 0.01 pixel.
NODE_STEP = 16
#: Smallest valid fraction of the kernel: without one of its sides it leans to the other.
MIN_FRACTION = 0.8
#: Rows that are smoothed at once.
STRIP_ROWS = 32
#: Cells that are sampled at once: about ten arrays of 64 KiB.
STRIP_CELLS = 1 << 14


class Samples(NamedTuple):
    """Samples of bins at cells.

    Parameters
    ----------
    values : ndarray
        ``(C, h, w)`` float32; NaN where the kernel does not lie in the tile.
    variance_factor : ndarray
        ``(1, h, w)`` or ``(C, h, w)`` float32: variance of a sample in units of that of a bin. It
        depends on the position of the sample between the bins and so differs between tiles;
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
        values, factor = _sample_spline(_smooth(means), nodes, shape)
        return Samples(values, factor[np.newaxis], np.zeros((1, 1, 1), dtype=np.float32))
    layers = np.concatenate([means * valid_fraction, valid_fraction])
    sampled, factor = _sample_spline(_smooth(layers), nodes, shape)
    values, covered = sampled[: len(means)], sampled[len(means) :]
    covered[covered < MIN_FRACTION] = np.nan
    values /= covered
    return Samples(values, factor / covered, 1 - covered)


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


def interpolate_nodes(nodes: np.ndarray, first: int, last: int, axis: int) -> np.ndarray:
    """Interpolate linearly between nodes along an axis, at the cells from `first` up to `last`."""
    below, cells = np.divmod(np.arange(first, last), NODE_STEP)
    positions = nodes.take(below, axis)
    step = nodes.take(below + 1, axis) - positions
    step *= np.expand_dims(cells / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    positions += step
    return positions


def _sample_spline(
    planes: np.ndarray, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of smoothed planes ``(P, h, w)``, and the variance factor of each."""
    p, h, w = planes.shape
    height, width = shape
    values, factor = np.empty((p, *shape), dtype=np.float32), np.empty(shape, dtype=np.float32)
    if min(h, w) < 3:
        values[:], factor[:] = np.nan, np.nan
        return values, factor
    if compiled.fused:
        compiled.fused.sample_spline(
            planes, np.ascontiguousarray(nodes), values, factor,
            np.empty((8, width), dtype=np.float32), np.empty((3, width)),
        )  # fmt: skip
        return values, factor
    flat = planes.reshape(p, h * w)
    nodes = interpolate_nodes(nodes - 1, 0, width, 2)  # smoothing took the outermost blocks
    step = max(1, STRIP_CELLS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        x, y = interpolate_nodes(nodes, top, bottom, 1)
        column, across, across_noise = _spline(x, w)
        row, along, along_noise = _spline(y, h)
        np.multiply(across_noise, along_noise, out=factor[top:bottom])
        corner = ((row - 1) * w + (column - 1)).astype(np.intp)
        term = np.empty(corner.shape, dtype=np.float32)
        values[:, top:bottom] = 0
        for m in range(3):
            for n in range(3):
                weight = along[m] * across[n]
                for k in range(p):
                    # The index is in range; "clip" is the mode that does not look twice.
                    flat[k, m * w + n :].take(corner, out=term, mode="clip")
                    term *= weight
                    values[k, top:bottom] += term
    return values, factor


def _spline(x: np.ndarray, blocks: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Middle block of each sample, weights of it and its neighbours, and the noise they leave.

    The quadratic B-spline: its width does not depend on where the sample lies, where that of
    linear interpolation does, so that a star has the same shape wherever it falls between the
    blocks. Weights and noise are NaN where the kernel reaches beyond the blocks, and hold the
    quarter of `_smoothed`.
    """
    middle = np.fmax(np.fmin(np.rint(x), blocks - 2), 1)
    t = (x - middle).astype(np.float32)
    t[~(np.abs(t) <= 0.5)] = np.nan
    square = t * t
    half = np.float32(0.125)
    side = half * square
    side += np.float32(1 / 32)
    centre = np.float32(3 / 16) - square * np.float32(0.25)
    t *= half
    # The sum of squares of the spline convolved with [1, 2, 1] / 4.
    noise = square * np.float32(3 / 32)
    noise -= np.float32(3 / 64)
    noise *= square
    noise += np.float32(163 / 512)
    return middle, [side - t, centre, side + t], noise


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
