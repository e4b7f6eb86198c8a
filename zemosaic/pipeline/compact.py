"""Results of workers in less memory: unpickled, each has its own copy of shared values."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from ..photometry.tiles.tile import Tile
from .scan_task import ScannedTile

Record = TypeVar("Record")


def plain_arrays(record: Record) -> Record:
    """Return a dataclass with arrays without dtypes of their own, as unpickled ones have."""
    changes = {}
    for item in fields(record):  # type: ignore[arg-type]
        value = getattr(record, item.name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
            changes[item.name] = np.array(value, dtype=value.dtype.str)
    return replace(record, **changes)  # type: ignore[type-var]


class SharedValues:
    """Makes tiles share their equal options, keywords and parameters."""

    def __init__(self) -> None:
        self._values: dict[bytes, Any] = {}

    def _shared(self, value: Any) -> Any:
        return self._values.setdefault(pickle.dumps(value), value)

    def compact(self, scanned: ScannedTile) -> ScannedTile:
        """Return a scanned tile of a file in less memory."""
        tile: Tile | None = scanned.tile
        if tile is None or tile.path is None:
            return scanned
        parameters = tile.wcs_parameters
        if parameters is not None:
            parameters = {name: self._shared(value) for name, value in parameters.items()}
        tile = replace(
            plain_arrays(tile),
            options=self._shared(tile.options),
            instrument=self._shared(tile.instrument),
            wcs_parameters=parameters,
        )
        return replace(scanned, tile=tile)
