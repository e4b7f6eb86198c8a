"""Pixels -> blocks -> samples between the blocks, through one smooth kernel.

The path of a pixel: mean over blocks of half a cell, a [1, 2, 1] smoothing of the blocks, then
sampling at the centres of the grid's cells with a quadratic B-spline. What a cell holds is thus
the sky seen through one smooth kernel about a cell wide, the same wherever the cell falls
between the tile's pixels and however the tile is turned; blocks as large as a cell would alias.

All of it goes strip by strip, so that what is worked on stays in the processor's cache.
"""

from __future__ import annotations

import numpy as np

from .. import _kernels

MIN_FRACTION = 0.8  # of the kernel that must be there: without a side it leans to the other
STRIP_ROWS = 32  # smoothed at once


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
        values, factor = _kernels.sample_spline(_smoothed(means), nodes, shape)
        return values, factor[np.newaxis], np.zeros((1, 1, 1), dtype=np.float32)
    planes = np.concatenate([means * fraction, fraction])
    both, factor = _kernels.sample_spline(_smoothed(planes), nodes, shape)
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
