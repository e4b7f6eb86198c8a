"""Jobs on their way through a pool, alone or several together, and how a worker's death reads."""

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
    """One call of `function` with `args`; `attributes` name it for observers.

    What its result depends on is in `key`, if the result is to be kept for another run.
    """

    index: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass
class Batch:
    """Jobs that were submitted together, most often one.

    Parameters
    ----------
    jobs : list of Job
        In the order in which their worker does them.
    submitted_ns : int
        When, in nanoseconds since the epoch.
    slot : Slot, optional
        Their row in the table of jobs under way.
    at : int
        Which of them the worker is at, as far as known.
    running_since, running_since_ns : float, int
        Since when, on the loop's clock and in nanoseconds since the epoch; None where it waits.
    told_slow : bool
        That job has been told of as slow.
    taken_back : bool
        All but that one are for others to do.
    """

    jobs: list[Job]
    submitted_ns: int
    slot: Slot | None = None
    at: int = 0
    running_since: float | None = None
    running_since_ns: int = 0
    told_slow: bool = False
    taken_back: bool = False

    @property
    def own(self) -> list[int]:
        """Places of the jobs whose outcome is to come from here."""
        return [self.at] if self.taken_back else list(range(len(self.jobs)))

    @property
    def job(self) -> Job:
        """The one that its worker is at."""
        return self.jobs[self.at]

    @property
    def call(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What the worker is to call, and with what."""
        if len(self.jobs) > 1:
            calls = [(job.index, job.function, job.args) for job in self.jobs]
            return run_batch, (self.slot, calls)
        job = self.jobs[0]
        if self.slot is None:
            return job.function, job.args
        return run_in_slot, (self.slot, job.index, job.function, job.args)

    def ran(self, now: float) -> float:
        """Seconds that the job has run; 0 where it waits."""
        return 0.0 if self.running_since is None else now - self.running_since

    def place(self, row: Row | None) -> int | None:
        """Which of the jobs a row tells of; None where it tells of none."""
        indices = [job.index for job in self.jobs]
        return indices.index(row.index) if row is not None and row.index in indices else None

    def reports(self, report: TaskResult) -> list[tuple[Job, TaskResult]]:
        """The jobs and what the worker says of each."""
        reports = report.value if len(self.jobs) > 1 else [report]
        return [(self.jobs[place], reports[place]) for place in self.own]


def death(error: Exception, stack: str) -> tuple[str, JobError]:
    """State and error of a job whose worker did not report."""
    code = getattr(error, "exitcode", None)  # WorkerLostError has one
    if code is not None:
        if code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            return "crashed", JobError(name, f"the worker was killed by {name}", stack)
        return "crashed", JobError("WorkerExit", f"the worker ended with exit code {code}", stack)
    if isinstance(error, CancelledError):
        return "failed", JobError("CancelledError", "cancelled")
    return "failed", JobError(type(error).__name__, " ".join(str(error).split()))
