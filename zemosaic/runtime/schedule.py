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
"""

from __future__ import annotations

import itertools
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from zemosaic.runtime.events import (
    FanOut,
    Heartbeat,
    JobEnded,
    JobError,
    JobSubmitted,
    SlowJob,
)
from zemosaic.runtime.inflight import Inflight, Row
from zemosaic.runtime.pool import Pool, Report, seated

TICK = 2.0  # seconds between looks at a silent pool; a fifth of the heartbeat, if that is less
PENDING_NAMED = 64  # indices in a heartbeat: enough to see a pattern, small in every trace
SLOW_FACTOR = 10.0  # a job is slow at this many times the median of those that ended
DEATHS = 4  # for each worker, one after the other and nothing else: the jobs cannot be done


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
class Job:
    """One call of `function` with `args`; `attributes` name it for observers.

    What its result depends on is in `key`, if the result is to be kept for another run.
    """

    index: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is "measured", "failed", "timeout" or "crashed"."""

    job: Job
    state: str
    value: Any = None
    error: JobError | None = None


@dataclass
class _Flight:
    job: Job
    submitted_ns: int
    running_since: float | None = None
    running_since_ns: int = 0
    told_slow: bool = False

    def ran(self, now: float) -> float:
        """Seconds that the job has run; 0 where it waits."""
        return 0.0 if self.running_since is None else now - self.running_since


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
    describe: Callable[[Any], tuple[str, Mapping[str, Any]]] = lambda _: ("measured", {}),
    plain: Callable[[Any], Any] = lambda _: None,
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
    describe : callable
        Makes (outcome, attributes) of a job's value, for observers.
    plain : callable
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
        describe=describe,
        plain=plain,
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
    describe: Callable[[Any], tuple[str, Mapping[str, Any]]]
    plain: Callable[[Any], Any]
    inflight: Inflight | None
    done_count: int
    window: dict[Future[Report], _Flight] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    ahead: deque[Job] = field(default_factory=deque)  # looked at, not yet submitted
    last_completed_index: int = 0
    deaths: int = 0

    def __post_init__(self) -> None:
        self.workers_left = self.pool.workers
        if self.inflight is not None:
            self.inflight.progress(self.stage, self.done_count, self.total)
        self.last_progress = self.last_beat = self.clock.monotonic()

    def run(self) -> list[Outcome]:
        try:
            while True:
                self._fill_window()
                if not self.window:
                    break
                self._note_running(self.clock.monotonic())
                ended = self.clock.wait(self.window, self._patience())
                now = self.clock.monotonic()
                for future in sorted(ended, key=lambda f: self.window[f].job.index):
                    if future in self.window:  # not given up with the rest meanwhile
                        self._end(future, now)
                self._give_up_overdue(now)
                self._tell_slow(now)
                if now - max(self.last_progress, self.last_beat) >= self.heartbeat:
                    self._beat(now)
        finally:
            # Also when interrupted: nothing that still runs may hold on to its worker.
            for future in self.window:
                self.pool.give_up(future)
        return [self.outcomes[index] for index in sorted(self.outcomes)]

    def _fill_window(self) -> None:
        while len(self.window) < self.pool.window and self.workers_left > 0:
            job = self.ahead.popleft() if self.ahead else next(self.jobs, None)
            if job is None:
                return
            self._submit(job)
        if self.workers_left <= 0:
            self._fail_the_rest(JobError("NoWorkersLeft", "every worker of the executor is stuck"))

    def _submit(self, job: Job) -> None:
        flight = _Flight(job, self.clock.time_ns())
        self.observers.emit(
            JobSubmitted(
                stage=self.stage,
                index=job.index,
                time_ns=flight.submitted_ns,
                attributes=job.attributes,
            )
        )
        seat = self.inflight.seat(self.stage, job.index) if self.inflight else None
        function, args = job.function, job.args
        if seat is not None:
            function, args = seated, (seat, function, args)
        try:
            future = self.pool.submit(function, args)
        except Exception as error:  # noqa: BLE001 - a broken pool must not end the loop
            future = Future()
            future.set_exception(error)
        self.window[future] = flight

    def _patience(self) -> float:
        """Seconds until the loop must look again: a tick, or the next deadline before it."""
        tick = min(TICK, self.heartbeat / 5)
        if not self.timeout:
            return tick
        now = self.clock.monotonic()
        running = [f.running_since for f in self.window.values() if f.running_since is not None]
        left = min(running, default=now) + self.timeout - now
        return min(tick, max(left, 0.01))

    def _note_running(self, now: float) -> None:
        for future, flight in self.window.items():
            if flight.running_since is None and future.running():
                flight.running_since, flight.running_since_ns = now, self.clock.time_ns()

    def _end(self, future: Future[Report], now: float) -> None:
        """Take a future that ended off the window, whatever became of it."""
        flight = self.window.pop(future)
        try:
            report = future.result()
        except Exception as error:  # noqa: BLE001 - a pool's troubles must not end the loop
            state, failure = _death(error, self._stack(self._row(flight)))
            self._close(flight, Outcome(flight.job, state, error=failure), now)
            self.deaths += 1
            if self.deaths >= DEATHS * self.pool.workers:
                message = f"{self.deaths} jobs one after the other lost their workers"
                self._fail_the_rest(JobError("WorkersDie", f"{message} ({failure}); given up"))
            return
        self.deaths = 0
        if report.error is not None:
            outcome = Outcome(flight.job, "failed", error=report.error)
        else:
            outcome = Outcome(flight.job, "measured", report.value)
            self.durations.append((report.ended_ns - report.started_ns) / 1e9)
        self._close(flight, outcome, now, report)

    def _close(
        self, flight: _Flight, outcome: Outcome, now: float, report: Report | None = None
    ) -> None:
        job = outcome.job
        row = self.inflight.release(self.stage, job.index) if self.inflight else None
        self.outcomes[job.index] = outcome
        self.done_count += 1
        self.last_completed_index, self.last_progress = job.index, now
        state, attributes = outcome.state, dict(job.attributes)
        if state == "measured":
            state, more = self.describe(outcome.value)
            attributes.update(more)
        if self.inflight is not None:
            self.inflight.progress(self.stage, self.done_count, self.total)
        ended_ns = report.ended_ns if report else self.clock.time_ns()
        # Of a worker that died without a report, its row tells.
        started_ns = row.started_ns if row else flight.running_since_ns or ended_ns
        kept = job.key and outcome.state == "measured"
        self.observers.emit(
            JobEnded(
                stage=self.stage,
                index=job.index,
                done=self.done_count,
                total=self.total,
                outcome=state,
                attributes=attributes,
                submitted_ns=flight.submitted_ns,
                started_ns=report.started_ns if report else started_ns,
                ended_ns=ended_ns,
                pid=report.pid if report else row.pid if row else 0,
                error=outcome.error,
                stages=report.stages if report else {},
                key=job.key if kept else "",
                result=self.plain(outcome.value) if kept else None,
            )
        )

    def _give_up_overdue(self, now: float) -> None:
        if not self.timeout:
            return
        for future, flight in list(self.window.items()):
            if flight.ran(now) < self.timeout or future.done():
                continue
            del self.window[future]
            stack = self._stack(self._row(flight))
            if not self.pool.give_up(future):
                self.workers_left -= 1
            error = JobError("TimeoutError", f"given up after {flight.ran(now):.0f} s", stack)
            self._close(flight, Outcome(flight.job, "timeout", error=error), now)

    def _fail_the_rest(self, error: JobError) -> None:
        """What waits would wait for ever, or kill the next worker."""
        now = self.clock.monotonic()
        for future, flight in list(self.window.items()):
            self.pool.give_up(future)
            del self.window[future]
            self._close(flight, Outcome(flight.job, "failed", error=error), now)
        for job in itertools.chain(self.ahead, self.jobs):
            flight = _Flight(job, self.clock.time_ns())
            self._close(flight, Outcome(job, "failed", error=error), now)
        self.ahead.clear()

    def _row(self, flight: _Flight) -> Row | None:
        """What the worker of a job says of it."""
        return self.inflight.row(self.stage, flight.job.index) if self.inflight else None

    def _stack(self, row: Row | None) -> str:
        return self.inflight.stack(row) if self.inflight and row else ""

    def _tell_slow(self, now: float) -> None:
        late = [
            (flight, ran)
            for flight in self.window.values()
            if not flight.told_slow and (ran := flight.ran(now)) >= self.heartbeat
        ]
        if not late:
            return
        median = statistics.median(self.durations) if self.durations else 0.0
        for flight, ran in late:
            if ran < SLOW_FACTOR * median:
                continue
            flight.told_slow = True
            row = self._row(flight)
            self.observers.emit(
                SlowJob(
                    stage=self.stage,
                    time_ns=self.clock.time_ns(),
                    index=flight.job.index,
                    running_time=ran,
                    attributes=flight.job.attributes,
                    part=row.part if row else "",
                    stack=self._stack(row),
                )
            )

    def _beat(self, now: float) -> None:
        self.last_beat = now
        flights = self.window.values()
        running = [f for f in flights if f.running_since is not None]
        running.sort(key=lambda f: (-f.ran(now), f.job.index))
        del running[PENDING_NAMED:]
        waiting = [f.job.index for f in flights if f.running_since is None]
        self.ahead.extend(itertools.islice(self.jobs, max(0, PENDING_NAMED - len(self.ahead))))
        later = [job.index for job in self.ahead]
        rows = [self._row(f) for f in running]
        self.observers.emit(
            Heartbeat(
                stage=self.stage,
                time_ns=self.clock.time_ns(),
                done=self.done_count,
                total=self.total,
                pending=self.total - self.done_count,
                pending_indices=[*(f.job.index for f in running), *waiting, *later][:PENDING_NAMED],
                running_indices=[f.job.index for f in running],
                running_time=[f.ran(now) for f in running],
                running_attributes=[f.job.attributes for f in running],
                last_completed_index=self.last_completed_index,
                idle_time=now - self.last_progress,
                running_parts=[row.part if row else "" for row in rows],
                stack=self._stack(rows[0]) if rows else "",
                timeout=self.timeout,
            )
        )


def _death(error: Exception, stack: str) -> tuple[str, JobError]:
    """State and error of a job whose worker did not report."""
    code = getattr(error, "exitcode", None)  # Pebble's ProcessExpired has one
    if code is not None:
        if code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            return "crashed", JobError(name, f"the worker was killed by {name}", stack)
        return "crashed", JobError("WorkerExit", f"the worker ended with exit code {code}", stack)
    if isinstance(error, CancelledError):
        return "failed", JobError("CancelledError", "cancelled")
    return "failed", JobError(type(error).__name__, " ".join(str(error).split()))
