"""The trace of a run: its spans, their parents, times and attributes."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from opentelemetry.util._once import Once

from tests.helpers.fakes import FarExecutor, FarPool, Recorder
from tests.helpers.recorded_traces import (
    BOOM,
    HEARTBEAT,
    PAIR_ENDED,
    RUN_STARTED,
    START,
    Memory,
    check_all,
    parent_id,
    phase_of,
    types_of,
)
from zemosaic import Settings, calibrate
from zemosaic.errors import NoSolution
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.runtime.events import JobEnded, JobError, Note, RunEnded, StageEnded, StageStarted
from zemosaic.runtime.observers import FanOut, Observer

PHASE = "phase5_intertile"
SCENE = Scene(tiles=6, shape=(96, 128), overlap=0.35)
SETTINGS = Settings(workers=2)
# The clock of Windows has steps of up to 1/64 s.
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


@pytest.fixture(autouse=True, scope="module")
def clean_environment() -> Iterator[None]:
    """Remove settings of the environment that affect the SDK."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def no_current_span() -> Iterator[None]:
    """Check that no test leaves a span current: it would be the parent of the next test's."""
    yield
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which no tracer provider has been set."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def host(no_provider: None) -> Memory:
    """A host application with a tracer provider."""
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
    offset: float | None = None

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


# The tree of spans.


def test_a_run_is_one_tree_of_spans(traced: Traced) -> None:
    """A phase has a child for each pair and stage, and stage "prepare" one for each tile."""
    pairs = len(traced.solution.records)
    assert pairs >= 5
    starts = traced.memory.named(f"{PHASE}.worker_start")
    assert len(starts) == (SETTINGS.workers if traced.pool == "processes" else 0)
    assert Counter(span.name for span in traced.spans if span not in starts) == {
        PHASE: 1,
        f"{PHASE}.prepare": 1,
        f"{PHASE}.scan": 1,
        f"{PHASE}.overlap": 1,
        f"{PHASE}.pairs": 1,
        f"{PHASE}.solve": 1,
        f"{PHASE}.apply": 1,
        f"{PHASE}.tile": SCENE.tiles,
        f"{PHASE}.pair": pairs,
    }
    phase, prepare = traced.memory.one(PHASE), traced.memory.one(f"{PHASE}.prepare")
    assert phase.parent is None
    for span in traced.spans:
        assert span.context.trace_id == phase.context.trace_id
        if span.name.removeprefix(PHASE) in (".tile", ".scan", ".worker_start"):
            assert parent_id(span) == prepare.context.span_id
        elif span is not phase:
            assert parent_id(span) == phase.context.span_id
    ids = {span.context.span_id for span in traced.spans}
    assert len(ids) == len(traced.spans)


def test_only_stages_that_ran_have_spans(memory: Memory, arrays: list[Any]) -> None:
    """Arrays make the same tree as files, and without --apply its stage has no span."""
    solution = calibrate(arrays, SETTINGS, "serial", [Telemetry(memory.tracer)])
    names = Counter(span.name.removeprefix(PHASE) for span in memory.spans)
    pairs = len(solution.records)
    one_each = dict.fromkeys(["", ".prepare", ".scan", ".overlap", ".pairs", ".solve"], 1)
    assert names == {**one_each, ".tile": SCENE.tiles, ".pair": pairs}
    names_i = {span.attributes["zemosaic.pair.name_i"] for span in memory.pair_list()}
    assert names_i <= {f"tile {k}" for k in range(SCENE.tiles)}


@pytest.fixture(params=[3600.0, None])
def far(request: pytest.FixtureRequest, arrays: list[tuple[Any, ...]]) -> Traced:
    """A run on a machine whose clock is an hour fast, and whose offset the pool may know."""
    memory = Memory()
    before = time.time_ns()
    with FarExecutor(3600.0) as executor:
        pool = FarPool(executor, request.param) if request.param else executor
        solution = calibrate(arrays, SETTINGS, pool, [Telemetry(memory.tracer)])
    return Traced("far", memory, solution, before, time.time_ns(), request.param)


def test_spans_of_another_machine_have_its_name_and_the_offset_of_its_clock(far: Traced) -> None:
    """Jobs have both, as far as they are known, and lie within their parents."""
    test_spans_lie_within_their_parents(far)
    test_steps_of_a_pair_fit_into_its_time(far)
    for span in (*far.memory.pair_list(), *far.memory.named(f"{PHASE}.tile")):
        assert span.attributes["host.name"] == "far"
        assert span.attributes.get("zemosaic.host.clock_offset") == far.offset
    check_all(far.memory)


def test_spans_lie_within_their_parents(traced: Traced) -> None:
    """No span starts before its parent or ends after it."""
    spans = {span.context.span_id: span for span in traced.spans}
    for span in traced.spans:
        assert span.start_time <= span.end_time
        if (parent := spans.get(parent_id(span))) is not None:
            assert parent.start_time <= span.start_time
            assert span.end_time <= parent.end_time + CLOCK_STEP_NS
    phase = traced.memory.one(PHASE)
    assert traced.before_ns <= phase.start_time <= phase.end_time <= traced.after_ns


def test_pairs_run_between_the_overlaps_and_the_solution(traced: Traced) -> None:
    """The times of the spans follow the order of the stages."""
    starts = [span.start_time for span in traced.memory.pair_list()]
    ends = [span.end_time for span in traced.memory.pair_list()]
    assert traced.memory.one(f"{PHASE}.prepare").end_time <= min(starts)
    assert traced.memory.one(f"{PHASE}.overlap").end_time <= min(starts)
    assert max(ends) <= traced.memory.one(f"{PHASE}.solve").start_time + CLOCK_STEP_NS


# Attributes.


def test_pairs_have_the_declared_attributes(traced: Traced) -> None:
    """A measured pair has exactly these attributes, with their types."""
    for span in traced.memory.pair_list():
        assert span.attributes["zemosaic.pair.outcome"] == "measured"
        assert types_of(span.attributes) == PAIR_TYPES


def test_pairs_have_the_values_of_the_solution(traced: Traced) -> None:
    """Pairs count from 1, tiles from 0; names are file names; values are the results."""
    spans = traced.memory.pairs()
    assert sorted(spans) == list(range(1, len(traced.solution.records) + 1))
    for record in traced.solution.records:
        attributes = spans[record.index].attributes
        (line,) = record.measurements
        tiles = attributes["zemosaic.pair.tile_i"], attributes["zemosaic.pair.tile_j"]
        assert tiles == (record.i, record.j)
        assert attributes["zemosaic.pair.name_i"] == f"tile_{record.i:04d}.fits"
        assert attributes["zemosaic.pair.name_j"] == f"tile_{record.j:04d}.fits"
        for name in ("gain", "offset", "rms", "cells"):
            assert attributes[f"zemosaic.pair.{name}"] == getattr(line, name)


def test_steps_of_a_pair_fit_into_its_time(traced: Traced) -> None:
    """The times of the steps add up to no more than the span."""
    for span in traced.memory.pair_list():
        steps = [span.attributes[f"zemosaic.pair.stage.{step}"] for step in ("load", "fit")]
        assert min(steps) > 0
        assert sum(steps) <= (span.end_time - span.start_time) / 1e9


def test_the_pid_is_that_of_the_worker(traced: Traced) -> None:
    """In a pool of processes it is a worker's, otherwise ours."""
    pids = {span.attributes["process.pid"] for span in traced.memory.pair_list()}
    if traced.pool == "processes":
        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2
    else:
        assert pids == {os.getpid()}


def test_tiles_have_their_names_and_times(traced: Traced) -> None:
    """Every file has a span with its name, its index and the times of its steps."""
    spans = traced.memory.named(f"{PHASE}.tile")
    names = [span.attributes["zemosaic.tile.name"] for span in spans]
    assert sorted(names) == [f"tile_{k:04d}.fits" for k in range(SCENE.tiles)]
    assert sorted(s.attributes["zemosaic.tile.index"] for s in spans) == list(range(6))
    for span in spans:
        assert span.attributes["zemosaic.tile.outcome"] == "measured"
        assert span.attributes["zemosaic.tile.stage.preview"] > 0


def test_the_phase_has_the_declared_attributes(traced: Traced) -> None:
    """The phase has its id, state, totals, pool and result, with their types."""
    attributes = traced.memory.one(PHASE).attributes
    assert types_of(attributes) == PHASE_TYPES
    assert len(attributes["zemosaic.run.id"]) == 32
    pairs = len(traced.solution.records)
    values = {key.removeprefix("zemosaic."): value for key, value in attributes.items()}
    assert values | {"run.id": ""} == {
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
    """Every status is unset, and there is no event."""
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}
    assert [event.name for span in traced.spans for event in span.events] == []


def test_attributes_are_valid_otlp(traced: Traced) -> None:
    """Values are texts, booleans, integers and finite numbers, or sequences of one type."""
    check_all(traced.memory)


def test_no_span_has_the_name_of_a_folder(traced: Traced) -> None:
    """Traces go to other machines, where the names of folders are private."""
    for span in traced.spans:
        for key, value in span.attributes.items():
            assert "a folder [of tiles]" not in str(value), key
            assert "corrected" not in str(value), key


def test_colours_are_lists(memory: Memory) -> None:
    """With three channels, gain, offset and rms have three values each."""
    tiles = simulate(replace(SCENE, tiles=2, rgb=True))
    solution = calibrate(
        [(t.data, t.wcs) for t in tiles], SETTINGS, "serial", [Telemetry(memory.tracer)]
    )
    attributes = memory.one(f"{PHASE}.pair").attributes
    for name in ("gain", "offset", "rms"):
        values = tuple(getattr(line, name) for line in solution.records[0].measurements)
        assert attributes[f"zemosaic.pair.{name}"] == values
        assert len(values) == 3
    check_all(memory)


# Tracer providers.


def test_the_provider_of_the_host_is_used_and_left_alone(host: Memory, arrays: list[Any]) -> None:
    """By default spans go to the provider of the host, under its current span."""
    with host.tracer.start_as_current_span("the host's") as span:
        calibrate(arrays, SETTINGS, "serial")
        assert trace.get_current_span() is span
    assert trace.get_tracer_provider() is host.provider
    phase, caller = host.one(PHASE), host.one("the host's")
    assert parent_id(phase) == caller.context.span_id
    assert {span.context.trace_id for span in host.spans} == {caller.context.trace_id}
    assert phase.instrumentation_scope.name == "zemosaic"
    # The provider was not shut down.
    host.tracer.start_span("later").end()
    assert host.named("later")


def test_an_explicit_tracer_has_precedence(host: Memory, memory: Memory) -> None:
    """The tracer gets the spans, and the provider of the host none."""
    phase_of(PAIR_ENDED, memory=memory)
    assert len(memory.spans) == 2
    assert host.spans == ()


class CountingTracer(trace.NoOpTracer):
    """The no-op tracer of the API, with a count of its spans."""

    def __init__(self) -> None:
        self.calls = 0

    def start_span(self, *args: Any, **options: Any) -> trace.Span:
        self.calls += 1
        return super().start_span(*args, **options)


def test_without_an_sdk_no_spans_are_made() -> None:
    """Only the phase span is started, to see that it does not record."""
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
    """Without telemetry, with it and with the API alone, results are the same bits."""
    off = calibrate(arrays, SETTINGS, "threads", [])
    api_alone = calibrate(arrays, SETTINGS, "threads")
    on = calibrate(arrays, SETTINGS, "threads", [Telemetry(memory.tracer)])
    assert same_bits(off, api_alone)
    assert same_bits(off, on)
    assert memory.one(PHASE)
    assert trace._TRACER_PROVIDER is None


def test_a_sampler_is_obeyed() -> None:
    """A host that samples nothing gets no span, and there is no trace id."""
    memory = Memory(sampler=ALWAYS_OFF)
    telemetry = Telemetry(memory.tracer)
    fan_out = FanOut([telemetry])
    for event in (RUN_STARTED, PAIR_ENDED, RunEnded(state="finished", time_ns=START)):
        fan_out.dispatch(event)
    assert memory.spans == ()
    assert telemetry.trace_id == ""


def test_the_trace_id_is_that_of_the_spans(memory: Memory) -> None:
    """The id of the link is the id in the backend."""
    telemetry = Telemetry(memory.tracer)
    telemetry.run_started(RUN_STARTED)
    telemetry.run_ended(RunEnded(state="finished", time_ns=START + 1))
    assert int(telemetry.trace_id, 16) == memory.one(PHASE).context.trace_id
    assert len(telemetry.trace_id) == 32


# Runs that end early, and successive runs.


def test_a_run_without_solution_ends_as_failed(memory: Memory, arrays: list[Any]) -> None:
    """The phase span has the state, the error type and the message."""
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
    """Ctrl-C ends the phase and its open stage; jobs that had ended keep their spans."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(arrays, SETTINGS, "serial", [Telemetry(memory.tracer), Interrupter()])
    names = Counter(span.name.removeprefix(PHASE) for span in memory.spans)
    assert names == {"": 1, ".prepare": 1, ".scan": 1, ".tile": 2}
    assert memory.one(PHASE).attributes["zemosaic.run.state"] == "interrupted"
    for name in (PHASE, f"{PHASE}.prepare"):
        assert memory.one(name).status.status_code is StatusCode.ERROR
        assert memory.one(name).attributes["error.type"] == "KeyboardInterrupt"


def test_one_observer_serves_two_runs(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """A second run has its own trace and counts, also after a failed one."""
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
    assert caplog.records == []  # the SDK warns if a span is ended twice


# Observers that raise.


class Broken(Observer):
    """Raises at the end of a job."""

    def job_ended(self, event: JobEnded) -> None:
        raise RuntimeError("broken")


class FullyBroken(Broken):
    """Raises also at a note, such as the one that an observer was removed."""

    def note(self, event: Note) -> None:
        raise RuntimeError("broken here too")


class BrokenTracer(trace.NoOpTracer):
    """A tracer that raises for every span except the phase."""

    def __init__(self, memory: Memory) -> None:
        self._tracer = memory.tracer

    def start_span(self, name: str, *args: Any, **options: Any) -> trace.Span:
        if name != PHASE:
            raise RuntimeError("no more spans")
        return self._tracer.start_span(name, *args, **options)


@pytest.mark.parametrize("kind", ["observer", "telemetry"])
def test_an_observer_that_raises_is_removed_and_the_run_continues(
    kind: str, memory: Memory, arrays: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, other observers get all events, and the result is unchanged."""
    recorder = Recorder()
    broken: list[Observer] = [Broken(), Broken()]
    if kind == "telemetry":
        broken = [Telemetry(BrokenTracer(memory)), Telemetry(BrokenTracer(memory))]
    undisturbed = calibrate(arrays, SETTINGS, "serial", [])
    with caplog.at_level(logging.ERROR):
        solution = calibrate(arrays, SETTINGS, "serial", [*broken, recorder])
    assert same_bits(solution, undisturbed)
    messages = [note.message for note in recorder.of(Note) if "taken off" in note.message]
    assert len(messages) == 2
    assert len([r for r in caplog.records if "was taken off" in r.getMessage()]) == 2
    pairs = [event for event in recorder.of(JobEnded) if event.stage == "pairs"]
    assert len(pairs) == len(solution.records)
    assert recorder.of(RunEnded)[0].state == "finished"


def test_observers_that_raise_at_everything_do_not_end_the_run() -> None:
    """Two observers that raise also at the note about the other are both removed once."""
    recorder = Recorder()
    fan_out = FanOut([FullyBroken(), FullyBroken(), recorder])
    fan_out.dispatch(PAIR_ENDED)
    assert len([note for note in recorder.of(Note) if "taken off" in note.message]) == 2
    assert recorder.of(JobEnded) == [PAIR_ENDED]


def test_telemetry_is_found_at_its_old_place() -> None:
    """Programs of before 0.3 import the observer from the module that now has the spans alone."""
    from zemosaic.observe import telemetry

    assert telemetry.Telemetry is Telemetry
    assert telemetry.HEARTBEAT == "phase5_intertile.heartbeat"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        telemetry.Nothing  # noqa: B018
