"""Reports of slow jobs and of silence, and the time until the loop must look again."""

from __future__ import annotations

from dataclasses import dataclass

from .batcher import Batcher
from .clock import Clock
from .events import Heartbeat, JobRunning, SlowJob
from .outcomes import OutcomeLog
from .submission import Batch
from .window import Window

TICK = 2.0  # longest wait between two looks at the pool, in seconds; see `Watch.tick`
SHORTEST_WAIT = 0.01  # seconds: no busy loop if an overdue job ends just before it is abandoned
PENDING_NAMED = 64  # indices in a heartbeat: enough to see a pattern, small in every trace
SLOW_FACTOR = 10.0  # a job is slow at this multiple of the median duration


@dataclass(kw_only=True)
class Watch:
    """Builds the events of a stage in which jobs are slow or none ends.

    Parameters
    ----------
    window, batcher, outcomes : Window, Batcher, OutcomeLog
        Submitted, waiting and ended jobs.
    clock : Clock
        Source of all times.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    timeout : float
        Seconds after which a running job times out; 0 means never.
    """

    window: Window
    batcher: Batcher
    outcomes: OutcomeLog
    clock: Clock
    heartbeat: float
    timeout: float

    def __post_init__(self) -> None:
        self._last_end = self._last_heartbeat = self.clock.monotonic()

    @property
    def tick(self) -> float:
        """Longest wait in seconds: a fifth of the heartbeat at most, to send it on time."""
        return min(TICK, self.heartbeat / 5)

    def wait_time(self) -> float:
        """Return the seconds until a tick has passed or the next job times out."""
        if not self.timeout:
            return self.tick
        now = self.clock.monotonic()
        starts = [batch.running_since for batch in self.window.batches]
        oldest = min((start for start in starts if start is not None), default=now)
        return min(self.tick, max(oldest + self.timeout - now, SHORTEST_WAIT))

    def job_ended(self, now: float) -> None:
        """Restart the time without an end."""
        self._last_end = now

    def running_jobs(self, now: float) -> list[JobRunning]:
        """Return an event for each job that has run for 1, 2, 4, 8 and so on heartbeats."""
        due = [
            batch
            for batch in self._running(now)
            if batch.running_time(now) >= self.heartbeat * 2**batch.reports
        ]
        for batch in due:
            while batch.running_time(now) >= self.heartbeat * 2**batch.reports:
                batch.reports += 1
        return [self._job_running(batch, now) for batch in due]

    def _job_running(self, batch: Batch, now: float) -> JobRunning:
        row = self.window.row(batch)
        if row is not None and row.index != batch.current_job.index:  # it has just gone on
            row = None
        now_ns = self.clock.time_ns()
        started_ns = row.started_ns if row else batch.running_since_ns
        return JobRunning(
            stage=self.outcomes.stage,
            time_ns=now_ns,
            index=batch.current_job.index,
            started_ns=min(max(started_ns, batch.submitted_ns), now_ns),
            running_time=batch.running_time(now),
            attributes=batch.current_job.attributes,
            pid=row.pid if row else 0,
            step=row.step if row else "",
            stack=self.window.stack(row),
            host=self.window.host(batch).name,
        )

    def slow_jobs(self, now: float) -> list[SlowJob]:
        """Return an event for each job when it becomes slow.

        A job is slow if it has run for a heartbeat and for `SLOW_FACTOR` median durations.
        """
        long_running = [
            batch
            for batch in self.window.batches
            if not batch.slow_reported and batch.running_time(now) >= self.heartbeat
        ]
        if not long_running:
            return []
        limit = SLOW_FACTOR * self.batcher.median_duration()
        slow = [batch for batch in long_running if batch.running_time(now) >= limit]
        for batch in slow:
            batch.slow_reported = True
        return [self._slow_job(batch, now) for batch in slow]

    def _slow_job(self, batch: Batch, now: float) -> SlowJob:
        row = self.window.row(batch)
        return SlowJob(
            stage=self.outcomes.stage,
            time_ns=self.clock.time_ns(),
            index=batch.current_job.index,
            running_time=batch.running_time(now),
            attributes=batch.current_job.attributes,
            step=row.step if row else "",
            stack=self.window.stack(row),
        )

    def heartbeats(self, now: float) -> list[Heartbeat]:
        """Return a heartbeat if one is due, else nothing."""
        if now - max(self._last_end, self._last_heartbeat) < self.heartbeat:
            return []
        self._last_heartbeat = now
        return [self._heartbeat(now)]

    def _heartbeat(self, now: float) -> Heartbeat:
        running = self._running(now)
        rows = [self.window.row(batch) for batch in running]
        running_indices = [batch.current_job.index for batch in running]
        return Heartbeat(
            stage=self.outcomes.stage,
            time_ns=self.clock.time_ns(),
            done=self.outcomes.done,
            total=self.outcomes.total,
            pending=self.outcomes.pending,
            pending_indices=self._pending_indices(running_indices),
            running_indices=running_indices,
            running_time=[batch.running_time(now) for batch in running],
            running_attributes=[batch.current_job.attributes for batch in running],
            last_completed_index=self.outcomes.last_index,
            idle_time=now - self._last_end,
            running_steps=[row.step if row else "" for row in rows],
            stack=self.window.stack(rows[0]) if rows else "",
            timeout=self.timeout,
        )

    def _running(self, now: float) -> list[Batch]:
        """Return the running batches, oldest current job first."""
        running = [batch for batch in self.window.batches if batch.running_since is not None]
        running.sort(key=lambda batch: (-batch.running_time(now), batch.current_job.index))
        return running[:PENDING_NAMED]

    def _pending_indices(self, running: list[int]) -> list[int]:
        """Return running jobs, other submitted jobs, and the next to be submitted."""
        submitted = (job for batch in self.window.batches for job in batch.pending_except(None))
        named = set(running)
        waiting = [job.index for job in submitted if job.index not in named]
        return [*running, *waiting, *self.batcher.first_indices(PENDING_NAMED)][:PENDING_NAMED]
