"""A pool around an executor of the host application."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from .pool import Pool, usable_processors
from .worker import TaskResult, run_task


class ExecutorPool(Pool):
    """Wraps any `concurrent.futures.Executor`, which its owner shuts down."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.kind = type(executor).__name__
        self.workers = getattr(executor, "_max_workers", None) or usable_processors()
        # Others, such as those of Dask, often leave their futures pending until the end.
        self.marks_running = isinstance(executor, (ThreadPoolExecutor, ProcessPoolExecutor))

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit the task to the executor."""
        return self._executor.submit(run_task, function, args)

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Cancel the task; a running task of a foreign executor cannot be ended."""
        # A future that never runs can always be cancelled, although its worker is stuck.
        return future.cancel() and self.marks_running

    def close(self) -> None:
        """Do nothing: the executor belongs to its owner."""
