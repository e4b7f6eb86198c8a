"""Snapshots of an open span."""

from __future__ import annotations

import threading
import time

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Span

from ..threads import start_thread

SNAPSHOT_INTERVAL = 10.0  # seconds between two snapshots without an update
SNAPSHOT_TIMEOUT = 1.0  # time-out of the export of a snapshot, in seconds


class SnapshotExporter:
    """Exports a span as it stands, with the same ids and the present time as its end.

    Jaeger on Badger keeps one span for each id and start time. Each snapshot therefore replaces
    the one before, and the ended span replaces the last.

    Parameters
    ----------
    exporter : SpanExporter
        With `SNAPSHOT_TIMEOUT` as its time-out. It is used by a thread of its own.
    interval : float
        Seconds between two snapshots without an update.
    """

    def __init__(self, exporter: SpanExporter, interval: float = SNAPSHOT_INTERVAL) -> None:
        self._exporter = exporter
        self._interval = interval
        self._span: Span | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._refused = False

    def update(self, span: Span) -> None:
        """Export the span as it stands, now and at every interval; return at once."""
        self._span = span
        self._wake.set()
        if self._thread is None and not self._refused:
            self._thread = start_thread(
                self._work, "zemosaic-live", "the collector does not show the unfinished run"
            )
            self._refused = self._thread is None

    def stop(self) -> None:
        """Export no more; wait for a snapshot in progress, up to `SNAPSHOT_TIMEOUT`."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(SNAPSHOT_TIMEOUT)

    def _work(self) -> None:
        while True:
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._stopping.is_set():
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
