"""A pool without workers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .pool import Pool
from .worker import TaskResult, run_task


class SerialPool(Pool):
    """Runs each task in the calling thread, when it is submitted."""

    kind = "serial"
    workers = 1
    window = 1

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Run the task and return its future, which is done."""
        future: Future[TaskResult] = Future()
        future.set_running_or_notify_cancel()
        result = run_task(function, args)
        if result.error is not None and result.error.type == KeyboardInterrupt.__name__:
            raise KeyboardInterrupt  # Ctrl-C is meant for the run, not for the current job
        future.set_result(result)
        return future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Return True: every task has ended before its future is returned."""
        return True

    def close(self) -> None:
        """Do nothing."""
