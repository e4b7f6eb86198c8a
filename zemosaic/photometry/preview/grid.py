"""The coarse grid that all previews share, and the position of a tile on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS, NoConvergence

from .._kernels.nodes import NODE_STEP, interpolate_nodes
from ..tiles.fits_files import TileError
from ..tiles.sky import edge_points, pixel_to_sky, unit_vectors
from ..tiles.tile import Tile

BLOCK = 4  # about a star's FWHM in pixels, so that a difference in seeing washes out
MIN_CELLS = 32  # a tile's shorter side in cells, below which the blocks shrink
MAX_CELLS = 1024  # a tile's longer side in cells, above which the blocks grow


@dataclass(frozen=True)
class Grid:
    """The coarse grid that all previews share.

    Parameters
    ----------
    centre : tuple of float
        Right ascension and declination in degrees of the centre of cell (0, 0).
    scale : float
        Side of a cell in degrees.
    step : float
        Side of the blocks that cells are sampled from, in degrees; half a cell, about.
    projection : {"TAN", "ZEA"}
        A tangent plane stretches far from its centre and ends at 90° from it; the equal-area
        projection does not.
    """

    centre: tuple[float, float]
    scale: float
    step: float
    projection: str

    @property
    def wcs(self) -> WCS:
        """Celestial, in cells; one for each thread, since a WCS changes while it computes."""
        made = getattr(_of_thread, "made", None)
        if made is None or made[0] != self:
            made = _of_thread.made = self, self._wcs()
        return made[1]

    def _wcs(self) -> WCS:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = [f"RA---{self.projection}", f"DEC--{self.projection}"]
        wcs.wcs.crval = self.centre
        wcs.wcs.cdelt = [-self.scale, self.scale]
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.set()
        return wcs


_of_thread = threading.local()


def make_grid(tiles: list[Tile], block: int = 0) -> Grid:
    """Choose the grid for some tiles: centred on them, as coarse as `block` pixels.

    Parameters
    ----------
    tiles : list of Tile
        At least one.
    block : int
        Side of a cell in pixels of the median tile; 0 takes 4, fewer where tiles are small,
        more where they are large.
    """
    scales = np.array([tile.scale for tile in tiles])
    if block == 0:
        short = float(np.median([min(t.shape) for t in tiles]))
        long = float(np.median([max(t.shape) for t in tiles]))
        block = max(1, min(BLOCK, int(short // MIN_CELLS)), int(long // MAX_CELLS))
    pixel = float(np.median(scales))
    units = unit_vectors(np.deg2rad(np.concatenate([tile.corners for tile in tiles])))
    centre = units.sum(axis=0)
    if np.linalg.norm(centre) < 1e-6 * len(units):  # all around the sky: any centre will do
        centre = units[0]
    centre /= np.linalg.norm(centre)
    radius = np.rad2deg(np.arccos(np.clip((units @ centre).min(), -1.0, 1.0)))
    ra = float(np.rad2deg(np.arctan2(centre[1], centre[0]))) % 360.0
    dec = float(np.rad2deg(np.arcsin(centre[2])))
    # A whole number of pixels, so that tiles of one kind all take the same step.
    step = max(1, block // 2) * pixel
    return Grid((ra, dec), block * pixel, step, "TAN" if radius < 30.0 else "ZEA")


def _box(tile: Tile, grid: Grid) -> tuple[int, int, int, int]:
    """The grid cells that a tile touches: x0, y0, width, height."""
    sky = pixel_to_sky(tile.wcs, edge_points(tile.shape, 16))
    cells = grid.wcs.wcs_world2pix(sky, 0)
    if not np.isfinite(cells).all():
        raise TileError(f"{tile.name}: part of it lies off the sky; crop it")
    low = np.floor(cells.min(axis=0)).astype(int)
    high = np.ceil(cells.max(axis=0)).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0] + 1), int(high[1] - low[1] + 1)


def _place(tile: Tile, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The tile's centre on the grid, and the Jacobian there."""
    middle = np.array([tile.shape[1] - 1, tile.shape[0] - 1]) / 2
    around = middle + np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    cells = grid.wcs.wcs_world2pix(pixel_to_sky(tile.wcs, around), 0)
    return cells[0], np.stack([cells[1] - cells[2], cells[3] - cells[4]], axis=1)


def cell_positions(
    tile: Tile, grid: Grid, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of the cells of a box lie in a tile: pixel x and y, ``(h, w)``."""
    columns = interpolate_nodes(_nodes(tile, grid, box), 0, box[2], 2)
    x, y = interpolate_nodes(columns, 0, box[3], 1)
    return x, y


def _nodes(tile: Tile, grid: Grid, box: tuple[int, int, int, int]) -> np.ndarray:
    """Pixel x and y ``(2, rows, columns)`` of every sixteenth cell of a box: x0, y0, w, h."""
    x0, y0, w, h = box
    nodes_x = np.arange(0, w + NODE_STEP, NODE_STEP)
    nodes_y = np.arange(0, h + NODE_STEP, NODE_STEP)
    cells = np.stack(np.meshgrid(nodes_x + x0, nodes_y + y0), axis=-1).reshape(-1, 2)
    sky = grid.wcs.wcs_pix2world(cells.astype(np.float64), 0)
    try:
        xy = tile.wcs.all_world2pix(sky, 0, quiet=True, maxiter=40)
    except NoConvergence as error:  # quiet still raises where nothing converged
        xy = error.best_solution
    return np.ascontiguousarray(xy.T).reshape(2, len(nodes_y), len(nodes_x))
