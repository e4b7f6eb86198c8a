"""Runs that freeze, die or stall, seen through the query API of a real Jaeger."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, intertile
from tests.e2e.faults import inject
from tests.e2e.jaeger import Jaeger, Trace, until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="what a killed run leaves is cleaned up by its process group"
)
PHASE = "phase5_intertile"
PAIR = "phase5_intertile.pair"
HEARTBEAT = "phase5_intertile.heartbeat"


@pytest.fixture
def stuck(jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path) -> Iterator[Running]:
    """A run with one worker in a loop that holds the GIL, at pair 1."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5, "--pair-timeout", 0,
        "--otlp", jaeger.otlp, **inject(tmp_path / "site", pair_0_1="hang"),
    )  # fmt: skip
    yield running
    running.clean_up()


def wait_for(jaeger: Jaeger, running: Running, told: Callable[[Trace], bool]) -> Trace:
    """The trace, as soon as it tells what is waited for."""
    for _ in until(60):
        if (running.folder / "trace.jsonl").exists() and running.spans:
            trace = jaeger.trace(running.trace_id)
            if trace is not None and told(trace):
                return trace
    raise AssertionError("Jaeger was never told")


def heartbeats(trace: Trace) -> list[dict[str, Any]]:
    """All heartbeats in a trace; lists are JSON in Jaeger's own API."""
    return [e for phase in trace.named(PHASE) for e in phase.events if e["event"] == HEARTBEAT]


def names_the_stuck_pair(trace: Trace) -> bool:
    """Whether the last heartbeat names pair 1 as the only one that runs."""
    beats = heartbeats(trace)
    return bool(beats) and json.loads(beats[-1].get("zemosaic.pairs.running_indices", "[]")) == [1]


def test_a_frozen_run_is_seen_while_it_hangs(jaeger: Jaeger, stuck: Running) -> None:
    """One phase span, running, with heartbeats that name the pair, how long, and its stack."""
    first = wait_for(jaeger, stuck, names_the_stuck_pair)
    seen = len(heartbeats(first))
    trace = wait_for(jaeger, stuck, lambda trace: len(heartbeats(trace)) > seen)
    assert stuck.process.poll() is None

    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "running"
    total = phase.attributes["zemosaic.pairs.total"]
    assert phase.attributes["zemosaic.pairs.done"] == total - 1
    last = heartbeats(trace)[-1]
    assert last["zemosaic.pairs.pending"] == 1
    assert json.loads(last["zemosaic.pairs.running_time"])[0] > 0.5
    stacks = [e["code.stacktrace"] for e in heartbeats(trace) if "code.stacktrace" in e]
    assert "in strike" in stacks[-1]  # the frame below which the regular expression loops
    ended = [pair.attributes["zemosaic.pair.index"] for pair in trace.named(PAIR)]
    assert sorted(ended) == list(range(2, total + 1))
    assert not trace.warnings


def test_a_killed_run_is_whole_after_its_autopsy(jaeger: Jaeger, stuck: Running) -> None:
    """Killed with -9 while it hangs: one trace, whole; it died, and the stuck pair is an error."""
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


def test_the_last_word_is_the_final_span(
    jaeger: Jaeger, few_tiles: list[Path], tmp_path: Path
) -> None:
    """A run that was shown while it stalled, and then ended: one phase span, finished."""
    running = intertile(
        tmp_path / "run", few_tiles, "--workers", 2, "--heartbeat", 0.5, "--otlp", jaeger.otlp,
        **inject(tmp_path / "site", pair_0_1="sleep"),
    )  # fmt: skip
    shown = wait_for(jaeger, running, names_the_stuck_pair)
    assert shown.named(PHASE)[0].attributes["zemosaic.run.state"] == "running"
    run = running.wait()
    assert run.code == 0, run.err

    trace = jaeger.trace(run.trace_id)
    assert trace is not None
    (phase,) = trace.named(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "finished"
    assert names_the_stuck_pair(trace)
    assert phase.document["duration"] > shown.named(PHASE)[0].document["duration"]
    assert len(trace.spans) == len(run.spans)
    assert not trace.warnings
