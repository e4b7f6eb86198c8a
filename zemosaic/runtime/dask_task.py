"""The tasks of a Dask cluster and its workers, as the run knows them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from pathlib import Path

from .dask_nanny import Examination
from .dask_worker import Introduction
from .events import WorkerStarted
from .inflight import Slot
from .pool import LOCAL, Host
from .process_task import Task
from .run_folder import RunFolder
from .worker import TaskResult


class RemoteFuture(Future[TaskResult]):
    """Runs while its task does, which may lose its worker and wait again."""

    task: RemoteTask

    def running(self) -> bool:
        """Return whether a job of the task is known to run."""
        return self.task.running and not self.done()


@dataclass(eq=False, kw_only=True)
class RemoteTask(Task):
    """A task, and its stay at a worker.

    Parameters
    ----------
    slot : Slot, optional
        Its row in the run's table.
    key, sent : str, float
        Its name at the scheduler, and when it was sent, by `time.monotonic`.
    taken : asyncio.Future
        Has a result once the worker no longer has it.
    running : bool
        Whether one of its jobs is known to run.
    losses : int
        Workers lost with it, for which it may not have been the reason.
    alone : bool
        No other task may be with its worker, which it may kill.
    host : Host
        The machine to which it was last sent.
    files, remake : set of str
        Kept files among its arguments, and which of them it may have to make itself.
    skipped : int
        How often a later task went first, to a worker that had its files.
    """

    slot: Slot | None = None
    key: str = ""
    sent: float = 0.0
    taken: asyncio.Future[None] | None = None
    running: bool = False
    losses: int = 0
    alone: bool = False
    host: Host = LOCAL
    files: set[str] = field(default_factory=set)
    remake: set[str] = field(default_factory=set)
    skipped: int = 0

    def record(self, worker: RemoteWorker, examination: Examination) -> None:
        """Copy its row in the table of a worker, and its stack, into the run's folder."""
        if self.slot is None:
            return
        row = examination.rows.get(self.slot.ticket)
        self.running = row is not None
        if row is None:
            self.slot.copy(None)
            return
        offset = worker.host.offset_ns
        row = replace(
            row, started_ns=row.started_ns - offset, step_ns=row.step_ns - offset,
            host=worker.about.host,
        )  # fmt: skip
        self.slot.copy(row)
        if stack := examination.stacks.get(self.slot.ticket):
            path = RunFolder(Path(self.slot.path).parent).stack(row.pid, row.host)
            with contextlib.suppress(OSError):  # a full disk must not end the run
                path.write_text(stack + "\n")

    def wait_again(self) -> None:
        """Run no more, after the loss of its worker."""
        self.running = False
        if self.slot is not None and not self.future.done():  # else the row may be another's
            self.slot.copy(None)

    def set_pickled_result(self, pickled: bytes) -> None:
        """Set the result of the future, which is in the form of `run_at_worker`."""
        try:
            result = pickle.loads(pickled)
        except Exception as error:  # noqa: BLE001 - unpickling may raise anything
            self.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):  # the task was abandoned
                self.future.set_result(result)


@dataclass(eq=False)
class RemoteWorker:
    """A worker, and its tasks: no more than it has threads, so none waits behind another of ours.

    It begins the next task while the result of the one before is fetched.

    Parameters
    ----------
    address, threads : str, int
        As the scheduler knows it.
    about : Introduction
        Its description.
    host : Host
        Its machine.
    start : WorkerStarted
        Its introduction.
    tasks : list of RemoteTask
        Sent to it.
    ended : list of RemoteTask
        It has their results, which are being fetched.
    killed_at : float
        When we have killed it or were about to, by `time.monotonic`; 0 if it lives.
    aside : bool
        It has no tasks because it does not do them.
    silent_since, next_examination : float
        By `time.monotonic`; 0 if it is not silent, infinite during an examination.
    """

    address: str
    threads: int
    about: Introduction
    host: Host
    start: WorkerStarted
    tasks: list[RemoteTask] = field(default_factory=list)
    ended: list[RemoteTask] = field(default_factory=list)
    killed_at: float = 0.0
    aside: bool = False
    silent_since: float = 0.0
    next_examination: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether it can have tasks."""
        return not (self.killed_at or self.aside)

    def has_room(self, task: RemoteTask) -> bool:
        """Return whether it can begin a task at once."""
        if not self.is_usable or any(other.alone for other in self.tasks):
            return False
        return len(self.tasks) < (1 if task.alone else self.threads)

    def end(self, task: RemoteTask) -> bool:
        """Record that a task has ended; return False if it was taken away before."""
        if task not in self.tasks:
            return False
        self.tasks.remove(task)
        self.ended.append(task)
        task.running = False
        return True

    def find(self, future: Future[TaskResult]) -> RemoteTask | None:
        """Return the task of a future; None if it has none."""
        return next((task for task in self.tasks if task.future is future), None)

    def suspects(self, examination: Examination | None) -> list[RemoteTask]:
        """Return the tasks of which one has killed the worker, by its table or, without, any."""
        if self.killed_at or examination is None:
            return []
        return [t for t in self.tasks if t.slot is None or t.slot.ticket in examination.rows]

    def old_tasks(self, age: float) -> list[RemoteTask]:
        """Return the tasks sent to it at least `age` seconds ago."""
        since = time.monotonic() - age
        return [task for task in (*self.tasks, *self.ended) if task.sent <= since]

    def patience(self) -> float:
        """Return the seconds after which the stack of a job is wanted; infinite for never."""
        times = [t.slot.dump_after for t in self.tasks if t.slot and t.slot.dump_after]
        return min(times, default=math.inf)
