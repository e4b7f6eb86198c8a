"""The OpenTelemetry SDK, set up for the command line: a file always, OTLP when asked.

Nothing here may slow or keep the run: spans are exported by threads of their own, and the
end waits for them a bounded time only (the SDK's own shutdown can take half a minute).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from zemosaic import __version__

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"
# The SDK's queue of 2,048 drops the oldest at 5,000 pairs a second; this one holds ten seconds
# of that (an ended span is about 2 KB, so 100 MB at the very worst).
QUEUE = 50_000
BATCH = 512
# A line of the file is one batch; a crash loses at most what ended in this many milliseconds.
FILE_DELAY = 200
OTLP_DELAY = 1_000
EVENTS = 10_000  # a heartbeat every ten seconds for a day
SHUTDOWN = 5.0  # seconds at most that a deaf collector may cost at the end


class Tracing:
    """A tracer whose spans go to a file and, if there is an endpoint, to a collector.

    Parameters
    ----------
    file : pathlib.Path
        Takes OTLP/JSON, one batch a line; what was in it is replaced.
    endpoint : str
        OTLP endpoint; empty for none. Port 4317 or the scheme ``grpc`` means gRPC unless
        ``OTEL_EXPORTER_OTLP_PROTOCOL`` says otherwise, else it is HTTP.
    """

    def __init__(self, file: Path, endpoint: str = "") -> None:
        self.endpoint = endpoint
        # What the user sets in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES wins.
        resource = Resource.create().merge(
            Resource({"service.name": "zemosaic", "service.version": __version__})
        )
        self._provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()),
            span_limits=SpanLimits(max_events=EVENTS),
            shutdown_on_exit=False,
        )
        self._stream = file.open("w", encoding="utf-8")
        self._exporters = [_Watched(FileSpanExporter(stream=self._stream))]
        delays = [FILE_DELAY]
        if endpoint:
            self._exporters.append(_Watched(_otlp_exporter(endpoint)))
            delays.append(OTLP_DELAY)
        self._processors = [
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE,
                max_export_batch_size=BATCH,
                schedule_delay_millis=delay,
            )
            for exporter, delay in zip(self._exporters, delays, strict=True)
        ]
        for processor in self._processors:
            self._provider.add_span_processor(processor)
        # The exporters log every failed attempt; the watchers count them, and one line is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    @property
    def tracer(self) -> Tracer:
        """For `zemosaic.observe.telemetry.Telemetry`."""
        return self._provider.get_tracer("zemosaic", __version__)

    def close(self) -> list[str]:
        """Send what is left, within five seconds; say in words what was not delivered."""
        threads = [
            threading.Thread(target=processor.shutdown, daemon=True)
            for processor in self._processors
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SHUTDOWN
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        complaints = []
        stuck = [thread.is_alive() for thread in threads]
        names = [f"{Path(self._stream.name).name}", self.endpoint]
        for name, exporter, alive in zip(names, self._exporters, stuck, strict=False):
            if alive or exporter.failed:
                lost = f"{exporter.failed} spans" if exporter.failed else "the last spans"
                complaints.append(f"{lost} could not be delivered to {name}")
        if not stuck[0]:
            self._stream.close()
        return complaints


class _Watched(SpanExporter):
    """Counts the spans that an exporter failed to deliver."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def endpoint_from_environment() -> str:
    """The OTLP endpoint that the environment asks for, or an empty string."""
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT", ""
    )


def check_endpoint(url: str) -> str:
    """The endpoint, if it looks like one.

    Raises
    ------
    ValueError
        It does not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc") or not parts.hostname:
        raise ValueError(f"{url!r} is no OTLP endpoint; give one like {DEFAULT_ENDPOINT}")
    return url


def trace_url(endpoint: str, trace_id: str) -> str:
    """Where Jaeger shows a trace: at JAEGER_URL, or where its image listens on that host."""
    host = urlsplit(endpoint).hostname or "127.0.0.1"
    page = os.environ.get("JAEGER_URL") or f"http://{host}:16686"
    return f"{page.rstrip('/')}/trace/{trace_id}"


def _otlp_exporter(endpoint: str) -> SpanExporter:
    """The exporter for an endpoint; only the one in use is imported."""
    parts = urlsplit(endpoint)
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol is None:
        protocol = "grpc" if parts.scheme == "grpc" or parts.port == 4317 else "http/protobuf"
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=parts.netloc, insecure=parts.scheme != "https")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    if not parts.path.rstrip("/"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return HttpExporter(endpoint=endpoint)
