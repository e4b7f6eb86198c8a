"""Spans recorded in batches equal spans recorded one by one."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.helpers.otlp_receiver import http_receiver, read_otlp_json, spans_of
from zemosaic.observe.exporters import Ids, Tracing
from zemosaic.observe.telemetry import PAIR, Telemetry
from zemosaic.runtime.events import (
    Event,
    FanOut,
    Heartbeat,
    JobEnded,
    JobError,
    RunEnded,
    RunStarted,
)

BEAT = Heartbeat(
    stage="pairs", time_ns=5, done=1, total=9, pending=8, pending_indices=[1], running_indices=[],
    running_time=[], running_attributes=[], last_completed_index=1, idle_time=10.0,
    running_steps=[], stack="", timeout=0.0,
)  # fmt: skip
VALUES = st.sampled_from(
    [1, -5, 2**40, True, 0.5, math.nan, math.inf, 1e308, "a", "ä" * 9000, "\udcff", "x" * 9000, "",
     None, (0.5, 1.5), (math.nan,), (), np.float64(2.5), np.str_("é"), "a, b", "null"]
)  # fmt: skip
ATTRIBUTES = st.sampled_from(
    [
        st.fixed_dictionaries({"tile_i": st.integers(0, 9), "gain": st.floats(0.5, 2)}),
        st.fixed_dictionaries({"tile_i": st.integers(0, 9), "gain": VALUES}),
        st.fixed_dictionaries({"index": st.integers(0, 9), "outcome": VALUES}),
        st.dictionaries(st.sampled_from(["gain", "index", "cells"]), VALUES),
    ]
)
TIMES = st.tuples(st.integers(1, 300), st.integers(1, 3), st.integers(2, 4), st.integers(4, 9))


@st.composite
def batches(draw: st.DrawFn) -> list[Event]:
    """Return a batch of similar jobs, and sometimes a heartbeat after them."""
    fields = {
        "stage": draw(st.sampled_from(["pairs", "pairs", "tiles", "scan", "apply"])),
        "outcome": draw(st.sampled_from(["measured", "measured", "rejected", "failed"])),
        "pid": draw(st.sampled_from([0, 7, 8])),
        "step_times": draw(st.sampled_from([{}, {"fit": 0.1}, {"load": 0.2, "fit": math.nan}])),
    }
    attributes = draw(ATTRIBUTES)
    events: list[Event] = []
    for index, submitted, started, ended in draw(st.lists(TIMES, max_size=4)):
        error = draw(st.sampled_from([None, None, None, JobError("ValueError", "no")]))
        events.append(
            JobEnded(
                done=1, total=9, index=index, submitted_ns=submitted, started_ns=started,
                ended_ns=ended, attributes=draw(attributes), error=error, **fields,
            )
        )  # fmt: skip
    return [*events, *draw(st.sampled_from([[], [], [BEAT]]))]


def recorded_spans(events: Sequence[Event], together: bool) -> tuple[list[Span], str]:
    """Return the spans of a run in its file, and the text to search for in the trace."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.jsonl"
        tracing = Tracing(file, ids=Ids(1, 1 << 40))
        telemetry = Telemetry(tracing.tracer, host="h")
        fan_out = FanOut([telemetry])
        fan_out.dispatch(RunStarted(run_id="r", time_ns=1))
        for batch in [events] if together else [[event] for event in events]:
            fan_out.dispatch(*batch)
        fan_out.dispatch(RunEnded(state="finished", time_ns=10))
        assert tracing.close() == []
        lines = file.read_text(encoding="utf-8").splitlines()
    return [span for line in lines for span in spans_of(read_otlp_json(line))], telemetry.find


@given(st.lists(batches(), max_size=4).map(lambda parts: [*chain.from_iterable(parts)]))
def test_batches_and_single_events_give_the_same_spans(events: list[Event]) -> None:
    """Order, ids, names, values and types are the same."""
    one_by_one = recorded_spans(events, together=False)
    jobs = [e for e in events if isinstance(e, JobEnded) and e.stage in ("pairs", "tiles")]
    assert len(one_by_one[0]) > len(jobs)
    assert recorded_spans(events, together=True) == one_by_one


def pairs(count: int, **more: Any) -> list[JobEnded]:
    return [
        JobEnded(
            stage="pairs", index=k, done=k, total=count, outcome="measured", pid=7, submitted_ns=k,
            started_ns=k, ended_ns=k + 1, attributes={"tile_i": k, "gain": k / 7}, **more,
        )
        for k in range(1, count + 1)
    ]  # fmt: skip


def test_a_collector_with_all_spans_is_sent_nothing(tmp_path: Path) -> None:
    """Neither batches nor single spans are sent, nor an empty message."""
    with http_receiver() as (url, received):
        tracing = Tracing(tmp_path / "trace.jsonl", url, skip=range(1, 13))
        fan_out = FanOut([Telemetry(tracing.tracer)])
        fan_out.dispatch(RunStarted(run_id="r", time_ns=1))
        fan_out.dispatch(*pairs(10))
        fan_out.dispatch(*pairs(1))
        assert tracing.close(timeout=60) == []
    assert received.paths == []


def test_delivered_spans_are_left_out_of_a_table(tmp_path: Path) -> None:
    """After a crash some spans of a batch may have been delivered."""
    with http_receiver() as (url, received):
        file = tmp_path / "trace.jsonl"
        # Number 1 is the phase, which is still open.
        tracing = Tracing(file, url, skip=[1, 2, 3, 5, 11])
        delivered: list[int] = []
        tracing.on_delivered = delivered.extend
        fan_out = FanOut([Telemetry(tracing.tracer)])
        fan_out.dispatch(RunStarted(run_id="r", time_ns=1))
        fan_out.dispatch(*pairs(10))
        assert tracing.close(timeout=60) == []
        sent = received.spans
    assert {span.name for span in sent} == {PAIR}
    assert [span.start_time_unix_nano for span in sent] == [3, 5, 6, 7, 8, 9]
    assert sorted(delivered) == [4, 6, 7, 8, 9, 10]
    lines = file.read_text(encoding="utf-8").splitlines()
    assert sum(len(spans_of(read_otlp_json(line))) for line in lines) == 10
