"""The workers of a Dask cluster that a run uses, and the tasks that they have or wait for.

All of it runs as coroutines on the loop of Dask's client.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from typing import Any

from ..errors import ClusterLostError, UserError
from ..threads import report
from .dask_cluster import LEASE, Cluster, TaskLostError
from .dask_task import MAX_LOSSES, RemoteTask, RemoteWorker
from .dask_worker import Examination
from .events import WorkerStarted
from .process_pool import WorkerLostError
from .worker import TaskResult

LOOK = 0.5  # seconds between two looks at the cluster
EXAMINE = 2.0  # seconds between two examinations of a worker
SILENCE = 15.0  # seconds without an answer until the scheduler or a worker is lost
START_TIME = 60.0  # seconds until a worker that answers has begun a task
JOIN_TIME = 60.0  # seconds without any worker until the run ends
PAUSE = 10.0  # seconds until a silent worker is asked again
BURY_TIME = 10.0  # seconds until a lost task goes to another worker although its own lives


class Crew:
    """Workers by their addresses, and the queue of tasks that no worker has yet.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    outlives_run : bool
        Whether the workers need a lease to end what they do when the run has ended.
    """

    def __init__(self, cluster: Cluster, outlives_run: bool) -> None:
        self.workers: dict[str, RemoteWorker] = {}
        self.starts: deque[WorkerStarted] = deque()
        self.idle_deaths: deque[Exception] = deque()
        self.error: Exception | None = None  # has ended all
        self._cluster, self._outlives_run = cluster, outlives_run
        self._queue: deque[RemoteTask] = deque()
        self._next_meeting: dict[str, float] = {}  # of addresses that are not in `workers`
        self._coroutines: set[asyncio.Task[None]] = set()
        self._failing_since = self._next_lease = 0.0
        self._last_worker = time.monotonic()

    async def start(self) -> None:
        """Wait for the first workers, and begin to look at the cluster."""
        while not self.workers:
            threads, _ = await self._cluster.look()
            await asyncio.gather(*(self._meet(address, n) for address, n in threads.items()))
            if not self.workers and time.monotonic() - self._last_worker > JOIN_TIME:
                raise UserError(f"{self._cluster.scheduler}: no worker has joined; start some")
            await asyncio.sleep(0.0 if self.workers else 0.1)
        self._spawn(self._keep_looking())

    async def close(self, error: Exception) -> None:
        """Fail all tasks, and release the workers if they outlive the run."""
        workers = list(self.workers.values())
        try:
            if self._outlives_run and self.error is None:
                await self._cluster.part(workers)
        finally:
            self.fail(error)
            for coroutine in self._coroutines - {asyncio.current_task()}:
                coroutine.cancel()

    def fail(self, error: Exception) -> None:
        """Fail all unfinished tasks, and all that will be submitted."""
        self.error = self.error or error
        busy = [task for worker in self.workers.values() for task in worker.tasks]
        for task in (*self._queue, *busy):
            task.set_exception(error)
        self._queue.clear()
        for worker in self.workers.values():
            worker.tasks.clear()

    def enqueue(self, task: RemoteTask) -> None:
        """Queue a task for the next free worker."""
        if self.error is not None:
            task.set_exception(self.error)
            return
        self._queue.append(task)
        self._assign()

    async def abandon(self, future: Future[TaskResult]) -> None:
        """Take a task away, and kill its worker if a job of it runs there."""
        future.cancel()
        for worker in self.workers.values():
            if (task := worker.find(future)) is not None:
                break
        else:
            return
        worker.killed = True
        examination = await self._cluster.kill(worker, task.slot.ticket if task.slot else 0)
        if examination is None:  # without an answer of its nanny
            worker.aside = True
        elif task.slot is not None:
            task.record(worker, examination)
        # Else it goes on with other tasks.
        worker.killed = examination is not None and (task.running or task.slot is None)
        self._take(worker, task)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine; what it raises ends all."""

        def end(task: asyncio.Task[None]) -> None:
            self._coroutines.discard(task)
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self.fail(error)

        task = asyncio.get_running_loop().create_task(coroutine)
        self._coroutines.add(task)
        task.add_done_callback(end)

    def _assign(self) -> None:
        """Send waiting tasks to free workers, to the one with most free threads first."""
        while self._queue:
            free = [w for w in self.workers.values() if w.has_room(self._queue[0])]
            if not free:
                return
            task, worker = self._queue.popleft(), min(free, key=lambda w: len(w.tasks) / w.threads)
            if task.future.done():  # abandoned
                continue
            try:
                task.pickle()
            except Exception as error:  # noqa: BLE001 - pickling may raise anything
                task.set_exception(error)
                continue
            worker.tasks.append(task)
            task.sent, task.taken = time.monotonic(), asyncio.get_running_loop().create_future()
            self._spawn(self._run(worker, task, task.taken))

    async def _run(
        self, worker: RemoteWorker, task: RemoteTask, taken: asyncio.Future[None]
    ) -> None:
        """Wait for the result of a task, or until its worker no longer has it."""
        running = asyncio.ensure_future(self._cluster.run(worker, task))
        try:
            either: set[asyncio.Future[Any]] = {running, taken}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                return
            error = running.exception()
            if isinstance(error, TaskLostError):
                await self._handle_loss(worker, task, taken)
            elif error is not None:
                self._take(worker, task)
                task.set_exception(RuntimeError(" ".join(str(error).split())))
            else:
                self._take(worker, task)
                self._assign()  # first, so that no worker waits while a result is unpickled
                task.set_result_of(worker, running.result())
        finally:
            running.cancel()

    async def _handle_loss(
        self, worker: RemoteWorker, task: RemoteTask, taken: asyncio.Future[None]
    ) -> None:
        """Wait for the death of a worker; if it lives, give its task to another one."""
        await asyncio.wait({taken}, timeout=BURY_TIME)
        if not taken.done():
            self._take(worker, task)
            self._requeue(task)

    def _take(self, worker: RemoteWorker, task: RemoteTask) -> None:
        if task in worker.tasks:  # else it has just ended
            worker.tasks.remove(task)
        if task.taken is not None and not task.taken.done():
            task.taken.set_result(None)
        asyncio.get_running_loop().call_soon(self._assign)

    def _requeue(self, task: RemoteTask, losses: int = 1) -> None:
        """Give a task to the next free worker, unless it has lost too many."""
        task.wait_again()
        task.losses += losses
        if task.losses >= MAX_LOSSES:
            task.set_exception(WorkerLostError(255))
        elif not task.future.done():
            self._queue.appendleft(task)

    async def _keep_looking(self) -> None:
        while self.error is None:
            await self._look()
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        """Update which workers there are, and which tasks run.

        Raises
        ------
        ClusterLostError
            The scheduler or all workers are lost.
        """
        now = time.monotonic()
        try:
            threads, keys = await self._cluster.look()
        except Exception as error:  # of many kinds, if the connection is lost
            self._failing_since = self._failing_since or now
            silent = time.monotonic() - self._failing_since
            if silent >= SILENCE:
                message = f"the Dask scheduler {self._cluster.scheduler} has not answered"
                raise ClusterLostError(f"{message} for {silent:.0f} s") from error
            return
        self._failing_since = 0.0
        for address in self.workers.keys() - threads.keys():
            self._spawn(self._bury(self.workers.pop(address)))
        for address, count in threads.items():
            if address not in self.workers and self._next_meeting.get(address, 0.0) <= now:
                self._spawn(self._meet_late(address, count))
        for worker in self.workers.values():
            if worker.next_examination <= now and (worker.aside or worker.old_tasks(LOOK)):
                worker.next_examination = math.inf
                self._spawn(self._examine(worker, set(keys.get(worker.address, ()))))
        if self._outlives_run and now >= self._next_lease:
            self._next_lease = now + LEASE / 4
            self._spawn(self._cluster.renew_leases(list(self.workers.values())))
        if any(not worker.aside for worker in self.workers.values()):
            self._last_worker = now
        elif now - self._last_worker >= JOIN_TIME:
            message = f"no worker of the Dask scheduler {self._cluster.scheduler} has answered"
            raise ClusterLostError(f"{message} for {JOIN_TIME:.0f} s")

    async def _meet(self, address: str, threads: int) -> None:
        self._next_meeting[address] = math.inf
        try:
            worker = await self._cluster.meet(address, threads)
        except UserError:
            raise
        except Exception:  # noqa: BLE001 - of many kinds, if it is stopped, has died or is cut off
            self._next_meeting[address] = time.monotonic() + PAUSE
            return
        del self._next_meeting[address]
        self.workers[address] = worker
        self.starts.append(worker.start)
        self._assign()

    async def _meet_late(self, address: str, threads: int) -> None:
        try:
            await self._meet(address, threads)
        except UserError as error:
            report(f"{error}; this worker is not used")

    async def _examine(self, worker: RemoteWorker, keys: Collection[str]) -> None:
        """Find the jobs that run at a worker; set it aside if it does none."""
        patience = worker.patience()
        old = worker.old_tasks(LOOK)
        examination = await self._cluster.examine(worker, 0.7 * patience) if old else None
        # Behind the tasks of others ours may have to wait.
        others = len(set(keys) - {task.key for task in worker.tasks})
        for task in [task for task in old if task in worker.tasks]:
            if examination is None or task.slot is None:
                task.running = task.key in keys and others < worker.threads
            else:
                task.record(worker, examination)
        waiting = [task for task in worker.old_tasks(LOOK) if not task.running]
        answers = examination is not None
        if waiting or not old:  # its nanny may answer although it is stopped
            answers = await self._cluster.answers(worker)
        now = time.monotonic()
        worker.silent_since = 0.0 if answers else worker.silent_since or now
        is_silent = not answers and now - worker.silent_since >= SILENCE
        begins_none = others < worker.threads and any(
            task.key in keys and now - task.sent >= START_TIME for task in waiting
        )
        if is_silent or begins_none:
            self._set_aside(worker)
        elif answers and worker.aside:
            worker.aside = False
            self._assign()
        pause = PAUSE if worker.aside else min(patience / 5, EXAMINE)
        worker.next_examination = time.monotonic() + pause

    def _set_aside(self, worker: RemoteWorker) -> None:
        """Give the tasks of a worker to others, because it does not do them."""
        worker.aside = True
        for task in list(worker.tasks):
            self._take(worker, task)
            self._requeue(task)

    async def _bury(self, worker: RemoteWorker) -> None:
        """Charge the death of a worker to the job at which it died; its nanny knows which."""
        if not worker.tasks and not worker.killed and not worker.aside:
            self._spawn(self._report_idle_death(worker))
            return
        examination = await self._cluster.bury(worker)
        suspects = worker.suspects(examination)
        for task in list(worker.tasks):
            self._take(worker, task)
            if suspects == [task] and examination is not None:
                task.record(worker, examination)
                task.set_exception(_death(examination))
            else:
                # One of several jobs has killed the worker: each is done again alone.
                task.alone = task in suspects
                self._requeue(task, 0 if worker.killed else 1)

    async def _report_idle_death(self, worker: RemoteWorker) -> None:
        self.idle_deaths.append(_death(await self._cluster.bury(worker)))


def _death(examination: Examination | None) -> WorkerLostError:
    exitcode = examination.exitcode if examination is not None else None
    return WorkerLostError(255 if exitcode is None else exitcode)
