"""Heartbeats and slow jobs in words."""

from __future__ import annotations

from collections.abc import Iterator

from ..observe.progress import job_name, stage_title
from ..runtime.events import Heartbeat, SlowJob
from ..runtime.stacks import innermost


def alert_job(alert: Heartbeat | SlowJob) -> tuple[int, str]:
    """Return index and name of the slow or, of a heartbeat, the longest running job.

    The index is 0 if no job is running.
    """
    if isinstance(alert, SlowJob):
        index, attributes = alert.index, alert.attributes
    else:
        index = next(iter(alert.running_indices), 0)
        attributes = next(iter(alert.running_attributes), {})
    return index, job_name(alert.stage, index, attributes)


def alert_text(alert: Heartbeat | SlowJob) -> str:
    """Return the description of an alert, in several lines."""
    lines = _slow_lines(alert) if isinstance(alert, SlowJob) else _heartbeat_lines(alert)
    frame = innermost(alert.stack)
    return "\n".join([*lines, *([f"at {frame}"] if frame else [])])


def _slow_lines(alert: SlowJob) -> Iterator[str]:
    yield f"{alert_job(alert)[1]} has been running for {alert.running_time:.0f} s"


def _heartbeat_lines(alert: Heartbeat) -> Iterator[str]:
    yield f"no job has finished for {alert.idle_time:.0f} s"
    yield f"{stage_title(alert.stage)}: {alert.done} of {alert.total} done"
    running = zip(alert.running_indices, alert.running_attributes, alert.running_time, strict=True)
    for index, attributes, seconds in running:
        yield f"{job_name(alert.stage, index, attributes)}: {seconds:.0f} s"
