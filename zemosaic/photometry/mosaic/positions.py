"""The positions in a tile of the pixels of the canvas.

They are computed with both WCSs at nodes and interpolated in between, as SWarp does; the distance
of the nodes follows from the error of the interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.wcs import WCS

from .. import _kernels
from .._kernels.nodes import interpolate_at
from ..tiles.sky import pixel_to_sky, sky_to_pixel
from ..tiles.tile import Tile
from .canvas import Box, Placement

#: Samples between nodes, tried in this order, and the largest error of a position in pixels.
STEPS, POSITION_ERROR = (64, 16, 4, 1), 0.01
#: Most samples along a side of a canvas pixel larger than the pixels of a tile.
MOST_SAMPLES = 16
#: Ratio of the pixels of canvas and tile up to which one sample is enough.
NEAR_RATIO = 1.3


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions in a tile of the pixels of a box: nodes, or a shift by whole pixels.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the box.
    nodes : ndarray
        ``(2, rows, columns)`` x and y at every `step`-th sample.
    step : int
        Samples between nodes.
    samples : int
        Samples along a side of a pixel.
    whole : bool
        Whether all positions are pixels of the tile.
    """

    shape: tuple[int, int]
    nodes: np.ndarray
    step: int
    samples: int = 1
    whole: bool = False

    def window(self, shape: tuple[int, int]) -> tuple[slice, slice] | None:
        """Return the needed rows and columns of a tile of this shape, None without any."""
        if self.whole:
            first = self.nodes[::-1, 0, 0].astype(int).tolist()
            rows, columns = (slice(a, a + n) for a, n in zip(first, self.shape, strict=True))
            return rows, columns
        slices = []
        for length, nodes in zip(shape, self.nodes[::-1], strict=True):
            finite = nodes[np.isfinite(nodes)]
            if not len(finite):
                return None
            first, last = math.floor(finite.min()) - 1, math.ceil(finite.max()) + 2
            slices.append(slice(max(0, first), min(length, last)))
        rows, columns = slices
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None

    def at(self, rows: np.ndarray, columns: np.ndarray) -> Positions:
        """Return the positions of the middles of some rows and columns, at least one node each."""
        middle = (self.samples - 1) / 2  # of a pixel, in samples
        nodes = self.nodes
        for axis, cells in ((1, rows), (2, columns)):
            ends = np.append(cells, cells[-1:])  # one more, as the kernel needs it
            nodes = interpolate_at(nodes, ends * self.samples + middle, self.step, axis)
        return Positions((len(rows), len(columns)), nodes, 1)

    def sample(self, image: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
        """Return the samples ``(N, h, w)`` of a part ``(N, ...)`` of the tile."""
        if self.whole:
            return np.where(np.isfinite(image), image, np.float32(np.nan))
        shift = np.array([window[1].start, window[0].start])[:, None, None]
        return self._sample(image, self.nodes - shift)

    def sample_map(self, coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return the samples ``(N, h, w)`` of maps of a tile of this shape, in bins with a ring."""
        bins = np.array(coarse.shape[:0:-1]) - 2
        per_pixel = (bins / shape[::-1])[:, None, None]
        return self._sample(coarse, (self.nodes + 0.5) * per_pixel + 0.5)

    def _sample(self, image: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        height, width = (length * self.samples for length in self.shape)
        values = _kernels.sample_linear(image, nodes, (height, width), self.step)
        return values if self.samples == 1 else _mean_samples(values, self.samples)


def _mean_samples(values: np.ndarray, samples: int) -> np.ndarray:
    """Return the means of the valid samples in each pixel, NaN if these are less than half."""
    layers, height, width = values.shape
    parts = values.reshape(layers, height // samples, samples, width // samples, samples)
    valid = np.isfinite(parts)
    count = valid.sum(axis=(2, 4))
    total = np.where(valid, parts, np.float32(0)).sum(axis=(2, 4), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
    return np.where(2 * count >= samples**2, mean, np.nan).astype(np.float32)


def find_positions(wcs: WCS, box: Box, tile: Tile, placement: Placement) -> Positions:
    """Return the positions in a tile of the pixels of a box of the canvas with a WCS."""
    if placement.shift is not None:
        first = np.array([box.x0, box.y0]) - placement.shift
        step = max(box.shape)
        x, y = first[:, None] + [0.0, step]
        return Positions(box.shape, np.stack(np.meshgrid(x, y)), step, whole=True)
    samples = _samples_per_side(wcs, box, tile)
    locate = partial(_locate, wcs, tile.wcs, box, samples)
    shape = box.shape[0] * samples, box.shape[1] * samples
    for step in STEPS:
        nodes = locate(*(np.arange(0, length + step, step, dtype=float) for length in shape))
        if step == 1 or _is_fine(nodes, step, locate):
            break
    return Positions(box.shape, nodes, step, samples)


def _locate(
    wcs: WCS, tile_wcs: WCS, box: Box, samples: int, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return pixel x and y of a tile ``(2, rows, columns)`` at some samples of a box."""
    x, y = (columns + 0.5) / samples - 0.5 + box.x0, (rows + 0.5) / samples - 0.5 + box.y0
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        found = sky_to_pixel(tile_wcs, pixel_to_sky(wcs, places))
    return np.ascontiguousarray(found.T).reshape(2, len(rows), len(columns))


def _is_fine(nodes: np.ndarray, step: int, locate: partial[np.ndarray]) -> bool:
    """Return whether positions between nodes can be interpolated, by those in the middle."""
    rows, columns = (step * (np.arange(length - 1) + 0.5) for length in nodes.shape[1:])
    exact = locate(rows, columns)
    corners = (nodes[:, :-1, :-1], nodes[:, 1:, :-1], nodes[:, :-1, 1:], nodes[:, 1:, 1:])
    with np.errstate(invalid="ignore"):
        error = np.abs(sum(corners) / 4 - exact)
    return bool((error < POSITION_ERROR).all())


def _samples_per_side(wcs: WCS, box: Box, tile: Tile) -> int:
    middle = np.array([box.x0 + box.x1 - 1, box.y0 + box.y1 - 1]) / 2
    scale = math.sqrt(abs(np.linalg.det(_jacobian(wcs, tile.wcs, middle))))
    return min(MOST_SAMPLES, math.ceil(scale)) if scale > NEAR_RATIO else 1


def _jacobian(wcs: WCS, tile_wcs: WCS, place: np.ndarray) -> np.ndarray:
    """Return the derivative ``(2, 2)`` of the position in a tile; 1 if there is none."""
    points = place + 0.5 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    with np.errstate(invalid="ignore"):
        xy = sky_to_pixel(tile_wcs, pixel_to_sky(wcs, points))
    found = np.stack([xy[0] - xy[1], xy[2] - xy[3]])
    return found if np.isfinite(found).all() else np.eye(2)
