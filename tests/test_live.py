"""A phase that has not ended is shown: newest wins, nothing waits for it, nothing comes after."""

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


class Film(SpanExporter):
    """Keeps pictures; the first one takes until it is let go."""

    def __init__(self) -> None:
        self.pictures: list[ReadableSpan] = []
        self.begun, self.go_on, self.closed = (threading.Event() for _ in range(3))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        assert self.go_on.wait(30)
        self.pictures.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.closed.set()


@pytest.fixture
def tracing(tmp_path: Path) -> Any:
    made = Tracing(tmp_path / "trace.jsonl")
    yield made
    made.close()


def test_the_newest_wins_and_nothing_waits(tracing: Tracing) -> None:
    """While a picture is under way a hundred more are asked for: one is made, of the last state."""
    film = Film()
    pictures = SnapshotExporter(film, every=3600.0)
    span = tracing.tracer.start_span("phase")
    pictures.show(span)
    assert film.begun.wait(30)
    film.begun.clear()
    for number in range(100):
        span.set_attribute("number", number)
        pictures.show(span)  # returns at once, though the exporter stands still
    film.go_on.set()
    assert film.begun.wait(30)
    pictures.stop()
    assert film.closed.is_set()
    assert len(film.pictures) == 2
    newest = film.pictures[-1]
    assert (newest.attributes or {})["number"] == 99
    assert newest.context == span.get_span_context()
    assert span.is_recording()
    assert (newest.end_time or 0) >= (newest.start_time or 0) > 0
    pictures.show(span)
    assert len(film.pictures) == 2
    span.end()


def test_a_picture_that_is_asked_for_by_nobody_is_made_from_time_to_time(tracing: Tracing) -> None:
    """The span is shown again also where no heartbeat comes."""
    film = Film()
    film.go_on.set()
    pictures = SnapshotExporter(film, every=0.01)
    span = tracing.tracer.start_span("phase")
    pictures.show(span)
    for _ in range(3):
        film.begun.clear()
        assert film.begun.wait(30)
    pictures.stop()
    span.end()


def test_a_run_that_was_never_shown_can_be_stopped() -> None:
    """Without a start there is no thread to wait for."""
    SnapshotExporter(Film()).stop()


def test_pictures_are_never_in_the_file(tmp_path: Path) -> None:
    """The collector has the phase as it was; the file has it once, as it ended."""
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        live = tracing.live()
        telemetry = Telemetry(tracing.tracer, live)
        telemetry.run_started(RunStarted(run_id="r", time_ns=1))
        while not received.spans:
            telemetry.stage_started(StageStarted(stage="pairs", time_ns=2))
        telemetry.run_ended(RunEnded(state="finished", time_ns=3))
        assert tracing.close() == []
        states = [plain(s.attributes)["zemosaic.run.state"] for s in received.spans]
        assert states == ["running", "finished"]
    assert (tmp_path / "trace.jsonl").read_text().count(f'"name":"{PHASE}"') == 1


DAY = 24 * 3600.0


class Day(FakeClock):
    """A day and night in which nothing ends, without any real waiting."""

    def __init__(self, pool: ManualPool) -> None:
        super().__init__()
        self.pool, self.begun = pool, self.now
        self.memory: dict[int, int] = {}

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        self.now += timeout
        hour = int((self.now - self.begun) // 3600)
        if hour not in self.memory:
            self.memory[hour] = tracemalloc.get_traced_memory()[0]
        if self.now - self.begun >= DAY and self.pool.flying:
            self.pool.end(next(iter(self.pool.flying)))
        return {future for future in futures if future.done()}


def test_a_day_of_silence_is_bounded_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scheduler, telemetry and journal for 24 hours: the first and newest beats are kept."""
    monkeypatch.setattr(Journal, "sync", lambda book: None)  # no disk is tried here
    tracing, pool = Tracing(tmp_path / "trace.jsonl"), ManualPool(2)
    clock = Day(pool)
    table, book = Inflight(tmp_path, pool.window, 0.0), Journal(tmp_path, {})
    fan_out = FanOut([book, Telemetry(tracing.tracer)])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    tracemalloc.start()
    try:
        jobs = [Job(k, abs, (k,), {"name_i": "a.fits", "name_j": "b.fits"}) for k in range(1, 101)]
        run(jobs, 100, pool, fan_out, stage="pairs", clock=clock, inflight=table)
    finally:
        tracemalloc.stop()
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    book.close()
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
    """Also where more than that run at once."""
    pool, recorder = ManualPool(80), Recorder()

    def let_go(now: float) -> None:
        if recorder.of(Heartbeat) and pool.flying:
            pool.end(next(iter(pool.flying)))

    jobs = [Job(k, abs, (k,)) for k in range(1, 201)]
    run(jobs, 200, pool, FanOut([recorder]), stage="pairs", clock=FakeClock(let_go))
    beat = recorder.of(Heartbeat)[0]
    assert len(beat.pending_indices) == 64
    assert len(beat.running_indices) == len(beat.running_time) == 64
