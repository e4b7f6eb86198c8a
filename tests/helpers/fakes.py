"""Clocks, pools, observers and jobs under the control of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from zemosaic.runtime.executor_pool import ExecutorPool
from zemosaic.runtime.observers import Observer
from zemosaic.runtime.pool import Host, Pool
from zemosaic.runtime.scheduler import Clock
from zemosaic.runtime.worker import TaskResult, run_in_slot, run_task


class FakeClock(Clock):
    """Advances only in `wait`: by the whole time-out, at once, if no future is done."""

    def __init__(self, on_wait: Callable[[float], None] = lambda now: None) -> None:
        self.now = 1000.0
        self.on_wait = on_wait

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        self.on_wait(self.now)
        # Real threads need a moment to start, during which no fake time passes.
        done = wait(futures, 0.005, return_when=FIRST_COMPLETED).done
        if not done:
            self.now += timeout
        return done


class HeldClock(Clock):
    """Advances only while `stuck` holds, by a second per wait in which no future is done.

    So a stuck job times out, and no other job ever does, however slow the machine is.
    """

    def __init__(self, stuck: Callable[[], bool]) -> None:
        self.now = 1000.0
        self.stuck = stuck

    def monotonic(self) -> float:
        return self.now

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        done = wait(futures, 0.02, return_when=FIRST_COMPLETED).done
        if not done and self.stuck():
            self.now += 1.0
        return done


def without_slot(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the call of the job itself, without its row in the table of running jobs."""
    return args[2:] if function is run_in_slot else (function, args)


class ManualPool(Pool):
    """Tasks start when they are submitted, and end when the test calls `end`, in any order."""

    kind = "manual"

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self.flying: dict[int, tuple[Future[TaskResult], Callable[..., Any], tuple[Any, ...]]] = {}
        self.abandoned: list[Future[TaskResult]] = []
        self._count = 0

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        future: Future[TaskResult] = Future()
        future.set_running_or_notify_cancel()
        self._count += 1
        self.flying[self._count] = (future, *without_slot(function, args))
        return future

    def end(self, index: int) -> None:
        future, function, args = self.flying.pop(index)
        future.set_result(run_task(function, args))

    def abandon(self, future: Future[TaskResult]) -> bool:
        self.abandoned.append(future)
        return True

    def close(self) -> None:
        """Do nothing."""


class FarExecutor(ThreadPoolExecutor):
    """Two threads whose results come as from a machine "far" with a shifted clock."""

    def __init__(self, shift: float) -> None:
        super().__init__(2)
        self._shift_ns = int(shift * 1e9)

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        return super().submit(lambda: self._shift(function(*args, **options)))

    def _shift(self, result: TaskResult) -> TaskResult:
        value = result.value
        if isinstance(value, list) and value and isinstance(value[0], TaskResult):
            value = [self._shift(each) for each in value]
        started_ns, ended_ns = result.started_ns + self._shift_ns, result.ended_ns + self._shift_ns
        return replace(result, value=value, started_ns=started_ns, ended_ns=ended_ns, host="far")


class FarPool(ExecutorPool):
    """A pool that has measured the offset of the clock of its machine, and sends batches."""

    max_batch = 8

    def __init__(self, executor: FarExecutor, offset: float) -> None:
        super().__init__(executor)
        self._host = Host("far", int(offset * 1e9))

    def host(self, future: Future[TaskResult]) -> Host:
        return self._host


class Recorder(Observer):
    """Keeps all events, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        for name in dir(Observer):
            if not name.startswith("_") and name != "handle_batch":
                setattr(self, name, self.events.append)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Gate:
    """Blocks the job `pass_through` until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def pass_through(self, value: Any = None) -> Any:
        self._event.wait()
        return value
