"""The preview of a tile: its values on the mosaic's shared coarse grid.

Each tile is read once and resampled once, here; the fit of a pair uses slices of two previews. The
positions of the cells in the tile are computed with both WCSs at every sixteenth cell and
interpolated in between, as SWarp does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import TileError
from ...files import no_follow
from .._kernels.layout import BlockStatistic
from ..tiles.blank_survey import Survey
from ..tiles.blanks import find_blanks
from ..tiles.tile import Tile
from .binary_unit import binary_exponent, scale_exactly
from .binning import Pedestal, bin_tile
from .block_summary import block_summary
from .damage import DamageSearch
from .grid import Grid, pixel_nodes, tile_box, tile_centre
from .noise import estimate_noise
from .resampling import Samples, local_contrast, sample
from .saturation import Levels, SaturationSearch

#: Cells along a block of `Preview.blocks`.
SIDE = 4
#: Bytes of a preview's file before its arrays: eight integers.
HEADER = 64
#: Least error of a cell due to float32 pixels, as a fraction of the pedestal.
ROUNDING = 1e-6
#: 32-bit words between two words in the checksum: one in each disk sector of 512 bytes.
CHECKSUM_STRIDE = 128
#: Rows between two rows in the median of a large preview, and the values that must be left.
MEDIAN_STRIDE, MEDIAN_VALUES = 4, 1000


@dataclass(frozen=True, eq=False)
class Preview:
    """A tile on the shared grid.

    Parameters
    ----------
    x0, y0 : int
        The grid cell of ``values[:, 0, 0]``.
    values : ndarray
        ``(C, h, w)`` float32 above `pedestal`, in units of ``2**exponent`` ADU; NaN where the tile
        has no data.
    variance : ndarray
        ``(C, h, w)`` float32 in the square of that unit: the noise of a cell, and the error due to
        the missing part of its kernel; NaN where `values` is.
    sky : ndarray
        ``(C,)`` float64 in ADU: the median of the values, the tile's sky level.
    centre : ndarray
        ``(2,)`` float64: the tile's centre on the grid, in cells.
    jacobian : ndarray
        ``(2, 2)`` float64: derivative of the position in cells with respect to the tile's pixel x
        and y.
    exponent : int
        The unit of `values`, 0 for most tiles; see `binary_exponent`.
    pedestal : ndarray or None
        ``(C,)`` float64 in ADU, near the sky level, so that float32 does not round the noise of a
        high sky; None is 0.
    blank : float or None
        Value of the tile's pixels that hold no datum; None if there are none.
    blank_pixels : int
        Number of these pixels.
    highest, clipped : ndarray or None
        The `Ceiling` of the tile.
    """

    x0: int
    y0: int
    values: np.ndarray
    variance: np.ndarray
    sky: np.ndarray
    centre: np.ndarray
    jacobian: np.ndarray
    exponent: int = 0
    pedestal: np.ndarray | None = None
    blank: float | None = None
    blank_pixels: int = 0
    highest: np.ndarray | None = None
    clipped: np.ndarray | None = None

    @cached_property
    def blocks(self) -> np.ndarray:
        """Summaries of blocks of SIDE x SIDE cells, on a lattice that all previews share.

        Returns
        -------
        ndarray
            ``(7, C, H, W)`` float32 in the order of `BlockStatistic`. Block ``[0, 0]`` begins at
            the grid cell ``(x0 // SIDE * SIDE, y0 // SIDE * SIDE)``.
        """
        return block_summary(self.values, self.variance, (self.y0 % SIDE, self.x0 % SIDE), SIDE)

    def channel(self, index: int) -> Preview:
        """Return a preview of a single channel."""
        only = slice(index, index + 1)
        preview = replace(
            self,
            values=self.values[only],
            variance=self.variance[only],
            sky=self.sky[only],
            pedestal=self.pedestals[only],
        )
        vars(preview)["blocks"] = self.blocks[:, only]
        return preview

    @property
    def pedestals(self) -> np.ndarray:
        """``(C,)`` pedestal of each channel in ADU."""
        return np.zeros(len(self.values)) if self.pedestal is None else self.pedestal

    def above_zero(self) -> Preview:
        """Return the preview without a pedestal."""
        levels = np.ldexp(self.pedestals, -self.exponent).astype(np.float32)
        return replace(self, values=self.values + levels[:, None, None], pedestal=None)

    def in_unit(self, exponent: int) -> Preview:
        """Return the preview with its values in units of ``2**exponent`` ADU."""
        if exponent == self.exponent:
            return self
        change = self.exponent - exponent
        return replace(
            self,
            values=scale_exactly(self.values, change),
            variance=scale_exactly(self.variance, 2 * change),
            exponent=exponent,
        )

    def save(self, path: Path) -> None:
        """Write the preview to a file for `load`.

        Raises
        ------
        OSError
            The file cannot be written as a whole.
        """
        header = self.x0, self.y0, self.exponent, *self.values.shape, *self.blocks.shape[2:]
        layout = _layout(*header[3:])
        with open(path, "wb", opener=no_follow) as file:
            # ndarray.tofile ignores the error of a full disk.
            file.write(np.array(header, dtype=np.int64).data)
            for name in layout.names or ():
                file.write(np.ascontiguousarray(getattr(self, name)).data)

    @classmethod
    def load(cls, path: str | Path) -> Preview:
        """Return the preview in a file; its arrays are memory-mapped and read on demand.

        Raises
        ------
        OSError, ValueError
            The file cannot be read, or is truncated.
        """
        # Not numpy.load, which parses its header with `ast`: two threads at once may fail in
        # Python 3.11 (CPython issue 106905).
        mapped = np.asarray(np.memmap(path, mode="r"))  # slices of a memmap are slower
        x0, y0, exponent, *shape = np.frombuffer(mapped[:HEADER], dtype=np.int64).tolist()
        layout = _layout(*shape)
        (record,) = mapped[HEADER : HEADER + layout.itemsize].view(layout)
        arrays: dict[str, Any] = {name: record[name] for name in layout.names or ()}
        blocks, pedestal = arrays.pop("blocks"), arrays.pop("pedestals")
        preview = cls(x0=x0, y0=y0, exponent=exponent, pedestal=pedestal, **arrays)
        vars(preview)["blocks"] = blocks
        return preview

    def checksum(self) -> int:
        """Return the sum over one 32-bit word in each disk sector of the arrays.

        It detects sectors that the disk lost, which then contain zeros or older data.
        """
        names = "values", "variance", "sky", "centre", "jacobian", "blocks"
        arrays = (np.ascontiguousarray(getattr(self, name)).ravel() for name in names)
        return sum(
            int(array.view(np.uint32)[::CHECKSUM_STRIDE].sum(dtype=np.uint64)) for array in arrays
        )

    def without_arrays(self) -> Preview:
        """Return the position and the sky levels alone, for sending between processes."""
        empty = np.empty((0, 0, 0), dtype=np.float32)
        return replace(self, values=empty, variance=empty)


def _layout(
    channels: int, height: int, width: int, block_rows: int, block_columns: int
) -> np.dtype[np.void]:
    """Return the arrays in a preview's file, in their order."""
    shape = channels, height, width
    blocks = len(BlockStatistic), channels, block_rows, block_columns
    return np.dtype(
        [
            ("sky", np.float64, (channels,)),
            ("pedestals", np.float64, (channels,)),
            ("centre", np.float64, (2,)),
            ("jacobian", np.float64, (2, 2)),
            ("values", np.float32, shape),
            ("variance", np.float32, shape),
            ("blocks", np.float32, blocks),
        ]
    )


def make_preview(tile: Tile, grid: Grid, levels: Levels = None) -> Preview:
    """Read a tile and resample it onto the grid.

    Parameters
    ----------
    tile : Tile
        The tile.
    grid : Grid
        The grid that all previews share.
    levels : Levels
        Levels at which other tiles of the instrument are clipped.

    Raises
    ------
    TileError
        The tile cannot be read or has no valid pixel.
    """
    box = tile_box(tile, grid)  # refuses a preview that memory cannot hold
    bin_side = max(1, min(round(grid.bin_scale / tile.scale), *tile.shape))
    means, valid_fraction, pedestal, found = _bin_data(tile, bin_side, levels)
    channels = means[: tile.channels]
    exponent = binary_exponent(channels)
    channels[:] = scale_exactly(channels, -exponent)
    noise = np.array([estimate_noise(channel) for channel in channels], dtype=np.float32)
    nodes = (pixel_nodes(tile, grid, box) + 0.5) / bin_side - 0.5
    samples = sample(means, valid_fraction, nodes, (box.height, box.width))
    values = samples.values[: tile.channels]
    if not np.isfinite(values).any(axis=(1, 2)).all():
        raise TileError(f"{tile.name}: has no valid pixel in at least one channel; leave it out")
    rounding = np.ldexp(ROUNDING * pedestal, -exponent)
    variance = _cell_variance(samples, noise, rounding, weighted=tile.has_weights)
    sky = np.ldexp([_median(channel) for channel in values], exponent) + pedestal
    return Preview(
        box.x0, box.y0, values, variance, sky, *tile_centre(tile, grid), exponent, pedestal,
        **found,
    )  # fmt: skip


def _bin_data(
    tile: Tile, side: int, levels: Levels
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, dict[str, Any]]:
    """Return means and valid fractions of the bins as of `bin_tile`, without blanks.

    Also return the pedestal ``(C,)`` float64 that is subtracted, and the fields of `Preview`
    about the pixels that are no data.
    """

    def bins(blank: np.ndarray | None, survey: Survey | None) -> tuple[Any, ...]:
        damage, pedestal = DamageSearch(), Pedestal()
        search = SaturationSearch((tile.channels, *tile.shape), tile.saturation, levels)
        binned = bin_tile(tile, side, blank, pedestal, survey, damage, search)
        return *binned, damage, pedestal, search

    survey = Survey(tile.shape[0])
    means, valid_fraction, damage, pedestal, search = bins(None, survey)
    blanks = find_blanks(tile, survey)
    if blanks is not None:
        means, valid_fraction, damage, pedestal, search = bins(blanks.grown(), None)
    damage.require_none(str(tile.path or tile.name))
    found = vars(search.ceiling) | (
        {"blank": blanks.value, "blank_pixels": blanks.count} if blanks else {}
    )
    return means, valid_fraction, pedestal.of(tile.channels), found


def _cell_variance(
    samples: Samples, noise: np.ndarray, rounding: np.ndarray, weighted: bool
) -> np.ndarray:
    """Return the variances ``(C, h, w)`` of cells.

    Parameters
    ----------
    samples : Samples
        Samples of C channels, and of the weights if there are any.
    noise : ndarray
        ``(C,)`` noise of a bin.
    rounding : ndarray
        ``(C,)`` error of a cell due to the precision of the pixels.
    weighted : bool
        Whether the last layer of the samples holds relative weights.
    """
    channels = slice(len(noise))
    factor = samples.variance_factor
    if weighted:
        factor = factor[channels] / samples.values[-1]
    variance = noise[:, None, None] ** 2 * factor
    variance = variance + np.square(rounding).astype(np.float32)[:, None, None]
    if samples.missing.any():
        # A kernel that lacks a part is displaced to the other side in proportion.
        displacement = local_contrast(samples.values[channels])
        displacement *= samples.missing[channels]
        variance += np.square(displacement, out=displacement)
    return variance


def _median(channel: np.ndarray) -> float:
    """Return the median of the finite values; of every fourth row if these are many."""
    for stride in (MEDIAN_STRIDE, 1):
        rows = channel[::stride]
        finite = rows[np.isfinite(rows)]
        if len(finite) > MEDIAN_VALUES:
            break
    return float(np.median(finite))
