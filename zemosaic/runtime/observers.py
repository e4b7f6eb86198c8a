"""The observers of a run, and the dispatch of its events to them."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from ..threads import take_reports
from .events import (
    Event,
    Heartbeat,
    JobEnded,
    JobRunning,
    JobSubmitted,
    Note,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
    WorkerStarted,
)
from .interrupts import held
from .library_messages import LibraryMessage

logger = logging.getLogger(__name__)


class Observer:
    """Base class of observers: every method does nothing; override the ones you need.

    The thread of the scheduler calls the methods, so they should return quickly. An observer whose
    method raises is removed, and the run continues.
    """

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Receive simultaneous events; by default, pass each to its method in order."""
        for event in events:
            getattr(self, _METHODS[type(event)])(event)

    def __init_subclass__(cls, **options: Any) -> None:
        """Call a method under its old name, `tell`, until 0.4."""
        super().__init_subclass__(**options)
        if "tell" in vars(cls):
            warnings.warn(
                f"{cls.__name__}.tell: the method is handle_batch since zemosaic 0.3, and only "
                "that name will be called from 0.4 on",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.handle_batch = vars(cls)["tell"]  # type: ignore[method-assign]

    def tell(self, events: Sequence[Event]) -> None:
        """Old name of `handle_batch`, for a ``super().tell(events)``, until 0.4."""
        Observer.handle_batch(self, events)

    def run_started(self, event: RunStarted) -> None:
        """Called first."""

    def stage_started(self, event: StageStarted) -> None:
        """Called before the first job of a stage."""

    def stage_ended(self, event: StageEnded) -> None:
        """Called after the last job of a stage."""

    def job_submitted(self, event: JobSubmitted) -> None:
        """Called when a job is submitted to the pool, shortly before it runs."""

    def job_ended(self, event: JobEnded) -> None:
        """Called once for every job, in the order in which jobs end."""

    def heartbeat(self, event: Heartbeat) -> None:
        """Called when no job has ended for a while, and repeatedly until one does."""

    def job_running(self, event: JobRunning) -> None:
        """Called when a job has run for one, two, four, eight and so on heartbeats."""

    def slow_job(self, event: SlowJob) -> None:
        """Called once for each slow job."""

    def worker_started(self, event: WorkerStarted) -> None:
        """Called for each worker process when it is ready."""

    def note(self, event: Note) -> None:
        """Called with a message for users."""

    def run_ended(self, event: RunEnded) -> None:
        """Called last, also after a failure."""


_METHODS = {
    RunStarted: "run_started",
    StageStarted: "stage_started",
    StageEnded: "stage_ended",
    JobSubmitted: "job_submitted",
    JobEnded: "job_ended",
    Heartbeat: "heartbeat",
    JobRunning: "job_running",
    SlowJob: "slow_job",
    WorkerStarted: "worker_started",
    Note: "note",
    RunEnded: "run_ended",
}


class FanOut:
    """Passes events to all observers; an observer is removed and reported when it raises.

    Attributes
    ----------
    lock : threading.RLock
        Held while events are passed on, because a stage without jobs has a thread for heartbeats.
    last_dispatch : float
        Time of the last events, by `time.monotonic`.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.lock = threading.RLock()
        self.last_dispatch = time.monotonic()
        self._observers = list(observers)
        self._noted: set[str] = set()

    def note_once(self, message: LibraryMessage) -> None:
        """Log a message of a library, and pass it to the observers, once per kind."""
        if message.kind not in self._noted:
            self._noted.add(message.kind)
            logger.info("%s", message)
            self.dispatch(Note(level=logging.DEBUG, message=str(message)))

    def dispatch(self, *events: Event) -> None:
        """Pass simultaneous events to all observers, after the reports of missing threads."""
        with self.lock, held:
            self._dispatch(events)

    def _dispatch(self, events: Sequence[Event]) -> None:
        self.last_dispatch = time.monotonic()
        # Nothing comes before the start of a run.
        for message in () if isinstance(events[0], RunStarted) else take_reports():
            if message not in self._noted:
                self._noted.add(message)
                self.dispatch(Note(level=logging.WARNING, message=message))
        for observer in tuple(self._observers):
            if observer not in self._observers:  # removed while another one was reported
                continue
            try:
                observer.handle_batch(events)
            except Exception as error:
                self._observers.remove(observer)
                name, method = type(observer).__name__, _METHODS[type(events[0])]
                logger.exception("observer %s raised in %s and was taken off", name, method)
                message = f"{name} failed ({type(error).__name__}: {error}) and was taken off"
                self.dispatch(Note(level=logging.WARNING, message=message))
