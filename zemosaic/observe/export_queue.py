"""A queue before something slow that takes spans: to put one in takes no time to speak of."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Any

from .span_tables import ids

# It holds ten seconds of 5,000 pairs a second (an ended span is about 2 KB, so 100 MB at the very
# worst); then the oldest go.
QUEUE = 50_000
BATCH = 2048


class ExportQueue:
    """A queue of spans, a thread that hands them on, and the count of those that got through.

    Spans are those of the SDK, and tables of many (`zemosaic.observe.span_tables`).

    A span is lost when it cannot be handed on, when the queue is full, or when the end comes while
    it waits; counting what went in and what was delivered sees all three. The SDK's own queue
    takes three times as long for a span, and its end half a minute if need be.

    Parameters
    ----------
    name : str
        Of what is behind it.
    send : callable
        Hands some spans on, and says whether it could; what it raises means that it could not.
    delay : float
        Seconds that a span waits at most for others to go with.
    took : callable
        Told of the spans that got through.
    had : set of int
        Ids of spans that are not to be sent.
    ended : callable
        Called once, when nothing more will be sent.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Any]], bool],
        delay: float,
        took: Callable[[Sequence[Any]], None] = lambda spans: None,
        had: Set[int] = frozenset(),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.put_in = self.delivered = 0
        self._send, self._delay, self._took, self._had, self._ended = send, delay, took, had, ended
        self._waiting: deque[Any] = deque()
        self._dropped = self._taken = 0  # the one by who puts in, the other by the thread
        self._wake = threading.Event()
        self._closing = self._late = False
        self._thread = threading.Thread(
            target=self._work, name="zemosaic-export_queue", daemon=True
        )
        self._thread.start()

    def put(self, spans: Any) -> None:
        """Have a span that has ended sent, or a table of them."""
        if not self._had.isdisjoint(ids(spans)):
            if self._had >= {*ids(spans)}:
                return
            spans = spans.without(self._had)
        self.put_in += len(ids(spans))
        self._waiting.append(spans)
        waiting = self.put_in - self._dropped - self._taken
        if waiting >= BATCH:
            self.hurry()
        with contextlib.suppress(IndexError):  # the thread was quicker
            while waiting > QUEUE:
                oldest = len(ids(self._waiting.popleft()))
                self._dropped += oldest
                waiting -= oldest

    def hurry(self) -> None:
        """Send what waits, without waiting for more."""
        self._wake.set()

    def close(self) -> None:
        """Send what waits, and no more; returns at once."""
        self._closing = True
        self.hurry()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the end; whether it came. If not, what still waits is lost."""
        self._thread.join(timeout)
        self._late = self._thread.is_alive()
        return not self._late

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._empty()
        self._empty()  # of what came meanwhile
        self._ended()

    def _empty(self) -> None:
        left = len(self._waiting)  # what comes meanwhile waits for more
        while left > 0 and not self._late:
            some, count = [], 0
            with contextlib.suppress(IndexError):  # the oldest went
                while left > 0 and count < BATCH:
                    some.append(self._waiting.popleft())
                    left, count = left - 1, count + len(ids(some[-1]))
            self._taken += count
            with contextlib.suppress(Exception):  # the count tells; the next may get through
                if self._send(some):
                    self.delivered += count
                    self._took(some)
