"""A pool of the workers of a Dask cluster: of this machine, or of many.

Each thread of a worker has one task at a time, sent to that worker alone: Dask moves no task, and
tries none again. So a task is about to run, and whatever a worker does concerns the tasks that it
has. Which of them run is read from the worker's own table. A death costs the job that the table
names; a task of which it names none, as when a host is lost, goes to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from ..errors import ClusterLostError, UserError
from .dask_cluster import ANSWER_TIME, Cluster
from .dask_connect import LocalCluster, connect
from .dask_crew import Crew
from .dask_files import checked, read_part, wait_for
from .dask_lookout import JOIN_TIME, Lookout
from .dask_task import RemoteFuture, RemoteTask
from .events import WorkerStarted
from .inflight import Slot
from .kept_files import Call, KeptFile, KeptFiles, kept_files, using
from .pool import LOCAL, Host, Pool, no_identity
from .worker import TaskResult


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
    keeps_files = True

    def __init__(
        self, target: Any, workers: int, identify: Callable[[], str] = no_identity
    ) -> None:
        self._local = LocalCluster(workers) if target == "dask" else None
        self._owns_client = isinstance(target, str)
        if self._local is not None:
            client = self._local.client
        else:
            client = connect(f"tcp://{target[7:]}") if self._owns_client else target
            if client.asynchronous:
                raise UserError("the client of the Dask cluster is asynchronous; give another one")
        self._cluster = Cluster(client, identify)
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        self._crew = Crew(self._cluster)
        self._lookout = Lookout(self._cluster, self._crew, outlives_run=self._local is None)
        self._closed = False
        self._kept = Path()  # the folder of kept files; empty if the run has none
        try:
            self._await(self._lookout.start(), JOIN_TIME + 4 * ANSWER_TIME)
        except BaseException as error:
            self.close()
            if isinstance(error, (TimeoutError, OSError)):
                scheduler = self._cluster.scheduler
                raise UserError(f"{scheduler}: the Dask scheduler does not answer") from None
            raise

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Number of threads of all workers, which may join at any time."""
        return max(1, sum(w.threads for w in list(self._crew.workers.values()) if w.is_usable))

    @property
    def rows(self) -> int:
        """Rows of the table of running jobs, also for workers that join later."""
        return max(1024, self.window)

    def _await(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Run a coroutine on the loop of the client, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Require that all workers see these folders.

        Raises
        ------
        UserError
            One does not.
        """
        self._cluster.place_tokens(folders)
        workers = list(self._crew.workers.values())
        for silent in self._await(self._cluster.check_folders(workers), 4 * ANSWER_TIME):
            # If it answers again, it is introduced again, and checked.
            self._loop.call_soon_threadsafe(self._crew.remove, silent)

    def keep_files(self, folder: Path, make: Callable[[str], Call | None]) -> None:
        """Prepare the pool for calls with kept files."""
        self._kept = folder / self._cluster.run_id
        self._crew.holders.make = make

    def find_kept(self, file: KeptFile) -> Path:
        """Return the path of a kept file, copied to this machine or made again there."""
        holders = self._crew.holders
        origins = holders.origins([file], [file])
        files = KeptFiles(self._kept, self._read_part, origins)
        with using(files):
            return files.find(file)

    def _read_part(self, address: str, name: str, offset: int) -> bytes:
        question = self._cluster.ask(address, read_part, self._cluster.run_id, name, offset)
        return checked(wait_for(question, self._loop), address)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Queue a task for the next free worker."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        future = RemoteFuture()
        slot = args[0] if args and isinstance(args[0], Slot) else None
        files = kept_files(args) if self._kept.parts else set()
        future.task = RemoteTask(future, (function, args), slot=slot, files=files)
        self._loop.call_soon_threadsafe(self._crew.enqueue, future.task)
        return future

    def abandon(self, future: Future[TaskResult]) -> bool:
        """Kill the worker of a running task; its other tasks go to other workers."""
        with contextlib.suppress(TimeoutError):
            self._await(self._crew.abandon(future), ANSWER_TIME)
        return True

    def abandon_all(self, futures: Iterable[Future[TaskResult]]) -> None:
        """Abandon tasks without waiting for the deaths of their workers."""
        for future in futures:
            asyncio.run_coroutine_threadsafe(self._crew.abandon(future), self._loop)

    def host(self, future: Future[TaskResult]) -> Host:
        """Return the machine to which a task was last sent."""
        return future.task.host if isinstance(future, RemoteFuture) else LOCAL

    def idle_deaths(self) -> list[Exception]:
        """Return the deaths of idle workers since the last call."""
        deaths = self._crew.idle_deaths
        return [deaths.popleft() for _ in range(len(deaths))]

    def worker_starts(self) -> list[WorkerStarted]:
        """Return the workers that have become ready since the last call."""
        if not self._loop.is_running():
            self._crew.fail(ClusterLostError("the client of the Dask cluster was closed"))
        starts = self._lookout.starts
        return [starts.popleft() for _ in range(len(starts))]

    def close(self) -> None:
        """End a cluster of our own; release the workers of others. Unfinished tasks fail."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError, RuntimeError):  # of an ended loop
            self._await(self._lookout.close(), 2 * ANSWER_TIME)
        with contextlib.suppress(RuntimeError):
            error = CancelledError("the pool was closed")
            self._loop.call_soon_threadsafe(self._crew.close, error)
        self._cluster.remove_tokens()
        if self._local is not None:
            self._local.close()
        elif self._owns_client:
            with contextlib.suppress(TimeoutError, OSError):
                self._cluster.client.close(timeout=ANSWER_TIME)
