"""A pool of processes in which the death of a worker costs at most its current task.

A worker may be killed at any moment: in a task, between two tasks, while it reads or writes. Each
worker therefore has a pipe of its own and shares no lock with the others; a dead one can leave
only its own result half-written. One thread of the run starts and replaces the workers, sends them
tasks and receives their results.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, current_process
from typing import Any

from ..errors import UserError
from ..threads import report, start_thread
from .daemonic import allow_children
from .events import WorkerStarted
from .pool import Pool, no_identity
from .process_start import start_context, without_current_folder
from .process_task import Task
from .worker import TaskResult
from .worker_process import serve

_WITHOUT_WORKERS = "jobs run in the process of the run, one after the other and without time-outs"
#: Exit code of a worker that was about to start a run while it imported the script of its run.
UNGUARDED_EXIT = 97
EXIT_TIMEOUT = 5.0  # seconds until the kernel has ended a killed worker


class OtherPackageError(UserError):
    """The workers have imported another package than the run; the message names both."""


class WorkerLostError(Exception):
    """A worker ended without sending a result; `exitcode` is negative for a signal."""

    def __init__(self, exitcode: int) -> None:
        super().__init__(f"exit code {exitcode}")
        self.exitcode = exitcode


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    started_ns: int
    ready: bool = False
    killed: bool = False  # by `ProcessPool.abandon`
    task: Task | None = None


class ProcessPool(Pool):
    """Worker processes, which start with the first task."""

    kind = "processes"
    max_batch = 128
    runs_here = False

    def __init__(
        self,
        workers: int,
        preload: Sequence[str] = (),
        identify: Callable[[], str] = no_identity,
    ) -> None:
        if getattr(current_process(), "_inheriting", False):  # a worker imports the script
            os._exit(UNGUARDED_EXIT)  # the forkserver would make 1 of another exit
        self.workers = workers
        self._identify = identify
        self._context = start_context(preload)
        # Workers hold the reading end: it signals them when the run, the only writer, has ended.
        self._lifeline, self._lifeline_writer = self._context.Pipe(duplex=False)
        # Messages in this pipe wake the thread of the pool.
        self._wakeups, self._wakeup_writer = self._context.Pipe(duplex=False)
        # The lock protects all fields below, which both threads change.
        self._lock = threading.Lock()
        self._queue: deque[Task] = deque()  # not yet assigned
        self._live_workers: list[_Worker] = []
        self._idle_deaths: list[Exception] = []
        self._starts: list[WorkerStarted] = []
        self._error: Exception | None = None  # ended the thread of the pool
        self._is_woken = self._closed = False
        self._thread: threading.Thread | None = None
        # Without threads the caller of `submit` runs the tasks, without processes our thread.
        self._has_no_thread = self._has_no_processes = False

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue a task for the next free worker."""
        task = Task(Future(), (function, args))
        with self._lock:
            if self._error is not None:
                task.set_exception(self._error)
                return task.future
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._thread is None and not self._has_no_thread:
                self._thread = start_thread(self._run, "zemosaic-pool", _WITHOUT_WORKERS)
                self._has_no_thread = self._thread is None
            if not self._has_no_thread:
                self._queue.append(task)
            # If all workers are busy, the next result wakes the thread.
            if len(self._live_workers) < self.workers or not all(
                w.task for w in self._live_workers
            ):
                self._wake_thread()
        if self._has_no_thread:
            task.run_here()
        return task.future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Kill and replace the worker of a task."""
        future.cancel()
        with self._lock:
            for worker in self._live_workers:
                if worker.task is not None and worker.task.future is future:
                    worker.killed = True
                    worker.process.kill()
        return True

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
        """Kill the workers; unfinished tasks fail."""
        with self._lock:
            self._closed = True
            self._wake_thread()
        if self._thread is not None:
            self._thread.join(EXIT_TIMEOUT)
        for pipe in (
            self._lifeline_writer, self._lifeline, self._wakeup_writer, self._wakeups
        ):  # fmt: skip
            pipe.close()

    def _wake_thread(self) -> None:
        if not self._is_woken:  # the pipe has space for few messages, and one is enough
            self._is_woken = True
            self._wakeup_writer.send_bytes(b"!")

    def _run(self) -> None:
        """Serve the workers until the pool is closed, then fail all unfinished tasks."""
        error: Exception = CancelledError("the pool was closed")
        try:
            while not self._closed:
                self._start_missing_workers()
                self._run_tasks_here()
                self._assign_tasks()
                self._handle_messages()
        except Exception as raised:  # noqa: BLE001 - otherwise the futures would never end
            error = self._error = raised
        with self._lock:
            self._closed = True
            unfinished = [*self._queue, *(w.task for w in self._live_workers if w.task)]
        for worker in self._live_workers:
            worker.process.kill()
        for worker in self._live_workers:
            worker.process.join(EXIT_TIMEOUT)
            worker.pipe.close()
        for task in unfinished:
            task.set_exception(error)

    def _start_missing_workers(self) -> None:
        """Start as many workers as are missing, if any task waits."""
        while self._queue and len(self._live_workers) < self.workers:
            if self._has_no_processes:
                return
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=serve,
                args=(theirs, self._lifeline, self._identify),
                name="zemosaic-worker",
                daemon=True,
            )
            started_ns = time.time_ns()
            # With our copy closed, the pipe ends when the worker does.
            try:
                with theirs, allow_children(), without_current_folder():
                    process.start()
            except (OSError, EOFError) as error:  # of a limit on processes, memory or files
                ours.close()
                self._has_no_processes = True
                if not self._live_workers:
                    report(f"no process can be started ({error or 'it ended'}): {_WITHOUT_WORKERS}")
                return
            with self._lock:
                self._live_workers.append(_Worker(process, ours, started_ns))

    def _run_tasks_here(self) -> None:
        """Run all waiting tasks in this thread, if no process can be started."""
        while self._has_no_processes and not self._live_workers and not self._closed:
            with self._lock:
                if not self._queue:
                    return
                task = self._queue.popleft()
            task.run_here()

    def _assign_tasks(self) -> None:
        """Send a task to each free worker."""
        for worker in self._live_workers:
            while worker.ready and worker.task is None:
                with self._lock:
                    if worker.killed or not self._queue:
                        break
                    task = worker.task = self._queue.popleft()
                self._send(worker, task)

    def _send(self, worker: _Worker, task: Task) -> None:
        """Send a task to its worker; free the worker if it is cancelled or unpicklable."""
        if not task.future.set_running_or_notify_cancel():
            worker.task = None
            return
        try:
            task.pickle()
        except Exception as error:  # noqa: BLE001 - pickling may raise anything
            worker.task = None
            task.set_exception(error)
            return
        with contextlib.suppress(OSError):  # of a dead worker; its pipe reports the death
            worker.pipe.send_bytes(task.pickled)

    def _pickle_next_tasks(self) -> None:
        """Pickle the next tasks, so that they can be sent at once."""
        with self._lock:
            tasks = list(itertools.islice(self._queue, self.workers))
        for task in tasks:
            with contextlib.suppress(Exception):  # `_send` raises it again
                task.pickle()

    def _handle_messages(self) -> None:
        """Wait for messages from workers and from the other thread, and handle them."""
        readable = wait([self._wakeups, *(worker.pipe for worker in self._live_workers)])
        if self._wakeups in readable:
            with self._lock:
                self._wakeups.recv_bytes()
                self._is_woken = False
        results: list[tuple[Task, bytes]] = []
        try:
            for worker in [worker for worker in self._live_workers if worker.pipe in readable]:
                results += self._receive(worker)
            self._assign_tasks()  # first: no worker must wait while results are unpickled
        finally:
            for task, pickled in results:
                task.set_pickled_result(pickled)
        self._pickle_next_tasks()

    def _receive(self, worker: _Worker) -> list[tuple[Task, bytes]]:
        """Return a worker's result, if its message is one and not its start or its death."""
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._remove_dead_worker(worker)
            return []
        if not worker.ready:
            self._check_identity(message.decode(errors="surrogateescape"))
            worker.ready = True
            pid = worker.process.pid or 0
            start = WorkerStarted(pid=pid, started_ns=worker.started_ns, ready_ns=time.time_ns())
            with self._lock:
                self._starts.append(start)
            return []
        task, worker.task = worker.task, None
        assert task is not None
        return [(task, message)]

    def _check_identity(self, theirs: str) -> None:
        if theirs != (ours := self._identify()):
            raise OtherPackageError(
                f"the workers have imported {theirs}, but the run {ours}; start it from another "
                "folder, or remove one of the two from the import path"
            )

    def _remove_dead_worker(self, worker: _Worker) -> None:
        """Remove a worker; its death becomes the exception of its task."""
        worker.process.kill()  # without its pipe it is useless, even if it is alive
        worker.process.join(EXIT_TIMEOUT)
        exitcode = worker.process.exitcode
        worker.pipe.close()
        if exitcode == UNGUARDED_EXIT and not worker.ready:
            raise UserError(
                "the workers import the script of the run, which starts another run; put its calls "
                'under: if __name__ == "__main__":'
            ) from None
        death = WorkerLostError(255 if exitcode is None else exitcode)
        with self._lock:
            self._live_workers.remove(worker)
            # A worker unable to start costs a task; otherwise it would be replaced for ever.
            if not worker.ready and self._queue:
                worker.task = self._queue.popleft()
            if worker.task is None and not worker.killed:
                self._idle_deaths.append(death)
        if worker.task is not None:
            worker.task.set_exception(death)
