"""The choice of a pool, and the two pools that start no workers of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from .pool import Pool
from .thread_pool import ThreadPool
from .worker import TaskResult, run_task

KINDS = ("processes", "threads", "serial")


class SerialPool(Pool):
    """Runs each job when it is submitted."""

    kind = "serial"
    workers = 1
    window = 1

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Run the job."""
        future: Future[TaskResult] = Future()
        future.set_running_or_notify_cancel()
        report = run_task(function, args)
        if report.error is not None and report.error.type == KeyboardInterrupt.__name__:
            raise KeyboardInterrupt  # meant for the run, and not for the job that it found
        future.set_result(report)
        return future

    def give_up(self, future: Future[TaskResult]) -> bool:
        """Never called: a job has ended before anybody could look."""
        return True

    def close(self) -> None:
        """Nothing to do."""


class ExecutorPool(Pool):
    """Any `concurrent.futures.Executor`; it stays its owner's to shut down."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.kind = type(executor).__name__
        self.workers = getattr(executor, "_max_workers", None) or usable_processors()

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit the job."""
        return self._executor.submit(run_task, function, args)

    def give_up(self, future: Future[TaskResult]) -> bool:
        """Nobody can take a running job from a foreign executor."""
        return future.cancel()

    def close(self) -> None:
        """Nothing: the executor is not ours."""


def usable_processors() -> int:
    """Processors that this process may use (fewer than the machine's under an affinity mask)."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_pool(kind: str | Executor | Pool, workers: int = 0, preload: Sequence[str] = ()) -> Pool:
    """Make a pool of a kind, or wrap an executor.

    Parameters
    ----------
    kind : {"processes", "threads", "serial"}, Executor or Pool
        A pool is returned as it is.
    workers : int
        Workers to start; 0 takes one per processor that this process may use.
    preload : sequence of str
        Modules that worker processes import before their first job, where that can be shared.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if isinstance(kind, Pool):
        return kind
    if isinstance(kind, Executor):
        return ExecutorPool(kind)
    workers = workers or usable_processors()
    if kind == "processes":
        from .process_pool import ProcessPool

        return ProcessPool(workers, preload)
    if kind == "threads":
        return ThreadPool(workers)
    if kind == "serial":
        return SerialPool()
    raise ValueError(f"pool is {kind!r}; choose one of {', '.join(KINDS)} or give an Executor")
