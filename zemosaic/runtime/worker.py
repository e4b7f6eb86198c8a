"""Functions that run in a worker: a task, a batch of tasks, and the timed steps inside a task."""

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
from .library_messages import LibraryMessage, collect_library_messages

_local = threading.local()


@dataclass(frozen=True)
class TaskResult:
    """The value or the error of a task, with the worker's own times.

    Parameters
    ----------
    value : object
        Return value; None if the task raised.
    error : JobError or None
        The exception raised by the task.
    started_ns, ended_ns : int
        Nanoseconds since the epoch, by the clock of the worker's machine.
    pid : int
        Process of the worker.
    step_times : dict
        Seconds spent in each step (see `timed_step`).
    messages : tuple of LibraryMessage
        Warnings and log records of libraries.
    host : str
        Name of the machine; empty if the pool knows it.
    """

    value: Any
    error: JobError | None
    started_ns: int
    ended_ns: int
    pid: int
    step_times: dict[str, float] = field(default_factory=dict)
    messages: tuple[LibraryMessage, ...] = ()
    host: str = ""


def run_task(function: Callable[..., Any], args: tuple[Any, ...]) -> TaskResult:
    """Call a function and return its result; an exception becomes part of the result."""
    step_times: dict[str, float] = {}
    _local.step_times = step_times
    value, error = None, None
    started_ns = time.time_ns()
    clock_ns = time.perf_counter_ns()
    with collect_library_messages() as messages:
        try:
            value = function(*args)
        except BaseException as raised:  # noqa: BLE001 - SystemExit must not end a worker either
            error = JobError.of(raised)
    # The duration comes from a monotonic clock, so no span ends before it starts.
    ended_ns = started_ns + time.perf_counter_ns() - clock_ns
    return TaskResult(
        value, error, started_ns, ended_ns, os.getpid(), step_times, tuple(dict.fromkeys(messages))
    )


def run_in_slot(slot: Slot, index: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function while its job occupies a row of the table of running jobs."""
    _local.slot = slot
    slot.start(index)
    try:
        return function(*args)
    finally:
        slot.finish()
        _local.slot = None


def run_batch(
    slot: Slot | None, calls: Sequence[tuple[int, Callable[..., Any], tuple[Any, ...]]]
) -> list[TaskResult]:
    """Run several jobs one after the other; they share one row of the table, if they have any."""
    if slot is None:
        return [run_task(function, args) for _, function, args in calls]
    _local.slot = slot
    try:
        return [_run_next(slot, *call) for call in calls]
    finally:
        slot.finish()
        _local.slot = None


def _run_next(
    slot: Slot, index: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> TaskResult:
    slot.start(index)
    return run_task(function, args)


@contextmanager
def timed_step(name: str) -> Iterator[None]:
    """Time a step of the running task, and enter its name in the table of running jobs."""
    if (slot := getattr(_local, "slot", None)) is not None:
        slot.enter_step(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        step_times = getattr(_local, "step_times", None)
        if step_times is not None:
            seconds = time.perf_counter() - start
            # Rounded, because thousands of them are written to the journal and the trace.
            step_times[name] = round(step_times.get(name, 0.0) + seconds, 6)
