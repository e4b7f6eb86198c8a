"""A queue between the run and a slow exporter of spans; adding a span takes microseconds."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Any

from ..threads import start_thread
from .span_tables import span_ids

# Ten seconds of 5,000 pairs a second; an ended span takes about 2 KB, so 100 MB at most. A full
# queue drops its oldest spans.
MAX_QUEUED_SPANS = 50_000
MAX_BATCH = 2048


class ExportQueue:
    """A queue of spans, the thread that exports them, and the count of delivered spans.

    An item is a span of the SDK or a `SpanTable`. A span is lost when its export fails, when the
    queue is full, or when the process ends first; comparing `accepted` with `delivered` detects
    all three. The SDK's own queue takes three times as long for each span, and up to half a minute
    to shut down.

    Parameters
    ----------
    name : str
        Name of the destination.
    send : callable
        Export some items and return whether they were delivered; an exception counts as failure.
    delay : float
        Longest time in seconds for which a span waits for a larger batch.
    on_delivered : callable
        Called with delivered items, from the thread of the queue.
    skip_ids : set of int
        Ids of spans to leave out.
    on_closed : callable
        Called once, from the thread of the queue, after the last item.

    Attributes
    ----------
    accepted, delivered : int
        Spans added, and spans delivered.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Any]], bool],
        delay: float,
        on_delivered: Callable[[Sequence[Any]], None] = lambda items: None,
        skip_ids: Set[int] = frozenset(),
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.accepted = self.delivered = 0
        self._send, self._delay = send, delay
        self._on_delivered, self._on_closed = on_delivered, on_closed
        self._skip_ids = skip_ids
        self._items: deque[Any] = deque()
        # Each counter has one writer: the caller of `put`, and the thread.
        self._dropped = self._taken = 0
        self._wake = threading.Event()
        self._closing = self._abandoned = False
        self._thread = start_thread(
            self._work, "zemosaic-export", f"{name} gets all spans at the end of the run"
        )

    def put(self, item: Any) -> None:
        """Add an ended span or a table of ended spans; drop the oldest items of a full queue."""
        ids = span_ids(item)
        if not self._skip_ids.isdisjoint(ids):
            if self._skip_ids >= {*ids}:
                return
            item = item.without(self._skip_ids)
            ids = span_ids(item)
        self.accepted += len(ids)
        self._items.append(item)
        waiting = self.accepted - self._dropped - self._taken
        if waiting >= MAX_BATCH:
            self.send_now()
        with contextlib.suppress(IndexError):  # the thread has taken the last one
            while waiting > MAX_QUEUED_SPANS:
                oldest = len(span_ids(self._items.popleft()))
                self._dropped += oldest
                waiting -= oldest

    def send_now(self) -> None:
        """Send the waiting spans without waiting for a larger batch; return at once."""
        self._wake.set()

    def close(self) -> None:
        """Send the waiting spans and stop; return at once, if there is a thread."""
        self._closing = True
        self.send_now()
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
            self._wake.wait(self._delay)
            self._wake.clear()
            self._send_queued()
        self._send_queued()  # items added meanwhile
        self._on_closed()

    def _send_queued(self) -> None:
        """Send the items waiting now, in batches."""
        remaining = len(self._items)
        while remaining > 0 and not self._abandoned:
            batch: list[Any] = []
            count = 0
            with contextlib.suppress(IndexError):  # `put` has dropped the rest
                while remaining > 0 and count < MAX_BATCH:
                    batch.append(self._items.popleft())
                    remaining, count = remaining - 1, count + len(span_ids(batch[-1]))
            self._taken += count
            # A failure shows in the counts; the next batch may be delivered.
            with contextlib.suppress(Exception):
                if self._send(batch):
                    self.delivered += count
                    self._on_delivered(batch)
