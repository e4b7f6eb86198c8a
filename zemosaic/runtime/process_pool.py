"""A pool of processes that loses one job, and never more, to the death of a worker.

A worker may be killed at any moment: at a job, between two, while it reads or writes. So every
worker has a pipe of its own and shares no lock with the others; what a dead one leaves half-written
is its own report. One thread of the run deals out jobs and takes reports; it starts, and starts
again, the workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from . import stacks
from .events import JobError
from .pool import Pool
from .worker import TaskResult, run_task

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
DYING = 5.0  # seconds that the kernel may take to bury a worker


class WorkerLostError(Exception):
    """A worker ended without a report; `exitcode` is negative for a signal."""

    def __init__(self, exitcode: int) -> None:
        super().__init__(f"exit code {exitcode}")
        self.exitcode = exitcode


@dataclass(eq=False)
class _Task:
    future: Future[TaskResult]
    call: tuple[Callable[..., Any], tuple[Any, ...]]
    pickled: bytes = b""

    def pickle(self) -> None:
        """Make it ready to be sent, once."""
        self.pickled = self.pickled or bytes(ForkingPickler.dumps(self.call))


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    doomed: bool = False  # killed by us
    task: _Task | None = None


class ProcessPool(Pool):
    """Worker processes, started with the first job."""

    kind = "processes"
    max_batch = 128

    def __init__(self, workers: int, preload: Sequence[str] = ()) -> None:
        self.workers = workers
        self._context = _context(preload)
        self._lifeline, self._held = self._context.Pipe(duplex=False)
        self._wake, self._bell = self._context.Pipe(duplex=False)
        self._tasks: deque[_Task] = deque()  # that no worker has yet
        self._crew: list[_Worker] = []
        self._lost: list[Exception] = []
        self._lock = threading.Lock()  # of all that follows: both threads change it
        self._rung = self._closed = False
        self._thread = threading.Thread(target=self._work, name="zemosaic-pool", daemon=True)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue the job for the next worker that is free."""
        task = _Task(Future(), (function, args))
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._thread.ident is None:
                self._thread.start()
            self._tasks.append(task)
            if len(self._crew) < self.workers or not all(w.task for w in self._crew):
                self._ring()  # else the end of a job wakes who deals them out
        return task.future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Kill the worker that is at the job; another takes its place."""
        future.cancel()
        with self._lock:
            for worker in self._crew:
                if worker.task is not None and worker.task.future is future:
                    worker.doomed = True
                    worker.process.kill()
        return True

    def idle_deaths(self) -> list[Exception]:
        """Deaths, since this was last asked, of workers that waited for a job."""
        with self._lock:
            lost, self._lost = self._lost, []
        return lost

    def close(self) -> None:
        """Kill the workers."""
        with self._lock:
            self._closed = True
            self._ring()
        if self._thread.ident is not None:
            self._thread.join(DYING)
        for pipe in (self._held, self._lifeline, self._bell, self._wake):
            pipe.close()

    def _ring(self) -> None:
        if not self._rung:  # the pipe holds few rings, and one is enough
            self._rung = True
            self._bell.send_bytes(b"!")

    def _work(self) -> None:
        error: Exception = CancelledError("the pool was closed")
        try:
            while not self._closed:
                self._staff()
                self._deal()
                self._listen()
        except Exception as raised:  # noqa: BLE001 - nobody may wait for jobs that nobody does
            error = raised
        with self._lock:
            self._closed = True
            left = [*self._tasks, *(worker.task for worker in self._crew if worker.task)]
        for worker in self._crew:
            worker.process.kill()
        for worker in self._crew:
            worker.process.join(DYING)
            worker.pipe.close()
        for task in left:
            _fail(task, error)

    def _staff(self) -> None:
        """Start the workers that are missing, if there is anything to do."""
        while self._tasks and len(self._crew) < self.workers:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_serve, args=(theirs, self._lifeline), name="zemosaic-worker", daemon=True
            )
            with theirs:  # so that the end of the worker is that of the pipe
                process.start()
            with self._lock:
                self._crew.append(_Worker(process, ours))

    def _deal(self) -> None:
        """Give every worker that is free a job."""
        for worker in self._crew:
            while worker.ready and worker.task is None:
                with self._lock:
                    if worker.doomed or not self._tasks:
                        break
                    task = worker.task = self._tasks.popleft()
                if not task.future.set_running_or_notify_cancel():
                    worker.task = None
                    continue
                try:
                    task.pickle()
                except Exception as error:  # noqa: BLE001 - whatever pickling raises
                    worker.task = None
                    _fail(task, error)
                    continue
                with contextlib.suppress(OSError):  # it died, as the end of its pipe will tell
                    worker.pipe.send_bytes(task.pickled)

    def _prepare(self) -> None:
        """Make the next tasks ready to be sent."""
        with self._lock:
            soon = list(itertools.islice(self._tasks, self.workers))
        for task in soon:
            with contextlib.suppress(Exception):  # which `_deal` will see
                task.pickle()

    def _listen(self) -> None:
        """Wait until somebody has something to say."""
        ready = wait([self._wake, *(worker.pipe for worker in self._crew)])
        if self._wake in ready:
            with self._lock:
                self._wake.recv_bytes()
                self._rung = False
        heard: list[tuple[_Task, bytes]] = []
        try:
            for worker in [worker for worker in self._crew if worker.pipe in ready]:
                heard += self._hear(worker)
            self._deal()  # first, so that nobody waits while reports are read
        finally:
            for task, said in heard:
                _report(task, said)
        self._prepare()

    def _hear(self, worker: _Worker) -> list[tuple[_Task, bytes]]:
        """Take what a worker says: that it is there, a report, or nothing any more."""
        try:
            said = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return []
        if not worker.ready:
            worker.ready = True
            return []
        task, worker.task = worker.task, None
        assert task is not None
        return [(task, said)]

    def _bury(self, worker: _Worker) -> None:
        """Charge the death of a worker to the job that it was at."""
        worker.process.kill()  # were it alive, it could tell us nothing
        worker.process.join(DYING)
        code = worker.process.exitcode
        worker.pipe.close()
        with self._lock:
            self._crew.remove(worker)
            if not worker.ready and self._tasks:  # else workers that cannot start would for ever
                worker.task = self._tasks.popleft()
            death = WorkerLostError(255 if code is None else code)
            if worker.task is None and not worker.doomed:
                self._lost.append(death)
        if worker.task is not None:
            _fail(worker.task, death)


def _report(task: _Task, said: bytes) -> None:
    try:
        report = pickle.loads(said)
    except Exception as error:  # noqa: BLE001 - whatever unpickling raises
        _fail(task, error)
    else:
        with contextlib.suppress(InvalidStateError):  # it was given up
            task.future.set_result(report)


def _fail(task: _Task, error: Exception) -> None:
    with contextlib.suppress(InvalidStateError):  # it was given up
        task.future.set_exception(error)


def _serve(pipe: Connection, lifeline: Connection) -> None:
    """What a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(lifeline)
    _keep_memory()
    stacks.use_alarm()
    with contextlib.suppress(EOFError, OSError):  # the end of the run
        pipe.send_bytes(b"ready")
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _answer(pickled: bytes) -> bytes:
    """Do a job; the report, or why there is none."""
    report = TaskResult(None, None, 0, 0, os.getpid())
    try:
        function, args = pickle.loads(pickled)
        report = run_task(function, args)
        return bytes(ForkingPickler.dumps(report))
    except Exception as error:  # noqa: BLE001 - whatever pickling raises
        return pickle.dumps(replace(report, value=None, error=JobError.of(error)))


def _keep_memory() -> None:
    """Have glibc keep the memory that a job frees for the next one.

    By itself it gives arrays of some size back to the kernel, which clears their pages anew for
    the next: up to a quarter of the time that previews take. Elsewhere nothing is done.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another library of C
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_TRIM_THRESHOLD, 1 << 28)
            libc.mallopt(_MMAP_THRESHOLD, 1 << 25)  # its upper limit


def _die_with(lifeline: Connection) -> None:
    """Have the kernel end this worker when the run ends, however that dies.

    A worker that waits for a job sees the end of its pipe; one that holds the interpreter's lock
    for ever sees nothing, and would outlive its run as long. The end of a pipe of which only the
    run holds the other side is a signal, whose default is to end the process. Elsewhere than on
    Linux such a worker stays, and the autopsy names it.
    """
    if sys.platform != "linux":
        return
    import fcntl

    with contextlib.suppress(OSError):  # without /proc it is as elsewhere
        # Opened anew, since all workers share the pipe as it came, and that has but one owner.
        mine = os.open(f"/proc/self/fd/{lifeline.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(mine, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(mine, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    if lifeline.poll():  # the run died before
        os._exit(1)


def start_server(preload: Sequence[str]) -> None:
    """Start the server that forks workers, where there is one, so that it imports meanwhile."""
    if _context(preload).get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def _context(preload: Sequence[str]) -> Any:
    """How workers are started: never by a plain fork, which copies locks that threads hold."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        # The server imports these modules once; every worker that it forks has them.
        context.set_forkserver_preload([*preload, __name__])
        return context
    return multiprocessing.get_context("spawn")
