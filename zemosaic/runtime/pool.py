"""The interface of pools: processes, threads, the calling thread, or a foreign executor.

`Pool.submit` returns a future whose result is a `TaskResult`, also when the task raised; its times
are those of the worker's clock. `Pool.abandon` ends a task that is stuck as far as its pool can: a
process is killed and replaced, a thread is left behind and replaced, a worker of a foreign
executor is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .worker import TaskResult


class Pool:
    """Interface of all pools; `kind` and `workers` appear in traces and reports.

    `max_batch` is the number of short jobs that are worth submitting as one task: a batch costs one
    message to a worker instead of one per job.
    """

    kind: str
    workers: int
    max_batch: int = 1

    @property
    def window(self) -> int:
        """Number of submissions to keep: no worker idles, and few jobs wait unstarted."""
        return 4 * self.workers

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit a task."""
        raise NotImplementedError

    def abandon(self, future: Future[TaskResult]) -> bool:
        """End a task that is stuck; return False if the pool loses its worker by that."""
        raise NotImplementedError

    def idle_deaths(self) -> list[Exception]:
        """Return the deaths of idle workers since the last call."""
        return []

    def close(self) -> None:
        """Release the workers without waiting for any that is stuck."""
        raise NotImplementedError


def usable_processors() -> int:
    """Return the number of processors that this process may use (see `os.sched_getaffinity`)."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
