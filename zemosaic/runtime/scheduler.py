"""The loop of a stage: it runs jobs on a pool and reports its state at any time.

Guarantees:

- Every job has exactly one outcome. The count of ended jobs rises by one with each, up to the
  total, whether a job succeeded, raised, timed out or lost its worker.
- While no job ends, heartbeats name the running jobs, their running times and the waiting jobs.
- With a time-out, no stuck job and no dead worker keeps the loop from ending. Jobs that kill one
  worker after the other end it with a clear failure.
- Outcomes are returned in the order of the jobs, so nothing downstream depends on timing.

Design:

- `wait` instead of `as_completed`, which blocks until a future is done: a stuck job would silence
  the loop. `wait` returns after a tick.
- A window of submissions: `wait` registers with each of its futures, so waiting for all jobs takes
  quadratic time. Also, a submitted job should be about to run.
- Progress is the count of ended jobs, which never falls. Jobs end in any order, so the index of
  the last one does not measure progress.
- Jobs of a millisecond are submitted in batches. The batch's row in the table of running jobs
  names the current one: a death or a time-out is the failure of that job, and the others are
  submitted again, each alone. If the row names none, all of them are submitted again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..errors import ClusterLostError, UserError
from .batcher import Batcher
from .clock import Clock
from .events import Event, JobEnded, JobError, JobSubmitted, Note
from .inflight import Inflight, Row
from .observers import FanOut
from .outcomes import Outcome, OutcomeLog, Serialize, Summarize
from .pool import Pool
from .submission import Batch, Failure, Job, describe_death
from .watch import Watch
from .window import Window
from .worker import TaskResult

DEATHS_PER_WORKER = 4  # in a row, without a result in between: the jobs cannot be done

__all__ = ["Clock", "Job", "Outcome", "run"]


def run(
    jobs: Iterable[Job],
    total: int,
    pool: Pool,
    observers: FanOut,
    *,
    stage: str,
    heartbeat: float = 10.0,
    timeout: float = 0.0,
    clock: Clock | None = None,
    summarize: Summarize = lambda _: ("measured", {}),
    serialize: Serialize = lambda _: None,
    inflight: Inflight | None = None,
    done: int = 0,
    keep: Callable[[Outcome], Any] = lambda outcome: outcome,
) -> list[Any]:
    """Run all jobs and return their outcomes in the order of the jobs.

    Parameters
    ----------
    jobs : iterable of Job
        With increasing indices from 1; consumed as the window has space.
    total : int
        Number of jobs, including the ones done by earlier runs.
    pool : Pool
        Pool to run the jobs; it is left open.
    observers : FanOut
        Receivers of all events.
    stage : str
        Name of the stage, for observers.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    timeout : float
        Seconds after which a running job times out; 0 means never.
    clock : Clock, optional
        Source of all times; the system's clock by default.
    summarize : callable
        Maps a job's value to its outcome and attributes for observers.
    serialize : callable
        Maps the value of a job with a key to lists, numbers and strings.
    inflight : Inflight, optional
        Table in which workers record their current job and step.
    done : int
        Number of jobs done by earlier runs.
    keep : callable
        Maps an outcome to the value to return; with its job it has kilobytes.

    Returns
    -------
    list
        The value by `keep` for each of `jobs`, by default its `Outcome`.
    """
    clock = clock or Clock()
    window = Window(pool, stage, clock, inflight)
    batcher = Batcher(jobs, pool.max_batch)
    outcomes = OutcomeLog(stage, total, done, clock, summarize, serialize, keep)
    watch = Watch(
        window=window,
        batcher=batcher,
        outcomes=outcomes,
        clock=clock,
        heartbeat=heartbeat,
        timeout=timeout,
    )
    return _Loop(pool, observers, clock, inflight, window, batcher, outcomes, watch).run()


@dataclass
class _Loop:
    pool: Pool
    observers: FanOut
    clock: Clock
    inflight: Inflight | None
    window: Window
    batcher: Batcher
    outcomes: OutcomeLog
    watch: Watch
    events: list[Event] = field(default_factory=list)  # dispatched together, once per turn
    deaths: int = 0  # since the last result

    def run(self) -> list[Any]:
        self._write_progress()
        try:
            while True:
                if self.inflight is not None:
                    self.inflight.arm_loop_dump()
                self._fill_window()
                if not self.window:
                    break
                self._dispatch()
                self._run_turn()
        finally:
            # Also after an interrupt: no running job may keep its worker.
            self.window.stop()
            if self.inflight is not None:
                self.inflight.cancel_loop_dump()
            self._dispatch()
        return self.outcomes.in_order()

    def _run_turn(self) -> None:
        """Wait for a batch or a tick, then record ended jobs and report the others."""
        self.window.update_running()
        ended = self.window.wait(self.watch.wait_time())
        now = self.clock.monotonic()
        for future in ended:
            if future in self.window:  # else `_fail_pending` has removed it
                self._finish(future, now)
        self.events += self.pool.worker_starts()
        self._report_idle_deaths()
        self._abandon_overdue(now)
        self.events += [*self.watch.running_jobs(now), *self.watch.slow_jobs(now)]
        self.batcher.add_alone(self.window.recall(now, self.watch.tick))
        self.events += self.watch.heartbeats(now)

    def _fill_window(self) -> None:
        while len(self.window) < self.pool.window and self.window.workers_left > 0:
            jobs = self.batcher.next_jobs(self.outcomes.pending // self.pool.window)
            if not jobs:
                return
            self._submit(jobs)
        if self.window.workers_left <= 0:
            self._fail_pending(JobError("NoWorkersLeft", "every worker of the executor is stuck"))

    def _submit(self, jobs: list[Job]) -> None:
        batch = self.window.prepare(jobs)
        self.events += [
            JobSubmitted(
                stage=self.outcomes.stage,
                index=job.index,
                time_ns=batch.submitted_ns,
                attributes=job.attributes,
            )
            for job in jobs
        ]
        self._dispatch()  # before the job runs, because it may end this process
        self.window.submit(batch)

    def _dispatch(self) -> None:
        events, self.events = self.events, []
        if events:
            self.observers.dispatch(*events)

    def _finish(self, future: Future[TaskResult], now: float) -> None:
        """Record the outcomes of an ended batch."""
        batch, row = self.window.remove(future)
        try:
            result = future.result()
        except ClusterLostError as lost:
            error = JobError(type(lost).__name__, str(lost))
            lost_batches = [(batch, row), *self.window.abandon_all()]
            self._report_ended(self._fail_batches(lost_batches, error), now)
            raise
        except UserError:  # of the pool itself: no job can run
            raise
        except Exception as error:  # noqa: BLE001 - no error of a pool may end the loop
            failure = describe_death(error, self.window.stack(row))
            self._fail_current(batch, row, failure, now)
            self._count_death(failure)
            return
        self.deaths = 0
        if result.error is not None and len(batch.jobs) > 1:  # an unpicklable value
            self._fail_current(batch, None, Failure("failed", result.error), now)
        else:
            self._record_results(batch, result, now)

    def _record_results(self, batch: Batch, result: TaskResult, now: float) -> None:
        ended = []
        shift_ns = batch.clock_shift(result, self.clock.time_ns())
        for job, own_result in batch.results(result):
            if own_result.error is not None:
                outcome = Outcome(job, "failed", error=own_result.error)
            else:
                outcome = Outcome(job, "measured", own_result.value)
                self.batcher.add_duration((own_result.ended_ns - own_result.started_ns) / 1e9)
            ended.append(self.outcomes.record(batch, outcome, own_result, shift_ns))
            for message in own_result.messages:
                self.observers.note_once(message)
        self._report_ended(ended, now)

    def _fail_current(self, batch: Batch, row: Row | None, failure: Failure, now: float) -> None:
        """Record the failure of the job named by a row; submit the others of the batch again."""
        position = 0 if len(batch.jobs) == 1 else batch.position(row)
        self.batcher.add_alone(batch.pending_except(position))
        if position is None:
            count = len(batch.pending_positions)
            message = f"{failure.error}, at one of {count} jobs; each is done again alone"
            self.events.append(Note(level=logging.WARNING, message=message))
        elif position in batch.pending_positions:
            outcome = Outcome(batch.jobs[position], failure.state, error=failure.error)
            self._report_ended([self.outcomes.record(batch, outcome, row)], now)

    def _count_death(self, failure: Failure) -> None:
        """Fail all pending jobs after too many deaths in a row."""
        self.deaths += 1
        if self.deaths >= DEATHS_PER_WORKER * self.pool.workers:
            message = f"{self.deaths} jobs in a row lost their workers ({failure.error})"
            self._fail_pending(JobError("WorkersDie", f"{message}; the rest was not run"))

    def _abandon_overdue(self, now: float) -> None:
        if not self.watch.timeout:
            return
        for future in self.window.overdue(now, self.watch.timeout):
            batch, row = self.window.abandon(future)
            message = f"timed out after {batch.running_time(now):.0f} s"
            error = JobError("TimeoutError", message, self.window.stack(row))
            self._fail_current(batch, row, Failure("timeout", error), now)

    def _fail_pending(self, error: JobError) -> None:
        """Fail all unfinished jobs, which would wait for ever or kill the next worker."""
        now = self.clock.monotonic()
        ended = self._fail_batches(self.window.abandon_all(), error)
        unsubmitted = Batch([], self.clock.time_ns())
        for job in self.batcher.take_all():
            outcome = Outcome(job, "failed", error=error)
            ended.append(self.outcomes.record(unsubmitted, outcome, None))
        self._report_ended(ended, now)

    def _fail_batches(
        self, batches: Iterable[tuple[Batch, Row | None]], error: JobError
    ) -> list[JobEnded]:
        """Record all pending jobs of removed batches as failed."""
        return [
            self.outcomes.record(batch, Outcome(job, "failed", error=error), row)
            for batch, row in batches
            for job in batch.pending_except(None)
        ]

    def _report_ended(self, ended: list[JobEnded], now: float) -> None:
        self.watch.job_ended(now)
        self._write_progress()
        self.events += ended

    def _write_progress(self) -> None:
        if self.inflight is not None:
            outcomes = self.outcomes
            self.inflight.write_progress(outcomes.stage, outcomes.done, outcomes.total)

    def _report_idle_deaths(self) -> None:
        for error in self.pool.idle_deaths():
            message = f"{describe_death(error, '').error}, while it was idle; it is replaced"
            self.events.append(Note(level=logging.WARNING, message=message))
