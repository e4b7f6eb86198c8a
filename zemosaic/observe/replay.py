"""The events of an ended run once more, with the ends missing from its journal.

Span ids follow from the order of the events, so the spans get the ids that they had.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..runtime import journal
from ..runtime.events import Event, JobEnded, JobError, RunEnded, StageEnded
from ..runtime.observers import FanOut, Observer
from .autopsy import Autopsy, StuckJob

RUN_DIED = "RunDied"  # error type of the jobs that died with their run


def all_events(autopsy: Autopsy) -> Iterator[Event]:
    """Yield all events of an ended run, with the missing ends of a dead one."""
    yield from journal.read_events(autopsy.folder, autopsy.record.place)
    yield from lost_ends(autopsy)


def lost_ends(autopsy: Autopsy) -> Iterator[Event]:
    """Yield the ends missing from the journal of a dead run."""
    if autopsy.record.ended is not None:
        return
    for job in autopsy.running_jobs:
        yield _died_with_run(autopsy, job)
    if autopsy.stage:
        yield StageEnded(stage=autopsy.stage, time_ns=autopsy.last_ns)
    error = JobError(RUN_DIED, autopsy.cause) if autopsy.state == "died" else None
    yield RunEnded(state=autopsy.state, time_ns=autopsy.last_ns, error=error)


def _died_with_run(autopsy: Autopsy, job: StuckJob) -> JobEnded:
    row = job.row
    done, total = autopsy.job_counts(row.stage)
    return JobEnded(
        stage=row.stage,
        index=row.index,
        done=done,
        total=total,
        outcome="crashed",
        attributes=job.attributes,
        submitted_ns=row.started_ns,
        started_ns=row.started_ns,
        ended_ns=max(autopsy.last_ns, row.started_ns),
        pid=row.pid,
        host=row.host,
        error=JobError(
            RUN_DIED, f"the run died while this job was in step {row.step!r}", job.stack
        ),
    )


def replay(autopsy: Autopsy, observer: Observer) -> None:
    """Send all events of a run to an observer, from its start to its end."""
    fan_out = FanOut([observer])
    for event in all_events(autopsy):
        fan_out.dispatch(event)
