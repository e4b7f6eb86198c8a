"""Pools of workers behind one interface: processes, threads, none, or somebody's executor.

`Pool.submit` gives a future whose result is a `Report` in the worker's own times, also when the
job raised. `Pool.give_up` ends a job that is stuck, as far as that can be done: a process is
killed and replaced, a thread is left behind and replaced, a foreign executor's worker is lost.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from zemosaic.runtime.events import JobError
from zemosaic.runtime.inflight import Seat

KINDS = ("processes", "threads", "serial")

_local = threading.local()


@dataclass(frozen=True)
class Report:
    """What a worker says of a job it ended."""

    value: Any
    error: JobError | None
    started_ns: int
    ended_ns: int
    pid: int
    stages: dict[str, float] = field(default_factory=dict)


def perform(function: Callable[..., Any], args: tuple[Any, ...]) -> Report:
    """Run a job in a worker; whatever it raises becomes part of the report."""
    stages: dict[str, float] = {}
    _local.stages = stages
    value, error = None, None
    started = time.time_ns()
    clock = time.perf_counter_ns()
    try:
        value = function(*args)
    except BaseException as raised:  # noqa: BLE001 - SystemExit must not end a worker either
        error = JobError.of(raised)
    # The end from a clock that is never set back, so that no span ends before it starts.
    ended = started + time.perf_counter_ns() - clock
    return Report(value, error, started, ended, os.getpid(), stages)


def seated(seat: Seat, index: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a job that has a row in the table of those under way."""
    _local.seat = seat
    seat.take(index)
    try:
        return function(*args)
    finally:
        seat.leave()
        _local.seat = None


def together(
    seat: Seat | None, calls: Sequence[tuple[int, Callable[..., Any], tuple[Any, ...]]]
) -> list[Report]:
    """Run several jobs in a worker, one after the other; all have one row, if any."""
    if seat is None:
        return [perform(function, args) for _, function, args in calls]
    _local.seat = seat
    try:
        return [_next(seat, *call) for call in calls]
    finally:
        seat.leave()
        _local.seat = None


def _next(seat: Seat, index: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Report:
    seat.take(index)
    return perform(function, args)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Measure a part of the job that this worker performs, and say that it is there."""
    if (seat := getattr(_local, "seat", None)) is not None:
        seat.at(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        stages = getattr(_local, "stages", None)
        if stages is not None:
            took = time.perf_counter() - start
            stages[name] = round(stages.get(name, 0.0) + took, 6)  # short, to be written often


class Pool:
    """The interface; `kind` and `workers` are for reports.

    Short jobs are worth submitting `together`, so many at most: what they cost to send is that of
    one, and while a worker is at them nobody waits for each.
    """

    kind: str
    workers: int
    together: int = 1

    @property
    def window(self) -> int:
        """Submissions to keep: enough that no worker waits, few enough to name culprits."""
        return 4 * self.workers

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Report]:
        """Submit a job."""
        raise NotImplementedError

    def give_up(self, future: Future[Report]) -> bool:
        """End a job that is stuck; False where its worker is lost to the pool."""
        raise NotImplementedError

    def lost(self) -> list[Exception]:
        """Deaths, since this was last asked, of workers that were at no job."""
        return []

    def close(self) -> None:
        """Let go of the workers without waiting for any that is stuck."""
        raise NotImplementedError


class SerialPool(Pool):
    """Runs each job when it is submitted."""

    kind = "serial"
    workers = 1
    window = 1

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Report]:
        """Run the job."""
        future: Future[Report] = Future()
        future.set_running_or_notify_cancel()
        report = perform(function, args)
        if report.error is not None and report.error.type == KeyboardInterrupt.__name__:
            raise KeyboardInterrupt  # meant for the run, and not for the job that it found
        future.set_result(report)
        return future

    def give_up(self, future: Future[Report]) -> bool:
        """Never called: a job has ended before anybody could look."""
        return True

    def close(self) -> None:
        """Nothing to do."""


class ThreadPool(Pool):
    """Daemon threads of our own.

    The standard pool joins its threads at interpreter exit, so one that is stuck would keep
    the program from ever ending. These are joined by nobody, and a stuck one is replaced.
    """

    kind = "threads"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._jobs: queue.SimpleQueue[_ThreadJob | None] = queue.SimpleQueue()
        self._running: dict[Future[Report], threading.Thread] = {}
        self._abandoned: set[threading.Thread] = set()
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, name="zemosaic-worker", daemon=True).start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            self._running[job.future] = me
            report = perform(job.function, job.args)
            if me in self._abandoned:
                return
            del self._running[job.future]
            job.future.set_result(report)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Report]:
        """Queue the job for the next free thread."""
        job = _ThreadJob(Future(), function, args)
        self._jobs.put(job)
        return job.future

    def give_up(self, future: Future[Report]) -> bool:
        """Leave the thread of a running job behind and start another."""
        if not future.cancel() and (thread := self._running.pop(future, None)) is not None:
            self._abandoned.add(thread)
            self._start()
        return True

    def close(self) -> None:
        """Ask the threads to end after the job they are at."""
        for _ in range(self.workers):
            self._jobs.put(None)


@dataclass(frozen=True, eq=False)
class _ThreadJob:
    future: Future[Report]
    function: Callable[..., Any]
    args: tuple[Any, ...]


class ExecutorPool(Pool):
    """Any `concurrent.futures.Executor`; it stays its owner's to shut down."""

    def __init__(self, executor: Executor) -> None:
        from zemosaic.settings import usable_processors

        self._executor = executor
        self.kind = type(executor).__name__
        self.workers = getattr(executor, "_max_workers", None) or usable_processors()

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Report]:
        """Submit the job."""
        return self._executor.submit(perform, function, args)

    def give_up(self, future: Future[Report]) -> bool:
        """Nobody can take a running job from a foreign executor."""
        return future.cancel()

    def close(self) -> None:
        """Nothing: the executor is not ours."""


def make_pool(kind: str | Executor | Pool, workers: int) -> Pool:
    """Make a pool of a kind, or wrap an executor.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if isinstance(kind, Pool):
        return kind
    if isinstance(kind, Executor):
        return ExecutorPool(kind)
    if kind == "processes":
        from zemosaic.runtime.processes import ProcessPool

        return ProcessPool(workers)
    if kind == "threads":
        return ThreadPool(workers)
    if kind == "serial":
        return SerialPool()
    raise ValueError(f"pool is {kind!r}; choose one of {', '.join(KINDS)} or give an Executor")
