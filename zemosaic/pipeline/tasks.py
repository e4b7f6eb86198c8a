"""What workers do in each stage, and how it is told and kept.

Everything here is called in a worker or with what a worker sent back: plain functions that a
process can import by name.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..photometry._kernels import COMPILED
from ..photometry.pairfit.measure import Measurement, measure_pair
from ..photometry.preview.grid import Grid
from ..photometry.preview.preview import Preview, make_preview
from ..photometry.preview.thumbnails import thumbnail
from ..photometry.tiles.fits_files import TileError
from ..photometry.tiles.tile import Tile, open_tile, tile_from_array
from ..runtime.worker import timed_step

MAPPED = 64  # previews that a worker keeps mapped; each holds a file open
HEAD = 1 << 16  # bytes of a file that hold its header and tell it from another

TileLike = Tile | str | os.PathLike[str] | tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ScannedTile:
    """A tile, and what tells its file from any other: path, size, time and checksum."""

    tile: Tile
    mark: str


@dataclass(frozen=True, eq=False)
class PreparedTile:
    """The place and levels of a preview, and its checksum.

    `shape` is the tile's height and width in pixels, `scale` the side of a cell in degrees,
    `thumb` the side of a cell of the thumbnail in cells; 0 without a thumbnail.
    """

    preview: Preview
    checksum: int
    shape: tuple[int, int]
    scale: float
    thumb: int
    thumbnail: np.ndarray | None


def tile_name(tile: TileLike, index: int) -> str:
    """Base name of a tile's file, or a name by its place in the list."""
    if isinstance(tile, Tile):
        return tile.name
    return Path(tile).name if isinstance(tile, (str, os.PathLike)) else f"tile {index}"


def scan(tile: TileLike, name: str, hdu: int | str | None, mask: int | str | None) -> ScannedTile:
    """Make a tile of whatever was given; of a file only the header is read."""
    if isinstance(tile, Tile):
        return ScannedTile(tile, "" if tile.path is None else _mark(tile.path, hdu, mask))
    if isinstance(tile, (str, os.PathLike)):
        return ScannedTile(open_tile(tile, hdu, mask), _mark(tile, hdu, mask))
    if not isinstance(tile, (tuple, list)) or not 2 <= len(tile) <= 3:
        raise TileError(f"{name}: is no file, Tile, (array, wcs) or (array, wcs, mask)")
    found = tile_from_array(tile[0], tile[1], tile[2] if len(tile) == 3 else None, name=name)
    return ScannedTile(found, "")


def _mark(path: str | os.PathLike[str], hdu: int | str | None, mask: int | str | None) -> str:
    found = os.stat(path)
    with open(path, "rb") as file:
        checksum = zlib.crc32(file.read(HEAD))
    place = os.fsencode(os.path.abspath(path)).hex()
    return cache_key(place, found.st_size, found.st_mtime_ns, checksum, hdu, mask)


def cache_key(*parts: object) -> str:
    """A short text that differs wherever one of the parts does, or the program's version.

    With compiled kernels the last bits are others.
    """
    program = __version__, COMPILED
    return hashlib.sha256(repr((program, *parts)).encode()).hexdigest()[:24]


def preview_path(scratch: Path, index: int) -> Path:
    """Where the preview of a tile is kept during the run."""
    return scratch / f"{index}.npy"


def prepare(tile: Tile, channels: int, grid: Grid, path: Path, thumb: int = 0) -> PreparedTile:
    """Make the preview of a tile and keep it at `path`; of its arrays comes back a thumbnail.

    `thumb` is the side of a cell of that, in cells; 0 for none.
    """
    if tile.channels != channels:
        raise TileError(
            f"{tile.path or tile.name}: has {tile.channels} channels, most others have {channels}; "
            "leave it out"
        )
    with timed_step("preview"):
        preview = make_preview(tile, grid)
    with timed_step("save"):
        try:
            preview.save(path)
        except OSError as bad:
            raise TileError(
                f"{tile.path or tile.name}: its preview cannot be written to {path.parent} "
                f"({bad.strerror or bad}); make room there"
            ) from None
        bare = preview.without_arrays()
        if not thumb:
            return PreparedTile(bare, 0, tile.shape, grid.scale, 0, None)
        # The disk may lose what was written last, though not if the run alone is killed; without
        # a run folder nobody comes back to it.
        checksum, small = preview.checksum(), thumbnail(preview, thumb)
        return PreparedTile(bare, checksum, tile.shape, grid.scale, thumb, small)


@lru_cache(MAPPED)
def _mapped(path: str, began: int) -> Preview:
    """A preview of a run, which a worker keeps mapped for the next pairs of the tile."""
    return Preview.load(path)


def measure(first: str, second: str, model: str, began: int) -> tuple[Measurement, ...]:
    """Measure a pair from the previews that were kept at two paths by the run that began then."""
    # Windows removes no file that is mapped.
    load = _mapped.__wrapped__ if sys.platform == "win32" else _mapped
    with timed_step("load"):
        a, b = load(first, began), load(second, began)
    with timed_step("fit"):
        return measure_pair(a, b, model)
