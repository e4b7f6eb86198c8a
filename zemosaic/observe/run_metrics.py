"""The metrics of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from ..runtime.events import JobEnded
from .telemetry import Meter, Observation, Span, default_meter, span_context

PAIRS_DONE = "zemosaic.pairs.done"
PAIR_DURATION = "zemosaic.pair.duration"
IDLE_TIME = "zemosaic.idle_time"
#: Upper bounds of the buckets in seconds, from short pairs to the time-out.
DURATIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@cache
def application_metrics() -> RunMetrics:
    """Return the metrics of the application's meter provider; instruments cannot be removed."""
    return RunMetrics(default_meter())


class RunMetrics:
    """Counts pairs and measures their durations and the time without an ended job.

    Parameters
    ----------
    meter : opentelemetry.metrics.Meter or None
        Source of the instruments; with None nothing is measured.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._last_end_ns = 0  # 0 while no run is in progress
        self._uncounted: Counter[str] = Counter()
        self._is_off = meter is None
        if meter is None:
            return
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
        self.count()
        self._last_end_ns = 0

    def job_ended(self, time_ns: int) -> None:
        """Restart the time without an ended job."""
        self._last_end_ns = max(self._last_end_ns, time_ns)

    def pair_ended(self, event: JobEnded, span: Span) -> None:
        """Record a pair, to be counted; its span is the exemplar of its duration."""
        if self._is_off:
            return
        self._uncounted[event.outcome] += 1
        seconds = max(0, event.ended_ns - event.started_ns) / 1e9
        self._durations.record(seconds, _outcome(event.outcome), span_context(span))

    def count(self) -> None:
        """Count the pairs that ended together, which costs as much as counting one."""
        for outcome, pairs in self._uncounted.items():
            self._done.add(pairs, _outcome(outcome))
        self._uncounted.clear()

    def _observe_idle_time(self, options: Any) -> Iterable[Observation]:
        if self._last_end_ns:
            yield Observation(max(0, time.time_ns() - self._last_end_ns) / 1e9)


@cache
def _outcome(outcome: str) -> dict[str, str]:
    return {"zemosaic.pair.outcome": outcome}
