"""Batches of jobs that are submitted to a pool, and the error of a job whose worker died."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from .events import JobError
from .inflight import Row, Slot
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
    """Jobs that are submitted as one task, usually one.

    Parameters
    ----------
    jobs : list of Job
        In the order in which their worker runs them.
    submitted_ns : int
        Time of submission, in nanoseconds since the epoch.
    slot : Slot, optional
        Their row in the table of running jobs.
    at : int
        Position of the current job, as far as known.
    running_since, running_since_ns : float, int
        Start of the current job, on the loop's clock and in nanoseconds since the epoch; None if
        the batch still waits.
    slow_reported : bool
        Whether that job has been reported as slow.
    recalled : bool
        Whether all other jobs of the batch have been assigned elsewhere.
    """

    jobs: list[Job]
    submitted_ns: int
    slot: Slot | None = None
    at: int = 0
    running_since: float | None = None
    running_since_ns: int = 0
    slow_reported: bool = False
    recalled: bool = False

    @property
    def own(self) -> list[int]:
        """Positions of the jobs whose outcome this batch still owes."""
        return [self.at] if self.recalled else list(range(len(self.jobs)))

    @property
    def job(self) -> Job:
        """The current job."""
        return self.jobs[self.at]

    @property
    def call(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function that the worker calls, and its arguments."""
        if len(self.jobs) > 1:
            calls = [(job.index, job.function, job.args) for job in self.jobs]
            return run_batch, (self.slot, calls)
        job = self.jobs[0]
        if self.slot is None:
            return job.function, job.args
        return run_in_slot, (self.slot, job.index, job.function, job.args)

    def running_time(self, now: float) -> float:
        """Return the seconds for which the current job has run; 0 if it waits."""
        return 0.0 if self.running_since is None else now - self.running_since

    def place(self, row: Row | None) -> int | None:
        """Return the position of the job that a row of the table names; None if it names none."""
        indices = [job.index for job in self.jobs]
        return indices.index(row.index) if row is not None and row.index in indices else None

    def reports(self, report: TaskResult) -> list[tuple[Job, TaskResult]]:
        """Return the jobs and the result of each."""
        reports = report.value if len(self.jobs) > 1 else [report]
        return [(self.jobs[place], reports[place]) for place in self.own]


def death(error: Exception, stack: str) -> tuple[str, JobError]:
    """Return the state and error of a job whose worker returned no result."""
    code = getattr(error, "exitcode", None)  # WorkerLostError has one
    if code is not None:
        if code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            return "crashed", JobError(name, f"the worker was killed by {name}", stack)
        return "crashed", JobError("WorkerExit", f"the worker ended with exit code {code}", stack)
    if isinstance(error, CancelledError):
        return "failed", JobError("CancelledError", "cancelled")
    return "failed", JobError(type(error).__name__, " ".join(str(error).split()))
