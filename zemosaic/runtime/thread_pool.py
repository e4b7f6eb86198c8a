"""A pool of daemon threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..threads import start_thread
from .pool import Pool
from .worker import TaskResult, run_task


class ThreadPool(Pool):
    """Daemon threads, never joined.

    The standard pool joins its threads at interpreter exit, so a stuck one would keep the program
    from ending. Here a stuck thread is left behind and replaced.
    """

    kind = "threads"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._running: dict[Future[TaskResult], threading.Thread] = {}
        self._abandoned: set[threading.Thread] = set()
        # Without a single thread the caller of `submit` runs the tasks.
        self._has_threads = [self._start_thread() for _ in range(workers)].count(True) > 0

    def _start_thread(self) -> bool:
        without = "fewer jobs run at the same time"
        return start_thread(self._run_tasks, "zemosaic-worker", without) is not None

    def _run_tasks(self) -> None:
        thread = threading.current_thread()
        while (task := self._tasks.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            self._running[task.future] = thread
            result = run_task(task.function, task.args)
            if thread in self._abandoned:
                return
            del self._running[task.future]
            task.future.set_result(result)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue a task for the next free thread."""
        task = _Task(Future(), function, args)
        if self._has_threads:
            self._tasks.put(task)
        else:
            task.future.set_running_or_notify_cancel()
            task.future.set_result(run_task(function, args))
        return task.future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Leave the thread of a running task behind and start another one."""
        if not future.cancel() and (thread := self._running.pop(future, None)) is not None:
            self._abandoned.add(thread)
            return self._start_thread()
        return True

    def close(self) -> None:
        """Ask each thread to end after its current task."""
        for _ in range(self.workers):
            self._tasks.put(None)


@dataclass(frozen=True, eq=False)
class _Task:
    future: Future[TaskResult]
    function: Callable[..., Any]
    args: tuple[Any, ...]
