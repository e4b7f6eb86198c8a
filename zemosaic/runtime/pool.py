"""Pools of workers behind one interface: processes, threads, none, or somebody's executor.

`Pool.submit` gives a future whose result is a `TaskResult` in the worker's own times, also when the
job raised. `Pool.give_up` ends a job that is stuck, as far as that can be done: a process is
killed and replaced, a thread is left behind and replaced, a foreign executor's worker is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .worker import TaskResult


class Pool:
    """The interface; `kind` and `workers` are for reports.

    Short jobs are worth submitting `max_batch`, so many at most: what they cost to send is that of
    one, and while a worker is at them nobody waits for each.
    """

    kind: str
    workers: int
    max_batch: int = 1

    @property
    def window(self) -> int:
        """Submissions to keep: enough that no worker waits, few enough to name culprits."""
        return 4 * self.workers

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit a job."""
        raise NotImplementedError

    def give_up(self, future: Future[TaskResult]) -> bool:
        """End a job that is stuck; False where its worker is lost to the pool."""
        raise NotImplementedError

    def lost(self) -> list[Exception]:
        """Deaths, since this was last asked, of workers that were at no job."""
        return []

    def close(self) -> None:
        """Let go of the workers without waiting for any that is stuck."""
        raise NotImplementedError
