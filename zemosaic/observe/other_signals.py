"""Metrics and log records of a run, for collectors that take more than traces.

Jaeger takes traces alone. A signal that the collector refuses is switched off, without a message.
The SDK has no public names for logs, so their requests are made here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from queue import Full, Queue
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext
from opentelemetry.util.re import parse_env_headers

from . import otlp_json
from .collector_session import CollectorSession
from .endpoint import export_target, signal_endpoint

METRIC_INTERVAL = 10.0  # seconds, as between two heartbeats; OTEL_METRIC_EXPORT_INTERVAL changes it
MAX_RECORDS = 1000  # log records that wait for the collector
LOG_TIMEOUT = 5.0


class OtherSignals:
    """Sends metrics and log records, as long as the collector takes them.

    Parameters
    ----------
    endpoint : str
        Endpoint of the traces.
    resource : Resource
        Resource of all signals.
    scope : InstrumentationScope
        Scope of all signals.

    Attributes
    ----------
    meter : Meter or None
        Source of instruments; None if metrics are off.
    """

    def __init__(self, endpoint: str, resource: Resource, scope: InstrumentationScope) -> None:
        self.meter: Meter | None = None
        self._provider: MeterProvider | None = None
        if address := signal_endpoint(endpoint, "metrics"):
            self._provider = MeterProvider([_reader(address)], resource, shutdown_on_exit=False)
            self.meter = self._provider.get_meter(scope.name, scope.version)
        logs = signal_endpoint(endpoint, "logs")
        self._logs = _LogSender(logs, resource, scope) if logs else None

    def emit(
        self,
        name: str,
        time_ns: int,
        severity: str,
        body: str,
        attributes: Mapping[str, Any],
        span: SpanContext,
    ) -> None:
        """Send a log record that belongs to a span; return at once."""
        if self._logs is not None:
            self._logs.put(otlp_json.LogRecord(name, time_ns, severity, body, attributes, span))

    def close(self, on_closed: Callable[[], None]) -> threading.Thread:
        """Send the last values in a thread, which calls `on_closed` at its end, and return it."""

        def work() -> None:
            try:
                if self._provider is not None:
                    self._provider.shutdown()
                if self._logs is not None:
                    self._logs.close()
            finally:
                on_closed()

        thread = threading.Thread(target=work, name="zemosaic-signals", daemon=True)
        thread.start()
        return thread


def _reader(address: str) -> PeriodicExportingMetricReader:
    given = "OTEL_METRIC_EXPORT_INTERVAL" in os.environ
    interval = None if given else 1000 * METRIC_INTERVAL
    return PeriodicExportingMetricReader(_metric_exporter(address), interval)


def _metric_exporter(address: str) -> Any:
    """Return the exporter of the SDK, which stops when the collector refuses metrics."""
    target = export_target(address)
    options: dict[str, Any] = {"endpoint": target.address}
    session = CollectorSession()
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_exporter

        exporter: Any = grpc_exporter.OTLPMetricExporter
        options["insecure"] = not target.secure
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


class _LogSender:
    """Posts log records from a thread of its own."""

    def __init__(self, address: str, resource: Resource, scope: InstrumentationScope) -> None:
        self._address, self._resource, self._scope = address, resource, scope
        self._session = CollectorSession()
        self._session.headers.update(_headers())
        self._session.verify = _variable("CERTIFICATE") or True
        certificate, key = _variable("CLIENT_CERTIFICATE"), _variable("CLIENT_KEY")
        self._session.cert = (certificate, key) if certificate and key else certificate or None
        self._records: Queue[Any] = Queue(MAX_RECORDS)
        self._thread = threading.Thread(target=self._work, name="zemosaic-logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the waiting records and end the thread."""
        self._records.put(None)
        self._thread.join()

    def put(self, record: otlp_json.LogRecord) -> None:
        """Send a record; with a full queue it is lost."""
        try:
            self._records.put_nowait(record)
        except Full:
            return

    def _work(self) -> None:
        while (record := self._records.get()) is not None:
            if not self._session.refused:
                self._send(record)

    def _send(self, record: otlp_json.LogRecord) -> None:
        body = otlp_json.encode_log(record, self._resource, self._scope)
        try:
            self._session.post(self._address, body, timeout=LOG_TIMEOUT)
        except OSError:  # every failure of a request; the file and the trace have the event
            return


def _headers() -> Mapping[str, str]:
    text = _variable("HEADERS")
    return {**parse_env_headers(text, liberal=True), "Content-Type": "application/json"}


def _variable(name: str) -> str:
    general = os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
    return os.environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or general
