"""Thumbnails of previews, for the pictures of the whole mosaic."""

from __future__ import annotations

import numpy as np

from .._kernels.block_sums import block_sum
from .grid import Grid
from .preview import Preview

SCREEN = 800  # cells of the longer side of a picture of the whole mosaic


def thumb_factor(corners: np.ndarray, grid: Grid) -> int:
    """Cells of the grid to a side of a thumbnail's cell, so that the mosaic fills a screen.

    `corners` are those of all tiles, ``(T, 4, 2)`` in degrees.
    """
    cells = grid.wcs.wcs_world2pix(corners.reshape(-1, 2), 0)
    return max(1, int(np.ceil(np.nanmax(np.ptp(cells, axis=0)) / SCREEN)))


def thumbnail(preview: Preview, factor: int) -> np.ndarray:
    """Means over blocks of the shared grid's cells, valid ones: ``(C, h, w)`` float32, or NaN."""
    x, y = -preview.x0 % factor, -preview.y0 % factor
    return block_sum(preview.values[:, y:, x:], factor) / np.float32(factor**2)
