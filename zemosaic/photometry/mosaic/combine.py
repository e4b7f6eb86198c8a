"""Combination of the tiles that cover a block: their weighted mean, with or without outliers.

Tiles are weighted with their inverse variance times the weight that falls to their borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Box
from .resample import Layer, lattice

COMBINATIONS = ("mean", "clip")
#: A value is an outlier if it differs from the median of at least so many tiles by more than
#: `LIMIT` standard errors of itself and the change of the median over a pixel.
FEWEST, LIMIT = 3, 4.0
#: Share of this limit from which on a neighbour of an outlier is one.
NEIGHBOUR = 0.5


@dataclass(frozen=True, eq=False)
class Coadd:
    """The coadd of a block.

    Parameters
    ----------
    data : ndarray
        ``(C, h, w)`` float32 in ADU, NaN without any tile.
    error : ndarray
        ``(C, h, w)`` float32: standard deviation of the noise of the sky in ADU, of pixels
        before the interpolation.
    coverage : ndarray
        ``(h, w)`` int16: number of tiles in the channel with the most.
    change : ndarray or None
        ``(C, m, n)`` float32: mean change of the tiles by their corrections, at the middle of
        every square of so many pixels, NaN without any.
    """

    data: np.ndarray
    error: np.ndarray
    coverage: np.ndarray
    change: np.ndarray | None


def combine(
    layers: Iterable[Layer], box: Box, channels: int, combination: str, change_step: int = 0
) -> Coadd:
    """Combine tiles on a box of the canvas; the tiles of a mean are in memory one after the other.

    With a `change_step` the layers have their changes at every so many pixels.
    """
    if combination == "clip":
        stack = list(layers)
        drop_outliers(stack, box)
        layers = stack
    sums = _Sums(box, channels, change_step)
    for layer in layers:
        sums.add(layer)
    return sums.result()


class _Sums:
    def __init__(self, box: Box, channels: int, change_step: int) -> None:
        self._box = box
        shape = (channels, *box.shape)
        self._total, self._weight, self._variance = (np.zeros(shape) for _ in range(3))
        self._count = np.zeros(shape, dtype=np.int16)
        self._step = change_step
        self._lattice = lattice(box, change_step or 1)
        rows, columns = self._lattice
        self._change = np.zeros((channels, len(rows), len(columns)) if change_step else (0, 0, 0))

    def add(self, layer: Layer) -> None:
        """Add a tile."""
        at = (slice(None), *layer.box.slices_in(self._box))
        valid = np.isfinite(layer.values)
        weight = np.where(valid, layer.weight * layer.inverse_variance, np.float32(0))
        self._total[at] += weight * np.where(valid, layer.values, np.float32(0)).astype(np.float64)
        self._weight[at] += weight
        # The square of the weight times the variance.
        self._variance[at] += weight * layer.weight
        self._count[at] += weight > 0
        if layer.change is not None:
            self._add_change(layer, weight)

    def _add_change(self, layer: Layer, weight: np.ndarray) -> None:
        assert layer.change is not None
        rows, columns = layer.lattice
        y, x = layer.box.y0 - self._box.y0, layer.box.x0 - self._box.x0
        row, column = (
            int(np.searchsorted(all_, first)) for all_, first in
            zip(self._lattice, (rows[0] + y, columns[0] + x), strict=True)
        )  # fmt: skip
        part = self._change[:, row : row + len(rows), column : column + len(columns)]
        part += weight[:, rows][:, :, columns] * np.nan_to_num(layer.change)

    def result(self) -> Coadd:
        """Return the coadd."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            mean, error = self._total / self._weight, np.sqrt(self._variance) / self._weight
            change = None
            if self._step:
                rows, columns = self._lattice
                change = (self._change / self._weight[:, rows][:, :, columns]).astype(np.float32)
            return Coadd(
                mean.astype(np.float32),
                np.where(self._weight > 0, error, np.nan).astype(np.float32),
                self._count.max(axis=0),
                change,
            )


def drop_outliers(layers: Sequence[Layer], box: Box) -> None:
    """Set the values of outliers to NaN, in place, if enough tiles cover a box.

    As for cosmic rays in images of the Hubble Space Telescope (`drizzle`), the limit grows with the
    change of the median from pixel to pixel, so differences in seeing and position do not make
    outliers of stars.
    """
    if len(layers) < FEWEST:
        return
    shape = (len(layers), len(layers[0].values), *box.shape)
    stack = np.full(shape, np.nan, dtype=np.float32)
    for values, layer in zip(stack, layers, strict=True):
        values[(slice(None), *layer.box.slices_in(box))] = layer.values
    median, count = _median(stack)
    allowance = _steepness(median)
    for values, layer in zip(stack, layers, strict=True):
        at = (slice(None), *layer.box.slices_in(box))
        with np.errstate(invalid="ignore", divide="ignore"):
            limit = allowance[at] + LIMIT / np.sqrt(layer.inverse_variance)
            excess = np.abs(values[at] - median[at]) / limit
        excess[count[at] < FEWEST] = 0
        layer.values[_with_neighbours(np.nan_to_num(excess))] = np.nan


def _with_neighbours(excess: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    outliers = excess > 1
    near = ndimage.binary_dilation(outliers, np.ones((1, 3, 3), dtype=bool))
    return outliers | (near & (excess > NEIGHBOUR))


def _median(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the finite values along the first axis, and their number."""
    ordered, count = np.sort(stack, axis=0), np.isfinite(stack).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    high = np.minimum(high, len(stack) - 1)
    middle = (np.take_along_axis(ordered, index[np.newaxis], 0)[0] for index in (low, high))
    return np.mean(list(middle), axis=0), count


def _steepness(image: np.ndarray) -> np.ndarray:
    """Return the largest difference of a finite pixel from its neighbours, 0 without any."""
    from scipy import ndimage

    size = (1, 3, 3)
    finite = np.isfinite(image)
    highest = ndimage.maximum_filter(np.where(finite, image, -np.inf), size)
    lowest = ndimage.minimum_filter(np.where(finite, image, np.inf), size)
    with np.errstate(invalid="ignore"):
        steepness = np.maximum(highest - image, image - lowest)
    return np.where(np.isfinite(steepness), steepness, 0).astype(np.float32)
