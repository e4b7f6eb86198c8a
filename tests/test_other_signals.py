"""Metrics and log records: sent where the collector takes them, silent where it does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.helpers.environment import remove_proxies
from tests.helpers.otlp_receiver import plain, read_otlp_logs
from tests.helpers.recorded_traces import BOOM, HEARTBEAT, PAIR_ENDED, RUN_STARTED, SECOND, START
from zemosaic.observe.endpoint import signal_endpoint
from zemosaic.observe.exporters import Tracing
from zemosaic.observe.run_metrics import RunMetrics
from zemosaic.observe.telemetry import Telemetry
from zemosaic.runtime.events import RunEnded

REFUSALS = {"404": 404, "415": 415, "501": 501}


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


FAILED = replace(PAIR_ENDED, index=8, outcome="failed", error=BOOM)


def run(folder: Path, url: str, beats: int = 1) -> str:
    """Send a run with two pairs and heartbeats; return its trace id."""
    tracing = Tracing(folder / "trace.jsonl", f"{url}/v1/traces", other_signals=True)
    telemetry = Telemetry(tracing.tracer, signals=tracing.signals)
    telemetry.handle_batch([RUN_STARTED, *[HEARTBEAT] * beats, PAIR_ENDED, FAILED])
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 60 * SECOND))
    assert tracing.close(timeout=30) == []
    return telemetry.trace_id


def test_heartbeats_and_failures_are_log_records(tmp_path: Path) -> None:
    """Each has the event's attributes, and the ids of its span."""
    with collector() as (url, requests):
        trace_id = run(tmp_path, url)
    beat, failure = [r for body in requests.to("logs") for r in read_otlp_logs(body)]
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
    assert json.loads(requests.to("logs")[0])["resourceLogs"][0]["resource"]["attributes"]


def test_metrics_arrive_with_exemplars(tmp_path: Path) -> None:
    """Pairs by outcome, and their durations with the span of a pair."""
    with collector() as (url, requests):
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


@pytest.mark.parametrize("status", REFUSALS.values(), ids=REFUSALS)
def test_a_collector_that_takes_traces_alone_is_asked_once(
    status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each signal that is refused is switched off, without a word."""
    with collector(status) as (url, requests):
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
        ("grpc://h:4317", {}, "grpc://h:4317", ""),
        ("http://h/v1/traces", {"OTEL_METRICS_EXPORTER": "none"}, "", "http://h/v1/logs"),
        ("http://h/v1/traces", {"OTEL_LOGS_EXPORTER": "none"}, "http://h/v1/metrics", ""),
        (
            "http://h/my/own",
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x"},
            "http://m/x",
            "",
        ),
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
