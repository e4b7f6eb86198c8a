"""A pool around an executor of the host application."""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .pool import LOCAL, Host, Pool, usable_processors
from .worker import TaskResult, run_task


class ExecutorPool(Pool):
    """Wraps any `concurrent.futures.Executor`, which its owner shuts down.

    Parameters
    ----------
    executor : Executor
        The executor.
    workers : int
        Number of its workers, if it does not name it; 0 for one per processor of this machine.
    """

    def __init__(self, executor: Executor, workers: int = 0) -> None:
        self._executor = executor
        self.kind = type(executor).__name__
        self.workers = getattr(executor, "_max_workers", 0) or workers or usable_processors()
        # Others, such as Dask's, often leave their futures pending until the end.
        self.marks_running = isinstance(executor, (ThreadPoolExecutor, ProcessPoolExecutor))

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit the task to the executor."""
        return self._executor.submit(_run_somewhere, function, args)

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Cancel the task; a running task of a foreign executor cannot be ended."""
        # A future that never runs can always be cancelled, although its worker is stuck.
        return future.cancel() and self.marks_running

    def host(self, future: Future[TaskResult]) -> Host:
        """Return the machine named by an ended task; `LOCAL` while it runs, or if it failed."""
        if not future.done() or future.cancelled() or future.exception() is not None:
            return LOCAL
        return Host(future.result().host)

    def close(self) -> None:
        """Do nothing: the executor belongs to its owner."""


def _run_somewhere(function: Callable[..., Any], args: tuple[Any, ...]) -> TaskResult:
    """Run a task, and name the machine: the executor may run tasks on several."""
    return replace(run_task(function, args), host=platform.node())
