"""The tasks of the workers, and the keys under which their results are cached.

Tasks are plain functions of picklable arguments, which a worker process imports by name.
"""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache
from pathlib import Path

from .._version import __version__
from ..errors import TileError
from ..photometry._kernels import COMPILED
from ..photometry.pairfit.measure import measure_pair
from ..photometry.preview.grid import Grid
from ..photometry.preview.preview import Preview, make_preview
from ..photometry.preview.saturation import Levels
from ..photometry.preview.thumbnails import thumbnail
from ..photometry.stars.aperture import Stars, measure_stars
from ..photometry.tiles.mask_cover import mask_cover
from ..photometry.tiles.tile import Tile
from ..runtime.kept_files import KeptFile, find_file, folder_of, new_file
from ..runtime.worker import timed_step
from .field_packer import layout_digest
from .packed_measurements import PackedMeasurements
from .records import JOURNALLED, PreparedTile

MAPPED_PREVIEWS = 64  # previews that a worker keeps mapped; each holds a file open


def cache_key(*dependencies: object) -> str:
    """Return the key of a result that depends on these values.

    The key also depends on the version, because the numerics may change; on the presence of
    compiled kernels, because the last bits differ; and on the fields that the journal keeps.
    """
    program = _program(__version__, COMPILED, JOURNALLED)
    return hashlib.sha256(repr((program, *dependencies)).encode()).hexdigest()[:24]


@lru_cache(1)
def _program(version: str, compiled: bool, journalled: tuple[type, ...]) -> tuple[object, ...]:
    """Return the part that all keys of a program share; the digest takes longer than a key."""
    return version, compiled, layout_digest(*journalled)


def prepare(
    tile: Tile,
    channels: int,
    grid: Grid,
    path: Path | KeptFile,
    thumb: int = 0,
    levels: Levels = None,
    stars_file: Path | KeptFile | None = None,
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
    path : pathlib.Path or KeptFile
        File of the preview.
    thumb : int
        Side of a thumbnail cell in preview cells; 0 makes neither thumbnail nor checksum.
    levels : Levels
        Levels at which other tiles of the instrument are clipped.
    stars_file : pathlib.Path, KeptFile or None
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
            rest = *masked, _save(preview, path, stars, stars_file)
        except OSError as error:
            raise TileError(
                f"{tile.place}: its preview cannot be written to {folder_of(path)} "
                f"({error.strerror or error}); make room there"
            ) from None
        bare = preview.without_arrays()
        if not thumb:
            return PreparedTile(bare, 0, tile.shape, grid.scale, 0, None, *rest, levels)
        # A power cut may lose the end of the file, so a resumable run needs a checksum.
        image = thumbnail(preview, thumb)
        checksum = preview.checksum()
        return PreparedTile(
            bare, checksum, tile.shape, grid.scale, thumb, image, *rest, levels, grid.centre
        )


def _save(
    preview: Preview,
    path: Path | KeptFile,
    stars: Stars | None,
    stars_file: Path | KeptFile | None,
) -> int:
    """Save the files of a tile, and return the checksum of its stars; 0 without stars."""
    with new_file(path) as place:
        preview.save(place)
    if stars is None or stars_file is None:
        return 0
    with new_file(stars_file) as place:
        return stars.save(place)


def refuse(reason: str) -> None:
    """Raise the error of a tile that cannot be used beside the others."""
    raise TileError(reason)


def measure(
    first: str | KeptFile, second: str | KeptFile, model: str, run_ns: int
) -> PackedMeasurements:
    """Measure a pair.

    Parameters
    ----------
    first, second : str or KeptFile
        Files of the previews.
    model : str
        One of `zemosaic.settings.MODELS`.
    run_ns : int
        Start of the run: a later run in the same process may reuse the paths.

    Returns
    -------
    PackedMeasurements
        One `PairMeasurement` or `Rejected` per channel.
    """
    # Windows cannot remove a mapped file.
    load = _load_preview.__wrapped__ if sys.platform == "win32" else _load_preview
    paths = find_file(first), find_file(second)
    with timed_step("load"):
        first_preview, second_preview = (load(path, run_ns) for path in paths)
    with timed_step("fit"):
        return PackedMeasurements.of(measure_pair(first_preview, second_preview, model))


@lru_cache(MAPPED_PREVIEWS)
def _load_preview(path: str, run_ns: int) -> Preview:
    """Return a preview, which stays mapped for the next pairs of its tile."""
    return Preview.load(path)
