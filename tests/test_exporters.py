"""Every span reaches the collector and the file, and no collector delays the run."""

from __future__ import annotations

import base64
import contextlib
import inspect
import logging
import re
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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.helpers.environment import remove_proxies
from tests.helpers.otlp_receiver import (
    ACCEPT,
    FORBID,
    Answer,
    Received,
    dead_port,
    grpc_receiver,
    http_receiver,
    mute_port,
    plain,
    read_otlp_json,
    rejecting,
    resources_of,
    spans_of,
)
from zemosaic import __version__
from zemosaic.errors import UserError
from zemosaic.observe import exporters
from zemosaic.observe.collector_session import CollectorSession, RefusedError
from zemosaic.observe.endpoint import endpoint_from_environment
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.observe.telemetry import environment_parent
from zemosaic.observe.tracing import FILE_DELAY, SHUTDOWN_TIMEOUT, Tracing
from zemosaic.runtime.events import Heartbeat, RunEnded, RunStarted
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool

PHASE = "phase5_intertile"
RECEIVERS = {"http": http_receiver, "grpc": grpc_receiver}
UNDELIVERED = "could not be delivered to"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect to collectors directly."""
    remove_proxies(monkeypatch)


@pytest.fixture
def half_second_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time-out of an export, which is ten seconds by default."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")


@pytest.fixture(autouse=True)
def logger_level_restored() -> Iterator[None]:
    """Check that every test restores the level of the SDK's logger."""
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    yield
    deadline = time.monotonic() + 30
    while logger.level != before and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that is still exporting restores it at its end
    assert logger.level == before


class BatchPool(SerialPool):
    """Jobs end in batches, as in worker processes."""

    together = 16


def run_pairs(tracing: Tracing, count: int, function: Callable[..., Any] = abs) -> Telemetry:
    """Run tiny pairs on a tracer: the first alone, the others in batches."""
    telemetry = Telemetry(tracing.tracer)
    fan_out = FanOut([telemetry])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=time.time_ns()))
    jobs = (
        Job(k, function, (k,), {"tile_i": k, "name_i": f"a{k}.fits"}) for k in range(1, count + 1)
    )
    run(jobs, count, BatchPool(), fan_out, stage="pairs")
    fan_out.dispatch(RunEnded(state="finished", time_ns=time.time_ns()))
    return telemetry


def spans_in(file: Path) -> list[Span]:
    """Return the spans of a trace file; every line must be whole and valid OTLP/JSON."""
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [span for line in text.splitlines() for span in spans_of(read_otlp_json(line))]


def resource_in(file: Path) -> dict[str, Any]:
    lines = file.read_text(encoding="utf-8").splitlines()
    (resource,) = resources_of([r for line in lines for r in read_otlp_json(line)])
    return resource


def check_run(spans: list[Span], count: int) -> None:
    """Check that the spans are one phase and its pairs, all distinct."""
    (phase,) = [span for span in spans if span.name == PHASE]
    pairs = [span for span in spans if span.name == f"{PHASE}.pair"]
    assert len(spans) == count + 1
    assert len({span.span_id for span in spans}) == count + 1
    assert {span.trace_id for span in spans} == {phase.trace_id}
    assert {span.parent_span_id for span in pairs} == {phase.span_id}
    indices = [plain(span.attributes)["zemosaic.pair.index"] for span in pairs]
    assert sorted(indices) == list(range(1, count + 1))


# Delivered spans.


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_5000_pairs_arrive_and_are_in_the_file(protocol: str, tmp_path: Path) -> None:
    """No span is dropped at full speed, and collector and file agree."""
    file = tmp_path / "trace.jsonl"
    with RECEIVERS[protocol]() as (url, received):
        tracing = Tracing(file, url)
        run_pairs(tracing, 5000)
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
    """Without an endpoint the file has the whole trace and replaces an older one."""
    file = tmp_path / "trace.jsonl"
    file.write_text("something old")
    tracing = Tracing(file)
    telemetry = run_pairs(tracing, 7)
    assert tracing.close() == []
    spans = spans_in(file)
    check_run(spans, 7)
    assert spans[0].trace_id.hex() == telemetry.trace_id
    assert resource_in(file)["service.name"] == "zemosaic"


def test_ended_spans_reach_the_file_during_the_run(tmp_path: Path) -> None:
    """A few spans are written without a full batch and before the end."""
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


@pytest.mark.parametrize("moves", [False, True])
def test_a_day_of_heartbeats_is_bounded(moves: bool, tmp_path: Path) -> None:
    """The trace keeps the first and the newest heartbeats, although the SDK keeps 128 events.

    The job is stuck in two places one after the other, or moves all the time.
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
    recorded = [round(a["zemosaic.idle_time"] / 10) for a in attributes]
    assert recorded[:60] == list(range(1, 61))
    assert recorded == sorted(recorded)
    assert recorded[-1] == 8640
    assert max(np.diff(recorded)) <= 32
    assert len(recorded) < 600
    assert phase.dropped_events_count == 0
    assert attributes[0]["zemosaic.pairs.pending_indices"] == list(range(1, 65))
    stacks = [a["code.stacktrace"] for a in attributes if "code.stacktrace" in a]
    assert len(stacks) == (32 if moves else 2)  # repeated on a change only, not 8,640 times
    assert max(map(len, stacks)) <= 8192
    assert file.stat().st_size < 3_000_000


def fail_with_odd_name(index: int) -> None:
    """Fail like a tile with a file name that is not Unicode, as Linux allows."""
    raise OSError(f"cannot read tile_{index}_\udcff.fits")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_odd_file_name_costs_no_span(protocol: str, tmp_path: Path) -> None:
    """A text that protobuf refuses would silently lose all spans of its batch."""
    file = tmp_path / "trace.jsonl"
    with RECEIVERS[protocol]() as (url, received):
        tracing = Tracing(file, url)
        run_pairs(tracing, 3, fail_with_odd_name)
        assert tracing.close(timeout=60) == []
    check_run(received.spans, 3)
    check_run(spans_in(file), 3)
    assert r"tile_1_\udcff.fits" in received.spans[0].status.message


# Lost spans.


@contextmanager
def deaf(kind: str) -> Iterator[str]:
    """Yield the endpoint of a collector that accepts nothing."""
    protocol, behaviour = kind.split("-")
    scheme = {"http": "http", "grpc": "grpc"}[protocol]
    if behaviour == "refusing":
        receiver: AbstractContextManager[tuple[str, Received]] = RECEIVERS[protocol](refusing=True)
        with receiver as (url, _):
            yield url
    else:
        with (dead_port if behaviour == "dead" else mute_port)() as port:
            yield f"{scheme}://127.0.0.1:{port}"


DEAF = ["http-dead", "grpc-dead", "http-mute", "grpc-mute", "http-refusing", "grpc-refusing"]


@pytest.mark.usefixtures("half_second_timeout")
@pytest.mark.parametrize("kind", DEAF)
def test_a_deaf_collector_is_named_with_the_lost_spans(kind: str, tmp_path: Path) -> None:
    """The wait is bounded, the count is exact and the file is complete."""
    file = tmp_path / "trace.jsonl"
    with deaf(kind) as url:
        tracing = Tracing(file, url)
        run_pairs(tracing, 700)  # more than one batch
        # Without an answer, shorter than a single attempt.
        timeout = 30.0 if "refusing" in kind else 0.2
        (message,) = tracing.close(timeout)
        reason = {
            "http-refusing": ": 403 Forbidden",
            "grpc-refusing": ": permission denied: go away",
        }
        expected = f"701 spans {UNDELIVERED} {url}{reason.get(kind, '')}"
        assert message.startswith(expected) if "refusing" not in kind else message == expected
    check_run(spans_in(file), 700)


class StuckExporter(SpanExporter):
    """Blocks in `export` until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.was_shut_down = False

    def export(self, spans: Any) -> SpanExportResult:
        self.release.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.was_shut_down = True


def test_an_exporter_that_never_returns_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` returns at its time-out; the SDK's own shutdown would take half a minute."""
    exporter = StuckExporter()
    monkeypatch.setattr(
        "zemosaic.observe.tracing.otlp_sender", lambda _: exporters.Sender(exporter)
    )
    tracing = Tracing(tmp_path / "trace.jsonl", "http://collector:4318")
    run_pairs(tracing, 2)
    try:
        assert tracing.close(0.05) == [f"3 spans {UNDELIVERED} http://collector:4318: no answer"]
        # The SDK shuts an exporter down after half a minute.
        assert not exporter.was_shut_down
    finally:
        exporter.release.set()
    check_run(spans_in(tmp_path / "trace.jsonl"), 2)


def test_a_collector_is_waited_for_five_seconds() -> None:
    """The default time-out of `close` is five seconds."""
    assert SHUTDOWN_TIMEOUT == 5.0
    assert inspect.signature(Tracing.close).parameters["timeout"].default == SHUTDOWN_TIMEOUT


@pytest.mark.usefixtures("half_second_timeout")
def test_spans_dropped_by_a_full_queue_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span dropped by a full queue was never exported, but it is lost."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    file = tmp_path / "trace.jsonl"
    with mute_port() as port:
        url = f"http://127.0.0.1:{port}"
        tracing = Tracing(file, url)
        run_pairs(tracing, 200)
        *_, message = tracing.close(0.2)
    assert message.startswith(f"201 spans {UNDELIVERED} {url}: ")


class BrokenExporter(SpanExporter):
    """Raises, as the gRPC exporter does if it cannot encode spans."""

    def export(self, spans: Any) -> SpanExportResult:
        raise ValueError("broken")

    def shutdown(self) -> None:
        """Nothing to do."""


def test_an_exporter_that_raises_delivers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in an exporter counts as a failure and does not propagate."""
    monkeypatch.setattr(
        "zemosaic.observe.tracing.otlp_sender", lambda _: exporters.Sender(BrokenExporter())
    )
    tracing = Tracing(tmp_path / "trace.jsonl", "http://collector:4318")
    run_pairs(tracing, 2)
    (message,) = tracing.close()
    assert message == f"3 spans {UNDELIVERED} http://collector:4318: ValueError: broken"
    check_run(spans_in(tmp_path / "trace.jsonl"), 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_gives_a_message_and_no_exception() -> None:
    """The run keeps its results; only the spans in the file are lost."""
    tracing = Tracing(Path("/dev/full"))
    run_pairs(tracing, 3)
    assert tracing.close() == [f"4 spans {UNDELIVERED} full: No space left on device"]


def test_closing_twice_returns_the_same(tmp_path: Path) -> None:
    """A second `close`, as in a `finally`, has no effect."""
    with deaf("http-refusing") as url:
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 1)
        message = f"2 spans {UNDELIVERED} {url}: 403 Forbidden"
        assert tracing.close(30.0) == tracing.close() == [message]


def test_the_sdk_is_silenced_only_while_tracing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK logs nothing meanwhile, and its logger gets its level back."""
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


@pytest.mark.parametrize(
    ("answer", "refused"),
    [(FORBID, True), (rejecting(1, ""), False), (Answer(503), False), (ACCEPT, False)],
)
def test_a_collector_that_rejects_a_part_has_not_refused_the_rest(
    answer: Answer, refused: bool
) -> None:
    """Metrics and log records go on after a partial success, and stop after a refusal."""
    session = CollectorSession(ExportTraceServiceResponse)
    with http_receiver(answer=answer) as (url, _), contextlib.suppress(RefusedError):
        session.post(f"{url}/v1/traces", b"", timeout=30)
    assert session.refused is refused


# Answers that are no success.

PAGE = Answer(200, b"<html>Sign in</html>", "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(302, location="https://sso.example/?next=1"), "redirected to https://sso.example/"),
        (Answer(307, location="http://me:secret@h/"), "redirected to http://h/"),
        (Answer(304), "redirected to another place"),
        (PAGE, "answered text/html, as no collector does"),
        (PAGE._replace(content=b""), "answered text/html, as no collector does"),
        (Answer(200, b"OK", "text/plain"), "answered text/plain, as no collector does"),
        (Answer(200, b"<xml>not protobuf"), "answered as no collector does"),
        (Answer(200, b"[]", "application/json"), "answered as no collector does"),
        (rejecting(3, "too\n long"), "rejected 3 of 6 spans: too long"),
        (rejecting(6, ""), "rejected 6 of 6 spans"),
        (
            Answer(200, b'{"partialSuccess": {"rejectedSpans": "2"}}', "application/json"),
            "rejected 2 of 6 spans",
        ),
        (Answer(401), "401 Unauthorized"),
        (Answer(404), "404 Not Found"),
        (Answer(413), "413 "),
        (Answer(503), "503 Service Unavailable"),
    ],
)
@pytest.mark.usefixtures("half_second_timeout")
def test_spans_that_were_not_taken_are_reported_with_the_reason(
    answer: Answer, reason: str, tmp_path: Path
) -> None:
    """Nothing counts as delivered that the collector has not taken."""
    delivered: list[int] = []
    with http_receiver(answer=answer) as (url, _):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        tracing.on_delivered = delivered.extend
        run_pairs(tracing, 5)
        (message,) = tracing.close(timeout=30)
    assert message.startswith(f"6 spans {UNDELIVERED} {url}: {reason}")
    assert delivered == []
    check_run(spans_in(tmp_path / "trace.jsonl"), 5)


@pytest.mark.parametrize(
    "answer",
    [
        rejecting(0, "a warning"),
        Answer(202, b"", ""),
        Answer(200, b"", "text/plain"),
        Answer(200, b"{}", "application/json"),
        Answer(200, b'{"partialSuccess": {}}', "application/json; charset=utf-8"),
        Answer(204, b"", ""),
    ],
)
def test_other_forms_of_success_are_one(answer: Answer, tmp_path: Path) -> None:
    """A warning, an empty answer and JSON are successes."""
    with http_receiver(answer=answer) as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 5)
        assert tracing.close(timeout=30) == []
    check_run(received.spans, 5)


@pytest.mark.usefixtures("half_second_timeout")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("http://no.such.host.invalid:4318", "no such host"),
    ],
)
def test_an_unreachable_collector_is_reported_with_the_cause(
    url: str, reason: str, tmp_path: Path
) -> None:
    """The cause is that of the system, in a few words."""
    tracing = Tracing(tmp_path / "trace.jsonl", url)
    run_pairs(tracing, 1)
    assert tracing.close(timeout=30) == [f"2 spans {UNDELIVERED} {url}: {reason}"]


def test_the_user_and_the_password_are_used_and_not_shown(tmp_path: Path) -> None:
    """They reach the collector; no message has them."""
    with http_receiver(answer=Answer(401)) as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url.replace("//", "//me:secret@"))
        run_pairs(tracing, 1)
        assert tracing.close(timeout=30) == [f"2 spans {UNDELIVERED} {url}: 401 Unauthorized"]
    assert received.authorizations == ["Basic " + base64.b64encode(b"me:secret").decode()]
    assert tracing.endpoint == url


def test_a_proxy_is_not_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loopback of a proxy is another machine's."""
    with http_receiver() as (url, received), dead_port() as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 1)
        assert tracing.close(timeout=30) == []
    check_run(received.spans, 1)


# Programs in a process of their own.

PREAMBLE = """
import logging, sys, time
from pathlib import Path
from zemosaic.observe.tracing import Tracing
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.runtime.events import RunEnded, RunStarted
from zemosaic.runtime.observers import FanOut, Observer
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
    """Return a command that runs a script after the preamble, with warnings as errors."""
    return [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(script)]


@pytest.mark.usefixtures("half_second_timeout")
@pytest.mark.parametrize("kind", ["http-dead", "grpc-dead", "http-mute", "grpc-mute"])
def test_a_deaf_collector_gives_one_line(kind: str, tmp_path: Path) -> None:
    """The SDK prints nothing on standard error, and the program ends normally."""
    script = """
        run_pairs(5)
        print(*tracing.close(0.2), sep="\\n")
        while logging.getLogger("opentelemetry").level == logging.CRITICAL:
            time.sleep(0.01)  # the export fails after the end
    """
    with deaf(kind) as url:
        process = subprocess.run(
            [*program(script), tmp_path / "trace.jsonl", url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert process.stderr == ""
    assert re.fullmatch(rf"6 spans {UNDELIVERED} {re.escape(url)}: .+\n", process.stdout)
    assert process.returncode == 0
    check_run(spans_in(tmp_path / "trace.jsonl"), 5)


def test_a_kill_tears_at_most_the_last_line(tmp_path: Path) -> None:
    """After kill -9 all lines of the file can be read, except possibly the last."""
    file = tmp_path / "trace.jsonl"
    script = """
        class SizeReporter(Observer):
            reported = False

            def job_ended(self, event):
                if self.reported or event.index % 100:
                    return
                with file.open("rb") as written:
                    self.reported = written.seek(0, 2) > 3_000_000
                if self.reported:
                    print("three megabytes", flush=True)

        run_pairs(10**9, SizeReporter())
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
    # No span is missing in between.
    assert indices == list(range(1, len(indices) + 1))
    assert len(indices) > 1000


@pytest.mark.parametrize(
    ("endpoint", "imported"),
    [
        ("", set()),
        ("http://127.0.0.1:4318", {"opentelemetry.exporter.otlp.proto.http"}),
        ("http://127.0.0.1:4317", {"opentelemetry.exporter.otlp.proto.grpc", "grpc"}),
    ],
)
def test_only_the_exporter_in_use_is_imported(
    endpoint: str, imported: set[str], tmp_path: Path
) -> None:
    """Each import takes a good part of a second, and a file needs neither."""
    script = """
        print(*sys.modules, sep="\\n")
        tracing.close()
    """
    command = [*program(script), tmp_path / "trace.jsonl", endpoint]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    heavy = {
        "grpc",
        "opentelemetry.exporter.otlp.proto.grpc",
        "opentelemetry.exporter.otlp.proto.http",
    }
    assert heavy & set(process.stdout.split()) == imported


# The environment.


def test_the_environment_names_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override our values."""
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
    """OTEL_RESOURCE_ATTRIBUTES alone can set the name of the service; our version stays."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=my-mosaics")
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 1)
    tracing.close()
    resource = resource_in(tmp_path / "trace.jsonl")
    assert resource["service.name"] == "my-mosaics"
    assert resource["service.version"] == __version__


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
def test_an_endpoint_of_the_environment_follows_the_specification(
    name: str, path: str, arrives_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint for all signals is a base, the one for traces a full address."""
    with http_receiver() as (url, received):
        monkeypatch.setenv(name, url + path)
        tracing = Tracing(tmp_path / "trace.jsonl", endpoint_from_environment())
        run_pairs(tracing, 1)
        assert tracing.close(60.0) == []
    assert set(received.paths) == {arrives_at}
    check_run(received.spans, 1)


def test_variables_of_the_exporters_have_an_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compression is one of the exporters' own variables."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url)
        run_pairs(tracing, 1)
        assert tracing.close(60.0) == []
    assert received.compressed == [True]
    check_run(received.spans, 1)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Replace both exporters, and record which is made with which options."""
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
        ("http://h:4318/", None, "http", {"endpoint": "http://h:4318/"}),
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
    """Port 4317 and grpc:// mean gRPC; OTEL_EXPORTER_OTLP_PROTOCOL overrides the port."""
    if protocol is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    Tracing(tmp_path / "trace.jsonl", endpoint).close()
    for option in ("session", "channel_options"):
        chosen[0][1].pop(option, None)
    assert chosen == [(exporter, options)]


def test_the_protocol_for_traces_has_precedence(
    chosen: list[tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_PROTOCOL overrides the one for all signals."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    Tracing(tmp_path / "trace.jsonl", "http://h:4318").close()
    assert [name for name, _ in chosen] == ["grpc"]


def test_limits_of_the_environment_are_enforced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on lengths is a variable of the SDK."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 2)
    assert tracing.close() == []
    texts = [v for s in spans_in(tmp_path / "trace.jsonl") for v in plain(s.attributes).values()]
    assert max(len(text) for text in texts if isinstance(text, str)) == 3


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
def test_a_malformed_limit_is_one_line(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line has the variable and its value."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} must be .*{value}"):
        Tracing(tmp_path / "trace.jsonl", "http://h:4318")


def test_the_number_of_events_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SPAN_EVENT_COUNT_LIMIT keeps the newest events and counts the others."""
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "2")
    tracing = Tracing(tmp_path / "trace.jsonl")
    span = tracing.tracer.start_span("phase")
    for number in range(5):
        span.add_event(f"event {number}")
    span.end()
    assert tracing.close() == []
    (written,) = spans_in(tmp_path / "trace.jsonl")
    assert [event.name for event in written.events] == ["event 3", "event 4"]
    assert written.dropped_events_count == 3


@pytest.mark.parametrize(
    ("variable", "value", "count"),
    [
        ("OTEL_SDK_DISABLED", "true", 0),
        ("OTEL_TRACES_SAMPLER", "always_off", 0),
        ("OTEL_TRACES_SAMPLER", "always_on", 3),
    ],
)
def test_a_trace_can_be_switched_off(
    variable: str, value: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is recorded, and there is no trace id to link to."""
    monkeypatch.setenv(variable, value)
    tracing = Tracing(tmp_path / "trace.jsonl")
    telemetry = run_pairs(tracing, 2)
    assert tracing.close() == []
    assert len(spans_in(tmp_path / "trace.jsonl") if count else []) == count
    assert bool(telemetry.trace_id) == bool(count)


def test_the_console_gets_the_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OTEL_TRACES_EXPORTER=console prints all spans besides writing the file."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    tracing = Tracing(tmp_path / "trace.jsonl")
    run_pairs(tracing, 2)
    assert tracing.close() == []
    assert capsys.readouterr().out.count('"name": "phase5_intertile') == 3
    check_run(spans_in(tmp_path / "trace.jsonl"), 2)


def test_a_parent_of_the_environment_is_the_parent_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRACEPARENT and TRACESTATE come from the program that started the run."""
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    tracing = Tracing(tmp_path / "trace.jsonl")
    telemetry = Telemetry(tracing.tracer, parent=environment_parent())
    telemetry.run_started(RunStarted(run_id="r", time_ns=1))
    telemetry.run_ended(RunEnded(state="finished", time_ns=2))
    assert tracing.close() == []
    (phase,) = spans_in(tmp_path / "trace.jsonl")
    assert phase.trace_id.hex() == telemetry.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert phase.parent_span_id.hex() == "b7ad6b7169203331"
    assert phase.trace_state == "vendor=1"
