"""The spans of long-running jobs, which are shown before they end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.events import Heartbeat
from .attributes import valid_text
from .job_spans import job_span, oldest_attributes
from .telemetry import Span

Key = tuple[str, int]


class RunningJobs:
    """Open spans by stage and index of their jobs, oldest first.

    Parameters
    ----------
    open_spans : dict
        All open spans of the run, the phase first, each with the attributes that it has only while
        it is open. The attributes of the phase describe the longest-running job.
    """

    def __init__(self, open_spans: dict[Span, dict[str, Any]]) -> None:
        self._open = open_spans
        self._spans: dict[Key, Span] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._spans

    def add(self, key: Key, span: Span) -> None:
        """Add the span of a job."""
        self._spans[key] = span

    def show(self, key: Key, attributes: dict[str, Any]) -> Span:
        """Set the attributes of a job's open span, and return the span."""
        self._open[self._spans[key]] = attributes
        self._describe_oldest()
        return self._spans[key]

    def pop(self, key: Key) -> Span | None:
        """Remove and return the span of a job; None if it has none yet."""
        span = self._spans.pop(key, None)
        if span is not None:
            self._describe_oldest()
        return span

    def update(self, event: Heartbeat) -> None:
        """Update times and steps from a heartbeat, which has the stack of the oldest job."""
        running = list(event.running_indices)
        names = job_span(event.stage).attributes
        for (stage, index), span in self._spans.items():
            if stage != event.stage or index not in running:
                continue
            position = running.index(index)
            shown = {**self._open[span], names["running_time"]: event.running_time[position]}
            if any(event.running_steps[position : position + 1]):
                shown[names["running_stage"]] = event.running_steps[position]
            if position == 0 and event.stack:
                shown["code.stacktrace"] = valid_text(event.stack)
            self._open[span] = shown
        self._describe_oldest()

    def _describe_oldest(self) -> None:
        described: Mapping[str, Any] = {}
        if self._spans:
            (stage, _), span = next(iter(self._spans.items()))
            described = oldest_attributes(stage, self._open[span])
        self._open[next(iter(self._open))] = dict(described)
