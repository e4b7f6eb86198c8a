"""Gather the data of a run from its journal and its tables.

The journal has the tiles, pairs and times of every run, even of a dead one. The tables have the
solution, if there is one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..observe.autopsy import Autopsy
from ..observe.replay import all_events
from ..pipeline.illumination_file import read_illuminations
from ..pipeline.scan_task import failure_reason
from ..pipeline.tables import SURFACE_POWERS
from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from ..runtime.journal import Record
from ..runtime.run_folder import RunFolder
from .columns import read_columns
from .data import (
    PairData,
    RunData,
    StageTimes,
    StarComparison,
    TileData,
    job_outcome,
    job_seconds,
)
from .residuals import PairCorrections, pair_residual
from .shorten import PairLine

CORRECTION = (
    "gain", "gain_err", "offset", "offset_err", *SURFACE_POWERS,
)  # fmt: skip
KEY = ("tile_i", "tile_j", "channel")
Residuals = dict[tuple[int, ...], float]  # level difference in ADU by tile i, tile j and channel


def gather_run(autopsy: Autopsy, records: Sequence[Record]) -> RunData:
    """Return the data of a run.

    Parameters
    ----------
    autopsy : Autopsy
        State of the run.
    records : sequence of Record
        Records with results: the record of the run and, after a resume, the earlier ones. All
        results are as `shorten` leaves them.
    """
    running = autopsy.state == "running"
    events = autopsy.record.events if running else list(all_events(autopsy))
    jobs = _numbered_by_tile([event for event in events if isinstance(event, JobEnded)])
    results = [
        event
        for record in records
        for event in record.events
        if isinstance(event, JobEnded) and event.result is not None
    ]
    tiles = _tiles(autopsy.record, results, jobs)
    files = RunFolder(autopsy.folder)
    solved = autopsy.state == "finished" and _is_newer(files.corrections, autopsy.started_ns)
    residuals: Residuals = {}
    unit = "ADU"
    if solved:
        unit = _add_corrections(tiles, files.corrections)
        residuals = _read_residuals(files.pairs)
    illuminations = read_illuminations(files.illumination) if solved else []
    for light in illuminations:
        for index in light.tiles.tolist():
            tiles[index].illumination = light
    pairs = [
        _pair(job, tiles[i], tiles[j], residuals)
        for (i, j), job in sorted(_pair_jobs(results, jobs, tiles).items())
    ]
    star_gains = _read_star_gains(files.pairs) if solved else []
    if autopsy.record.about.get("settings", {}).get("gain_from") == "stars":
        of_pair: dict[int, list[StarComparison]] = {}
        for star in star_gains:
            of_pair.setdefault(star.pair, []).append(star)
        pairs = [_judged_by_stars(pair, tiles, of_pair.get(pair.index, [])) for pair in pairs]
    _add_pair_counts(tiles, pairs)
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
        illuminations=illuminations,
    )


def _numbered_by_tile(jobs: list[JobEnded]) -> list[JobEnded]:
    """Give the scans of files, which are numbered by input, the indices of their first tiles."""
    scans = {
        job.attributes["index"]: job.attributes
        for job in jobs
        if job.stage == "scan" and "index" in job.attributes
    }
    shift, first = 0, {}
    for number in sorted(scans):
        first[number] = number + shift
        shift += len(scans[number].get("tiles", [None])) - 1
    return [
        replace(job, attributes={**job.attributes, "index": first[job.attributes["index"]]})
        if job.stage == "scan" and "index" in job.attributes
        else job
        for job in jobs
    ]


def _tiles(record: Record, results: list[JobEnded], jobs: list[JobEnded]) -> list[TileData]:
    """Return all tiles in input order, including tiles without any job so far."""
    tiles: dict[int, TileData] = {}
    for job in jobs:
        if job.stage not in ("scan", "tiles") or "index" not in job.attributes:
            continue
        index, name = job.attributes["index"], str(job.attributes.get("name", ""))
        names = job.attributes.get("tiles", [name])
        problems = job.attributes.get("problems", [""] * len(names))
        for number, (own_name, problem) in enumerate(zip(names, problems, strict=True), index):
            tile = tiles.setdefault(number, TileData(number, own_name))
            tile.failed = problem or tile.failed
        if job.error is not None:
            tile.failed = failure_reason(job.error, name)
    for job in results:
        prepared = tiles.get(job.attributes.get("index", -1)) if job.stage == "tiles" else None
        # In an earlier run another tile may have had the index.
        if prepared is not None and prepared.name == job.attributes.get("name"):
            prepared.placement = job.result
    for index in range(_total_tiles(record)):
        tiles.setdefault(index, TileData(index, f"tile {index}"))
    return [tiles[index] for index in sorted(tiles)]


def _total_tiles(record: Record) -> int:
    first = record.events[0] if record.events else None
    return first.attributes.get("tiles.total", 0) if isinstance(first, RunStarted) else 0


def _pair_jobs(
    results: list[JobEnded], jobs: list[JobEnded], tiles: list[TileData]
) -> dict[tuple[int, int], JobEnded]:
    """Return the last job of each pair of tiles, by their indices."""
    names = {tile.index: tile.name for tile in tiles}
    last: dict[tuple[int, int], JobEnded] = {}
    for job in (*results, *jobs):
        if job.stage != "pairs":
            continue
        i, j = job.attributes.get("tile_i", -1), job.attributes.get("tile_j", -1)
        job_names = (job.attributes.get("name_i"), job.attributes.get("name_j"))
        if (names.get(i), names.get(j)) == job_names:
            last[i, j] = job
    return last


def _pair(job: JobEnded, first: TileData, second: TileData, residuals: Residuals) -> PairData:
    lines: tuple[PairLine | None, ...] = job.result or ()
    reason = job.attributes.get("reason", "") if job.error is None else job.error
    return PairData(
        index=job.index,
        i=first.index,
        j=second.index,
        outcome=job_outcome(job),
        reason=str(reason),
        seconds=job_seconds(job),
        residuals=tuple(
            pair_residual(
                line,
                PairCorrections.of(first, second, channel),
                residuals.get((first.index, second.index, channel), math.nan),
            )
            for channel, line in enumerate(lines)
        ),
        gain_measured=all(line.gain_measured for line in lines if line),
    )


def _add_corrections(tiles: list[TileData], path: Path) -> str:
    """Read the table of corrections into the tiles; return the unit of the offsets."""
    names = ("tile", "component", "suspect", *CORRECTION)
    table = read_columns(path, names)
    for row in zip(*(table[name].tolist() for name in table.colnames), strict=True):
        values = dict(zip(table.colnames, row, strict=True))
        tile = tiles[values["tile"]]
        for name in CORRECTION:
            getattr(tile, name).append(values.get(name, 0.0))  # a curve, in early versions
        tile.component = max(tile.component, values["component"])
        tile.suspect |= values["suspect"]
    unit = str(table["offset"].unit or "")
    return "ADU" if unit == "adu" else unit


def _read_residuals(path: Path) -> Residuals:
    """Read the level differences of the table of pairs; return none if there is no table."""
    if not path.exists():
        return {}
    table = read_columns(path, (*KEY, "residual"))
    keys = zip(*(table[name].tolist() for name in KEY), strict=True)
    return dict(zip(keys, table["residual"].tolist(), strict=True))


def _read_star_gains(path: Path) -> list[StarComparison]:
    """Read the gains by stars from the table of pairs; none if it has no stars."""
    if not path.exists() or not _has_stars(path):
        return []
    names = ("gain", "gain_err", "star_gain", "star_gain_err", "stars")
    columns = ("pair", *KEY, *names)
    table = read_columns(path, columns)
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    return [star for star in (StarComparison(*row) for row in rows) if star.star_gain_err > 0]


def _has_stars(path: Path) -> bool:
    """Return whether the head of a table, which is short, has gains by stars."""
    with path.open(encoding="utf-8") as lines:
        return any("star_gain" in line for line in takewhile(lambda line: line[:1] == "#", lines))


def _judged_by_stars(
    pair: PairData, tiles: Sequence[TileData], stars: Sequence[StarComparison]
) -> PairData:
    """Return a pair with the residuals of the gains of its stars, which gave the solution."""
    chi = {}
    for star in stars:
        first, second = (tiles[index].gain[star.channel] for index in (pair.i, pair.j))
        relative_err = star.star_gain_err / star.star_gain
        chi[star.channel] = math.log(star.star_gain * second / first) / relative_err
    residuals = tuple(
        replace(residual, gain_chi=chi.get(channel, math.nan))
        for channel, residual in enumerate(pair.residuals)
    )
    return replace(pair, residuals=residuals)


def _is_newer(path: Path, time_ns: int) -> bool:
    """Return whether this run wrote a table: an earlier run may have left its own."""
    return path.exists() and path.stat().st_mtime_ns >= time_ns


def _add_pair_counts(tiles: list[TileData], pairs: list[PairData]) -> None:
    measured = [pair for pair in pairs if pair.outcome == "measured"]
    counts = Counter(index for pair in measured for index in (pair.i, pair.j))
    for tile in tiles:
        tile.pairs = counts[tile.index]


def _add_components(tiles: list[TileData], pairs: list[PairData]) -> None:
    """Number the groups of prepared tiles connected by measured pairs."""
    edges = [(pair.i, pair.j) for pair in pairs if pair.outcome == "measured"]
    i, j = np.array(edges, dtype=np.int32).reshape(-1, 2).T  # scipy before 1.13 needs 32 bits
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(tiles), len(tiles)))
    _, labels = connected_components(graph, directed=False)
    for tile, label in zip(tiles, labels.tolist(), strict=True):
        tile.component = label if tile.placement else -1


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
