"""The official exporters as functions that return the reason of a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ..errors import UserError
from .endpoint import channel_options, check_timeout, export_target, without_credentials

_grpc_logger = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")


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
    _grpc_logger.setLevel(logging.ERROR)  # not that of its silenced parent

    def shutdown() -> None:
        exporter.shutdown()
        _grpc_logger.removeFilter(last)
        _grpc_logger.setLevel(level)

    sender = Sender(exporter, lambda: last.reason)
    sender.shutdown = shutdown
    return sender
