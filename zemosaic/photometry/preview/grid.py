"""The coarse grid shared by all previews, and the position of a tile on it."""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS

from ...errors import TileError
from .._kernels.nodes import NODE_STEP
from ..tiles.sky import edge_points, pixel_to_sky, sky_to_pixel, unit_vectors
from ..tiles.tile import Tile

#: Default side of a cell in pixels, about the FWHM of a star: differences in seeing average out.
CELL_PIXELS = 4
#: Cells along the shorter side of a tile, below which cells become smaller.
MIN_CELLS = 32
#: Cells along the longer side of a tile, above which cells become larger.
MAX_CELLS = 1024
#: Radius of a mosaic in degrees, up to which a tangent plane is used.
MAX_TANGENT_RADIUS = 30.0
#: Ratio of the pixel scales of a tile and of the typical one, beyond which its WCS is wrong.
MAX_SCALE_RATIO = 50.0
#: Cells of a preview, all channels together: about 2 GB while it is made.
MAX_PREVIEW_CELLS = 1 << 25
#: Points along each side of a tile that determine its extent on the grid.
POINTS_PER_SIDE = 16


@dataclass(frozen=True)
class Grid:
    """The coarse grid shared by all previews.

    Parameters
    ----------
    centre : tuple of float
        Right ascension and declination in degrees of the centre of cell (0, 0).
    scale : float
        Side of a cell in degrees.
    bin_scale : float
        Side of the bins that cells are sampled from, in degrees; about half a cell.
    projection : {"TAN", "ZEA"}
        A tangent plane is stretched far from its centre and ends at 90° from it; the zenithal
        equal-area projection covers the whole sky.
    """

    centre: tuple[float, float]
    scale: float
    bin_scale: float
    projection: str

    @property
    def wcs(self) -> WCS:
        """Celestial WCS in cells; each thread has its own, because a WCS changes while in use."""
        cached = getattr(_THREAD, "grid_and_wcs", None)
        if cached is None or cached[0] != self:
            cached = _THREAD.grid_and_wcs = self, self._make_wcs()
        return cached[1]

    def _make_wcs(self) -> WCS:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = [f"RA---{self.projection}", f"DEC--{self.projection}"]
        wcs.wcs.crval = self.centre
        wcs.wcs.cdelt = [-self.scale, self.scale]
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.set()
        return wcs


#: The last grid that each thread used, and its WCS.
_THREAD = threading.local()


class Box(NamedTuple):
    """A rectangle of cells: the cell at its corner, its width and its height."""

    x0: int
    y0: int
    width: int
    height: int


def odd_scales(tiles: Mapping[int, Tile]) -> dict[int, str]:
    """Find the tiles whose pixels are too large or too small beside the others.

    Parameters
    ----------
    tiles : Mapping
        Tiles by index.

    Returns
    -------
    dict
        The reason, in one line, by index.
    """
    if not tiles:
        return {}
    logs = {index: math.log(tile.scale) for index, tile in tiles.items()}
    typical = statistics.median(logs.values())
    reasons = {}
    for index, log in logs.items():
        if abs(log - typical) > math.log(MAX_SCALE_RATIO):
            tile, ratio = tiles[index], math.exp(log - typical)
            reasons[index] = (
                f"{tile.path or tile.name}: its pixels are {ratio:.3g} times as large as those of "
                "the others by its WCS; solve the plate again"
            )
    return reasons


def make_grid(tiles: list[Tile], cell_pixels: int = 0) -> Grid:
    """Choose the grid for a mosaic, centred on its tiles.

    Parameters
    ----------
    tiles : list of Tile
        At least one.
    cell_pixels : int
        Side of a cell in pixels of the median tile. 0 selects 4, fewer if tiles are small and
        more if they are large.
    """
    cell_pixels = cell_pixels or _choose_cell_pixels(tiles)
    pixel = float(np.median(np.array([tile.scale for tile in tiles])))
    corners = unit_vectors(np.deg2rad(np.concatenate([tile.corners for tile in tiles])))
    centre = corners.sum(axis=0)
    if np.linalg.norm(centre) < 1e-6 * len(corners):  # all around the sky: any centre will do
        centre = corners[0]
    centre /= np.linalg.norm(centre)
    radius = np.rad2deg(np.arccos(np.clip((corners @ centre).min(), -1.0, 1.0)))
    ra = float(np.rad2deg(np.arctan2(centre[1], centre[0]))) % 360.0
    dec = float(np.rad2deg(np.arcsin(centre[2])))
    # A whole number of pixels, so that all tiles of one scale have equal bins.
    bin_scale = max(1, cell_pixels // 2) * pixel
    projection = "TAN" if radius < MAX_TANGENT_RADIUS else "ZEA"
    return Grid((ra, dec), cell_pixels * pixel, bin_scale, projection)


def _choose_cell_pixels(tiles: list[Tile]) -> int:
    shorter_side = float(np.median([min(tile.shape) for tile in tiles]))
    longer_side = float(np.median([max(tile.shape) for tile in tiles]))
    return max(1, min(CELL_PIXELS, int(shorter_side // MIN_CELLS)), int(longer_side // MAX_CELLS))


def tile_box(tile: Tile, grid: Grid) -> Box:
    """Return the cells that a tile touches.

    Raises
    ------
    TileError
        Part of the tile has no position on the grid.
    """
    sky = pixel_to_sky(tile.wcs, edge_points(tile.shape, POINTS_PER_SIDE))
    cells = grid.wcs.wcs_world2pix(sky, 0)
    if not np.isfinite(cells).all():
        raise TileError(f"{tile.name}: part of it lies off the sky; crop it")
    x0, y0 = (int(corner) for corner in np.floor(cells.min(axis=0)))
    x1, y1 = (int(corner) for corner in np.ceil(cells.max(axis=0)))
    box = Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    if box.width * box.height * tile.channels > MAX_PREVIEW_CELLS:
        raise TileError(
            f"{tile.path or tile.name}: is {box.width} x {box.height} times as large as a cell of "
            "the grid that the others need; leave it out, or solve the plate again if its scale "
            "is wrong"
        )
    return box


def tile_centre(tile: Tile, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre ``(2,)`` of a tile in cells, and the Jacobian ``(2, 2)`` there.

    The Jacobian is the derivative of the position in cells with respect to the tile's pixel x
    and y.
    """
    centre = np.array([tile.shape[1] - 1, tile.shape[0] - 1]) / 2
    pixels = centre + np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    cells = grid.wcs.wcs_world2pix(pixel_to_sky(tile.wcs, pixels), 0)
    return cells[0], np.stack([cells[1] - cells[2], cells[3] - cells[4]], axis=1)


def pixel_nodes(tile: Tile, grid: Grid, box: Box) -> np.ndarray:
    """Return pixel x and y of a tile at every sixteenth cell of a box, ``(2, rows, columns)``."""
    node_columns = np.arange(0, box.width + NODE_STEP, NODE_STEP)
    node_rows = np.arange(0, box.height + NODE_STEP, NODE_STEP)
    cells = np.stack(np.meshgrid(node_columns + box.x0, node_rows + box.y0), axis=-1)
    sky = grid.wcs.wcs_pix2world(cells.reshape(-1, 2).astype(np.float64), 0)
    xy = sky_to_pixel(tile.wcs, sky)
    return np.ascontiguousarray(xy.T).reshape(2, len(node_rows), len(node_columns))
