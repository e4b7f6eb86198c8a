"""One tile -> one preview on the mosaic's shared coarse grid.

Every tile is read once and resampled once, here; a pair is then a slice of two previews.
Where the centres lie in the tile is computed through both WCSs on every sixteenth cell and
interpolated in between, as SWarp does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..tiles.fits_files import TileError
from ..tiles.tile import Tile
from .block_means import block_means, block_noise
from .block_summary import block_summary
from .grid import Grid, _box, _nodes, _place
from .resampling import local_contrast, sample

SIDE = 4  # cells of a block of `Preview.blocks`
SPARSE = 128  # words from one to the next that the checksum takes: one in a sector of 512 bytes
ARRAYS = ("values", "variance", "sky", "centre", "jacobian")  # that are kept on disk


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
