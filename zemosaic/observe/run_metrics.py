"""The metrics of a run, with the OpenTelemetry API alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import Span

from .._version import __version__
from ..runtime.events import JobEnded

PAIRS_DONE = "zemosaic.pairs.done"
PAIR_DURATION = "zemosaic.pair.duration"
IDLE_TIME = "zemosaic.idle_time"
#: Upper bounds of the buckets in seconds, from short pairs to the time-out.
DURATIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

__all__ = ["Meter", "RunMetrics", "application_metrics"]


@cache
def application_metrics() -> RunMetrics:
    """Return the metrics of the application's meter provider; instruments cannot be removed."""
    return RunMetrics(metrics.get_meter("zemosaic", __version__))


class RunMetrics:
    """Counts pairs and measures their durations and the time without an ended job.

    Parameters
    ----------
    meter : opentelemetry.metrics.Meter
        Source of the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self._last_end_ns = 0  # 0 while no run is in progress
        self._done = meter.create_counter(PAIRS_DONE, "{pair}", "Ended pairs, by outcome.")
        self._durations = meter.create_histogram(
            PAIR_DURATION,
            "s",
            "Time from the start of a pair to its end.",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        meter.create_observable_gauge(
            IDLE_TIME, [self._observe_idle_time], "s", "Time since a job last ended."
        )

    def start(self, time_ns: int) -> None:
        """Begin a run."""
        self._last_end_ns = time_ns

    def stop(self) -> None:
        """End the run."""
        self._last_end_ns = 0

    def job_ended(self, time_ns: int) -> None:
        """Restart the time without an ended job."""
        self._last_end_ns = max(self._last_end_ns, time_ns)

    def pair_ended(self, event: JobEnded, span: Span) -> None:
        """Count a pair; its span is the exemplar of its duration."""
        outcome = {"zemosaic.pair.outcome": event.outcome}
        self._done.add(1, outcome)
        seconds = max(0, event.ended_ns - event.started_ns) / 1e9
        self._durations.record(seconds, outcome, trace.set_span_in_context(span))

    def _observe_idle_time(self, options: CallbackOptions) -> Iterable[Observation]:
        if self._last_end_ns:
            yield Observation(max(0, time.time_ns() - self._last_end_ns) / 1e9)
