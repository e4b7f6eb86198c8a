"""A queue between the run and a slow exporter of spans; adding a span takes microseconds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from itertools import islice
from typing import Any, NamedTuple

from ..errors import UserError
from ..threads import start_thread

# Ten seconds of 5,000 pairs a second; an ended span takes about 2 KB, so 100 MB at most. A full
# queue drops its oldest spans.
MAX_QUEUED_SPANS = 50_000
MAX_BATCH = 2048


class QueueLimits(NamedTuple):
    """Longest wait of a span in seconds, spans of a batch, and spans in the queue."""

    delay: float
    batch: int = MAX_BATCH
    queued: int = MAX_QUEUED_SPANS

    @classmethod
    def from_environment(cls, delay: float) -> QueueLimits:
        """Return the limits of OTEL_BSP_*, by default with this delay.

        Raises
        ------
        UserError
            A variable is not a positive integer.
        """
        return cls(
            _positive("OTEL_BSP_SCHEDULE_DELAY", 1000 * delay) / 1000,
            int(_positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", MAX_BATCH)),
            int(_positive("OTEL_BSP_MAX_QUEUE_SIZE", MAX_QUEUED_SPANS)),
        )


class ExportQueue:
    """A queue of spans, the thread that exports them, and the count of delivered spans.

    A span is lost when its export fails, when the queue is full, or when the process ends first;
    comparing `accepted` with `delivered` detects all three. The SDK's own queue takes three times
    as long for each span, and up to half a minute to shut down.

    Parameters
    ----------
    name : str
        Name of the destination.
    send : callable
        Export some spans and return the reason of a failure, empty after a success; an exception
        counts as failure.
    limits : QueueLimits
        Limits of the queue.
    on_delivered : callable
        Called with delivered spans, from the thread of the queue.
    skip_ids : set of int
        Ids of spans to leave out.
    on_closed : callable
        Called once, from the thread of the queue, after the last span.
    open_spans : callable
        Returns open spans to send as they stand. They are sent by the same thread, so none
        arrives after the ended span that replaces it.

    Attributes
    ----------
    accepted, delivered : int
        Spans added, and spans delivered.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Any]], str],
        limits: QueueLimits,
        on_delivered: Callable[[Sequence[Any]], None] = lambda spans: None,
        skip_ids: Set[int] = frozenset(),
        on_closed: Callable[[], None] = lambda: None,
        open_spans: Callable[[], Sequence[Any]] = lambda: (),
    ) -> None:
        self.name = name
        self.accepted = self.delivered = 0
        self._send, self._limits = send, limits
        self._on_delivered, self._on_closed = on_delivered, on_closed
        self._skip_ids, self._open_spans = skip_ids, open_spans
        self._spans: deque[Any] = deque()
        self._reasons: Counter[str] = Counter()
        # Each counter has one writer: the caller of `put`, and the thread.
        self._dropped = self._taken = 0
        self._wake = threading.Event()
        self._closing = self._abandoned = False
        self._thread = start_thread(
            self._work, "zemosaic-export", f"{name} gets all spans at the end of the run"
        )

    @property
    def lost(self) -> int:
        """Spans that were not delivered."""
        return self.accepted - self.delivered

    @property
    def reason(self) -> str:
        """Why most of the lost spans were lost; empty if unknown."""
        return self._reasons.most_common(1)[0][0] if self._reasons else ""

    def put(self, span: Any) -> None:
        """Add an ended span; drop the oldest span of a full queue."""
        if self._skip_ids and span.context.span_id in self._skip_ids:
            return
        self.accepted += 1
        self._spans.append(span)
        waiting = self.accepted - self._dropped - self._taken
        if waiting >= self._limits.batch and not self._wake.is_set():
            self._wake.set()
        if waiting > self._limits.queued:
            with contextlib.suppress(IndexError):  # the thread has taken the last one
                self._spans.popleft()
                self._dropped += 1

    def close(self) -> None:
        """Send the waiting spans and stop; return at once, if there is a thread."""
        self._closing = True
        self._wake.set()
        if self._thread is None:
            self._work()

    def join(self, timeout: float) -> bool:
        """Wait for the thread and return whether it has stopped; if not, drop the waiting spans."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        self._abandoned = self._thread.is_alive()
        return not self._abandoned

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(self._limits.delay)
            self._wake.clear()
            self._send_queued()
            if (spans := self._open_spans()) and not self._closing:
                with contextlib.suppress(Exception):
                    self._send(spans)
        self._send_queued()  # spans added meanwhile
        self._on_closed()

    def _send_queued(self) -> None:
        """Send the spans waiting now, in batches."""
        remaining = len(self._spans)
        while remaining > 0 and not self._abandoned:
            batch: list[Any] = []
            with contextlib.suppress(IndexError):  # `put` has dropped the rest
                for _ in islice(range(remaining), self._limits.batch):
                    batch.append(self._spans.popleft())
            if not batch:
                return
            remaining -= len(batch)
            self._taken += len(batch)
            # The next batch may be delivered.
            try:
                reason = self._send(batch)
            except Exception as error:  # noqa: BLE001 - an exporter may raise anything
                reason = f"{type(error).__name__}: {error}"
            if reason:
                self._reasons[reason] += len(batch)
            else:
                self.delivered += len(batch)
                with contextlib.suppress(Exception):
                    self._on_delivered(batch)


def _positive(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not int(text):
        raise UserError(f"{name} must be a positive integer but is {text!r}")
    return int(text)
