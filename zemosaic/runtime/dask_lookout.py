"""Looks at a Dask cluster: which workers join, which die, which are silent, and which jobs run.

All of it runs on the loop of Dask's client.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection

from ..errors import ClusterLostError, UserError
from ..threads import report
from .dask_cluster import LEASE, Cluster
from .dask_crew import Crew
from .dask_task import RemoteWorker
from .events import WorkerStarted

LOOK = 0.5  # seconds between two looks at the cluster
EXAMINE = 2.0  # seconds between two examinations of a worker
SILENCE = 15.0  # seconds without an answer until the scheduler or a worker is lost
BEGIN_TIME = 60.0  # seconds until a worker that answers has begun a task
JOIN_TIME = 60.0  # seconds without any worker until the run ends
PAUSE = 10.0  # seconds until a silent worker is asked again
COMPARE_CLOCKS = 600.0  # seconds between two measurements of the offsets of the workers' clocks
REPLACE_TIME = 5.0  # seconds until a worker at the address of a killed one is another process


class Lookout:
    """Keeps the workers of a crew.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    crew : Crew
        The crew.
    outlives_run : bool
        Whether the workers need a lease to end their work when the run has ended.
    """

    def __init__(self, cluster: Cluster, crew: Crew, outlives_run: bool) -> None:
        self.starts: deque[WorkerStarted] = deque()
        self._cluster, self._crew, self._outlives_run = cluster, crew, outlives_run
        self._next_meeting: dict[str, float] = {}  # of addresses that the crew does not have
        self._silent_since = 0.0  # the scheduler
        self._next_lease = 0.0
        self._last_worker = time.monotonic()

    async def start(self) -> None:
        """Wait for the first workers, and begin to look at the cluster."""
        while not self._crew.workers:
            threads, _ = await self._cluster.look()
            await asyncio.gather(*(self._meet(address, n) for address, n in threads.items()))
            if not self._crew.workers and time.monotonic() - self._last_worker > JOIN_TIME:
                raise UserError(f"{self._cluster.scheduler}: no worker has joined; start some")
            await asyncio.sleep(0.0 if self._crew.workers else 0.1)
        self._crew.spawn(self._keep_looking())
        self._crew.spawn(self._keep_comparing_clocks())

    async def close(self) -> None:
        """Release the workers, if they outlive the run."""
        if self._outlives_run and self._crew.error is None:
            await self._cluster.part(list(self._crew.workers.values()))

    async def _keep_looking(self) -> None:
        while self._crew.error is None:
            await self._look()
            await asyncio.sleep(LOOK)

    async def _keep_comparing_clocks(self) -> None:
        while self._crew.error is None:
            await asyncio.sleep(COMPARE_CLOCKS)
            for worker in list(self._crew.workers.values()):
                await self._cluster.compare_clocks(worker)

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
            self._silent_since = self._silent_since or now
            self._crew.scheduler_is_silent = True
            silent = time.monotonic() - self._silent_since
            if silent >= SILENCE:
                message = f"the Dask scheduler {self._cluster.scheduler} has not answered"
                raise ClusterLostError(f"{message} for {silent:.0f} s") from error
            return
        self._silent_since, self._crew.scheduler_is_silent = 0.0, False
        for worker in list(self._crew.workers.values()):
            is_replaced = worker.killed_at and now - worker.killed_at >= REPLACE_TIME
            if worker.address not in threads or (is_replaced and worker.about.nanny):
                self._crew.remove(worker)
            elif worker.next_examination <= now and (worker.aside or worker.old_tasks(LOOK)):
                worker.next_examination = math.inf
                self._crew.spawn(self._examine(worker, set(keys.get(worker.address, ()))))
        for address, count in threads.items():
            if address not in self._crew.workers and self._next_meeting.get(address, 0.0) <= now:
                self._crew.spawn(self._meet_late(address, count))
        if self._outlives_run and now >= self._next_lease:
            self._next_lease = now + LEASE / 4
            self._crew.spawn(self._cluster.renew_leases(list(self._crew.workers.values())))
        if any(worker.is_usable for worker in self._crew.workers.values()):
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
        self._crew.workers[address] = worker
        self.starts.append(worker.start)
        self._crew.assign()

    async def _meet_late(self, address: str, threads: int) -> None:
        try:
            await self._meet(address, threads)
        except UserError as error:
            report(f"{error}; this worker is not used")

    async def _examine(self, worker: RemoteWorker, keys: Collection[str]) -> None:
        """Find the jobs that run at a worker; set it aside while it is silent or begins none."""
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
            task.key in keys and now - task.sent >= BEGIN_TIME for task in waiting
        )
        if is_silent or begins_none:
            self._crew.set_aside(worker)
            if not others and await self._cluster.kill(worker, 0) is not None:
                worker.killed_at = now  # its nanny starts another one
        elif answers and worker.aside:
            worker.aside = False
            self._crew.assign()
        pause = PAUSE if worker.aside else min(patience / 5, EXAMINE)
        worker.next_examination = time.monotonic() + pause
