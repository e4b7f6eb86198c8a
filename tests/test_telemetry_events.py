"""Spans and events of a trace, from events of a run made by hand: times, outcomes, values."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opentelemetry.trace import Span, StatusCode

from tests.helpers.recorded_traces import (
    BOOM,
    HEARTBEAT,
    PAIR_ENDED,
    RUN_STARTED,
    SECOND,
    START,
    Memory,
    check_all,
    parent_id,
    phase_of,
)
from zemosaic.observe.attributes import MAX_TEXT
from zemosaic.observe.run_recorder import PHASE, Telemetry
from zemosaic.runtime.events import (
    JobError,
    JobRunning,
    RunEnded,
    SlowJob,
    StageEnded,
    StageStarted,
    WorkerStarted,
)
from zemosaic.runtime.observers import FanOut


def test_a_pair_span_has_the_times_of_its_worker() -> None:
    """The span excludes the time in the queue, which is an attribute."""
    span = phase_of(PAIR_ENDED).one(f"{PHASE}.pair")
    assert (span.start_time, span.end_time) == (START + 3 * SECOND, START + 4 * SECOND)
    assert span.attributes["zemosaic.pair.queue_time"] == 2.0
    assert span.attributes["process.pid"] == 4711
    assert span.attributes["zemosaic.pair.stage.load"] == 0.25
    assert span.attributes["zemosaic.pair.name_j"] == "b [1].fits"


def test_clocks_that_disagree_make_no_negative_queue_time() -> None:
    """By the clock of another machine a job may start before its submission."""
    early = replace(PAIR_ENDED, submitted_ns=PAIR_ENDED.started_ns + SECOND)
    span = phase_of(early).one(f"{PHASE}.pair")
    assert span.attributes["zemosaic.pair.queue_time"] == 0.0


def test_jobs_of_other_machines_have_the_name_and_the_offset_of_the_clock() -> None:
    """An offset of 0 is left out; without a name it is the machine of the run."""
    started = WorkerStarted(pid=1, started_ns=START - 1, ready_ns=START + SECOND, host="far")
    memory = phase_of(started, replace(PAIR_ENDED, host="far", clock_offset=-0.25))
    far, start = memory.one(f"{PHASE}.pair"), memory.one(f"{PHASE}.worker_start")
    assert far.attributes["zemosaic.host.clock_offset"] == -0.25
    assert far.attributes["host.name"] == start.attributes["host.name"] == "far"
    assert (start.start_time, start.end_time) == (START, START + SECOND)  # not before the phase
    here = phase_of(PAIR_ENDED).one(f"{PHASE}.pair")
    assert here.attributes["host.name"] == platform.node()
    assert "zemosaic.host.clock_offset" not in here.attributes


def test_the_phase_has_the_times_of_its_events() -> None:
    """The spans of phase and stages have the times of the events, not of their arrival."""
    memory = phase_of(
        StageStarted(stage="prepare", time_ns=START + 5),
        StageStarted(stage="tiles", time_ns=START + 6, total=2),
        StageEnded(stage="tiles", time_ns=START + 7),
        StageEnded(stage="prepare", time_ns=START + 8, attributes={"pairs.candidates": 3}),
    )
    phase, prepare = memory.one(PHASE), memory.one(f"{PHASE}.prepare")
    assert (phase.start_time, phase.end_time) == (START, START + 60 * SECOND)
    assert (prepare.start_time, prepare.end_time) == (START + 5, START + 8)
    assert phase.attributes["zemosaic.pairs.candidates"] == 3


def test_a_rejected_pair_is_no_error() -> None:
    """An overlap without signal is a result: status unset, with a reason, counted apart."""
    attributes = {**PAIR_ENDED.attributes, "reason": "no common cells"}
    memory = phase_of(replace(PAIR_ENDED, outcome="rejected", attributes=attributes))
    span = memory.one(f"{PHASE}.pair")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["zemosaic.pair.outcome"] == "rejected"
    assert span.attributes["zemosaic.pair.reason"] == "no common cells"
    assert "error.type" not in span.attributes
    assert span.events == ()
    assert memory.one(PHASE).attributes["zemosaic.pairs.rejected"] == 1
    assert memory.one(PHASE).attributes["zemosaic.pairs.failed"] == 0


@pytest.mark.parametrize("outcome", ["failed", "timeout", "crashed"])
def test_a_failed_pair_is_an_error_with_its_exception(outcome: str) -> None:
    """It has a status, error.type and an exception event at the end of the pair."""
    memory = phase_of(replace(PAIR_ENDED, outcome=outcome, error=BOOM))
    span = memory.one(f"{PHASE}.pair")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: boom"
    assert span.attributes["zemosaic.pair.outcome"] == outcome
    assert span.attributes["error.type"] == "ValueError"
    (event,) = span.events
    assert (event.name, event.timestamp) == ("exception", PAIR_ENDED.ended_ns)
    assert event.attributes == {
        "exception.type": "ValueError",
        "exception.message": "boom",
        "exception.stacktrace": BOOM.traceback,
    }
    phase = memory.one(PHASE)
    assert phase.attributes["zemosaic.pairs.failed"] == 1
    assert phase.attributes["zemosaic.pairs.done"] == 1
    # A failed pair does not fail the phase.
    assert phase.status.status_code is StatusCode.UNSET


def test_a_death_without_a_traceback_has_none() -> None:
    """A killed worker leaves no traceback and possibly no pid; none is invented."""
    error = JobError("SIGKILL", "the worker was killed by SIGKILL")
    memory = phase_of(replace(PAIR_ENDED, outcome="crashed", error=error, pid=0))
    span = memory.one(f"{PHASE}.pair")
    assert "exception.stacktrace" not in span.events[0].attributes
    assert "process.pid" not in span.attributes


def test_a_tile_that_fails_has_its_one_span() -> None:
    """A tile that fails at its header or at its pixels has one span, an error."""
    scan = replace(PAIR_ENDED, stage="scan", attributes={"name": "a.fits"}, step_times={})
    bad = replace(scan, index=8, attributes={"name": "b.fits"}, outcome="failed", error=BOOM)
    memory = phase_of(
        StageStarted(stage="prepare", time_ns=START),
        scan,
        bad,
        replace(scan, stage="tiles"),
        StageEnded(stage="prepare", time_ns=START + 9 * SECOND),
    )
    prepare = memory.one(f"{PHASE}.prepare")
    spans = memory.named(f"{PHASE}.tile")
    statuses = {s.attributes["zemosaic.tile.name"]: s.status.status_code for s in spans}
    assert statuses == {"a.fits": StatusCode.UNSET, "b.fits": StatusCode.ERROR}
    assert len(spans) == 2
    assert {parent_id(span) for span in spans} == {prepare.context.span_id}
    assert "zemosaic.pairs.done" not in memory.one(PHASE).attributes


def test_long_texts_are_cut() -> None:
    """Jaeger's store refuses a span with a text of 64 KB, so no text is that long."""
    long = JobError("ValueError", "x" * 100_000, "first\n" + "y" * 100_000 + "\nthe end")
    attributes = {**PAIR_ENDED.attributes, "reason": "z" * 100_000}
    ended = replace(PAIR_ENDED, outcome="failed", error=long, attributes=attributes)
    error = JobError("ValueError", "w" * 100_000)
    memory = Memory()
    fan_out = FanOut([Telemetry(memory.tracer)])
    end = RunEnded(state="failed", time_ns=START + 60 * SECOND, error=error)
    for event in (RUN_STARTED, ended, end):
        fan_out.dispatch(event)
    for span in memory.spans:
        texts = [span.status.description, *span.attributes.values()]
        texts += [value for event in span.events for value in event.attributes.values()]
        assert max(len(text) for text in texts if isinstance(text, str)) <= MAX_TEXT
    (event,) = memory.one(f"{PHASE}.pair").events
    # The end of a traceback matters most.
    assert event.attributes["exception.stacktrace"].endswith("the end")


def test_values_without_a_form_in_otlp_are_left_out() -> None:
    """NaN, an empty list and None are left out; undecodable file names are escaped."""
    attributes = {
        "name_i": "tile_\udcff.fits",
        "gain": math.nan,
        "rms": [1.0, math.inf],
        "offset": [],
        "reason": None,
        "cells": 12,
    }
    error = JobError("OSError", "cannot read tile_\udcff.fits", "tile_\udcff.fits")
    memory = phase_of(
        replace(PAIR_ENDED, attributes=attributes, outcome="failed", error=error),
        SlowJob(stage="pairs", time_ns=START, index=1, running_time=11.0, attributes=attributes),
        StageEnded(stage="solve", time_ns=START, attributes={"solve.rms": math.nan}),
    )
    check_all(memory)
    span = memory.one(f"{PHASE}.pair")
    span.status.description.encode()
    assert span.attributes["zemosaic.pair.name_i"] == r"tile_\udcff.fits"
    assert span.attributes["zemosaic.pair.cells"] == 12
    for name in ("gain", "rms", "offset", "reason"):
        assert f"zemosaic.pair.{name}" not in span.attributes
    assert "zemosaic.solve.rms" not in memory.one(PHASE).attributes


def test_numpy_values_follow_the_same_rules() -> None:
    """Subclasses of float and str are checked like float and str."""
    attributes = {
        "gain": np.float64(math.nan), "rms": np.float64(0.1), "ok": True,
        "name_i": np.str_("tile_\udcff.fits"),
    }  # fmt: skip
    stages = {"fit": np.float64(math.inf), "load": 0.5}
    memory = phase_of(replace(PAIR_ENDED, attributes=attributes, step_times=stages))
    recorded = memory.one(f"{PHASE}.pair").attributes
    names = ("rms", "ok", "name_i", "stage.load")
    values = [recorded[f"zemosaic.pair.{name}"] for name in names]
    assert values == [0.1, True, r"tile_\udcff.fits", 0.5]
    assert not {"zemosaic.pair.gain", "zemosaic.pair.stage.fit"} & recorded.keys()


def test_a_heartbeat_is_an_event_of_the_phase() -> None:
    """The event has the state of the loop, at the time of the heartbeat."""
    (beat,) = phase_of(HEARTBEAT).events("heartbeat")
    assert beat.timestamp == HEARTBEAT.time_ns
    assert dict(beat.attributes) == {
        "zemosaic.stage": "pairs",
        "zemosaic.pairs.done": 4,
        "zemosaic.pairs.total": 9,
        "zemosaic.pairs.pending": 5,
        "zemosaic.pairs.pending_indices": (3, 5, 6, 8, 9),
        "zemosaic.pairs.running_indices": (3, 5),
        "zemosaic.pairs.running_time": (12.5, 10.0),
        "zemosaic.pairs.last_completed_index": 7,
        "zemosaic.idle_time": 10.0,
    }


def test_a_heartbeat_without_running_jobs_has_no_empty_list() -> None:
    """An empty sequence has no type in OTLP, so it is left out."""
    silent = replace(HEARTBEAT, running_indices=[], running_time=[], running_attributes=[])
    memory = phase_of(silent)
    (beat,) = memory.events("heartbeat")
    check_all(memory)
    assert "zemosaic.pairs.running_indices" not in beat.attributes
    assert beat.attributes["zemosaic.pairs.pending_indices"] == (3, 5, 6, 8, 9)


def test_a_slow_pair_is_an_event_of_the_phase() -> None:
    """The event has the pair, its files and its running time."""
    slow = SlowJob(
        stage="pairs",
        time_ns=START + 15 * SECOND,
        index=3,
        running_time=12.5,
        attributes={"tile_i": 0, "tile_j": 1, "name_i": "a.fits", "name_j": "b.fits"},
    )
    (event,) = phase_of(slow).events("slow_pair")
    assert event.timestamp == slow.time_ns
    assert dict(event.attributes) == {
        "zemosaic.stage": "pairs",
        "zemosaic.pair.index": 3,
        "zemosaic.pair.running_time": 12.5,
        "zemosaic.pair.tile_i": 0,
        "zemosaic.pair.tile_j": 1,
        "zemosaic.pair.name_i": "a.fits",
        "zemosaic.pair.name_j": "b.fits",
    }


def test_the_link_opens_on_errors_or_the_slowest_pair() -> None:
    """The search text is the slowest pair, or the errors if there are any."""
    memory = Memory()
    telemetry = Telemetry(memory.tracer)
    telemetry.run_started(RUN_STARTED)
    assert telemetry.find == ""
    for index, seconds in ((1, 1), (2, 3), (3, 2)):
        ended = PAIR_ENDED.started_ns + seconds * SECOND
        telemetry.job_ended(replace(PAIR_ENDED, index=index, ended_ns=ended))
    telemetry.heartbeat(HEARTBEAT)
    slowest = memory.pairs()[2].context.span_id
    assert telemetry.find == f"{slowest:016x}"
    telemetry.job_ended(replace(PAIR_ENDED, index=4, outcome="timeout", error=BOOM))
    assert telemetry.find == "error.type"


RUNNING = JobRunning(
    stage="pairs",
    time_ns=START + 13 * SECOND,
    index=7,
    started_ns=START + 3 * SECOND,
    running_time=10.0,
    attributes=PAIR_ENDED.attributes,
    pid=4711,
    step="fit",
    stack="in strike",
)


class View:
    """Keeps what `Telemetry` shows."""

    def __init__(self) -> None:
        self.spans: Mapping[Span, Mapping[str, Any]] = {}
        self.hurried = 0

    def show(self, spans: Mapping[Span, Mapping[str, Any]]) -> None:
        self.spans = spans

    def hurry(self) -> None:
        self.hurried += 1

    def named(self) -> dict[str, Mapping[str, Any]]:
        """Return the shown attributes by the names of the spans."""
        return {span.name: attributes for span, attributes in self.spans.items()}


def test_a_running_pair_is_shown_and_its_end_keeps_its_id() -> None:
    """It is shown with files, step and stack, beside the phase and its stage; nothing is left."""
    memory, view = Memory(), View()
    telemetry = Telemetry(memory.tracer, view)
    running = replace(RUNNING, host="far")
    for event in (RUN_STARTED, StageStarted(stage="pairs", time_ns=START), running):
        telemetry.handle_batch([event])
    shown = view.named()
    assert set(shown) == {PHASE, f"{PHASE}.pairs", f"{PHASE}.pair"}
    assert view.hurried == 1
    pair, phase = shown[f"{PHASE}.pair"], shown[PHASE]
    assert (pair["zemosaic.pair.name_i"], pair["host.name"]) == ("a.fits", "far")
    assert pair["zemosaic.pair.running_stage"] == "fit"
    assert pair["code.stacktrace"] == phase["code.stacktrace"] == "in strike"
    assert phase["zemosaic.oldest.index"] == 7
    assert phase["zemosaic.oldest.files"] == ["a.fits", "b [1].fits"]
    (open_pair,) = [span for span in view.spans if span.name == f"{PHASE}.pair"]
    telemetry.heartbeat(
        replace(HEARTBEAT, running_indices=[7], running_time=[17.0], stack="in strike again")
    )
    assert view.named()[PHASE]["code.stacktrace"] == "in strike again"
    assert view.named()[PHASE]["zemosaic.oldest.running_time"] == 17.0

    telemetry.handle_batch([PAIR_ENDED, StageEnded(stage="pairs", time_ns=START + 30 * SECOND)])
    ended = memory.one(f"{PHASE}.pair")
    assert ended.context == open_pair.get_span_context()
    assert ended.start_time == RUNNING.started_ns
    assert "code.stacktrace" not in ended.attributes
    assert view.named() == {PHASE: {}}
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 60 * SECOND))
    assert view.spans == {}
    assert "zemosaic.oldest.index" not in memory.one(PHASE).attributes


def test_a_marker_stands_for_a_running_pair() -> None:
    """With markers a running pair has children with its files and its stack."""
    memory = Memory()
    telemetry = Telemetry(memory.tracer, markers=True)
    later = replace(RUNNING, time_ns=START + 23 * SECOND, running_time=20.0)
    for event in (RUN_STARTED, RUNNING, later, PAIR_ENDED):
        telemetry.handle_batch([event])
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 60 * SECOND))
    markers = memory.named(f"{PHASE}.running")
    assert [m.attributes["zemosaic.pair.running_time"] for m in markers] == [10.0, 20.0]
    for marker in markers:
        assert parent_id(marker) == memory.one(f"{PHASE}.pair").context.span_id
        assert marker.attributes["zemosaic.pair.name_j"] == "b [1].fits"
        assert marker.attributes["code.stacktrace"] == "in strike"


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_a_run_that_ends_while_a_pair_runs_keeps_it(state: str) -> None:
    """The running pair is an error, and the phase says which pair ran last."""
    memory = Memory()
    telemetry = Telemetry(memory.tracer)
    telemetry.handle_batch([RUN_STARTED, RUNNING])
    error = JobError("KeyboardInterrupt", "")
    telemetry.run_ended(RunEnded(state=state, time_ns=START + 60 * SECOND, error=error))
    assert memory.one(f"{PHASE}.pair").attributes["error.type"] == "KeyboardInterrupt"
    assert memory.one(f"{PHASE}.pair").attributes["zemosaic.pair.name_i"] == "a.fits"
    assert memory.one(PHASE).attributes["zemosaic.oldest.index"] == 7


def test_a_resumed_run_is_linked_to_the_run_before() -> None:
    """The phase has a link to the earlier phase, and its run's id."""
    memory = Memory()
    telemetry = Telemetry(memory.tracer, resumed_from={"run": "r0", "trace": 5, "span": 6})
    telemetry.run_started(RUN_STARTED)
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 60 * SECOND))
    phase = memory.one(PHASE)
    assert phase.attributes["zemosaic.run.resumed_from"] == "r0"
    (link,) = phase.links
    assert (link.context.trace_id, link.context.span_id) == (5, 6)


def test_a_stage_without_jobs_is_shown_with_its_stack() -> None:
    """The open span of a solver that hangs has its stack until it ends."""
    memory, view = Memory(), View()
    telemetry = Telemetry(memory.tracer, view)
    silent = replace(
        HEARTBEAT, stage="solve", total=0, done=0, pending=0, pending_indices=[],
        running_indices=[], running_time=[], running_attributes=[], stack="in iterate",
    )  # fmt: skip
    for event in (RUN_STARTED, StageStarted(stage="solve", time_ns=START), silent):
        telemetry.handle_batch([event])
    assert view.named()[f"{PHASE}.solve"] == {"code.stacktrace": "in iterate"}
    telemetry.stage_ended(StageEnded(stage="solve", time_ns=START + SECOND))
    (stage,) = memory.spans
    assert "code.stacktrace" not in (stage.attributes or {})
