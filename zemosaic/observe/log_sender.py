"""Log records for a collector, sent by a thread of their own.

The SDK has no public names for logs. The requests are therefore made here, of the messages of
OTLP and with the encoder of spans.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.re import parse_env_headers

from .collector_session import PROTOBUF, CollectorSession
from .endpoint import Target, channel_options, export_target
from .span_tree import LogRecord

MAX_RECORDS = 1000  # log records that wait for the collector
LOG_TIMEOUT = 5.0
_SEVERITIES: dict[str, Any] = {"WARN": 13, "ERROR": 17}


class _Client(NamedTuple):
    """Posts a request and returns whether the collector may take later ones; closes itself."""

    post: Callable[[ExportLogsServiceRequest], bool]
    close: Callable[[], None]


class LogSender:
    """Sends log records until the collector refuses them.

    Parameters
    ----------
    endpoint : str
        Address for log records.
    resource : Resource
        Resource of the records.
    scope : InstrumentationScope
        Scope of the records.
    """

    def __init__(self, endpoint: str, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource, self._scope = resource, scope
        target = export_target(endpoint)
        make = _grpc_client if target.protocol == "grpc" else _http_client
        self._client = make(target)
        self._records: Queue[LogRecord | None] = Queue(MAX_RECORDS)
        self._thread = threading.Thread(target=self._work, name="zemosaic-logs", daemon=True)
        self._thread.start()

    def put(self, record: LogRecord) -> None:
        """Send a record; with a full queue it is lost, but the file and the trace have it."""
        try:
            self._records.put_nowait(record)
        except Full:
            return

    def close(self) -> None:
        """Send the waiting records and end the thread."""
        self._records.put(None)
        self._thread.join()
        self._client.close()

    def _work(self) -> None:
        taken = True
        while (record := self._records.get()) is not None:
            if taken:
                taken = self._client.post(encode_log(record, self._resource, self._scope))


def encode_log(
    record: LogRecord, resource: Resource, scope: InstrumentationScope
) -> ExportLogsServiceRequest:
    """Return a request of one record."""
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


def _http_client(target: Target) -> _Client:
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

    return _Client(post, session.close)


def _grpc_client(target: Target) -> _Client:
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

    return _Client(post, channel.close)


def _headers() -> dict[str, Any]:
    return parse_env_headers(_variable("HEADERS"), liberal=True)


def _contents(name: str) -> bytes | None:
    path = _variable(name)
    return Path(path).read_bytes() if path else None


def _variable(name: str) -> str:
    general = os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
    return os.environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or general
