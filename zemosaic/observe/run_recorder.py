"""A run as a trace, log records and metrics, made from its events."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    JobRunning,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
    WorkerStarted,
)
from ..runtime.observers import Observer
from .attributes import Names, valid_attributes, valid_text
from .heartbeats import MAX_STACKS, HeartbeatFilter, sentence
from .job_recorder import RUNNING, JobRecorder
from .job_spans import PAIR, TILE, job_files, slow_job_attributes
from .run_metrics import RunMetrics, application_metrics
from .telemetry import PHASE, EventLog, Meter, Span, SpanTree, Tracer, default_tracer, set_error

HEARTBEAT = "phase5_intertile.heartbeat"
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

_RUN = Names("zemosaic.")


class OpenSpans(Protocol):
    """Shows open spans. No method blocks."""

    def show(self, spans: Mapping[Span, Mapping[str, Any]]) -> None:
        """Show the open ones of these spans, each with more attributes; later changes count."""

    def hurry(self) -> None:
        """Show their new state soon."""


class Signals(EventLog, Protocol):
    """Receives log records, and metrics if it has a meter."""

    meter: Meter | None


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
        Machine of the run; by default this one.
    parent : Mapping, optional
        "traceparent" and "tracestate" of the parent of the phase; by default the current span.
    resumed_from : Mapping, optional
        "run", "trace" and "span": ids of the resumed run, and of its phase.
    signals : Signals, optional
        Receives heartbeats and failures as log records, and metrics in place of the application's
        meter provider.
    name : str
        Name of the phase; a watched loop gives its own.

    Attributes
    ----------
    trace_id : str
        The trace id as 32 hexadecimal digits; empty if nothing is recorded.
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        open_spans: OpenSpans | None = None,
        markers: bool = False,
        host: str = "",
        parent: Mapping[str, str] | None = None,
        resumed_from: Mapping[str, Any] | None = None,
        signals: Signals | None = None,
        name: str = PHASE,
    ) -> None:
        self._tracer = tracer or default_tracer()
        self._view = open_spans
        self._markers = markers
        self._host = valid_text(host or platform.node())
        self._parent = parent or {}
        self._resumed_from = resumed_from or {}
        self._signals = signals
        self._name = name
        self._metrics = application_metrics() if signals is None else RunMetrics(signals.meter)
        self._tree: SpanTree | None = None
        self.trace_id = ""

    @property
    def find(self) -> str:
        """The text to search for in the trace; empty if nothing is recorded."""
        return self._jobs.find if self._tree is not None else ""

    def run_started(self, event: RunStarted) -> None:
        """Start the phase span under the caller's current span."""
        tree = SpanTree(
            self._tracer, self._name, event.time_ns, self._parent, self._resumed_from, self._signals
        )
        self._tree = tree if tree.is_recording else None
        self.trace_id = tree.trace_id if tree.is_recording else ""
        if self._tree is None:
            return
        self._started_ns = event.time_ns
        self._stages: dict[str, Span] = {}
        self._stage_starts: dict[Span, int] = {}
        self._jobs = JobRecorder(tree, self._stages, self._metrics, self._host, self._markers)
        self._slow_jobs = 0
        self._heartbeats = HeartbeatFilter()
        self._metrics.start(event.time_ns)
        tree.root.set_attribute("zemosaic.run.id", event.run_id)
        tree.root.set_attribute("zemosaic.run.state", "running")
        if self._resumed_from:
            tree.root.set_attribute("zemosaic.run.resumed_from", self._resumed_from["run"])
        self._set_run_attributes(event.attributes)
        if self._view is not None:
            self._view.show(tree.open)

    def stage_started(self, event: StageStarted) -> None:
        """Start the span of a stage, if it has one."""
        if self._tree is None or event.stage not in STAGE_SPANS:
            return
        parent = self._stages.get(STAGE_SPANS[event.stage], self._tree.root)
        span = self._tree.start(f"{PHASE}.{event.stage}", parent, event.time_ns)
        self._stages[event.stage], self._stage_starts[span] = span, event.time_ns
        self._tree.open[span] = {}

    def stage_ended(self, event: StageEnded) -> None:
        """End the span of a stage; its attributes go to the phase."""
        if self._tree is None:
            return
        self._set_run_attributes(event.attributes)
        span = self._stages.pop(event.stage, None)
        if span is not None:
            self._tree.end(span, event.time_ns)

    def worker_started(self, event: WorkerStarted) -> None:
        """Make the span of a worker's start."""
        if self._tree is None:
            return
        stages = self._stages.values()
        begun = [stage for stage in stages if self._stage_starts[stage] <= event.started_ns]
        parent = begun[0] if begun else self._tree.root
        attributes = {"process.pid": event.pid, "host.name": event.host or self._host}
        started_ns = max(event.started_ns, self._started_ns)  # the pool is older than the run
        span = self._tree.start(WORKER, parent, started_ns, attributes)
        self._tree.end(span, max(event.ready_ns, started_ns))

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Handle the events in order, and count the pairs once per batch."""
        super().handle_batch(events)
        if self._tree is None:
            return
        self._metrics.count()
        for event in reversed(events):
            if isinstance(event, JobEnded) and event.stage == "pairs":
                self._tree.root.set_attribute("zemosaic.pairs.done", event.done)
                return

    def job_ended(self, event: JobEnded) -> None:
        """Make the span of a tile or a pair, at the times of its worker."""
        if self._tree is not None:
            self._end_silence()
            self._jobs.ended(event)

    def job_running(self, event: JobRunning) -> None:
        """Show a long-running job, under the id that its span will have."""
        if self._tree is not None:
            self._jobs.still_running(event)
            self._hurry()

    def heartbeat(self, event: Heartbeat) -> None:
        """Record a heartbeat, unless the silence has had many."""
        if self._tree is None:
            return
        self._jobs.running.update(event)
        stage = self._stages.get(event.stage)
        if stage is not None and not event.total and event.stack:  # a stage without jobs
            self._tree.open[stage] = {"code.stacktrace": valid_text(event.stack)}
        if self._heartbeats.accept(event):
            self._record_heartbeat(event)
        self._hurry()

    def _record_heartbeat(self, event: Heartbeat) -> None:
        attributes = valid_attributes(self._heartbeats.attributes(event))
        body = valid_text(sentence(event))
        self._add_event(HEARTBEAT, event.time_ns, attributes, body)
        if self._markers and self._tree is not None:
            start_ns = event.time_ns - int(1e9 * event.idle_time)
            marker = self._tree.start(HEARTBEAT, self._tree.root, start_ns, attributes)
            self._tree.end(marker, event.time_ns)

    def _end_silence(self) -> None:
        """Record the newest heartbeat, if it was skipped."""
        if not self._heartbeats:
            return
        if self._heartbeats.skipped is not None:
            self._record_heartbeat(self._heartbeats.skipped)
        self._heartbeats.end_silence()

    def slow_job(self, event: SlowJob) -> None:
        """Record a slow pair or tile."""
        if self._tree is None:
            return
        self._slow_jobs += 1
        attributes = slow_job_attributes(event, with_stack=self._slow_jobs <= MAX_STACKS)
        files = " and ".join(map(str, job_files(event.attributes)))
        body = valid_text(f"{files}: running for {event.running_time:.0f} s")
        self._add_event(SLOW_PAIR, event.time_ns, attributes, body)

    def run_ended(self, event: RunEnded) -> None:
        """End the phase span, and the spans still open."""
        if self._tree is None:
            return
        self._end_silence()
        self._metrics.stop()
        self._set_run_attributes(event.attributes)
        self._tree.root.set_attribute("zemosaic.run.state", event.state)
        for outcome, count in self._jobs.pair_counts.items():
            self._tree.root.set_attribute(f"zemosaic.pairs.{outcome}", count)
        for span, attributes in reversed(self._tree.open.copy().items()):
            if event.error is not None:
                span.set_attributes(attributes)
                set_error(span, event.error.type, event.error.message)
            self._tree.end(span, event.time_ns)

    def _hurry(self) -> None:
        if self._view is not None:
            self._view.hurry()

    def _add_event(self, name: str, time_ns: int, attributes: Mapping[str, Any], body: str) -> None:
        if self._tree is not None:
            self._tree.add_event(self._tree.root, name, time_ns, attributes, body)

    def _set_run_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self._tree is not None:
            self._tree.root.set_attributes(valid_attributes(attributes, _RUN))
