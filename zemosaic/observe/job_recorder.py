"""The spans of a run's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.events import JobEnded, JobError, JobRunning
from .attributes import MAX_TEXT, valid_attributes, valid_text
from .job_spans import job_attributes, job_files, job_span, running_attributes
from .run_metrics import RunMetrics
from .running_jobs import RunningJobs
from .telemetry import Span, SpanTree, set_error, span_id

RUNNING = "phase5_intertile.running"
#: Stages of jobs, and the stages with their parent spans. Pairs are children of the phase.
_PARENTS = {"scan": "prepare", "tiles": "prepare", "surveys": "mosaic", "blocks": "mosaic"}


class JobRecorder:
    """Makes a span for each job, at the times of its worker.

    Parameters
    ----------
    tree : SpanTree
        The spans of the run.
    stages : Mapping
        Spans of the open stages.
    metrics : RunMetrics
        Counts the pairs.
    host : str
        Machine of the run, on which jobs run that name none.
    markers : bool
        Make child spans of long-running jobs.

    Attributes
    ----------
    running : RunningJobs
        Long-running jobs, with open spans.
    pair_counts : dict
        Numbers of failed and of rejected pairs.
    """

    def __init__(
        self,
        tree: SpanTree,
        stages: Mapping[str, Span],
        metrics: RunMetrics,
        host: str,
        markers: bool,
    ) -> None:
        self._tree, self._stages, self._metrics = tree, stages, metrics
        self._host, self._markers = host, markers
        self.running = RunningJobs(tree.open)
        self.pair_counts = {"failed": 0, "rejected": 0}
        self._errors = 0
        self._slowest_pair = (0, "")  # nanoseconds, and id of the span

    @property
    def find(self) -> str:
        """The text that finds the errors in the trace, else the span of the slowest pair.

        Jaeger finds parts of names and values, but ids as a whole.
        """
        return "error.type" if self._errors else self._slowest_pair[1]

    def ended(self, event: JobEnded) -> None:
        """Make the span of an ended job."""
        self._metrics.job_ended(event.ended_ns)
        if event.error is not None:
            self._errors += 1
        span = self.running.pop((event.stage, event.index))
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
            span = self._start(event.stage, event.started_ns, attributes)
        else:
            span.set_attributes(attributes)
        if event.error is not None:
            self._record_error(span, event.error, event.ended_ns, event.attributes)
        if event.stage == "pairs":
            self._count_pair(event, span)
        self._tree.end(span, event.ended_ns)

    def still_running(self, event: JobRunning) -> None:
        """Open the span of a long-running job, under the id that it will have."""
        key = event.stage, event.index
        if key not in self.running:
            self.running.add(key, self._start(event.stage, event.started_ns))
        attributes = running_attributes(event, self._host)
        span = self.running.show(key, attributes)
        if self._markers:
            marker = self._tree.start(RUNNING, span, event.started_ns, attributes)
            self._tree.end(marker, event.time_ns)

    def _start(
        self, stage: str, start_ns: int, attributes: Mapping[str, Any] | None = None
    ) -> Span:
        parent = self._stages.get(_PARENTS.get(stage, ""), self._tree.root)
        return self._tree.start(job_span(stage).name, parent, start_ns, attributes)

    def _count_pair(self, event: JobEnded, span: Span) -> None:
        """Count a pair, and find the slowest."""
        self._metrics.pair_ended(event, span)
        if event.outcome != "measured":
            self.pair_counts["rejected" if event.outcome == "rejected" else "failed"] += 1
        duration = event.ended_ns - event.started_ns
        if duration > self._slowest_pair[0]:
            self._slowest_pair = duration, span_id(span)

    def _record_file_error(self, event: JobEnded) -> None:
        """Record a failure to write a corrected tile; written tiles have no span."""
        stage = self._stages.get("apply")
        if event.error is not None and stage is not None:
            error = {"exception.type": event.error.type, "exception.message": str(event.error)}
            body = valid_text(str(event.error))
            self._tree.add_event(stage, "exception", event.ended_ns, valid_attributes(error), body)

    def _record_error(
        self, span: Span, error: JobError, time_ns: int, job: Mapping[str, Any]
    ) -> None:
        set_error(span, error.type, str(error))
        exception = {"exception.type": error.type, "exception.message": error.message}
        if error.traceback:
            exception["exception.stacktrace"] = error.traceback[-MAX_TEXT:]
        files = " and ".join(map(str, job_files(job)))
        body = valid_text(f"{files}: {error}" if files else str(error))
        self._tree.add_event(span, "exception", time_ns, valid_attributes(exception), body)
