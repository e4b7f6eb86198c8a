"""A Dask cluster as a run sees it: its workers, with their hosts, clocks and nannies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import dask_nanny, dask_worker
from .dask_nanny import Examination
from .dask_task import RemoteTask, RemoteWorker
from .dask_worker import Introduction
from .events import WorkerStarted
from .pool import Host, no_identity

ANSWER_TIME = 5.0  # seconds until a worker, a nanny or the scheduler counts as silent
ROUND_TRIPS = 5  # to the clock of a worker; the fastest counts
SHARE_TIME = 3.0  # seconds until a new file is seen in a shared folder
LEASE = 20.0  # seconds without a run until its jobs are ended


class TaskLostError(Exception):
    """The cluster has lost a task or its result, most likely with its worker.

    With `is_stranger` another process has the address of the worker.
    """

    is_stranger = False


def quiet(awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    """Return a future whose error asyncio does not log, even if nobody waits for it."""
    future = asyncio.ensure_future(awaitable)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


class Cluster:
    """Messages to a cluster, sent on the loop of its client; each ends after seconds at most.

    Parameters
    ----------
    client : distributed.Client
        A connected client, not an asynchronous one.
    identify : callable
        Describes the imported package, here and at the workers.
    """

    def __init__(self, client: Any, identify: Callable[[], str] = no_identity) -> None:
        self.client = client
        self.scheduler = str(client.scheduler.address)  # the client forgets it with the connection
        self.run_id = uuid.uuid4().hex
        self._identify = identify
        self._count = 0
        self._tokens: dict[str, str] = {}

    async def ask(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function at a worker or at a nanny; raise its exceptions."""
        running = quiet(self.client.run(function, *args, workers=[address]))
        answers = await asyncio.wait_for(running, ANSWER_TIME)
        return answers[address]

    async def look(self) -> tuple[Mapping[str, int], Mapping[str, Sequence[str]]]:
        """Return the threads and the keys of the tasks of each worker, from the scheduler."""
        both = quiet(asyncio.gather(self.client.nthreads(), self.client.processing()))
        threads, keys = await asyncio.wait_for(both, ANSWER_TIME)
        return threads, keys

    async def run(
        self,
        worker: RemoteWorker,
        task: RemoteTask,
        on_end: Callable[[], None],
        *origins: bytes,
    ) -> Any:
        """Run a task at a worker and return its pickled result.

        `on_end` is called when the task has ended, before its result is fetched. With the pickled
        `Origins` of its files, it has the result of `run_with_files`.

        Raises
        ------
        TaskLostError
            Neither the task nor its result is at the worker any more.
        """
        self._count += 1
        task.key = f"zemosaic-{self.run_id}-{self._count}"
        function = dask_worker.run_with_files if origins else dask_worker.run_at_worker
        remote = self.client.submit(
            function, self.run_id, task.pickled, *origins, key=task.key,
            workers=[worker.address], pure=False,
        )  # fmt: skip
        state = self.client.futures[task.key]
        try:
            await state.wait()
            if state.status != "finished":
                raise self._failure(state)
            on_end()
            return await self._fetch(task.key)
        finally:
            remote.release()

    def _failure(self, state: Any) -> Exception:
        error = state.exception if state.status == "error" else None
        name = type(error).__name__
        stranger = dask_worker.UnknownRunError.__name__
        if isinstance(error, Exception) and name not in ("KilledWorker", stranger):
            return error
        lost = TaskLostError(f"{state.status}: {error}")
        lost.is_stranger = name == stranger
        return lost

    async def _fetch(self, key: str) -> Any:
        # Not by `Client.gather`, in which one silent worker keeps all results waiting.
        try:
            answer = await self.client.scheduler.gather(keys=[key])
        except Exception as error:  # of many kinds, if the connection is lost
            raise TaskLostError(str(error)) from error
        if answer["status"] != "OK":
            raise TaskLostError(answer["status"])
        return answer["data"][key]

    async def meet(self, address: str, threads: int) -> RemoteWorker:
        """Introduce a worker to the run.

        Raises
        ------
        UserError
            It cannot do the jobs of the run.
        """
        started_ns = time.time_ns()
        try:
            about = await self.ask(address, dask_worker.introduce, self.run_id, self._identify)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{address}: the worker cannot import the package ({error})") from None
        self._check_identity(about)
        await self._check_folders(address, about.host)
        if about.nanny:
            await self.ask(about.nanny, dask_nanny.watch, about.folder, about.kept)
        host = Host(about.host, await self._clock_offset(address))
        start = WorkerStarted(
            pid=about.pid, started_ns=started_ns, ready_ns=time.time_ns(), host=host.name
        )
        return RemoteWorker(address, threads, about, host, start)

    def _check_identity(self, about: Introduction) -> None:
        ours, theirs = self._identify(), about.identity
        if about.host != socket.gethostname():  # the package may be in another folder there
            ours, theirs = ours.partition(" in ")[0], theirs.partition(" in ")[0]
        if theirs != ours:
            raise UserError(
                f"the workers at {about.host} have imported {theirs}, but the run {ours}; "
                "install the same on both"
            )

    def place_tokens(self, folders: Iterable[Path]) -> None:
        """Write a file in each folder that workers must see."""
        for folder in folders:
            path = folder.absolute() / f".zemosaic-{self.run_id}"
            path.write_text(self.run_id)
            self._tokens[str(path)] = self.run_id

    def remove_tokens(self) -> None:
        """Remove the files of `place_tokens`."""
        for path in self._tokens:
            Path(path).unlink(missing_ok=True)

    async def check_folders(self, workers: Sequence[RemoteWorker]) -> list[RemoteWorker]:
        """Check that workers see the files of `place_tokens`; return the silent workers.

        Raises
        ------
        UserError
            One does not.
        """
        checks = [self._check_folders(w.address, w.about.host) for w in workers]
        errors = await asyncio.gather(*checks, return_exceptions=True)
        for error in errors:
            if isinstance(error, UserError):
                raise error
        return [w for w, error in zip(workers, errors, strict=True) if error is not None]

    async def _check_folders(self, address: str, host: str) -> None:
        deadline = time.monotonic() + SHARE_TIME
        while missing := await self.ask(address, dask_worker.missing_files, self._tokens):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{host}: its workers do not see {os.path.dirname(missing[0])} as "
                    f"{socket.gethostname()} does; give the run a folder that all hosts share"
                )
            await asyncio.sleep(0.3)

    async def compare_clocks(self, worker: RemoteWorker) -> None:
        """Measure the offset of a worker's clock again, unless the worker does not answer."""
        with contextlib.suppress(Exception):  # of many kinds, if it is stopped, dead or cut off
            worker.host = Host(worker.host.name, await self._clock_offset(worker.address))

    async def _clock_offset(self, address: str) -> int:
        """Return a worker's clock minus ours, in nanoseconds; 0 if they may well agree.

        In the fastest of some round trips, the worker has read its clock half a trip before or
        after the middle of the trip at most.
        """
        duration, offset = min([await self._round_trip(address) for _ in range(ROUND_TRIPS)])
        return offset if abs(offset) > duration // 2 else 0

    async def _round_trip(self, address: str) -> tuple[int, int]:
        """Return the time of a round trip and the offset of the worker's clock, in nanoseconds."""
        sent = time.time_ns()
        clock = await self.ask(address, dask_worker.clock_ns)
        received = time.time_ns()
        return received - sent, clock - (sent + received) // 2

    async def examine(self, worker: RemoteWorker, patience: float) -> Examination | None:
        """Examine a worker by its nanny, or by itself; return None if neither answers."""
        for address in filter(None, (worker.about.nanny, worker.address)):
            examination = await self._try(address, worker, dask_nanny.examine, patience)
            if examination is not None:
                return examination
        return None

    async def kill(self, worker: RemoteWorker, ticket: int) -> Examination | None:
        """Kill a worker if it has a job of a ticket; return None if its nanny does not answer."""
        examination = await self._try(worker.about.nanny, worker, dask_nanny.kill, ticket)
        if examination is None:  # it may be able to end itself
            await self._try(worker.address, worker, dask_nanny.kill, ticket)
        return examination

    async def bury(self, worker: RemoteWorker) -> Examination | None:
        """Examine a dead worker; return None if its nanny does not answer."""
        return await self._try(worker.about.nanny, worker, dask_nanny.bury)

    async def _try(
        self, address: str, worker: RemoteWorker, function: Callable[..., Any], *args: Any
    ) -> Examination | None:
        place = worker.about.folder, worker.about.pid
        try:
            return await self.ask(address, function, *place, *args) if address else None
        except Exception:  # noqa: BLE001 - of many kinds, if it is stopped, has died or is cut off
            return None

    async def answers(self, worker: RemoteWorker) -> bool:
        """Return whether a worker itself answers."""
        try:
            await self.ask(worker.address, dask_worker.clock_ns)
        except Exception:  # noqa: BLE001 - as above
            return False
        return True

    async def renew_leases(self, workers: Sequence[RemoteWorker]) -> None:
        """Let the workers go on for `LEASE` seconds, after which their nannies end their jobs."""
        folders = {worker.about.folder: worker.about.pid for worker in workers}
        nannies = {worker.about.nanny for worker in workers if worker.about.nanny}
        await asyncio.gather(
            *(self.ask(n, dask_nanny.renew_leases, folders, LEASE) for n in nannies),
            return_exceptions=True,
        )

    async def part(self, workers: Sequence[RemoteWorker]) -> None:
        """End the jobs of workers that outlive the run, and make them forget it."""
        busy = [w for w in workers if w.tasks and not w.killed_at]
        idle = [w for w in workers if not w.tasks and not w.killed_at]
        leave = dask_worker.leave
        await asyncio.gather(
            *(self.kill(w, 0) for w in busy),
            *(self.ask(w.address, leave, self.run_id, w.about.folder) for w in idle),
            return_exceptions=True,
        )
