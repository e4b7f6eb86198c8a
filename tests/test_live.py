"""Snapshots of a running phase: the newest is sent, none delays the run or follows its end."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.helpers.fakes import FakeClock, ManualPool, Recorder
from tests.helpers.otlp_receiver import http_receiver, plain
from zemosaic.observe.exporters import Tracing
from zemosaic.observe.live import SnapshotExporter
from zemosaic.observe.telemetry import PHASE, Telemetry
from zemosaic.runtime import journal
from zemosaic.runtime.events import FanOut, Heartbeat, RunEnded, RunStarted, StageStarted
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.scheduler import Job, run


class SlowExporter(SpanExporter):
    """Keeps snapshots; each export blocks until `release` is set."""

    def __init__(self) -> None:
        self.snapshots: list[ReadableSpan] = []
        self.started, self.release, self.closed = (threading.Event() for _ in range(3))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.started.set()
        assert self.release.wait(30)
        self.snapshots.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.closed.set()


@pytest.fixture
def tracing(tmp_path: Path) -> Any:
    tracing = Tracing(tmp_path / "trace.jsonl")
    yield tracing
    tracing.close()


def test_the_newest_state_is_sent_and_updates_never_block(tracing: Tracing) -> None:
    """A hundred updates during an export make one more snapshot, of the last state."""
    exporter = SlowExporter()
    snapshots = SnapshotExporter(exporter, interval=3600.0)
    span = tracing.tracer.start_span("phase")
    snapshots.update(span)
    assert exporter.started.wait(30)
    exporter.started.clear()
    for number in range(100):
        span.set_attribute("number", number)
        snapshots.update(span)  # returns at once, although the exporter blocks
    exporter.release.set()
    assert exporter.started.wait(30)
    snapshots.stop()
    assert exporter.closed.is_set()
    assert len(exporter.snapshots) == 2
    newest = exporter.snapshots[-1]
    assert (newest.attributes or {})["number"] == 99
    assert newest.context == span.get_span_context()
    assert span.is_recording()
    assert (newest.end_time or 0) >= (newest.start_time or 0) > 0
    snapshots.update(span)
    assert len(exporter.snapshots) == 2
    span.end()


def test_a_snapshot_is_sent_at_every_interval(tracing: Tracing) -> None:
    """The span is sent again without an update."""
    exporter = SlowExporter()
    exporter.release.set()
    snapshots = SnapshotExporter(exporter, interval=0.01)
    span = tracing.tracer.start_span("phase")
    snapshots.update(span)
    for _ in range(3):
        exporter.started.clear()
        assert exporter.started.wait(30)
    snapshots.stop()
    span.end()


def test_an_exporter_without_an_update_can_be_stopped() -> None:
    """There is no thread to wait for."""
    SnapshotExporter(SlowExporter()).stop()


def test_snapshots_are_never_in_the_file(tmp_path: Path) -> None:
    """The collector gets the phase as it stands; the file has it once, as it ended."""
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        telemetry = Telemetry(tracing.tracer, tracing.snapshot_exporter())
        telemetry.run_started(RunStarted(run_id="r", time_ns=1))
        while not received.spans:
            telemetry.stage_started(StageStarted(stage="pairs", time_ns=2))
        telemetry.run_ended(RunEnded(state="finished", time_ns=3))
        assert tracing.close(timeout=60) == []
        states = [plain(s.attributes)["zemosaic.run.state"] for s in received.spans]
        assert states == ["running", "finished"]
    assert (tmp_path / "trace.jsonl").read_text().count(f'"name":"{PHASE}"') == 1


DAY = 24 * 3600.0


class Day(FakeClock):
    """A clock for 24 hours without an ended job, which pass at once."""

    def __init__(self, pool: ManualPool) -> None:
        super().__init__()
        self.pool, self.started = pool, self.now
        self.memory: dict[int, int] = {}

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        self.now += timeout
        hour = int((self.now - self.started) // 3600)
        if hour not in self.memory:
            self.memory[hour] = tracemalloc.get_traced_memory()[0]
        if self.now - self.started >= DAY and self.pool.flying:
            self.pool.end(next(iter(self.pool.flying)))
        return {future for future in futures if future.done()}


def test_a_day_of_silence_is_bounded_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 24 hours of heartbeats memory, trace and journal are small."""
    monkeypatch.setattr(Journal, "sync", lambda journal: None)  # the disk is not tested here
    tracing, pool = Tracing(tmp_path / "trace.jsonl"), ManualPool(2)
    clock = Day(pool)
    table, writer = Inflight(tmp_path, pool.window, 0.0), Journal(tmp_path, {})
    fan_out = FanOut([writer, Telemetry(tracing.tracer)])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    tracemalloc.start()
    try:
        jobs = [Job(k, abs, (k,), {"name_i": "a.fits", "name_j": "b.fits"}) for k in range(1, 101)]
        run(jobs, 100, pool, fan_out, stage="pairs", clock=clock, inflight=table)
    finally:
        tracemalloc.stop()
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    writer.close()
    table.close("finished")
    assert tracing.close() == []
    assert set(range(24)) <= set(clock.memory)
    growth = clock.memory[23] - clock.memory[1]
    assert growth < 2_000_000, f"{growth / 1e6:.1f} MB in 22 hours"
    beats = [e for e in journal.read(tmp_path)[-1].events if isinstance(e, Heartbeat)]
    silent = [b for b in beats if b.done == 0]
    assert len(silent) == pytest.approx(DAY / 10, rel=0.01)
    assert max(len(b.pending_indices) for b in beats) == 64
    assert (tmp_path / "journal.jsonl").stat().st_size < 20_000_000


def test_a_heartbeat_names_64_jobs_at_most() -> None:
    """The limit holds if more jobs run at the same time."""
    pool, recorder = ManualPool(80), Recorder()

    def end_after_heartbeat(now: float) -> None:
        if recorder.of(Heartbeat) and pool.flying:
            pool.end(next(iter(pool.flying)))

    jobs = [Job(k, abs, (k,)) for k in range(1, 201)]
    run(jobs, 200, pool, FanOut([recorder]), stage="pairs", clock=FakeClock(end_after_heartbeat))
    beat = recorder.of(Heartbeat)[0]
    assert len(beat.pending_indices) == 64
    assert len(beat.running_indices) == len(beat.running_time) == 64
