"""`zemosaic.watch`: the watch of our own stages, for a loop of somebody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import zemosaic
from tests.helpers.environment import remove_proxies
from tests.helpers.fakes import Recorder
from tests.helpers.otlp_receiver import http_receiver, plain
from zemosaic.cli.resend import send_missing_spans
from zemosaic.errors import UserError
from zemosaic.observe.autopsy import examine
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.runtime.events import JobEnded, JobRunning, RunEnded, RunStarted
from zemosaic.runtime.observers import Observer

HEARTBEAT = 0.05  # seconds: the promises below hold for any


class Callback:
    """A progress callback that records its calls, and sets an event at the first heartbeat."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.heartbeat = threading.Event()

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)
        if "Heartbeat" in str(args[0]):
            self.heartbeat.set()

    def lines(self, text: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if text in str(call[0])]


def square(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number * number


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_results_are_the_owners_and_progress_is_monotone(
    executor: Callable[[int], Executor],
) -> None:
    """Every future comes once, also one that failed; the count rises by one to the total."""
    callback, recorder = Callback(), Recorder()
    with executor(2) as pool:
        futures = {pool.submit(square, k): k for k in range(8)}
        with zemosaic.watch("phase9", progress=callback, observers=[recorder]) as watcher:
            ended = [futures[future] for future in watcher.as_completed(futures)]
            assert watcher.pending == []
    assert sorted(ended) == list(range(8))
    progress = [call[1:] for call in callback.calls if call[0] == "phase9"]
    assert progress == [(k, 8) for k in range(1, 9)]
    assert [call[2] for call in callback.lines("Future failed idx=3: ValueError: three")] == [
        "ERROR"
    ]
    events = recorder.of(JobEnded)
    assert sorted(event.attributes["name"] for event in events) == [str(k) for k in range(8)]
    assert all(event.started_ns <= event.ended_ns for event in events)
    assert [event.state for event in recorder.of(RunEnded)] == ["finished"]


def test_a_stuck_future_is_named_with_its_stack() -> None:
    """Running futures come first, by their labels, with the line where the oldest stands."""
    callback = Callback()

    def wait_for_the_heartbeat() -> None:
        callback.heartbeat.wait(60)

    with (
        ThreadPoolExecutor(1) as pool,
        zemosaic.watch("phase9", progress=callback, heartbeat=HEARTBEAT) as watcher,
    ):
        futures = {pool.submit(wait_for_the_heartbeat): "stuck", pool.submit(square, 2): "waits"}
        list(watcher.as_completed(futures))
    line, _, level = callback.lines("Heartbeat: done=0/2 pending=2")[0]
    assert level == "WARN"
    assert "sample_pending_idx=['stuck', 'waits']" in line
    assert any("stuck: for" in line and "in wait" in line for line, *_ in callback.calls)


def test_a_loop_without_futures_is_watched() -> None:
    """The items come as they are; while the loop is stuck at one, heartbeats name it."""
    callback = Callback()
    seen = []
    for item in zemosaic.watched(["a", "b"], "phase9", progress=callback, heartbeat=HEARTBEAT):
        seen.append(item)
        if item == "b":
            callback.heartbeat.wait(60)
    assert seen == ["a", "b"]
    assert "done=1/2 pending=1 last_completed_idx=a" in callback.lines("Heartbeat")[0][0]
    assert [call[1:] for call in callback.calls if call[0] == "phase9"] == [(1, 2), (2, 2)]


def test_an_end_is_recorded_while_the_loop_is_stuck() -> None:
    """The end of a fast item waits for others to be recorded with it, but not for the next one."""
    done = threading.Event()

    class WaitForTheSecond(Observer):
        def job_ended(self, event: JobEnded) -> None:
            if event.done == 2:
                done.set()

    observers = [WaitForTheSecond()]
    for item in zemosaic.watched(range(3), "phase9", observers=observers, heartbeat=HEARTBEAT):
        assert item < 2 or done.wait(60)


def test_progress_comes_before_that_of_the_loop() -> None:
    """A loop that reports its own count to the same callback reports no lower one."""
    callback = Callback()
    with ThreadPoolExecutor(2) as pool, zemosaic.watch("phase9", progress=callback) as watcher:
        futures = {pool.submit(square, k): k for k in range(20, 40)}
        for count, _ in enumerate(watcher.as_completed(futures), 1):
            callback("phase9", count, len(futures))
    counts = [call[1] for call in callback.calls if call[0] == "phase9"]
    assert counts == sorted(counts)


def test_a_break_ends_the_watch(tmp_path: Path) -> None:
    """After a break the run has ended, and the thread of the watch with it."""
    recorder = Recorder()
    loop = zemosaic.watched(range(5), "phase9", folder=tmp_path, observers=[recorder])
    for item in loop:
        if item == 1:
            break
    loop.close()  # type: ignore[attr-defined]
    assert len(recorder.of(RunEnded)) == len(recorder.of(RunStarted)) == 1
    assert not [t for t in threading.enumerate() if t.name == "zemosaic-watch"]
    assert examine(tmp_path).state == "finished"


def test_a_loop_that_raises_has_failed(tmp_path: Path) -> None:
    """The exception passes, and the journal has it."""
    with pytest.raises(ZeroDivisionError), zemosaic.watch("phase9", folder=tmp_path):
        1 / 0  # noqa: B018
    assert examine(tmp_path).state == "failed"


def test_the_spans_have_the_names_of_the_phase() -> None:
    """A span for the phase, and below it one for each future, at its times."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider.get_tracer("test"), name="phase9")
    with (
        ThreadPoolExecutor(2) as pool,
        zemosaic.watch("phase9", observers=[telemetry]) as watcher,
    ):
        list(watcher.as_completed({pool.submit(square, k): f"item {k}" for k in range(3)}))
    *futures, phase = exporter.get_finished_spans()
    assert phase.name == "phase9"
    assert {span.name for span in futures} == {"phase9.future"}
    assert {span.parent.span_id for span in futures} == {phase.context.span_id}
    names = {span.attributes["zemosaic.future.name"] for span in futures}
    assert names == {"item 0", "item 1", "item 2"}


@contextmanager
def application_spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Set a tracer provider as an application does, and yield its exporter."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def stuck_loop(callback: Callback, ended: Callable[[], bool], **options: Any) -> None:
    """Watch a loop whose future runs until a condition holds."""

    def wait() -> None:
        while not ended():
            time.sleep(0.01)

    with (
        ThreadPoolExecutor(1) as pool,
        zemosaic.watch("phase9", progress=callback, heartbeat=HEARTBEAT, **options) as watcher,
    ):
        list(watcher.as_completed({pool.submit(wait): "stuck.fits"}))


def test_a_stuck_future_is_marked_in_the_trace_of_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it ends, a child span with its name and stack is exported; so is a heartbeat."""
    markers = {"phase9.running", "phase9.heartbeat"}
    with application_spans(monkeypatch) as exporter:
        stuck_loop(
            Callback(), lambda: markers <= {span.name for span in exporter.get_finished_spans()}
        )
        spans = {span.name: span for span in exporter.get_finished_spans()}
    marker = spans["phase9.running"]
    assert marker.attributes["zemosaic.future.name"] == "stuck.fits"
    assert "in wait" in marker.attributes["code.stacktrace"]
    assert marker.parent.span_id == spans["phase9.future"].context.span_id
    assert spans["phase9.heartbeat"].parent.span_id == spans["phase9"].context.span_id


def test_live_off_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans are those of the phase and of the futures."""
    callback = Callback()
    with application_spans(monkeypatch) as exporter:
        stuck_loop(callback, callback.heartbeat.is_set, live="off")
        assert {s.name for s in exporter.get_finished_spans()} == {"phase9", "phase9.future"}
    with pytest.raises(UserError, match="live is 'on'"), zemosaic.watch("phase9", live="on"):
        pass


@pytest.mark.parametrize("live", ["snapshot", "marker"])
def test_a_stuck_future_is_seen_in_the_collector(
    live: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With an endpoint it is shown as our own pairs are, and the journal knows what arrived."""
    remove_proxies(monkeypatch)
    monkeypatch.setattr("zemosaic.observe.tracing.OTLP_DELAY", 0.01)
    shown = {"snapshot": "phase9.future", "marker": "phase9.running"}[live]
    with http_receiver() as (url, received):

        def pending() -> list[dict[str, Any]]:
            return [plain(s.attributes) for s in received.spans if s.name == shown]

        callback = Callback()
        stuck_loop(callback, lambda: bool(pending()), otlp=url, live=live, folder=tmp_path)
        picture = pending()[0]
        ids = {s.span_id for s in received.spans if s.name == "phase9.future"}
    assert picture["zemosaic.future.name"] == "stuck.fits"
    assert "in wait" in picture["code.stacktrace"]
    assert len(ids) == 1
    assert not callback.lines("could not be delivered")
    assert examine(tmp_path).record.delivered
    assert b'"name":"phase9.future"' in (tmp_path / "trace.jsonl").read_bytes()


class DaskFuture:
    """A future as Dask has it, which does not show whether it runs."""

    def __init__(self, key: str, client: Any) -> None:
        self.key, self.client, self.status = key, client, "pending"
        self._callbacks: list[Callable[[Any], None]] = []

    def done(self) -> bool:
        return self.status != "pending"

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def finish(self) -> None:
        self.status = "finished"
        for callback in self._callbacks:
            callback(self)


class DaskClient:
    """A client of a scheduler that has given one task to a worker, once it is there."""

    def __init__(self, task: str) -> None:
        self.scheduler, self._task, self.calls = self, task, 0

    def processing(self, workers: None) -> dict[str, tuple[str, ...]]:
        self.calls += 1
        if self.calls == 1:
            raise OSError("the scheduler is away")
        return {"worker": (self._task,), "idle": ()}

    def sync(self, function: Callable[..., Any], callback_timeout: float, **options: Any) -> Any:
        assert callback_timeout > 0
        return function(**options)


def test_the_scheduler_of_dask_knows_what_runs() -> None:
    """Its running future comes first in heartbeats, with its time; one that waits has none."""
    callback, client = Callback(), DaskClient("second")
    waits, runs = DaskFuture("first", client), DaskFuture("second", client)

    class FinishBoth(Observer):
        def job_running(self, event: JobRunning) -> None:
            assert event.attributes["name"] == "runs"
            if callback.heartbeat.is_set():
                runs.finish()
                waits.finish()

    observers = [FinishBoth()]
    with zemosaic.watch(
        "phase9", progress=callback, heartbeat=HEARTBEAT, observers=observers
    ) as watcher:
        assert list(watcher.as_completed({waits: "waits", runs: "runs"})) == [runs, waits]
    assert any("sample_pending_idx=['runs', 'waits']" in line for line, *_ in callback.calls)
    assert any("  runs: for " in line for line, *_ in callback.calls)
    assert not any("  waits: for " in line for line, *_ in callback.calls)


PROGRAM = """
import sys, time
import zemosaic
from concurrent.futures import ThreadPoolExecutor

def stuck_here():
    time.sleep(600)

def report(*args):
    if "Heartbeat" in str(args[0]):
        print("heartbeat", flush=True)

pool = ThreadPoolExecutor(1)
with zemosaic.watch("phase9", progress=report, folder=sys.argv[1], heartbeat=0.2) as watcher:
    list(watcher.as_completed({pool.submit(stuck_here): "pair 348"}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_the_autopsy_of_a_killed_loop_names_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the future that ran, for how long and where it stood, and sends its span."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "heartbeat\n"
        assert examine(tmp_path).state == "running"
        os.kill(process.pid, signal.SIGKILL)
    autopsy = examine(tmp_path)
    assert autopsy.state == "died"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_receiver() as (url, received):
        for _ in range(2):  # under the same ids
            send_missing_spans(autopsy, url)
        spans = {span.name: span for span in received.spans}
        assert {span.trace_id for span in received.spans} == {spans["phase9"].trace_id}
    assert plain(spans["phase9"].attributes)["zemosaic.run.state"] == "died"
    assert plain(spans["phase9.future"].attributes)["zemosaic.future.name"] == "pair 348"
    assert [job.attributes["name"] for job in autopsy.running_jobs] == ["pair 348"]
    assert "stuck_here" in autopsy.running_jobs[0].stack


def test_a_folder_of_the_call_is_removed_after_success() -> None:
    """The first line names it; nothing of it stays."""
    callback = Callback()
    with ThreadPoolExecutor(1) as pool, zemosaic.watch("phase9", progress=callback) as watcher:
        folder = Path(callback.calls[0][0].partition("run folder ")[2].partition(";")[0])
        assert folder.is_dir()
        list(watcher.as_completed([pool.submit(time.sleep, 0)]))
    assert not folder.exists()
