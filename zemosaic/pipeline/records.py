"""Results of tiles and pairs, and the form in which the journal keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..files import no_follow
from ..photometry.pairfit.measurement import Measurement, PairMeasurement
from ..photometry.preview.preview import Preview
from ..photometry.preview.saturation import Ceiling, Levels
from ..photometry.preview.thumbnails import thumbnail
from ..photometry.stars.gain import StarGain
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Outcome
from .packed_measurements import (
    PackedMeasurements,
    decode_measurements,
    encode_measurements,
    summarize_pair,
)

__all__ = [
    "JOURNALLED", "PairRecord", "PreparedTile", "decode_measurements", "encode_measurements",
    "encode_tile", "load_thumbnails", "make_record", "restore_tile", "save_thumbnails",
    "summarize_pair",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class PreparedTile:
    """The result of preparing a tile; the arrays of its preview stay on disk.

    Parameters
    ----------
    preview : Preview
        Position and sky levels, without `values` and `variance`.
    checksum : int
        Checksum of the preview's file; 0 if the run is not kept.
    shape : tuple of int
        Height and width of the tile in pixels.
    scale : float
        Side of a preview cell in degrees.
    thumb : int
        Side of a thumbnail cell in preview cells; 0 without a thumbnail.
    thumbnail : ndarray or None
        ``(C, h, w)`` float32 in ADU.
    masked : float
        Share of the tile covered by its mask or weights.
    sources_masked : bool
        Whether these cover most of its bright pixels, and few others.
    stars : int
        Checksum of the file of its stars; 0 if they are not measured.
    levels : Levels
        Levels at which other tiles are clipped, with which the preview was made.
    origin : tuple of float
        Right ascension and declination in degrees of grid cell (0, 0).
    """

    preview: Preview
    checksum: int
    shape: tuple[int, int]
    scale: float
    thumb: int
    thumbnail: np.ndarray | None
    masked: float = 0.0
    sources_masked: bool = False
    stars: int = 0
    levels: Levels = None
    origin: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False, slots=True)
class PairRecord:
    """The outcome of one pair, with one measurement per channel.

    Parameters
    ----------
    index : int
        Number of the pair, from 1, in the order of (i, j).
    i, j : int
        Indices of the tiles in the input.
    outcome : str
        "measured", "rejected", "failed", "timeout" or "crashed".
    area : float
        Area of the overlap on the sky in square degrees.
    measurements : sequence of PairMeasurement or Rejected
        One per channel.
    stars : tuple of StarGain
        One per channel; empty if the stars are not measured.
    """

    index: int
    i: int
    j: int
    outcome: str
    area: float
    measurements: Sequence[Measurement]
    stars: tuple[StarGain, ...] = ()


#: Dataclasses in the journal: results with other fields are not resumed.
JOURNALLED = (PairMeasurement, PreparedTile, Preview)

_ARRAYS_ON_DISK = ("values", "variance")
_PREVIEW_FIELDS = [f.name for f in fields(Preview) if f.name not in _ARRAYS_ON_DISK]
_TILE_FIELDS = [f.name for f in fields(PreparedTile) if f.name not in ("preview", "thumbnail")]


def encode_tile(prepared: PreparedTile) -> dict[str, Any]:
    """Return the journal's form of a prepared tile: numbers and lists by field name."""
    preview = {name: getattr(prepared.preview, name) for name in _PREVIEW_FIELDS}
    entry = preview | {name: getattr(prepared, name) for name in _TILE_FIELDS}
    # Without None, which the journal cannot tell from NaN.
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in entry.items()
        if value is not None
    }


def restore_tile(entry: dict[str, Any] | None, path: Path) -> PreparedTile | None:
    """Return the prepared tile of an earlier run, with its preview at `path`.

    Returns
    -------
    PreparedTile or None
        None without an entry, or if the preview's file is missing, truncated or altered.
    """
    if entry is None:
        return None
    try:
        preview = Preview.load(path)
    except (OSError, ValueError):
        return None
    if preview.checksum() != entry["checksum"]:
        return None
    empty = np.empty((0, 0, 0), dtype=np.float32)
    # Not the arrays of the loaded preview, which would keep its file mapped.
    arrays: dict[str, Any] = dict.fromkeys(_ARRAYS_ON_DISK, empty)
    arrays |= {name: _from_list(entry.get(name), np.array) for name in _PREVIEW_FIELDS}
    bare = Preview(**arrays)
    image = thumbnail(preview, entry["thumb"]) if entry["thumb"] else None
    plain = {name: _from_list(entry.get(name), tuple) for name in _TILE_FIELDS}
    return PreparedTile(preview=bare, thumbnail=image, **plain)


def ceiling_of(entry: dict[str, Any] | None) -> Ceiling | None:
    """Return the ceiling of a tile prepared by an earlier run, None without an entry."""
    if entry is None:
        return None
    return Ceiling(np.array(entry["highest"]), np.array(entry["clipped"]))


def _from_list(value: Any, convert: Callable[[list[Any]], Any]) -> Any:
    return convert(value) if isinstance(value, list) else value


def save_thumbnails(folder: Path, thumbnails: Mapping[int, np.ndarray]) -> None:
    """Write thumbnails, by tile index, to the run folder: indices and shapes, then all values."""
    images = [np.asarray(image, dtype=np.float32) for image in thumbnails.values()]
    heads = [(index, *image.shape) for index, image in zip(thumbnails, images, strict=True)]
    with open(RunFolder(folder).thumbnails, "wb", opener=no_follow) as file:
        np.save(file, np.array(heads, dtype=np.int64).reshape(-1, 4))
        np.save(file, np.concatenate([np.empty(0, np.float32), *map(np.ravel, images)]))


def load_thumbnails(folder: Path) -> dict[int, np.ndarray]:
    """Return the thumbnails of a run folder by tile index; empty if missing or truncated."""
    try:
        with RunFolder(folder).thumbnails.open("rb") as file:
            heads = np.load(file)
            if heads.ndim == 1:  # of an earlier version, with an array for each
                return {int(index): np.load(file) for index in heads}
            values = np.load(file)
    except (OSError, ValueError, EOFError):
        return {}
    ends = np.cumsum(heads[:, 1:].prod(axis=1)).tolist()
    return {
        index: values[end - channels * height * width : end].reshape(channels, height, width)
        for (index, channels, height, width), end in zip(heads.tolist(), ends, strict=True)
    }


def make_record(outcome: Outcome, i: int, j: int, area: float, channels: int) -> PairRecord:
    """Return the record of a pair, whether its job succeeded or not."""
    if outcome.error is not None:
        lost = PackedMeasurements((str(outcome.error),) * channels)
        return PairRecord(outcome.job.index, i, j, outcome.state, area, lost)
    measurements = PackedMeasurements.of(outcome.value)
    return PairRecord(outcome.job.index, i, j, measurements.state, area, measurements)
