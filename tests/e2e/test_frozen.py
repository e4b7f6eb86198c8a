"""Runs that freeze, die or stall, as the query API of a real Jaeger shows them."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, intertile
from tests.e2e.faults import inject
from tests.e2e.jaeger import Jaeger, Trace, until
from zemosaic.runtime import journal

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the workers of a killed run are cleaned up by process group"
)
PHASE = "phase5_intertile"
PAIR = "phase5_intertile.pair"
HEARTBEAT = "phase5_intertile.heartbeat"


@pytest.fixture
def stuck(jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path) -> Iterator[Running]:
    """A run with a worker in a loop that holds the GIL, at pair 1."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5, "--pair-timeout", 0,
        "--live", "snapshot", "--otlp", jaeger.otlp,
        **inject(tmp_path / "site", pair_0_1="hang"),
    )  # fmt: skip
    yield running
    running.clean_up()


def wait_for(jaeger: Jaeger, running: Running, condition: Callable[[Trace], bool]) -> Trace:
    """Return the trace as soon as it fulfils a condition."""
    for _ in until(60):
        if (running.folder / "trace.jsonl").exists() and running.spans:
            trace = jaeger.trace(running.trace_id)
            if trace is not None and condition(trace):
                return trace
    raise AssertionError("the trace in Jaeger never fulfilled the condition")


def halt_when_acknowledged(jaeger: Jaeger, running: Running) -> None:
    """Halt a run while its journal has every span that Jaeger has; others would be sent again."""
    for _ in until(60):
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # a request on its way arrives
        trace = jaeger.trace(running.trace_id)
        if trace is not None and len(journal.read(running.folder)[-1].delivered) == len(
            trace.spans
        ):
            return
        running.process.send_signal(signal.SIGCONT)
    raise AssertionError("the run never had acknowledged all spans")


def heartbeats(trace: Trace) -> list[dict[str, Any]]:
    """Return all heartbeats of a trace; Jaeger's API returns lists as JSON texts."""
    return [e for phase in trace.named(PHASE) for e in phase.events if e["event"] == HEARTBEAT]


def names_the_stuck_pair(trace: Trace) -> bool:
    """Return whether the last heartbeat names pair 1 as the only running one."""
    beats = heartbeats(trace)
    return bool(beats) and json.loads(beats[-1].get("zemosaic.pairs.running_indices", "[]")) == [1]


def is_shown_stuck(trace: Trace) -> bool:
    """Return whether pair 1 is shown as the only pair that runs, with its stack."""
    shown = [pair for pair in trace.named(PAIR) if "zemosaic.run.last_seen" in pair.attributes]
    indices = [pair.attributes["zemosaic.pair.index"] for pair in shown]
    return (
        names_the_stuck_pair(trace) and indices == [1] and "code.stacktrace" in shown[0].attributes
    )


def test_a_frozen_run_is_seen_while_it_hangs(jaeger: Jaeger, stuck: Running) -> None:
    """The stuck pair is a growing bar with its files and stack; the phase names it as well."""
    wait_for(jaeger, stuck, is_shown_stuck)
    first = wait_for(jaeger, stuck, names_the_stuck_pair)
    count = len(heartbeats(first))
    trace = wait_for(jaeger, stuck, lambda trace: len(heartbeats(trace)) > count)
    assert stuck.process.poll() is None

    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "running"
    total = phase.attributes["zemosaic.pairs.total"]
    assert phase.attributes["zemosaic.pairs.done"] == total - 1
    last = heartbeats(trace)[-1]
    assert last["zemosaic.pairs.pending"] == 1
    assert json.loads(last["zemosaic.pairs.running_time"])[0] > 0.5
    stacks = [e["code.stacktrace"] for e in heartbeats(trace) if "code.stacktrace" in e]
    assert "in strike" in stacks[-1]  # the caller of the regular expression
    pairs = {pair.attributes["zemosaic.pair.index"]: pair for pair in trace.named(PAIR)}
    assert sorted(pairs) == list(range(1, total + 1))
    pair = pairs[1]
    assert "zemosaic.pair.outcome" not in pair.attributes
    assert pair.attributes["zemosaic.pair.name_i"] == "tile_0000.fits"
    assert pair.attributes["zemosaic.pair.name_j"] == "tile_0001.fits"
    assert pair.attributes["zemosaic.pair.running_stage"] == "fit"
    assert pair.parents == [phase.id]
    assert pair.document["duration"] > 500_000
    for span in (pair, phase):
        assert "in strike" in span.attributes["code.stacktrace"]
        assert span.attributes["zemosaic.run.last_seen"]
    assert json.loads(phase.attributes["zemosaic.oldest.files"]) == [
        "tile_0000.fits", "tile_0001.fits",
    ]  # fmt: skip
    (stage,) = trace.named(f"{PHASE}.pairs")
    assert stage.parents == [phase.id]
    assert not trace.warnings


def test_a_killed_run_is_complete_after_its_autopsy(jaeger: Jaeger, stuck: Running) -> None:
    """After kill -9 during a hang the trace is complete, and the stuck pair is an error."""
    wait_for(jaeger, stuck, names_the_stuck_pair)
    stuck.kill()
    autopsy = Running(stuck.folder.parent / "autopsy", "autopsy", stuck.folder, "--otlp").wait()
    assert autopsy.code == 0, autopsy.err
    assert "pair 1 (tile_0000.fits, tile_0001.fits)" in autopsy.out

    trace = jaeger.trace(stuck.trace_id)
    assert trace is not None
    assert not trace.warnings
    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "died"
    assert phase.attributes["otel.status_code"] == "ERROR"
    assert names_the_stuck_pair(trace)

    total = phase.attributes["zemosaic.pairs.total"]
    pairs = {pair.attributes["zemosaic.pair.index"]: pair for pair in trace.named(PAIR)}
    assert sorted(pairs) == list(range(1, total + 1))
    assert len(trace.named(PAIR)) == total
    errors = [index for index, pair in pairs.items() if "otel.status_code" in pair.attributes]
    assert errors == [1]
    assert pairs[1].attributes["otel.status_code"] == "ERROR"
    assert pairs[1].attributes["zemosaic.pair.outcome"] == "crashed"
    (exception,) = pairs[1].events
    assert "in strike" in exception["exception.stacktrace"]

    ids = [span.id for span in trace.spans]
    assert len(set(ids)) == len(ids)
    assert all(parent in ids for span in trace.spans for parent in span.parents)
    assert jaeger.uploaded(stuck.folder / "trace.jsonl").plain().keys() == set(ids)


def test_the_final_span_replaces_the_snapshots(
    jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path
) -> None:
    """A run that was shown during a stall has one phase span, which is finished."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5,
        "--live", "snapshot", "--otlp", jaeger.otlp,
        **inject(tmp_path / "site", pair_0_1="sleep"),
    )  # fmt: skip
    snapshot = wait_for(jaeger, running, is_shown_stuck)
    (shown,) = [p for p in snapshot.named(PAIR) if p.attributes["zemosaic.pair.index"] == 1]
    assert snapshot.named(PHASE)[0].attributes["zemosaic.run.state"] == "running"
    run = running.wait()
    assert run.code == 0, run.err

    trace = jaeger.trace(run.trace_id)
    assert trace is not None
    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "finished"
    assert names_the_stuck_pair(trace)
    assert phase.document["duration"] > snapshot.named(PHASE)[0].document["duration"]
    assert len(trace.spans) == len(run.spans)
    (pair,) = [p for p in trace.named(PAIR) if p.attributes["zemosaic.pair.index"] == 1]
    assert pair.id == shown.id
    assert pair.document["startTime"] == shown.document["startTime"]
    assert pair.attributes["zemosaic.pair.outcome"] == "measured"
    assert not any("zemosaic.run.last_seen" in span.attributes for span in trace.spans)
    assert not trace.warnings


def test_a_store_that_keeps_copies_gets_markers(
    memory_jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path
) -> None:
    """By default it has each span once, and children of the pair that mark how long it ran."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5,
        "--otlp", memory_jaeger.otlp, **inject(tmp_path / "site", pair_0_1="sleep"),
    )  # fmt: skip
    marker = f"{PHASE}.running"
    live = wait_for(memory_jaeger, running, lambda trace: bool(trace.named(marker)))
    assert live.named(marker)[0].attributes["zemosaic.pair.name_j"] == "tile_0001.fits"
    assert live.named(PHASE) == []
    run = running.wait()
    assert run.code == 0, run.err

    trace = memory_jaeger.trace(run.trace_id)
    assert trace is not None
    assert len(trace.spans) == len(run.spans) == len({span.id for span in trace.spans})
    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "finished"
    (pair,) = [p for p in trace.named(PAIR) if p.attributes["zemosaic.pair.index"] == 1]
    assert {span.parents[0] for span in trace.named(marker)} == {pair.id}
    assert not trace.warnings


def test_a_killed_run_is_whole_in_a_store_that_keeps_copies(
    memory_jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path
) -> None:
    """The autopsy sends what is missing and nothing twice."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5, "--pair-timeout", 0,
        "--otlp", memory_jaeger.otlp, **inject(tmp_path / "site", pair_0_1="hang"),
    )  # fmt: skip
    try:
        marker = f"{PHASE}.running"
        wait_for(memory_jaeger, running, lambda trace: len(trace.named(marker)) > 1)
        halt_when_acknowledged(memory_jaeger, running)
        running.kill()
    finally:
        running.clean_up()
    autopsy = Running(tmp_path / "autopsy", "autopsy", running.folder, "--otlp").wait()
    assert autopsy.code == 0, autopsy.err
    trace = memory_jaeger.trace(running.trace_id)
    assert trace is not None
    assert len(trace.spans) == len(running.spans) == len({span.id for span in trace.spans})
    assert trace.named(PHASE)[0].attributes["zemosaic.run.state"] == "died"
    assert not trace.warnings
