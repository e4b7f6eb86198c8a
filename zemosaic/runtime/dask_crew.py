"""The workers of a Dask cluster that a run uses, and the tasks that they have or wait for.

All of it runs on the loop of Dask's client.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from .dask_cluster import Cluster, TaskLostError, quiet
from .dask_holders import Holders
from .dask_nanny import Examination
from .dask_task import RemoteTask, RemoteWorker
from .process_pool import WorkerLostError
from .worker import TaskResult

LOOK_AHEAD = 16  # tasks of which the one with files at a worker goes first
MAX_LOSSES = 3  # workers lost with a task, for reasons unknown, until it fails
BURY_TIME = 10.0  # seconds until a lost task goes to another worker although its own lives


class Crew:
    """Workers by their addresses, and the queue of tasks that no worker has yet.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.workers: dict[str, RemoteWorker] = {}
        self.idle_deaths: deque[Exception] = deque()
        self.error: Exception | None = None  # has ended all
        self.scheduler_is_silent = False
        self.holders = Holders(self.workers)
        self._cluster = cluster
        self._queue: deque[RemoteTask] = deque()
        self._coroutines: set[asyncio.Task[None]] = set()

    def close(self, error: Exception) -> None:
        """Fail all tasks, and end all coroutines."""
        self.fail(error)
        for coroutine in self._coroutines:
            coroutine.cancel()

    def fail(self, error: Exception) -> None:
        """Fail all unfinished tasks, and all tasks submitted later."""
        self.error = self.error or error
        busy = [task for w in self.workers.values() for task in (*w.tasks, *w.ended)]
        for task in (*self._queue, *busy):
            task.set_exception(error)
        self._queue.clear()
        for worker in self.workers.values():
            worker.tasks.clear()
            worker.ended.clear()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine; an exception of it ends all."""

        def end(task: asyncio.Task[None]) -> None:
            self._coroutines.discard(task)
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self.fail(error)

        task = asyncio.get_running_loop().create_task(coroutine)
        self._coroutines.add(task)
        task.add_done_callback(end)

    def enqueue(self, task: RemoteTask) -> None:
        """Queue a task for the next free worker."""
        if self.error is not None:
            task.set_exception(self.error)
            return
        self._queue.append(task)
        self.assign()

    async def abandon(self, future: Future[TaskResult]) -> None:
        """Take a task away, and kill its worker if a job of it runs there."""
        future.cancel()
        for worker in self.workers.values():
            if (task := worker.find(future)) is not None:
                break
        else:
            return
        worker.killed_at = time.monotonic()
        examination = await self._cluster.kill(worker, task.slot.ticket if task.slot else 0)
        if examination is not None:
            task.record(worker, examination)
        if examination is not None and not task.running and task.slot is not None:
            worker.killed_at = 0.0  # it has not begun, or has just ended
        self._take(worker, task)

    def assign(self) -> None:
        """Send waiting tasks to free workers, to the one with most free threads first.

        Tasks with files among their arguments go to workers with many of these files.
        """
        while self._queue:
            free = [w for w in self.workers.values() if w.has_room(self._queue[0])]
            if not free:
                return
            task, worker = self._queue[0], min(free, key=lambda w: len(w.tasks) / w.threads)
            if task.files:
                task, worker = self._nearest(free)
            self._queue.remove(task)
            if task.future.done():  # abandoned
                continue
            try:
                task.pickle()
            except Exception as error:  # noqa: BLE001 - pickling may raise anything
                task.set_exception(error)
                continue
            worker.tasks.append(task)
            task.host = worker.host
            task.sent, task.taken = time.monotonic(), asyncio.get_running_loop().create_future()
            self.spawn(self._run(worker, task, task.taken))

    def _nearest(self, free: Sequence[RemoteWorker]) -> tuple[RemoteTask, RemoteWorker]:
        """Return one of the next tasks and a free worker with many of its files."""
        first = self._queue[0]
        ahead = [first] if first.skipped >= LOOK_AHEAD else islice(self._queue, LOOK_AHEAD)
        first.skipped += 1

        def nearness(pair: tuple[RemoteTask, RemoteWorker]) -> tuple[int, float]:
            task, worker = pair
            return self.holders.count(worker, task), -len(worker.tasks) / worker.threads

        pairs = [(task, worker) for task in ahead for worker in free if worker.has_room(task)]
        return max(pairs, key=nearness)

    async def _run(
        self, worker: RemoteWorker, task: RemoteTask, taken: asyncio.Future[None]
    ) -> None:
        """Wait for the result of a task, or until its worker no longer has it."""
        origins = [self.holders.pickled_origins(task)] if task.files else []

        def begin_next() -> None:
            if worker.end(task):
                self.assign()

        running = quiet(self._cluster.run(worker, task, begin_next, *origins))
        try:
            either: set[asyncio.Future[Any]] = {running, taken}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                return
            error = running.exception()
            if isinstance(error, TaskLostError):
                await self._handle_loss(worker, task, taken, error)
            elif error is not None:
                self._take(worker, task)
                task.set_exception(RuntimeError(" ".join(str(error).split())))
            else:
                self._take(worker, task)
                self._finish(worker, task, running.result())
        finally:
            running.cancel()

    def _finish(self, worker: RemoteWorker, task: RemoteTask, result: Any) -> None:
        """Set the result of a task, or repeat it if it can make files that were lost."""
        if task.files:
            result, new, lost = result
            self.holders.add(worker, new)
            if self.holders.can_make(task, lost):
                self._requeue(task, 0)
                self.assign()
                return
        task.set_pickled_result(result)

    async def _handle_loss(
        self,
        worker: RemoteWorker,
        task: RemoteTask,
        taken: asyncio.Future[None],
        error: TaskLostError,
    ) -> None:
        """Wait for the death of a worker; if it lives, give its task to another one."""
        if error.is_stranger:
            self.remove(worker)
        if task not in worker.ended:  # else the worker does not die of it
            await asyncio.wait({taken}, timeout=BURY_TIME)
        while not taken.done() and self.scheduler_is_silent:
            await asyncio.wait({taken}, timeout=1.0)
        if not taken.done():
            self._take(worker, task)
            self._requeue(task)

    def _take(self, worker: RemoteWorker, task: RemoteTask) -> None:
        for tasks in (worker.tasks, worker.ended):
            if task in tasks:
                tasks.remove(task)
        if task.taken is not None and not task.taken.done():
            task.taken.set_result(None)
        asyncio.get_running_loop().call_soon(self.assign)

    def _requeue(self, task: RemoteTask, losses: int = 1) -> None:
        """Give a task to the next free worker, unless it has lost too many."""
        task.wait_again()
        task.losses += losses
        if task.losses >= MAX_LOSSES:
            task.set_exception(WorkerLostError(255))
        elif self.error is None and not task.future.done():
            self._queue.appendleft(task)

    def set_aside(self, worker: RemoteWorker) -> None:
        """Give the tasks of a worker to others, because it does not do them."""
        worker.aside = True
        for task in (*worker.tasks, *worker.ended):
            self._take(worker, task)
            self._requeue(task)

    def remove(self, worker: RemoteWorker) -> None:
        """Remove a dead worker; another process may have its address."""
        if self.workers.get(worker.address) is worker:
            del self.workers[worker.address]
            self.spawn(self._bury(worker))

    async def _bury(self, worker: RemoteWorker) -> None:
        """Charge the death of a worker to the job at which it died; its nanny knows which."""
        is_idle = not (worker.tasks or worker.ended or worker.killed_at or worker.aside)
        examination = await self._cluster.bury(worker)
        if is_idle:
            self.idle_deaths.append(_death(examination))
        suspects = worker.suspects(examination)
        for task in (*worker.tasks, *worker.ended):
            self._take(worker, task)
            if suspects == [task] and examination is not None:
                task.record(worker, examination)
                task.set_exception(_death(examination))
            else:
                # One of several jobs has killed the worker: each is done again alone.
                task.alone = task in suspects
                self._requeue(task, 0 if worker.killed_at else 1)


def _death(examination: Examination | None) -> WorkerLostError:
    exitcode = examination.exitcode if examination is not None else None
    return WorkerLostError(255 if exitcode is None else exitcode)
