"""Snapshots of a span that has not ended."""

from __future__ import annotations

import threading
import time

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Span

SHOWN = 10.0  # seconds between two pictures of a span that has not ended
SHOWING = 1.0  # seconds at most that one of them may take


class SnapshotExporter:
    """Exports a span as it stands, from a thread of its own: same ids, end = now.

    Jaeger on Badger keeps one span for each id and start, so that every picture takes the place
    of the one before, and the span that has ended takes that of the last.

    Parameters
    ----------
    exporter : SpanExporter
        With a short time-out.
    every : float
        Seconds between two pictures that nobody asked for.
    """

    def __init__(self, exporter: SpanExporter, every: float = SHOWN) -> None:
        self._exporter = exporter
        self._every = every
        self._span: Span | None = None
        self._asked, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="zemosaic-live", daemon=True)

    def show(self, span: Span) -> None:
        """Show the span as it stands, now and from time to time."""
        self._span = span
        self._asked.set()
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Show it no more; a picture under way has as long as it may take to arrive."""
        self._done.set()
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(SHOWING)

    def _work(self) -> None:
        while True:
            self._asked.wait(self._every)
            self._asked.clear()
            if self._done.is_set():
                break
            if isinstance(self._span, ReadableSpan):
                self._exporter.export([_snapshot(self._span)])
        self._exporter.shutdown()


def _snapshot(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=dict(span.attributes or {}),
        events=list(span.events),
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=time.time_ns(),
        instrumentation_scope=span.instrumentation_scope,
    )
