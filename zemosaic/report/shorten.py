"""Take out of the lines of a journal what no report needs, while they are read.

The results of the pairs have most of a journal's bytes.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from ..pipeline.records import decode_measurements
from .data import Placement

_IDENTITY = ("index", "tile_i", "tile_j", "name", "name_i", "name_j", "tiles", "problems", "reason")


class PairLine(NamedTuple):
    """The fields of a `PairMeasurement` of which a report makes residuals."""

    gain: float
    gain_err: float
    x: float
    y: float
    level_err: float
    rms: float
    gain_measured: bool


def shorten(entry: dict[str, Any]) -> None:
    """Shorten the entry of the end of a job in place.

    The result of a tile becomes its `Placement`, that of a pair a tuple of `PairLine`, or None in a
    rejected channel; results that another version wrote in another layout become None.
    """
    attributes = entry.get("attributes")
    if isinstance(attributes, dict):
        entry["attributes"] = {
            name: sys.intern(value) if isinstance(value, str) else value
            for name, value in attributes.items()
            if name in _IDENTITY
        }
    entry["key"] = ""
    result = entry.get("result")
    if result is not None:
        entry["result"] = _shorten_result(entry.get("stage"), result)


def _shorten_result(stage: Any, result: Any) -> Any:
    if stage == "tiles":
        return Placement.from_journal(result)
    if stage != "pairs":
        return None
    try:
        measurements = decode_measurements(result)
    except ValueError:
        return None
    return tuple(
        PairLine(*(getattr(measurement, name) for name in PairLine._fields))
        if hasattr(measurement, "gain")
        else None
        for measurement in measurements
    )
