"""Names and attributes of the spans of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..runtime.events import JobEnded, JobRunning, SlowJob
from .attributes import Names, valid_attributes

PAIR = "phase5_intertile.pair"
TILE = "phase5_intertile.tile"
BLOCK = "phase5_intertile.block"
FUTURE = "phase5_intertile.future"


class JobSpan(NamedTuple):
    """Names of the span of a job, of its attributes and of the times of its steps."""

    name: str
    attributes: Names
    steps: Names


TILE_SPAN = JobSpan(TILE, Names("zemosaic.tile."), Names("zemosaic.tile.stage."))
JOB_SPANS = {
    "pairs": JobSpan(PAIR, Names("zemosaic.pair."), Names("zemosaic.pair.stage.")),
    "tiles": TILE_SPAN,
    "blocks": JobSpan(BLOCK, Names("zemosaic.block."), Names("zemosaic.block.stage.")),
    "loop": JobSpan(FUTURE, Names("zemosaic.future."), Names("zemosaic.future.stage.")),
}


def job_span(stage: str) -> JobSpan:
    """Return the names of the spans of a stage's jobs; a tile fails in stage "scan" too."""
    return JOB_SPANS.get(stage, TILE_SPAN)


def job_attributes(event: JobEnded, host: str) -> dict[str, Any]:
    """Return the attributes of the span of a job."""
    _, names, steps = job_span(event.stage)
    attributes = valid_attributes(event.attributes, names)
    attributes.setdefault(names["index"], event.index)
    attributes[names["outcome"]] = event.outcome
    attributes[names["queue_time"]] = _queue_time(event)
    attributes.update(valid_attributes(event.step_times, steps))
    attributes["host.name"] = event.host or host
    if event.clock_offset:
        attributes["zemosaic.host.clock_offset"] = event.clock_offset
    if event.pid:
        attributes["process.pid"] = event.pid
    return attributes


def slow_job_attributes(event: SlowJob, *, with_stack: bool) -> dict[str, Any]:
    """Return the attributes of the event of a slow job."""
    names = job_span(event.stage).attributes
    attributes = {
        names["index"]: event.index,
        "zemosaic.stage": event.stage,
        **{names[key]: value for key, value in event.attributes.items()},
        names["running_time"]: event.running_time,
        names["running_stage"]: event.step or None,
    }
    if event.stack and with_stack:
        attributes["code.stacktrace"] = event.stack
    return valid_attributes(attributes)


def running_attributes(event: JobRunning, host: str) -> dict[str, Any]:
    """Return the attributes of the open span of a running job."""
    names = job_span(event.stage).attributes
    return valid_attributes(
        {
            **{names[key]: value for key, value in event.attributes.items()},
            names["index"]: event.attributes.get("index", event.index),
            names["running_time"]: event.running_time,
            names["running_stage"]: event.step or None,
            "code.stacktrace": event.stack or None,
            "process.pid": event.pid or None,
            "host.name": event.host or host,
        }
    )


def job_files(attributes: Mapping[str, Any]) -> list[Any]:
    """Return the names of the tiles of a job."""
    names = [attributes[key] for key in ("name_i", "name_j", "name") if key in attributes]
    return names + list(attributes.get("tiles", ()))


def oldest_attributes(stage: str, running: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the phase about the longest-running job."""
    names = job_span(stage).attributes
    keys = ("name_i", "name_j", "name", "tiles")
    files = job_files({key: running[names[key]] for key in keys if names[key] in running})
    return valid_attributes(
        {
            "zemosaic.stage": stage,
            "zemosaic.oldest.index": running.get(names["index"]),
            "zemosaic.oldest.files": files,
            "zemosaic.oldest.running_time": running.get(names["running_time"]),
            "zemosaic.oldest.running_stage": running.get(names["running_stage"]),
            "code.stacktrace": running.get("code.stacktrace"),
        }
    )


def _queue_time(event: JobEnded) -> float:
    """Return the time in the queue in seconds; the clocks of two machines may disagree."""
    return max(0, event.started_ns - event.submitted_ns) / 1e9
