"""Run folders with synthetic contents, for tests of reports without runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.pairs import pair_line
from zemosaic.photometry.pairfit.measurement import Measurement, Rejected
from zemosaic.photometry.solver.solve import solve
from zemosaic.pipeline.records import PairRecord, encode_measurements, save_thumbnails
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.pipeline.tables import corrections_table, pairs_table, write_table
from zemosaic.runtime.events import (
    Heartbeat,
    JobEnded,
    JobError,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.run_folder import RunFolder
from zemosaic.settings import Settings

CELL = 12  # pixels of a tile per thumbnail cell
SCALE = 0.01  # degrees per thumbnail cell
SKY = 1000.0  # ADU
WORKERS = 8
HANGING_JOB = 300  # number of the pair that hangs, or the last one of fewer
HANG_NS = 12_000_000_000
STACK = (
    "Thread 0x00007f0000000000 (most recent call first):\n"
    '  File "/opt/<b>astro</b>/regression.py", line 88 in solve_normal\n'
    '  File "/opt/astro/measure.py", line 211 in measure_pair'
)


@dataclass(frozen=True)
class Graph:
    """Tiles and their pairs.

    Parameters
    ----------
    centres, sizes : ndarray
        ``(T, 2)`` in degrees, east to the left.
    pairs : ndarray
        ``(P, 2)`` tile indices.
    """

    centres: np.ndarray
    sizes: np.ndarray
    pairs: np.ndarray


def load_graph(folder: Path) -> Graph:
    """Return the graph of a real mosaic: 197 tiles and 6,553 pairs."""
    with (folder / "zemosaic_m31_197_tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    centres = np.array([(float(r["center_x_deg"]), float(r["center_y_deg"])) for r in rows])
    sizes = np.array([(float(r["width_deg"]), float(r["height_deg"])) for r in rows])
    with (folder / "zemosaic_m31_197_tiles_overlaps.csv").open() as file:
        pairs = np.array([(int(r["index_i"]), int(r["index_j"])) for r in csv.DictReader(file)])
    return Graph(centres, sizes, pairs)


def grid_graph(tiles: int, pairs: int) -> Graph:
    """Return tiles on a grid, and the pairs of the nearest ones."""
    side = math.ceil(math.sqrt(tiles))
    k = np.arange(tiles)
    centres = np.stack([k % side, k // side], axis=1) * 0.15
    i, j = np.triu_indices(tiles, 1)
    nearest = np.argsort(np.hypot(*(centres[i] - centres[j]).T), kind="stable")[:pairs]
    sizes = np.full((tiles, 2), (0.44, 1.02))
    return Graph(centres, sizes, np.stack([i, j], axis=1)[np.sort(nearest)])


def isolated_graph(tiles: int) -> Graph:
    """Return tiles that are far from one another."""
    graph = grid_graph(tiles, 0)
    return Graph(20 * graph.centres, graph.sizes, graph.pairs)


@dataclass(frozen=True)
class SyntheticJob:
    """A job: attributes, result for the journal, error."""

    attributes: dict[str, Any]
    result: Any = None
    error: JobError | None = None

    @property
    def outcome(self) -> str:
        if self.error:
            return "crashed"
        return "rejected" if "reason" in self.attributes else "measured"


class SyntheticRun:
    """A run whose numbers are all drawn from one seed.

    Parameters
    ----------
    folder : pathlib.Path
        The run folder to write.
    graph : Graph
        Tiles and pairs.
    names : list of str, optional
        Names of the tiles.
    channels : int
        Channels of each tile.
    faults : bool
        Include a bad tile, pairs that crash, a pair that hangs, and unmeasurable gains.
    level_scatter : float
        Scatter of the levels in units of their standard errors.
    """

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        names: Sequence[str] = (),
        channels: int = 1,
        faults: bool = True,
        level_scatter: float = 1.0,
    ) -> None:
        self.folder, self.graph = folder, graph
        self.channels, self.faults, self.level_scatter = channels, faults, level_scatter
        count = len(graph.centres)
        self.names = list(names) or [f"tile_{k:04d}.fits" for k in range(count)]
        self.random = np.random.default_rng(7)
        self.gain = np.exp(self.random.normal(0, 0.08, (count, channels)))
        self.offset = self.random.normal(0, 80, (count, channels))
        self.now = 1_700_000_000_000_000_000
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, *, until: int | None = None, solved: bool = True) -> None:
        """Write journal, thumbnails and tables; with `until`, the run dies after so many pairs."""
        about: dict[str, Any] = {
            "version": "0", "python": "3", "host": "<b>host</b>", "cwd": "/data",
            "command": "zemosaic intertile '<script>alert(1)</script>.fits'",
            "settings": asdict(Settings()), "pool": "processes", "trace": {},
        }  # fmt: skip
        journal = Journal(self.folder, about)
        self.dispatch = FanOut([journal]).dispatch
        totals = {"tiles.total": len(self.names), "pool.workers": WORKERS}
        self.dispatch(RunStarted(run_id="1", time_ns=self.now, attributes=totals))
        self._write_tiles()
        self._write_stage("overlap")
        records = self._write_pairs(until)
        if until is None:
            self._write_stage("solve")
            self.dispatch(RunEnded(state="finished", time_ns=self.now))
        journal.close()
        if until is None and solved:
            self._write_tables(records)

    def _write_stage(self, stage: str) -> None:
        self._start_stage(stage, 0)
        self._end_stage(stage)

    def _start_stage(self, stage: str, total: int) -> None:
        self.now += 1_000_000
        self.dispatch(StageStarted(stage=stage, time_ns=self.now, total=total))

    def _end_stage(self, stage: str) -> None:
        self.now += 40_000_000
        self.dispatch(StageEnded(stage=stage, time_ns=self.now))

    def _write_tiles(self) -> None:
        self._start_stage("prepare", 0)
        tiles = [{"index": k, "name": name} for k, name in enumerate(self.names)]
        self._write_jobs("scan", [SyntheticJob(attributes) for attributes in tiles])
        placements = [self._placement(k) for k in range(len(tiles))]
        save_thumbnails(self.folder, {k: self._thumbnail(k, at) for k, at in enumerate(placements)})
        jobs = [SyntheticJob(*job) for job in zip(tiles, placements, strict=True)]
        self._write_jobs("tiles", jobs)
        self._end_stage("prepare")

    def _placement(self, k: int) -> dict[str, Any]:
        """Return the result of preparing a tile as the journal keeps it."""
        cx, cy = self.graph.centres[k] / SCALE
        width, height = (self.graph.sizes[k] / SCALE).astype(int).tolist()
        return {
            "x0": int(cx - width / 2), "y0": int(cy - height / 2), "centre": [cx, cy],
            "jacobian": [[1 / CELL, 0.0], [0.0, 1 / CELL]], "checksum": 0,
            "shape": [height * CELL, width * CELL], "scale": SCALE, "thumb": 1,
            "sky": [SKY] * self.channels, "origin": [10.5, 41.25],
        }  # fmt: skip

    def _thumbnail(self, k: int, placement: dict[str, Any]) -> np.ndarray:
        height, width = (side // CELL for side in placement["shape"])
        y, x = np.mgrid[:height, :width]
        x, y = x + placement["x0"], y + placement["y0"]
        scene = SKY + 60 * np.exp(-((x - 10) ** 2 + (y - 20) ** 2) / 900.0)
        noise = self.random.normal(0, 3, (self.channels, height, width))
        values = (scene + noise - self.offset[k, :, None, None]) / self.gain[k, :, None, None]
        return values.astype(np.float32)

    def _write_pairs(self, until: int | None) -> list[PairRecord]:
        records, jobs = [], []
        for number, (i, j) in enumerate(self.graph.pairs.tolist(), 1):
            measurements = tuple(self._measure(i, j, c, number) for c in range(self.channels))
            outcome, result, error = "measured", encode_measurements(measurements), None
            if all(isinstance(measurement, Rejected) for measurement in measurements):
                outcome = "rejected"
            elif self.faults and number % 1000 == 11:
                error = JobError("SIGSEGV", "the worker was killed by <SIGSEGV>")
                outcome, result = "crashed", None
                measurements = (Rejected(str(error)),) * self.channels
            attributes: dict[str, Any] = {
                "tile_i": i, "tile_j": j, "name_i": self.names[i], "name_j": self.names[j],
            }  # fmt: skip
            if isinstance(measurements[0], Rejected):
                attributes["reason"] = measurements[0].reason
            records.append(PairRecord(number, i, j, outcome, 0.1, measurements))
            jobs.append(SyntheticJob(attributes, result, error))
        self._write_jobs("pairs", jobs[:until], total=len(jobs), ends=until is None)
        return records

    def _measure(self, i: int, j: int, channel: int, number: int) -> Measurement:
        """Return a measurement whose noise follows its errors."""
        if self.faults and number % 97 == 3:
            return Rejected("only 12 common valid cells")
        gain, offset = self.gain[:, channel], self.offset[:, channel]
        gain_err, level_err = self.random.uniform(0.002, 0.01), self.random.uniform(0.05, 0.4)
        ratio = gain[i] / gain[j] * math.exp(self.random.normal(0, gain_err))
        scene = SKY + 50 * self.random.random()
        bad = self.faults and 5 in (i, j)
        level = self.random.normal(0, 40 if bad else self.level_scatter * level_err)
        x, y = (scene - offset[i]) / gain[i], (scene - offset[j]) / gain[j] + level
        measured = not (self.faults and number % 53 == 7)
        return pair_line(
            ratio if measured else 1.0, x, y, gain_err / ratio, level_err, measured=measured
        )

    def _write_jobs(
        self, stage: str, jobs: list[SyntheticJob], total: int | None = None, ends: bool = True
    ) -> None:
        """Write jobs in the order of their numbers; each takes the worker that is free first."""
        self._start_stage(stage, len(jobs) if total is None else total)
        free_ns = [self.now] * WORKERS
        for number, job in enumerate(jobs, 1):
            worker = int(np.argmin(free_ns))
            duration = int(self.random.gamma(4, 3) * 1e6) + 1_000_000
            if self.faults and stage == "pairs" and number == min(HANGING_JOB, len(jobs)):
                duration = HANG_NS
                self._write_alerts(job, number, free_ns[worker], len(jobs))
            self.dispatch(
                JobEnded(
                    stage=stage, index=number, done=number, total=total or len(jobs),
                    outcome=job.outcome, attributes=job.attributes, submitted_ns=free_ns[worker],
                    started_ns=free_ns[worker],
                    ended_ns=free_ns[worker] + duration - 200_000, pid=100 + worker,
                    error=job.error, step_times={"fit": duration / 1e9},
                    key=f"{stage}{number}" if job.result else "", result=job.result,
                )
            )  # fmt: skip
            free_ns[worker] += duration
        self.now = max(free_ns)
        if ends:
            self._end_stage(stage)

    def _write_alerts(self, job: SyntheticJob, number: int, start_ns: int, total: int) -> None:
        self.dispatch(
            SlowJob(stage="pairs", time_ns=start_ns + 10_000_000_000, index=number,
                    running_time=10.0, attributes=job.attributes, step="fit", stack=STACK)
        )  # fmt: skip
        self.dispatch(
            Heartbeat(stage="pairs", time_ns=start_ns + 11_000_000_000, done=total - 1,
                      total=total, pending=1, pending_indices=[number], running_indices=[number],
                      running_time=[11.0], running_attributes=[job.attributes],
                      last_completed_index=1, idle_time=10.0, running_steps=["fit"], stack=STACK,
                      timeout=300.0)
        )  # fmt: skip

    def _write_tables(self, records: list[PairRecord]) -> None:
        i, j = self.graph.pairs.T
        sky = (SKY - self.offset) / self.gain
        solution = solve(i, j, [r.measurements for r in records], sky, "gain+offset", None)
        phase = PhaseSolution(
            **vars(solution), settings=Settings(), names=tuple(self.names), failed={},
            records=tuple(records), candidates=len(records),
        )  # fmt: skip
        paths = RunFolder(self.folder)
        write_table(corrections_table(phase, Settings()), paths.corrections)
        write_table(pairs_table(phase, Settings()), paths.pairs)
