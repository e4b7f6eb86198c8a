"""The task of the scan: tiles of a file, from its headers.

The process of a run submits this task before it has imported the numerics, so the functions import
them.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import TileError, UserError
from ..photometry.tiles.file_options import FileOptions, split_input
from ..photometry.tiles.tile import Tile
from ..runtime.events import JobError

CHECKED_BYTES = 1 << 16  # checksummed start of a file: holds the header of most


@dataclass(frozen=True, eq=False)
class ScannedTile:
    """A tile whose header has been read.

    Parameters
    ----------
    name : str
        Name of the tile.
    tile : Tile
        Only if the tile is usable.
    file_key : str
        Key of the state of its files; empty for a tile given as an array.
    problem : str
        The reason why it is not usable, otherwise empty.
    """

    name: str
    tile: Tile = None  # type: ignore[assignment]
    file_key: str = ""
    problem: str = ""


#: A file, a tile, ``(array, wcs)``, ``(array, wcs, mask)``, an HDU, an HDUList or an NDData; or
#: what an earlier scan made of one of them.
TileLike = Tile | ScannedTile | str | os.PathLike[str] | tuple[Any, ...] | Any


def tile_name(tile: TileLike, index: int) -> str:
    """Return the base name of a tile's file, or a name made of its index in the input."""
    if isinstance(tile, (Tile, ScannedTile)):
        return tile.name
    if isinstance(tile, (str, os.PathLike)):
        return Path(tile).name
    name = ""
    if is_object(tile):
        from ..photometry.tiles.objects import object_name

        name = object_name(tile)
    return name or f"tile {index}"


def is_object(item: TileLike) -> bool:
    """Return whether an item is an HDU, a list of HDUs, or an `NDData`."""
    if isinstance(item, (str, os.PathLike, Tile, ScannedTile, tuple)) or type(item) is list:
        return False
    from ..photometry.tiles import objects

    return objects.is_object(item)


def tile_path(tile: TileLike) -> Path | None:
    """Return the path of a tile's file, None for an array."""
    if isinstance(tile, ScannedTile):
        return None if tile.problem else tile.tile.path
    if isinstance(tile, Tile):
        return tile.path
    return Path(split_input(os.fspath(tile))[0]) if isinstance(tile, (str, os.PathLike)) else None


def scan(tile: TileLike, name: str, options: FileOptions) -> list[ScannedTile]:
    """Make tiles of one item of the input; only the headers of a file are read.

    Raises
    ------
    TileError
        The item is no tile, or its file cannot be used.
    """
    if isinstance(tile, ScannedTile):
        if tile.problem:
            raise TileError(tile.problem)
        return [tile]
    if isinstance(tile, Tile):
        return [ScannedTile(tile.name, tile, file_key(tile))]
    if isinstance(tile, (str, os.PathLike)):
        from ..photometry.tiles.tile_files import read_tiles

        return _scan_images(read_tiles(tile, options))
    if is_object(tile):
        from ..photometry.tiles.objects import tiles_from_object

        return _scan_images(tiles_from_object(tile, name, options))
    if isinstance(tile, list) and tile and isinstance(tile[0], ScannedTile):
        return tile
    if not isinstance(tile, (tuple, list)) or not 2 <= len(tile) <= 3:
        raise TileError(
            f"{name}: is not a file, a Tile, an HDU, an NDData, (array, wcs) or (array, wcs, mask)"
        )
    bad_pixels = tile[2] if len(tile) == 3 else None
    from ..photometry.tiles.tile import tile_from_array

    tile = tile_from_array(tile[0], tile[1], bad_pixels, name=name, options=options)
    return [ScannedTile(name, tile)]


def _scan_images(tiles: list[tuple[str, Tile | TileError]]) -> list[ScannedTile]:
    """Return all tiles of a file; raise the `TileError` of its only tile if it is not usable."""
    if len(tiles) == 1 and isinstance(tiles[0][1], TileError):
        raise tiles[0][1]
    return [
        ScannedTile(name, problem=str(tile))
        if isinstance(tile, TileError)
        else ScannedTile(name, tile, file_key(tile))
        for name, tile in tiles
    ]


def file_key(tile: Tile) -> str:
    """Return a key of the state of a tile's files, empty for an array."""
    from .tasks import cache_key

    if tile.path is None:
        return ""
    files = [path for path in (tile.path, tile.wcs_path, tile.mask_path, tile.weight_path) if path]
    return cache_key(*map(_file_state, files), replace(tile.options, group=None, instrument="auto"))


def _file_state(path: Path) -> tuple[object, ...]:
    status = os.stat(path)
    with open(path, "rb") as file:
        checksum = zlib.crc32(file.read(CHECKED_BYTES))
    location = os.fsencode(os.path.abspath(path)).hex()
    return location, status.st_size, status.st_mtime_ns, checksum


def failure_reason(error: JobError, name: str) -> str:
    """Return the reason why a tile failed as one line that names the tile."""
    own = {TileError.__name__, UserError.__name__}
    return error.message if error.type in own else f"{name}: {error}"
