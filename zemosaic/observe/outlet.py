"""A queue before something slow that takes spans: to put one in takes no time to speak of."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

# It holds ten seconds of 5,000 pairs a second (an ended span is about 2 KB, so 100 MB at the very
# worst); then the oldest go.
QUEUE = 50_000
BATCH = 2048


class Outlet:
    """A queue of spans, a thread that hands them on, and the count of those that got through.

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
    had : collection of int
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
        had: Collection[int] = (),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.put_in = self.delivered = 0
        self._send, self._delay, self._took, self._had, self._ended = send, delay, took, had, ended
        self._waiting: deque[Any] = deque(maxlen=QUEUE)
        self._wake = threading.Event()
        self._closing = self._late = False
        self._thread = threading.Thread(target=self._work, name="zemosaic-outlet", daemon=True)
        self._thread.start()

    def put(self, span: Any) -> None:
        """Have a span that has ended sent."""
        if self._had and span.context.span_id in self._had:
            return
        self.put_in += 1
        self._waiting.append(span)
        if len(self._waiting) >= BATCH:
            self.hurry()

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
        left = len(self._waiting)
        while left > 0 and not self._late:
            some = [self._waiting.popleft() for _ in range(min(left, BATCH))]
            left -= len(some)
            with contextlib.suppress(Exception):  # the count tells; the next may get through
                if self._send(some):
                    self.delivered += len(some)
                    self._took(some)
