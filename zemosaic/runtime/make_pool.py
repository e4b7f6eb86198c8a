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
    """Runs each task in the calling thread, when it is submitted."""

    kind = "serial"
    workers = 1
    window = 1

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Run the task and return a future that is done."""
        future: Future[TaskResult] = Future()
        future.set_running_or_notify_cancel()
        result = run_task(function, args)
        if result.error is not None and result.error.type == KeyboardInterrupt.__name__:
            raise KeyboardInterrupt  # Ctrl-C is meant for the run, not for the job that received it
        future.set_result(result)
        return future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Return True: every task has ended before its future is returned."""
        return True

    def close(self) -> None:
        """Do nothing."""


class ExecutorPool(Pool):
    """Wraps any `concurrent.futures.Executor`, which its owner shuts down."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.kind = type(executor).__name__
        self.workers = getattr(executor, "_max_workers", None) or usable_processors()

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit the task to the executor."""
        return self._executor.submit(run_task, function, args)

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Cancel the task; one that is running cannot be taken from a foreign executor."""
        return future.cancel()

    def close(self) -> None:
        """Do nothing: the executor belongs to its owner."""


def usable_processors() -> int:
    """Return the number of processors that this process may use (see `os.sched_getaffinity`)."""
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
        Workers to start; 0 starts one per processor that this process may use.
    preload : sequence of str
        Modules that worker processes import before their first task, where the platform allows it.

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
