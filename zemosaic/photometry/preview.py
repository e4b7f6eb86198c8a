"""One tile -> one preview on the mosaic's shared coarse grid.

Every tile is read once and resampled once, here; a pair is then a slice of two previews.
The path of a pixel: mean over blocks of half a cell, a [1, 2, 1] smoothing of the blocks, then
sampling at the centres of the grid's cells with a quadratic B-spline. What a cell holds is thus
the sky seen through one smooth kernel about a cell wide, the same wherever the cell falls
between the tile's pixels and however the tile is turned; blocks as large as a cell would alias.
Where the centres lie in the tile is computed through both WCSs on every sixteenth cell and
interpolated in between, as SWarp does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.wcs import WCS, NoConvergence

from zemosaic.photometry.tiles import (
    Tile,
    TileError,
    edge_points,
    pixel_to_sky,
    unit_vectors,
)

NODE_STEP = 16  # cells between exact positions; SIP bends by < 0.01 pixel over this
BLOCK = 4  # about a star's FWHM in pixels, so that a difference in seeing washes out
MIN_CELLS = 32  # a tile's shorter side in cells, below which the blocks shrink
MAX_CELLS = 1024  # a tile's longer side in cells, above which the blocks grow
MIN_FRACTION = 0.8  # of the kernel that must be there: without a side it leans to the other
# A cell errs by this part of the local contrast: registration and seeing move light from one
# cell to the next. Measured on simulated tiles whose seeing differs by 10 %.
CONTRAST_ERROR = 0.05


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

    @cached_property
    def wcs(self) -> WCS:
        """Celestial, in cells."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = [f"RA---{self.projection}", f"DEC--{self.projection}"]
        wcs.wcs.crval = self.centre
        wcs.wcs.cdelt = [-self.scale, self.scale]
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.set()
        return wcs

    def __getstate__(self) -> dict[str, object]:
        # A WCS loses digits in a pickle; it is made anew from the numbers.
        return {key: value for key, value in self.__dict__.items() if key != "wcs"}


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
        ``(C, h, w)`` float32 in ADU²: noise of a cell, and what registration and seeing may
        have moved in or out of it; NaN where `values` is.
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

    def save(self, path: Path) -> None:
        """Write the preview where `load` finds it."""
        np.save(path, np.concatenate([self.values, self.variance]))

    def load(self, path: Path) -> Preview:
        """The same preview with the arrays of `path`, read from disk as they are touched."""
        both = np.load(path, mmap_mode="r")
        c = len(both) // 2
        return replace(self, values=both[:c], variance=both[c:])

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
    planes = tile.pixels()
    if tile.weight is not None:  # takes the same way to the grid as one more plane
        relative = tile.weight / np.median(tile.weight[tile.weight > 0])
        planes = np.concatenate([planes, relative[np.newaxis].astype(np.float32)])
    means, fraction = block_mean(planes, step)
    noise = np.array([_noise(plane) for plane in means[: tile.channels]])
    x0, y0, w, h = _box(tile, grid)
    x, y = cell_positions(tile, grid, (x0, y0, w, h))
    values, factor, missing = _sample(
        means, fraction, (x + 0.5) / step - 0.5, (y + 0.5) / step - 0.5
    )
    if tile.weight is not None:
        factor = factor[:-1] / values[-1]
        values, missing = values[:-1], missing[:-1]
    if not np.isfinite(values).any(axis=(1, 2)).all():
        raise TileError(f"{tile.name}: has no valid pixel in at least one channel; leave it out")
    variance = noise.astype(np.float32)[:, None, None] ** 2 * factor
    # Without a part of it the kernel leans to the other side, by as much.
    variance += ((np.float32(CONTRAST_ERROR) + missing) * local_contrast(values)) ** 2
    sky = np.array([_median(plane) for plane in values])
    return Preview(x0, y0, values, variance, sky, *_place(tile, grid))


def block_mean(planes: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean of the valid pixels of each block, and the fraction of its pixels that are valid.

    Parameters
    ----------
    planes : ndarray
        ``(C, H, W)`` float32, NaN where there is no datum.
    block : int
        Side of a block in pixels; rows and columns beyond the last whole block are left out.

    Returns
    -------
    means : ndarray
        ``(C, H // block, W // block)`` float32; 0 where no pixel is valid.
    fraction : ndarray or None
        Of the same shape; None where all pixels are valid.
    """
    valid = np.isfinite(planes)
    if valid.all():
        return _block_sum(planes, block) / np.float32(block * block), None
    counts = _block_sum(valid.astype(np.float32), block)
    sums = _block_sum(np.where(valid, planes, np.float32(0)), block)
    return sums / np.maximum(counts, 1), counts / np.float32(block * block)


def _block_sum(planes: np.ndarray, block: int) -> np.ndarray:
    c, h, w = planes.shape
    planes = planes[:, : h - h % block, : w - w % block]
    rows = planes.reshape(c, h // block, block, -1).sum(axis=2)
    total = rows[..., ::block].copy()
    for k in range(1, block):
        total += rows[..., k::block]
    return total


def _smoothed(planes: np.ndarray) -> np.ndarray:
    """Convolution with [1, 2, 1] / 4 along both axes; without the outermost blocks."""
    rows = planes[:, :-2] + 2 * planes[:, 1:-1] + planes[:, 2:]
    both = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    both *= np.float32(1 / 16)
    return both


def _median(plane: np.ndarray) -> float:
    """Median of the finite values; of every fourth row where there are many."""
    for thin in (4, 1):
        rows = plane[::thin]
        known = rows[np.isfinite(rows)]
        if len(known) > 1000 or thin == 1:
            break
    return float(np.median(known))


def _noise(means: np.ndarray) -> float:
    """Noise of a block from second differences: blind to slopes, hardly moved by stars."""
    thin = 4 if means.size > 1 << 16 else 1  # a quarter of a large tile tells as much
    differences = [
        lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2]
        for lines in (means[::thin], means.T[::thin])
        if lines.shape[1] > 2
    ]
    if not differences:
        return 0.0
    flat = np.abs(np.concatenate([d.ravel() for d in differences]))
    flat = flat[flat > 0]  # padding and constant areas say nothing
    if not len(flat):
        return 0.0
    sigma = float(np.median(flat)) / 0.6745
    for _ in range(5):
        # The rms of a normal distribution cut at ±2 sigma is 0.8796 sigma.
        kept = flat[flat < 2 * sigma]
        if not len(kept):
            break
        sigma = float(np.sqrt(np.mean(np.square(kept, dtype=np.float64)))) / 0.8796
    return sigma / np.sqrt(6.0)


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
    x0, y0, w, h = box
    nodes_x = np.arange(0, w + NODE_STEP, NODE_STEP)
    nodes_y = np.arange(0, h + NODE_STEP, NODE_STEP)
    cells = np.stack(np.meshgrid(nodes_x + x0, nodes_y + y0), axis=-1).reshape(-1, 2)
    sky = grid.wcs.wcs_pix2world(cells.astype(np.float64), 0)
    try:
        xy = tile.wcs.all_world2pix(sky, 0, quiet=True, maxiter=40)
    except NoConvergence as error:  # quiet still raises where nothing converged
        xy = error.best_solution
    shape = (len(nodes_y), len(nodes_x))
    x, y = (_interpolated(_interpolated(xy[:, k].reshape(shape), h, 0), w, 1) for k in (0, 1))
    return x, y


def _interpolated(nodes: np.ndarray, cells: int, axis: int) -> np.ndarray:
    """Values at `cells` cells along an axis, linear between nodes NODE_STEP apart."""
    position = np.arange(cells) / NODE_STEP
    below = position.astype(int)
    part = np.expand_dims(position - below, 1 - axis)
    return nodes.take(below, axis) * (1 - part) + nodes.take(below + 1, axis) * part


def _sample(
    means: np.ndarray, fraction: np.ndarray | None, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of the smoothed blocks at x, y (in blocks), and what that does to the noise.

    The second array is the variance of a sample in units of that of a block. It depends on
    where between the blocks the sample lies, hence on the tile; a line through two tiles of low
    contrast is biased unless that is known. The third is the part of the kernel that is missing.
    """
    c, h, w = means.shape
    values = np.full((c, *x.shape), np.nan, dtype=np.float32)
    variance = np.full((c, *x.shape), np.nan, dtype=np.float32)
    missing = np.zeros((c, *x.shape), dtype=np.float32)
    inside = (x >= 1.5) & (x <= w - 2.5) & (y >= 1.5) & (y <= h - 2.5)
    if min(h, w) < 5 or not inside.any():
        return values, variance, missing
    xs, ys = x[inside] - 1, y[inside] - 1  # smoothing takes the outermost blocks
    column, row = np.rint(xs).astype(np.intp), np.rint(ys).astype(np.intp)
    across = _spline((xs - column).astype(np.float32))
    along = _spline((ys - row).astype(np.float32))
    middle = row * (w - 2) + column
    neighbours = [
        (middle + (m - 1) * (w - 2) + n - 1, along[m] * across[n])
        for m in range(3)
        for n in range(3)
    ]
    factor = _noise_factor(across) * _noise_factor(along)
    smooth = _smoothed(means if fraction is None else means * fraction)
    share = None if fraction is None else _smoothed(fraction)
    for k in range(c):
        plane = smooth[k].ravel()
        total = sum(weight * plane[at] for at, weight in neighbours)
        if share is None:
            values[k][inside], variance[k][inside] = total, factor
            continue
        part = share[k].ravel()
        covered = sum(weight * part[at] for at, weight in neighbours)
        covered[covered < MIN_FRACTION] = np.nan
        values[k][inside] = total / covered
        variance[k][inside], missing[k][inside] = factor / covered, 1 - covered
    return values, variance, missing


def _spline(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of three blocks for a sample t blocks (-1/2 to 1/2) from the middle one.

    The quadratic B-spline: its width does not depend on t, where that of linear interpolation
    does, so that a star has the same shape wherever it falls between the blocks.
    """
    return (0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2


def _noise_factor(weights: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Sum of the squared weights of the spline convolved with [1, 2, 1] / 4."""
    a, b, c = weights
    return (a**2 + (2 * a + b) ** 2 + (a + 2 * b + c) ** 2 + (b + 2 * c) ** 2 + c**2) / 16


def local_contrast(values: np.ndarray) -> np.ndarray:
    """Largest step to one of the four neighbouring cells; NaN neighbours say nothing."""
    contrast = np.zeros_like(values)
    for axis in (1, 2):
        step = np.nan_to_num(np.abs(np.diff(values, axis=axis)))
        n = values.shape[axis] - 1
        first = (slice(None),) * axis + (slice(0, n),)
        last = (slice(None),) * axis + (slice(1, n + 1),)
        np.maximum(contrast[first], step, out=contrast[first])
        np.maximum(contrast[last], step, out=contrast[last])
    return contrast
