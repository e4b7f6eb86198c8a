"""The trace of a run folder: written to its file, sent to a collector, known to its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..runtime import journal
from ..runtime.journal import Journal
from .run_recorder import Telemetry
from .tracing import Tracing


def make_telemetry(
    tracing: Tracing, facts: Mapping[str, Any], heartbeat: float, **options: Any
) -> Telemetry:
    """Return the observer that makes the spans.

    Parameters
    ----------
    tracing : Tracing
        Receives the spans.
    facts : Mapping
        Facts about the trace (`Ids.facts`).
    heartbeat : float
        Longest time in seconds between two snapshots of open spans.
    options
        More arguments of `Telemetry`.
    """
    live = facts["live"]
    return Telemetry(
        tracing.tracer,
        tracing.show_open_spans(heartbeat) if live == "snapshot" else None,
        markers=live == "marker",
        parent=facts["parent"],
        signals=tracing.signals,
        **options,
    )


@contextmanager
def recorded_deliveries(
    tracing: Tracing, journals: Sequence[Journal], report: Callable[[str], None]
) -> Iterator[None]:
    """Write to the journal which spans are delivered; report the others at the end."""

    def on_delivered(numbers: list[int]) -> None:
        with suppress(OSError):  # the journal itself reports a full disk
            for entry in journals:
                entry.write({"kind": "delivered", "spans": journal.ranges(numbers)})

    tracing.on_delivered = on_delivered
    try:
        yield
    finally:
        for problem in tracing.close():
            report(problem)
        tracing.on_delivered = lambda numbers: None
