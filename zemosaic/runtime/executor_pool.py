"""A pool around an executor of the host application."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from .pool import Pool, usable_processors
from .worker import TaskResult, run_task


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
        """Cancel the task; a running task of a foreign executor cannot be ended."""
        return future.cancel()

    def close(self) -> None:
        """Do nothing: the executor belongs to its owner."""
