"""Metrics and log records of a run, for collectors that take more than traces.

Jaeger takes traces alone. A signal that the collector refuses is switched off, without a message.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .collector_session import CollectorSession
from .endpoint import channel_options, export_target, signal_endpoint
from .log_sender import LogSender
from .run_metrics import Meter
from .span_tree import LogRecord

METRIC_INTERVAL = 10.0  # seconds, as between two heartbeats; OTEL_METRIC_EXPORT_INTERVAL changes it


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
        self._logs = LogSender(logs, resource, scope) if logs else None

    def emit(self, record: LogRecord) -> None:
        """Send a log record; return at once."""
        if self._logs is not None:
            self._logs.put(record)

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
