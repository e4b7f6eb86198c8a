"""A Dask cluster as a run sees it: its workers, with their hosts, clocks and nannies."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .dask_worker import (
    Examination,
    Introduction,
    clock_ns,
    examine,
    introduce,
    leave,
    missing_files,
    watch,
)
from .events import WorkerStarted
from .inflight import Slot
from .pool import no_identity
from .process_task import Task

ANSWER_TIME = 5.0  # seconds until a worker, a nanny or the scheduler counts as silent
PAUSE = 30.0  # seconds until a silent worker or nanny is asked again
LEAVE_TIME = 1.0  # seconds until workers have forgotten a run
ROUND_TRIPS = 5  # to the clock of a worker; the fastest counts


@dataclass(eq=False, kw_only=True)
class RemoteTask(Task):
    """A task, and what the cluster does with it."""

    slot: Slot | None = None
    remote: Any = None  # Dask's future, once a worker has been chosen
    submitted_ns: int = 0
    assigned: float = 0.0  # by `time.monotonic`
    losses: int = 0  # of workers, for which it may not have been the reason
    abandoned: bool = False  # by the run: no worker shall have it again
    alone: bool = False  # no other task may be with its worker, which it may kill

    @property
    def has_ended(self) -> bool:
        """Whether its result waits at the worker."""
        return self.remote is not None and self.remote.status == "finished"

    def start(self) -> None:
        """Mark the future as running, if it is not yet."""
        if not self.future.running() and not self.future.done():
            self.future.set_running_or_notify_cancel()


@dataclass(eq=False)
class RemoteWorker:
    """A worker, and its tasks in the order in which it runs them."""

    address: str
    threads: int
    about: Introduction
    offset_ns: int  # of its clock
    start: WorkerStarted
    tasks: list[RemoteTask] = field(default_factory=list)
    killed: bool = False  # by us
    next_examination: float = 0.0  # by `time.monotonic`
    is_held_up: bool = False  # by a long task: no other shall wait behind it

    @property
    def running(self) -> list[RemoteTask]:
        """The tasks that have a thread: a result that is not yet fetched needs none."""
        return [task for task in self.tasks if not task.has_ended][: self.threads]

    @property
    def waiting(self) -> list[RemoteTask]:
        """The tasks behind those."""
        return [task for task in self.tasks if not task.has_ended][self.threads :]

    @property
    def room(self) -> int:
        """Number of tasks that it can receive: one waits, so that the worker does not."""
        if self.killed or any(task.alone for task in self.tasks):
            return 0
        return self.threads + (not self.is_held_up) - len(self.tasks)


class Cluster:
    """Messages to a cluster, with an answer or an exception after seconds at most.

    Parameters
    ----------
    client : distributed.Client
        A connected client, not an asynchronous one.
    identify : callable
        Describes the imported package, here and at the workers.
    lifeline : str
        A named pipe with which the workers end; empty if they outlive the run.
    """

    def __init__(
        self, client: Any, identify: Callable[[], str] = no_identity, lifeline: str = ""
    ) -> None:
        self.client = client
        self.scheduler = str(client.scheduler.address)  # the client forgets it with the connection
        self.run_id = uuid.uuid4().hex
        self._identify, self._lifeline = identify, lifeline
        self._tokens: dict[str, str] = {}
        self._next_meeting: dict[str, float] = {}  # of workers refused or silent

    def sync(self, function: Callable[..., Awaitable[Any]], *args: Any, seconds: float) -> Any:
        """Run a coroutine on the loop of the client, and wait for its result."""
        return self.client.sync(function, *args, asynchronous=False, callback_timeout=seconds)

    async def ask(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function at a worker or at a nanny; raise what it raises."""
        answers = await asyncio.wait_for(
            self.client.run(function, *args, workers=[address]), ANSWER_TIME
        )
        return answers[address]

    async def examine_all(
        self, workers: Sequence[tuple[RemoteWorker, float]]
    ) -> list[Examination | None]:
        """Examine workers at the same time; see `dask_worker.examine` for the seconds."""
        return await asyncio.gather(
            *(self.try_examine(worker, examine, patience) for worker, patience in workers)
        )

    def examine(
        self, worker: RemoteWorker, function: Callable[..., Any], *args: Any
    ) -> Examination | None:
        """Examine a worker, kill or bury it; return None without an answer of its nanny."""
        return self.sync(self.try_examine, worker, function, *args, seconds=2 * ANSWER_TIME)

    async def try_examine(
        self, worker: RemoteWorker, function: Callable[..., Any], *args: Any
    ) -> Examination | None:
        """As `examine`, on the loop of the client."""
        if not worker.about.nanny:
            return None
        place = worker.about.folder, worker.about.pid
        try:
            return await self.ask(worker.about.nanny, function, *place, *args)
        except Exception:  # noqa: BLE001 - a nanny may fail in any way
            return None

    def place_tokens(self, folders: Sequence[Path]) -> None:
        """Write a file in each folder that workers must see."""
        for folder in folders:
            path = folder.absolute() / f".zemosaic-{self.run_id}"
            path.write_text(self.run_id)
            self._tokens[str(path)] = self.run_id

    def remove_tokens(self) -> None:
        """Remove the files of `place_tokens`."""
        for path in self._tokens:
            Path(path).unlink(missing_ok=True)

    async def look(self) -> tuple[Mapping[str, int], Mapping[str, Sequence[str]]]:
        """Return the threads and the keys of the tasks of each worker, from the scheduler."""
        both = asyncio.gather(self.client.nthreads(), self.client.processing())
        threads, keys = await asyncio.wait_for(both, ANSWER_TIME)
        return threads, keys

    async def meet(self, threads: Mapping[str, int]) -> list[RemoteWorker | UserError]:
        """Introduce new workers to the run; one that cannot do its jobs is an error."""
        now = time.monotonic()
        new = [address for address in threads if self._next_meeting.get(address, 0.0) <= now]
        met = await asyncio.gather(
            *(self._meet(address, threads[address]) for address in new), return_exceptions=True
        )
        found: list[RemoteWorker | UserError] = []
        for address, answer in zip(new, met, strict=True):
            worker = answer
            if isinstance(answer, (ImportError, AttributeError)):
                worker = UserError(f"{address}: the worker cannot import the package ({answer})")
            # A silent one would delay each look.
            self._next_meeting[address] = math.inf if isinstance(worker, UserError) else now + PAUSE
            if isinstance(worker, (RemoteWorker, UserError)):
                found.append(worker)
        return found

    async def _meet(self, address: str, threads: int) -> RemoteWorker:
        started_ns = time.time_ns()
        about = await self.ask(address, introduce, self.run_id, self._identify, self._lifeline)
        await self._check_folders(address, about.host)
        if about.identity != (ours := self._identify()):
            raise UserError(
                f"the workers at {about.host} have imported {about.identity}, but the run {ours}; "
                "install the same on both"
            )
        if about.nanny:
            await self.ask(about.nanny, watch, about.pid)
        trips = [await self._round_trip(address) for _ in range(ROUND_TRIPS)]
        start = WorkerStarted(pid=about.pid, started_ns=started_ns, ready_ns=time.time_ns())
        return RemoteWorker(address, threads, about, min(trips)[1], start)

    async def check_folders(self, workers: Sequence[RemoteWorker]) -> None:
        """Check that workers see the files of `place_tokens`; see `_check_folders`."""
        await asyncio.gather(*(self._check_folders(w.address, w.about.host) for w in workers))

    async def _check_folders(self, address: str, host: str) -> None:
        if missing := await self.ask(address, missing_files, self._tokens):
            raise UserError(
                f"{host}: its workers do not see {os.path.dirname(missing[0])} as "
                f"{socket.gethostname()} does; give the run a folder that all hosts share"
            )

    async def _round_trip(self, address: str) -> tuple[int, int]:
        """Return the time of a round trip and the offset of the worker's clock, in nanoseconds."""
        sent = time.time_ns()
        clock = await self.ask(address, clock_ns)
        received = time.time_ns()
        return received - sent, clock - (sent + received) // 2

    async def part(self, workers: Sequence[RemoteWorker]) -> None:
        """Make workers that outlive the run forget it."""
        live = [worker for worker in workers if not worker.killed]
        left = asyncio.gather(
            *(self.ask(w.address, leave, self.run_id, w.about.folder) for w in live),
            return_exceptions=True,
        )
        await asyncio.wait_for(left, LEAVE_TIME)


def connect(address: str) -> Any:
    """Return a client of a running cluster.

    Raises
    ------
    UserError
        There is no scheduler, or distributed is not installed.
    """
    distributed = _distributed()
    try:
        return distributed.Client(address, timeout=5, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{address}: no Dask scheduler answers ({reason})") from None


def start_local(workers: int) -> tuple[Any, Any]:
    """Start a cluster on this machine, one thread per worker; return it and its client."""
    import logging

    distributed = _distributed()
    import dask

    # A worker dies with its task: no other worker shall try it.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
    return cluster, distributed.Client(cluster, set_as_default=False)


def end_local(cluster: Any, workers: Sequence[RemoteWorker]) -> None:
    """Kill the workers of a cluster on this machine, and close it."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
    for worker in workers:
        try:
            os.kill(worker.about.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        except ProcessLookupError:
            continue
    cluster.close(timeout=ANSWER_TIME)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise UserError("--pool dask needs distributed; pip install 'zemosaic[dask]'") from None
    return distributed
