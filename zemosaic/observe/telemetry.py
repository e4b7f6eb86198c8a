"""Spans and span events of a run, with the OpenTelemetry API alone.

The parent process makes all spans, at the times that the workers report. The death of a worker
therefore loses no span, and workers need no SDK. Without an SDK in the process the spans of the
API record nothing, and this observer costs next to nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opentelemetry import context, trace
from opentelemetry.metrics import Meter
from opentelemetry.trace import Link, Span, Status, StatusCode, Tracer

from .._version import __version__
from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    JobError,
    JobRunning,
    Observer,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
    WorkerStarted,
)
from .attributes import MAX_TEXT, Names, valid_attributes, valid_text
from .heartbeats import MAX_STACKS, HeartbeatFilter
from .job_spans import (
    PAIR,
    TILE,
    job_attributes,
    job_files,
    job_span,
    running_attributes,
    slow_job_attributes,
)
from .parents import remote_span
from .run_metrics import RunMetrics, application_metrics
from .running_jobs import RunningJobs

PHASE = "phase5_intertile"
HEARTBEAT = "phase5_intertile.heartbeat"
RUNNING = "phase5_intertile.running"
SLOW_PAIR = "phase5_intertile.slow_pair"
WORKER = "phase5_intertile.worker_start"
__all__ = [
    "HEARTBEAT", "PAIR", "PHASE", "RUNNING", "SLOW_PAIR", "STAGE_SPANS", "TILE", "WORKER",
    "Telemetry",
]  # fmt: skip

#: Stages with a span of their own, and the stages that contain them.
STAGE_SPANS = {
    "prepare": "", "scan": "prepare", "overlap": "", "pairs": "", "solve": "", "apply": "",
    "mosaic": "",
}  # fmt: skip
#: Stages whose spans are the parents of the spans of their jobs. Pairs are children of the phase.
_JOB_PARENTS = {"scan": "prepare", "tiles": "prepare", "surveys": "mosaic", "blocks": "mosaic"}

_RUN = Names("zemosaic.")


class OpenSpans(Protocol):
    """Shows open spans. No method blocks."""

    def show(self, spans: Mapping[Span, Mapping[str, Any]]) -> None:
        """Show the open ones of these spans, each with more attributes; later changes count."""

    def hurry(self) -> None:
        """Show their new state soon."""


class EventLog(Protocol):
    """Receives the events of a run as log records."""

    meter: Meter | None

    def emit(
        self,
        name: str,
        time_ns: int,
        severity: str,
        body: str,
        attributes: Mapping[str, Any],
        span: trace.SpanContext,
    ) -> None:
        """Send a log record that belongs to a span; return at once."""


class Telemetry(Observer):
    """Record a run as one `phase5_intertile` trace.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer, optional
        By default a tracer of the application's provider; no provider is ever set here.
    open_spans : OpenSpans, optional
        Shows spans during the run; otherwise a span is seen after its end.
    markers : bool
        Make child spans of heartbeats and of long-running jobs, for backends without replacement
        of spans.
    host : str, optional
        Where the jobs ran; by default this machine.
    parent : opentelemetry.context.Context, optional
        Has the parent of the phase; by default the current context.
    resumed_from : Mapping, optional
        "run", "trace" and "span": ids of the run that this one resumes, and of its phase.
    signals : EventLog, optional
        Receives heartbeats and failures as log records, and metrics in place of the application's
        meter provider.
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        open_spans: OpenSpans | None = None,
        markers: bool = False,
        host: str = "",
        parent: context.Context | None = None,
        resumed_from: Mapping[str, Any] | None = None,
        signals: EventLog | None = None,
    ) -> None:
        self._tracer = tracer or trace.get_tracer("zemosaic", __version__)
        self._view = open_spans
        self._markers = markers
        self._host = valid_text(host or platform.node())
        self._parent = parent
        self._resumed_from = resumed_from or {}
        self._signals = signals
        meter = signals.meter if signals is not None else None
        self._metrics = RunMetrics(meter) if meter is not None else application_metrics()
        self._reset()
        #: The trace id as 32 hexadecimal digits; empty if nothing is recorded.
        self.trace_id = ""

    def _reset(self) -> None:
        self._phase: Span | None = None
        self._stages: dict[str, Span] = {}
        self._stage_starts: dict[Span, int] = {}
        # Open spans with the attributes that they have only while they are open.
        self._open: dict[Span, dict[str, Any]] = {}
        self._running = RunningJobs(self._open)
        self._contexts: dict[Span, context.Context] = {}
        self._pair_counts = {"failed": 0, "rejected": 0}
        self._job_errors = self._slow_jobs = 0
        self._heartbeats = HeartbeatFilter()
        self._slowest_pair = (0, "")  # nanoseconds, and id of the span

    @property
    def find(self) -> str:
        """The text to search for in the trace: the errors, else the span of the slowest pair.

        Jaeger finds parts of names and values, but ids as a whole.
        """
        return "error.type" if self._job_errors else self._slowest_pair[1]

    def run_started(self, event: RunStarted) -> None:
        """Start the phase span under the caller's current span."""
        self._reset()
        earlier = self._resumed_from
        links = [Link(remote_span(earlier["trace"], earlier["span"]))] if earlier else []
        phase = self._tracer.start_span(PHASE, self._parent, links=links, start_time=event.time_ns)
        self.trace_id = ""
        if not phase.is_recording():
            return
        self._phase = phase
        self._metrics.start(event.time_ns)
        self.trace_id = trace.format_trace_id(phase.get_span_context().trace_id)
        self._open[phase] = {}
        phase.set_attribute("zemosaic.run.id", event.run_id)
        phase.set_attribute("zemosaic.run.state", "running")
        if earlier:
            phase.set_attribute("zemosaic.run.resumed_from", earlier["run"])
        self._set_run_attributes(event.attributes)
        if self._view is not None:
            self._view.show(self._open)

    def stage_started(self, event: StageStarted) -> None:
        """Start the span of a stage, if it has one."""
        if self._phase is None or event.stage not in STAGE_SPANS:
            return
        parent = self._stages.get(STAGE_SPANS[event.stage], self._phase)
        span = self._start(f"{PHASE}.{event.stage}", parent, event.time_ns)
        self._stages[event.stage], self._stage_starts[span] = span, event.time_ns
        self._open[span] = {}

    def stage_ended(self, event: StageEnded) -> None:
        """End the span of a stage; its attributes go to the phase."""
        self._set_run_attributes(event.attributes)
        span = self._stages.pop(event.stage, None)
        if span is not None:
            self._end(span, event.time_ns)

    def worker_started(self, event: WorkerStarted) -> None:
        """Make the span of a worker's start."""
        if self._phase is None:
            return
        stages = self._stages.values()
        begun = [stage for stage in stages if self._stage_starts[stage] <= event.started_ns]
        parent = begun[0] if begun else self._phase
        attributes = {"process.pid": event.pid, "host.name": self._host}
        self._start(WORKER, parent, event.started_ns, attributes).end(end_time=event.ready_ns)

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Handle the events in order, and count the pairs once per batch."""
        super().handle_batch(events)
        if self._phase is None:
            return
        for event in reversed(events):
            if isinstance(event, JobEnded) and event.stage == "pairs":
                self._phase.set_attribute("zemosaic.pairs.done", event.done)
                return

    def job_ended(self, event: JobEnded) -> None:
        """Make the span of a tile or a pair, at the times of its worker."""
        if self._phase is None:
            return
        self._end_silence()
        self._metrics.job_ended(event.ended_ns)
        if event.error is not None:
            self._job_errors += 1
        span = self._running.pop((event.stage, event.index))
        if event.stage == "apply":
            self._record_file_error(event)
            if span is None:
                return
        # A tile has a job for its header and one for its pixels. The second one makes its span,
        # unless the first fails or takes long.
        elif event.stage == "scan" and event.outcome == "measured" and span is None:
            return
        attributes = job_attributes(event, self._host)
        if span is None:
            parent = self._parent_of(event.stage)
            span = self._start(job_span(event.stage).name, parent, event.started_ns, attributes)
        else:
            span.set_attributes(attributes)
        if event.error is not None:
            self._record_error(span, event.error, event.ended_ns, event.attributes)
        if event.stage == "pairs":
            self._count_pair(event, span)
        self._end(span, event.ended_ns)

    def _count_pair(self, event: JobEnded, span: Span) -> None:
        """Count a pair, and find the slowest."""
        self._metrics.pair_ended(event, span)
        if event.outcome != "measured":
            outcome = "rejected" if event.outcome == "rejected" else "failed"
            self._pair_counts[outcome] += 1
        duration = event.ended_ns - event.started_ns
        if duration > self._slowest_pair[0]:
            span_id = span.get_span_context().span_id
            self._slowest_pair = duration, trace.format_span_id(span_id)

    def _record_file_error(self, event: JobEnded) -> None:
        """Record a failure to write a corrected tile; written tiles have no span."""
        stage = self._stages.get("apply")
        if event.error is not None and stage is not None:
            error = {"exception.type": event.error.type, "exception.message": str(event.error)}
            body = valid_text(str(event.error))
            self._add_event("exception", event.ended_ns, valid_attributes(error), stage, body)

    def job_running(self, event: JobRunning) -> None:
        """Show a job that has run for long, under the id that its span will have."""
        if self._phase is None:
            return
        key = event.stage, event.index
        if key not in self._running:
            parent = self._parent_of(event.stage)
            span = self._start(job_span(event.stage).name, parent, event.started_ns)
            self._running.add(key, span)
        attributes = running_attributes(event, self._host)
        span = self._running.show(key, attributes)
        if self._markers:
            marker = self._start(RUNNING, span, event.started_ns, attributes)
            marker.end(end_time=event.time_ns)
        self._hurry()

    def heartbeat(self, event: Heartbeat) -> None:
        """Record a heartbeat, unless the silence has had many."""
        if self._phase is None:
            return
        self._running.update(event)
        if self._heartbeats.accept(event):
            self._record_heartbeat(event)
        self._hurry()

    def _record_heartbeat(self, event: Heartbeat) -> None:
        attributes = valid_attributes(self._heartbeats.attributes(event))
        body = f"no job has finished for {event.idle_time:.0f} s; {event.pending} are pending"
        self._add_event(HEARTBEAT, event.time_ns, attributes, body=body)
        if self._markers and self._phase is not None:
            start = event.time_ns - int(1e9 * event.idle_time)
            marker = self._start(HEARTBEAT, self._phase, start, attributes)
            marker.end(end_time=event.time_ns)

    def _end_silence(self) -> None:
        """Record the newest heartbeat, if it was skipped."""
        if not self._heartbeats:
            return
        if self._heartbeats.skipped is not None:
            self._record_heartbeat(self._heartbeats.skipped)
        self._heartbeats.end_silence()

    def slow_job(self, event: SlowJob) -> None:
        """Record a slow pair or tile."""
        self._slow_jobs += 1
        attributes = slow_job_attributes(event, with_stack=self._slow_jobs <= MAX_STACKS)
        files = " and ".join(map(str, job_files(event.attributes)))
        body = valid_text(f"{files}: running for {event.running_time:.0f} s")
        self._add_event(SLOW_PAIR, event.time_ns, attributes, body=body)

    def run_ended(self, event: RunEnded) -> None:
        """End the phase span, and the spans that are still open."""
        if self._phase is None:
            return
        self._end_silence()
        self._metrics.stop()
        self._set_run_attributes(event.attributes)
        self._phase.set_attribute("zemosaic.run.state", event.state)
        for outcome, count in self._pair_counts.items():
            self._phase.set_attribute(f"zemosaic.pairs.{outcome}", count)
        for span, attributes in reversed(self._open.copy().items()):
            if event.error is not None:
                span.set_attributes(attributes)
                _set_error(span, event.error.type, event.error.message)
            self._end(span, event.time_ns)

    def _start(
        self, name: str, parent: Span, time_ns: int, attributes: Mapping[str, Any] | None = None
    ) -> Span:
        if parent not in self._contexts:
            self._contexts[parent] = trace.set_span_in_context(parent)
        return self._tracer.start_span(
            name, self._contexts[parent], attributes=attributes, start_time=time_ns
        )

    def _end(self, span: Span, time_ns: int) -> None:
        span.end(end_time=time_ns)
        self._open.pop(span, None)
        self._contexts.pop(span, None)

    def _parent_of(self, stage: str) -> Span:
        assert self._phase is not None
        return self._stages.get(_JOB_PARENTS.get(stage, ""), self._phase)

    def _hurry(self) -> None:
        if self._view is not None:
            self._view.hurry()

    def _add_event(
        self,
        name: str,
        time_ns: int,
        attributes: Mapping[str, Any],
        span: Span | None = None,
        body: str = "",
    ) -> None:
        """Add an event to the phase or another span, and to the log.

        OpenTelemetry is replacing span events by log records (OTEP 4430).
        """
        span = span or self._phase
        if span is None:
            return
        span.add_event(name, attributes, timestamp=time_ns)
        if self._signals is not None:
            severity = "ERROR" if name == "exception" else "WARN"
            context = span.get_span_context()
            self._signals.emit(name, time_ns, severity, body, attributes, context)

    def _record_error(
        self, span: Span, error: JobError, time_ns: int, job: Mapping[str, Any]
    ) -> None:
        _set_error(span, error.type, str(error))
        exception = {"exception.type": error.type, "exception.message": error.message}
        if error.traceback:
            exception["exception.stacktrace"] = error.traceback[-MAX_TEXT:]
        files = " and ".join(map(str, job_files(job)))
        body = valid_text(f"{files}: {error}" if files else str(error))
        self._add_event("exception", time_ns, valid_attributes(exception), span, body)

    def _set_run_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self._phase is not None:
            self._phase.set_attributes(valid_attributes(attributes, _RUN))


def _set_error(span: Span, error_type: str, message: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, valid_text(message)))


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
