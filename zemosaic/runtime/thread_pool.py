"""A pool of daemon threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .pool import Pool
from .worker import TaskResult, run_task


class ThreadPool(Pool):
    """Daemon threads of our own.

    The standard pool joins its threads at interpreter exit, so one that is stuck would keep
    the program from ever ending. These are joined by nobody, and a stuck one is replaced.
    """

    kind = "threads"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._jobs: queue.SimpleQueue[_ThreadJob | None] = queue.SimpleQueue()
        self._running: dict[Future[TaskResult], threading.Thread] = {}
        self._abandoned: set[threading.Thread] = set()
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, name="zemosaic-worker", daemon=True).start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            self._running[job.future] = me
            report = run_task(job.function, job.args)
            if me in self._abandoned:
                return
            del self._running[job.future]
            job.future.set_result(report)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue the job for the next free thread."""
        job = _ThreadJob(Future(), function, args)
        self._jobs.put(job)
        return job.future

    def give_up(self, future: Future[TaskResult]) -> bool:
        """Leave the thread of a running job behind and start another."""
        if not future.cancel() and (thread := self._running.pop(future, None)) is not None:
            self._abandoned.add(thread)
            self._start()
        return True

    def close(self) -> None:
        """Ask the threads to end after the job they are at."""
        for _ in range(self.workers):
            self._jobs.put(None)


@dataclass(frozen=True, eq=False)
class _ThreadJob:
    future: Future[TaskResult]
    function: Callable[..., Any]
    args: tuple[Any, ...]
