"""The submitted, unfinished batches."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future

from .clock import Clock
from .inflight import Inflight, Row
from .pool import Host, Pool
from .submission import Batch, Job
from .worker import TaskResult


class Window:
    """Submitted batches by their futures, each with a row in the table of running jobs.

    Parameters
    ----------
    pool : Pool
        Pool to run the batches.
    stage : str
        Name of the stage, written to the table.
    clock : Clock
        Source of all times.
    inflight : Inflight, optional
        Table in which workers record their current job and step.
    """

    def __init__(self, pool: Pool, stage: str, clock: Clock, inflight: Inflight | None) -> None:
        self.workers_left = pool.workers
        self._pool, self._stage, self._clock, self._inflight = pool, stage, clock, inflight
        self._batches: dict[Future[TaskResult], Batch] = {}
        self._marks_running = pool.marks_running

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, future: Future[TaskResult]) -> bool:
        return future in self._batches

    @property
    def batches(self) -> Collection[Batch]:
        """All batches, in the order of their submission."""
        return self._batches.values()

    def prepare(self, jobs: Sequence[Job]) -> Batch:
        """Return a batch of jobs, with a row of the table if one is free."""
        slot = self._inflight.allocate(self._stage) if self._inflight else None
        return Batch(list(jobs), self._clock.time_ns(), slot)

    def submit(self, batch: Batch) -> None:
        """Submit a batch; if the pool raises, the batch fails with the exception."""
        try:
            future = self._pool.submit(*batch.call)
        except Exception as error:  # noqa: BLE001 - a broken pool must not end the loop
            future = Future()
            future.set_exception(error)
        self._batches[future] = batch

    def wait(self, timeout: float) -> list[Future[TaskResult]]:
        """Wait until a batch ends, for at most `timeout` seconds; return all ended ones."""
        ended = self._clock.wait(self._batches, timeout)
        return sorted(ended, key=lambda future: self._batches[future].jobs[0].index)

    def update_running(self) -> None:
        """Update which batches run, and the current job of each."""
        now = self._clock.monotonic()
        presumed = self._presumed_running()
        for future, batch in self._batches.items():
            if not (future.running() or future in presumed):
                if self._marks_running and not future.done():
                    batch.running_since = None  # it has lost its worker and waits for another
                continue
            if batch.running_since is not None and len(batch.pending_positions) == 1:
                continue
            position = 0 if len(batch.jobs) == 1 else batch.position(self.row(batch))
            if batch.running_since is None or position not in (None, batch.current):
                batch.start_job(position or 0, now, self._clock.time_ns())

    def _presumed_running(self) -> set[Future[TaskResult]]:
        """Return the oldest unfinished submissions, one per worker, if futures do not show it."""
        # An executor of unknown kind may well mark its futures: the first one seen decides.
        self._marks_running |= any(future.running() for future in self._batches)
        if self._marks_running:
            return set()
        unfinished = (future for future in self._batches if not future.done())
        return set(itertools.islice(unfinished, max(0, self.workers_left)))

    def overdue(self, now: float, timeout: float) -> Iterator[Future[TaskResult]]:
        """Yield the batches with a current job that has run for `timeout` seconds or longer."""
        for future, batch in list(self._batches.items()):
            if batch.running_time(now) >= timeout and not future.done():
                yield future

    def recall(self, now: float, limit: float) -> list[Job]:
        """Remove and return the jobs waiting behind one that has run for `limit` seconds."""
        overdue = [
            batch
            for batch in self._batches.values()
            if len(batch.pending_positions) > 1 and batch.running_time(now) >= limit
        ]
        if overdue:
            # A worker may have gone on meanwhile: the job that it is stuck at would be recalled
            # as well, and hold up a second worker.
            self.update_running()
        jobs: list[Job] = []
        for batch in overdue:
            if batch.running_time(now) >= limit:
                jobs += batch.recall_waiting()
        return jobs

    def abandon(self, future: Future[TaskResult]) -> tuple[Batch, Row | None]:
        """End and remove a stuck batch."""
        if not self._pool.abandon(future):
            self.workers_left -= 1
        return self.remove(future)

    def abandon_all(self) -> Iterator[tuple[Batch, Row | None]]:
        """End and remove all batches."""
        for future in list(self._batches):
            yield self.abandon(future)

    def stop(self) -> None:
        """End all batches; their rows stay in the table for whoever examines the run."""
        self._pool.abandon_all(self._batches)

    def remove(self, future: Future[TaskResult]) -> tuple[Batch, Row | None]:
        """Remove a batch and free its row; return both, the row as its worker left it."""
        batch = self._batches.pop(future)
        batch.host = self._pool.host(future)
        if self._inflight is None or batch.slot is None:
            return batch, None
        return batch, self._inflight.release(batch.slot)

    def row(self, batch: Batch) -> Row | None:
        """Return the row of a batch's current job; None if there is none."""
        return self._inflight.read_row(batch.slot) if self._inflight and batch.slot else None

    def host(self, batch: Batch) -> Host:
        """Return the machine of the worker of a submitted batch."""
        return next(self._pool.host(f) for f, other in self._batches.items() if other is batch)

    def stack(self, row: Row | None) -> str:
        """Return the stack of the worker of a row; empty if unknown."""
        return self._inflight.stack(row) if self._inflight and row else ""
