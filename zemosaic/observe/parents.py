"""Parents and links of a run's span that come from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


def environment_parent() -> dict[str, str]:
    """Return TRACEPARENT and TRACESTATE, as far as they are set."""
    names = ("traceparent", "tracestate")
    return {name: os.environ[name.upper()] for name in names if os.environ.get(name.upper())}


def parent_context(carrier: Mapping[str, str]) -> context.Context | None:
    """Return the context of a remote parent; None if the carrier has no valid one."""
    return TraceContextTextMapPropagator().extract(carrier) or None


def remote_span(trace_id: int, span_id: int) -> trace.SpanContext:
    """Return the context of a span of another process."""
    return trace.SpanContext(trace_id, span_id, True, trace.TraceFlags(trace.TraceFlags.SAMPLED))
