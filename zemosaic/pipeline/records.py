"""What is kept of tiles and pairs: records, their form in the journal, and thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..photometry.pairfit.measure import Measurement, PairMeasurement, Rejected
from ..photometry.preview.preview import Preview
from ..photometry.preview.thumbnails import thumbnail
from ..photometry.tiles.fits_files import TileError
from ..runtime.events import JobError
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Outcome
from .tasks import PreparedTile


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


def save_thumbnails(folder: Path, thumbnails: Mapping[int, np.ndarray]) -> None:
    """Keep the thumbnails of some tiles, by their indices, in a run folder."""
    with RunFolder(folder).thumbnails.open("wb") as file:
        np.save(file, np.array(list(thumbnails), dtype=np.int64))
        for small in thumbnails.values():
            np.save(file, small)


def load_thumbnails(folder: Path) -> dict[int, np.ndarray]:
    """The thumbnails that are kept in a run folder; none where they cannot be read."""
    try:
        with RunFolder(folder).thumbnails.open("rb") as file:
            return {int(index): np.load(file) for index in np.load(file)}
    except (OSError, ValueError, EOFError):  # never written, or torn
        return {}


def encode_tile(prepared: PreparedTile) -> dict[str, Any]:
    """A prepared tile in plain lists and numbers, for the journal."""
    preview = prepared.preview
    plain = {name: getattr(preview, name).tolist() for name in ("sky", "centre", "jacobian")}
    others = {name: getattr(prepared, name) for name in ("checksum", "shape", "scale", "thumb")}
    return {"x0": preview.x0, "y0": preview.y0, **others, **plain}


def restore_tile(plain: dict[str, Any] | None, path: Path) -> PreparedTile | None:
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
    return PreparedTile(bare, plain["checksum"], shape, plain["scale"], factor, small)


# All numbers of a measurement, in the order of its fields: in decimals they take ten times as long
# to write, and most of the time that a pair's line in the journal takes.
_NUMBERS = Struct("<25d")
_fields = attrgetter(*(f.name for f in fields(PairMeasurement)))


def encode_measurements(measurements: tuple[Measurement, ...]) -> list[Any]:
    """A pair's measurements for the journal: the reason, or a list of the numbers' bytes in hex."""
    return [
        m.reason if isinstance(m, Rejected) else [_NUMBERS.pack(*_flat(_fields(m))).hex()]
        for m in measurements
    ]


def _flat(values: Sequence[Any]) -> list[float]:
    return [n for value in values for n in (value if isinstance(value, tuple) else (value,))]


def decode_measurements(plain: list[Any]) -> tuple[Measurement, ...]:
    """The measurements that `encode_measurements` made plain, to the last bit."""

    def of(found: Any) -> Measurement:
        if isinstance(found, str):
            return Rejected(found)
        n = _NUMBERS.unpack(bytes.fromhex(found[0]))
        line: list[Any] = [*n[:10], n[10:12], n[12:14], n[14:17], int(n[17]), n[18], n[19]]
        line += [bool(n[20]), n[21:23], n[23:25]]
        return PairMeasurement(*line)

    return tuple(map(of, plain))


def summarize_pair(measurements: tuple[Measurement, ...]) -> tuple[str, dict[str, Any]]:
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


def make_record(outcome: Outcome, i: int, j: int, area: float, channels: int) -> PairRecord:
    """What is kept of a pair, however its job ended."""
    if outcome.error is not None:
        lost = (Rejected(str(outcome.error)),) * channels
        return PairRecord(outcome.job.index, i, j, outcome.state, area, lost)
    measured = any(isinstance(m, PairMeasurement) for m in outcome.value)
    state = "measured" if measured else "rejected"
    return PairRecord(outcome.job.index, i, j, state, area, outcome.value)


def failure_reason(error: JobError, name: str) -> str:
    """Why a tile failed, in one line that names it."""
    return error.message if error.type == TileError.__name__ else f"{name}: {error}"
