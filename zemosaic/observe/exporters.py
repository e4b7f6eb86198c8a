"""The OpenTelemetry SDK as the command line uses it: a file always, OTLP on request.

Nothing here may delay the run. Threads export the spans, and the end of the run waits for them for
a bounded time; the SDK's own shutdown can take half a minute.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry import context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import (
    IdGenerator,
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, Tracer

from .._version import __version__
from ..files import no_follow
from . import otlp_json, otlp_proto
from .endpoint import export_target
from .export_queue import ExportQueue
from .live import SNAPSHOT_TIMEOUT, SnapshotExporter
from .span_tables import SharedFields, SpanTable, span_ids

FILE_DELAY = 0.2  # seconds of spans in a line of the file, and lost at most in a crash
OTLP_DELAY = 1.0
MAX_ATTRIBUTES = 32  # attributes of a span: no span of ours has more
MAX_EVENTS = 10_000  # events of a span: a heartbeat every ten seconds for a day
# Seconds that an unresponsive collector may cost at the end, besides SNAPSHOT_TIMEOUT.
SHUTDOWN_TIMEOUT = 4.0

_sdk_logger = logging.getLogger("opentelemetry")


class Ids(IdGenerator):
    """Ids of one trace: a random start, and consecutive span ids from there.

    The spans of a dead run can therefore be made again from its journal with the same ids, and
    delivered spans are identified by their numbers.

    Parameters
    ----------
    trace, first : int, optional
        Ids of an earlier run: 128 and 64 bits.
    """

    def __init__(self, trace: int = 0, first: int = 0) -> None:
        self.trace = trace or random.SystemRandom().randrange(1, 1 << 128)
        self.first = first or random.SystemRandom().randrange(1, 1 << 32) << 32
        self._counter = itertools.count(1)  # thread-safe in CPython

    def generate_trace_id(self) -> int:
        """Return the id of the trace."""
        return self.trace

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        return self.first + next(self._counter)

    def span_numbers(self, items: Iterable[Any]) -> list[int]:
        """Return the numbers of spans, counted from 1 in the order of their start."""
        return [span_id - self.first for item in items for span_id in span_ids(item)]


class Tracing:
    """A tracer whose spans go to a file and, with an endpoint, to a collector.

    Parameters
    ----------
    file : pathlib.Path
        Receives OTLP/JSON, a batch per line; an existing file is replaced.
    endpoint : str
        OTLP endpoint, see `export_target`; empty for none.
    ids : Ids, optional
        Ids of an earlier run, to make its spans again.
    skip : iterable of int
        Numbers of spans for the file only, because the collector has them already.

    Attributes
    ----------
    on_delivered : callable
        Called from another thread with the numbers of delivered spans.
    """

    def __init__(
        self, file: Path, endpoint: str = "", ids: Ids | None = None, skip: Iterable[int] = ()
    ) -> None:
        self.endpoint = endpoint
        self.ids = ids or Ids()
        self.on_delivered: Callable[[list[int]], None] = lambda numbers: None
        self._stream = os.fdopen(no_follow(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")
        self._lock = threading.Lock()
        self._queues = [ExportQueue(file.name, self._write, FILE_DELAY, on_closed=self._closed)]
        if endpoint:
            self._queues.append(self._collector_queue({self.ids.first + n for n in skip}))
        self._open_queues = len(self._queues)
        self._tracer = self._make_tracer()
        # The exporters log every failed attempt; the queues count, and one line is enough.
        self._level = _sdk_logger.level
        _sdk_logger.setLevel(logging.CRITICAL)

    def _collector_queue(self, skip_ids: set[int]) -> ExportQueue:
        exporter = _otlp_exporter(self.endpoint)

        def delivered(items: Sequence[Any]) -> None:
            self.on_delivered(self.ids.span_numbers(items))

        def closed() -> None:
            exporter.shutdown()
            self._closed()

        return ExportQueue(
            self.endpoint, _sender(exporter), OTLP_DELAY, delivered, skip_ids, closed
        )

    def _make_tracer(self) -> Tracer:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have precedence.
        resource = _default_resource().merge(
            Resource({"service.name": "zemosaic", "service.version": __version__})
        )
        limits = SpanLimits(max_events=MAX_EVENTS)
        provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()),
            span_limits=limits,
            id_generator=self.ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(_QueueProcessor(self._queues))
        tracer = provider.get_tracer("zemosaic", __version__)
        # Only the SDK enforces the limits of the environment.
        if limits.max_span_attribute_length is None and limits.max_span_attributes > MAX_ATTRIBUTES:
            return _BatchTracer(tracer, self.ids, self._queues)
        return tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer for `zemosaic.observe.telemetry.Telemetry`."""
        return self._tracer

    def snapshot_exporter(self) -> SnapshotExporter | None:
        """Return an exporter of open spans; None without a collector."""
        if not self.endpoint:
            return None
        return SnapshotExporter(_otlp_exporter(self.endpoint, SNAPSHOT_TIMEOUT))

    def _write(self, items: Sequence[Any]) -> bool:
        """Write a batch as a line of OTLP/JSON, and flush it to the kernel."""
        self._stream.write(otlp_json.encode(items))
        self._stream.flush()
        return True

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
        written = self._queues[0].join(SHUTDOWN_TIMEOUT)
        for queue in self._queues[1:]:
            queue.join(max(0.0, deadline - time.monotonic()))
        if written:
            # The queue has already counted the spans for which the disk had no room.
            with contextlib.suppress(OSError):
                self._stream.close()
        return [
            f"{lost} span{'s' if lost > 1 else ''} could not be delivered to {queue.name}"
            for queue in self._queues
            if (lost := queue.accepted - queue.delivered)
        ]

    def _closed(self) -> None:
        # The last queue restores the level of the logger: until then an attempt would be logged.
        with self._lock:
            self._open_queues -= 1
            if not self._open_queues:
                _sdk_logger.setLevel(self._level)


def _default_resource() -> Resource:
    """Return the SDK's own attributes; none if it cannot start the threads that find them."""
    try:
        return Resource.create()
    except RuntimeError:
        return Resource.get_empty()


class _BatchTracer(Tracer):
    """The SDK's tracer, and a way past it for ended spans: the SDK takes five times as long."""

    def __init__(self, tracer: Tracer, ids: Ids, queues: Sequence[ExportQueue]) -> None:
        self._tracer, self._ids, self._queues = tracer, ids, queues
        self._shared: dict[tuple[str, int], SharedFields] = {}

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._tracer.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.start_as_current_span(*args, **kwargs)

    def record_spans(
        self,
        name: str,
        parent: Span,
        keys: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        starts: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        shared = self._shared.get((name, id(parent)))
        if shared is None or shared.parent is not parent.get_span_context():
            shared = self._shared[name, id(parent)] = SharedFields.under(parent, name)
        types = tuple([type(column[0]) for column in columns])
        ids = [self._ids.generate_span_id() for _ in starts]
        table = SpanTable(shared, keys, types, ids, starts, ends, columns)
        for queue in self._queues:
            queue.put(table)

    def send_now(self) -> None:
        for queue in self._queues:
            queue.send_now()


class _QueueProcessor(SpanProcessor):
    """Puts ended spans of the SDK into the queues."""

    def __init__(self, queues: Sequence[ExportQueue]) -> None:
        self._queues = queues

    def on_end(self, span: ReadableSpan) -> None:
        for queue in self._queues:
            queue.put(span)


class _SpanRow(NamedTuple):
    shared: SharedFields
    span_id: int
    start_time: int
    end_time: int
    attributes: dict[str, Any]


class _TableSpan(_SpanRow):
    """A span of a table with the attributes of a `ReadableSpan`, for the SDK's exporters."""

    __slots__ = ()
    kind, status = SpanKind.INTERNAL, Status()
    events: tuple[()] = ()
    links: tuple[()] = ()
    dropped_attributes = dropped_events = dropped_links = 0
    name = property(lambda self: self.shared.name)
    parent = property(lambda self: self.shared.parent)
    resource = property(lambda self: self.shared.resource)
    instrumentation_scope = property(lambda self: self.shared.instrumentation_scope)

    def get_span_context(self) -> SpanContext:
        shared = self.shared
        return SpanContext(
            shared.trace_id, self.span_id, False, shared.trace_flags, shared.trace_state
        )

    context = property(get_span_context)


def _single_spans(items: Iterable[Any]) -> list[Any]:
    """Return all spans of spans and tables, one by one."""
    spans: list[Any] = []
    for item in items:
        if isinstance(item, SpanTable):
            spans += [_TableSpan(item.shared, *row) for row in item.rows()]
        else:
            spans.append(item)
    return spans


class _HttpExporter(SpanExporter):
    """The SDK's HTTP exporter with `otlp_proto`, which takes a sixth of the time to encode."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._client = getattr(exporter, "_client", None)  # version 1.43 has none

    def export(self, items: Sequence[Any]) -> SpanExportResult:
        if self._client is None:
            return self._exporter.export(_single_spans(items))
        try:
            message = otlp_proto.encode(items)
        except ValueError:  # a text with lone surrogates
            return SpanExportResult.FAILURE
        success = self._client.export(message).success
        return SpanExportResult.SUCCESS if success else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _sender(exporter: SpanExporter) -> Callable[[Sequence[Any]], bool]:
    """Return the `send` function of a queue; its own requests are not traced."""

    def send(items: Sequence[Any]) -> bool:
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            spans = items if isinstance(exporter, _HttpExporter) else _single_spans(items)
            return exporter.export(spans) is SpanExportResult.SUCCESS
        finally:
            context.detach(token)

    return send


def _otlp_exporter(endpoint: str, timeout: float | None = None) -> SpanExporter:
    """Return the exporter of an endpoint; the other one is not imported."""
    options = {} if timeout is None else {"timeout": timeout}
    target = export_target(endpoint)
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=target.address, insecure=not target.secure, **options)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    return _HttpExporter(HttpExporter(endpoint=target.address, **options))
