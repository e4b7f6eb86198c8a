"""Pixels -> blocks -> samples between the blocks, through one smooth kernel.

The path of a pixel: mean over blocks of half a cell, a [1, 2, 1] smoothing of the blocks, then
sampling at the centres of the grid's cells with a quadratic B-spline. What a cell holds is thus
the sky seen through one smooth kernel about a cell wide, the same wherever the cell falls
between the tile's pixels and however the tile is turned; blocks as large as a cell would alias.

All of it goes strip by strip, so that what is worked on stays in the processor's cache.
"""

from __future__ import annotations

import numpy as np

from .._kernels import compiled

NODE_STEP = 16  # cells between exact positions; SIP bends by < 0.01 pixel over this
MIN_FRACTION = 0.8  # of the kernel that must be there: without a side it leans to the other
STRIP_ROWS = 32  # smoothed at once
STRIP_CELLS = 1 << 14  # sampled at once: ten or so arrays of 64 KiB


def between(nodes: np.ndarray, first: int, last: int, axis: int) -> np.ndarray:
    """Values at the cells from `first` on along an axis, linear between nodes NODE_STEP apart."""
    below, part = np.divmod(np.arange(first, last), NODE_STEP)
    low = nodes.take(below, axis)
    step = nodes.take(below + 1, axis) - low
    step *= np.expand_dims(part / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    low += step
    return low


def sample(
    means: np.ndarray, fraction: np.ndarray | None, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of the smoothed blocks, and what sampling does to the noise.

    Parameters
    ----------
    means, fraction : ndarray
        As of `block_means`.
    nodes : ndarray
        ``(2, rows, columns)`` float64: x and y, in blocks, of every sixteenth cell.
    shape : tuple of int
        Height and width in cells of what is sampled.

    Returns
    -------
    values : ndarray
        ``(C, *shape)`` float32; NaN where the kernel does not lie in the tile.
    factor : ndarray
        ``(1, *shape)`` or ``(C, *shape)`` float32: the variance of a sample in units of that of a
        block. It depends on where between the blocks the sample lies, hence on the tile; a line
        through two tiles of low contrast is biased unless that is known.
    missing : ndarray
        ``(1, 1, 1)`` or ``(C, *shape)`` float32: the part of the kernel that is missing.
    """
    if fraction is None:
        values, factor = _sample_spline(_smoothed(means), nodes, shape)
        return values, factor[np.newaxis], np.zeros((1, 1, 1), dtype=np.float32)
    planes = np.concatenate([means * fraction, fraction])
    both, factor = _sample_spline(_smoothed(planes), nodes, shape)
    values, covered = both[: len(means)], both[len(means) :]
    covered[covered < MIN_FRACTION] = np.nan
    values /= covered
    return values, factor / covered, 1 - covered


def _smoothed(planes: np.ndarray) -> np.ndarray:
    """Convolution with [1, 2, 1] along both axes; without the outermost blocks; 16 times over."""
    p, h, w = planes.shape
    smooth = np.empty((p, max(h - 2, 0), max(w - 2, 0)), dtype=np.float32)
    for plane, out in zip(planes, smooth, strict=True):
        for top in range(0, len(out), STRIP_ROWS):
            rows = plane[top : top + STRIP_ROWS + 2]
            rows = rows[:-1] + rows[1:]
            rows = rows[:-1] + rows[1:]
            rows = rows[:, :-1] + rows[:, 1:]
            np.add(rows[:, :-1], rows[:, 1:], out=out[top : top + STRIP_ROWS])
    return smooth


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
    nodes = between(nodes - 1, 0, width, 2)  # smoothing took the outermost blocks
    step = max(1, STRIP_CELLS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        x, y = between(nodes, top, bottom, 1)
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
    """Largest step to one of the four neighbouring cells; NaN neighbours say nothing."""
    contrast = np.zeros_like(values)
    for axis in (1, 2):
        n = values.shape[axis]
        low, high = ((slice(None),) * axis + (slice(k, n - 1 + k),) for k in (0, 1))
        step = values[high] - values[low]
        np.abs(step, out=step)
        np.fmax(contrast[low], step, out=contrast[low])
        np.fmax(contrast[high], step, out=contrast[high])
    return contrast
