"""A pool of the workers of a Dask cluster: of this machine, or of many.

Each task is sent to a worker that we choose, so the pool always knows who has it: Dask moves no
task, and tries none again. A death costs the job named by the worker's own table; whatever else
was with the worker goes to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ClusterLostError, UserError
from ..threads import start_thread
from . import dask_worker
from .dask_cluster import (
    ANSWER_TIME,
    Cluster,
    RemoteTask,
    RemoteWorker,
    connect,
    end_local,
    start_local,
)
from .dask_crew import LOOK, Crew
from .events import WorkerStarted
from .inflight import Slot
from .pool import Pool, no_identity
from .worker import TaskResult

SILENCE = 15.0  # seconds without an answer of the scheduler until it is lost
FETCH_TIME = 2.0  # seconds until a worker is too stuck to send a result
JOIN_TIME = 60.0  # seconds until the first worker must have joined


class DaskPool(Pool):
    """Workers of a Dask cluster.

    Parameters
    ----------
    target : str or distributed.Client
        "dask" starts a cluster on this machine, which ends with the run; "dask://HOST:PORT" joins
        the one of a scheduler; a client is left open.
    workers : int
        Workers to start on this machine.
    identify : callable
        Describes the imported package; workers with another description end the run.

    Raises
    ------
    UserError
        There is no such cluster, no worker in it, or distributed is not installed.
    """

    kind = "dask"
    max_batch = 128
    runs_here = False

    def __init__(
        self, target: Any, workers: int, identify: Callable[[], str] = no_identity
    ) -> None:
        self._own_cluster, self._own_client, self._lifeline = None, None, -1
        self._own_folder = lifeline = ""
        if target == "dask":
            if sys.platform == "linux":
                self._own_folder = tempfile.mkdtemp(prefix="zemosaic-dask-")
                lifeline = os.path.join(self._own_folder, "lifeline")
                os.mkfifo(lifeline)
                # Also for reading, because it is opened before the workers do so.
                self._lifeline = os.open(lifeline, os.O_RDWR)
            self._own_cluster, client = start_local(workers)
        elif isinstance(target, str):
            client = connect("tcp://" + target.removeprefix("dask://"))
        else:
            client = target
        self._own_client = client if isinstance(target, str) else None
        self._cluster = Cluster(client, identify, lifeline)
        self._crew = Crew(self._cluster)
        self._error: Exception | None = None
        self._ended: queue.SimpleQueue[RemoteTask | None] = queue.SimpleQueue()
        self._last_look = self._last_answer = time.monotonic()
        self._count = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        try:
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Number of threads of all workers, which may join at any time."""
        return max(1, sum(worker.threads for worker in self._crew.workers.values()))

    @property
    def rows(self) -> int:
        """Rows of the table of running jobs, also for workers that join later."""
        return max(1024, self.window)

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + JOIN_TIME
        while not self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)[0]:
            if time.monotonic() > deadline:
                raise UserError(f"{self._cluster.scheduler}: no worker has joined; start some")
            time.sleep(0.1)
        self._crew.meet(
            self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)[0], strict=True
        )

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Require that all workers see these folders.

        Raises
        ------
        UserError
            One does not.
        """
        self._cluster.place_tokens(folders)
        workers = list(self._crew.workers.values())
        self._cluster.sync(self._cluster.check_folders, workers, seconds=2 * ANSWER_TIME)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue a task for the next free worker."""
        slot = args[0] if args and isinstance(args[0], Slot) else None
        task = RemoteTask(Future(), (function, args), slot=slot, submitted_ns=time.time_ns())
        with self._crew.lock:
            if self._error is not None:
                task.set_exception(self._error)
                return task.future
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._thread is None:
                self._thread = start_thread(self._run, "zemosaic-pool", "no job can run")
                if self._thread is None:
                    raise RuntimeError("no thread can be started")
            self._crew.queue.append(task)
        self._ended.put(None)
        return task.future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Kill the worker of a running task; its other tasks go to other workers."""
        future.cancel()
        with self._crew.lock:
            self._crew.queue = deque(task for task in self._crew.queue if task.future is not future)
        found = self._crew.find(future)
        if found is None or self._error is not None:
            return True
        worker, task = found
        task.abandoned = True
        if task not in worker.running:
            self._crew.take_back(worker, task)
            return True
        worker.killed = True
        examination = self._cluster.examine(worker, dask_worker.kill)
        if examination is not None:
            self._crew.record(worker, task, examination)
        self._crew.take_back(worker, task)
        return examination is not None

    def idle_deaths(self) -> list[Exception]:
        """Return the deaths of idle workers since the last call."""
        with self._crew.lock:
            deaths, self._crew.idle_deaths = self._crew.idle_deaths, []
        return deaths

    def worker_starts(self) -> list[WorkerStarted]:
        """Return the workers that have become ready since the last call."""
        with self._crew.lock:
            starts, self._crew.starts = self._crew.starts, []
        return starts

    def close(self) -> None:
        """End a cluster of our own; release the workers of others. Unfinished tasks fail."""
        self._closed = True
        self._ended.put(None)
        if self._thread is not None:
            self._thread.join(3 * ANSWER_TIME)
        self._cluster.remove_tokens()
        workers = list(self._crew.workers.values())
        if self._own_cluster is not None:
            end_local(self._own_cluster, workers)
        elif self._error is None:
            with contextlib.suppress(TimeoutError, OSError):
                self._cluster.sync(self._cluster.part, workers, seconds=2 * ANSWER_TIME)
        if self._own_client is not None:
            self._own_client.close(timeout=ANSWER_TIME)
        for worker in workers if self._own_cluster is not None else ():
            shutil.rmtree(worker.about.folder, ignore_errors=True)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            shutil.rmtree(self._own_folder, ignore_errors=True)
            self._lifeline = -1

    def _run(self) -> None:
        """Serve the cluster until the pool is closed, then fail all unfinished tasks."""
        error: Exception = CancelledError("the pool was closed")
        answered = True
        try:
            while not self._closed:
                self._receive(self._take_ended())
                if time.monotonic() - self._last_look >= LOOK:
                    answered = self._look()
                if answered:
                    self._assign()
        except Exception as raised:  # noqa: BLE001 - otherwise the futures would never end
            error = self._error = raised
        with self._crew.lock:
            self._closed = True
            unfinished = [
                *self._crew.queue,
                *(t for w in self._crew.workers.values() for t in w.tasks),
            ]
        for task in unfinished:
            task.set_exception(error)

    def _take_ended(self) -> list[RemoteTask]:
        """Wait for tasks that ended or were submitted, until the next look at most."""
        wait = max(0.0, self._last_look + LOOK - time.monotonic())
        ended = []
        with contextlib.suppress(queue.Empty):
            ended.append(self._ended.get(timeout=wait))
            while True:
                ended.append(self._ended.get_nowait())
        return [task for task in ended if task is not None]

    def _receive(self, ended: Sequence[RemoteTask]) -> None:
        """Pass the results of ended tasks on; look again if any was lost."""
        done = [task for task in ended if task.remote is not None]
        finished = [task for task in done if task.remote.status == "finished"]
        for task in done:
            if task.remote is not None and task.remote.status in ("error", "cancelled", "lost"):
                self._handle_loss(task)
        by_worker: dict[str, list[RemoteTask]] = {}
        for task in finished:
            if (worker := self._crew.worker_of(task)) is not None and task.remote is not None:
                by_worker.setdefault(worker.address, []).append(task)
        if not by_worker:
            return
        results = self._cluster.sync(self._gather, by_worker, seconds=2 * ANSWER_TIME)
        for address, tasks in by_worker.items():
            worker = self._crew.workers[address]
            for task in tasks:
                pickled = results.get(task.remote.key)
                self._crew.take_back(worker, task)
                if pickled is not None:
                    self._finish(task, worker, pickled)
                else:  # the worker has died or is stuck with the result
                    self._crew.requeue(task)

    def _handle_loss(self, task: RemoteTask) -> None:
        """Look for the death of a worker; without one, run its task again or fail it."""
        error = (
            task.remote.exception(timeout=ANSWER_TIME) if task.remote.status == "error" else None
        )
        answered = self._look()
        worker = self._crew.worker_of(task)
        if worker is None or worker.killed:  # buried, or about to be
            return
        if not answered:
            self._ended.put(task)
            return
        if type(error).__name__ == "KilledWorker":
            self._crew.bury(worker)
            return
        self._crew.take_back(worker, task)
        if error is not None:
            task.set_exception(error)
            return
        self._crew.requeue(task)

    async def _gather(self, by_worker: Mapping[str, Sequence[RemoteTask]]) -> dict[str, bytes]:
        """Return the results by keys; a worker that is stuck may keep its own only."""
        results: dict[str, bytes] = {}

        async def fetch(tasks: Sequence[RemoteTask]) -> None:
            remotes = [task.remote for task in tasks]
            with contextlib.suppress(Exception):  # of many kinds, if the worker has died
                fetched = await asyncio.wait_for(self._cluster.client.gather(remotes), FETCH_TIME)
                results.update(zip((remote.key for remote in remotes), fetched, strict=True))

        await asyncio.gather(*map(fetch, by_worker.values()))
        return results

    def _finish(self, task: RemoteTask, worker: RemoteWorker, pickled: bytes) -> None:
        try:
            result = pickle.loads(pickled)
            if isinstance(result.value, list) and task.call[0].__name__ == "run_batch":
                values = [_localized(each, worker, task) for each in result.value]
                result = replace(result, value=values)
            result = _localized(result, worker, task)
        except Exception as error:  # noqa: BLE001 - unpickling may raise anything
            task.set_exception(error)
            return
        task.start()
        with contextlib.suppress(Exception):  # the task was abandoned
            task.future.set_result(result)

    def _look(self) -> bool:
        """Update which workers there are, and which tasks run; return whether it is known.

        Raises
        ------
        ClusterLostError
            The scheduler is lost.
        """
        self._last_look = time.monotonic()
        try:
            threads, keys = self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)
        except Exception as error:  # of many kinds, if the connection is lost
            silent = time.monotonic() - self._last_answer
            if silent >= SILENCE:
                raise ClusterLostError(
                    f"the Dask scheduler {self._cluster.scheduler} has not answered for "
                    f"{silent:.0f} s; start the command again with --resume once there is one"
                ) from error
            time.sleep(0.1)
            return False
        self._last_answer = time.monotonic()
        for address in [address for address in self._crew.workers if address not in threads]:
            self._crew.bury(self._crew.workers[address])
        self._crew.meet(threads)
        for worker in list(self._crew.workers.values()):
            self._crew.update(worker, set(keys.get(worker.address, ())))
        self._crew.examine()
        return True

    def _assign(self) -> None:
        """Send waiting tasks to the workers that have the fewest."""
        for task, worker in iter(self._crew.next_assignment, None):
            if task.future.cancelled():
                continue
            try:
                task.pickle()
            except Exception as error:  # noqa: BLE001 - pickling may raise anything
                task.set_exception(error)
                continue
            self._count += 1
            with self._crew.lock:
                worker.tasks.append(task)
                task.assigned = time.monotonic()
            task.remote = self._cluster.client.submit(
                dask_worker.run_at_worker, self._cluster.run_id, task.pickled,
                key=f"zemosaic-{self._cluster.run_id}-{self._count}", workers=[worker.address],
                pure=False,
            )  # fmt: skip
            task.remote.add_done_callback(lambda _, task=task: self._ended.put(task))


def _localized(result: TaskResult, worker: RemoteWorker, task: RemoteTask) -> TaskResult:
    """Return a result with the host of its worker, and its times on the clock of the run."""
    now_ns = time.time_ns()
    started_ns = min(max(result.started_ns - worker.offset_ns, task.submitted_ns), now_ns)
    ended_ns = min(max(result.ended_ns - worker.offset_ns, started_ns), now_ns)
    about = {"host": worker.about.host, "clock_offset": worker.offset_ns / 1e9}
    return replace(result, started_ns=started_ns, ended_ns=ended_ns, attributes=about)
