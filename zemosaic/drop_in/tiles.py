"""The tiles of ZeMosaic's function: tuples of array, WCS and coverage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TileError
from ..photometry.tiles.axes import to_channels_first
from ..photometry.tiles.tile import tile_from_array
from ..pipeline.scan_task import ScannedTile
from ..pipeline.tasks import cache_key

#: Numbers of planes of which the last is an alpha plane: grey and alpha, RGBA.
ALPHA_PLANES = (2, 4)


def scan_entries(
    entries: Sequence[Any], names: Sequence[str], *, channels: bool
) -> list[ScannedTile]:
    """Make a tile of each entry, named "tile 3" if it has no name; see `_scan_entry`."""
    known = [str(name) for name in names[: len(entries)]]
    known += [f"tile {index}" for index in range(len(known), len(entries))]
    pairs = zip(entries, known, strict=True)
    return [_scan_entry(entry, name, channels=channels) for entry, name in pairs]


def cell_pixels(tiles: Sequence[ScannedTile], preview_size: int) -> int:
    """Return the side of a cell in pixels, so that the median tile has `preview_size` cells.

    0, the automatic choice, if cells would be smaller than that, which is about a star's FWHM.
    """
    sides = [max(scanned.tile.shape) for scanned in tiles if not scanned.problem]
    if not sides:
        return 0
    longer_side = float(np.median(sides))
    return 0 if longer_side <= 4 * preview_size else round(longer_side / preview_size)


def _scan_entry(entry: Any, name: str, *, channels: bool) -> ScannedTile:
    """Make a tile of an entry; an invalid one has the reason as its `problem`.

    Parameters
    ----------
    entry : tuple
        ``(data, wcs)`` or ``(data, wcs, coverage)``.
    name : str
        Name of the tile.
    channels : bool
        Keep the channels of a colour tile instead of their mean.
    """
    if not isinstance(entry, (tuple, list)) or not 2 <= len(entry) <= 3:
        return ScannedTile(name, problem=f"{name}: is not (array, wcs) or (array, wcs, mask)")
    try:
        data, alpha = _split_alpha(np.asarray(entry[0]))
        if data.ndim == 3 and not channels and min(data.shape) > 0:
            data = to_channels_first(data).mean(axis=0, dtype=np.float64).astype(np.float32)
        coverage = entry[2] if len(entry) == 3 and entry[2] is not None else alpha
        bad = None if coverage is None else _bad_pixels(coverage)
        tile = tile_from_array(data, entry[1], bad, name=name)
    except (TileError, TypeError, ValueError) as error:
        reason = str(error)
        return ScannedTile(name, problem=reason if name in reason else f"{name}: {reason}")
    header = entry[1].to_header_string(relax=True)
    return ScannedTile(name, tile, cache_key(header, _digest(data), _digest(bad)))


def _split_alpha(data: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the colours of an image with alpha, and the alpha plane."""
    if data.ndim != 3 or min(data.shape) == 0:
        return data, None
    planes = to_channels_first(data)
    if len(planes) not in ALPHA_PLANES:
        return data, None
    colours = planes[:-1]
    return (colours[0] if len(colours) == 1 else colours), planes[-1]


def _bad_pixels(coverage: Any) -> np.ndarray:
    """Return true for the bad pixels of a coverage, which is 0 there."""
    values = np.asarray(coverage, dtype=np.float32)
    if values.ndim == 3:
        values = values[..., 0]
    largest = float(np.nanmax(values, initial=0.0))
    # Pixels covered by less than one half are bad, unless all are; then any coverage is good.
    limit = 0.5 * max(1.0, largest) if largest > 0.5 else 0.0
    return ~(values > limit)


def _digest(array: np.ndarray | None) -> tuple[object, ...]:
    """Return shape, type and checksum of an array, by which another run knows it again."""
    if array is None:
        return ()
    checksum = 0
    for part in np.atleast_2d(array):  # a row or plane at a time: the whole need not be contiguous
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    return array.shape, array.dtype.str, checksum
