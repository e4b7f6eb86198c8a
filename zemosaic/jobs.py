"""What workers do in each stage, and how it is told and kept.

Everything here is called in a worker or with what a worker sent back: plain functions that a
process can import by name.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from zemosaic import __version__
from zemosaic.photometry import compiled
from zemosaic.photometry.fits_files import TileError
from zemosaic.photometry.measure import Measurement, PairMeasurement, Rejected, measure_pair
from zemosaic.photometry.preview import Grid, Preview, make_preview
from zemosaic.photometry.sampling import block_sum
from zemosaic.photometry.tiles import Tile, open_tile, tile_from_array
from zemosaic.runtime.events import JobError
from zemosaic.runtime.pool import part
from zemosaic.runtime.schedule import Outcome

PREVIEWS = "previews"  # folder in the run folder; gone when the run has finished
THUMBS = "thumbs.npy"  # in the run folder: the pictures of the report are made of them
SCREEN = 800  # cells of the longer side of a picture of the whole mosaic
MAPPED = 64  # previews that a worker keeps mapped; each holds a file open
HEAD = 1 << 16  # bytes of a file that hold its header and tell it from another

TileLike = Tile | str | os.PathLike[str] | tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Scanned:
    """A tile, and what tells its file from any other: path, size, time and checksum."""

    tile: Tile
    mark: str


@dataclass(frozen=True, eq=False)
class Prepared:
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


@dataclass(frozen=True, eq=False)
class PairRecord:
    """What became of one pair: `measurements` has one entry per channel.

    Parameters
    ----------
    index : int
        Counts from 1, in the order of (i, j).
    i, j : int
        Indices of the tiles, in the order given.
    outcome : str
        "measured", "rejected", "failed", "timeout" or "crashed".
    area : float
        Overlap on the sky in square degrees.
    """

    index: int
    i: int
    j: int
    outcome: str
    area: float
    measurements: tuple[Measurement, ...]


def tile_name(tile: TileLike, index: int) -> str:
    """Base name of a tile's file, or a name by its place in the list."""
    if isinstance(tile, Tile):
        return tile.name
    return Path(tile).name if isinstance(tile, (str, os.PathLike)) else f"tile {index}"


def scan(tile: TileLike, name: str, hdu: int | str | None, mask: int | str | None) -> Scanned:
    """Make a tile of whatever was given; of a file only the header is read."""
    if isinstance(tile, Tile):
        return Scanned(tile, "" if tile.path is None else _mark(tile.path, hdu, mask))
    if isinstance(tile, (str, os.PathLike)):
        return Scanned(open_tile(tile, hdu, mask), _mark(tile, hdu, mask))
    if not isinstance(tile, (tuple, list)) or not 2 <= len(tile) <= 3:
        raise TileError(f"{name}: is no file, Tile, (array, wcs) or (array, wcs, mask)")
    found = tile_from_array(tile[0], tile[1], tile[2] if len(tile) == 3 else None, name=name)
    return Scanned(found, "")


def _mark(path: str | os.PathLike[str], hdu: int | str | None, mask: int | str | None) -> str:
    found = os.stat(path)
    with open(path, "rb") as file:
        checksum = zlib.crc32(file.read(HEAD))
    place = os.fsencode(os.path.abspath(path)).hex()
    return key_of(place, found.st_size, found.st_mtime_ns, checksum, hdu, mask)


def key_of(*parts: object) -> str:
    """A short text that differs wherever one of the parts does, or the program's version.

    With compiled kernels the last bits are others.
    """
    program = __version__, compiled.fused is not None
    return hashlib.sha256(repr((program, *parts)).encode()).hexdigest()[:24]


def preview_path(scratch: Path, index: int) -> Path:
    """Where the preview of a tile is kept during the run."""
    return scratch / f"{index}.npy"


def thumb_factor(corners: np.ndarray, grid: Grid) -> int:
    """Cells of the grid to a side of a thumbnail's cell, so that the mosaic fills a screen.

    `corners` are those of all tiles, ``(T, 4, 2)`` in degrees.
    """
    cells = grid.wcs.wcs_world2pix(corners.reshape(-1, 2), 0)
    return max(1, int(np.ceil(np.nanmax(np.ptp(cells, axis=0)) / SCREEN)))


def prepare(tile: Tile, channels: int, grid: Grid, path: Path, thumb: int = 0) -> Prepared:
    """Make the preview of a tile and keep it at `path`; of its arrays comes back a thumbnail.

    `thumb` is the side of a cell of that, in cells; 0 for none.
    """
    if tile.channels != channels:
        raise TileError(
            f"{tile.path or tile.name}: has {tile.channels} channels, most others have {channels}; "
            "leave it out"
        )
    with part("preview"):
        preview = make_preview(tile, grid)
    with part("save"):
        try:
            preview.save(path)
        except OSError as bad:
            raise TileError(
                f"{tile.path or tile.name}: its preview cannot be written to {path.parent} "
                f"({bad.strerror or bad}); make room there"
            ) from None
        bare = preview.without_arrays()
        if not thumb:
            return Prepared(bare, 0, tile.shape, grid.scale, 0, None)
        # The disk may lose what was written last, though not if the run alone is killed; without
        # a run folder nobody comes back to it.
        checksum, small = preview.checksum(), thumbnail(preview, thumb)
        return Prepared(bare, checksum, tile.shape, grid.scale, thumb, small)


def thumbnail(preview: Preview, factor: int) -> np.ndarray:
    """Means over blocks of the shared grid's cells, valid ones: ``(C, h, w)`` float32, or NaN."""
    x, y = -preview.x0 % factor, -preview.y0 % factor
    return block_sum(preview.values[:, y:, x:], factor) / np.float32(factor**2)


def save_thumbnails(folder: Path, thumbnails: Mapping[int, np.ndarray]) -> None:
    """Keep the thumbnails of some tiles, by their indices, in a run folder."""
    with (folder / THUMBS).open("wb") as file:
        np.save(file, np.array(list(thumbnails), dtype=np.int64))
        for small in thumbnails.values():
            np.save(file, small)


def load_thumbnails(folder: Path) -> dict[int, np.ndarray]:
    """The thumbnails that are kept in a run folder; none where they cannot be read."""
    try:
        with (folder / THUMBS).open("rb") as file:
            return {int(index): np.load(file) for index in np.load(file)}
    except (OSError, ValueError, EOFError):  # never written, or torn
        return {}


def plain_tile(prepared: Prepared) -> dict[str, Any]:
    """A prepared tile in plain lists and numbers, for the journal."""
    preview = prepared.preview
    plain = {name: getattr(preview, name).tolist() for name in ("sky", "centre", "jacobian")}
    others = {name: getattr(prepared, name) for name in ("checksum", "shape", "scale", "thumb")}
    return {"x0": preview.x0, "y0": preview.y0, **others, **plain}


def restored(plain: dict[str, Any] | None, path: Path) -> Prepared | None:
    """The prepared tile of an earlier run; None where it is not known or its file is not whole."""
    if plain is None:
        return None
    try:
        whole = Preview.load(path)
    except (OSError, ValueError):  # it is not there, or cut short
        return None
    if whole.checksum() != plain["checksum"]:
        return None
    none = np.empty((0, 0, 0), dtype=np.float32)
    arrays = (np.array(plain[name]) for name in ("sky", "centre", "jacobian"))
    bare = Preview(plain["x0"], plain["y0"], none, none, *arrays)
    factor = plain["thumb"]
    shape, small = (plain["shape"][0], plain["shape"][1]), thumbnail(whole, factor)
    return Prepared(bare, plain["checksum"], shape, plain["scale"], factor, small)


@lru_cache(MAPPED)
def _mapped(path: str, began: int) -> Preview:
    """A preview of a run, which a worker keeps mapped for the next pairs of the tile."""
    return Preview.load(path)


def measure(first: str, second: str, model: str, began: int) -> tuple[Measurement, ...]:
    """Measure a pair from the previews that were kept at two paths by the run that began then."""
    # Windows removes no file that is mapped.
    load = _mapped.__wrapped__ if sys.platform == "win32" else _mapped
    with part("load"):
        a, b = load(first, began), load(second, began)
    with part("fit"):
        return measure_pair(a, b, model)


# All numbers of a measurement, in the order of its fields: in decimals they take ten times as long
# to write, and most of the time that a pair's line in the journal takes.
_NUMBERS = Struct("<25d")
_fields = attrgetter(*(f.name for f in fields(PairMeasurement)))


def plain_pair(measurements: tuple[Measurement, ...]) -> list[Any]:
    """A pair's measurements for the journal: the reason, or a list of the numbers' bytes in hex."""
    return [
        m.reason if isinstance(m, Rejected) else [_NUMBERS.pack(*_flat(_fields(m))).hex()]
        for m in measurements
    ]


def _flat(values: Sequence[Any]) -> list[float]:
    return [n for value in values for n in (value if isinstance(value, tuple) else (value,))]


def measured_again(plain: list[Any]) -> tuple[Measurement, ...]:
    """The measurements that `plain_pair` made plain, to the last bit."""

    def of(found: Any) -> Measurement:
        if isinstance(found, str):
            return Rejected(found)
        n = _NUMBERS.unpack(bytes.fromhex(found[0]))
        line: list[Any] = [*n[:10], n[10:12], n[12:14], n[14:17], int(n[17]), n[18], n[19]]
        line += [bool(n[20]), n[21:23], n[23:25]]
        return PairMeasurement(*line)

    return tuple(map(of, plain))


def describe(measurements: tuple[Measurement, ...]) -> tuple[str, dict[str, Any]]:
    """Outcome and span attributes of a pair; a value per measured channel."""
    lines = [m for m in measurements if isinstance(m, PairMeasurement)]
    reasons = sorted({m.reason for m in measurements if isinstance(m, Rejected)})
    attributes: dict[str, Any] = {"reason": "; ".join(reasons)} if reasons else {}
    if not lines:
        return "rejected", attributes
    attributes["cells"] = max(line.cells for line in lines)
    for name in ("gain", "offset", "rms"):
        values = [float(getattr(line, name)) for line in lines]
        attributes[name] = values if len(measurements) > 1 else values[0]
    return "measured", attributes


def record(outcome: Outcome, i: int, j: int, area: float, channels: int) -> PairRecord:
    """What is kept of a pair, however its job ended."""
    if outcome.error is not None:
        lost = (Rejected(str(outcome.error)),) * channels
        return PairRecord(outcome.job.index, i, j, outcome.state, area, lost)
    measured = any(isinstance(m, PairMeasurement) for m in outcome.value)
    state = "measured" if measured else "rejected"
    return PairRecord(outcome.job.index, i, j, state, area, outcome.value)


def reason(error: JobError, name: str) -> str:
    """Why a tile failed, in one line that names it."""
    return error.message if error.type == TileError.__name__ else f"{name}: {error}"
