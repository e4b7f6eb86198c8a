"""Data of the report's charts, as plain lists and numbers for JSON.

The script of the page (``page/page.js``) draws them with plotly.js. The data take a tenth of the
space of Plotly's own figures, and Plotly's Python package is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..observe.progress import STAGE_TITLES
from ..runtime.events import JobEnded, SlowJob
from .alerts import alert_job, alert_text
from .data import IN_PROGRESS, PairData, RunData, TileData, finite_median, job_outcome
from .selection import Shown, thinned

DIGITS = 6  # significant digits of a number: more than a chart can show
MAX_ALERTS = 500  # heartbeats and slow jobs in a chart: a run that hangs all night has thousands
TILE_FIELDS = ("index", "name", "failed", "pairs", "suspect", "gain", "gain_err", "offset",
               "offset_err")  # fmt: skip
PAIR_FIELDS = ("index", "outcome", "seconds")


def chart_data(run: RunData) -> dict[str, Any]:
    """Return the data of all charts, ready for JSON."""
    groups = run.group_numbers
    weights = _weight_classes(run.pairs.residuals["level_err"])
    timeline = _Timeline.of(run)
    shown = Shown.of(run)
    places = {index: place for place, index in enumerate(shown.tiles)}
    tiles = [run.tiles[index] for index in shown.tiles]
    shown_pairs = [(run.pairs[number], int(weights[number])) for number in shown.pairs]
    pairs = [(pair, weight) for pair, weight in shown_pairs if {pair.i, pair.j} <= places.keys()]
    return _to_json(
        {
            "channels": run.channel_names,
            "unit": run.unit,
            "tiles": [_tile(tile, groups[tile.index]) for tile in tiles],
            "pairs": [_pair(*pair, places) for pair in pairs],
            "stages": [STAGE_TITLES[stage] for stage in timeline.stages],
            "pairStage": timeline.stages.index("pairs") if "pairs" in timeline.stages else -1,
            "lanes": timeline.lanes.names,
            "jobs": timeline.jobs(shown.jobs, places, [pair for pair, _ in pairs]),
            "marks": timeline.alerts(),
            "seconds": run.elapsed(run.autopsy.last_ns),
            "levelChi": thinned(run.finite_residuals("level_chi")),
            "gainChi": thinned(run.finite_residuals("gain_chi")),
        }
    )


def _tile(tile: TileData, group: int) -> dict[str, Any]:
    values = {name: getattr(tile, name) for name in TILE_FIELDS}
    return {**values, "group": group, "corners": tile.corners()}


def _pair(pair: PairData, weight: int, places: Mapping[int, int]) -> dict[str, Any]:
    """Return a pair, with tiles given by their places among those shown."""
    return {
        **{name: getattr(pair, name) for name in PAIR_FIELDS},
        "i": places[pair.i],
        "j": places[pair.j],
        "reason": pair.reason or ("" if pair.gain_measured else "gain not measurable here"),
        "before": finite_median(pair.finite("before")),
        "after": finite_median(pair.finite("after")),
        "residual": max(pair.finite("residual"), key=abs, default=math.nan),
        "chi": pair.max_chi,
        "weight": weight,
    }


def _weight_classes(level_err: np.ndarray) -> np.ndarray:
    """Return the weight of each pair by thirds of the measured pairs: 0 low, 2 high."""
    values = np.where(np.isfinite(level_err), level_err, np.nan)
    errors = np.full(len(values), np.nan)
    measured = ~np.isnan(values).all(axis=1)
    errors[measured] = np.nanmedian(values[measured], axis=1)
    ranked = np.sort(errors[measured])
    if not len(ranked):
        return np.zeros(len(errors), dtype=int)
    third, two_thirds = ranked[len(ranked) // 3], ranked[2 * len(ranked) // 3]
    return (errors < third).astype(int) + (errors < two_thirds)


class WorkerLanes(NamedTuple):
    """Names of the lanes, and the lane of each job."""

    names: list[str]
    rows: list[int]


def worker_lanes(pid: np.ndarray, started_ns: np.ndarray, ended_ns: np.ndarray) -> WorkerLanes:
    """Return one lane per process, or several if its threads ran jobs at once."""
    jobs = list(zip(pid.tolist(), started_ns.tolist(), ended_ns.tolist(), strict=True))
    lanes: dict[int, list[tuple[int, int]]] = {}  # by process: row, and when it is free
    names: list[str] = []
    rows = [0] * len(jobs)
    for number in np.argsort(started_ns, kind="stable").tolist():
        process, start, end = jobs[number]
        process_lanes = lanes.setdefault(process, [])
        for position, (row, free_ns) in enumerate(process_lanes):
            if free_ns <= start:
                process_lanes[position] = (row, end)
                rows[number] = row
                break
        else:
            rows[number] = len(names)
            process_lanes.append((len(names), end))
            names.append(f"worker {len(names) + 1}")
    return WorkerLanes(names, rows)


@dataclass(frozen=True)
class _Timeline:
    """Jobs and alerts of a run in the lanes of its workers.

    Parameters
    ----------
    run : RunData
        The run.
    lanes : WorkerLanes
        Of its jobs.
    stages : list of str
        Stages with jobs, in the order of `STAGE_TITLES`.
    """

    run: RunData
    lanes: WorkerLanes
    stages: list[str]

    @classmethod
    def of(cls, run: RunData) -> _Timeline:
        jobs = run.jobs
        stages = sorted(set(np.unique(jobs.stage).tolist()), key=list(STAGE_TITLES).index)
        return cls(run, worker_lanes(jobs.pid, jobs.started_ns, jobs.ended_ns), stages)

    def jobs(
        self, shown: Iterable[int], tiles: Mapping[int, int], shown_pairs: Iterable[PairData]
    ) -> list[list[Any]]:
        """Return per job: lane, stage, index, start, end, failure, and its tile or pair, if shown.

        `tiles` are the places of the shown tiles.
        """
        pairs = {(pair.i, pair.j): number for number, pair in enumerate(shown_pairs)}
        entries = []
        jobs, numbers = self.run.jobs, [*shown]
        names = ("stage", "index", "started_ns", "ended_ns", "outcome", "i", "j")
        columns = (getattr(jobs, name)[numbers].tolist() for name in names)
        for number, stage, index, started, ended, outcome, i, j in zip(
            numbers, *columns, strict=True
        ):
            target = pairs.get((i, j)) if stage == "pairs" else tiles.get(i)
            failure = "" if outcome in ("measured", "rejected") else _failure(jobs[number])
            start, end = self.run.elapsed(started), self.run.elapsed(ended)
            place = self.stages.index(stage)
            entries.append([self.lanes.rows[number], place, index, start, end, failure, target])
        return entries

    def alerts(self) -> list[dict[str, Any]]:
        """Return kind, time, lane and text of each alert; the last lane if its job never ended."""
        jobs = self.run.jobs
        keys = zip(jobs.stage.tolist(), jobs.index.tolist(), strict=True)
        rows = dict(zip(keys, self.lanes.rows, strict=True)) if self.run.alerts else {}
        return [
            {
                "kind": "slow" if isinstance(alert, SlowJob) else "heartbeat",
                "time": self.run.elapsed(alert.time_ns),
                "lane": rows.get((alert.stage, alert_job(alert)[0]), len(self.lanes.names) - 1),
                "text": alert_text(alert),
            }
            for alert in self.run.alerts[:MAX_ALERTS]
        ]


def _failure(job: JobEnded) -> str:
    """Return the reason why a job failed."""
    if job_outcome(job) == IN_PROGRESS:
        return "in progress when the run died"
    return f"{job.outcome}: {job.error}"


def _to_json(value: Any) -> Any:
    """Round numbers to `DIGITS`, and replace NaN and infinity by null."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_to_json(item) for item in value]
    return value
