"""The OpenTelemetry SDK, set up for the command line: a file always, OTLP when asked.

Nothing here may slow or keep the run: spans are exported by threads of their own, and the
end waits for them a bounded time only (the SDK's own shutdown can take half a minute).
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
from urllib.parse import urlsplit

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
from . import otlp_json, otlp_proto
from .export_queue import ExportQueue
from .live import SHOWING, SnapshotExporter
from .span_tables import Common, Table, ids

# A line of the file is one batch; a crash loses at most what ended in so many seconds.
FILE_DELAY = 0.2
OTLP_DELAY = 1.0
ATTRIBUTES = 32  # that a span has at most
EVENTS = 10_000  # a heartbeat every ten seconds for a day
SHUTDOWN = 4.0  # seconds at most that a deaf collector may cost at the end, and one more:

_sdk_logger = logging.getLogger("opentelemetry")


class Ids(IdGenerator):
    """Ids of one trace: random ones, and the spans numbered from there in order.

    So the spans of a run that died can be made again from its journal under their own ids, and
    those that had arrived be told by their numbers.

    Parameters
    ----------
    trace, first : int, optional
        Of an earlier run; 128 and 64 bits.
    """

    def __init__(self, trace: int = 0, first: int = 0) -> None:
        self.trace = trace or random.SystemRandom().randrange(1, 1 << 128)
        self.first = first or random.SystemRandom().randrange(1, 1 << 32) << 32
        self._numbers = itertools.count(1)  # gives no two threads the same one

    def generate_trace_id(self) -> int:
        """The trace's id."""
        return self.trace

    def generate_span_id(self) -> int:
        """The id of the next span."""
        return self.first + next(self._numbers)

    def numbers(self, spans: Iterable[Any]) -> list[int]:
        """Numbers of some spans, from 1 in the order in which they were begun."""
        return [number - self.first for some in spans for number in ids(some)]


class Tracing:
    """A tracer whose spans go to a file and, if there is an endpoint, to a collector.

    Parameters
    ----------
    file : pathlib.Path
        Takes OTLP/JSON, one batch a line; what was in it is replaced.
    endpoint : str
        OTLP endpoint; empty for none. The scheme ``grpc`` means gRPC, and so does port 4317
        unless ``OTEL_EXPORTER_OTLP_PROTOCOL`` says otherwise; else it is HTTP.
    ids : Ids, optional
        Ids of another run's trace, to make its spans again.
    had : collection of int
        Numbers of spans that the collector has, so that they are not sent to it.
    """

    def __init__(
        self, file: Path, endpoint: str = "", ids: Ids | None = None, had: Iterable[int] = ()
    ) -> None:
        self.endpoint = endpoint
        self.ids = ids or Ids()
        #: Told of the numbers of the spans that the collector has taken, from another thread.
        self.on_delivered: Callable[[list[int]], None] = lambda numbers: None
        # What the user sets in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES wins.
        resource = Resource.create().merge(
            Resource({"service.name": "zemosaic", "service.version": __version__})
        )
        limits = SpanLimits(max_events=EVENTS)
        self._provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()),
            span_limits=limits,
            id_generator=self.ids,
            shutdown_on_exit=False,
        )
        self._stream = file.open("wb")
        self._lock = threading.Lock()
        self._open = 2 if endpoint else 1  # queues
        self._outlets = [ExportQueue(file.name, self._write, FILE_DELAY, ended=self._one_ended)]
        if endpoint:
            exporter = _otlp_exporter(endpoint)

            def ended() -> None:
                exporter.shutdown()
                self._one_ended()

            known = {self.ids.first + number for number in had}
            self._outlets.append(
                ExportQueue(endpoint, _sender(exporter), OTLP_DELAY, self._took, known, ended)
            )
        self._provider.add_span_processor(_Out(self._outlets))
        self._tracer = self._provider.get_tracer("zemosaic", __version__)
        # What the user limits, the SDK has to look after.
        if limits.max_span_attribute_length is None and limits.max_span_attributes > ATTRIBUTES:
            self._tracer = _Tracer(self._tracer, self.ids, self._outlets)
        # The exporters log every failed attempt; the queues count, and one line is enough.
        self._level = _sdk_logger.level
        _sdk_logger.setLevel(logging.CRITICAL)

    @property
    def tracer(self) -> Tracer:
        """For `zemosaic.observe.telemetry.Telemetry`."""
        return self._tracer

    def live(self) -> SnapshotExporter | None:
        """Shows spans that have not ended to the collector; None where there is none."""
        if not self.endpoint:
            return None
        return SnapshotExporter(_otlp_exporter(self.endpoint, SHOWING))

    def _write(self, spans: Sequence[Any]) -> bool:
        """Write a batch as a line of OTLP/JSON, and hand it to the kernel at once."""
        self._stream.write(otlp_json.encode(spans))
        self._stream.flush()
        return True

    def _took(self, spans: Sequence[Any]) -> None:
        self.on_delivered(self.ids.numbers(spans))

    def close(self, timeout: float = SHUTDOWN) -> list[str]:
        """Send what is left; say in words what was not delivered.

        A collector may cost `timeout` seconds; the file, which is on this machine, five.
        """
        deadline = time.monotonic() + timeout
        for export_queue in self._outlets:
            export_queue.close()
        written = self._outlets[0].join(SHUTDOWN)
        for export_queue in self._outlets[1:]:
            export_queue.join(max(0.0, deadline - time.monotonic()))
        if written:
            # Of a full disk the export_queue knows already.
            with contextlib.suppress(OSError):
                self._stream.close()
        return [
            f"{lost} span{'s' if lost > 1 else ''} could not be delivered to {export_queue.name}"
            for export_queue in self._outlets
            if (lost := export_queue.put_in - export_queue.delivered)
        ]

    def _one_ended(self) -> None:
        # One that still tries would be heard, so the last one gives the logger's level back.
        with self._lock:
            self._open -= 1
            if not self._open:
                _sdk_logger.setLevel(self._level)


class _Row(NamedTuple):
    common: Common
    span_id: int
    start_time: int
    end_time: int
    attributes: dict[str, Any]


class _Ended(_Row):
    """A span of a table for exporters of the SDK, which ask for what a `ReadableSpan` has."""

    __slots__ = ()
    kind, status = SpanKind.INTERNAL, Status()
    events: tuple[()] = ()
    links: tuple[()] = ()
    dropped_attributes = dropped_events = dropped_links = 0
    name = property(lambda self: self.common.name)
    parent = property(lambda self: self.common.parent)
    resource = property(lambda self: self.common.resource)
    instrumentation_scope = property(lambda self: self.common.instrumentation_scope)

    def get_span_context(self) -> SpanContext:
        common = self.common
        return SpanContext(
            common.trace_id, self.span_id, False, common.trace_flags, common.trace_state
        )

    context = property(get_span_context)


def _one_by_one(spans: Iterable[Any]) -> list[Any]:
    apart = (
        (_Ended(some.common, *row) for row in some.rows()) if isinstance(some, Table) else (some,)
        for some in spans
    )
    return [*itertools.chain.from_iterable(apart)]


class _Tracer(Tracer):
    """The SDK's, and a way past it for spans that have ended well: it takes five times as long."""

    def __init__(self, tracer: Tracer, ids: Ids, queues: Sequence[ExportQueue]) -> None:
        self._tracer, self._ids, self._outlets = tracer, ids, queues
        self._common: dict[tuple[str, int], Common] = {}

    def start_span(self, *given: Any, **more: Any) -> Span:
        return self._tracer.start_span(*given, **more)

    def start_as_current_span(self, *given: Any, **more: Any) -> Any:
        return self._tracer.start_as_current_span(*given, **more)

    def ended(
        self,
        name: str,
        parent: Span,
        keys: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        starts: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        common = self._common.get((name, id(parent)))
        if common is None or common.parent is not parent.get_span_context():
            common = self._common[name, id(parent)] = _common(name, parent)
        kinds = tuple([type(column[0]) for column in columns])
        numbers = [self._ids.generate_span_id() for _ in starts]
        table = Table(common, keys, kinds, numbers, starts, ends, columns)
        for export_queue in self._outlets:
            export_queue.put(table)

    def hurry(self) -> None:
        for export_queue in self._outlets:
            export_queue.hurry()


def _common(name: str, parent: Any) -> Common:
    above = parent.get_span_context()
    return Common(
        name, above.trace_id, above.trace_flags, above.trace_state, above, parent.resource,
        parent.instrumentation_scope,
    )  # fmt: skip


class _Http(SpanExporter):
    """The SDK's, with messages that take a sixth of the time to make."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._client = getattr(exporter, "_client", None)  # 1.43 has none

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        if self._client is None:
            return self._exporter.export(_one_by_one(spans))
        try:
            message = otlp_proto.encode(spans)
        except ValueError:  # a text that has no form in UTF-8
            return SpanExportResult.FAILURE
        done = self._client.export(message).success
        return SpanExportResult.SUCCESS if done else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Out(SpanProcessor):
    """What the SDK hands spans to."""

    def __init__(self, queues: Sequence[ExportQueue]) -> None:
        self._outlets = queues

    def on_end(self, span: ReadableSpan) -> None:
        for export_queue in self._outlets:
            export_queue.put(span)


def _sender(exporter: SpanExporter) -> Callable[[Sequence[Any]], bool]:
    """How an export_queue uses an exporter, whose own requests are nothing for a trace."""

    def send(spans: Sequence[Any]) -> bool:
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            # Ours takes tables as they are.
            known = spans if isinstance(exporter, _Http) else _one_by_one(spans)
            return exporter.export(known) is SpanExportResult.SUCCESS
        finally:
            context.detach(token)

    return send


def _otlp_exporter(endpoint: str, timeout: float | None = None) -> SpanExporter:
    """The exporter for an endpoint; only the one in use is imported."""
    options = {} if timeout is None else {"timeout": timeout}
    parts = urlsplit(endpoint)
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if not protocol:
        protocol = "grpc" if parts.port == 4317 else "http/protobuf"
    if protocol == "grpc" or parts.scheme == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        # gRPC itself would take 443 for a target without port.
        port = ":4317" if parts.scheme == "grpc" and parts.port is None else ""
        target, secure = parts.netloc + port, parts.scheme == "https"
        return GrpcExporter(endpoint=target, insecure=not secure, **options)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    if not parts.path.rstrip("/"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return _Http(HttpExporter(endpoint=endpoint, **options))
