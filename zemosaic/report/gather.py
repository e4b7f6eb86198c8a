"""Gather the data of a run from its journal and its tables.

The journal has the tiles, pairs and times of every run, even of a dead one. The tables have the
solution, if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..observe.autopsy import Autopsy
from ..observe.replay import lost_ends
from ..pipeline.illumination_file import read_illuminations
from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from ..runtime.journal import RunColumns
from ..runtime.run_folder import RunFolder
from .columns import read_columns
from .data import RunData, StageTimes, StarComparison
from .gather_jobs import gather_jobs, gather_pairs, gather_tiles
from .rows import CORRECTION, PairTable, TileTable

KEY = ("pair", "channel")


def gather_run(autopsy: Autopsy, records: Sequence[RunColumns]) -> RunData:
    """Return the data of a run.

    Parameters
    ----------
    autopsy : Autopsy
        State of the run.
    records : sequence of RunColumns
        Records with results, whose collectors are `JobCollector`: the record of the run and, after
        a resume, the earlier ones.
    """
    running = autopsy.state == "running"
    ends = [] if running else list(lost_ends(autopsy))
    events = [*autopsy.record.events, *ends]
    jobs = gather_jobs(autopsy.record, [end for end in ends if isinstance(end, JobEnded)])
    tiles = gather_tiles(records, jobs, _total_tiles(autopsy.record))
    files = RunFolder(autopsy.folder)
    solved = autopsy.state == "finished" and _is_newer(files.corrections, autopsy.started_ns)
    unit = _add_corrections(tiles, files.corrections) if solved else "ADU"
    pairs = gather_pairs(records, jobs, tiles, files.pairs if solved else None)
    star_gains = _read_star_gains(files.pairs) if solved else []
    if autopsy.record.about.get("settings", {}).get("gain_from") == "stars":
        _judge_by_stars(pairs, tiles, star_gains)
    measured = np.concatenate([pairs.i[pairs.measured], pairs.j[pairs.measured]])
    tiles.pairs = np.bincount(measured, minlength=len(tiles))
    if not solved:
        _add_components(tiles, pairs)
    return RunData(
        autopsy=autopsy,
        tiles=tiles,
        pairs=pairs,
        stages=_stages(autopsy, events),
        jobs=jobs,
        alerts=[event for event in events if isinstance(event, Heartbeat | SlowJob)],
        solved=solved,
        unit=unit,
        star_gains=star_gains,
        illuminations=read_illuminations(files.illumination) if solved else [],
    )


def _total_tiles(record: RunColumns) -> int:
    first = record.events[0] if record.events else None
    return first.attributes.get("tiles.total", 0) if isinstance(first, RunStarted) else 0


def _add_corrections(tiles: TileTable, path: Path) -> str:
    """Read the table of corrections into the tiles; return the unit of the offsets."""
    table = read_columns(path, ("tile", "channel", "component", "suspect", *CORRECTION))
    tile, channel = table["tile"].data, table["channel"].data
    shape = len(tiles), int(channel.max(initial=-1)) + 1
    for name in CORRECTION:
        values = np.full(shape, math.nan)
        # Early versions had no curves.
        values[tile, channel] = table[name] if name in table.colnames else 0.0
        tiles.corrections[name] = values
    np.maximum.at(tiles.component, tile, table["component"].data)
    np.logical_or.at(tiles.suspect, tile, table["suspect"].data)
    unit = str(table["offset"].unit or "")
    return "ADU" if unit == "adu" else unit


def _read_star_gains(path: Path) -> list[StarComparison]:
    """Read the gains by stars from the table of pairs; none if it has no stars."""
    if not path.exists() or not _has_stars(path):
        return []
    names = ("gain", "gain_err", "star_gain", "star_gain_err", "stars")
    columns = ("pair", "tile_i", "tile_j", "channel", *names)
    table = read_columns(path, columns)
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    return [star for star in (StarComparison(*row) for row in rows) if star.star_gain_err > 0]


def _has_stars(path: Path) -> bool:
    """Return whether the head of a table, which is short, has gains by stars."""
    with path.open(encoding="utf-8") as lines:
        return any("star_gain" in line for line in takewhile(lambda line: line[:1] == "#", lines))


def _judge_by_stars(pairs: PairTable, tiles: TileTable, stars: Sequence[StarComparison]) -> None:
    """Replace the residuals of the gains by the residuals of the stars, which gave the solution."""
    row = dict(zip(pairs.index.tolist(), range(len(pairs)), strict=True))
    gain, chi = tiles.corrections["gain"], pairs.residuals["gain_chi"]
    chi[:] = math.nan
    for star in stars:
        relative_err = star.star_gain_err / star.star_gain
        ratio = star.star_gain * gain[star.j, star.channel] / gain[star.i, star.channel]
        chi[row[star.pair], star.channel] = math.log(ratio) / relative_err


def _is_newer(path: Path, time_ns: int) -> bool:
    """Return whether this run wrote a table: an earlier run may have left its own."""
    return path.exists() and path.stat().st_mtime_ns >= time_ns


def _add_components(tiles: TileTable, pairs: PairTable) -> None:
    """Number the groups of prepared tiles connected by measured pairs."""
    i, j = (ends[pairs.measured].astype(np.int32) for ends in (pairs.i, pairs.j))
    # 32 bits, because scipy before 1.13 needs them.
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(tiles), len(tiles)))
    _, labels = connected_components(graph, directed=False)
    tiles.component = np.where(tiles.is_placed, labels, -1)


def _stages(autopsy: Autopsy, events: Iterable[Event]) -> list[StageTimes]:
    """Return the times of the stages; an open stage lasts until the last sign of life."""
    started: dict[str, int] = {}
    spans = []
    for event in events:
        if isinstance(event, StageStarted):
            started[event.stage] = event.time_ns
        elif isinstance(event, StageEnded) and event.stage in started:
            spans.append((event.stage, started.pop(event.stage), event.time_ns))
    spans += [(stage, start, autopsy.last_ns) for stage, start in started.items()]
    spans.sort(key=lambda span: span[1])
    origin = autopsy.started_ns
    return [
        StageTimes(stage, (start - origin) / 1e9, (end - origin) / 1e9)
        for stage, start, end in spans
    ]
