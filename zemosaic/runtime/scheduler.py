"""The loop that runs jobs on a pool and can always say where it is.

Guarantees:

- every job has exactly one outcome, and the count of ended jobs rises by one with each, up to
  the total, whether a job succeeded, raised, was given up or lost its worker;
- while nothing ends, a heartbeat says which jobs are running, since when, and which wait;
- no job and no dead worker can keep the loop from ending, once there is a time-out; jobs that
  kill one worker after the other end it in a clear failure;
- outcomes are returned in the order of the jobs, so nothing downstream depends on timing.

Why `wait` and not `as_completed`: `as_completed` blocks until something ends, so a stuck job
silences it; `wait` comes back after a tick. Why a window: `wait` registers with every future it
is given, so waiting on all of them is quadratic; and "submitted" should mean "about to run".
Why `done_count`: futures end in any order, so the index of the last one is no measure of
progress; the number that ended is, and it never falls.

Jobs of a millisecond go to a worker several at a time. Its row in the table says which one it is
at, so that a death or a hang is charged to that one, and the others go to other workers, each
alone; where nobody knows which it was, all do.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from .events import Event, FanOut, Heartbeat, JobEnded, JobError, JobSubmitted, Note, SlowJob
from .inflight import Inflight, Row
from .pool import Pool
from .submission import Batch, Job, death
from .worker import TaskResult

TICK = 2.0  # seconds between looks at a silent pool; a fifth of the heartbeat, if that is less
PENDING_NAMED = 64  # indices in a heartbeat: enough to see a pattern, small in every trace
SLOW_FACTOR = 10.0  # a job is slow at this many times the median of those that ended
TOGETHER = 0.06  # seconds of work to send to a worker at once, where jobs are shorter
DEATHS = 4  # for each worker, one after the other and nothing else: the jobs cannot be done


__all__ = ["Clock", "Job", "Outcome", "run"]


class Clock:
    """Time, as the loop sees it; tests bring their own."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        """Wait until a future ends, at most `timeout` seconds; those that have ended."""
        return wait(futures, timeout, return_when=FIRST_COMPLETED).done


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is "measured", "failed", "timeout" or "crashed"."""

    job: Job
    state: str
    value: Any = None
    error: JobError | None = None


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
    summarize: Callable[[Any], tuple[str, Mapping[str, Any]]] = lambda _: ("measured", {}),
    serialize: Callable[[Any], Any] = lambda _: None,
    inflight: Inflight | None = None,
    done: int = 0,
) -> list[Outcome]:
    """Run all jobs and return their outcomes in the order of the jobs.

    Parameters
    ----------
    jobs : iterable of Job
        With rising indices from 1; taken one by one, as the window has room.
    total : int
        How many there are, those that are done already included.
    pool : Pool
        Where they run; it is left open.
    observers : FanOut
        Told of every end, heartbeat and slow job.
    stage : str
        Name of the stage, for observers.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    timeout : float
        Seconds after which a running job is given up; 0 waits for ever.
    clock : Clock, optional
        Where time comes from.
    summarize : callable
        Makes (outcome, attributes) of a job's value, for observers.
    serialize : callable
        Makes plain lists, numbers and texts of the value of a job that has a key.
    inflight : Inflight, optional
        Table in which workers say what they do.
    done : int
        Jobs that an earlier run has done.
    """
    return _Loop(
        jobs=iter(jobs),
        total=total,
        pool=pool,
        observers=observers,
        stage=stage,
        heartbeat=heartbeat,
        timeout=timeout,
        clock=clock or Clock(),
        summarize=summarize,
        serialize=serialize,
        inflight=inflight,
        done_count=done,
    ).run()


@dataclass(kw_only=True)
class _Loop:
    jobs: Iterator[Job]
    total: int
    pool: Pool
    observers: FanOut
    stage: str
    heartbeat: float
    timeout: float
    clock: Clock
    summarize: Callable[[Any], tuple[str, Mapping[str, Any]]]
    serialize: Callable[[Any], Any]
    inflight: Inflight | None
    done_count: int
    window: dict[Future[TaskResult], Batch] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    typical: float = math.inf  # seconds, of the last jobs
    ahead: deque[Job] = field(default_factory=deque)  # looked at, not yet submitted
    alone: deque[Job] = field(default_factory=deque)  # to be done again, because of another
    news: list[Event] = field(default_factory=list)  # not yet told: once a turn is enough
    last_completed_index: int = 0
    deaths: int = 0

    def __post_init__(self) -> None:
        self.workers_left = self.pool.workers
        self.tick = min(TICK, self.heartbeat / 5)
        if self.inflight is not None:
            self.inflight.progress(self.stage, self.done_count, self.total)
        self.last_progress = self.last_beat = self.clock.monotonic()

    def run(self) -> list[Outcome]:
        try:
            while True:
                if self.inflight is not None:
                    self.inflight.turn()
                self._fill_window()
                if not self.window:
                    break
                self._emit()
                self._note_running(self.clock.monotonic())
                ended = self.clock.wait(self.window, self._patience())
                now = self.clock.monotonic()
                for future in sorted(ended, key=lambda f: self.window[f].jobs[0].index):
                    if future in self.window:  # not given up with the rest meanwhile
                        self._end(future, now)
                self._tell_lost()
                self._give_up_overdue(now)
                self._tell_slow(now)
                self._take_back(now)
                if now - max(self.last_progress, self.last_beat) >= self.heartbeat:
                    self._beat(now)
        finally:
            # Also when interrupted: nothing that still runs may hold on to its worker.
            for future in self.window:
                self.pool.abandon(future)
            if self.inflight is not None:
                self.inflight.rest()
            self._emit()
        return [self.outcomes[index] for index in sorted(self.outcomes)]

    def _fill_window(self) -> None:
        while len(self.window) < self.pool.window and self.workers_left > 0:
            jobs = self._next()
            if not jobs:
                return
            self._submit(jobs)
        if self.workers_left <= 0:
            self._fail_the_rest(JobError("NoWorkersLeft", "every worker of the executor is stuck"))

    def _next(self) -> list[Job]:
        """What to submit next: short jobs together, though not so many that a worker has none."""
        if self.alone:
            return [self.alone.popleft()]
        share = (self.total - self.done_count) // self.pool.window
        # The clock may be too coarse for a job.
        many = TOGETHER / max(self.typical, 1e-6)
        count = int(max(1, min(self.pool.max_batch, many, share)))
        jobs = [self.ahead.popleft() for _ in range(min(count, len(self.ahead)))]
        return jobs + list(itertools.islice(self.jobs, count - len(jobs)))

    def _submit(self, jobs: list[Job]) -> None:
        slot = self.inflight.slot(self.stage) if self.inflight else None
        batch = Batch(jobs, self.clock.time_ns(), slot)
        self.news += [
            JobSubmitted(
                stage=self.stage,
                index=job.index,
                time_ns=batch.submitted_ns,
                attributes=job.attributes,
            )
            for job in jobs
        ]
        self._emit()  # before it can do any harm
        try:
            future = self.pool.submit(*batch.call)
        except Exception as error:  # noqa: BLE001 - a broken pool must not end the loop
            future = Future()
            future.set_exception(error)
        self.window[future] = batch

    def _emit(self) -> None:
        """Tell the news, together."""
        news, self.news = self.news, []
        if news:
            self.observers.dispatch(*news)

    def _patience(self) -> float:
        """Seconds until the loop must look again: a tick, or the next deadline before it."""
        tick = self.tick
        if not self.timeout:
            return tick
        now = self.clock.monotonic()
        running = [f.running_since for f in self.window.values() if f.running_since is not None]
        left = min(running, default=now) + self.timeout - now
        return min(tick, max(left, 0.01))

    def _note_running(self, now: float) -> None:
        for future, batch in self.window.items():
            if batch.running_since is not None and len(batch.own) == 1:
                continue
            if not future.running():
                continue
            at = batch.at if len(batch.jobs) == 1 else batch.place(self._row(batch))
            if batch.running_since is None or at not in (None, batch.at):
                batch.at, batch.slow_reported = at or 0, False
                batch.running_since, batch.running_since_ns = now, self.clock.time_ns()

    def _end(self, future: Future[TaskResult], now: float) -> None:
        """Take a future that ended off the window, whatever became of it."""
        batch, row = self._take_off(future)
        try:
            report = future.result()
        except Exception as error:  # noqa: BLE001 - a pool's troubles must not end the loop
            state, failure = death(error, self._stack(row))
            self._charge(batch, row, state, failure, now)
            self.deaths += 1
            if self.deaths >= DEATHS * self.pool.workers:
                message = f"{self.deaths} jobs one after the other lost their workers"
                self._fail_the_rest(JobError("WorkersDie", f"{message} ({failure}); given up"))
            return
        self.deaths = 0
        if report.error is not None and len(batch.jobs) > 1:  # of one that cannot be sent back
            self._charge(batch, None, "failed", report.error, now)
            return
        ended = []
        for job, own in batch.reports(report):
            if own.error is not None:
                outcome = Outcome(job, "failed", error=own.error)
            else:
                outcome = Outcome(job, "measured", own.value)
                took = (own.ended_ns - own.started_ns) / 1e9
                self.durations.append(took)
                recent = min(len(self.durations), 2 * self.pool.max_batch)
                self.typical = (
                    took if recent == 1 else self.typical + (took - self.typical) / recent
                )
            ended.append(self._closed(batch, outcome, own))
        self._tell(ended, now)

    def _take_off(self, future: Future[TaskResult]) -> tuple[Batch, Row | None]:
        """A batch that is over, and what its row said last."""
        batch = self.window.pop(future)
        if self.inflight is None or batch.slot is None:
            return batch, None
        return batch, self.inflight.release(batch.slot)

    def _charge(
        self, batch: Batch, row: Row | None, state: str, error: JobError, now: float
    ) -> None:
        """Close the one job that a batch came to grief with; the others are done again."""
        at = 0 if len(batch.jobs) == 1 else batch.place(row)
        self.alone.extend(batch.jobs[place] for place in batch.own if place != at)
        if at is None:
            message = f"{error}, at one of {len(batch.own)} jobs; each is done again alone"
            self.news.append(Note(level=logging.WARNING, message=message))
        elif at in batch.own:
            self._tell([self._closed(batch, Outcome(batch.jobs[at], state, error=error), row)], now)

    def _closed(self, batch: Batch, outcome: Outcome, told: TaskResult | Row | None) -> JobEnded:
        """Keep an outcome; `told` is what its worker told of it."""
        job = outcome.job
        self.outcomes[job.index] = outcome
        self.done_count += 1
        self.last_completed_index = job.index
        state, attributes = outcome.state, dict(job.attributes)
        if state == "measured":
            state, more = self.summarize(outcome.value)
            attributes.update(more)
        report = told if isinstance(told, TaskResult) else None
        ended_ns = report.ended_ns if report else self.clock.time_ns()
        kept = job.key and outcome.state == "measured"
        return JobEnded(
            stage=self.stage,
            index=job.index,
            done=self.done_count,
            total=self.total,
            outcome=state,
            attributes=attributes,
            submitted_ns=batch.submitted_ns,
            started_ns=told.started_ns if told else batch.running_since_ns or ended_ns,
            ended_ns=ended_ns,
            pid=told.pid if told else 0,
            error=outcome.error,
            step_times=report.step_times if report else {},
            key=job.key if kept else "",
            result=self.serialize(outcome.value) if kept else None,
        )

    def _tell(self, ended: list[JobEnded], now: float) -> None:
        self.last_progress = now
        if self.inflight is not None:
            self.inflight.progress(self.stage, self.done_count, self.total)
        self.news += ended

    def _give_up_overdue(self, now: float) -> None:
        if not self.timeout:
            return
        for future, batch in list(self.window.items()):
            if batch.running_time(now) < self.timeout or future.done():
                continue
            if not self.pool.abandon(future):
                self.workers_left -= 1
            _, row = self._take_off(future)
            stack = self._stack(row)
            error = JobError(
                "TimeoutError", f"given up after {batch.running_time(now):.0f} s", stack
            )
            self._charge(batch, row, "timeout", error, now)

    def _take_back(self, now: float) -> None:
        """A job that takes long keeps no others waiting behind it."""
        for batch in self.window.values():
            if len(batch.own) > 1 and batch.running_time(now) >= self.tick:
                self.alone.extend(batch.jobs[place] for place in batch.own if place != batch.at)
                batch.recalled = True

    def _fail_the_rest(self, error: JobError) -> None:
        """What waits would wait for ever, or kill the next worker."""
        now, ended = self.clock.monotonic(), []
        for future in list(self.window):
            self.pool.abandon(future)
            batch, row = self._take_off(future)
            ended += [
                self._closed(batch, Outcome(batch.jobs[place], "failed", error=error), row)
                for place in batch.own
            ]
        batch = Batch([], self.clock.time_ns(), None)
        for job in itertools.chain(self.alone, self.ahead, self.jobs):
            ended.append(self._closed(batch, Outcome(job, "failed", error=error), None))
        self.alone.clear()
        self.ahead.clear()
        self._tell(ended, now)

    def _row(self, batch: Batch) -> Row | None:
        """What the worker of a batch says of the job that it is at."""
        return self.inflight.row(batch.slot) if self.inflight and batch.slot else None

    def _stack(self, row: Row | None) -> str:
        return self.inflight.stack(row) if self.inflight and row else ""

    def _tell_lost(self) -> None:
        for error in self.pool.idle_deaths():
            message = f"{death(error, '')[1]}, while it waited for a job; another takes its place"
            self.news.append(Note(level=logging.WARNING, message=message))

    def _tell_slow(self, now: float) -> None:
        late = [
            (batch, ran)
            for batch in self.window.values()
            if not batch.slow_reported and (ran := batch.running_time(now)) >= self.heartbeat
        ]
        if not late:
            return
        median = statistics.median(self.durations) if self.durations else 0.0
        for batch, ran in late:
            if ran < SLOW_FACTOR * median:
                continue
            batch.slow_reported = True
            row = self._row(batch)
            self.news.append(
                SlowJob(
                    stage=self.stage,
                    time_ns=self.clock.time_ns(),
                    index=batch.job.index,
                    running_time=ran,
                    attributes=batch.job.attributes,
                    step=row.step if row else "",
                    stack=self._stack(row),
                )
            )

    def _beat(self, now: float) -> None:
        self.last_beat = now
        batches = self.window.values()
        running = [f for f in batches if f.running_since is not None]
        running.sort(key=lambda f: (-f.running_time(now), f.job.index))
        del running[PENDING_NAMED:]
        at = {f.job.index for f in running}
        waiting = [i for f in batches for p in f.own if (i := f.jobs[p].index) not in at]
        waiting += [job.index for job in self.alone]
        self.ahead.extend(itertools.islice(self.jobs, max(0, PENDING_NAMED - len(self.ahead))))
        later = [job.index for job in self.ahead]
        rows = [self._row(f) for f in running]
        self.news.append(
            Heartbeat(
                stage=self.stage,
                time_ns=self.clock.time_ns(),
                done=self.done_count,
                total=self.total,
                pending=self.total - self.done_count,
                pending_indices=[*(f.job.index for f in running), *waiting, *later][:PENDING_NAMED],
                running_indices=[f.job.index for f in running],
                running_time=[f.running_time(now) for f in running],
                running_attributes=[f.job.attributes for f in running],
                last_completed_index=self.last_completed_index,
                idle_time=now - self.last_progress,
                running_steps=[row.step if row else "" for row in rows],
                stack=self._stack(rows[0]) if rows else "",
                timeout=self.timeout,
            )
        )
