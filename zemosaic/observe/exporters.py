"""The official exporters of spans, metrics and log records.

Each is imported when it is first used: a run has one protocol, and most runs have no collector.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from ..errors import UserError
from .endpoint import Target, channel_options, check_timeout, export_target, without_credentials
from .telemetry import LogRecord

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.sdk.metrics import MeterProvider

METRIC_INTERVAL = 10.0  # seconds, as between two heartbeats; OTEL_METRIC_EXPORT_INTERVAL changes it
LOG_TIMEOUT = 5.0
_SEVERITIES: dict[str, Any] = {"WARN": 13, "ERROR": 17}
_grpc_logger = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")


class LogClient(NamedTuple):
    """Posts a request and returns whether the collector may take later ones; closes itself."""

    post: Callable[[ExportLogsServiceRequest], bool]
    close: Callable[[], None]


class Sender:
    """An exporter as the `send` function of a queue."""

    def __init__(self, exporter: SpanExporter, reason: Callable[[], str] = lambda: "") -> None:
        self._exporter, self.reason = exporter, reason
        self.shutdown = exporter.shutdown

    def __call__(self, spans: Sequence[ReadableSpan]) -> str:
        """Export spans; return the reason of a failure, empty after a success."""
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            return ""
        count = len(spans)
        reason = self.reason() or "the exporter failed"
        return reason.replace("{sent}", f"{count} span{'s' if count > 1 else ''}")


class _LastError(logging.Filter):
    """Keeps the last error of spans that gRPC logs, which has no other way to give a reason."""

    reason = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep an error and drop all records."""
        if record.levelno >= logging.ERROR and isinstance(record.args, tuple):
            signal, _, code, details = (*record.args, "", "", "", "")[:4]
            name = getattr(code, "name", str(code)).replace("_", " ").lower()
            if signal == "traces":
                self.reason = f"{name}: {details}" if details else name
        return False


def console_sender() -> Sender:
    """Return the exporter that prints spans."""
    return Sender(ConsoleSpanExporter(out=sys.stdout))


def otlp_sender(endpoint: str) -> Sender:
    """Return the exporter of an endpoint; the other one is not imported."""
    target = export_target(endpoint)
    check_timeout()
    make = _grpc_exporter if target.protocol == "grpc" else _http_exporter
    try:
        return make(target.address, secure=target.secure)
    except Exception as error:  # the exporters raise many kinds for the values of variables
        raise UserError(f"{without_credentials(endpoint)}: {error}; see OTEL_EXPORTER_*") from error


def _http_exporter(address: str, *, secure: bool) -> Sender:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceResponse,
    )

    from .collector_session import CollectorSession

    session = CollectorSession(ExportTraceServiceResponse)
    return Sender(OTLPSpanExporter(endpoint=address, session=session), lambda: session.reason)


def _grpc_exporter(address: str, *, secure: bool) -> Sender:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(
        endpoint=address, insecure=not secure, channel_options=channel_options(address)
    )
    last = _LastError()
    level = _grpc_logger.level
    _grpc_logger.filters.insert(0, last)  # before the exporter's own, which drops repetitions
    _grpc_logger.setLevel(logging.ERROR)  # not the level of its silenced parent

    def shutdown() -> None:
        exporter.shutdown()
        _grpc_logger.removeFilter(last)
        _grpc_logger.setLevel(level)

    sender = Sender(exporter, lambda: last.reason)
    sender.shutdown = shutdown
    return sender


def metric_provider(endpoint: str, resource: Any) -> MeterProvider:
    """Return a provider of metrics that go to an endpoint, until the collector refuses them."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    given = "OTEL_METRIC_EXPORT_INTERVAL" in os.environ
    interval = None if given else 1000 * METRIC_INTERVAL
    reader = PeriodicExportingMetricReader(_metric_exporter(endpoint), interval)
    return MeterProvider([reader], resource, shutdown_on_exit=False)


def _metric_exporter(endpoint: str) -> Any:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceResponse,
    )
    from opentelemetry.sdk.metrics.export import MetricExportResult

    from .collector_session import CollectorSession

    target = export_target(endpoint)
    options: dict[str, Any] = {"endpoint": target.address}
    session = CollectorSession(ExportMetricsServiceResponse)
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_exporter

        exporter: Any = grpc_exporter.OTLPMetricExporter
        options["insecure"] = not target.secure
        options["channel_options"] = channel_options(target.address)
    else:
        from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_exporter

        exporter = http_exporter.OTLPMetricExporter
        options["session"] = session

    class OptionalMetricExporter(exporter):
        refused = False

        def export(self, *arguments: Any, **keywords: Any) -> MetricExportResult:
            """Export, unless the collector has refused metrics before."""
            if self.refused:
                return MetricExportResult.SUCCESS
            result = super().export(*arguments, **keywords)
            failed = result is not MetricExportResult.SUCCESS
            # Over gRPC the reason is not known; a collector that is away comes back over HTTP.
            self.refused = failed and (target.protocol == "grpc" or session.refused)
            return MetricExportResult.SUCCESS

    return OptionalMetricExporter(**options)


def encode_log(record: LogRecord, resource: Any, scope: Any) -> ExportLogsServiceRequest:
    """Return a request of one record.

    The SDK has no public names for logs. The requests are therefore made here, of the messages of
    OTLP and with the encoder of spans.
    """
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1 import logs_pb2

    # The encoder of logs is private. A span has the same resource, scope, ids and attributes.
    span = ReadableSpan(
        record.name, record.span, resource=resource, attributes=record.attributes,
        start_time=record.time_ns, end_time=record.time_ns, instrumentation_scope=scope,
    )  # fmt: skip
    (of_resource,) = encode_spans([span]).resource_spans
    (of_scope,) = of_resource.scope_spans
    (encoded,) = of_scope.spans
    entry = logs_pb2.LogRecord(
        time_unix_nano=record.time_ns,
        observed_time_unix_nano=record.time_ns,
        severity_number=_SEVERITIES[record.severity],
        severity_text=record.severity,
        event_name=record.name,
        body=AnyValue(string_value=record.body),
        attributes=encoded.attributes,
        trace_id=encoded.trace_id,
        span_id=encoded.span_id,
        flags=record.span.trace_flags,
    )
    scope_logs = logs_pb2.ScopeLogs(scope=of_scope.scope, log_records=[entry])
    logs = logs_pb2.ResourceLogs(resource=of_resource.resource, scope_logs=[scope_logs])
    return ExportLogsServiceRequest(resource_logs=[logs])


def log_client(endpoint: str) -> LogClient:
    """Return a client that posts requests of log records."""
    target = export_target(endpoint)
    return (_grpc_client if target.protocol == "grpc" else _http_client)(target)


def _http_client(target: Target) -> LogClient:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    from .collector_session import PROTOBUF, CollectorSession

    session = CollectorSession(ExportLogsServiceResponse)
    session.headers.update({**_headers(), "Content-Type": PROTOBUF})
    session.verify = _variable("CERTIFICATE") or True
    certificate, key = _variable("CLIENT_CERTIFICATE"), _variable("CLIENT_KEY")
    session.cert = (certificate, key) if certificate and key else certificate or None

    def post(request: ExportLogsServiceRequest) -> bool:
        try:
            session.post(target.address, request.SerializeToString(), timeout=LOG_TIMEOUT)
        except OSError:  # every failure of a request
            return not session.refused
        return True

    return LogClient(post, session.close)


def _grpc_client(target: Target) -> LogClient:
    import grpc
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

    options = channel_options(target.address)
    if target.secure:
        names = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
        credentials = grpc.ssl_channel_credentials(*map(_contents, names))
        channel = grpc.secure_channel(target.address, credentials, options)
    else:
        channel = grpc.insecure_channel(target.address, options)
    stub, metadata = LogsServiceStub(channel), tuple(_headers().items())
    comes_back = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    def post(request: ExportLogsServiceRequest) -> bool:
        try:
            stub.Export(request, timeout=LOG_TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            return bool(error.code() in comes_back)
        return True

    return LogClient(post, channel.close)


def _headers() -> dict[str, Any]:
    from opentelemetry.util.re import parse_env_headers

    return parse_env_headers(_variable("HEADERS"), liberal=True)


def _contents(name: str) -> bytes | None:
    path = _variable(name)
    return Path(path).read_bytes() if path else None


def _variable(name: str) -> str:
    general = os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
    return os.environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or general
