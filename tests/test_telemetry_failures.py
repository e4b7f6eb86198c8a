"""The trace of jobs that really raise, die and hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

from opentelemetry.trace import StatusCode

from tests.helpers.fakes import Gate
from tests.helpers.recorded_traces import (
    SECOND,
    Memory,
    check_all,
)
from zemosaic.observe.run_recorder import PHASE, Telemetry
from zemosaic.photometry.pairfit.measurement import Rejected
from zemosaic.pipeline.records import summarize_pair
from zemosaic.runtime.events import Heartbeat, RunEnded, RunStarted
from zemosaic.runtime.observers import FanOut, Observer
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.scheduler import Clock, Job, run
from zemosaic.runtime.thread_pool import ThreadPool


class PatientClock(Clock):
    """Fake time that passes only while `may_pass`; otherwise real jobs are waited for."""

    def __init__(self, may_pass: Callable[[Collection[Future[Any]]], bool]) -> None:
        self._may_pass = may_pass
        self._epoch = time.time_ns()
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self._epoch + int(self.now * SECOND)

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        while not (done := wait(futures, 0.001).done):
            if self._may_pass(futures):
                self.now += timeout
                break
        return done


def only_a_stuck_job_runs(futures: Collection[Future[Any]]) -> bool:
    """Return whether all jobs but one, which is running, have ended."""
    return len(futures) == 1 and all(future.running() for future in futures)


def traced_jobs(
    functions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], pool: Any, timeout: float
) -> Memory:
    """Run jobs as pairs on a pool and return their trace; one of them may hang."""
    memory, clock = Memory(), PatientClock(only_a_stuck_job_runs)
    fan_out = FanOut([Telemetry(memory.tracer)])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    jobs = [Job(k, function, args) for k, (function, args) in enumerate(functions, 1)]
    run(
        jobs,
        len(jobs),
        pool,
        fan_out,
        stage="pairs",
        timeout=timeout,
        heartbeat=1000.0,
        clock=clock,
        summarize=lambda value: (
            summarize_pair(value) if isinstance(value, tuple) else ("measured", {})
        ),
    )
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    return memory


def check_failures(memory: Memory, expected: Mapping[int, tuple[str, str | None]]) -> None:
    """Check the outcome, error type and status of every pair, and the counts."""
    pairs = memory.pairs()
    outcomes = {
        index: (span.attributes["zemosaic.pair.outcome"], span.attributes.get("error.type"))
        for index, span in pairs.items()
    }
    assert outcomes == expected
    for index, (_, error) in expected.items():
        status = StatusCode.ERROR if error else StatusCode.UNSET
        assert pairs[index].status.status_code is status
        assert [e.name for e in pairs[index].events] == (["exception"] if error else [])
    counts = memory.one(PHASE).attributes
    failed = sum(error is not None for _, error in expected.values())
    assert counts["zemosaic.pairs.done"] == len(expected)
    assert counts["zemosaic.pairs.failed"] == failed
    check_all(memory)


REJECTED = (tuple, ([Rejected("no signal in common")],))


def test_failures_in_processes_have_their_spans() -> None:
    """An exception, an exit, a signal and a hang are errors; other pairs are unaffected."""
    deadly, name = (os._exit, (3,)), "WorkerExit"
    if sys.platform != "win32":
        deadly, name = (signal.raise_signal, (signal.SIGKILL,)), "SIGKILL"
    pool = ProcessPool(2)
    try:
        memory = traced_jobs(
            [
                (time.sleep, (3600,)),
                (int, ("no number",)),
                (abs, (-1,)),
                (os._exit, (3,)),
                deadly,
                REJECTED,
                (abs, (-2,)),
            ],
            pool,
            timeout=30.0,
        )
    finally:
        pool.close()
    check_failures(
        memory,
        {
            1: ("timeout", "TimeoutError"),
            2: ("failed", "ValueError"),
            3: ("measured", None),
            4: ("crashed", "WorkerExit"),
            5: ("crashed", name),
            6: ("rejected", None),
            7: ("measured", None),
        },
    )
    pairs = memory.pairs()
    assert "no number" in pairs[2].events[0].attributes["exception.message"]
    assert "Traceback" in pairs[2].events[0].attributes["exception.stacktrace"]
    assert pairs[2].attributes["process.pid"] != os.getpid()
    assert pairs[6].attributes["zemosaic.pair.reason"] == "no signal in common"
    # The span of the stuck job has its running time, by the clock of the loop.
    assert 30.0 <= (pairs[1].end_time - pairs[1].start_time) / 1e9 <= 34.0
    assert memory.one(PHASE).attributes["zemosaic.pairs.rejected"] == 1


def test_failures_in_threads_have_their_spans() -> None:
    """An exception, an exit and a hang are errors; other pairs are unaffected."""
    gate, pool = Gate(), ThreadPool(2)
    try:
        memory = traced_jobs(
            [
                (gate.pass_through, ()),
                (int, ("no number",)),
                (sys.exit, (1,)),
                REJECTED,
                (abs, (1,)),
            ],
            pool,
            timeout=30.0,
        )
    finally:
        gate.open()
        pool.close()
    check_failures(
        memory,
        {
            1: ("timeout", "TimeoutError"),
            2: ("failed", "ValueError"),
            3: ("failed", "SystemExit"),
            4: ("rejected", None),
            5: ("measured", None),
        },
    )
    assert memory.pairs()[2].attributes["process.pid"] == os.getpid()


class Opener(Observer):
    """Opens a gate at the third heartbeat."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.beats = 0

    def heartbeat(self, event: Heartbeat) -> None:
        self.beats += 1
        if self.beats == 3:
            self._gate.open()


def stuck_run() -> Memory:
    """Run a hundred pairs on two threads: the first ends, the next two hang for 30 s."""
    memory, gate, pool = Memory(), Gate(), ThreadPool(2)
    entered = {2: threading.Event(), 3: threading.Event()}
    opener = Opener(gate)

    def stuck(index: int) -> None:
        entered[index].set()
        gate.pass_through()

    def first() -> None:
        entered[2].wait()  # so that pair 2 is seen running first

    def both_hang(_: Collection[Future[Any]]) -> bool:
        return opener.beats < 3 and all(event.is_set() for event in entered.values())

    functions = {1: (first, ()), 2: (stuck, (2,)), 3: (stuck, (3,))}
    jobs = [
        Job(k, *functions.get(k, (abs, (k,))), {"name_i": f"{k}.fits", "name_j": "x.fits"})
        for k in range(1, 101)
    ]
    clock = PatientClock(both_hang)
    fan_out = FanOut([Telemetry(memory.tracer), opener])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    try:
        run(jobs, 100, pool, fan_out, stage="pairs", heartbeat=10.0, clock=clock)
    finally:
        gate.open()
        pool.close()
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    return memory


def test_heartbeats_of_a_silent_pool_name_the_stuck_pairs() -> None:
    """While two of a hundred pairs hang, a heartbeat every ten seconds names them."""
    memory = stuck_run()
    beats = memory.events("heartbeat")
    assert [beat.attributes["zemosaic.idle_time"] for beat in beats] == [10.0, 20.0, 30.0]
    for beat in beats:
        attributes = beat.attributes
        assert attributes["zemosaic.pairs.done"] == 1
        assert attributes["zemosaic.pairs.total"] == 100
        assert attributes["zemosaic.pairs.pending"] == 99
        assert attributes["zemosaic.pairs.pending_indices"] == tuple(range(2, 66))
        assert attributes["zemosaic.pairs.running_indices"] == (2, 3)
        assert attributes["zemosaic.pairs.last_completed_index"] == 1
        for seconds in attributes["zemosaic.pairs.running_time"]:
            assert abs(seconds - attributes["zemosaic.idle_time"]) <= 2.0  # a tick
    assert len(memory.pairs()) == 100
    assert memory.one(PHASE).attributes["zemosaic.pairs.done"] == 100
    check_all(memory)


def test_slow_pairs_are_named_once_each() -> None:
    """A stuck pair is reported once, with its index and files."""
    memory = stuck_run()
    slow = memory.events("slow_pair")
    assert sorted(event.attributes["zemosaic.pair.index"] for event in slow) == [2, 3]
    for event in slow:
        index = event.attributes["zemosaic.pair.index"]
        assert event.attributes["zemosaic.pair.name_i"] == f"{index}.fits"
        assert event.attributes["zemosaic.pair.running_time"] >= 10.0
