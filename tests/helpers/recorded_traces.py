"""Traces recorded in memory, and events made by hand for exact values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from zemosaic.observe.run_recorder import PHASE, Telemetry
from zemosaic.runtime.events import Heartbeat, JobEnded, JobError, RunEnded, RunStarted
from zemosaic.runtime.observers import FanOut


class Memory:
    """A tracer provider of a test, and the spans that it recorded."""

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
        """Return the spans of pairs by index; every index is unique."""
        spans = {span.attributes["zemosaic.pair.index"]: span for span in self.pair_list()}
        assert len(spans) == len(self.pair_list())
        return spans

    def pair_list(self) -> list[ReadableSpan]:
        return self.named(f"{PHASE}.pair")

    def events(self, name: str) -> list[Any]:
        return [event for event in self.one(PHASE).events if event.name == f"{PHASE}.{name}"]


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Check that all OTLP readers accept every value: typed, finite, not empty, valid text."""
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
    """Check the attributes of all spans and events of a trace."""
    for span in memory.spans:
        check_attributes(span.attributes)
        for event in span.events:
            check_attributes(event.attributes)


def types_of(attributes: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in attributes.items()}


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
    """Return the trace of a run with these events."""
    memory = memory or Memory()
    fan_out = FanOut([Telemetry(memory.tracer)])
    for event in (RUN_STARTED, *events, RunEnded(state="finished", time_ns=START + 60 * SECOND)):
        fan_out.dispatch(event)
    return memory
