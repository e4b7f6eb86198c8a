"""What workers do in each stage, and how it is told and kept.

Everything here is called in a worker or with what a worker sent back: plain functions that a
process can import by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zemosaic.photometry.measure import Measurement, PairMeasurement, Rejected, measure_pair
from zemosaic.photometry.preview import Grid, Preview, make_preview
from zemosaic.photometry.tiles import Tile, TileError, open_tile, tile_from_array
from zemosaic.runtime.events import JobError
from zemosaic.runtime.pool import part
from zemosaic.runtime.schedule import Outcome

TileLike = Tile | str | os.PathLike[str] | tuple[Any, ...]


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


def scan(tile: TileLike, name: str, hdu: int | str | None, mask: int | str | None) -> Tile:
    """Make a tile of whatever was given; of a file only the header is read."""
    if isinstance(tile, Tile):
        return tile
    if isinstance(tile, (str, os.PathLike)):
        return open_tile(tile, hdu, mask)
    if not isinstance(tile, (tuple, list)) or not 2 <= len(tile) <= 3:
        raise TileError(f"{name}: is no file, Tile, (array, wcs) or (array, wcs, mask)")
    return tile_from_array(tile[0], tile[1], tile[2] if len(tile) == 3 else None, name=name)


def preview_path(scratch: Path, index: int) -> Path:
    """Where the preview of a tile is kept during the run."""
    return scratch / f"{index}.npy"


def prepare(tile: Tile, channels: int, grid: Grid, path: Path) -> Preview:
    """Make the preview of a tile and keep it at `path`; what comes back has no arrays."""
    if tile.channels != channels:
        raise TileError(
            f"{tile.path or tile.name}: has {tile.channels} channels, most others have {channels}; "
            "leave it out"
        )
    with part("preview"):
        preview = make_preview(tile, grid)
    with part("save"):
        preview.save(path)
    return preview.without_arrays()


def measure(
    first: tuple[Preview, Path], second: tuple[Preview, Path], model: str
) -> tuple[Measurement, ...]:
    """Measure a pair from the previews that were kept."""
    with part("load"):
        a, b = (preview.load(path) for preview, path in (first, second))
    with part("fit"):
        return measure_pair(a, b, model)


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
    state, _ = describe(outcome.value)
    return PairRecord(outcome.job.index, i, j, state, area, outcome.value)


def reason(error: JobError, name: str) -> str:
    """Why a tile failed, in one line that names it."""
    return error.message if error.type == TileError.__name__ else f"{name}: {error}"
