"""The scheduler: one outcome per job, a count that only rises, and no silence."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fakes import FakeClock, FarExecutor, FarPool, Gate, ManualPool, Recorder
from zemosaic.runtime.events import Heartbeat, JobEnded, JobRunning, Note, SlowJob
from zemosaic.runtime.executor_pool import ExecutorPool
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.make_pool import make_pool
from zemosaic.runtime.observers import FanOut, Observer
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.process_pool import WorkerLostError
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.runtime.watch import PENDING_NAMED, TICK
from zemosaic.runtime.window import Window
from zemosaic.runtime.worker import TaskResult, run_task


def double(x: int) -> int:
    return 2 * x


def fail(x: int) -> int:
    raise ValueError(f"no {x}")


def jobs_of(function: Any, n: int) -> list[Job]:
    return [Job(k, function, (k,), {"name": f"job {k}"}) for k in range(1, n + 1)]


def run_in_random_order(n: int, seed: int, bad: set[int]) -> tuple[list[Any], Recorder]:
    """Run n jobs whose futures end in random order; the ones in `bad` raise."""
    rng = random.Random(seed)
    pool, recorder = ManualPool(workers=4), Recorder()

    def end_one(now: float) -> None:
        pool.end(rng.choice(list(pool.flying)))

    jobs = [Job(k, fail if k in bad else double, (k,)) for k in range(1, n + 1)]
    clock = FakeClock(end_one)
    return run(jobs, n, pool, FanOut([recorder]), stage="pairs", clock=clock), recorder


@pytest.mark.parametrize("seed", range(5))
def test_progress_is_monotone_up_to_the_total(seed: int) -> None:
    """For jobs that end in any order, with or without errors, `done` counts from 1 to the total."""
    outcomes, recorder = run_in_random_order(60, seed, bad={3, 17, 60})
    ended = recorder.of(JobEnded)
    assert [event.done for event in ended] == list(range(1, 61))
    assert {event.total for event in ended} == {60}
    assert sorted(event.index for event in ended) == list(range(1, 61))
    assert [event.index for event in ended] != list(range(1, 61)), "the order was not random"
    assert {o.job.index for o in outcomes if o.state == "failed"} == {3, 17, 60}


def test_outcomes_come_in_the_order_of_the_jobs() -> None:
    """Outcomes are returned in the order of the jobs, in whatever order these end."""
    first, _ = run_in_random_order(40, 1, bad={5})
    second, _ = run_in_random_order(40, 2, bad={5})
    assert [o.job.index for o in first] == list(range(1, 41))
    assert [o.value for o in first] == [o.value for o in second]
    assert first[4].error is not None
    assert first[4].error.type == "ValueError"
    assert "no 5" in first[4].error.message
    assert "def fail" not in first[4].error.message


def test_the_window_limits_the_submitted_jobs() -> None:
    """A submitted job is about to run: no more are submitted than the window holds."""
    pool, largest = ManualPool(workers=3), 0

    def end_one(now: float) -> None:
        nonlocal largest
        largest = max(largest, len(pool.flying))
        pool.end(min(pool.flying))

    run(jobs_of(double, 50), 50, pool, FanOut(), stage="pairs", clock=FakeClock(end_one))
    assert largest == pool.window == 12


def test_no_heartbeat_while_jobs_end() -> None:
    """While jobs end in time there is no heartbeat, however long the stage takes."""
    pool, recorder = ManualPool(), Recorder()
    clock = FakeClock()

    def end_one_every_nine_seconds(now: float) -> None:
        clock.now += 9.0
        pool.end(min(pool.flying))

    clock.on_wait = end_one_every_nine_seconds
    run(jobs_of(double, 30), 30, pool, FanOut([recorder]), stage="pairs", clock=clock)
    assert clock.now > 1000 + 250
    assert not recorder.of(Heartbeat)


def test_silence_is_reported_every_ten_seconds() -> None:
    """A heartbeat after 10 s without an end, and every 10 s after it, names the running jobs."""
    pool, recorder = ManualPool(workers=2), Recorder()
    clock = FakeClock()
    started = clock.now

    def stall(now: float) -> None:
        if 2 in pool.flying:
            pool.end(2)  # the only job to end at once
        if now >= started + 47:
            for index in list(pool.flying):
                pool.end(index)

    clock.on_wait = stall
    run(jobs_of(double, 100), 100, pool, FanOut([recorder]), stage="pairs", clock=clock)
    beats = recorder.of(Heartbeat)
    times = [beat.time_ns / 1e9 - started for beat in beats]
    assert times == [10.0, 20.0, 30.0, 40.0]
    first = beats[0]
    assert (first.done, first.total, first.pending) == (1, 100, 99)
    assert first.last_completed_index == 2
    assert first.running_indices == [1, *range(3, 10)]
    assert first.pending_indices[:9] == [1, *range(3, 11)]
    assert len(first.pending_indices) == PENDING_NAMED
    assert first.running_time == [10.0] * 8
    assert [beat.idle_time for beat in beats] == times


def test_a_slow_job_is_reported_once_while_others_end() -> None:
    """A stuck job is reported once, even if others end and no heartbeat is due."""
    pool, recorder = ManualPool(workers=2), Recorder()
    clock = FakeClock()

    def end_all_but_the_first(now: float) -> None:
        clock.now += 1.0
        others = [index for index in pool.flying if index != 1]
        pool.end(min(others) if others else 1)

    clock.on_wait = end_all_but_the_first
    run(jobs_of(double, 40), 40, pool, FanOut([recorder]), stage="pairs", clock=clock)
    slow = recorder.of(SlowJob)
    assert [event.index for event in slow] == [1]
    assert slow[0].running_time >= 10.0
    assert slow[0].attributes == {"name": "job 1"}
    assert not recorder.of(Heartbeat)


def test_a_stuck_job_times_out_and_the_others_are_measured() -> None:
    """On real threads too, a time-out costs the stuck job only."""
    gate, recorder = Gate(), Recorder()
    pool = ThreadPool(2)
    jobs = [Job(1, gate.pass_through, ()), *(Job(k, double, (k,)) for k in range(2, 30))]
    outcomes = run(
        jobs, 29, pool, FanOut([recorder]), stage="pairs", timeout=60.0, clock=FakeClock()
    )
    assert [o.state for o in outcomes] == ["timeout"] + ["measured"] * 28
    assert outcomes[0].error is not None
    assert outcomes[0].error.type == "TimeoutError"
    assert recorder.of(JobEnded)[-1].done == 29
    # The pool still has two workers, because the stuck thread was replaced.
    both = [pool.submit(double, (k,)) for k in (1, 2)]
    assert [future.result(timeout=120).value for future in both] == [2, 4]
    gate.open()
    pool.close()


def test_an_executor_with_only_stuck_workers_ends_the_run() -> None:
    """The stuck workers of a foreign executor cannot be replaced: the other jobs fail by name."""
    gate = Gate()
    with ThreadPoolExecutor(2) as executor:
        pool = ExecutorPool(executor)
        jobs = [Job(k, gate.pass_through, ()) for k in range(1, 9)]
        outcomes = run(jobs, 8, pool, FanOut(), stage="pairs", timeout=30.0, clock=FakeClock())
        states = [outcome.state for outcome in outcomes]
        assert len(states) == 8
        assert states[:2] == ["timeout", "timeout"]
        assert set(states[2:]) == {"failed"}
        assert outcomes[-1].error is not None
        assert outcomes[-1].error.type == "NoWorkersLeft"
        gate.open()


class SilentExecutor(Executor):
    """Runs two calls at a time; its futures go from pending to done."""

    _max_workers = 2

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(self._max_workers)

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        silent: Future[Any] = Future()

        def end(loud: Future[Any]) -> None:
            if not silent.cancelled():
                silent.set_result(loud.result())

        self._threads.submit(function, *args, **options).add_done_callback(end)
        return silent

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


def test_jobs_whose_futures_never_run_are_watched() -> None:
    """They are named by heartbeats and as slow, and time out: as many as there are workers."""
    gate, recorder = Gate(), Recorder()
    with SilentExecutor() as executor:
        jobs = [*jobs_of(double, 4), *(Job(k, gate.pass_through, ()) for k in range(5, 9))]
        outcomes = run(
            jobs, 8, make_pool(executor), FanOut([recorder]), stage="pairs", timeout=30.0,
            clock=FakeClock(),
        )  # fmt: skip
        gate.open()
    assert [outcome.value for outcome in outcomes[:4]] == [2, 4, 6, 8]
    assert [outcome.state for outcome in outcomes[4:]] == ["timeout", "timeout", "failed", "failed"]
    assert {tuple(beat.running_indices) for beat in recorder.of(Heartbeat)} == {(5, 6)}
    assert {event.index for event in recorder.of(SlowJob)} == {5, 6}
    assert outcomes[-1].error is not None
    assert outcomes[-1].error.type == "NoWorkersLeft"


def test_a_silent_future_times_out_from_when_a_worker_was_free() -> None:
    """One stuck job holds up no other: those after it run on the worker that is left."""
    gate = Gate()
    with SilentExecutor() as executor:
        jobs = [Job(1, gate.pass_through, ()), *(Job(k, double, (k,)) for k in range(2, 40))]
        outcomes = run(
            jobs, 39, make_pool(executor), FanOut(), stage="pairs", timeout=30.0,
            clock=FakeClock(),
        )  # fmt: skip
        gate.open()
    assert [outcome.state for outcome in outcomes] == ["timeout"] + ["measured"] * 38


def test_an_unknown_executor_that_marks_its_futures_is_believed() -> None:
    """Once one future has run, those that still wait are not presumed to."""
    pool = ManualPool(workers=4)
    pool.marks_running = False
    window = Window(pool, "pairs", FakeClock(), None)
    batches = [window.prepare([job]) for job in jobs_of(double, 2)]
    for batch in batches:
        window.submit(batch)
    waiting = next(reversed(window._batches))
    waiting._state = "PENDING"
    window.update_running()
    assert [batch.running_since for batch in batches] == [1000.0, None]


def nap(_: int) -> None:
    time.sleep(0.01)


@pytest.mark.parametrize("offset", [0.0, 3600.0, 3599.7, 3600.3])
@pytest.mark.parametrize("shift", [3600.0, -3600.0])
def test_jobs_of_another_machine_have_times_of_the_run(shift: float, offset: float) -> None:
    """With any clock, whose offset is not known, exact or not: between submission and result."""
    recorder, offset = Recorder(), offset if shift > 0 else -offset
    jobs = [*jobs_of(double, 200), *(Job(k, nap, (k,)) for k in range(201, 221))]
    with FarExecutor(shift) as executor:
        pool = FarPool(executor, offset)
        before = time.time_ns()
        run(jobs, 220, pool, FanOut([recorder]), stage="pairs")
        after = time.time_ns()
    ended = recorder.of(JobEnded)
    for event in ended:
        assert before <= event.submitted_ns <= event.started_ns <= event.ended_ns <= after
        assert (event.host, event.clock_offset) == ("far", offset)
    naps = [event.ended_ns - event.started_ns for event in ended if event.index > 200]
    assert min(naps) >= 9_000_000
    # A batch is shifted as a whole.
    assert len({event.submitted_ns for event in ended}) < 150
    assert len({event.started_ns for event in ended}) > 200


def test_a_dead_worker_of_another_machine_has_its_name() -> None:
    """A job that lost its worker has no result, and its pool knows the machine."""

    class Lost(FarPool):
        def submit(self, function: Any, args: Any) -> Future[TaskResult]:
            future: Future[TaskResult] = Future()
            future.set_exception(WorkerLostError(-9))
            return future

    recorder = Recorder()
    with FarExecutor(0.0) as executor:
        run(jobs_of(double, 1), 1, Lost(executor, 5.0), FanOut([recorder]), stage="pairs")
    (event,) = recorder.of(JobEnded)
    assert (event.outcome, event.host, event.clock_offset) == ("crashed", "far", 5.0)
    assert event.submitted_ns <= event.started_ns <= event.ended_ns


def test_a_running_job_of_another_machine_has_its_name() -> None:
    """So its open span names the machine before it ends."""
    gate, recorder = Gate(), Recorder()
    clock = FakeClock(lambda now: gate.open() if now > 1030.0 else None)
    with FarExecutor(0.0) as executor:
        job = Job(1, gate.pass_through, ())
        run([job], 1, FarPool(executor, 0.0), FanOut([recorder]), stage="pairs", clock=clock)
    assert {event.host for event in recorder.of(JobRunning)} == {"far"}


def test_an_exception_of_the_pool_is_an_outcome() -> None:
    """A future without a result fails its job, and the loop continues."""

    class BrokenOnce(SerialPool):
        broken = False

        def submit(self, function: Any, args: tuple[Any, ...]) -> Future[Any]:
            if not self.broken:
                self.broken = True
                future: Future[Any] = Future()
                future.set_exception(OSError("the pipe is gone"))
                return future
            return super().submit(function, args)

    outcomes = run(jobs_of(double, 3), 3, BrokenOnce(), FanOut(), stage="pairs")
    assert [outcome.state for outcome in outcomes] == ["failed", "measured", "measured"]
    assert str(outcomes[0].error) == "OSError: the pipe is gone"


def test_an_observer_that_raises_is_removed_and_reported_once() -> None:
    """It changes no outcome, and the other observers receive all events."""

    class Bad(Observer):
        def job_ended(self, event: JobEnded) -> None:
            raise RuntimeError("window closed")

    recorder = Recorder()
    observers = FanOut([Bad(), recorder])
    outcomes = run(jobs_of(double, 5), 5, SerialPool(), observers, stage="pairs")
    assert [outcome.value for outcome in outcomes] == [2, 4, 6, 8, 10]
    assert len(recorder.of(JobEnded)) == 5
    assert [note.message for note in recorder.of(Note)] == [
        "Bad failed (RuntimeError: window closed) and was taken off"
    ]


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_all_pools_return_the_same_results(kind: str) -> None:
    """Values, errors and the worker's own times are the same from every kind of pool."""
    recorder = Recorder()
    pool = make_pool(kind, 2)
    try:
        jobs = [*jobs_of(double, 20), Job(21, fail, (21,))]
        outcomes = run(jobs, 21, pool, FanOut([recorder]), stage="pairs")
    finally:
        pool.close()
    assert [outcome.value for outcome in outcomes[:20]] == [2 * k for k in range(1, 21)]
    assert outcomes[20].state == "failed"
    assert outcomes[20].error is not None
    assert "in fail" in outcomes[20].error.traceback
    for event in recorder.of(JobEnded):
        assert event.submitted_ns <= event.started_ns <= event.ended_ns
        assert event.pid > 0


def test_a_stage_without_jobs_ends_at_once() -> None:
    """Without jobs there is nothing to wait for."""
    clock = FakeClock()
    assert run([], 0, ManualPool(), FanOut(), stage="pairs", clock=clock) == []
    assert clock.now < 1000 + TICK


class Instant(Pool):
    """Runs its tasks when they are submitted; by its clock they take no time."""

    kind, workers, max_batch = "instant", 1, 8

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        result = run_task(function, args)
        if isinstance(result.value, list):
            values = [replace(value, ended_ns=value.started_ns) for value in result.value]
            result = replace(result, value=values)
        future: Future[TaskResult] = Future()
        future.set_result(replace(result, ended_ns=result.started_ns))
        return future


def test_jobs_below_the_resolution_of_the_clock_are_measured() -> None:
    """As on Windows, whose clock has steps of 100 ns."""
    outcomes = run(
        [Job(k, pow, (k, 2)) for k in range(1, 101)], 100, Instant(), FanOut(), stage="x"
    )
    assert [o.value for o in outcomes] == [k * k for k in range(1, 101)]


def test_jobs_are_not_recalled_behind_one_that_has_ended(tmp_path: Path) -> None:
    """If the worker has gone on, the new job counts from now, and only it stays with the worker."""
    clock = FakeClock()
    table = Inflight(tmp_path, 1, 0.0)
    window = Window(ManualPool(1), "pairs", clock, table)
    batch = window.prepare(jobs_of(double, 4))
    window.submit(batch)
    assert batch.slot is not None
    batch.slot.start(2)
    window.update_running()
    batch.slot.start(3)
    clock.now += 5.0
    assert window.recall(clock.now, 2.0) == []
    assert batch.current_job.index == 3
    clock.now += 2.0
    assert [job.index for job in window.recall(clock.now, 2.0)] == [1, 2, 4]
    table.close("finished")


class MovingFuture(Future[TaskResult]):
    """Runs or waits as the test sets it, like a task that moves from a dead worker to another."""

    is_running = True

    def running(self) -> bool:
        return self.is_running


def test_a_job_that_has_lost_its_worker_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its running time starts anew at the next worker, so it does not time out for the first."""
    clock, pool, future = FakeClock(), ManualPool(), MovingFuture()
    monkeypatch.setattr(pool, "submit", lambda *_: future)
    window = Window(pool, "pairs", clock, None)
    batch = window.prepare([Job(1, int, ())])
    window.submit(batch)
    for is_running, seconds in [(True, 50.0), (False, 0.0), (True, 50.0)]:
        future.is_running = is_running
        window.update_running()
        clock.now += 50.0
        assert batch.running_time(clock.now) == seconds
        assert list(window.overdue(clock.now, 40.0)) == ([future] if is_running else [])
