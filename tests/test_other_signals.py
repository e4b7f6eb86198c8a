"""Metrics and log records: sent where the collector takes them, silent where it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.helpers.environment import remove_proxies
from tests.helpers.otlp_receiver import plain
from tests.helpers.recorded_traces import BOOM, HEARTBEAT, PAIR_ENDED, RUN_STARTED, SECOND, START
from zemosaic.observe.endpoint import signal_endpoint, traces_endpoint
from zemosaic.observe.run_metrics import RunMetrics
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.observe.tracing import Tracing
from zemosaic.runtime.events import RunEnded


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect to collectors directly."""
    remove_proxies(monkeypatch)


class Requests(list[tuple[str, bytes]]):
    """Paths and bodies of the requests."""

    def to(self, signal: str) -> list[bytes]:
        """Return the bodies of a signal's requests."""
        return [body for path, body in self if path == f"/v1/{signal}"]


@contextmanager
def collector(status: int = 200) -> Iterator[tuple[str, Requests]]:
    """Serve all signals; metrics and logs get this status."""
    requests = Requests()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, body))
            self.send_response(200 if self.path == "/v1/traces" else status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep standard error clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_collector(refusal: grpc.StatusCode | None = None) -> Iterator[tuple[str, Requests]]:
    """Serve all signals over gRPC; metrics and logs may be refused."""
    requests = Requests()

    class Service(
        trace_service_pb2_grpc.TraceServiceServicer,
        metrics_service_pb2_grpc.MetricsServiceServicer,
        logs_service_pb2_grpc.LogsServiceServicer,
    ):
        def __init__(self, signal: str, response: Any) -> None:
            self.signal, self.response = signal, response

        def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
            requests.append((f"/v1/{self.signal}", request.SerializeToString()))
            if refusal is not None and self.signal != "traces":
                context.abort(refusal, "not here")
            return self.response

    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(executor)
        for add, signal, response in (
            (
                trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
                "traces", ExportTraceServiceResponse(),
            ),
            (
                metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
                "metrics", ExportMetricsServiceResponse(),
            ),
            (
                logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
                "logs", ExportLogsServiceResponse(),
            ),
        ):  # fmt: skip
            add(Service(signal, response), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}", requests
        finally:
            server.stop(0).wait()


COLLECTORS = pytest.mark.parametrize("serve", [collector, grpc_collector], ids=["http", "grpc"])
FAILED = replace(PAIR_ENDED, index=8, outcome="failed", error=BOOM)


def run(folder: Path, url: str, beats: int = 1) -> str:
    """Send a run with two pairs and heartbeats; return its trace id."""
    tracing = Tracing(folder / "trace.jsonl", traces_endpoint(url), other_signals=True)
    telemetry = Telemetry(tracing.tracer, signals=tracing.signals)
    telemetry.handle_batch([RUN_STARTED, *[HEARTBEAT] * beats, PAIR_ENDED, FAILED])
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 60 * SECOND))
    assert tracing.close(timeout=30) == []
    return telemetry.trace_id


@COLLECTORS
def test_heartbeats_and_failures_are_log_records(serve: Any, tmp_path: Path) -> None:
    """Each has the event's attributes, and the ids of its span."""
    with serve() as (url, requests):
        trace_id = run(tmp_path, url)
    logs = [
        resource_logs
        for body in requests.to("logs")
        for resource_logs in ExportLogsServiceRequest.FromString(body).resource_logs
    ]
    beat, failure = [r for part in logs for scope in part.scope_logs for r in scope.log_records]
    assert beat.event_name == "phase5_intertile.heartbeat"
    assert beat.severity_text == "WARN"
    assert beat.time_unix_nano == HEARTBEAT.time_ns
    assert plain(beat.attributes)["zemosaic.pairs.pending"] == 5
    assert "no job has finished for 10 s" in beat.body.string_value
    assert failure.event_name == "exception"
    assert failure.severity_text == "ERROR"
    assert failure.body.string_value == "a.fits and b [1].fits: ValueError: boom"
    assert {beat.trace_id.hex(), failure.trace_id.hex()} == {trace_id}
    assert beat.span_id != failure.span_id
    assert {plain(part.resource.attributes)["service.name"] for part in logs} == {"zemosaic"}
    assert {part.scope_logs[0].scope.name for part in logs} == {"zemosaic"}


@COLLECTORS
def test_metrics_arrive_with_exemplars(serve: Any, tmp_path: Path) -> None:
    """Pairs by outcome, and their durations with the span of a pair."""
    with serve() as (url, requests):
        trace_id = run(tmp_path, url)
    message = ExportMetricsServiceRequest.FromString(requests.to("metrics")[-1])
    (scope,) = message.resource_metrics[0].scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}
    done = {
        plain(p.attributes)["zemosaic.pair.outcome"]: p.as_int
        for p in metrics["zemosaic.pairs.done"].sum.data_points
    }
    assert done == {"measured": 1, "failed": 1}
    durations = metrics["zemosaic.pair.duration"].histogram.data_points
    assert sum(point.count for point in durations) == 2
    exemplars = [exemplar for point in durations for exemplar in point.exemplars]
    assert {exemplar.trace_id.hex() for exemplar in exemplars} == {trace_id}
    assert metrics["zemosaic.pair.duration"].unit == "s"


def test_the_idle_time_grows_until_a_job_ends() -> None:
    """An alert on it wakes a person; outside a run there is no value."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics = RunMetrics(provider.get_meter("test"))

    def idle_time() -> Any:
        data = reader.get_metrics_data()
        found = [
            point.value
            for resource in (data.resource_metrics if data else ())
            for metric in resource.scope_metrics[0].metrics
            if metric.name == "zemosaic.idle_time"
            for point in metric.data.data_points
        ]
        return found[0] if found else None

    assert idle_time() is None
    metrics.start(time.time_ns() - 100 * SECOND)
    assert idle_time() == pytest.approx(100, abs=60)
    metrics.job_ended(time.time_ns() + 1000 * SECOND)
    assert idle_time() == 0
    metrics.stop()
    assert idle_time() is None
    provider.shutdown()


@pytest.mark.parametrize(
    ("serve", "refusal"),
    [
        (collector, 404),
        (collector, 415),
        (collector, 501),
        (grpc_collector, grpc.StatusCode.UNIMPLEMENTED),  # as Jaeger
        (grpc_collector, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_a_collector_that_takes_traces_alone_is_asked_once(
    serve: Any, refusal: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each signal that is refused is switched off, without a word."""
    with serve(refusal) as (url, requests):
        run(tmp_path, url, beats=5)
    assert len(requests.to("logs")) == 1
    assert len(requests.to("metrics")) == 1
    assert requests.to("traces")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("endpoint", "environment", "metrics", "logs"),
    [
        ("http://h/v1/traces", {}, "http://h/v1/metrics", "http://h/v1/logs"),
        ("http://h/o/v1/traces?k=1", {}, "http://h/o/v1/metrics?k=1", "http://h/o/v1/logs?k=1"),
        ("http://h/my/own", {}, "", ""),
        ("grpc://h:4317", {}, "grpc://h:4317", "grpc://h:4317"),
        ("http://h/v1/traces", {"OTEL_METRICS_EXPORTER": "none"}, "", "http://h/v1/logs"),
        ("http://h/v1/traces", {"OTEL_LOGS_EXPORTER": "none"}, "http://h/v1/metrics", ""),
        (
            "http://h/my/own",
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x"},
            "http://m/x",
            "",
        ),
        ("http://h/my/own", {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://l"}, "", "http://l/"),
    ],
)
def test_each_signal_has_its_endpoint(
    endpoint: str,
    environment: dict[str, str],
    metrics: str,
    logs: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lies beside that of the traces; the environment sets another or switches it off."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert signal_endpoint(endpoint, "metrics") == metrics
    assert signal_endpoint(endpoint, "logs") == logs
