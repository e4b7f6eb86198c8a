"""Run folders with invented contents: what pages are made of, without any run."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zemosaic.photometry.pairfit.measure import Measurement, PairMeasurement, Rejected
from zemosaic.photometry.solver.solve import solve
from zemosaic.pipeline.records import PairRecord, encode_measurements, save_thumbnails
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.pipeline.tables import corrections_table, pairs_table, write_table
from zemosaic.runtime.events import (
    FanOut,
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
from zemosaic.settings import Settings

CELL = 12  # pixels of a tile to a cell of the invented thumbnails
STACK = (
    "Thread 0x00007f0000000000 (most recent call first):\n"
    '  File "/opt/<b>astro</b>/regression.py", line 88 in solve_normal\n'
    '  File "/opt/astro/measure.py", line 211 in measure_pair'
)


def graph_of(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The real graph of 197 tiles: their centres (deg), sizes, and the 6,553 pairs."""
    with (folder / "zemosaic_m31_197_tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    centres = np.array([(float(r["center_x_deg"]), float(r["center_y_deg"])) for r in rows])
    sizes = np.array([(float(r["width_deg"]), float(r["height_deg"])) for r in rows])
    with (folder / "zemosaic_m31_197_tiles_overlaps.csv").open() as file:
        pairs = np.array([(int(r["index_i"]), int(r["index_j"])) for r in csv.DictReader(file)])
    return centres, sizes, pairs


def invented_graph(tiles: int, pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many tiles on a grid, and the pairs of those that are nearest to one another."""
    side = math.ceil(math.sqrt(tiles))
    k = np.arange(tiles)
    centres = np.stack([k % side, k // side], axis=1) * 0.15
    i, j = np.triu_indices(tiles, 1)
    near = np.argsort(np.hypot(*(centres[i] - centres[j]).T), kind="stable")[:pairs]
    return centres, np.full((tiles, 2), (0.44, 1.02)), np.stack([i, j], axis=1)[np.sort(near)]


class Invented:
    """A run of given tiles and pairs, whose every number is made up from a seed.

    Parameters
    ----------
    folder : pathlib.Path
        Becomes the run folder.
    centres, sizes : ndarray
        ``(T, 2)`` in degrees, east to the left.
    pairs : ndarray
        ``(P, 2)`` tile indices.
    names : list of str, optional
        Of the tiles.
    channels : int
        Colour planes.
    faults : bool
        A bad tile, pairs that fail, a pair that hangs, gains that cannot be measured.
    """

    def __init__(
        self, folder: Path, centres: np.ndarray, sizes: np.ndarray, pairs: np.ndarray,
        names: list[str] | None = None, channels: int = 1, faults: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.centres, self.sizes, self.pairs = folder, centres, sizes, pairs
        self.channels, self.faults = channels, faults
        count = len(centres)
        self.names = names or [f"tile_{k:04d}.fits" for k in range(count)]
        self.random = np.random.default_rng(7)
        self.gain = np.exp(self.random.normal(0, 0.08, (count, channels)))
        self.offset = self.random.normal(0, 80, (count, channels))
        self.understated = 1.0  # the levels scatter by so many of their errors
        self.now = 1_700_000_000_000_000_000
        folder.mkdir(parents=True, exist_ok=True)
        self.thumbnails: dict[int, np.ndarray] = {}

    def measurement(self, i: int, j: int, channel: int, number: int) -> Measurement:
        """What a pair of these tiles would have, with noise as its errors say."""
        if self.faults and number % 97 == 3:
            return Rejected("only 12 common valid cells")
        g, o = self.gain[:, channel], self.offset[:, channel]
        err, level_err = self.random.uniform(0.002, 0.01), self.random.uniform(0.05, 0.4)
        gain = g[i] / g[j] * math.exp(self.random.normal(0, err))
        scene = 1000 + 50 * self.random.random()
        bad = self.faults and 5 in (i, j)
        level = self.random.normal(0, 40 if bad else self.understated * level_err)
        x, y = (scene - o[i]) / g[i], (scene - o[j]) / g[j] + level
        measured = not (self.faults and number % 53 == 7)
        return PairMeasurement(
            gain if measured else 1.0, err if measured else math.nan, gain, 2 * err, y - gain * x,
            x, y, level_err, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), (1e-4, 0.0, 1e-4), 2000, 3.0, 0.99,
            measured,
        )  # fmt: skip

    def write(self, *, until: int | None = None, solved: bool = True) -> None:
        """Write journal, thumbnails and tables; pairs from `until` on never ended."""
        about: dict[str, Any] = {
            "version": "0", "python": "3", "host": "<b>host</b>", "cwd": "/data",
            "command": "zemosaic intertile '<script>alert(1)</script>.fits'",
            "settings": asdict(Settings()), "pool": "processes", "trace": {},
        }  # fmt: skip
        self.book = Journal(self.folder, about)
        self.dispatch = FanOut([self.book]).dispatch
        total = {"tiles.total": len(self.names), "pool.workers": 8}
        self.dispatch(RunStarted(run_id="1", time_ns=self.now, attributes=total))
        self._stage("prepare", 0)
        tiles = [{"index": k, "name": name} for k, name in enumerate(self.names)]
        self._jobs("scan", [(known, None, None) for known in tiles])
        places = [self._thumb(k) for k in range(len(self.names))]
        save_thumbnails(self.folder, self.thumbnails)
        self._jobs("tiles", list(zip(tiles, places, [None] * len(tiles), strict=True)))
        self._end("prepare")
        self._stage("overlap", 0)
        self._end("overlap")
        records = self._pairs(until)
        if until is None:
            self._stage("solve", 0)
            self._end("solve")
            state = "finished"
            self.dispatch(RunEnded(state=state, time_ns=self.now))
        self.book.close()
        if until is None and solved:
            self._solve(records)

    def _pairs(self, until: int | None) -> list[PairRecord]:
        records, jobs = [], []
        for number, (i, j) in enumerate(self.pairs.tolist(), 1):
            found = tuple(self.measurement(i, j, c, number) for c in range(self.channels))
            state, error = "measured", None
            if all(isinstance(m, Rejected) for m in found):
                state = "rejected"
            elif self.faults and number % 1000 == 11:
                state, error = "crashed", JobError("SIGSEGV", "the worker was killed by <SIGSEGV>")
                found = (Rejected(str(error)),) * self.channels
            known = {"tile_i": i, "tile_j": j, "name_i": self.names[i], "name_j": self.names[j]}
            if isinstance(found[0], Rejected):
                known["reason"] = found[0].reason
            records.append(PairRecord(number, i, j, state, 0.1, found))
            jobs.append((known, None if error else encode_measurements(found), error))
        self._jobs("pairs", jobs[:until], total=len(jobs), ends=until is None)
        return records

    def _stage(self, stage: str, total: int) -> None:
        self.now += 1_000_000
        self.dispatch(StageStarted(stage=stage, time_ns=self.now, total=total))

    def _end(self, stage: str) -> None:
        self.now += 40_000_000
        self.dispatch(StageEnded(stage=stage, time_ns=self.now))

    def _jobs(
        self, stage: str, jobs: list[Any], total: int | None = None, ends: bool = True
    ) -> None:
        total = len(jobs) if total is None else total
        self._stage(stage, total)
        free = [self.now] * 8
        for number, (known, result, error) in enumerate(jobs, 1):
            worker = int(np.argmin(free))
            start = free[worker]
            took = int(self.random.gamma(4, 3) * 1e6) + 1_000_000
            if self.faults and stage == "pairs" and number == min(300, len(jobs)):
                took = 12_000_000_000
                self._stuck(known, number, start, len(jobs))
            free[worker] = start + took
            outcome = "crashed" if error else "rejected" if "reason" in known else "measured"
            self.dispatch(
                JobEnded(
                    stage=stage, index=number, done=number, total=total,
                    outcome=outcome,
                    attributes=known, submitted_ns=start, started_ns=start,
                    ended_ns=free[worker] - 200_000, pid=100 + worker, error=error,
                    step_times={"fit": took / 1e9}, key=f"{stage}{number}" if result else "",
                    result=result,
                )
            )  # fmt: skip
        self.now = max(free)
        if ends:
            self._end(stage)

    def _stuck(self, known: dict[str, Any], number: int, start: int, total: int) -> None:
        self.dispatch(
            SlowJob(stage="pairs", time_ns=start + 10_000_000_000, index=number, running_time=10.0,
                    attributes=known, step="fit", stack=STACK)
        )  # fmt: skip
        self.dispatch(
            Heartbeat(stage="pairs", time_ns=start + 11_000_000_000, done=total - 1, total=total,
                      pending=1, pending_indices=[number], running_indices=[number],
                      running_time=[11.0], running_attributes=[known], last_completed_index=1,
                      idle_time=10.0, running_steps=["fit"], stack=STACK, timeout=300.0)
        )  # fmt: skip

    def _thumb(self, k: int) -> dict[str, Any]:
        """The tile's place on the grid, in the journal's form; its thumbnail is kept."""
        scale, pixel = 0.01, 0.01 / CELL
        cx, cy = self.centres[k] / scale
        w, h = (self.sizes[k] / scale).astype(int)
        x0, y0 = int(cx - w / 2), int(cy - h / 2)
        y, x = np.mgrid[y0 : y0 + h, x0 : x0 + w]
        scene = 1000 + 60 * np.exp(-((x - 10) ** 2 + (y - 20) ** 2) / 900.0)
        noise = self.random.normal(0, 3, (self.channels, h, w))
        values = (scene + noise - self.offset[k, :, None, None]) / self.gain[k, :, None, None]
        self.thumbnails[k] = values.astype(np.float32)
        jacobian = [[pixel / scale, 0.0], [0.0, pixel / scale]]
        return {
            "x0": x0, "y0": y0, "checksum": 0, "shape": [h * CELL, w * CELL], "scale": scale,
            "thumb": 1, "sky": [1000.0] * self.channels, "centre": [cx, cy], "jacobian": jacobian,
        }  # fmt: skip

    def _solve(self, records: list[PairRecord]) -> None:
        i, j = self.pairs[:, 0], self.pairs[:, 1]
        sky = (1000 - self.offset) / self.gain
        solved = solve(i, j, [r.measurements for r in records], sky, "gain+offset", None)
        solution = PhaseSolution(
            **vars(solved), settings=Settings(), names=tuple(self.names), failed={},
            records=tuple(records), candidates=len(records),
        )  # fmt: skip
        write_table(corrections_table(solution, Settings()), self.folder / "corrections.ecsv")
        write_table(pairs_table(solution, Settings()), self.folder / "pairs.ecsv")
