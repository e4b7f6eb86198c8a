"""What happens in a run, as records, and whom to tell.

Times named ``*_ns`` are nanoseconds since the epoch, on the clock of the process that saw it.
Indices of jobs count from 1, as people count.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

#: How a job can end. "rejected" is said by the job itself, through its value.
OUTCOMES = ("measured", "rejected", "failed", "timeout", "crashed")


@dataclass(frozen=True)
class JobError:
    """An exception that a job raised or a death that it died, safe to send anywhere.

    Parameters
    ----------
    type : str
        Name of the exception's class, of a signal, or "TimeoutError".
    message : str
        What it said, in one line.
    traceback : str
        As Python prints it; empty where there is none.
    """

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, raised: BaseException) -> JobError:
        """What is kept of an exception."""
        text = "".join(traceback.format_exception(raised))
        return cls(type(raised).__name__, " ".join(str(raised).split()), text)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A run begins; `attributes` are its settings and totals, by plain names."""

    run_id: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage begins; `total` is its number of jobs, 0 for one without jobs."""

    stage: str
    time_ns: int
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class StageEnded:
    """A stage ends; `attributes` belong to the run from now on."""

    stage: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobSubmitted:
    """A job is about to run; `attributes` name it."""

    stage: str
    index: int
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobEnded:
    """A job ended, however it ended.

    Parameters
    ----------
    done, total : int
        Jobs of this stage that ended, this one included, and all jobs.
    outcome : str
        One of `OUTCOMES`.
    attributes : Mapping
        What is known of the job and its result, by plain names.
    submitted_ns, started_ns, ended_ns : int
        Start and end by the worker's own clock.
    pid : int
        Process of the worker, 0 where it is not known.
    step_times : Mapping
        Seconds spent in the named parts of the job.
    key : str
        What the result depends on, so that another run can take it; empty where none can.
    result : object
        The result in plain lists, numbers and texts; None without a key.
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


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Nothing has ended for a while.

    Parameters
    ----------
    pending : int
        Jobs that have not ended.
    pending_indices : sequence of int
        The first of them: running ones, oldest first, then those that wait.
    running_indices : sequence of int
        Those that run, oldest first.
    running_time : sequence of float
        How long each of those has run, in seconds.
    running_attributes : sequence of Mapping
        What is known of each of those.
    running_steps : sequence of str
        The part of the work that each is at, empty where that is not known.
    stack : str
        Where the oldest of them is, as Python prints it; empty where that is not known.
    timeout : float
        Seconds after which a job is given up; 0 means never.
    last_completed_index : int
        0 where none has ended yet.
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
    """A job takes much longer than its like, while others may go on; `stack` is where it is."""

    stage: str
    time_ns: int
    index: int
    running_time: float
    attributes: Mapping[str, Any]
    step: str = ""
    stack: str = ""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A line for people; `level` is that of the logging module."""

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
    RunStarted | StageStarted | StageEnded | JobSubmitted | JobEnded | Heartbeat | SlowJob | Note
    | RunEnded
)  # fmt: skip


class Observer:
    """Base of observers: every method does nothing; override those you need.

    Called from the thread that runs the phase, between two looks at the pool, so a method
    should be quick. One that raises is taken off, and the run goes on.
    """

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Called with what happened at once; by default each goes to its method, in order."""
        for event in events:
            getattr(self, _METHODS[type(event)])(event)

    def run_started(self, event: RunStarted) -> None:
        """Called first."""

    def stage_started(self, event: StageStarted) -> None:
        """Called before the first job of a stage."""

    def stage_ended(self, event: StageEnded) -> None:
        """Called after the last job of a stage."""

    def job_submitted(self, event: JobSubmitted) -> None:
        """Called when a job is given to the pool, soon to run."""

    def job_ended(self, event: JobEnded) -> None:
        """Called once for every job, in the order in which they end."""

    def heartbeat(self, event: Heartbeat) -> None:
        """Called when nothing has ended for a while, and again while that lasts."""

    def slow_job(self, event: SlowJob) -> None:
        """Called once for a job that takes too long."""

    def note(self, event: Note) -> None:
        """Called with a line for people."""

    def run_ended(self, event: RunEnded) -> None:
        """Called last, also after a failure."""


_METHODS = {
    RunStarted: "run_started",
    StageStarted: "stage_started",
    StageEnded: "stage_ended",
    JobSubmitted: "job_submitted",
    JobEnded: "job_ended",
    Heartbeat: "heartbeat",
    SlowJob: "slow_job",
    Note: "note",
    RunEnded: "run_ended",
}


class FanOut:
    """Tells every observer; one that raises is taken off and reported once."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)

    def dispatch(self, *events: Event) -> None:
        """Tell all observers of what happened at once."""
        for observer in tuple(self._observers):
            if observer not in self._observers:  # taken off while another was reported
                continue
            try:
                observer.handle_batch(events)
            except Exception as error:
                self._observers.remove(observer)
                name, what = type(observer).__name__, _METHODS[type(events[0])]
                logger.exception("observer %s raised in %s and was taken off", name, what)
                message = f"{name} failed ({type(error).__name__}: {error}) and was taken off"
                self.dispatch(Note(level=logging.WARNING, message=message))
