"""Every span arrives, over the wire and in the file, and no collector can hold up the run."""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tests.helpers.otlp_receiver import (
    Received,
    dead_port,
    grpc_receiver,
    http_receiver,
    mute_port,
    plain,
    read_otlp_json,
    resources_of,
    spans_of,
)
from zemosaic import __version__
from zemosaic.observe import export_queue, exporters, otlp_json, otlp_proto
from zemosaic.observe.endpoint import (
    DEFAULT_ENDPOINT,
    check_endpoint,
    endpoint_from_environment,
    trace_url,
)
from zemosaic.observe.exporters import FILE_DELAY, SHUTDOWN, Tracing, _otlp_exporter
from zemosaic.observe.live import SHOWING
from zemosaic.observe.span_tables import Common, Table
from zemosaic.observe.telemetry import Telemetry
from zemosaic.runtime.events import FanOut, Heartbeat, RunEnded, RunStarted, StageEnded
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool

PHASE = "phase5_intertile"
RECEIVERS = {"http": http_receiver, "grpc": grpc_receiver}
LOUD = "could not be delivered to"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests has a say."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "JAEGER_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time after which an exporter gives a batch up: ten seconds unless told otherwise."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """The level of the SDK's logger is the process's own; every test gives it back."""
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    yield
    deadline = time.monotonic() + 30
    while logger.level != before and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that still tries to deliver gives it back when it ends
    assert logger.level == before


class Bundles(SerialPool):
    """Short jobs come in bundles, as from processes."""

    together = 16


def run_pairs(tracing: Tracing, count: int, function: Callable[..., Any] = abs) -> Telemetry:
    """A run of tiny pairs on a tracer: the first alone, the others in bundles."""
    telemetry = Telemetry(tracing.tracer)
    fan_out = FanOut([telemetry])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=time.time_ns()))
    jobs = (
        Job(k, function, (k,), {"tile_i": k, "name_i": f"a{k}.fits"}) for k in range(1, count + 1)
    )
    run(jobs, count, Bundles(), fan_out, stage="pairs")
    fan_out.dispatch(RunEnded(state="finished", time_ns=time.time_ns()))
    return telemetry


def spans_in(file: Path) -> list[Span]:
    """The spans of a trace file, each line of which must be whole and valid OTLP/JSON."""
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [span for line in text.splitlines() for span in spans_of(read_otlp_json(line))]


def resource_in(file: Path) -> dict[str, Any]:
    lines = file.read_text(encoding="utf-8").splitlines()
    (resource,) = resources_of([r for line in lines for r in read_otlp_json(line)])
    return resource


def check_run(spans: list[Span], count: int) -> None:
    """One phase and its pairs, all distinct, with the phase as parent."""
    (phase,) = [span for span in spans if span.name == PHASE]
    pairs = [span for span in spans if span.name == f"{PHASE}.pair"]
    assert len(spans) == count + 1
    assert len({span.span_id for span in spans}) == count + 1
    assert {span.trace_id for span in spans} == {phase.trace_id}
    assert {span.parent_span_id for span in pairs} == {phase.span_id}
    indices = [plain(span.attributes)["zemosaic.pair.index"] for span in pairs]
    assert sorted(indices) == list(range(1, count + 1))


# What arrives.


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_5000_pairs_arrive_and_are_in_the_file(protocol: str, tmp_path: Path) -> None:
    """As fast as they come, none is dropped, over the wire or in the file, and both agree."""
    file = tmp_path / "trace.jsonl"
    with RECEIVERS[protocol]() as (url, received):
        tracing = Tracing(file, url)
        run_pairs(tracing, 5000)
        # No collector on this machine is so slow; the usual five seconds might be, for a test.
        assert tracing.close(timeout=60) == []
    check_run(received.spans, 5000)
    (resource,) = received.resources
    assert resource["service.name"] == "zemosaic"
    assert resource["service.version"] == __version__
    assert resource_in(file) == resource
    sent = {span.SerializeToString(deterministic=True) for span in received.spans}
    assert {span.SerializeToString(deterministic=True) for span in spans_in(file)} == sent
    assert set(received.paths) == {"/v1/traces" if protocol == "http" else "grpc"}


def test_a_file_alone_needs_no_collector(tmp_path: Path) -> None:
    """Without an endpoint the file has the whole trace; what was in it before is gone."""
    file = tmp_path / "trace.jsonl"
    file.write_text("something old")
    tracing = Tracing(file)
    telemetry = run_pairs(tracing, 7)
    assert tracing.close() == []
    spans = spans_in(file)
    check_run(spans, 7)
    assert spans[0].trace_id.hex() == telemetry.trace_id
    assert resource_in(file)["service.name"] == "zemosaic"


def test_what_ended_is_in_the_file_while_the_run_goes_on(tmp_path: Path) -> None:
    """A few spans reach the file by themselves: for that neither a full batch nor the end."""
    file = tmp_path / "trace.jsonl"
    tracing = Tracing(file)
    try:
        run_pairs(tracing, 7)
        deadline = time.monotonic() + 30
        while not file.read_bytes().endswith(b"\n"):
            assert time.monotonic() < deadline
            time.sleep(FILE_DELAY / 10)
        check_run(spans_in(file), 7)
    finally:
        tracing.close()


def test_what_a_stage_leaves_is_sent_while_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that wait for more to go with wait no longer than their stage."""
    monkeypatch.setattr(exporters, "OTLP_DELAY", 3600.0)
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        telemetry = run_pairs(tracing, 7)
        time.sleep(0.1)
        assert not received.spans
        telemetry.stage_ended(StageEnded(stage="pairs", time_ns=time.time_ns()))
        deadline = time.monotonic() + 30
        while len(received.spans) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert tracing.close() == []
    check_run(received.spans, 7)


@pytest.mark.parametrize("moves", [False, True])
def test_a_day_of_heartbeats_is_bounded(moves: bool, tmp_path: Path) -> None:
    """The SDK keeps 128 events a span: the first must not go, the newest must be there.

    The job is stuck in two places one after the other, or moves on all the time.
    """
    file = tmp_path / "trace.jsonl"
    tracing = Tracing(file)
    telemetry = Telemetry(tracing.tracer)
    telemetry.run_started(RunStarted(run_id="r", time_ns=1))
    stack = "Thread 0x1 (most recent call first):\n" + '  File "a.py", line 1 in f\n' * 300
    beats = range(1, 8641)
    for beat in beats:
        telemetry.heartbeat(
            Heartbeat(
                stage="pairs",
                time_ns=10 + beat,
                done=1,
                total=2000,
                pending=1999,
                pending_indices=range(1, 65),
                running_indices=[1, 2],
                running_time=[1.0, 0.5],
                running_attributes=[{}, {}],
                last_completed_index=0,
                idle_time=10.0 * beat,
                stack=stack.replace("f\n", f"g{beat if moves else beat < 5000}\n"),
            )
        )
    telemetry.run_ended(RunEnded(state="finished", time_ns=20_000))
    assert tracing.close() == []
    (phase,) = spans_in(file)
    attributes = [plain(event.attributes) for event in phase.events]
    found = [round(a["zemosaic.idle_time"] / 10) for a in attributes]
    assert found[:60] == list(range(1, 61))
    assert found == sorted(found)
    assert found[-1] == 8640
    assert max(np.diff(found)) <= 32
    assert len(found) < 600
    assert phase.dropped_events_count == 0
    assert attributes[0]["zemosaic.pairs.pending_indices"] == list(range(1, 65))
    stacks = [a["code.stacktrace"] for a in attributes if "code.stacktrace" in a]
    assert len(stacks) == (32 if moves else 2)  # told again when it changed, not 8,640 times
    assert max(map(len, stacks)) <= 8192
    assert file.stat().st_size < 3_000_000


def fail_with_odd_name(index: int) -> None:
    """Fail as a tile does whose file name is no Unicode, as any bytes are names on Linux."""
    raise OSError(f"cannot read tile_{index}_\udcff.fits")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_odd_file_name_costs_no_span(protocol: str, tmp_path: Path) -> None:
    """One text that protobuf refuses would lose all spans of its batch, without a word."""
    file = tmp_path / "trace.jsonl"
    with RECEIVERS[protocol]() as (url, received):
        tracing = Tracing(file, url)
        run_pairs(tracing, 3, fail_with_odd_name)
        assert tracing.close() == []
    check_run(received.spans, 3)
    check_run(spans_in(file), 3)
    assert r"tile_1_\udcff.fits" in received.spans[0].status.message


# What is lost, and said.


@contextmanager
def deaf(kind: str) -> Iterator[str]:
    """The endpoint of a collector that takes nothing."""
    protocol, what = kind.split("-")
    scheme = {"http": "http", "grpc": "grpc"}[protocol]
    if what == "refusing":
        receiver: AbstractContextManager[tuple[str, Received]] = RECEIVERS[protocol](refusing=True)
        with receiver as (url, _):
            yield url
    else:
        with (dead_port if what == "dead" else mute_port)() as port:
            yield f"{scheme}://127.0.0.1:{port}"


DEAF = ["http-dead", "grpc-dead", "http-mute", "grpc-mute", "http-refusing", "grpc-refusing"]


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("kind", DEAF)
def test_a_deaf_collector_is_named_with_what_it_cost(kind: str, tmp_path: Path) -> None:
    """The end is not waited for longer than allowed; the count is exact; the file is whole."""
    file = tmp_path / "trace.jsonl"
    with deaf(kind) as url:
        tracing = Tracing(file, url)
        run_pairs(tracing, 700)  # more than one batch
        # Where nobody answers, less than a single attempt takes.
        timeout = 30.0 if "refusing" in kind else 0.2
        assert tracing.close(timeout) == [f"701 spans {LOUD} {url}"]
    check_run(spans_in(file), 700)


class StuckExporter(SpanExporter):
    """Never comes back until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.was_shut_down = False

    def export(self, spans: Any) -> SpanExportResult:
        self.let_go.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.was_shut_down = True


def test_an_exporter_that_never_comes_back_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` returns in its time, while the SDK's own shutdown would wait half a minute."""
    exporter = StuckExporter()
    monkeypatch.setattr(exporters, "_otlp_exporter", lambda _: exporter)
    tracing = Tracing(tmp_path / "trace.jsonl", "http://collector:4318")
    run_pairs(tracing, 2)
    try:
        assert tracing.close(0.05) == [f"3 spans {LOUD} http://collector:4318"]
        # Only after its half minute would the SDK have come to this.
        assert not exporter.was_shut_down
    finally:
        exporter.let_go.set()
    check_run(spans_in(tmp_path / "trace.jsonl"), 2)


def test_a_collector_is_waited_for_five_seconds() -> None:
    """What `close` waits without being told otherwise is what the design allows."""
    assert SHUTDOWN + SHOWING == 5.0  # a picture under way, and then the spans
    assert inspect.signature(Tracing.close).parameters["timeout"].default == SHUTDOWN


@pytest.mark.usefixtures("half_a_second")
def test_spans_that_no_queue_could_hold_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span pushed out of a full queue was never tried, but it is lost all the same."""
    monkeypatch.setattr(export_queue, "QUEUE", 16)
    monkeypatch.setattr(export_queue, "BATCH", 16)
    file = tmp_path / "trace.jsonl"
    with mute_port() as port:
        url = f"http://127.0.0.1:{port}"
        tracing = Tracing(file, url)
        run_pairs(tracing, 200)
        *_, complaint = tracing.close(0.2)
    assert complaint == f"201 spans {LOUD} {url}"


class BrokenExporter(SpanExporter):
    """Raises, as the gRPC exporter does for spans that it cannot encode."""

    def export(self, spans: Any) -> SpanExportResult:
        raise ValueError("broken")

    def shutdown(self) -> None:
        """Nothing to do."""


def test_an_exporter_that_raises_delivers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in an exporter counts as a failure and reaches nobody else."""
    monkeypatch.setattr(exporters, "_otlp_exporter", lambda _: BrokenExporter())
    tracing = Tracing(tmp_path / "trace.jsonl", "http://collector:4318")
    run_pairs(tracing, 2)
    assert tracing.close() == [f"3 spans {LOUD} http://collector:4318"]
    check_run(spans_in(tmp_path / "trace.jsonl"), 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_a_complaint_and_no_exception() -> None:
    """The run has its results; only the file of the trace is missing."""
    tracing = Tracing(Path("/dev/full"))
    run_pairs(tracing, 3)
    assert tracing.close() == [f"4 spans {LOUD} full"]


def test_closing_twice_says_the_same(tmp_path: Path) -> None:
    """A second `close`, as in a `finally`, does no harm."""
    with deaf("http-refusing") as url:
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 1)
        assert tracing.close(30.0) == tracing.close() == [f"2 spans {LOUD} {url}"]


def test_the_sdk_is_silenced_only_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No line of the SDK's while it is ours; afterwards its logger has the level it had."""
    logger = logging.getLogger("opentelemetry")
    logger.setLevel(logging.INFO)
    try:
        with deaf("http-refusing") as url:
            tracing = Tracing(tmp_path / "trace.jsonl", url)
            run_pairs(tracing, 1)
            assert len(tracing.close(30.0)) == 1
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(logging.NOTSET)
    assert [r for r in caplog.records if r.name.startswith("opentelemetry")] == []


# Whole programs.

PREAMBLE = """
import logging, sys, time
from pathlib import Path
from zemosaic.observe.exporters import Tracing
from zemosaic.observe.span_tables import Common
from zemosaic.observe.telemetry import Telemetry
from zemosaic.runtime.events import FanOut, Observer, RunEnded, RunStarted
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.scheduler import Job, run

file = Path(sys.argv[1])
tracing = Tracing(file, *sys.argv[2:])

def run_pairs(count, *observers):
    fan_out = FanOut([Telemetry(tracing.tracer), *observers])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=time.time_ns()))
    jobs = (Job(k, abs, (k,), {"name_i": "a.fits"}) for k in range(1, count + 1))
    run(jobs, count, SerialPool(), fan_out, stage="pairs")
    fan_out.dispatch(RunEnded(state="finished", time_ns=time.time_ns()))
"""


def program(script: str) -> list[str]:
    """A command that runs a script with the preamble, with warnings as errors as here."""
    return [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(script)]


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("kind", ["http-dead", "grpc-dead", "http-mute", "grpc-mute"])
def test_the_user_sees_one_line_of_a_deaf_collector(kind: str, tmp_path: Path) -> None:
    """Not a word of the SDK's on standard error, and the program ends by itself, in order."""
    script = """
        run_pairs(5)
        print(*tracing.close(0.2), sep="\\n")
        while logging.getLogger("opentelemetry").level == logging.CRITICAL:
            time.sleep(0.01)  # the attempt fails now, after the end
    """
    with deaf(kind) as url:
        ended = subprocess.run(
            [*program(script), tmp_path / "trace.jsonl", url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.stderr == ""
    assert ended.stdout == f"6 spans {LOUD} {url}\n"
    assert ended.returncode == 0
    check_run(spans_in(tmp_path / "trace.jsonl"), 5)


def test_a_kill_tears_at_most_the_last_line(tmp_path: Path) -> None:
    """What had ended before a kill -9 can be read: all lines but perhaps one that is cut."""
    file = tmp_path / "trace.jsonl"
    script = """
        class Teller(Observer):
            told = False

            def job_ended(self, event):
                if self.told or event.index % 100:
                    return
                with file.open("rb") as written:
                    self.told = written.seek(0, 2) > 3_000_000
                if self.told:
                    print("three megabytes", flush=True)

        run_pairs(10**9, Teller())
    """
    with subprocess.Popen([*program(script), file], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "three megabytes\n"
        finally:
            child.kill()
    *lines, _torn = file.read_bytes().split(b"\n")
    spans = [s for line in lines for s in spans_of(read_otlp_json(line.decode()))]
    indices = [plain(span.attributes)["zemosaic.pair.index"] for span in spans]
    # Nothing is missing in between either.
    assert indices == list(range(1, len(indices) + 1))
    assert len(indices) > 1000


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("", set()),
        ("http://127.0.0.1:4318", {"opentelemetry.exporter.otlp.proto.http"}),
        ("http://127.0.0.1:4317", {"opentelemetry.exporter.otlp.proto.grpc", "grpc"}),
    ],
)
def test_only_the_exporter_in_use_is_imported(
    endpoint: str, wanted: set[str], tmp_path: Path
) -> None:
    """Each costs a good part of a second to import, and a file needs neither."""
    script = """
        print(*sys.modules, sep="\\n")
        tracing.close()
    """
    command = [*program(script), tmp_path / "trace.jsonl", endpoint]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    heavy = {
        "grpc",
        "opentelemetry.exporter.otlp.proto.grpc",
        "opentelemetry.exporter.otlp.proto.http",
    }
    assert heavy & set(ended.stdout.split()) == wanted


# The environment.


def test_the_environment_names_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what we would say."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-mosaics")
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "service.name=no,service.version=9,site=peak%20A"
    )
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 1)
    tracing.close()
    resource = resource_in(tmp_path / "trace.jsonl")
    assert resource["service.name"] == "my-mosaics"
    assert resource["service.version"] == "9"
    assert resource["site"] == "peak A"


def test_the_environment_can_name_the_service_as_an_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_RESOURCE_ATTRIBUTES alone can set the service's name; our version stays."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=my-mosaics")
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 1)
    tracing.close()
    resource = resource_in(tmp_path / "trace.jsonl")
    assert resource["service.name"] == "my-mosaics"
    assert resource["service.version"] == __version__


def test_the_environment_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """None; the one for all signals; the one for traces, which goes first."""
    assert endpoint_from_environment() == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")
    assert endpoint_from_environment() == "http://all:4318"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1")
    assert endpoint_from_environment() == "http://[::1"  # which `check_endpoint` refuses
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/here")
    assert endpoint_from_environment() == "http://traces:4318/here"


@pytest.mark.parametrize(
    ("name", "path", "arrives_at"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/otlp", "/otlp/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/otlp/", "/otlp/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/my/own", "/my/own"),
    ],
)
def test_an_endpoint_of_the_environment_is_read_as_the_specification_says(
    name: str, path: str, arrives_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint for all signals is a base, the one for traces is the whole address."""
    with http_receiver() as (url, received):
        monkeypatch.setenv(name, url + path)
        tracing = Tracing(tmp_path / "trace.jsonl", endpoint_from_environment())
        run_pairs(tracing, 1)
        assert tracing.close(30.0) == []
    assert set(received.paths) == {arrives_at}
    check_run(received.spans, 1)


def test_the_exporters_own_variables_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compression, one of the exporter's own variables, gets through to it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 1)
        assert tracing.close(30.0) == []
    assert received.compressed == [True]
    check_run(received.spans, 1)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Stands in for both exporters, noting which is made and with what."""
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    made: list[tuple[str, dict[str, Any]]] = []
    for name, module in (("grpc", over_grpc), ("http", over_http)):

        def make(name: str = name, **options: Any) -> BrokenExporter:
            made.append((name, options))
            return BrokenExporter()

        monkeypatch.setattr(module, "OTLPSpanExporter", make)
    return made


SECURE, INSECURE = {"insecure": False}, {"insecure": True}


@pytest.mark.parametrize(
    ("endpoint", "protocol", "exporter", "options"),
    [
        ("http://h:4318", None, "http", {"endpoint": "http://h:4318/v1/traces"}),
        ("http://h:4318/", None, "http", {"endpoint": "http://h:4318/v1/traces"}),
        ("http://h:4318/v1/traces", None, "http", {"endpoint": "http://h:4318/v1/traces"}),
        ("https://h/otlp", None, "http", {"endpoint": "https://h/otlp"}),
        ("http://h:9999", None, "http", {"endpoint": "http://h:9999/v1/traces"}),
        ("http://h:4317", None, "grpc", {"endpoint": "h:4317", **INSECURE}),
        ("https://h:4317", None, "grpc", {"endpoint": "h:4317", **SECURE}),
        ("grpc://h:9999", None, "grpc", {"endpoint": "h:9999", **INSECURE}),
        ("grpc://h", None, "grpc", {"endpoint": "h:4317", **INSECURE}),
        ("grpc://[::1]", None, "grpc", {"endpoint": "[::1]:4317", **INSECURE}),
        ("http://h:4318", "grpc", "grpc", {"endpoint": "h:4318", **INSECURE}),
        ("https://h", "grpc", "grpc", {"endpoint": "h", **SECURE}),
        ("http://h:4317", "http/protobuf", "http", {"endpoint": "http://h:4317/v1/traces"}),
        ("http://h:4317", "", "grpc", {"endpoint": "h:4317", **INSECURE}),
        ("grpc://h:4317", "http/protobuf", "grpc", {"endpoint": "h:4317", **INSECURE}),
    ],
)
def test_the_endpoint_and_the_environment_choose_the_protocol(
    endpoint: str,
    protocol: str | None,
    exporter: str,
    options: dict[str, Any],
    chosen: list[tuple[str, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 4317 and grpc:// mean gRPC; OTEL_EXPORTER_OTLP_PROTOCOL wins over the port."""
    if protocol is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    Tracing(tmp_path / "trace.jsonl", endpoint).close()
    assert chosen == [(exporter, options)]


def test_the_protocol_for_traces_goes_first(
    chosen: list[tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_PROTOCOL wins over the one for all signals."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    Tracing(tmp_path / "trace.jsonl", "http://h:4318").close()
    assert [name for name, _ in chosen] == ["grpc"]


# Addresses.


@pytest.mark.parametrize(
    "url",
    [
        DEFAULT_ENDPOINT,
        "http://localhost:4317",
        "https://collector.example/otlp",
        "grpc://collector:4317",
        "http://[::1]:4318",
    ],
)
def test_endpoints_are_taken_as_they_are(url: str) -> None:
    """A good endpoint comes back unchanged."""
    assert check_endpoint(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4318",
        "127.0.0.1:4318",
        "tiles/*.fits",
        "http://",
        "http:///v1/traces",
        "ftp://h:4318",
        "http://h:0",
        "http://h:99999",
        "http://h:port",
        "http://[::1",
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(url: str) -> None:
    """The message repeats what was given and shows what one looks like."""
    with pytest.raises(ValueError, match="is no OTLP endpoint; give one like http://") as refusal:
        check_endpoint(url)
    assert repr(url) in str(refusal.value)


@pytest.mark.parametrize(
    ("endpoint", "jaeger", "page"),
    [
        ("http://127.0.0.1:4318", None, "http://127.0.0.1:16686/trace/abc"),
        ("grpc://observatory:4317", None, "http://observatory:16686/trace/abc"),
        ("http://[::1]:4318", None, "http://[::1]:16686/trace/abc"),
        ("", None, "http://127.0.0.1:16686/trace/abc"),
        ("http://h:4318", "https://jaeger.example/ui/", "https://jaeger.example/ui/trace/abc"),
        ("http://h:4318", "", "http://h:16686/trace/abc"),
    ],
)
def test_the_link_leads_to_jaeger(
    endpoint: str, jaeger: str | None, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the collector's host, where its image serves the page, or where JAEGER_URL says."""
    if jaeger is not None:
        monkeypatch.setenv("JAEGER_URL", jaeger)
    assert trace_url(endpoint, "abc") == page
    assert trace_url(endpoint, "abc", "a.b=1") == f"{page}?uiFind=a.b%3D1"


def spans_of_all_kinds() -> list[ReadableSpan]:
    """Spans with all that a span can have, as the SDK makes them."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource({"service.name": "s", "process.command_args": ["a", "b"]}, "http://u"),
        span_limits=SpanLimits(max_events=2, max_span_attributes=9),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("zemosaic", "1")
    values: list[Any] = [
        "", "\u00e9\u2713", True, False, 0, 1, -1, 2**63 - 1, 0.0, -1.5, 1e300, [1, 2], [0.5, -0.5],
        ["x", ""], [True],
    ]  # fmt: skip
    with tracer.start_as_current_span("above", kind=SpanKind.SERVER) as above:
        for number, value in enumerate(values):
            with tracer.start_as_current_span(f"span {number}", attributes={"v": value}) as span:
                if number == 3:
                    span.set_status(Status(StatusCode.ERROR, "why \u2713"))
                if number == 4:
                    span.set_status(Status(StatusCode.OK))
                for event in range(number):
                    span.add_event("beat", {"n": event, "t": [0.5] * event or [1.0]})
        above.set_attributes({f"key {k}": k * 1000 for k in range(12)})
    far = SpanContext(1 << 100, 7, True, TraceFlags(1), TraceState([("a", "b")]))
    with tracer.start_as_current_span(
        "under a remote one", context=set_span_in_context(NonRecordingSpan(far))
    ):
        pass
    return list(memory.get_finished_spans())


def test_a_message_is_that_of_the_sdk_to_the_byte() -> None:
    """Whatever a span has: attributes of all types, events, what was dropped, a remote parent."""
    spans = spans_of_all_kinds()
    assert otlp_proto.encode(spans) == encode_spans(spans).SerializeToString()
    assert otlp_proto.encode([]) == b""


def test_a_line_says_what_the_message_says() -> None:
    """Nothing more, and nothing less but a state of the trace, of which the command has none."""
    spans = spans_of_all_kinds()
    line = otlp_json.encode(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    message = list(encode_spans(spans).resource_spans)
    for span in spans_of(message):
        span.ClearField("trace_state")
    assert read_otlp_json(line.decode()) == message
    assert read_otlp_json(otlp_json.encode([]).decode()) == []


def common(name: str = "s", remote: bool = False) -> Common:
    above = SpanContext(1, 5, remote, TraceFlags(1), TraceState([("a", "b")] if remote else []))
    return Common(name, 1, above.trace_flags, above.trace_state, above, RESOURCE, SCOPE)


def ended(attributes: dict[str, Any], kind: Common | None = None, number: int = 2) -> Table:
    """A span that was made past the SDK, as those of pairs are."""
    columns = [(value,) for value in attributes.values()]
    kinds = tuple(map(type, attributes.values()))
    return Table(
        kind or common(), (*attributes,), kinds, (number,), (number,), (2 * number,), columns
    )


RESOURCE, SCOPE = Resource({"service.name": "s"}), InstrumentationScope("zemosaic")
AMONG_THEM = spans_of_all_kinds()[-2:]


def told(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file and what the message says of some attributes."""
    spans = [ended(attributes)]
    (in_file,) = spans_of(read_otlp_json(otlp_json.encode(spans).decode()))
    message = ExportTraceServiceRequest.FromString(otlp_proto.encode(spans))
    (in_message,) = spans_of(list(message.resource_spans))
    return plain(in_file.attributes), plain(in_message.attributes)


SENDABLE = st.characters(exclude_categories=["Cs"])  # no halves of characters
SCALARS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(SENDABLE)
    | st.booleans()
)


@given(st.dictionaries(st.text(SENDABLE), SCALARS | st.lists(SCALARS)))
def test_every_value_arrives_to_the_last_bit(attributes: dict[str, Any]) -> None:
    """Of whatever type, under whatever name, in the file as in the message."""
    in_file, in_message = told(attributes)
    assert repr(in_file) == repr(in_message) == repr(attributes)


@given(
    st.lists(
        st.builds(
            lambda group, attributes: (group, attributes),
            st.sampled_from([("x", False), ("50 %", False), ("y, z", True)]),
            st.fixed_dictionaries({"a, %b": SCALARS, "b": st.floats(-1, 1) | st.integers(-9, 9)})
            | st.dictionaries(st.sampled_from("abc"), SCALARS | st.lists(st.floats(-1, 1))),
        )
    )
)
def test_spans_in_tables_are_as_the_sdk_would_send_them(
    given: list[tuple[tuple[str, bool], dict[str, Any]]],
) -> None:
    """Of several names and parents in turn, with attributes that have all names and types."""
    kinds = {group: common(*group) for group, _ in given}
    spans: list[Any] = [
        ended(attributes, kinds[group], number)
        for number, (group, attributes) in enumerate(given, 1)
    ]
    spans[1:1] = AMONG_THEM
    message = encode_spans(exporters._one_by_one(spans))
    assert otlp_proto.encode(spans) == message.SerializeToString()
    in_file = read_otlp_json(otlp_json.encode(spans).decode())
    for span in spans_of(list(message.resource_spans)):
        span.ClearField("trace_state")
    assert spans_of(in_file) == spans_of(list(message.resource_spans))


def test_numbers_of_numpy_and_other_objects_arrive() -> None:
    """As numbers and as their texts; the short way to make a span lets all of them through."""
    odd = {
        "number": np.float64(0.1), "text": np.str_("a"), "kind": SpanKind.SERVER,
        "code": StatusCode.ERROR, "list": (np.float64(0.5), 1), "50 %b": "50 %b", "none": None,
        "code 2": TraceFlags(1),
    }  # fmt: skip
    plainly = {
        "number": 0.1, "text": "a", "kind": "SpanKind.SERVER", "code": "StatusCode.ERROR",
        "list": [0.5, 1], "50 %b": "50 %b", "none": "None", "code 2": 1,
    }  # fmt: skip
    assert told(odd) == (plainly, plainly)


@pytest.mark.parametrize("value", [math.nan, -math.inf, [1.0, math.nan], np.float64(math.inf)])
def test_a_number_that_is_not_finite_is_refused(value: Any) -> None:
    """A line with NaN is no JSON, and one with null says nothing; text may say what it likes."""
    with pytest.raises(ValueError, match="not finite"):
        otlp_json.encode([ended({"a": "null", "b": value})])
    text = '{"doubleValue":null}'
    assert told({text: text, "null": [text]})[0] == {text: text, "null": [text]}


def test_half_a_character_costs_the_file_nothing() -> None:
    """As json writes it, the environment's resource attributes among others may have one."""
    attributes = {"a": "\udcff", "b": ["\udcff"], "\udcff": 0.5, "c": 1}
    line = otlp_json.encode([ended(attributes)])
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    values = {entry["key"]: entry["value"] for entry in span["attributes"]}
    assert values["a"] == {"stringValue": "\udcff"}
    assert values["b"] == {"arrayValue": {"values": [{"stringValue": "\udcff"}]}}
    assert values["\udcff"] == {"doubleValue": 0.5}


@pytest.mark.parametrize("known", [True, False])
def test_an_sdk_of_another_version_sends_its_own_messages(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sends a message has no public name; where it is not, the SDK does all."""
    made: list[list[ReadableSpan]] = []
    monkeypatch.setattr(otlp_proto, "encode", lambda spans: made.append(spans) or b"")
    with http_receiver() as (url, received):
        exporter = _otlp_exporter(url)
        if not known:
            monkeypatch.setattr(exporter, "_client", None)
        spans = spans_of_all_kinds()
        assert exporter.export(spans) is SpanExportResult.SUCCESS
        assert len(received.spans) == (0 if known else len(spans))
        exporter.shutdown()
    assert len(made) == known


def test_limits_that_the_user_sets_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short way for spans that have ended well is not taken past them."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 2)
    assert tracing.close() == []
    texts = [v for s in spans_in(tmp_path / "trace.jsonl") for v in plain(s.attributes).values()]
    assert max(len(text) for text in texts if isinstance(text, str)) == 3


def test_a_text_that_cannot_be_sent_costs_its_batch_alone() -> None:
    """Nothing is raised into the thread that sends."""
    span = ReadableSpan("\udcff", spans_of_all_kinds()[0].context, start_time=1, end_time=2)
    with http_receiver() as (url, received):
        exporter = _otlp_exporter(url)
        assert exporter.export([span]) is SpanExportResult.FAILURE
        assert exporter.export(spans_of_all_kinds()[:1]) is SpanExportResult.SUCCESS
        exporter.shutdown()
    assert len(received.spans) == 1
