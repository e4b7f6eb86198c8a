"""The spans of one run, made with the API of OpenTelemetry alone.

No other module imports that API for an application; metrics take what they need of it from here.

The parent process makes all spans, at the times that the workers report. The death of a worker
therefore loses no span, and workers need no SDK. Without an SDK in the process the spans of the
API record nothing and cost next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import Meter, Observation
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .._version import __version__
from .attributes import valid_text

PHASE = "phase5_intertile"
__all__ = [
    "PHASE", "EventLog", "LogRecord", "Meter", "Observation", "Span", "SpanTree", "Tracer",
    "default_meter", "default_tracer", "environment_parent", "set_error", "span_context", "span_id",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Return a name of `run_recorder`: `Telemetry` and others were in this module before 0.3."""
    if not name.startswith("__"):
        from . import run_recorder

        if name in run_recorder.__all__:
            return getattr(run_recorder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class LogRecord(NamedTuple):
    """A log record that belongs to a span."""

    name: str
    time_ns: int
    severity: str
    body: str
    attributes: Mapping[str, Any]
    span: SpanContext


class EventLog(Protocol):
    """Receives the events of a run as log records."""

    def emit(self, record: LogRecord) -> None:
        """Send a log record; return at once."""


def default_tracer() -> Tracer:
    """Return a tracer of the application's provider; no provider is ever set here."""
    return trace.get_tracer("zemosaic", __version__)


def default_meter() -> Meter:
    """Return a meter of the application's provider; no provider is ever set here."""
    return metrics.get_meter("zemosaic", __version__)


def environment_parent() -> dict[str, str]:
    """Return TRACEPARENT and TRACESTATE, as far as they are set."""
    names = ("traceparent", "tracestate")
    return {name: os.environ[name.upper()] for name in names if os.environ.get(name.upper())}


class SpanTree:
    """The root span of a run and the spans below it.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer
        Makes the spans.
    name : str
        Name of the root, which stands for "phase5_intertile" in the names of all spans.
    start_ns : int
        Start of the root, in nanoseconds since the epoch.
    parent : Mapping
        "traceparent" and "tracestate" of the root's parent, as W3C defines them. Without a valid
        one it is the current span.
    earlier : Mapping
        "trace" and "span": ids of a root to which this one has a link; empty for no link.
    log : EventLog, optional
        Receives the events of the spans.

    Attributes
    ----------
    open : dict
        Open spans, the root first, with the attributes that each has only while it is open.
    """

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        start_ns: int,
        parent: Mapping[str, str],
        earlier: Mapping[str, Any],
        log: EventLog | None = None,
    ) -> None:
        self._tracer, self._name, self._log = tracer, name, log
        links = []
        if earlier:
            sampled = TraceFlags(TraceFlags.SAMPLED)
            links = [Link(SpanContext(earlier["trace"], earlier["span"], True, sampled))]
        above = TraceContextTextMapPropagator().extract(parent) or None
        self.root = tracer.start_span(name, above, links=links, start_time=start_ns)
        self.open: dict[Span, dict[str, Any]] = {self.root: {}}
        self._contexts: dict[Span, context.Context] = {}

    @property
    def is_recording(self) -> bool:
        """Whether anything is recorded."""
        return self.root.is_recording()

    @property
    def trace_id(self) -> str:
        """The trace id as 32 hexadecimal digits."""
        return trace.format_trace_id(self.root.get_span_context().trace_id)

    def start(
        self, name: str, parent: Span, start_ns: int, attributes: Mapping[str, Any] | None = None
    ) -> Span:
        """Start a span; its name begins with "phase5_intertile"."""
        if parent not in self._contexts:
            self._contexts[parent] = span_context(parent)
        name = self._name + name.removeprefix(PHASE)
        return self._tracer.start_span(
            name, self._contexts[parent], attributes=attributes, start_time=start_ns
        )

    def end(self, span: Span, end_ns: int) -> None:
        """End a span."""
        span.end(end_time=end_ns)
        self.open.pop(span, None)
        self._contexts.pop(span, None)

    def add_event(
        self, span: Span, name: str, time_ns: int, attributes: Mapping[str, Any], body: str
    ) -> None:
        """Add an event to a span, and with a text to the log.

        OpenTelemetry is replacing span events by log records (OTEP 4430).
        """
        span.add_event(name, attributes, timestamp=time_ns)
        if self._log is not None:
            severity = "ERROR" if name == "exception" else "WARN"
            above = span.get_span_context()
            self._log.emit(LogRecord(name, time_ns, severity, body, attributes, above))


def span_context(span: Span) -> context.Context:
    """Return a context with this current span."""
    return trace.set_span_in_context(span)


def span_id(span: Span) -> str:
    """Return the id of a span as 16 hexadecimal digits."""
    return trace.format_span_id(span.get_span_context().span_id)


def set_error(span: Span, error_type: str, message: str) -> None:
    """Set the status of a span to ERROR."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, valid_text(message)))
