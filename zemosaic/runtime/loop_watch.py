"""Watches a loop over futures or items of somebody else, with the events of our own stages.

The loop itself records each end. A thread looks at the loop every tick, as the scheduler does, and
sends heartbeats and slow jobs also while the body of the loop is stuck.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

from .batcher import Batcher
from .clock import Clock
from .events import Event, JobError, JobSubmitted
from .future_window import FutureWindow
from .inflight import Inflight
from .observers import FanOut
from .outcomes import Outcome, OutcomeLog
from .submission import Batch, Job
from .watch import Watch
from .worker import TaskResult

STAGE = "loop"
FIRST_LOOK = 10  # the first look comes after this part of a tick
BATCH_SECONDS = 0.05  # ends within this time are dispatched together, for a fraction of the cost
Ended = queue.SimpleQueue[tuple[Any, int]]


class LoopWatch:
    """The watch of one loop; made by `zemosaic.watch`.

    Parameters
    ----------
    observers : FanOut
        Receivers of all events; they are called by one thread at a time.
    total : int
        Number of futures or items; 0 if it is known by the futures alone.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    inflight : Inflight, optional
        Table of running jobs.
    clock : Clock, optional
        Source of all times.
    progress : callable
        Called with the numbers of ended and of all futures before each is yielded, because the
        loop may report its progress to the same place.
    """

    def __init__(
        self,
        observers: FanOut,
        total: int = 0,
        heartbeat: float = 10.0,
        inflight: Inflight | None = None,
        clock: Clock | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._clock, self._progress = clock or Clock(), progress
        self._observers, self._inflight = observers, inflight
        self._least_total = total
        self._window = FutureWindow(STAGE, self._clock, inflight)
        self._batcher = Batcher((), 1)
        self._outcomes = OutcomeLog(
            STAGE, total, 0, self._clock, lambda _: ("measured", {}), lambda _: None
        )
        self._watch = Watch(
            window=self._window,
            batcher=self._batcher,
            outcomes=self._outcomes,
            clock=self._clock,
            heartbeat=heartbeat,
            timeout=0.0,
        )
        self._labels: list[Any] = []
        self._events: list[Event] = []  # not yet dispatched
        self._dispatched = -math.inf
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="zemosaic-watch", daemon=True)

    @property
    def pending(self) -> list[Any]:
        """The futures that the loop has not had, in the order of their submission."""
        with self._lock:
            return self._window.futures

    def label(self, index: int) -> Any:
        """Return the label of a future by its number, which counts from 1."""
        return self._labels[index - 1] if 0 < index <= len(self._labels) else index

    def as_completed(self, futures: Mapping[Any, Any] | Iterable[Any]) -> Iterator[Any]:
        """Yield the futures as they end, like `concurrent.futures.as_completed`.

        Parameters
        ----------
        futures : Mapping or iterable
            Futures, or futures as keys of their labels. They may belong to any executor, and to
            Dask.
        """
        ended: Ended = queue.SimpleQueue()
        labels = dict(futures.items()) if isinstance(futures, Mapping) else dict.fromkeys(futures)
        missing = self._add(labels, ended)
        while missing:
            with suppress(queue.Empty):  # Windows does not interrupt an unlimited wait
                future, ended_ns = ended.get(timeout=self._watch.tick)
                missing -= 1
                self._finish(future, ended_ns)
                yield future

    def items(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """Yield the items; each runs until the loop asks for the next."""
        for index, item in enumerate(iterable, len(self._labels) + 1):
            label = item if isinstance(item, (str, int)) else index
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            self._add({future: label}, None)
            self._window.item, self._window.item_thread = future, threading.get_ident()
            try:
                yield item
            finally:  # also after a break or an exception in the loop
                future.set_result(None)
                self._finish(future, time.time_ns())

    def start(self) -> None:
        """Start the thread that looks on; without one, only ends are reported."""
        with suppress(RuntimeError):  # no more threads: the loop is worth more than its watch
            self._thread.start()

    def stop(self) -> None:
        """Stop looking on; wait for a look in progress."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        with self._lock:
            self._dispatch(self._clock.monotonic())
            self._write_progress()

    def _add(self, labels: Mapping[Any, Any], ended: Ended | None) -> int:
        """Watch futures with labels; each enters the queue when it ends. Return their number."""
        with self._lock:
            now_ns = self._clock.time_ns()
            first = len(self._labels) + 1
            for index, (future, label) in enumerate(labels.items(), first):
                self._labels.append(index if label is None else label)
                attributes = {"name": str(self._labels[-1])}
                self._window.add(future, Batch([Job(index, _nothing, (), attributes)], now_ns))
            self._outcomes.total = max(self._least_total, len(self._labels))
            self._window.update_next(self._clock.monotonic())
        if ended is not None:
            for future in labels:
                future.add_done_callback(lambda f: ended.put((f, time.time_ns())))
        return len(labels)

    def _finish(self, future: Any, ended_ns: int) -> None:
        with self._lock:
            now = self._clock.monotonic()
            batch = self._window.take(future)
            self._window.update_next(now)
            error = _error_of(future)
            started_ns = min(batch.running_since_ns or batch.submitted_ns, ended_ns)
            result = TaskResult(None, error, started_ns, ended_ns, 0)
            outcome = Outcome(batch.jobs[0], "failed" if error else "measured", error=error)
            if error is None:
                self._batcher.add_duration((ended_ns - started_ns) / 1e9)
            self._events.append(self._outcomes.record(batch, outcome, result))
            self._watch.job_ended(now)
            self._progress(self._outcomes.done, self._outcomes.total)
            if now - self._dispatched >= BATCH_SECONDS or not self._window:
                self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        events, self._events, self._dispatched = self._events, [], now
        if events:
            self._observers.dispatch(*events)

    def _look_on(self) -> None:
        wait = self._watch.tick / FIRST_LOOK
        while not self._stop.wait(wait):
            self._window.ask_dask(self.pending, self._watch.tick)
            self.look()
            wait = self._watch.tick

    def look(self) -> None:
        """Send reports of long-running and slow jobs and heartbeats; update the table of jobs."""
        with self._lock:
            self._window.update_running()
            self._window.forget_threads()
            now = self._clock.monotonic()
            # Not one for every future: the autopsy needs the long-running ones.
            self._events += map(_submitted, self._window.write_rows())
            self._events += [*self._watch.running_jobs(now), *self._watch.slow_jobs(now)]
            self._events += self._watch.heartbeats(now)
            self._dispatch(now)
            self._write_progress()

    def _write_progress(self) -> None:
        if self._inflight is not None:
            self._inflight.write_progress(STAGE, self._outcomes.done, self._outcomes.total)


def _submitted(batch: Batch) -> JobSubmitted:
    job = batch.current_job
    return JobSubmitted(
        stage=STAGE, index=job.index, time_ns=batch.running_since_ns, attributes=job.attributes
    )


def _nothing() -> None:
    """Stand for the work of a future, which its owner has submitted."""


def _error_of(future: Any) -> JobError | None:
    """Return the error of an ended future."""
    if isinstance(future, Future):
        try:
            raised = future.exception(timeout=0)
        except CancelledError:
            return JobError("CancelledError", "cancelled")
        return None if raised is None else JobError.of(raised)
    # Dask would send a request for the exception, which the owner asks for anyway.
    state = getattr(future, "status", "finished")
    return None if state == "finished" else JobError("FutureError", f"its state is {state}")
