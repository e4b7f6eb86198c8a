"""Thumbnails of previews, for images of the whole mosaic."""

from __future__ import annotations

import numpy as np

from .._kernels.block_sums import block_sum
from .binary_unit import scale_exactly
from .grid import Grid
from .preview import Preview

#: Thumbnail cells along the longer side of a mosaic, about the pixels of a screen.
SCREEN = 800


def thumb_factor(corners: np.ndarray, grid: Grid) -> int:
    """Return the side of a thumbnail's cell in grid cells, so that the mosaic fills a screen.

    Parameters
    ----------
    corners : ndarray
        ``(T, 4, 2)`` corners of all tiles in degrees.
    grid : Grid
        The grid of the previews.
    """
    cells = grid.wcs.wcs_world2pix(corners.reshape(-1, 2), 0)
    cells = cells[np.isfinite(cells).all(axis=1)]  # not all lie on a tangent plane
    return max(1, int(np.ceil(np.ptp(cells, axis=0).max() / SCREEN))) if len(cells) else 1


def thumbnail(preview: Preview, factor: int) -> np.ndarray:
    """Return means over squares of `factor` cells in ADU, ``(C, h, w)`` float32.

    They are NaN in invalid cells.
    """
    x, y = -preview.x0 % factor, -preview.y0 % factor
    means = block_sum(preview.values[:, y:, x:], factor) / np.float32(factor**2)
    levels = preview.pedestals.astype(np.float32)[:, None, None]
    return scale_exactly(means, preview.exponent) + levels
