"""Ended runs, as the query API of a real Jaeger shows them."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Run, intertile
from tests.e2e.jaeger import Jaeger, OwnJaeger, until
from zemosaic import __version__
from zemosaic.observe.tracing import OTLP_DELAY

PHASE = "phase5_intertile"
PAIR = "phase5_intertile.pair"


def test_every_span_is_stored_once(jaeger: Jaeger, finished: Run, tiles: list[Path]) -> None:
    """Each of more than 500 pairs is a child of the phase, and Jaeger has no warnings."""
    assert finished.code == 0, finished.err
    trace = jaeger.trace(finished.trace_id)
    assert trace is not None
    assert not trace.warnings

    (phase,) = trace.named(PHASE)
    assert phase.parents == []
    assert phase.attributes["zemosaic.run.state"] == "finished"
    total = phase.attributes["zemosaic.pairs.total"]
    assert total >= 500
    assert phase.attributes["zemosaic.pairs.done"] == total

    pairs = trace.named(PAIR)
    assert sorted(p.attributes["zemosaic.pair.index"] for p in pairs) == list(range(1, total + 1))
    assert all(pair.parents == [phase.id] for pair in pairs)
    ends = {tuple(p.attributes[f"zemosaic.pair.name_{end}"] for end in "ij") for p in pairs}
    assert len(ends) == total
    assert {name for pair in ends for name in pair} == {tile.name for tile in tiles}

    ids = Counter(span.id for span in trace.spans)
    assert max(ids.values()) == 1
    assert all(parent in ids for span in trace.spans for parent in span.parents)
    starts = len(trace.named(f"{PHASE}.worker_start"))
    stages = ("prepare", "scan", "overlap", "pairs", "solve")
    assert len(ids) == len(finished.spans) == total + len(tiles) + starts + 1 + len(stages)


def test_every_span_has_its_resource_and_scope(jaeger: Jaeger, finished: Run) -> None:
    """Service and scope have name and version of zemosaic."""
    trace = jaeger.trace(finished.trace_id)
    assert trace is not None
    assert "zemosaic" in jaeger.get("/api/services")["data"]
    for span in trace.spans:
        assert span.resource["service.name"] == "zemosaic"
        assert span.resource["service.version"] == __version__
        assert span.attributes["otel.scope.name"] == "zemosaic"
        assert span.attributes["otel.scope.version"] == __version__


def test_the_upload_tab_shows_the_same_trace(jaeger: Jaeger, finished: Run) -> None:
    """The trace file, converted by the UI, equals the trace that was sent."""
    sent = jaeger.trace(finished.trace_id)
    assert sent is not None
    assert jaeger.uploaded(finished.folder / "trace.jsonl").plain() == sent.plain()


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_traces_survive_a_restart_of_jaeger(
    own_jaeger: OwnJaeger, few_tiles: list[Path], tmp_path: Path, kill: bool
) -> None:
    """Acknowledged spans are stored, also if Jaeger is killed."""
    own_jaeger.start()
    run = intertile(tmp_path / "run", few_tiles, "--otlp", own_jaeger.otlp).wait()
    before = own_jaeger.trace(run.trace_id)
    assert before is not None
    assert len(before.spans) == len(run.spans)

    own_jaeger.stop(kill=kill)
    own_jaeger.start()
    after = own_jaeger.trace(run.trace_id)
    assert after is not None
    assert after.plain() == before.plain()
    assert not after.warnings


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process for a while")
def test_jaeger_down_for_the_first_half(
    own_jaeger: OwnJaeger, tiles: list[Path], tmp_path: Path
) -> None:
    """Jaeger has the delivered spans, the others are counted, and the file has all."""
    running = intertile(
        tmp_path / "run", tiles, "--neighbours", 0, "--pool", "serial", "--live", "off",
        "--otlp", own_jaeger.otlp,
        OTEL_EXPORTER_OTLP_TIMEOUT="0.7",  # less than the pause before a second try
    )  # fmt: skip
    file = tmp_path / "run" / "trace.jsonl"
    for _ in until(120, pause=0.02):
        if file.exists() and file.read_text().count(f'"{PAIR}"') > 100:
            break
    # Halted, so that the second half remains on a fast machine.
    running.process.send_signal(signal.SIGSTOP)
    time.sleep(OTLP_DELAY / 1000)  # a batch is due
    with socket.create_server(("127.0.0.1", urlsplit(own_jaeger.otlp).port)) as listener:
        running.process.send_signal(signal.SIGCONT)
        for _ in ("first attempt", "immediate retry"):  # live snapshots are off
            listener.accept()[0].close()
    running.process.send_signal(signal.SIGSTOP)
    own_jaeger.start()
    running.process.send_signal(signal.SIGCONT)
    run = running.wait()

    written = {span.span_id.hex(): span.name for span in run.spans}
    trace = own_jaeger.trace(run.trace_id)
    assert trace is not None
    delivered = {span.id: span.name for span in trace.spans}
    assert delivered.items() < written.items()
    assert PHASE in delivered.values()
    assert Counter(written.values())[PAIR] >= 500
    message = re.search(
        r"^zemosaic: (\d+) spans could not be delivered to (\S+): (.+); see ", run.err, re.M
    )
    assert message
    assert message[2] == f"{own_jaeger.otlp}/v1/traces"
    # Jaeger may have stored more: spans that it was too slow to acknowledge.
    assert len(delivered) + int(message[1]) >= len(written)
