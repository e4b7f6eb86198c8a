"""A run folder -> what a person wants to know of the run, in plain lists and numbers.

The journal tells of tiles, pairs and times, however the run ended; the tables tell the solution,
where there is one. Nothing here draws or writes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..observe.autopsy import RUN_DIED, Autopsy, all_events
from ..runtime import journal
from ..runtime.events import Heartbeat, JobEnded, SlowJob, StageEnded, StageStarted
from ..runtime.run_folder import RunFolder

UNDER_WAY = "under way"
NAN = math.nan
LEAST_LEVEL_ERROR = 1e-3  # ADU, as the solver has it: previews know no more


@dataclass
class TileStory:
    """What is known of a tile; lists have one entry per channel.

    Parameters
    ----------
    place : dict
        The tile's result in the journal (x0, y0, centre, jacobian, shape, scale, thumb, sky);
        empty where it was not prepared.
    failed : str
        Why it could not be used; empty where it could.
    component : int
        Group of tiles that are matched to one another; -1 for none.
    pairs : int
        Pairs of it that were measured.
    suspect : bool
        Most of its pairs contradict the others.
    """

    index: int
    name: str
    place: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    gain: list[float] = field(default_factory=list)
    gain_err: list[float] = field(default_factory=list)
    offset: list[float] = field(default_factory=list)
    offset_err: list[float] = field(default_factory=list)
    slope_x: list[float] = field(default_factory=list)
    slope_y: list[float] = field(default_factory=list)
    component: int = -1
    pairs: int = 0
    suspect: bool = False

    def footprint(self) -> list[list[float]]:
        """Its corners on the shared grid, in degrees west and north of the grid's origin."""
        if "shape" not in self.place:
            return []
        h, w = self.place["shape"]
        (xx, xy), (yx, yy) = self.place["jacobian"]
        cx, cy = self.place["centre"]
        scale = self.place["scale"]
        ends = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
        return [[scale * (cx + xx * x + xy * y), scale * (cy + yx * x + yy * y)] for x, y in ends]


@dataclass
class PairStory:
    """What is known of a pair; lists have one entry per channel, NaN where it has none.

    Parameters
    ----------
    before, after : list of float
        Level difference in units of the noise of a cell, as it was and as it is corrected.
    residual : list of float
        Level difference that is left, in ADU.
    level_chi, gain_chi : list of float
        What is left in units of its standard error.
    level_err : list of float
        Standard error of the level difference, in ADU.
    gain_measured : bool
        In every channel that was measured.
    """

    index: int
    i: int
    j: int
    outcome: str
    reason: str
    seconds: float
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    level_chi: list[float] = field(default_factory=list)
    gain_chi: list[float] = field(default_factory=list)
    level_err: list[float] = field(default_factory=list)
    gain_measured: bool = True

    @property
    def worst(self) -> float:
        """The largest of what is left in units of its error; NaN where nothing is known."""
        known = [abs(x) for x in (*self.level_chi, *self.gain_chi) if math.isfinite(x)]
        return max(known, default=NAN)


@dataclass
class Story:
    """A run, ready to be shown; times are seconds since it began.

    Parameters
    ----------
    stages : list
        (name, start, end) of every stage.
    jobs : list of JobEnded
        All jobs of the last run that ended.
    marks : list of Heartbeat and SlowJob
        In their order.
    solved : bool
        Whether there are corrections.
    """

    found: Autopsy
    tiles: list[TileStory]
    pairs: list[PairStory]
    stages: list[tuple[str, float, float]]
    jobs: list[JobEnded]
    marks: list[Heartbeat | SlowJob]
    solved: bool

    def since(self, time_ns: int) -> float:
        """A time in seconds since the run began."""
        return (time_ns - self.found.started_ns) / 1e9

    @property
    def matched(self) -> bool:
        """Whether any pair was measured."""
        return any(pair.outcome == "measured" for pair in self.pairs)

    @property
    def channels(self) -> int:
        """Colour planes of the tiles; 0 where none was prepared."""
        return max((len(tile.place.get("sky", ())) for tile in self.tiles), default=0)

    @property
    def groups(self) -> list[list[TileStory]]:
        """Tiles that are matched to one another, the largest group first."""
        found: dict[int, list[TileStory]] = {}
        for tile in self.tiles:
            if tile.component >= 0:
                found.setdefault(tile.component, []).append(tile)
        return sorted(found.values(), key=len, reverse=True)


def gather(
    found: Autopsy, results: Sequence[journal.Record], decode: Callable[[list[Any]], Sequence[Any]]
) -> Story:
    """Collect what the run folder tells.

    Parameters
    ----------
    found : Autopsy
        Of the run.
    results : sequence of Record
        Where to look for results: the run's record, and if it was resumed those before it.
    decode : callable
        Makes objects with the fields of a measured pair of what the journal holds of a pair.
    """
    events = list(all_events(found)) if found.state != "running" else found.record.events
    jobs = [event for event in events if isinstance(event, JobEnded)]
    earlier = [e for record in results for e in record.events if isinstance(e, JobEnded) and e.key]
    tiles = _tiles(found, earlier, jobs)
    pairs, lines = _pairs(earlier, jobs, tiles, decode)
    solved = found.state == "finished" and _newer(
        RunFolder(found.folder).corrections, found.started_ns
    )
    residuals: dict[tuple[int, int, int], float] = {}
    if solved:
        _add_corrections(tiles, _table(RunFolder(found.folder).corrections))
        residuals = _residuals(RunFolder(found.folder).pairs)
    else:
        _group(tiles, pairs)
    for pair, measured in zip(pairs, lines, strict=True):
        for channel, line in enumerate(measured):
            left = residuals.get((pair.i, pair.j, channel), NAN)
            _judge(pair, line, channel, left, tiles)
    return Story(
        found=found,
        tiles=tiles,
        pairs=pairs,
        stages=_stages(found, events),
        jobs=jobs,
        marks=[event for event in events if isinstance(event, Heartbeat | SlowJob)],
        solved=solved,
    )


def _tiles(found: Autopsy, earlier: list[JobEnded], jobs: list[JobEnded]) -> list[TileStory]:
    """All tiles in the order given, as far as they were heard of."""
    tiles: dict[int, TileStory] = {}
    for job in jobs:
        if job.stage not in ("scan", "tiles") or "index" not in job.attributes:
            continue
        index, name = job.attributes["index"], str(job.attributes.get("name", ""))
        tile = tiles.setdefault(index, TileStory(index, name))
        if job.error is not None:
            told = job.error.type == "TileError"  # by the tile's own name
            tile.failed = job.error.message if told else f"{name}: {job.error}"
    for job in earlier:
        known = tiles.get(job.attributes.get("index", -1)) if job.stage == "tiles" else None
        if known is not None and known.name == job.attributes.get("name"):
            known.place = job.result
    first = found.record.events[:1]
    total = getattr(first[0], "attributes", {}).get("tiles.total", 0) if first else 0
    for index in range(total):
        tiles.setdefault(index, TileStory(index, f"tile {index}"))
    return [tiles[index] for index in sorted(tiles)]


def _pairs(
    earlier: list[JobEnded],
    jobs: list[JobEnded],
    tiles: list[TileStory],
    decode: Callable[[list[Any]], Sequence[Any]],
) -> tuple[list[PairStory], list[Sequence[Any]]]:
    """Pairs in the order of their tiles, and what was measured of each."""
    names = {tile.index: tile.name for tile in tiles}
    last: dict[tuple[int, int], JobEnded] = {}
    for job in (*earlier, *jobs):
        known = job.attributes
        ends = (known.get("tile_i", -1), known.get("tile_j", -1))
        if job.stage == "pairs" and (names.get(ends[0]), names.get(ends[1])) == (
            known.get("name_i"),
            known.get("name_j"),
        ):
            last[ends] = job
    pairs, lines = [], []
    for (i, j), job in sorted(last.items()):
        why = str(job.error) if job.error is not None else str(job.attributes.get("reason", ""))
        seconds = (job.ended_ns - job.started_ns) / 1e9
        pairs.append(PairStory(job.index, i, j, outcome(job), why, seconds))
        lines.append(_decoded(job, decode))
        if job.outcome == "measured":
            tiles[i].pairs += 1
            tiles[j].pairs += 1
    return pairs, lines


def _decoded(job: JobEnded, decode: Callable[[list[Any]], Sequence[Any]]) -> Sequence[Any]:
    """Return the measurements of a pair; none if an earlier version wrote them in another form."""
    try:
        return decode(job.result) if job.result is not None else ()
    except ValueError:
        return ()


def _judge(
    pair: PairStory, line: Any, channel: int, residual: float, tiles: list[TileStory]
) -> None:
    """Add what a channel of a pair says: level and gain, before and after, and by its errors."""
    values = dict.fromkeys(
        ("before", "after", "residual", "level_chi", "gain_chi", "level_err"), NAN
    )
    if hasattr(line, "gain"):
        noise = line.rms if line.rms > 0 else NAN
        values["before"] = abs(line.y - line.x) / noise
        values["level_err"] = line.level_err
        pair.gain_measured &= line.gain_measured
        if math.isfinite(residual):
            first, second = tiles[pair.i], tiles[pair.j]
            g = second.gain[channel]
            values["residual"] = residual
            values["after"] = abs(residual) / (g * noise)
            values["level_chi"] = residual / max(g * line.level_err, LEAST_LEVEL_ERROR)
            planes = first.slope_x[channel] or first.slope_y[channel]
            kind = "plane_gain" if planes else "gain"
            a, err = getattr(line, kind), getattr(line, f"{kind}_err")
            if line.gain_measured and a > 0 and err > 0:
                left = math.log(a) - math.log(first.gain[channel] / g)
                values["gain_chi"] = left / (err / a)
    for name, value in values.items():
        getattr(pair, name).append(value)


def _add_corrections(tiles: list[TileStory], rows: Iterable[dict[str, str]]) -> None:
    for row in rows:
        tile = tiles[int(row["tile"])]
        for name in ("gain", "gain_err", "offset", "offset_err", "slope_x", "slope_y"):
            getattr(tile, name).append(float(row[name]))
        tile.component = max(tile.component, int(row["component"]))
        tile.suspect |= row["suspect"] == "True"


def _residuals(path: Path) -> dict[tuple[int, int, int], float]:
    if not path.exists():
        return {}
    return {
        (int(row["tile_i"]), int(row["tile_j"]), int(row["channel"])): float(row["residual"])
        for row in _table(path)
    }


def _table(path: Path) -> Iterable[dict[str, str]]:
    """The rows of an ECSV table: of CSV, it is what follows the comments."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader((line for line in file if line[:1] != "#"), delimiter=" ")


def _newer(path: Path, time_ns: int) -> bool:
    """Whether a table is of this run: another one may have left its own."""
    return path.exists() and path.stat().st_mtime_ns >= time_ns


def _group(tiles: list[TileStory], pairs: list[PairStory]) -> None:
    """Number the groups that the measured pairs make of the tiles."""
    label = {tile.index: tile.index for tile in tiles}

    def root(index: int) -> int:
        while label[index] != index:
            label[index] = label[label[index]]
            index = label[index]
        return index

    for pair in pairs:
        if pair.outcome == "measured":
            label[max(root(pair.i), root(pair.j))] = min(root(pair.i), root(pair.j))
    for tile in tiles:
        tile.component = root(tile.index) if tile.place else -1


def _stages(found: Autopsy, events: Iterable[Any]) -> list[tuple[str, float, float]]:
    begun: dict[str, int] = {}
    stages = []
    for event in events:
        if isinstance(event, StageStarted):
            begun[event.stage] = event.time_ns
        elif isinstance(event, StageEnded) and event.stage in begun:
            stages.append((event.stage, begun.pop(event.stage), event.time_ns))
    stages += [(stage, start, found.last_ns) for stage, start in begun.items()]
    first = found.started_ns
    stages.sort(key=lambda stage: stage[1])
    return [(stage, (a - first) / 1e9, (b - first) / 1e9) for stage, a, b in stages]


def outcome(job: JobEnded) -> str:
    """How a job ended; "under way" for one that the end of the run cut short."""
    return UNDER_WAY if job.error is not None and job.error.type == RUN_DIED else job.outcome


def typical(values: Iterable[float]) -> float:
    """Median of those that are known; NaN without any."""
    known = [value for value in values if math.isfinite(value)]
    return median(known) if known else NAN
