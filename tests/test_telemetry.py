"""The trace of a run: which spans and events there are, and what they say."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from opentelemetry.util._once import Once

from tests.helpers.fakes import Gate, Recorder
from zemosaic import Settings, calibrate
from zemosaic.errors import NoSolution
from zemosaic.observe.attributes import LONGEST
from zemosaic.observe.telemetry import Telemetry
from zemosaic.photometry.pairfit.measure import Rejected
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.pipeline.records import summarize_pair
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.runtime.events import (
    FanOut,
    Heartbeat,
    JobEnded,
    JobError,
    Note,
    Observer,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.scheduler import Clock, Job, run
from zemosaic.runtime.thread_pool import ThreadPool

PHASE = "phase5_intertile"
SCENE = Scene(tiles=6, shape=(96, 128), overlap=0.35)
SETTINGS = Settings(workers=2)
# Windows tells the time in steps of up to a 64th of a second.
CLOCK_STEP_NS = 16_000_000 if sys.platform == "win32" else 0

PAIR_TYPES: dict[str, type] = {
    "zemosaic.pair.index": int,
    "zemosaic.pair.tile_i": int,
    "zemosaic.pair.tile_j": int,
    "zemosaic.pair.name_i": str,
    "zemosaic.pair.name_j": str,
    "zemosaic.pair.cells": int,
    "zemosaic.pair.outcome": str,
    "zemosaic.pair.gain": float,
    "zemosaic.pair.offset": float,
    "zemosaic.pair.rms": float,
    "zemosaic.pair.queue_time": float,
    "zemosaic.pair.stage.load": float,
    "zemosaic.pair.stage.fit": float,
    "process.pid": int,
    "host.name": str,
}
PHASE_TYPES: dict[str, type] = {
    "zemosaic.run.id": str,
    "zemosaic.run.state": str,
    "zemosaic.tiles.total": int,
    "zemosaic.pairs.candidates": int,
    "zemosaic.pairs.total": int,
    "zemosaic.pairs.done": int,
    "zemosaic.pairs.failed": int,
    "zemosaic.pairs.rejected": int,
    "zemosaic.pool.kind": str,
    "zemosaic.pool.workers": int,
    "zemosaic.solve.components": int,
    "zemosaic.solve.rms": float,
}


class Memory:
    """A tracer provider of the test's own, and what it recorded."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def pairs(self) -> dict[int, ReadableSpan]:
        """The pair spans by index, each of which comes once."""
        spans = {span.attributes["zemosaic.pair.index"]: span for span in self.pair_list()}
        assert len(spans) == len(self.pair_list())
        return spans

    def pair_list(self) -> list[ReadableSpan]:
        return self.named(f"{PHASE}.pair")

    def events(self, name: str) -> list[Any]:
        return [event for event in self.one(PHASE).events if event.name == f"{PHASE}.{name}"]


@pytest.fixture(autouse=True, scope="module")
def clean_environment() -> Iterator[None]:
    """No setting of whoever runs the tests changes what is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No test leaves a span current, which would be the parent of the next one's."""
    yield
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process as it starts: nobody has set a tracer provider. Put back afterwards."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def host(no_provider: None) -> Memory:
    """A host application that has set a provider of its own."""
    memory = Memory()
    trace.set_tracer_provider(memory.provider)
    return memory


@pytest.fixture(scope="module")
def simulated() -> list[SimulatedTile]:
    return list(simulate(SCENE))


@pytest.fixture(scope="module")
def arrays(simulated: list[SimulatedTile]) -> list[tuple[Any, ...]]:
    return [(tile.data, tile.wcs) for tile in simulated]


@pytest.fixture(scope="module")
def files(simulated: list[SimulatedTile], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("a folder [of tiles]")
    for tile in simulated:
        fits.PrimaryHDU(tile.data, tile.wcs.to_header()).writeto(folder / tile.name)
    return [folder / tile.name for tile in simulated]


@dataclass(frozen=True)
class Traced:
    """A run on files, and its trace."""

    pool: str
    memory: Memory
    solution: PhaseSolution
    before_ns: int
    after_ns: int

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.memory.spans


@pytest.fixture(scope="module", params=["serial", "threads", "processes"])
def traced(
    request: pytest.FixtureRequest, files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Traced:
    memory = Memory()
    before = time.time_ns()
    solution = calibrate(
        files,
        SETTINGS,
        request.param,
        [Telemetry(memory.tracer)],
        apply_to=tmp_path_factory.mktemp("corrected"),
    )
    return Traced(request.param, memory, solution, before, time.time_ns())


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Every value is one that all OTLP readers take: typed, finite, not empty, valid text."""
    for key, value in attributes.items():
        items = value if isinstance(value, tuple) else (value,)
        assert items, f"{key} is an empty sequence"
        assert len({type(item) for item in items}) == 1, f"{key} mixes types"
        for item in items:
            assert type(item) in (str, bool, int, float), f"{key} is a {type(item)}"
            if isinstance(item, float):
                assert math.isfinite(item), f"{key} is {item}"
            elif isinstance(item, str):
                item.encode()
            else:
                assert -(2**63) <= item < 2**63


def check_all(memory: Memory) -> None:
    """`check_attributes` for all spans and events of a trace."""
    for span in memory.spans:
        check_attributes(span.attributes)
        for event in span.events:
            check_attributes(event.attributes)


def types_of(attributes: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in attributes.items()}


# Events made by hand, for exact values.

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
RUN_STARTED = RunStarted(run_id="r", time_ns=START)
PAIR_ENDED = JobEnded(
    stage="pairs",
    index=7,
    done=1,
    total=9,
    outcome="measured",
    attributes={"tile_i": 2, "tile_j": 5, "name_i": "a.fits", "name_j": "b [1].fits"},
    submitted_ns=START + 1 * SECOND,
    started_ns=START + 3 * SECOND,
    ended_ns=START + 4 * SECOND,
    pid=4711,
    step_times={"load": 0.25, "fit": 0.5},
)
HEARTBEAT = Heartbeat(
    stage="pairs",
    time_ns=START + 20 * SECOND,
    done=4,
    total=9,
    pending=5,
    pending_indices=[3, 5, 6, 8, 9],
    running_indices=[3, 5],
    running_time=[12.5, 10.0],
    running_attributes=[{}, {}],
    last_completed_index=7,
    idle_time=10.0,
)
BOOM = JobError("ValueError", "boom", 'Traceback (most recent call last):\n  File "x"\n')


def phase_of(*events: Any, memory: Memory | None = None) -> Memory:
    """The trace of a run in which these events happened."""
    memory = memory or Memory()
    fan_out = FanOut([Telemetry(memory.tracer)])
    for event in (RUN_STARTED, *events, RunEnded(state="finished", time_ns=START + 60 * SECOND)):
        fan_out.dispatch(event)
    return memory


# The tree of spans.


def test_a_run_is_one_tree_of_spans(traced: Traced) -> None:
    """One phase; one pair span per pair below it; each stage once; one span per tile."""
    pairs = len(traced.solution.records)
    assert pairs >= 5
    assert Counter(span.name for span in traced.spans) == {
        PHASE: 1,
        f"{PHASE}.prepare": 1,
        f"{PHASE}.overlap": 1,
        f"{PHASE}.solve": 1,
        f"{PHASE}.apply": 1,
        f"{PHASE}.tile": SCENE.tiles,
        f"{PHASE}.pair": pairs,
    }
    phase, prepare = traced.memory.one(PHASE), traced.memory.one(f"{PHASE}.prepare")
    assert phase.parent is None
    for span in traced.spans:
        assert span.context.trace_id == phase.context.trace_id
        if span.name == f"{PHASE}.tile":
            assert parent_id(span) == prepare.context.span_id
        elif span is not phase:
            assert parent_id(span) == phase.context.span_id
    ids = {span.context.span_id for span in traced.spans}
    assert len(ids) == len(traced.spans)


def test_without_apply_there_is_no_span_of_it(memory: Memory, arrays: list[Any]) -> None:
    """Tiles given as arrays make the same tree, and only stages that ran have spans."""
    solution = calibrate(arrays, SETTINGS, "serial", [Telemetry(memory.tracer)])
    names = Counter(span.name.removeprefix(PHASE) for span in memory.spans)
    pairs = len(solution.records)
    one_each = {"": 1, ".prepare": 1, ".overlap": 1, ".solve": 1}
    assert names == {**one_each, ".tile": SCENE.tiles, ".pair": pairs}
    names_i = {span.attributes["zemosaic.pair.name_i"] for span in memory.pair_list()}
    assert names_i <= {f"tile {k}" for k in range(SCENE.tiles)}


def test_spans_lie_within_their_parents(traced: Traced) -> None:
    """No span starts before its parent or ends after it, whatever clock its worker has."""
    spans = {span.context.span_id: span for span in traced.spans}
    for span in traced.spans:
        assert span.start_time <= span.end_time
        if (parent := spans.get(parent_id(span))) is not None:
            assert parent.start_time <= span.start_time
            assert span.end_time <= parent.end_time + CLOCK_STEP_NS
    phase = traced.memory.one(PHASE)
    assert traced.before_ns <= phase.start_time <= phase.end_time <= traced.after_ns


def test_pairs_run_after_the_graph_is_known_and_before_it_is_solved(traced: Traced) -> None:
    """The order of the stages can be read off the trace."""
    starts = [span.start_time for span in traced.memory.pair_list()]
    ends = [span.end_time for span in traced.memory.pair_list()]
    assert traced.memory.one(f"{PHASE}.prepare").end_time <= min(starts)
    assert traced.memory.one(f"{PHASE}.overlap").end_time <= min(starts)
    assert max(ends) <= traced.memory.one(f"{PHASE}.solve").start_time + CLOCK_STEP_NS


# What the spans say.


def test_pairs_say_all_that_is_promised_by_name_and_type(traced: Traced) -> None:
    """A measured pair has exactly the attributes of DESIGN.md's table, each of its type."""
    for span in traced.memory.pair_list():
        assert span.attributes["zemosaic.pair.outcome"] == "measured"
        assert types_of(span.attributes) == PAIR_TYPES


def test_pairs_say_what_the_solution_holds(traced: Traced) -> None:
    """Indices count pairs from 1 and tiles from 0; names are base names; values are results."""
    spans = traced.memory.pairs()
    assert sorted(spans) == list(range(1, len(traced.solution.records) + 1))
    for record in traced.solution.records:
        said = spans[record.index].attributes
        (line,) = record.measurements
        assert (said["zemosaic.pair.tile_i"], said["zemosaic.pair.tile_j"]) == (record.i, record.j)
        assert said["zemosaic.pair.name_i"] == f"tile_{record.i:04d}.fits"
        assert said["zemosaic.pair.name_j"] == f"tile_{record.j:04d}.fits"
        for name in ("gain", "offset", "rms", "cells"):
            assert said[f"zemosaic.pair.{name}"] == getattr(line, name)


def test_parts_of_a_pair_fill_its_time(traced: Traced) -> None:
    """The seconds spent in the parts add up to no more than the span."""
    for span in traced.memory.pair_list():
        parts = [span.attributes[f"zemosaic.pair.stage.{part}"] for part in ("load", "fit")]
        assert min(parts) > 0
        assert sum(parts) <= (span.end_time - span.start_time) / 1e9


def test_the_pid_is_that_of_the_worker(traced: Traced) -> None:
    """With processes the spans name the workers' processes, otherwise ours."""
    pids = {span.attributes["process.pid"] for span in traced.memory.pair_list()}
    if traced.pool == "processes":
        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2
    else:
        assert pids == {os.getpid()}


def test_tiles_say_which_they_are(traced: Traced) -> None:
    """One span for each file, by its base name, with the time of its parts."""
    spans = traced.memory.named(f"{PHASE}.tile")
    names = [span.attributes["zemosaic.tile.name"] for span in spans]
    assert sorted(names) == [f"tile_{k:04d}.fits" for k in range(SCENE.tiles)]
    assert sorted(s.attributes["zemosaic.tile.index"] for s in spans) == list(range(6))
    for span in spans:
        assert span.attributes["zemosaic.tile.outcome"] == "measured"
        assert span.attributes["zemosaic.tile.stage.preview"] > 0


def test_the_phase_says_all_that_is_promised(traced: Traced) -> None:
    """Identity, state, totals, pool and result are on the phase span, each of its type."""
    said = traced.memory.one(PHASE).attributes
    assert types_of(said) == PHASE_TYPES
    assert len(said["zemosaic.run.id"]) == 32
    pairs = len(traced.solution.records)
    assert {key.removeprefix("zemosaic."): said[key] for key in said} | {"run.id": ""} == {
        "run.id": "",
        "run.state": "finished",
        "tiles.total": SCENE.tiles,
        "pairs.candidates": traced.solution.candidates,
        "pairs.total": pairs,
        "pairs.done": pairs,
        "pairs.failed": 0,
        "pairs.rejected": 0,
        "pool.kind": traced.pool,
        "pool.workers": 1 if traced.pool == "serial" else 2,
        "solve.components": 1,
        "solve.rms": traced.solution.rms,
    }


def test_a_good_run_has_no_error_anywhere(traced: Traced) -> None:
    """Where nothing failed every status is unset, and no event says otherwise."""
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}
    assert [event.name for span in traced.spans for event in span.events] == []


def test_attributes_are_valid_otlp(traced: Traced) -> None:
    """Only texts, truths, integers and finite numbers, or sequences of one of these."""
    check_all(traced.memory)


def test_no_folder_name_leaves_the_machine(traced: Traced) -> None:
    """Traces go to other machines; the names of folders are nobody's business there."""
    for span in traced.spans:
        for key, value in span.attributes.items():
            assert "a folder [of tiles]" not in str(value), key
            assert "corrected" not in str(value), key


def test_colours_are_lists(memory: Memory) -> None:
    """With three channels gain, offset and rms have three values each."""
    tiles = simulate(replace(SCENE, tiles=2, rgb=True))
    solution = calibrate(
        [(t.data, t.wcs) for t in tiles], SETTINGS, "serial", [Telemetry(memory.tracer)]
    )
    said = memory.one(f"{PHASE}.pair").attributes
    for name in ("gain", "offset", "rms"):
        values = tuple(getattr(line, name) for line in solution.records[0].measurements)
        assert said[f"zemosaic.pair.{name}"] == values
        assert len(values) == 3
    check_all(memory)


# Times and outcomes, from events made by hand.


def test_a_pair_span_has_the_times_of_its_worker() -> None:
    """The span is the work alone; the time in the queue is an attribute beside it."""
    span = phase_of(PAIR_ENDED).one(f"{PHASE}.pair")
    assert (span.start_time, span.end_time) == (START + 3 * SECOND, START + 4 * SECOND)
    assert span.attributes["zemosaic.pair.queue_time"] == 2.0
    assert span.attributes["process.pid"] == 4711
    assert span.attributes["zemosaic.pair.stage.load"] == 0.25
    assert span.attributes["zemosaic.pair.name_j"] == "b [1].fits"


def test_clocks_that_disagree_make_no_negative_queue_time() -> None:
    """A worker on another machine may start a job before ours submits it."""
    early = replace(PAIR_ENDED, submitted_ns=PAIR_ENDED.started_ns + SECOND)
    span = phase_of(early).one(f"{PHASE}.pair")
    assert span.attributes["zemosaic.pair.queue_time"] == 0.0


def test_the_phase_has_the_times_of_its_events() -> None:
    """Spans of stages and phase start and end when the events say, not when they are told."""
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
    """To find no signal is a result: status unset, the reason given, counted apart."""
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
    """Status, error.type and an exception event, at the moment the pair ended."""
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
    # One pair of many is no failure of the phase.
    assert phase.status.status_code is StatusCode.UNSET


def test_a_death_without_a_traceback_has_none() -> None:
    """A killed worker leaves no stack and perhaps no pid; neither is made up."""
    error = JobError("SIGKILL", "the worker was killed by SIGKILL")
    memory = phase_of(replace(PAIR_ENDED, outcome="crashed", error=error, pid=0))
    span = memory.one(f"{PHASE}.pair")
    assert "exception.stacktrace" not in span.events[0].attributes
    assert "process.pid" not in span.attributes


def test_a_tile_that_fails_has_its_one_span() -> None:
    """A tile fails at its header or at its pixels; either way it has one span, an error."""
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
    found = {s.attributes["zemosaic.tile.name"]: s.status.status_code for s in spans}
    assert found == {"a.fits": StatusCode.UNSET, "b.fits": StatusCode.ERROR}
    assert len(spans) == 2
    assert {parent_id(span) for span in spans} == {prepare.context.span_id}
    assert "zemosaic.pairs.done" not in memory.one(PHASE).attributes


def test_texts_are_cut_to_what_a_backend_takes() -> None:
    """Jaeger's store refuses a span with a text of 64 KB; one endless message loses none."""
    long = JobError("ValueError", "x" * 100_000, "first\n" + "y" * 100_000 + "\nthe end")
    attributes = {**PAIR_ENDED.attributes, "reason": "z" * 100_000}
    ended = replace(PAIR_ENDED, outcome="failed", error=long, attributes=attributes)
    error = ValueError("w" * 100_000)
    memory = Memory()
    fan_out = FanOut([Telemetry(memory.tracer)])
    end = RunEnded(state="failed", time_ns=START + 60 * SECOND, error=error)
    for event in (RUN_STARTED, ended, end):
        fan_out.dispatch(event)
    for span in memory.spans:
        texts = [span.status.description, *span.attributes.values()]
        texts += [value for event in span.events for value in event.attributes.values()]
        assert max(len(text) for text in texts if isinstance(text, str)) <= LONGEST
    (event,) = memory.one(f"{PHASE}.pair").events
    # What a traceback says last matters most.
    assert event.attributes["exception.stacktrace"].endswith("the end")


def test_values_that_otlp_cannot_carry_are_left_out() -> None:
    """NaN, an empty list and None say nothing; a file name that is no Unicode is escaped."""
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


def test_values_of_numpy_are_held_to_the_same_rules() -> None:
    """They are no plain float or str, and no less odd for that."""
    attributes = {
        "gain": np.float64(math.nan), "rms": np.float64(0.1), "ok": True,
        "name_i": np.str_("tile_\udcff.fits"),
    }  # fmt: skip
    stages = {"fit": np.float64(math.inf), "load": 0.5}
    memory = phase_of(replace(PAIR_ENDED, attributes=attributes, step_times=stages))
    found = memory.one(f"{PHASE}.pair").attributes
    names = ("rms", "ok", "name_i", "stage.load")
    told = [found[f"zemosaic.pair.{name}"] for name in names]
    assert told == [0.1, True, r"tile_\udcff.fits", 0.5]
    assert not {"zemosaic.pair.gain", "zemosaic.pair.stage.fit"} & found.keys()


# Failures for real.


class PatientClock(Clock):
    """Fake time that passes only while `may_pass`; whatever really runs is waited for."""

    def __init__(self, may_pass: Callable[[Collection[Future[Any]]], bool]) -> None:
        self._may_pass = may_pass
        self._epoch = time.time_ns()
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self._epoch + int(self.now * SECOND)

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        while not (done := wait(futures, 0.001).done):
            if self._may_pass(futures):
                self.now += timeout
                break
        return done


def only_stuck_ones_are_left(futures: Collection[Future[Any]]) -> bool:
    """For runs with one job that hangs: it runs, and all others have ended."""
    return len(futures) == 1 and all(future.running() for future in futures)


def traced_jobs(
    functions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], pool: Any, timeout: float
) -> Memory:
    """The trace of some jobs, run as pairs on a pool; one of them may hang."""
    memory, clock = Memory(), PatientClock(only_stuck_ones_are_left)
    fan_out = FanOut([Telemetry(memory.tracer)])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    jobs = [Job(k, function, args) for k, (function, args) in enumerate(functions, 1)]
    run(
        jobs,
        len(jobs),
        pool,
        fan_out,
        stage="pairs",
        timeout=timeout,
        heartbeat=1000.0,
        clock=clock,
        summarize=lambda value: (
            summarize_pair(value) if isinstance(value, tuple) else ("measured", {})
        ),
    )
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    return memory


def check_failures(memory: Memory, expected: Mapping[int, tuple[str, str | None]]) -> None:
    """Each pair has its outcome and error type; the status and the counts follow from them."""
    pairs = memory.pairs()
    found = {
        index: (span.attributes["zemosaic.pair.outcome"], span.attributes.get("error.type"))
        for index, span in pairs.items()
    }
    assert found == expected
    for index, (_, error) in expected.items():
        wanted = StatusCode.ERROR if error else StatusCode.UNSET
        assert pairs[index].status.status_code is wanted
        assert [e.name for e in pairs[index].events] == (["exception"] if error else [])
    said = memory.one(PHASE).attributes
    assert said["zemosaic.pairs.done"] == len(expected)
    assert said["zemosaic.pairs.failed"] == sum(error is not None for _, error in expected.values())
    check_all(memory)


REJECTED = (tuple, ([Rejected("no signal in common")],))


def test_workers_that_raise_die_and_hang_have_their_spans() -> None:
    """Processes: an exception, an exit, a signal and a hang are four errors; the rest is not."""
    deadly, name = (os._exit, (3,)), "WorkerExit"
    if sys.platform != "win32":
        deadly, name = (signal.raise_signal, (signal.SIGKILL,)), "SIGKILL"
    pool = ProcessPool(2)
    try:
        memory = traced_jobs(
            [
                (time.sleep, (3600,)),
                (int, ("no number",)),
                (abs, (-1,)),
                (os._exit, (3,)),
                deadly,
                REJECTED,
                (abs, (-2,)),
            ],
            pool,
            timeout=30.0,
        )
    finally:
        pool.close()
    check_failures(
        memory,
        {
            1: ("timeout", "TimeoutError"),
            2: ("failed", "ValueError"),
            3: ("measured", None),
            4: ("crashed", "WorkerExit"),
            5: ("crashed", name),
            6: ("rejected", None),
            7: ("measured", None),
        },
    )
    pairs = memory.pairs()
    assert "no number" in pairs[2].events[0].attributes["exception.message"]
    assert "Traceback" in pairs[2].events[0].attributes["exception.stacktrace"]
    assert pairs[2].attributes["process.pid"] != os.getpid()
    assert pairs[6].attributes["zemosaic.pair.reason"] == "no signal in common"
    # The time of the one that hung is that in which it ran, by the loop's clock.
    assert 30.0 <= (pairs[1].end_time - pairs[1].start_time) / 1e9 <= 34.0
    assert memory.one(PHASE).attributes["zemosaic.pairs.rejected"] == 1


def test_threads_that_raise_and_hang_have_their_spans() -> None:
    """Threads: the same for what can happen to a thread."""
    gate, pool = Gate(), ThreadPool(2)
    try:
        memory = traced_jobs(
            [
                (gate.pass_through, ()),
                (int, ("no number",)),
                (sys.exit, (1,)),
                REJECTED,
                (abs, (1,)),
            ],
            pool,
            timeout=30.0,
        )
    finally:
        gate.open()
        pool.close()
    check_failures(
        memory,
        {
            1: ("timeout", "TimeoutError"),
            2: ("failed", "ValueError"),
            3: ("failed", "SystemExit"),
            4: ("rejected", None),
            5: ("measured", None),
        },
    )
    assert memory.pairs()[2].attributes["process.pid"] == os.getpid()


# Heartbeats.


def test_a_heartbeat_is_an_event_of_the_phase() -> None:
    """All that the loop knows of a silent pool is on the event, at the time it was known."""
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
    """An empty sequence has no type in OTLP, so it is left out; the rest stays."""
    silent = replace(HEARTBEAT, running_indices=[], running_time=[], running_attributes=[])
    memory = phase_of(silent)
    (beat,) = memory.events("heartbeat")
    check_all(memory)
    assert "zemosaic.pairs.running_indices" not in beat.attributes
    assert beat.attributes["zemosaic.pairs.pending_indices"] == (3, 5, 6, 8, 9)


def test_a_slow_pair_is_an_event_of_the_phase() -> None:
    """Which pair, of which files, running for how long."""
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


class Opener(Observer):
    """Opens a gate at the third heartbeat."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.beats = 0

    def heartbeat(self, event: Heartbeat) -> None:
        self.beats += 1
        if self.beats == 3:
            self._gate.open()


def stuck_run() -> Memory:
    """A hundred pairs on two threads: the first ends, the next two hang for 30 s."""
    memory, gate, pool = Memory(), Gate(), ThreadPool(2)
    entered = {2: threading.Event(), 3: threading.Event()}
    opener = Opener(gate)

    def stuck(index: int) -> None:
        entered[index].set()
        gate.pass_through()

    def first() -> None:
        entered[2].wait()  # so that the second one is the first to be seen running

    def both_hang(_: Collection[Future[Any]]) -> bool:
        return opener.beats < 3 and all(event.is_set() for event in entered.values())

    functions = {1: (first, ()), 2: (stuck, (2,)), 3: (stuck, (3,))}
    jobs = [
        Job(k, *functions.get(k, (abs, (k,))), {"name_i": f"{k}.fits", "name_j": "x.fits"})
        for k in range(1, 101)
    ]
    clock = PatientClock(both_hang)
    fan_out = FanOut([Telemetry(memory.tracer), opener])
    fan_out.dispatch(RunStarted(run_id="r", time_ns=clock.time_ns()))
    try:
        run(jobs, 100, pool, fan_out, stage="pairs", heartbeat=10.0, clock=clock)
    finally:
        gate.open()
        pool.close()
    fan_out.dispatch(RunEnded(state="finished", time_ns=clock.time_ns()))
    return memory


def test_a_silent_pool_beats_and_names_the_culprits() -> None:
    """While two of a hundred pairs hang there is a heartbeat each ten seconds that says so."""
    memory = stuck_run()
    beats = memory.events("heartbeat")
    assert [beat.attributes["zemosaic.idle_time"] for beat in beats] == [10.0, 20.0, 30.0]
    for beat in beats:
        said = beat.attributes
        assert said["zemosaic.pairs.done"] == 1
        assert said["zemosaic.pairs.total"] == 100
        assert said["zemosaic.pairs.pending"] == 99
        assert said["zemosaic.pairs.pending_indices"] == tuple(range(2, 66))
        assert said["zemosaic.pairs.running_indices"] == (2, 3)
        assert said["zemosaic.pairs.last_completed_index"] == 1
        for seconds in said["zemosaic.pairs.running_time"]:
            assert abs(seconds - said["zemosaic.idle_time"]) <= 2.0  # a tick
    assert len(memory.pairs()) == 100
    assert memory.one(PHASE).attributes["zemosaic.pairs.done"] == 100
    check_all(memory)


def test_slow_pairs_are_named_once_each() -> None:
    """Both that hang are reported once, by index and files, however long they hang."""
    memory = stuck_run()
    slow = memory.events("slow_pair")
    assert sorted(event.attributes["zemosaic.pair.index"] for event in slow) == [2, 3]
    for event in slow:
        index = event.attributes["zemosaic.pair.index"]
        assert event.attributes["zemosaic.pair.name_i"] == f"{index}.fits"
        assert event.attributes["zemosaic.pair.running_time"] >= 10.0


# Whose provider it is.


def test_the_hosts_provider_and_span_are_used_and_left_alone(
    host: Memory, arrays: list[Any]
) -> None:
    """By default the spans go to the host's provider, below the span that it is in."""
    with host.tracer.start_as_current_span("the host's") as span:
        calibrate(arrays, SETTINGS, "serial")
        assert trace.get_current_span() is span
    assert trace.get_tracer_provider() is host.provider
    phase, caller = host.one(PHASE), host.one("the host's")
    assert parent_id(phase) == caller.context.span_id
    assert {span.context.trace_id for span in host.spans} == {caller.context.trace_id}
    assert phase.instrumentation_scope.name == "zemosaic"
    # The provider was not shut down either.
    host.tracer.start_span("later").end()
    assert host.named("later")


def test_a_given_tracer_wins_over_the_hosts(host: Memory, memory: Memory) -> None:
    """A tracer that is passed takes the spans; the host's provider sees none."""
    phase_of(PAIR_ENDED, memory=memory)
    assert len(memory.spans) == 2
    assert host.spans == ()


class CountingTracer(trace.NoOpTracer):
    """The API's own tracer, counting what is asked of it."""

    def __init__(self) -> None:
        self.calls = 0

    def start_span(self, *args: Any, **options: Any) -> trace.Span:
        self.calls += 1
        return super().start_span(*args, **options)


def test_without_an_sdk_next_to_nothing_is_done() -> None:
    """One question whether anything is recorded; then no span is made for a thousand pairs."""
    tracer = CountingTracer()
    telemetry = Telemetry(tracer)
    fan_out = FanOut([telemetry])
    fan_out.dispatch(RUN_STARTED)
    fan_out.dispatch(StageStarted(stage="prepare", time_ns=START))
    fan_out.dispatch(StageEnded(stage="prepare", time_ns=START, attributes={"pairs.total": 3}))
    for index in range(1, 1001):
        fan_out.dispatch(replace(PAIR_ENDED, index=index, error=BOOM, outcome="failed"))
    fan_out.dispatch(HEARTBEAT)
    fan_out.dispatch(RunEnded(state="failed", time_ns=START, error=JobError.of(ValueError())))
    assert tracer.calls == 1
    assert telemetry.trace_id == ""


def same_bits(first: PhaseSolution, second: PhaseSolution) -> bool:
    names = ("gain", "offset", "gain_err", "offset_err", "component", "residual")
    return all(
        np.asarray(getattr(first, name)).tobytes() == np.asarray(getattr(second, name)).tobytes()
        for name in names
    )


def test_telemetry_changes_no_bit_of_the_result(
    no_provider: None, memory: Memory, arrays: list[Any]
) -> None:
    """Off, on, and with the API alone the results are the same, and no provider is set."""
    off = calibrate(arrays, SETTINGS, "threads", [])
    api_alone = calibrate(arrays, SETTINGS, "threads")
    on = calibrate(arrays, SETTINGS, "threads", [Telemetry(memory.tracer)])
    assert same_bits(off, api_alone)
    assert same_bits(off, on)
    assert memory.one(PHASE)
    assert trace._TRACER_PROVIDER is None


def test_a_sampler_that_says_no_is_obeyed() -> None:
    """A host that samples nothing gets nothing, and no trace id is shown for it."""
    memory = Memory(sampler=ALWAYS_OFF)
    telemetry = Telemetry(memory.tracer)
    fan_out = FanOut([telemetry])
    for event in (RUN_STARTED, PAIR_ENDED, RunEnded(state="finished", time_ns=START)):
        fan_out.dispatch(event)
    assert memory.spans == ()
    assert telemetry.trace_id == ""


def test_the_trace_id_is_that_of_the_spans(memory: Memory) -> None:
    """The id that the link is made of is the one that the backend has."""
    telemetry = Telemetry(memory.tracer)
    telemetry.run_started(RUN_STARTED)
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 1))
    assert int(telemetry.trace_id, 16) == memory.one(PHASE).context.trace_id
    assert len(telemetry.trace_id) == 32


# Runs that end early, and runs after one another.


def test_a_run_without_solution_ends_as_failed(memory: Memory, arrays: list[Any]) -> None:
    """The phase span says that it failed and why."""
    with pytest.raises(NoSolution):
        calibrate(arrays[:1], SETTINGS, "serial", [Telemetry(memory.tracer)])
    phase = memory.one(PHASE)
    assert phase.attributes["zemosaic.run.state"] == "failed"
    assert phase.attributes["error.type"] == "NoSolution"
    assert phase.status.status_code is StatusCode.ERROR
    assert "1 tile" in phase.status.description


class Interrupter(Observer):
    """Presses Ctrl-C at the second tile."""

    def job_ended(self, event: JobEnded) -> None:
        if event.stage == "tiles" and event.done == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_no_span_open(memory: Memory, arrays: list[Any]) -> None:
    """Ctrl-C ends the phase and the stage it was in; what ended before keeps its span."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(arrays, SETTINGS, "serial", [Telemetry(memory.tracer), Interrupter()])
    names = Counter(span.name.removeprefix(PHASE) for span in memory.spans)
    assert names == {"": 1, ".prepare": 1, ".tile": 2}
    assert memory.one(PHASE).attributes["zemosaic.run.state"] == "interrupted"
    for name in (PHASE, f"{PHASE}.prepare"):
        assert memory.one(name).status.status_code is StatusCode.ERROR
        assert memory.one(name).attributes["error.type"] == "KeyboardInterrupt"


def test_one_observer_serves_two_runs(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """A second run has a trace and counts of its own, also after a first that broke off."""
    fan_out = FanOut([Telemetry(memory.tracer)])
    failed = replace(PAIR_ENDED, outcome="failed", error=BOOM)
    fan_out.dispatch(RUN_STARTED)
    fan_out.dispatch(StageStarted(stage="prepare", time_ns=START))
    fan_out.dispatch(failed)
    fan_out.dispatch(RunEnded(state="failed", time_ns=START + 1, error=JobError.of(ValueError())))
    fan_out.dispatch(RUN_STARTED)
    fan_out.dispatch(PAIR_ENDED)
    fan_out.dispatch(RunEnded(state="failed", time_ns=START + 2, error=JobError.of(ValueError())))
    first, second = memory.named(PHASE)
    assert first.context.trace_id != second.context.trace_id
    assert first.attributes["zemosaic.pairs.failed"] == 1
    assert second.attributes["zemosaic.pairs.failed"] == 0
    assert len(memory.named(f"{PHASE}.prepare")) == 1
    assert caplog.records == []  # the SDK warns of a span that is ended twice


# Observers that break.


class Broken(Observer):
    """Raises at the first job that ends."""

    def job_ended(self, event: JobEnded) -> None:
        raise RuntimeError("broken")


class Wrecked(Broken):
    """Raises at every line, too, so also when it is told that another one was taken off."""

    def note(self, event: Note) -> None:
        raise RuntimeError("broken here too")


class BrokenTracer(trace.NoOpTracer):
    """An SDK that fails for every span but the first."""

    def __init__(self, memory: Memory) -> None:
        self._tracer = memory.tracer

    def start_span(self, name: str, *args: Any, **options: Any) -> trace.Span:
        if name != PHASE:
            raise RuntimeError("no more spans")
        return self._tracer.start_span(name, *args, **options)


@pytest.mark.parametrize("kind", ["observer", "telemetry"])
def test_an_observer_that_raises_is_taken_off_and_the_run_goes_on(
    kind: str, memory: Memory, arrays: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each is reported once, the others are told everything, the result keeps every bit."""
    recorder = Recorder()
    broken: list[Observer] = [Broken(), Broken()]
    if kind == "telemetry":
        broken = [Telemetry(BrokenTracer(memory)), Telemetry(BrokenTracer(memory))]
    undisturbed = calibrate(arrays, SETTINGS, "serial", [])
    with caplog.at_level(logging.ERROR):
        solution = calibrate(arrays, SETTINGS, "serial", [*broken, recorder])
    assert same_bits(solution, undisturbed)
    complaints = [note.message for note in recorder.of(Note) if "taken off" in note.message]
    assert len(complaints) == 2
    assert len([r for r in caplog.records if "was taken off" in r.getMessage()]) == 2
    pairs = [event for event in recorder.of(JobEnded) if event.stage == "pairs"]
    assert len(pairs) == len(solution.records)
    assert recorder.of(RunEnded)[0].state == "finished"


def test_observers_that_raise_at_everything_do_not_end_the_run() -> None:
    """Two that raise also at the news of each other are both taken off, each once."""
    recorder = Recorder()
    fan_out = FanOut([Wrecked(), Wrecked(), recorder])
    fan_out.dispatch(PAIR_ENDED)
    assert len([note for note in recorder.of(Note) if "taken off" in note.message]) == 2
    assert recorder.of(JobEnded) == [PAIR_ENDED]


def test_the_first_thing_to_look_at_is_what_was_silent_or_slow() -> None:
    """The link to the trace opens on the slowest pair, or on heartbeats where there were any."""
    memory = Memory()
    telemetry = Telemetry(memory.tracer)
    telemetry.run_started(RUN_STARTED)
    assert telemetry.find == ""
    for index, seconds in ((1, 1), (2, 3), (3, 2)):
        ended = PAIR_ENDED.started_ns + seconds * SECOND
        telemetry.job_ended(replace(PAIR_ENDED, index=index, ended_ns=ended))
    assert telemetry.find == "zemosaic.pair.index=2"
    telemetry.heartbeat(HEARTBEAT)
    assert telemetry.find == "phase5_intertile.heartbeat"
