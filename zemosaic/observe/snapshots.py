"""Open spans, shown in the collector as they stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .live import RecordedSpan
from .telemetry import Span

SNAPSHOT_INTERVAL = 10.0  # seconds between two snapshots, and before the first
LAST_SEEN = "zemosaic.run.last_seen"


class Snapshots:
    """Shows open spans with the same ids and the present time as their end.

    Jaeger on Badger keeps one span for each id and start time. Each snapshot therefore replaces
    the one before, and the ended span replaces the last.

    Parameters
    ----------
    interval : float
        Seconds before the first snapshot, and between two.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        interval: float = SNAPSHOT_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval, self._clock = interval, clock
        self._first = self._due = clock() + interval
        self._spans: Mapping[Span, Mapping[str, Any]] = {}

    def show(self, spans: Mapping[Span, Mapping[str, Any]]) -> None:
        """Show the open ones of these spans, each with more attributes; later changes count."""
        self._spans = spans

    def hurry(self) -> None:
        """Take the next snapshot at once, but none before the first is due."""
        self._due = min(self._due, max(self._first, self._clock()))

    def take(self) -> list[Any]:
        """Return the open spans as they stand, readable; none if the last ones are not yet old."""
        now = self._clock()
        if now < self._due:
            return []
        self._due = now + self._interval
        now_ns = time.time_ns()
        seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ns / 1e9))
        return [
            span.as_it_stands(now_ns, {LAST_SEEN: seen, **attributes})
            for span, attributes in list(self._spans.items())  # the run changes them
            if isinstance(span, RecordedSpan) and span.is_recording()
        ]
