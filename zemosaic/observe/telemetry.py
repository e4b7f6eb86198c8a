"""Spans and span events of a run, with the OpenTelemetry API alone.

The parent process makes all spans, at the times that the workers report. The death of a worker
therefore loses no span, and workers need no SDK. Without an SDK in the process the spans of the
API record nothing, and this observer costs next to nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from .._version import __version__
from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    JobError,
    Observer,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from .attributes import MAX_TEXT, Names, valid_attributes, valid_text
from .heartbeats import MAX_STACKS, HeartbeatFilter
from .job_spans import (
    PAIR,
    TILE,
    batch_key,
    job_attributes,
    job_columns,
    job_span,
    slow_job_attributes,
)

PHASE = "phase5_intertile"
HEARTBEAT = "phase5_intertile.heartbeat"
SLOW_PAIR = "phase5_intertile.slow_pair"
__all__ = ["HEARTBEAT", "PAIR", "PHASE", "SLOW_PAIR", "STAGE_SPANS", "TILE", "Telemetry"]

#: Stages with a span of their own. Pairs are children of the phase, so "pairs" has none.
STAGE_SPANS = ("prepare", "overlap", "solve", "apply")

_RUN = Names("zemosaic.")


class SnapshotSink(Protocol):
    """Shows an open span. No method blocks for more than about a second."""

    def update(self, span: Span) -> None:
        """Send the span as it stands, now and from time to time; return at once."""

    def stop(self) -> None:
        """Send no more: a snapshot in progress arrives before this returns, or never."""


@runtime_checkable
class BatchTracer(Protocol):
    """Optional interface of a tracer: many similar spans at once."""

    def record_spans(
        self,
        name: str,
        parent: Span,
        keys: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        starts: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        """Record spans that have ended without an error.

        Parameters
        ----------
        name : str
            Name of all spans.
        parent : Span
            Parent of all spans.
        keys : tuple of str
            Names of the attributes.
        columns : sequence of sequences
            For each attribute its values, one per span, all of one type.
        starts, ends : sequence of int
            Times in nanoseconds since the epoch, one per span.
        """

    def send_now(self) -> None:
        """Send the waiting spans."""


class Telemetry(Observer):
    """Record a run as one `phase5_intertile` trace.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer, optional
        By default a tracer of the application's provider; no provider is ever set here.
        With a `BatchTracer` the spans of similar jobs are made at once.
    snapshots : SnapshotSink, optional
        Shows the phase span during the run; otherwise a span is seen after its end.
    markers : bool
        Make a child span of each heartbeat, for backends without replacement of spans.
    host : str, optional
        Where the jobs ran; by default this machine.
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        snapshots: SnapshotSink | None = None,
        markers: bool = False,
        host: str = "",
    ) -> None:
        self._tracer = tracer or trace.get_tracer("zemosaic", __version__)
        self._batch_tracer: BatchTracer | None = tracer if isinstance(tracer, BatchTracer) else None
        self._snapshots = snapshots
        self._markers = markers
        self._host = valid_text(host or platform.node())
        self._phase: Span | None = None
        self._phase_context: context.Context | None = None
        self._stage: Span | None = None
        self._pair_counts: dict[str, int] = {}
        self._slow_jobs = 0
        self._heartbeats = HeartbeatFilter()
        self._had_heartbeat = False
        self._slowest_pair = (0, 0)  # nanoseconds and index
        #: The trace id as 32 hexadecimal digits; empty if nothing is recorded.
        self.trace_id = ""

    @property
    def find(self) -> str:
        """The text to search for in the trace: the heartbeats, else the slowest pair."""
        if self._had_heartbeat:
            return HEARTBEAT
        return f"zemosaic.pair.index={self._slowest_pair[1]}" if self._slowest_pair[1] else ""

    def run_started(self, event: RunStarted) -> None:
        """Start the phase span under the caller's current span."""
        self._pair_counts = {"failed": 0, "rejected": 0}
        self._stage = None
        self._slow_jobs = 0
        self._heartbeats = HeartbeatFilter()
        self._phase = self._tracer.start_span(PHASE, start_time=event.time_ns)
        if not self._phase.is_recording():
            self._phase = None
            return
        self.trace_id = trace.format_trace_id(self._phase.get_span_context().trace_id)
        self._phase_context = trace.set_span_in_context(self._phase)
        self._phase.set_attribute("zemosaic.run.id", event.run_id)
        self._phase.set_attribute("zemosaic.run.state", "running")
        self._set_run_attributes(event.attributes)
        self._update_snapshot()

    def stage_started(self, event: StageStarted) -> None:
        """Start the span of a stage, if it has one."""
        if self._phase is None or event.stage not in STAGE_SPANS:
            return
        self._stage = self._tracer.start_span(
            f"{PHASE}.{event.stage}", context=self._phase_context, start_time=event.time_ns
        )

    def stage_ended(self, event: StageEnded) -> None:
        """End the span of a stage; its attributes go to the phase."""
        self._set_run_attributes(event.attributes)
        if self._stage is not None and event.stage in STAGE_SPANS:
            self._stage.end(end_time=event.time_ns)
            self._stage = None
        if self._batch_tracer is not None:
            self._batch_tracer.send_now()

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Make the spans of similar jobs together, and count the pairs once per batch."""
        for key, group in groupby(events, self._batch_key):
            batch: list[Any] = list(group)
            if not key or len(batch) == 1 or not self._record_batch(batch):
                super().handle_batch(batch)
        if self._phase is None:
            return
        for event in reversed(events):
            if isinstance(event, JobEnded) and event.stage == "pairs":
                self._phase.set_attribute("zemosaic.pairs.done", event.done)
                return

    def _batch_key(self, event: Event) -> tuple[Any, ...]:
        """Return what the spans of a batch share; () for an event that is handled alone."""
        if self._batch_tracer is None or self._phase is None or not isinstance(event, JobEnded):
            return ()
        return batch_key(event)

    def _record_batch(self, events: Sequence[JobEnded]) -> bool:
        """Make the spans of similar jobs column by column; return False if impossible."""
        table = job_columns(events, self._host)
        if table is None or self._batch_tracer is None:
            return False
        self._end_silence()
        self._count_pairs(events)
        self._batch_tracer.record_spans(
            job_span(events[0].stage).name,
            self._parent(events[0]),
            *table,
            [event.started_ns for event in events],
            [event.ended_ns for event in events],
        )
        return True

    def _parent(self, event: JobEnded) -> Span:
        assert self._phase is not None
        return self._phase if event.stage == "pairs" else self._stage or self._phase

    def _count_pairs(self, events: Sequence[JobEnded]) -> None:
        """Count pairs without a measurement, and find the slowest; all events have one stage."""
        if events[0].stage != "pairs":
            return
        for event in events:
            if event.outcome != "measured":
                outcome = "rejected" if event.outcome == "rejected" else "failed"
                self._pair_counts[outcome] += 1
            duration = event.ended_ns - event.started_ns
            if duration > self._slowest_pair[0]:
                self._slowest_pair = duration, event.index

    def job_ended(self, event: JobEnded) -> None:
        """Make the span of a tile or a pair, at the times of its worker."""
        if self._phase is None:
            return
        self._end_silence()
        if event.stage == "apply":
            self._record_file_error(event)
            return
        # A tile has a job for its header and one for its pixels. The second one makes its span,
        # unless the first fails.
        if event.stage == "scan" and event.outcome == "measured":
            return
        self._count_pairs([event])
        name, parent = job_span(event.stage).name, self._parent(event)
        attributes = job_attributes(event, self._host)
        if self._batch_tracer is not None and event.error is None:
            columns = [(value,) for value in attributes.values()]
            self._batch_tracer.record_spans(
                name, parent, (*attributes,), columns, (event.started_ns,), (event.ended_ns,)
            )
            return
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(parent),
            attributes=attributes,
            start_time=event.started_ns,
        )
        if event.error is not None:
            _record_error(span, event.error, event.ended_ns)
        span.end(end_time=event.ended_ns)

    def _record_file_error(self, event: JobEnded) -> None:
        """Record a failure to write a corrected tile; written tiles have no span."""
        if event.error is not None and self._stage is not None:
            error = {"exception.type": event.error.type, "exception.message": str(event.error)}
            self._stage.add_event("exception", valid_attributes(error), timestamp=event.ended_ns)

    def heartbeat(self, event: Heartbeat) -> None:
        """Record a heartbeat, unless the silence has had many, and send a snapshot."""
        self._had_heartbeat = True
        if self._heartbeats.accept(event):
            self._record_heartbeat(event)
        self._update_snapshot()

    def _record_heartbeat(self, event: Heartbeat) -> None:
        attributes = valid_attributes(self._heartbeats.attributes(event))
        self._add_event(HEARTBEAT, event.time_ns, attributes)
        if self._markers and self._phase is not None:
            start = event.time_ns - int(1e9 * event.idle_time)
            marker = self._tracer.start_span(
                HEARTBEAT, self._phase_context, attributes=attributes, start_time=start
            )
            marker.end(end_time=event.time_ns)

    def _end_silence(self) -> None:
        """Record the newest heartbeat, if it was skipped."""
        if not self._heartbeats:
            return
        if self._heartbeats.skipped is not None:
            self._record_heartbeat(self._heartbeats.skipped)
        self._heartbeats.end_silence()

    def _update_snapshot(self) -> None:
        if self._snapshots is not None and self._phase is not None:
            self._snapshots.update(self._phase)

    def slow_job(self, event: SlowJob) -> None:
        """Record a slow pair or tile."""
        self._slow_jobs += 1
        attributes = slow_job_attributes(event, with_stack=self._slow_jobs <= MAX_STACKS)
        self._add_event(SLOW_PAIR, event.time_ns, attributes)

    def run_ended(self, event: RunEnded) -> None:
        """End the phase span, and the span of an open stage."""
        if self._phase is None:
            return
        self._end_silence()
        if self._snapshots is not None:
            self._snapshots.stop()
        self._set_run_attributes(event.attributes)
        self._phase.set_attribute("zemosaic.run.state", event.state)
        for outcome, count in self._pair_counts.items():
            self._phase.set_attribute(f"zemosaic.pairs.{outcome}", count)
        for span in (self._stage, self._phase):
            if span is None:
                continue
            if event.error is not None:
                _set_error(span, event.error.type, event.error.message)
            span.end(end_time=event.time_ns)

    def _add_event(self, name: str, time_ns: int, attributes: Mapping[str, Any]) -> None:
        """Add an event to the phase. OpenTelemetry is replacing span events by log records."""
        if self._phase is not None:
            self._phase.add_event(name, attributes, timestamp=time_ns)

    def _set_run_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self._phase is not None:
            self._phase.set_attributes(valid_attributes(attributes, _RUN))


def _set_error(span: Span, error_type: str, message: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, valid_text(message)))


def _record_error(span: Span, error: JobError, time_ns: int) -> None:
    _set_error(span, error.type, str(error))
    exception = {"exception.type": error.type, "exception.message": error.message}
    if error.traceback:
        exception["exception.stacktrace"] = error.traceback[-MAX_TEXT:]
    span.add_event("exception", valid_attributes(exception), timestamp=time_ns)


class PhaseTracer:
    """Makes the spans of a phase under the name of a watched loop.

    Parameters
    ----------
    name : str
        Name in place of "phase5_intertile".
    tracer : opentelemetry.trace.Tracer, optional
        By default a tracer of the application's provider.
    """

    def __init__(self, name: str, tracer: Tracer | None = None) -> None:
        self._name = name
        self._tracer = tracer or trace.get_tracer("zemosaic", __version__)

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> Span:
        """Start a span under its new name."""
        return self._tracer.start_span(self._name + name.removeprefix(PHASE), *args, **kwargs)
