"""The trace of a large mosaic: the 6,553 pairs of a real one of 197 tiles."""

from __future__ import annotations

import csv
import json
import os
import random
import uuid
from pathlib import Path

import pytest

from tests.e2e.jaeger import ROOT, Jaeger
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.observe.tracing import Tracing
from zemosaic.runtime.events import Event, JobEnded, RunEnded, RunStarted, StageEnded, StageStarted
from zemosaic.runtime.observers import FanOut

SHARED = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", ROOT.parent / "shared" / "data"))
GRAPH = SHARED / "graphs" / "zemosaic_m31_197_tiles_overlaps.csv"
TILES, WORKERS = 197, 8
START = 1_750_000_000_000_000_000

pytestmark = pytest.mark.skipif(
    not GRAPH.is_file(), reason=f"no graph in {GRAPH}; set ZEMOSAIC_SHARED_DATA"
)


class InventedRun:
    """Sends the events of a run on a given graph to observers, with invented times."""

    def __init__(self, observers: FanOut) -> None:
        self._observers = observers
        self._random = random.Random(1)
        self._free = [START] * WORKERS

    def run(self, pairs: list[tuple[int, int]]) -> None:
        """Send all events; one pair takes half a minute."""
        settings = {"tiles.total": TILES, "pool.kind": "processes", "pool.workers": WORKERS}
        self._send(RunStarted(run_id=uuid.uuid4().hex, time_ns=START, attributes=settings))
        tiles = [{"index": k, "name": f"tile_{k:04d}.fits"} for k in range(TILES)]
        self._stage("prepare")
        self._jobs("tiles", tiles, "preview", 0.8)
        self._stage_ends("prepare")
        self._jobs("pairs", [self._pair(i, j) for i, j in pairs], "fit", 0.03)
        self._stage("solve")
        self._stage_ends("solve", **{"solve.components": 1, "solve.rms": 0.31})
        self._send(RunEnded(state="finished", time_ns=max(self._free)))

    def _pair(self, i: int, j: int) -> dict[str, object]:
        names = {"name_i": f"tile_{i:04d}.fits", "name_j": f"tile_{j:04d}.fits"}
        line = {"gain": self._random.gauss(1, 0.05), "offset": self._random.gauss(0, 30)}
        return {"tile_i": i, "tile_j": j, **names, "cells": 1637, "rms": 0.02, **line}

    def _jobs(
        self, stage: str, attributes: list[dict[str, object]], step: str, mean: float
    ) -> None:
        self._send(StageStarted(stage=stage, time_ns=max(self._free), total=len(attributes)))
        for index, job in enumerate(attributes, 1):
            worker = self._free.index(min(self._free))
            seconds = 30.0 if stage == "pairs" and index == 4000 else self._random.gauss(1, 0.1)
            start = self._free[worker]
            self._free[worker] = start + int(1e9 * (seconds if seconds > 2 else seconds * mean))
            self._send(
                JobEnded(
                    stage=stage, index=index, done=index, total=len(attributes),
                    outcome="rejected" if index % 50 == 0 else "measured", attributes=job,
                    submitted_ns=start - 1_000_000, started_ns=start, ended_ns=self._free[worker],
                    pid=4711 + worker, step_times={step: seconds * mean},
                )
            )  # fmt: skip
        self._send(StageEnded(stage=stage, time_ns=max(self._free)))
        self._free = [max(self._free)] * WORKERS

    def _stage(self, stage: str) -> None:
        self._send(StageStarted(stage=stage, time_ns=max(self._free)))

    def _stage_ends(self, stage: str, **attributes: object) -> None:
        self._free = [max(self._free) + 200_000_000] * WORKERS
        self._send(StageEnded(stage=stage, time_ns=max(self._free), attributes=attributes))

    def _send(self, event: Event) -> None:
        self._observers.dispatch(event)


def test_a_trace_of_thousands_of_pairs_opens(jaeger: Jaeger, tmp_path: Path) -> None:
    """API and file have each of 6,553 pairs once, and the trace fits into a browser."""
    with GRAPH.open(newline="") as table:
        pairs = [(int(row["index_i"]), int(row["index_j"])) for row in csv.DictReader(table)]
    assert len(pairs) == 6553
    tracing = Tracing(tmp_path / "trace.jsonl", jaeger.otlp)
    telemetry = Telemetry(tracing.tracer)
    InventedRun(FanOut([telemetry])).run(pairs)
    assert tracing.close(timeout=60) == []

    trace = jaeger.trace(telemetry.trace_id)
    assert trace is not None
    indices = [
        (pair.attributes["zemosaic.pair.tile_i"], pair.attributes["zemosaic.pair.tile_j"])
        for pair in trace.named("phase5_intertile.pair")
    ]
    assert sorted(indices) == sorted(pairs)
    assert not trace.warnings
    assert len(json.dumps(trace.document)) < 20e6
    assert jaeger.uploaded(tmp_path / "trace.jsonl").plain() == trace.plain()
