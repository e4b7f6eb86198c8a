"""Functions that run in a worker: a task, a batch of tasks, and the steps inside a task."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .events import JobError
from .inflight import Slot

_local = threading.local()


@dataclass(frozen=True)
class TaskResult:
    """What a worker says of a job it ended."""

    value: Any
    error: JobError | None
    started_ns: int
    ended_ns: int
    pid: int
    step_times: dict[str, float] = field(default_factory=dict)


def run_task(function: Callable[..., Any], args: tuple[Any, ...]) -> TaskResult:
    """Run a job in a worker; whatever it raises becomes part of the report."""
    step_times: dict[str, float] = {}
    _local.step_times = step_times
    value, error = None, None
    started = time.time_ns()
    clock = time.perf_counter_ns()
    try:
        value = function(*args)
    except BaseException as raised:  # noqa: BLE001 - SystemExit must not end a worker either
        error = JobError.of(raised)
    # The end from a clock that is never set back, so that no span ends before it starts.
    ended = started + time.perf_counter_ns() - clock
    return TaskResult(value, error, started, ended, os.getpid(), step_times)


def run_in_slot(slot: Slot, index: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a job that has a row in the table of those under way."""
    _local.slot = slot
    slot.take(index)
    try:
        return function(*args)
    finally:
        slot.leave()
        _local.slot = None


def run_batch(
    slot: Slot | None, calls: Sequence[tuple[int, Callable[..., Any], tuple[Any, ...]]]
) -> list[TaskResult]:
    """Run several jobs in a worker, one after the other; all have one row, if any."""
    if slot is None:
        return [run_task(function, args) for _, function, args in calls]
    _local.slot = slot
    try:
        return [_next(slot, *call) for call in calls]
    finally:
        slot.leave()
        _local.slot = None


def _next(
    slot: Slot, index: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> TaskResult:
    slot.take(index)
    return run_task(function, args)


@contextmanager
def timed_step(name: str) -> Iterator[None]:
    """Measure a part of the job that this worker performs, and say that it is there."""
    if (slot := getattr(_local, "slot", None)) is not None:
        slot.at(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        step_times = getattr(_local, "step_times", None)
        if step_times is not None:
            seconds = time.perf_counter() - start
            step_times[name] = round(
                step_times.get(name, 0.0) + seconds, 6
            )  # short, to be written often
