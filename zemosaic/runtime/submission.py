"""Jobs, the batches in which they are submitted to a pool, and the failures of their workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from .events import JobError
from .inflight import Row, Slot
from .pool import LOCAL, Host
from .worker import TaskResult, run_batch, run_in_slot


@dataclass(frozen=True)
class Job:
    """One call of `function` with `args`; `attributes` identify it for observers.

    `key` is a digest of all inputs of the result; it is empty if no other run can reuse it.
    """

    index: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass
class Batch:
    """Jobs submitted as one task, usually one.

    Parameters
    ----------
    jobs : list of Job
        In the order in which their worker runs them.
    submitted_ns : int
        Time of submission, in nanoseconds since the epoch.
    slot : Slot, optional
        Their row in the table of running jobs.
    current : int
        Position of the current job, as far as known.
    running_since, running_since_ns : float, int
        Start of the current job, on the loop's clock and in nanoseconds since the epoch; None and
        0 if the batch still waits.
    slow_reported : bool
        Whether the current job has been reported as slow.
    reports : int
        How often the current job has been reported as running.
    recalled : bool
        Whether all jobs but the current one have been removed from the batch.
    host : Host
        The machine of its worker, once it has ended.
    """

    jobs: list[Job]
    submitted_ns: int
    slot: Slot | None = None
    current: int = 0
    running_since: float | None = None
    running_since_ns: int = 0
    slow_reported: bool = False
    reports: int = 0
    recalled: bool = False
    host: Host = LOCAL

    @property
    def pending_positions(self) -> list[int]:
        """Positions of the jobs still owed an outcome by this batch."""
        return [self.current] if self.recalled else list(range(len(self.jobs)))

    @property
    def current_job(self) -> Job:
        """The job run by the worker now, as far as known."""
        return self.jobs[self.current]

    @property
    def call(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function called by the worker, and its arguments."""
        if len(self.jobs) > 1:
            calls = [(job.index, job.function, job.args) for job in self.jobs]
            return run_batch, (self.slot, calls)
        job = self.jobs[0]
        if self.slot is None:
            return job.function, job.args
        return run_in_slot, (self.slot, job.index, job.function, job.args)

    def start_job(self, position: int, now: float, now_ns: int) -> None:
        """Make the job at a position the current one, running since now."""
        self.current, self.slow_reported, self.reports = position, False, 0
        self.running_since, self.running_since_ns = now, now_ns

    def recall_waiting(self) -> list[Job]:
        """Remove and return all pending jobs but the current one."""
        waiting = self.pending_except(self.current)
        self.recalled = True
        return waiting

    def pending_except(self, position: int | None) -> list[Job]:
        """Return the pending jobs at all other positions."""
        return [self.jobs[other] for other in self.pending_positions if other != position]

    def running_time(self, now: float) -> float:
        """Return the seconds for which the current job has run; 0 if the batch waits."""
        return 0.0 if self.running_since is None else now - self.running_since

    def position(self, row: Row | None) -> int | None:
        """Return the position of the job named by a row of the table; None if it names none."""
        indices = [job.index for job in self.jobs]
        return indices.index(row.index) if row is not None and row.index in indices else None

    def clock_shift(self, result: TaskResult, received_ns: int) -> int:
        """Return the seconds to add to the times of a worker for the clock of the run.

        The offset of its clock may be unknown or inexact. The shift is the one nearest to it with
        which the batch neither begins before it was submitted nor ends after it was received.
        """
        shift = -self.host.offset_ns
        shift = max(shift, self.submitted_ns - result.started_ns)
        return min(shift, received_ns - result.ended_ns)

    def results(self, result: TaskResult) -> list[tuple[Job, TaskResult]]:
        """Split the result of the batch: return each pending job with its own."""
        results = result.value if len(self.jobs) > 1 else [result]
        return [(self.jobs[position], results[position]) for position in self.pending_positions]


@dataclass(frozen=True)
class Failure:
    """The outcome `state` of an unsuccessful job, and its error."""

    state: str
    error: JobError


def describe_death(error: Exception, stack: str) -> Failure:
    """Return the failure of a job without a result of its worker.

    Parameters
    ----------
    error : Exception
        The exception of the future; the `exitcode` of a `WorkerLostError` is negative for a signal.
    stack : str
        Last known stack of the worker.
    """
    exitcode = getattr(error, "exitcode", None)
    if exitcode is not None:
        return Failure("crashed", _describe_exit(exitcode, stack))
    if isinstance(error, CancelledError):
        return Failure("failed", JobError("CancelledError", "cancelled"))
    return Failure("failed", JobError(type(error).__name__, " ".join(str(error).split())))


def _describe_exit(exitcode: int, stack: str) -> JobError:
    if exitcode >= 0:
        return JobError("WorkerExit", f"the worker ended with exit code {exitcode}", stack)
    number = -exitcode
    name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
    return JobError(name, f"the worker was killed by {name}", stack)
