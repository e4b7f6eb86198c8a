"""Send the spans of an ended run that its collector did not receive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import atomic_write
from ..observe.autopsy import Autopsy
from ..observe.endpoint import (
    DEFAULT_ENDPOINT,
    export_target,
    trace_url,
    traces_endpoint,
    without_credentials,
)
from ..observe.ids import Ids
from ..observe.replay import replay
from ..observe.run_recorder import PHASE, Telemetry
from ..observe.tracing import Tracing
from ..runtime import journal
from ..runtime.run_folder import RunFolder, claim


def send_missing_spans(autopsy: Autopsy, otlp: str) -> list[str]:
    """Send the missing spans, complete the trace file, and return the result as lines.

    Parameters
    ----------
    autopsy : Autopsy
        The run.
    otlp : str
        Endpoint of the collector; empty for the run's own.

    Raises
    ------
    UserError
        The run is still in progress.
    """
    if autopsy.state == "running":
        raise UserError(f"{autopsy.folder}: the run is still in progress and sends its own spans")
    about = autopsy.record.about
    if "trace" not in about:
        raise UserError(
            f"{RunFolder(autopsy.folder).journal}: the line about the run is damaged, so its spans "
            "cannot be made again"
        )
    trace = about["trace"]
    endpoint = trace["endpoint"]
    if otlp or not endpoint:
        endpoint = traces_endpoint(otlp or DEFAULT_ENDPOINT)
    same_collector = _address(endpoint) == _address(trace["endpoint"])
    with claim(autopsy.folder):
        # Another collector may have none of the spans, so it gets all of them.
        delivered = autopsy.record.delivered if same_collector else set()
        ids = Ids(trace["id"], trace["first"])
        with atomic_write(RunFolder(autopsy.folder).trace) as trace_file:
            tracing = Tracing(trace_file, endpoint, ids, delivered)
            with _record_delivered(autopsy.folder, tracing, same_collector) as sent:
                telemetry = Telemetry(
                    tracing.tracer,
                    markers=trace["live"] == "marker",
                    host=about["host"],
                    parent=trace.get("parent"),
                    resumed_from=about.get("resumed_from"),
                    signals=tracing.signals,
                    name=about.get("loop", PHASE),
                )
                replay(autopsy, telemetry)
                lines = [f"zemosaic: {problem}" for problem in tracing.close()]
    lines.append(f"sent         {len(sent)} spans that {tracing.endpoint} did not have")
    if page := trace_url(endpoint, telemetry.trace_id, telemetry.find):
        lines.append(f"trace        {page}")
    return lines


def _address(endpoint: str) -> str:
    return without_credentials(export_target(endpoint).address) if endpoint else ""


@contextlib.contextmanager
def _record_delivered(folder: Path, tracing: Tracing, in_journal: bool) -> Iterator[list[int]]:
    """Yield the numbers of the delivered spans, and add them to the journal at the end."""
    sent: list[int] = []
    tracing.on_delivered = sent.extend
    yield sent
    tracing.on_delivered = lambda numbers: None
    if in_journal and sent:
        journal.append(folder, {"kind": "delivered", "spans": journal.ranges(sent)})
