"""The tasks of the workers, and the keys under which their results are cached.

Tasks are plain functions of picklable arguments, which a worker process imports by name.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .._version import __version__
from ..photometry._kernels import COMPILED
from ..photometry.pairfit.measure import measure_pair
from ..photometry.pairfit.measurement import Measurement
from ..photometry.preview.grid import Grid
from ..photometry.preview.preview import Preview, make_preview
from ..photometry.preview.saturation import Levels
from ..photometry.preview.thumbnails import thumbnail
from ..photometry.stars.aperture import measure_stars
from ..photometry.tiles.file_options import FileOptions, split_input
from ..photometry.tiles.fits_files import TileError
from ..photometry.tiles.mask_cover import mask_cover
from ..photometry.tiles.objects import is_object, object_name, tiles_from_object
from ..photometry.tiles.tile import Tile, tile_from_array
from ..photometry.tiles.tile_files import read_tiles
from ..runtime.worker import timed_step
from .field_packer import layout_digest
from .records import JOURNALLED, PreparedTile

MAPPED_PREVIEWS = 64  # previews that a worker keeps mapped; each holds a file open
CHECKED_BYTES = 1 << 16  # start of a file that is checksummed: holds the header of most


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
    return object_name(tile) or f"tile {index}"


def tile_path(tile: TileLike) -> Path | None:
    """Return the path of a tile's file, None for an array."""
    if isinstance(tile, ScannedTile):
        return None if tile.problem else tile.tile.path
    if isinstance(tile, Tile):
        return tile.path
    return Path(split_input(os.fspath(tile))[0]) if isinstance(tile, (str, os.PathLike)) else None


def cache_key(*dependencies: object) -> str:
    """Return the key of a result that depends on these values.

    The key also depends on the version, because the numerics may change; on the presence of
    compiled kernels, because the last bits differ; and on the fields that the journal keeps.
    """
    program = __version__, COMPILED, layout_digest(*JOURNALLED)
    return hashlib.sha256(repr((program, *dependencies)).encode()).hexdigest()[:24]


def preview_path(folder: Path, index: int) -> Path:
    """Return the path of a tile's preview during the run."""
    return folder / f"{index}.npy"


def stars_path(folder: Path, index: int) -> Path:
    """Return the path of the stars of a tile during the run."""
    return folder / f"{index}.stars.npz"


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
        return _scan_images(read_tiles(tile, options))
    if is_object(tile):
        return _scan_images(tiles_from_object(tile, name, options))
    if isinstance(tile, list) and tile and isinstance(tile[0], ScannedTile):
        return tile
    if not isinstance(tile, (tuple, list)) or not 2 <= len(tile) <= 3:
        raise TileError(
            f"{name}: is not a file, a Tile, an HDU, an NDData, (array, wcs) or (array, wcs, mask)"
        )
    bad_pixels = tile[2] if len(tile) == 3 else None
    tile = tile_from_array(tile[0], tile[1], bad_pixels, name=name, options=options)
    return [ScannedTile(name, tile)]


def _scan_images(tiles: list[tuple[str, Tile | TileError]]) -> list[ScannedTile]:
    """Return all tiles of a file; a single one that is not usable raises its `TileError`."""
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


def prepare(
    tile: Tile,
    channels: int,
    grid: Grid,
    path: Path,
    thumb: int = 0,
    levels: Levels = None,
    stars_file: Path | None = None,
) -> PreparedTile:
    """Make the preview of a tile, measure its stars if asked to, and save both.

    Parameters
    ----------
    tile : Tile
        A scanned tile.
    channels : int
        The number of channels of the mosaic.
    grid : Grid
        The grid that all previews share.
    path : pathlib.Path
        File of the preview.
    thumb : int
        Side of a thumbnail cell in preview cells; 0 makes neither thumbnail nor checksum.
    levels : Levels
        Levels at which other tiles of the instrument are clipped.
    stars_file : pathlib.Path or None
        File of the stars; None does not measure them.

    Raises
    ------
    TileError
        The tile has another number of channels or no valid pixel, or there is no space for
        its preview.
    """
    if tile.channels != channels:
        raise TileError(
            f"{tile.place}: has {tile.channels} channels, most others have {channels}; leave it out"
        )
    with timed_step("preview"):
        preview = make_preview(tile, grid, levels)
        cover = mask_cover(tile)
    masked = (cover.all, cover.hides_sources) if cover else (0.0, False)
    stars = None
    if stars_file is not None:
        with timed_step("stars"):
            stars = measure_stars(tile, preview.blank)
    with timed_step("save"):
        try:
            preview.save(path)
            rest = *masked, stars.save(stars_file) if stars and stars_file else 0
        except OSError as error:
            raise TileError(
                f"{tile.place}: its preview cannot be written to {path.parent} "
                f"({error.strerror or error}); make room there"
            ) from None
        bare = preview.without_arrays()
        if not thumb:
            return PreparedTile(bare, 0, tile.shape, grid.scale, 0, None, *rest, levels)
        # A power cut may lose the end of the file, so a run that can be resumed needs a checksum.
        image = thumbnail(preview, thumb)
        checksum = preview.checksum()
        return PreparedTile(
            bare, checksum, tile.shape, grid.scale, thumb, image, *rest, levels, grid.centre
        )


def refuse(reason: str) -> None:
    """Raise the error of a tile that cannot be used beside the others."""
    raise TileError(reason)


def measure(first: str, second: str, model: str, run_ns: int) -> tuple[Measurement, ...]:
    """Measure a pair.

    Parameters
    ----------
    first, second : str
        Files of the previews.
    model : str
        One of `zemosaic.settings.MODELS`.
    run_ns : int
        Start of the run: a later run in the same process may reuse the paths.

    Returns
    -------
    tuple of PairMeasurement or Rejected
        One per channel.
    """
    # Windows cannot remove a file that is mapped.
    load = _load_preview.__wrapped__ if sys.platform == "win32" else _load_preview
    with timed_step("load"):
        first_preview, second_preview = load(first, run_ns), load(second, run_ns)
    with timed_step("fit"):
        return measure_pair(first_preview, second_preview, model)


@lru_cache(MAPPED_PREVIEWS)
def _load_preview(path: str, run_ns: int) -> Preview:
    """Return a preview, which stays mapped for the next pairs of its tile."""
    return Preview.load(path)
