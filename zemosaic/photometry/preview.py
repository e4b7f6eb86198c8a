"""One tile -> one preview on the mosaic's shared coarse grid.

Every tile is read once and resampled once, here; a pair is then a slice of two previews.
Where the centres lie in the tile is computed through both WCSs on every sixteenth cell and
interpolated in between, as SWarp does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.wcs import WCS, NoConvergence

from zemosaic.photometry.fits_files import TileError
from zemosaic.photometry.sampling import (
    NODE_STEP,
    between,
    block_means,
    block_noise,
    block_summary,
    local_contrast,
    sample,
)
from zemosaic.photometry.tiles import (
    Tile,
    edge_points,
    pixel_to_sky,
    unit_vectors,
)

BLOCK = 4  # about a star's FWHM in pixels, so that a difference in seeing washes out
SIDE = 4  # cells of a block of `Preview.blocks`
MIN_CELLS = 32  # a tile's shorter side in cells, below which the blocks shrink
MAX_CELLS = 1024  # a tile's longer side in cells, above which the blocks grow
SPARSE = 128  # words from one to the next that the checksum takes: one in a sector of 512 bytes
ARRAYS = ("values", "variance", "sky", "centre", "jacobian")  # that are kept on disk


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


@dataclass(frozen=True, eq=False)
class Preview:
    """A tile on the shared grid.

    Parameters
    ----------
    x0, y0 : int
        The grid cell of ``values[:, 0, 0]``.
    values : ndarray
        ``(C, h, w)`` float32 in ADU; NaN where the tile has no datum.
    variance : ndarray
        ``(C, h, w)`` float32 in ADU²: noise of a cell, and what a kernel that lacks a part of
        itself may have seen of its neighbours; NaN where `values` is.
    sky : ndarray
        ``(C,)`` float64 in ADU: the median of the values, the tile's sky level.
    centre : ndarray
        ``(2,)`` float64: the tile's centre on the grid, in cells.
    jacobian : ndarray
        ``(2, 2)`` float64: change of the place on the grid with the tile's pixel x and y.
    """

    x0: int
    y0: int
    values: np.ndarray
    variance: np.ndarray
    sky: np.ndarray
    centre: np.ndarray
    jacobian: np.ndarray

    @cached_property
    def blocks(self) -> np.ndarray:
        """What blocks of SIDE x SIDE cells hold, on a lattice that all previews share.

        Returns
        -------
        ndarray
            ``(7, C, H, W)`` float32, see `block_summary`. Block ``[0, 0]`` begins at the grid
            cell ``(x0 // SIDE * SIDE, y0 // SIDE * SIDE)``.
        """
        return block_summary(self.values, self.variance, (self.y0 % SIDE, self.x0 % SIDE), SIDE)

    def channel(self, index: int) -> Preview:
        """One channel alone."""
        one = slice(index, index + 1)
        found = replace(
            self, values=self.values[one], variance=self.variance[one], sky=self.sky[one]
        )
        vars(found)["blocks"] = self.blocks[:, one]
        return found

    def save(self, path: Path) -> None:
        """Write the preview where `load` finds it."""
        arrays = {name: getattr(self, name) for name in (*ARRAYS, "blocks")}
        arrays["corner"] = np.array([self.x0, self.y0])
        record = np.dtype([(name, array.dtype, array.shape) for name, array in arrays.items()])
        header = {
            "descr": np.lib.format.dtype_to_descr(record), "fortran_order": False, "shape": ()
        }  # fmt: skip
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for array in arrays.values():
                # Not by `tofile`, which keeps silent of a disk that takes no more.
                file.write(np.ascontiguousarray(array).data)

    def checksum(self) -> int:
        """Sum over words of all that is kept of it, one in each sector of a disk.

        It tells a file that a disk lost some of, which then holds zeros or something else there.
        """
        arrays = (np.ascontiguousarray(getattr(self, name)).ravel() for name in (*ARRAYS, "blocks"))
        return sum(int(array.view(np.uint32)[::SPARSE].sum(dtype=np.uint64)) for array in arrays)

    @classmethod
    def load(cls, path: str | Path) -> Preview:
        """The preview that was saved there; its arrays are read from disk as they are touched."""
        record = np.asarray(np.load(path, mmap_mode="r"))  # slices of a memmap cost more
        found = cls(*record["corner"].tolist(), *(record[name] for name in ARRAYS))
        vars(found)["blocks"] = record["blocks"]
        return found

    def without_arrays(self) -> Preview:
        """The place and levels alone: small enough to be sent between processes."""
        none = np.empty((0, 0, 0), dtype=np.float32)
        return replace(self, values=none, variance=none)


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


def make_preview(tile: Tile, grid: Grid) -> Preview:
    """Read a tile and resample it onto the grid.

    Raises
    ------
    TileError
        The tile cannot be read or has no valid pixel.
    """
    step = max(1, min(round(grid.step / tile.scale), *tile.shape))
    means, fraction = block_means(tile, step)
    noise = np.array([block_noise(plane) for plane in means[: tile.channels]], dtype=np.float32)
    x0, y0, w, h = box = _box(tile, grid)
    nodes = (_nodes(tile, grid, box) + 0.5) / step - 0.5
    values, factor, missing = sample(means, fraction, nodes, (h, w))
    if tile.weight is not None:
        factor, values = factor[: tile.channels] / values[-1], values[:-1]
    if not np.isfinite(values).any(axis=(1, 2)).all():
        raise TileError(f"{tile.name}: has no valid pixel in at least one channel; leave it out")
    variance = noise[:, None, None] ** 2 * factor
    if fraction is not None:
        # Without a part of it the kernel leans to the other side, by as much.
        moved = local_contrast(values)
        moved *= missing[: tile.channels]
        variance += np.square(moved, out=moved)
    sky = np.array([_median(plane) for plane in values])
    return Preview(x0, y0, values, variance, sky, *_place(tile, grid))


def _median(plane: np.ndarray) -> float:
    """Median of the finite values; of every fourth row where there are many."""
    for thin in (4, 1):
        rows = plane[::thin]
        known = rows[np.isfinite(rows)]
        if len(known) > 1000 or thin == 1:
            break
    return float(np.median(known))


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
    x, y = between(between(_nodes(tile, grid, box), 0, box[2], 2), 0, box[3], 1)
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
