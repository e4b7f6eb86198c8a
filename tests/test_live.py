"""Snapshots of open spans: the newest state is sent, and none follows the end of its span."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fakes import FakeClock, ManualPool, Recorder
from tests.helpers.otlp_receiver import http_receiver, plain
from zemosaic.observe.run_recorder import PHASE, Telemetry
from zemosaic.observe.snapshots import LAST_SEEN, Snapshots
from zemosaic.observe.tracing import Tracing
from zemosaic.runtime import journal
from zemosaic.runtime.events import Heartbeat, RunEnded, RunStarted
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.scheduler import Job, run


@pytest.fixture
def tracing(tmp_path: Path) -> Any:
    tracing = Tracing(tmp_path / "trace.jsonl")
    yield tracing
    tracing.close()


class Seconds:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_open_spans_are_taken_as_they_stand(tracing: Tracing) -> None:
    """Ids and start are those of the span, the end is the present; an ended span is not taken."""
    clock = Seconds()
    snapshots = Snapshots(10.0, clock)
    span, ended = (tracing.tracer.start_span(name) for name in ("phase", "pair"))
    shown = {span: {"extra": 1}, ended: {}}
    snapshots.show(shown)
    ended.end()
    assert snapshots.take() == []  # no picture of a run that is younger than an interval
    clock.now = 10.0
    span.set_attribute("number", 99)
    (taken,) = snapshots.take()
    span.set_attribute("number", 100)
    attributes = dict(taken.attributes or {})
    assert attributes.pop(LAST_SEEN).endswith("Z")
    assert attributes == {"extra": 1, "number": 99}
    assert taken.context == span.get_span_context()
    assert span.is_recording()
    assert (taken.end_time or 0) >= (taken.start_time or 0) > 0
    assert snapshots.take() == []
    clock.now = 19.9
    assert snapshots.take() == []
    clock.now = 20.0
    shown[span] = {"extra": 2}
    (taken,) = snapshots.take()
    assert (taken.attributes or {})["extra"] == 2
    span.end()


def test_a_heartbeat_hastens_the_next_snapshot_but_not_the_first(tracing: Tracing) -> None:
    """No snapshot comes before the first interval has passed."""
    clock = Seconds()
    snapshots = Snapshots(10.0, clock)
    snapshots.show({tracing.tracer.start_span("phase"): {}})
    clock.now = 5.0
    snapshots.hurry()
    assert snapshots.take() == []
    clock.now = 10.0
    assert len(snapshots.take()) == 1
    clock.now = 12.0
    snapshots.hurry()
    assert len(snapshots.take()) == 1


def test_snapshots_are_never_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector gets the phase as it stands; the file has it once, as it ended."""
    monkeypatch.setattr("zemosaic.observe.tracing.OTLP_DELAY", 0.01)
    numbers: list[int] = []
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        tracing.on_delivered = numbers.extend
        telemetry = Telemetry(tracing.tracer, tracing.show_open_spans(0.01))
        telemetry.run_started(RunStarted(run_id="r", time_ns=1))
        while len(received.spans) < 2:
            time.sleep(0.01)
        assert numbers == []
        telemetry.run_ended(RunEnded(state="finished", time_ns=3))
        assert tracing.close(timeout=60) == []
        states = [plain(s.attributes)["zemosaic.run.state"] for s in received.spans]
        assert set(states[:-1]) == {"running"}
        assert states[-1] == "finished"
        assert len({span.span_id for span in received.spans}) == 1
    assert (tmp_path / "trace.jsonl").read_text().count(f'"name":"{PHASE}"') == 1
    assert numbers == [1]


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
