"""Collect the columns of a report from the lines of a journal, while they are read."""

from __future__ import annotations

import sys
from array import array
from typing import Any

import numpy as np

from ..pipeline.packed_measurements import HEAD_TYPE, measurement_heads
from .rows import place_row

NO_TILE = -1


class JobCollector:
    """The attributes and results of jobs that a report needs.

    Attributes
    ----------
    i, j : array
        By job, the index of its tile, or the indices of the tiles of its pair; -1 without any.
    scans : dict
        Attributes of the scans, by the numbers of their jobs.
    tiles : dict
        Names of prepared tiles, by the numbers of their jobs.
    placements : dict
        Rows of `PLACEMENT`, by the numbers of the jobs of tiles.
    pairs : array
        Numbers of the jobs of pairs.
    names : list of tuple
        Names of the tiles of each pair.
    without_result : set
        Numbers of the failed jobs of pairs.
    reasons : dict
        Reasons of rejected pairs, by the numbers of jobs.
    """

    def __init__(self) -> None:
        self.i, self.j = array("q"), array("q")
        self.scans: dict[int, dict[str, Any]] = {}
        self.tiles: dict[int, str] = {}
        self.placements: dict[int, tuple[Any, ...]] = {}
        self.pairs, self.reasons = array("q"), dict[int, str]()
        self.without_result: set[int] = set()
        self.names: list[tuple[str, str]] = []
        self._line_pairs, self._line_channels = array("q"), array("b")
        self._lines = bytearray()

    def add(self, number: int, entry: dict[str, Any], place: int) -> None:
        """Receive the entry of the end of a job."""
        attributes, stage = entry["attributes"], entry["stage"]
        if not isinstance(attributes, dict):
            attributes = {}
        first, second = attributes.get("index", NO_TILE), NO_TILE
        if stage == "pairs":
            first, second = attributes.get("tile_i", NO_TILE), attributes.get("tile_j", NO_TILE)
            self._add_pair(number, entry, attributes)
        elif stage == "scan" and first != NO_TILE:
            self.scans[number] = attributes
        elif stage == "tiles" and first != NO_TILE:
            self.tiles[number] = str(attributes.get("name", ""))
            if entry.get("result") is not None:
                self._add_placement(number, entry["result"])
        self.i.append(first)
        self.j.append(second)

    def _add_pair(self, number: int, entry: dict[str, Any], attributes: dict[str, Any]) -> None:
        self.pairs.append(number)
        names = (str(attributes.get(name, "")) for name in ("name_i", "name_j"))
        self.names.append(tuple(map(sys.intern, names)))  # type: ignore[arg-type]
        if reason := attributes.get("reason"):
            self.reasons[number] = str(reason)
        result = entry.get("result")
        if result is None:
            self.without_result.add(number)
        try:
            heads = measurement_heads(result or [])
        except (ValueError, TypeError):  # of another version
            return
        for channel, head in enumerate(heads):
            if head is not None:
                self._line_pairs.append(number)
                self._line_channels.append(channel)
                self._lines += head

    def _add_placement(self, number: int, result: dict[str, Any]) -> None:
        placement = place_row(result)
        if placement is not None:
            self.placements[number] = placement

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the measurements, and the number of the job and the channel of each."""
        jobs, channels = (np.array(a) for a in (self._line_pairs, self._line_channels))
        return np.frombuffer(bytes(self._lines), HEAD_TYPE), jobs.astype(int), channels.astype(int)
