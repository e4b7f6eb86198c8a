"""The OpenTelemetry SDK as the command line uses it: a file always, OTLP on request.

Nothing here may delay the run. Threads export the spans, and the end of the run waits for them for
a bounded time; the SDK's own shutdown can take half a minute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import no_follow
from ..threads import report
from . import otlp_json
from .endpoint import exporters_from_environment, without_credentials
from .export_queue import ExportQueue, QueueLimits
from .exporters import Sender, console_sender, otlp_sender
from .ids import Ids
from .live import Recorder, make_tracer
from .snapshots import SNAPSHOT_INTERVAL, Snapshots
from .telemetry import Tracer

if TYPE_CHECKING:
    from .other_signals import OtherSignals

FILE_DELAY = 0.2  # seconds of spans in a line of the file, and lost at most in a crash
OTLP_DELAY = 1.0
SHUTDOWN_TIMEOUT = 5.0  # seconds that an unresponsive collector may cost at the end

_sdk_logger = logging.getLogger("opentelemetry")


class NoSignals:
    """Stands for metrics and log records without a collector."""

    meter = None

    def emit(self, record: Any) -> None:
        """Drop a log record."""


class Tracing:
    """A tracer of spans that go to a file and, with an endpoint, to a collector.

    Parameters
    ----------
    file : pathlib.Path
        Receives OTLP/JSON, a batch per line; an existing file is replaced.
    endpoint : str
        OTLP endpoint, see `endpoint.export_target`; empty for none.
    ids : Ids, optional
        Ids of an earlier run, to make its spans again.
    skip : iterable of int
        Numbers of spans for the file only, because the collector has them already.
    other_signals : bool
        Send metrics and log records as well.

    Raises
    ------
    UserError
        A variable of the environment has no valid value.

    Attributes
    ----------
    on_delivered : callable
        Called from another thread with the numbers of delivered spans.
    signals : OtherSignals or NoSignals
        Metrics and log records, for `zemosaic.observe.run_recorder.Telemetry`.
    """

    def __init__(
        self,
        file: Path,
        endpoint: str = "",
        ids: Ids | None = None,
        skip: Iterable[int] = (),
        *,
        other_signals: bool = False,
    ) -> None:
        self.endpoint = without_credentials(endpoint)
        self.ids = ids or Ids()
        self.on_delivered: Callable[[list[int]], None] = lambda numbers: None
        self.snapshots: Snapshots | None = None
        self.signals: OtherSignals | NoSignals = NoSignals()
        self._last_reason: Callable[[], str] = lambda: ""
        self._lock = threading.Lock()
        self._open_queues = 0
        self._signals_thread: threading.Thread | None = None
        self._tracer = make_tracer(self.ids, self._put)
        if endpoint and other_signals and isinstance(self._tracer, Recorder):
            self._start_signals(endpoint, self._tracer)
        exporter = otlp_sender(endpoint) if endpoint else None
        limits = QueueLimits.from_environment(OTLP_DELAY)
        self._stream = os.fdopen(no_follow(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")
        self._queues = [self._queue(file.name, self._write, QueueLimits(FILE_DELAY))]
        if exporter is not None:
            self._last_reason = exporter.reason
            self._queues.append(self._collector_queue(exporter, limits, skip))
        if "console" in exporters_from_environment():
            self._queues.append(self._queue("the console", console_sender(), limits))
        # The exporters log every failed attempt; the queues count, and one line is enough.
        self._level = _sdk_logger.level
        _sdk_logger.setLevel(logging.CRITICAL)

    def _queue(
        self,
        name: str,
        send: Callable[[Sequence[Any]], str],
        limits: QueueLimits,
        on_closed: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> ExportQueue:
        def closed() -> None:
            on_closed()
            self._closed()

        self._open_queues += 1
        return ExportQueue(name, send, limits, on_closed=closed, **options)

    def _collector_queue(
        self, exporter: Sender, limits: QueueLimits, skip: Iterable[int]
    ) -> ExportQueue:
        def delivered(spans: Sequence[Any]) -> None:
            self.on_delivered(self.ids.span_numbers(spans))

        def open_spans() -> Sequence[Any]:
            return self.snapshots.take() if self.snapshots is not None else ()

        return self._queue(
            self.endpoint,
            exporter,
            limits,
            exporter.shutdown,
            on_delivered=delivered,
            skip_ids={self.ids.first + number for number in skip},
            open_spans=open_spans,
        )

    def _start_signals(self, endpoint: str, recorder: Recorder) -> None:
        from .other_signals import OtherSignals

        try:
            self.signals = OtherSignals(endpoint, recorder.resource, recorder.scope)
            self._open_queues += 1
        except RuntimeError as error:  # no thread can be started
            report(f"{error}: no metrics and log records are sent")

    def _put(self, span: Any) -> None:
        for queue in self._queues:
            queue.put(span)

    @property
    def tracer(self) -> Tracer:
        """The tracer for `zemosaic.observe.run_recorder.Telemetry`."""
        return self._tracer

    def show_open_spans(self, interval: float = SNAPSHOT_INTERVAL) -> Snapshots | None:
        """Return a view of open spans, sent at every interval; None without a collector."""
        if self.endpoint:
            self.snapshots = Snapshots(min(interval, SNAPSHOT_INTERVAL))
        return self.snapshots

    def _write(self, spans: Sequence[Any]) -> str:
        """Write a batch as a line of OTLP/JSON, and flush it to the kernel."""
        try:
            self._stream.write(otlp_json.encode(spans))
            self._stream.flush()
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def close(self, timeout: float = SHUTDOWN_TIMEOUT) -> list[str]:
        """Send the remaining spans.

        Parameters
        ----------
        timeout : float
            Seconds to wait for the collector. The file, which is local, has `SHUTDOWN_TIMEOUT`.

        Returns
        -------
        list of str
            A message for each destination with missing spans.
        """
        deadline = time.monotonic() + timeout
        for queue in self._queues:
            queue.close()
        if not isinstance(self.signals, NoSignals) and self._signals_thread is None:
            self._signals_thread = self.signals.close(self._closed)
        written = self._queues[0].join(SHUTDOWN_TIMEOUT)
        for queue in self._queues[1:]:
            queue.join(max(0.0, deadline - time.monotonic()))
        if self._signals_thread is not None:
            self._signals_thread.join(max(0.0, deadline - time.monotonic()))
        if written:
            # The queue has already counted the spans for which the disk had no room.
            with contextlib.suppress(OSError):
                self._stream.close()
        return [self._loss(queue) for queue in self._queues if queue.lost]

    def _loss(self, queue: ExportQueue) -> str:
        # The exporter may still be trying again; the reason of its last attempt is known.
        reason = queue.reason or self._last_reason() or "no answer"
        spans = f"{queue.lost} span{'s' if queue.lost > 1 else ''}"
        return f"{spans} could not be delivered to {queue.name}: {reason}"

    def _closed(self) -> None:
        # The last queue restores the level of the logger: until then an attempt would be logged.
        with self._lock:
            self._open_queues -= 1
            if not self._open_queues:
                _sdk_logger.setLevel(self._level)
