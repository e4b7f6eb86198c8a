"""A pool of the workers of a Dask cluster: of this machine, or of many.

Each task is sent to a worker that we choose, so the pool always knows who has it: Dask moves no
task, and tries none again. A death costs the job named by the worker's own table; whatever else
was with the worker goes to another one.
"""

from __future__ import annotations

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

from ..errors import NoSolution, UserError
from ..threads import report, start_thread
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
from .dask_worker import Examination
from .events import WorkerStarted
from .inflight import Slot
from .pool import Pool, no_identity
from .process_pool import WorkerLostError
from .run_folder import RunFolder
from .worker import TaskResult

LOOK = 0.5  # seconds between two looks at the cluster
SILENCE = 15.0  # seconds without an answer of the scheduler until it is lost
JOIN_TIME = 60.0  # seconds until the first worker must have joined
MAX_LOSSES = 3  # workers lost with a task, for reasons unknown, until it fails


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
        self._lock = threading.RLock()  # protects all fields below
        self._workers: dict[str, RemoteWorker] = {}
        self._queue: deque[RemoteTask] = deque()
        self._starts: list[WorkerStarted] = []
        self._idle_deaths: list[Exception] = []
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
        return max(1, sum(worker.threads for worker in self._workers.values()))

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
        self._meet(self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)[0], strict=True)

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Require that all workers see these folders.

        Raises
        ------
        UserError
            One does not.
        """
        self._cluster.place_tokens(folders)
        threads, _ = self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)
        self._workers.clear()  # met again, with the folders
        self._meet(threads, strict=True)

    def _meet(self, threads: Mapping[str, int], strict: bool = False) -> None:
        """Add new workers; report one that cannot do the jobs, or raise its error."""
        new = {address: n for address, n in threads.items() if address not in self._workers}
        if not new:
            return
        for worker in self._cluster.sync(self._cluster.meet, new, seconds=60.0):
            if isinstance(worker, RemoteWorker):
                with self._lock:
                    self._workers[worker.address] = worker
                    self._starts.append(worker.start)
            elif strict:
                raise worker
            else:
                report(f"{worker}; this worker is not used")

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue a task for the next free worker."""
        slot = args[0] if args and isinstance(args[0], Slot) else None
        task = RemoteTask(Future(), (function, args), slot=slot, submitted_ns=time.time_ns())
        with self._lock:
            if self._error is not None:
                task.set_exception(self._error)
                return task.future
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._thread is None:
                self._thread = start_thread(self._run, "zemosaic-pool", "no job can run")
                if self._thread is None:
                    raise RuntimeError("no thread can be started")
            self._queue.append(task)
        self._ended.put(None)
        return task.future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Kill the worker of a running task; its other tasks go to other workers."""
        future.cancel()
        with self._lock:
            self._queue = deque(task for task in self._queue if task.future is not future)
            found = [(w, t) for w in self._workers.values() for t in w.tasks if t.future is future]
        if not found or self._error is not None:
            return True
        worker, task = found[0]
        if task not in worker.running:
            self._take_back(worker, task)
            return True
        worker.killed = True
        examination = self._cluster.examine(worker, dask_worker.kill)
        if examination is not None:
            self._record(worker, task, examination)
        self._take_back(worker, task)
        return examination is not None

    def _take_back(self, worker: RemoteWorker, task: RemoteTask) -> None:
        with self._lock, contextlib.suppress(ValueError):  # it has just ended
            worker.tasks.remove(task)
        if task.remote is not None:
            task.remote.cancel()
            task.remote = None

    def idle_deaths(self) -> list[Exception]:
        """Return the deaths of idle workers since the last call."""
        with self._lock:
            deaths, self._idle_deaths = self._idle_deaths, []
        return deaths

    def worker_starts(self) -> list[WorkerStarted]:
        """Return the workers that have become ready since the last call."""
        with self._lock:
            starts, self._starts = self._starts, []
        return starts

    def close(self) -> None:
        """End a cluster of our own; release the workers of others. Unfinished tasks fail."""
        self._closed = True
        self._ended.put(None)
        if self._thread is not None:
            self._thread.join(3 * ANSWER_TIME)
        self._cluster.remove_tokens()
        workers = list(self._workers.values())
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
        try:
            while not self._closed:
                self._receive(self._take_ended())
                if time.monotonic() - self._last_look >= LOOK:
                    self._look()
                self._assign()
        except Exception as raised:  # noqa: BLE001 - otherwise the futures would never end
            error = self._error = raised
        with self._lock:
            self._closed = True
            unfinished = [*self._queue, *(t for w in self._workers.values() for t in w.tasks)]
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
        if not finished:
            return
        remotes = [task.remote for task in finished]
        try:
            results = self._cluster.sync(self._gather, remotes, seconds=2 * ANSWER_TIME)
        except (TimeoutError, OSError):  # the worker died with the result
            return
        for task in finished:
            pickled = results.get(task.remote.key)
            worker = self._worker_of(task)
            if pickled is not None and worker is not None:
                self._take_back(worker, task)
                self._finish(task, worker, pickled)

    def _handle_loss(self, task: RemoteTask) -> None:
        """Look for the death of a worker; without one, run its task again or fail it."""
        error = (
            task.remote.exception(timeout=ANSWER_TIME) if task.remote.status == "error" else None
        )
        self._look()
        worker = self._worker_of(task)
        if worker is None or worker.killed:  # buried, or about to be
            return
        if type(error).__name__ == "KilledWorker":
            self._bury(worker)
            return
        self._take_back(worker, task)
        if error is not None:
            task.set_exception(error)
            return
        with self._lock:
            self._queue.appendleft(task)

    async def _gather(self, remotes: Sequence[Any]) -> dict[str, bytes]:
        results = await self._cluster.client.gather(list(remotes), errors="skip")
        if len(results) != len(remotes):
            return {}
        return {remote.key: result for remote, result in zip(remotes, results, strict=True)}

    def _worker_of(self, task: RemoteTask) -> RemoteWorker | None:
        with self._lock:
            return next((w for w in self._workers.values() if task in w.tasks), None)

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

    def _look(self) -> None:
        """Update which workers there are, and which tasks run.

        Raises
        ------
        NoSolution
            The scheduler is lost.
        """
        self._last_look = time.monotonic()
        try:
            threads, keys = self._cluster.sync(self._cluster.look, seconds=2 * ANSWER_TIME)
        except Exception as error:  # of many kinds, if the connection is lost
            silent = time.monotonic() - self._last_answer
            if silent >= SILENCE:
                raise NoSolution(
                    f"the Dask scheduler {self._cluster.scheduler} has not answered for "
                    f"{silent:.0f} s; start the command again with --resume once there is one"
                ) from error
            return
        self._last_answer = time.monotonic()
        for address in [address for address in self._workers if address not in threads]:
            self._bury(self._workers[address])
        self._meet(threads)
        for worker in list(self._workers.values()):
            self._update(worker, set(keys.get(worker.address, ())))

    def _update(self, worker: RemoteWorker, keys: set[str]) -> None:
        """Mark the tasks that run, recall those behind them, and copy the worker's table."""
        now = time.monotonic()
        with self._lock:
            ours = {task.remote.key for task in worker.tasks if task.remote is not None}
            foreign = len(keys - ours)
            for task in worker.running:
                # Behind tasks of others it may have to wait.
                if task.remote is not None and task.remote.key in keys and foreign < worker.threads:
                    task.start()
            running = [task for task in worker.running if now - task.assigned >= LOOK]
            worker.is_held_up = len(running) == worker.threads
            waiting = worker.tasks[worker.threads :] if worker.is_held_up else []
        for task in waiting:
            self._take_back(worker, task)
            with self._lock:
                self._queue.appendleft(task)
        slots = [task.slot for task in running if task.slot is not None]
        if slots and not worker.killed:
            patience = min((slot.dump_after for slot in slots if slot.dump_after), default=1e9)
            examination = self._cluster.examine(worker, dask_worker.examine, 0.7 * patience)
            if examination is None:
                return
            for task in running:
                self._record(worker, task, examination)

    def _record(self, worker: RemoteWorker, task: RemoteTask, examination: Examination) -> None:
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

    def _bury(self, worker: RemoteWorker) -> None:
        """Remove a worker that has gone; charge its death to the job that it had."""
        with self._lock:
            del self._workers[worker.address]
            running, waiting = worker.running, worker.tasks[worker.threads :]
        examination = self._cluster.examine(worker, dask_worker.bury)
        exitcode = examination.exitcode if examination is not None else None
        if not worker.tasks and not worker.killed:
            self._idle_deaths.append(WorkerLostError(255 if exitcode is None else exitcode))
        for task in running:
            if worker.killed or self._is_again(task, examination, len(running)):
                waiting.append(task)
            else:
                if examination is not None:
                    self._record(worker, task, examination)
                task.start()
                task.set_exception(WorkerLostError(255 if exitcode is None else exitcode))
        for task in waiting:
            task.remote = None
        with self._lock:
            self._queue.extendleft(reversed(waiting))

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

    def _assign(self) -> None:
        """Send waiting tasks to the workers that have the fewest."""
        for task, worker in iter(self._next_assignment, None):
            if task.future.cancelled():
                continue
            try:
                task.pickle()
            except Exception as error:  # noqa: BLE001 - pickling may raise anything
                task.set_exception(error)
                continue
            self._count += 1
            with self._lock:
                worker.tasks.append(task)
                task.assigned = time.monotonic()
            task.remote = self._cluster.client.submit(
                dask_worker.run_at_worker, self._cluster.run_id, task.pickled,
                key=f"zemosaic-{self._cluster.run_id}-{self._count}", workers=[worker.address],
                pure=False,
            )  # fmt: skip
            task.remote.add_done_callback(lambda _, task=task: self._ended.put(task))

    def _next_assignment(self) -> tuple[RemoteTask, RemoteWorker] | None:
        with self._lock:
            free = [worker for worker in self._workers.values() if worker.room > 0]
            if not self._queue or not free:
                return None
            worker = min(free, key=lambda worker: len(worker.tasks) / worker.threads)
            if self._queue[0].alone and worker.tasks:
                return None
            return self._queue.popleft(), worker


def _localized(result: TaskResult, worker: RemoteWorker, task: RemoteTask) -> TaskResult:
    """Return a result with the host of its worker, and its times on the clock of the run."""
    now_ns = time.time_ns()
    started_ns = min(max(result.started_ns - worker.offset_ns, task.submitted_ns), now_ns)
    ended_ns = min(max(result.ended_ns - worker.offset_ns, started_ns), now_ns)
    about = {"host": worker.about.host, "clock_offset": worker.offset_ns / 1e9}
    return replace(result, started_ns=started_ns, ended_ns=ended_ns, attributes=about)
