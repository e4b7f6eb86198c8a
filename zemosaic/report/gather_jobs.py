"""Jobs, tiles and pairs of a run, from the collected events of its journal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.scan_task import failure_reason
from ..runtime.events import JobEnded, JobError
from ..runtime.job_columns import ROW_FORMAT, JobRow
from ..runtime.journal import RunColumns
from .collect import NO_TILE, JobCollector
from .columns import read_columns
from .data import IN_PROGRESS
from .residuals import pair_residuals
from .rows import PLACEMENT, RESIDUALS, JobTable, PairTable, TileTable

_ROWS = np.dtype(
    {"names": JobRow._fields, "formats": [f"<{'i1' if c == 'b' else 'i8'}" for c in ROW_FORMAT[1:]]}
)


def gather_jobs(record: RunColumns, died: list[JobEnded]) -> JobTable:
    """Return the ended jobs of a run, and those that died with it.

    Scans of files, which are numbered by input, get the indices of their first tiles.
    """
    collected = collector_of(record)
    rows = np.frombuffer(bytes(record.jobs.packed), _ROWS)
    columns: dict[str, Any] = {
        name: np.append(rows[field], np.array([getattr(job, name) for job in died], dtype=int))
        for name, field in (
            ("index", "number"),
            *((n, n) for n in ("pid", "started_ns", "ended_ns")),
        )
    }
    for name, names in (("stage", record.jobs.stages), ("outcome", record.jobs.outcomes)):
        texts = np.array([*names, ""])[rows[name]]
        own = [IN_PROGRESS if name == "outcome" else job.stage for job in died]
        columns[name] = np.concatenate([texts, own]) if died else texts
    i, j = (np.array([*ends], dtype=int) for ends in (collected.i, collected.j))
    _number_by_tile(i, collected)
    ends = [_tiles_of(job) for job in died]
    i, j = (
        np.append(indices, np.array([end[k] for end in ends], dtype=int))
        for k, indices in enumerate((i, j))
    )
    return JobTable(record.jobs, died, i, j, **columns)


def collector_of(record: RunColumns) -> JobCollector:
    """Return the collected events of a record."""
    assert isinstance(record.collector, JobCollector)
    return record.collector


def _tiles_of(job: JobEnded) -> tuple[int, int]:
    names = ("tile_i", "tile_j") if job.stage == "pairs" else ("index", "")
    return tuple(job.attributes.get(name, NO_TILE) for name in names)


def _number_by_tile(index: np.ndarray, collected: JobCollector) -> None:
    """Give the scans, which are numbered by input, the indices of their first tiles."""
    counts = {
        attributes["index"]: len(attributes.get("tiles", [None]))
        for attributes in collected.scans.values()
    }
    first, shift = {}, 0
    for number in sorted(counts):
        first[number] = number + shift
        shift += counts[number] - 1
    for job, attributes in collected.scans.items():
        index[job] = first[attributes["index"]]


def gather_tiles(records: Sequence[RunColumns], jobs: JobTable, total: int) -> TileTable:
    """Return all tiles in input order, including tiles without any job so far."""
    collected = collector_of(records[-1])
    names: dict[int, str] = {}
    failed: dict[int, str] = {}
    for index, name, problem in _own_tiles(collected, jobs):
        names.setdefault(index, name)
        if problem:
            failed[index] = problem
    errors = records[-1].jobs.errors | _errors_of_died(jobs)
    for number, error in errors.items():
        if jobs.stage[number] in ("scan", "tiles") and jobs.i[number] != NO_TILE:
            index = int(jobs.i[number])
            name = str(jobs[number].attributes.get("name", ""))
            names.setdefault(index, name)
            failed[index] = failure_reason(error, name)
    count = max(total, max(names, default=-1) + 1)
    tiles = TileTable(
        names=[names.get(index, f"tile {index}") for index in range(count)],
        failed=dict(sorted(failed.items())),
        is_placed=np.zeros(count, dtype=bool),
        place=np.zeros(count, dtype=PLACEMENT),
        component=np.full(count, -1),
        pairs=np.zeros(count, dtype=int),
        suspect=np.zeros(count, dtype=bool),
    )
    for record in records:
        _add_placements(tiles, collector_of(record))
    return tiles


def _errors_of_died(jobs: JobTable) -> dict[int, JobError]:
    """Return the errors of the jobs that died with the run, by their numbers."""
    died = enumerate(jobs.died, len(jobs.columns))
    return {number: job.error for number, job in died if job.error is not None}


def _own_tiles(collected: JobCollector, jobs: JobTable) -> Iterator[tuple[int, str, str]]:
    """Yield index, name and problem of each tile that a job has named."""
    for number, attributes in collected.scans.items():
        name = str(attributes.get("name", ""))
        names = attributes.get("tiles", [name])
        problems = attributes.get("problems", [""] * len(names))
        first = int(jobs.i[number])
        for index, (own_name, problem) in enumerate(zip(names, problems, strict=True), first):
            yield index, own_name, problem
    for number, name in collected.tiles.items():
        yield int(jobs.i[number]), name, ""


def _add_placements(tiles: TileTable, collected: JobCollector) -> None:
    numbers = [
        number
        for number in collected.placements
        # In an earlier run another tile may have had the index.
        if collected.i[number] < len(tiles)
        and tiles.names[collected.i[number]] == collected.tiles[number]
    ]
    indices = [collected.i[number] for number in numbers]
    tiles.is_placed[indices] = True
    tiles.place[indices] = np.array([collected.placements[n] for n in numbers], dtype=PLACEMENT)


def gather_pairs(
    records: Sequence[RunColumns], jobs: JobTable, tiles: TileTable, path: Path | None
) -> PairTable:
    """Return the last job of each pair, with its residuals by the table of a path, if any."""
    tables = [*(gather_jobs(record, []) for record in records[:-1]), jobs]
    numbers, record = _pair_jobs(records, tables, tiles)
    values = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("index", "i", "j", "outcome", "seconds")
    }
    starts = np.cumsum([0, *(len(table) for table in tables)])
    place = numbers + starts[record]
    # The last one of each pair, in the order of the tiles.
    key = values["i"][place] * len(tiles) + values["j"][place]
    _, last = np.unique(key[::-1], return_index=True)
    place = place[::-1][last]
    row = np.full(starts[-1], -1)
    row[place] = np.arange(len(place))
    reasons = {}
    for table, entry, start in zip(tables, records, starts.tolist(), strict=False):
        errors = entry.jobs.errors | _errors_of_died(table)
        for number, reason in {**collector_of(entry).reasons, **errors}.items():
            if row[number + start] >= 0:
                reasons[int(row[number + start])] = str(reason)
    pairs = PairTable(
        **{name: column[place] for name, column in values.items()},
        gain_measured=np.ones(len(place), dtype=bool),
        reasons=reasons,
        residuals={},
    )
    _add_residuals(pairs, tiles, records, [row[start:] for start in starts], path)
    return pairs


def _pair_jobs(
    records: Sequence[RunColumns], tables: Sequence[JobTable], tiles: TileTable
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all jobs of pairs of these tiles, and the places of their records.

    In an earlier run, of which the results alone count, other tiles may have had the indices.
    """
    names, numbers, of_record = tiles.names, list[int](), list[int]()
    for place, (record, table) in enumerate(zip(records, tables, strict=True)):
        collected = collector_of(record)
        for number, own_names in zip(collected.pairs, collected.names, strict=True):
            i, j = collected.i[number], collected.j[number]
            known = 0 <= i < len(names) and 0 <= j < len(names)
            counts = place == len(records) - 1 or number not in collected.without_result
            if known and counts and names[i] == own_names[0] and names[j] == own_names[1]:
                numbers.append(number)
                of_record.append(place)
        died = range(len(table.columns), len(table))
        numbers += [number for number in died if table.stage[number] == "pairs"]
        of_record += [place] * (len(numbers) - len(of_record))
    return np.array(numbers, dtype=int), np.array(of_record, dtype=int)


def _add_residuals(
    pairs: PairTable,
    tiles: TileTable,
    records: Sequence[RunColumns],
    rows: Sequence[np.ndarray],
    path: Path | None,
) -> None:
    """Add the residuals; `rows` has the row of each job in each record."""
    parts = [
        (*collector_of(record).lines(), row) for record, row in zip(records, rows, strict=False)
    ]
    lines = np.concatenate([lines for lines, *_ in parts])
    row = np.concatenate([row[jobs] for _, jobs, _, row in parts])
    channel = np.concatenate([channel for _, _, channel, _ in parts])
    lines, row, channel = (values[row >= 0] for values in (lines, row, channel))
    shape = len(pairs), int(channel.max(initial=-1)) + 1
    gain = tiles.corrections.get("gain", np.empty((len(tiles), 0)))
    gains = np.full((2, len(lines)), math.nan)
    has_gain = channel < gain.shape[1]
    for end, index in enumerate((pairs.i, pairs.j)):
        gains[end, has_gain] = gain[index[row[has_gain]], channel[has_gain]]
    level = _table_residuals(pairs, len(tiles), shape, path)[row, channel]
    values = pair_residuals(lines, gains[0], gains[1], level)
    for name in RESIDUALS:
        pairs.residuals[name] = np.full(shape, math.nan)
        pairs.residuals[name][row, channel] = values[name]
    pairs.gain_measured[row[~lines["gain_measured"]]] = False


def _table_residuals(
    pairs: PairTable, tiles: int, shape: tuple[int, int], path: Path | None
) -> np.ndarray:
    """Read the level differences in ADU of the table of pairs; NaN if there is no table."""
    level = np.full(shape, math.nan)
    if path is None or not path.exists() or not level.size:
        return level
    table = read_columns(path, ("tile_i", "tile_j", "channel", "residual"))
    keys = pairs.i * tiles + pairs.j
    wanted = table["tile_i"].data * tiles + table["tile_j"].data
    row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = (keys[row] == wanted) & (table["channel"].data < shape[1])
    level[row[known], table["channel"].data[known]] = table["residual"].data[known]
    return level
