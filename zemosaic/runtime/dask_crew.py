"""The workers of a Dask cluster that a run uses, and the tasks that each of them has."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from ..threads import report
from . import dask_worker
from .dask_cluster import ANSWER_TIME, PAUSE, Cluster, RemoteTask, RemoteWorker
from .dask_worker import Examination
from .events import WorkerStarted
from .process_pool import WorkerLostError
from .run_folder import RunFolder
from .worker import TaskResult

LOOK = 0.5  # seconds between two looks at the cluster
EXAMINE = 2.0  # seconds between two examinations of a worker
LONG = 1e9  # seconds that no job runs
MAX_LOSSES = 3  # workers lost with a task, for reasons unknown, until it fails


class Crew:
    """Workers by their addresses, and the queue of tasks that no worker has yet.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.lock = threading.RLock()  # protects all fields below
        self.workers: dict[str, RemoteWorker] = {}
        self.queue: deque[RemoteTask] = deque()
        self.starts: list[WorkerStarted] = []
        self.idle_deaths: list[Exception] = []
        self._cluster = cluster

    def find(self, future: Future[TaskResult]) -> tuple[RemoteWorker, RemoteTask] | None:
        """Return the task of a future and the worker that has it; None if none has."""
        with self.lock:
            for worker in self.workers.values():
                for task in worker.tasks:
                    if task.future is future:
                        return worker, task
        return None

    def meet(self, threads: Mapping[str, int], strict: bool = False) -> None:
        """Add new workers; report one that cannot do the jobs, or raise its error."""
        new = {address: n for address, n in threads.items() if address not in self.workers}
        if not new:
            return
        for worker in self._cluster.sync(self._cluster.meet, new, seconds=60.0):
            if isinstance(worker, RemoteWorker):
                with self.lock:
                    self.workers[worker.address] = worker
                    self.starts.append(worker.start)
            elif strict:
                raise worker
            else:
                report(f"{worker}; this worker is not used")

    def take_back(self, worker: RemoteWorker, task: RemoteTask) -> None:
        """Take a task from its worker, whose next one then runs."""
        with self.lock:
            before = worker.running
            if task in worker.tasks:  # else it has just ended
                worker.tasks.remove(task)
            for next_task in worker.running:
                if next_task not in before:
                    next_task.assigned = time.monotonic()
        if task.remote is not None:
            task.remote.cancel()
            task.remote = None

    def requeue(self, task: RemoteTask) -> None:
        """Give a task to the next free worker."""
        if task.slot is not None and not task.abandoned:
            task.slot.copy(None)
        with self.lock:
            if not task.abandoned:
                self.queue.appendleft(task)

    def worker_of(self, task: RemoteTask) -> RemoteWorker | None:
        """Return the worker that has a task; None if none has."""
        with self.lock:
            return next((w for w in self.workers.values() if task in w.tasks), None)

    def next_assignment(self) -> tuple[RemoteTask, RemoteWorker] | None:
        """Remove a task from the queue; return it with its worker, None if no worker has room."""
        with self.lock:
            free = [worker for worker in self.workers.values() if worker.room > 0]
            if not self.queue or not free:
                return None
            worker = min(free, key=lambda worker: len(worker.tasks) / worker.threads)
            if self.queue[0].alone and worker.tasks:
                return None
            return self.queue.popleft(), worker

    def update(self, worker: RemoteWorker, keys: set[str]) -> None:
        """Mark the tasks that run, and recall those behind long ones."""
        now = time.monotonic()
        with self.lock:
            ours = {task.remote.key for task in worker.tasks if task.remote is not None}
            foreign = len(keys - ours)
            for task in worker.running:
                # Behind tasks of others it may have to wait.
                if task.remote is not None and task.remote.key in keys and foreign < worker.threads:
                    task.start()
            running = [task for task in worker.running if now - task.assigned >= LOOK]
            worker.is_held_up = len(running) == worker.threads
            waiting = worker.waiting if worker.is_held_up else []
        for task in reversed(waiting):
            self.take_back(worker, task)
            self.requeue(task)

    def examine(self) -> None:
        """Copy the tables of workers with long tasks, and the stacks of those."""
        now, due = time.monotonic(), []
        for worker in self.workers.values():
            old = [task for task in worker.running if now - task.assigned >= LOOK]
            slots = [task.slot for task in old if task.slot is not None]
            if slots and not worker.killed and worker.next_examination <= now:
                patience = min((s.dump_after for s in slots if s.dump_after), default=LONG)
                worker.next_examination = now + min(patience / 5, EXAMINE)
                due.append((worker, 0.7 * patience))
        if not due:
            return
        answers = self._cluster.sync(self._cluster.examine_all, due, seconds=2 * ANSWER_TIME)
        for (worker, _), examination in zip(due, answers, strict=True):
            if examination is None:
                worker.next_examination = now + PAUSE
                continue
            for task in worker.running:
                self.record(worker, task, examination)

    def record(self, worker: RemoteWorker, task: RemoteTask, examination: Examination) -> None:
        """Copy the row of a task, and its stack, into the run's folder."""
        if task.slot is None:
            return
        row = examination.rows.get(task.slot.ticket)
        if row is None:
            task.slot.copy(None)
            return
        offset = worker.offset_ns
        row = replace(row, started_ns=row.started_ns - offset, step_ns=row.step_ns - offset)
        task.slot.copy(row)
        if stack := examination.stacks.get(task.slot.ticket):
            path = RunFolder(Path(task.slot.path).parent).stack(row.pid)
            with contextlib.suppress(OSError):  # a full disk must not end the run
                path.write_text(stack + "\n")

    def bury(self, worker: RemoteWorker) -> None:
        """Remove a worker that has gone; charge its death to the job that it had."""
        with self.lock:
            del self.workers[worker.address]
            running = worker.running
            waiting = [task for task in worker.tasks if task not in running]
        examination = self._cluster.examine(worker, dask_worker.bury)
        exitcode = examination.exitcode if examination is not None else None
        if not worker.tasks and not worker.killed:
            self.idle_deaths.append(WorkerLostError(255 if exitcode is None else exitcode))
        for task in running:
            if worker.killed or self._is_again(task, examination, len(running)):
                waiting.append(task)
            else:
                if examination is not None:
                    self.record(worker, task, examination)
                task.start()
                task.set_exception(WorkerLostError(255 if exitcode is None else exitcode))
        for task in waiting:
            task.remote = None
        with self.lock:
            self.queue.extendleft(task for task in reversed(waiting) if not task.abandoned)

    def _is_again(self, task: RemoteTask, examination: Examination | None, candidates: int) -> bool:
        """Return whether a task that was with a dead worker goes to another one."""
        has_run = examination is not None and (
            task.slot is None or task.slot.ticket in examination.rows
        )
        if has_run and candidates == 1:
            return False
        # Its host or its nanny may have died; or one of several jobs has killed the worker, and
        # each is done again alone.
        task.losses += 1
        task.alone = candidates > 1
        if task.slot is not None:
            task.slot.copy(None)
        return task.losses < MAX_LOSSES
