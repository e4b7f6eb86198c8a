"""The events of a run as records.

A run sends `RunStarted`; for each stage `StageStarted`, a `JobSubmitted` and a `JobEnded` for each
job, and `StageEnded`; finally `RunEnded`. `Heartbeat`, `JobRunning`, `SlowJob`, `WorkerStarted` and
`Note` may come at any time in between. Jobs end in any order.

Times named ``*_ns`` are nanoseconds since the epoch, on the clock of the recording process. Indices
of jobs count from 1.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Outcomes of a job: a usable or an unusable value, an exception, a time-out, a dead worker.
OUTCOMES = ("measured", "rejected", "failed", "timeout", "crashed")


@dataclass(frozen=True)
class JobError:
    """An exception that a job raised, or the death of its worker, in picklable form.

    Parameters
    ----------
    type : str
        Name of the exception's class, of a signal, or "TimeoutError".
    message : str
        Its message, in one line.
    traceback : str
        As Python prints it; empty if there is none.
    """

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, raised: BaseException) -> JobError:
        """Return the class, the message in one line and the traceback of an exception."""
        text = "".join(traceback.format_exception(raised))
        return cls(type(raised).__name__, " ".join(str(raised).split()), text)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A run begins; `attributes` are its settings and totals, by short names."""

    run_id: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage begins; `total` is its number of jobs, 0 for a stage without jobs."""

    stage: str
    time_ns: int
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class StageEnded:
    """A stage ends; its `attributes` become attributes of the run."""

    stage: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobSubmitted:
    """A job is about to run; `attributes` identify it."""

    stage: str
    index: int
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobEnded:
    """A job ended, with whatever outcome.

    Parameters
    ----------
    done, total : int
        Ended jobs of this stage, including this one, and all jobs.
    outcome : str
        One of `OUTCOMES`.
    attributes : Mapping
        Attributes of the job and of its result, by short names.
    submitted_ns, started_ns, ended_ns : int
        Submission, start and end, the last two as measured by the worker.
    pid : int
        Process of the worker; 0 if unknown.
    step_times : Mapping
        Seconds spent in each step of the job.
    key : str
        Digest of all inputs of the result, by which another run can reuse it; empty if none can.
    result : object
        The result as lists, numbers and strings; None without a key.
    host : str
        Machine of the worker; empty for the run's own.
    clock_offset : float
        The worker's clock minus the run's, in seconds; already subtracted.
    """

    stage: str
    index: int
    done: int
    total: int
    outcome: str
    attributes: Mapping[str, Any]
    submitted_ns: int
    started_ns: int
    ended_ns: int
    pid: int
    error: JobError | None = None
    step_times: Mapping[str, float] = field(default_factory=dict)
    key: str = ""
    result: Any = None
    host: str = ""
    clock_offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """No job has ended for a while.

    Parameters
    ----------
    pending : int
        Number of unfinished jobs.
    pending_indices : sequence of int
        The first of them: running jobs, oldest first, then waiting ones.
    running_indices : sequence of int
        Running jobs, oldest first.
    running_time : sequence of float
        Running time of each running job, in seconds.
    running_attributes : sequence of Mapping
        Attributes of each running job.
    running_steps : sequence of str
        Current step of each running job; empty if unknown.
    stack : str
        Stack of the oldest, as Python prints it; empty if unknown.
    timeout : float
        Seconds after which a job times out; 0 means never.
    last_completed_index : int
        0 if none has ended yet.
    idle_time : float
        Seconds since the last job ended.
    """

    stage: str
    time_ns: int
    done: int
    total: int
    pending: int
    pending_indices: Sequence[int]
    running_indices: Sequence[int]
    running_time: Sequence[float]
    running_attributes: Sequence[Mapping[str, Any]]
    last_completed_index: int
    idle_time: float
    running_steps: Sequence[str] = ()
    stack: str = ""
    timeout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SlowJob:
    """A job has run much longer than the others; `stack` is its current stack."""

    stage: str
    time_ns: int
    index: int
    running_time: float
    attributes: Mapping[str, Any]
    step: str = ""
    stack: str = ""


@dataclass(frozen=True, kw_only=True)
class JobRunning:
    """A job has run for a heartbeat, and again for two, four, eight and so on.

    Parameters
    ----------
    started_ns : int
        Start as recorded by the worker, if it is known.
    running_time : float
        Seconds since then.
    attributes : Mapping
        Attributes of the job.
    pid : int
        Process of the worker; 0 if unknown.
    step : str
        Current step; empty if unknown.
    stack : str
        Current stack, as Python prints it; empty if unknown.
    host : str
        Machine of the worker; empty for the run's own.
    """

    stage: str
    time_ns: int
    index: int
    started_ns: int
    running_time: float
    attributes: Mapping[str, Any]
    pid: int = 0
    step: str = ""
    stack: str = ""
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerStarted:
    """A worker process was started, and was ready for its first job at `ready_ns`.

    `host` is its machine, empty for the run's own.
    """

    pid: int
    started_ns: int
    ready_ns: int
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A message for users; `level` is a level of the logging module."""

    level: int
    message: str


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is over: `state` is "finished", "failed", "interrupted" or "died"."""

    state: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: JobError | None = None


Event = (
    RunStarted | StageStarted | StageEnded | JobSubmitted | JobEnded | Heartbeat | JobRunning
    | SlowJob | WorkerStarted | Note | RunEnded
)  # fmt: skip


def __getattr__(name: str) -> Any:
    # The README of 0.2 imported it from here.
    if name != "Observer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .observers import Observer

    warnings.warn(
        "zemosaic.runtime.events.Observer is zemosaic.runtime.observers.Observer since 0.3; this "
        "name ends with 0.4",
        DeprecationWarning,
        stacklevel=2,
    )
    return Observer
