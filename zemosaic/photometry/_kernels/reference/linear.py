"""Linear sampling of an image between its pixels, without its invalid ones."""

from __future__ import annotations

import numpy as np

from ..nodes import interpolate_at

STRIP_PIXELS = 1 << 16  # sampled at once


def sample_linear(
    image: np.ndarray, nodes: np.ndarray, shape: tuple[int, int], step: int
) -> np.ndarray:
    """Sample an image at positions that are linear between nodes.

    A sample is the mean of the four pixels around its position, weighted linearly. Invalid pixels
    do not count. The sample of a constant is this constant, and no sample is outside the range of
    its pixels.

    Parameters
    ----------
    image : ndarray
        ``(N, h, w)`` float32; not finite where a pixel is invalid.
    nodes : ndarray
        ``(2, rows, columns)`` float64 x and y of every `step`-th sample, at least one node beyond
        the last one in each direction. NaN where there is no position.
    shape : tuple of int
        Height and width of the result.
    step : int
        Samples between two nodes.

    Returns
    -------
    ndarray
        ``(N, *shape)`` float32. NaN outside the pixels, which are squares about their centres, and
        where none of the four pixels is valid.
    """
    height, width = shape
    values = np.empty((len(image), *shape), dtype=np.float32)
    rows = max(1, STRIP_PIXELS // width)
    columns = interpolate_at(nodes, np.arange(width), step, 2)
    for top in range(0, height, rows):
        strip = np.arange(top, min(top + rows, height))
        x, y = interpolate_at(columns, strip, step, 1)
        _sample_strip(image, x, y, values[:, top : top + rows])
    return values


def _sample_strip(image: np.ndarray, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    rows, columns = image.shape[1:]
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x <= columns - 0.5) & (y >= -0.5) & (y <= rows - 0.5)
    x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    left, top = np.floor(x), np.floor(y)
    column = np.clip([left, left + 1, left, left + 1], 0, columns - 1).astype(np.intp)
    row = np.clip([top, top, top + 1, top + 1], 0, rows - 1).astype(np.intp)
    for layer, out in zip(image, values, strict=True):
        pixels = layer[row, column].astype(np.float64)
        out[:] = np.where(inside, _mean(pixels, x - left, y - top), np.nan)


def _mean(pixels: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the means of four pixels ``(4, ...)``, at a distance from the first of them."""
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    finite = np.isfinite(pixels)
    counted = np.where(finite, weights, 0.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        upper = pixels[0] + u * (pixels[1] - pixels[0])
        lower = pixels[2] + u * (pixels[3] - pixels[2])
        plain = upper + v * (lower - upper)  # of a constant it is this constant
        mean = (counted * np.where(finite, pixels, 0.0)).sum(axis=0) / counted.sum(axis=0)
    return np.where(np.isfinite(plain), plain, mean).astype(np.float32)
