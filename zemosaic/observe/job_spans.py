"""Attributes of the spans of jobs: a mapping for one span, columns for a batch of similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..runtime.events import JobEnded, SlowJob
from .attributes import Names, is_valid_column, valid_attributes

PAIR = "phase5_intertile.pair"
TILE = "phase5_intertile.tile"
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
    attributes["host.name"] = host
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


def batch_key(event: JobEnded) -> tuple[Any, ...]:
    """Return equal keys for jobs whose spans differ in values alone; () for a span of its own."""
    if event.error is not None or event.stage not in JOB_SPANS:
        return ()
    return (
        event.stage,
        event.outcome,
        (*event.attributes,),
        (*event.step_times,),
        bool(event.pid),
    )


def job_columns(
    events: Sequence[JobEnded], host: str
) -> tuple[tuple[str, ...], list[Sequence[Any]]] | None:
    """Return the names of the attributes of a batch, and a column of values for each.

    Parameters
    ----------
    events : sequence of JobEnded
        Jobs with the same `batch_key`.
    host : str
        Where they ran.

    Returns
    -------
    tuple or None
        None if a name comes twice or a value needs `valid_attributes`.
    """
    first, count = events[0], len(events)
    _, names, steps = job_span(first.stage)
    keys = [names[key] for key in first.attributes]
    columns: list[Sequence[Any]] = [*zip(*[e.attributes.values() for e in events], strict=True)]
    if names["index"] not in keys:
        keys.append(names["index"])
        columns.append([event.index for event in events])
    keys += [names["outcome"], names["queue_time"], *(steps[key] for key in first.step_times)]
    columns += [
        [first.outcome] * count,
        [*map(_queue_time, events)],
        *zip(*[e.step_times.values() for e in events], strict=True),
    ]
    if len({*keys}) < len(keys) or not all(map(is_valid_column, columns)):
        return None
    keys.append("host.name")
    columns.append([host] * count)
    if first.pid:
        keys.append("process.pid")
        columns.append([event.pid for event in events])
    return tuple(keys), columns


def _queue_time(event: JobEnded) -> float:
    """Return the time in the queue in seconds; the clocks of two machines may disagree."""
    return max(0, event.started_ns - event.submitted_ns) / 1e9
