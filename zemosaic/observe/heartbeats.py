"""Heartbeats in a trace: their attributes, and a selection from a long silence."""

from __future__ import annotations

from typing import Any

from ..runtime.events import Heartbeat
from .job_spans import job_files

# The first 60 heartbeats of a silence are recorded, then 60 at every second, 60 at every fourth,
# and so on up to every 32nd: a day of silence gives about five hundred.
BEATS_PER_INTERVAL = 60
MAX_INTERVAL = 32
MAX_STACKS = 32  # stacks of a silence, and of slow jobs: more show nothing new


def sentence(event: Heartbeat) -> str:
    """Return a heartbeat as a sentence."""
    if not event.total:  # a stage without jobs
        return f"{event.stage} has been running for {event.idle_time:.0f} s"
    files = job_files(event.running_attributes[0]) if event.running_attributes else []
    oldest = f"; {' and '.join(files)} for {event.running_time[0]:.0f} s" if files else ""
    return (
        f"no job has finished for {event.idle_time:.0f} s, "
        f"{event.done} of {event.total} {event.stage} done{oldest}"
    )


class HeartbeatFilter:
    """Choose the heartbeats and the stacks to record.

    Attributes
    ----------
    skipped : Heartbeat or None
        The newest heartbeat, if it was not recorded. It belongs to the end of the silence.
    """

    def __init__(self) -> None:
        self.skipped: Heartbeat | None = None
        self._last_stack = ""
        self._beats = self._recorded = self._stacks = 0

    def __bool__(self) -> bool:
        """Return whether there is a silence."""
        return self._beats > 0

    def accept(self, event: Heartbeat) -> bool:
        """Count a heartbeat, and return whether it is to be recorded."""
        self._beats += 1
        interval = min(2 ** (self._recorded // BEATS_PER_INTERVAL), MAX_INTERVAL)
        if self._beats % interval:
            self.skipped = event
            return False
        self.skipped = None
        self._recorded += 1
        return True

    def attributes(self, event: Heartbeat) -> dict[str, Any]:
        """Return the attributes of a recorded heartbeat, with its stack if it is new."""
        return {
            "zemosaic.stage": event.stage,
            "zemosaic.pairs.done": event.done,
            "zemosaic.pairs.total": event.total,
            "zemosaic.pairs.pending": event.pending,
            "zemosaic.pairs.pending_indices": event.pending_indices,
            "zemosaic.pairs.running_indices": event.running_indices,
            "zemosaic.pairs.running_time": event.running_time,
            "zemosaic.pairs.running_stages": event.running_steps,
            "zemosaic.pairs.last_completed_index": event.last_completed_index,
            "zemosaic.idle_time": event.idle_time,
            "zemosaic.oldest.files": job_files(event.running_attributes[0])
            if event.running_attributes
            else None,
            "code.stacktrace": self._new_stack(event),
        }

    def _new_stack(self, event: Heartbeat) -> str | None:
        """Return the stack of a heartbeat, or None if it is not to be recorded.

        A stack is recorded when it has changed, at most `MAX_STACKS` times in a silence.
        """
        if event.stack == self._last_stack or self._stacks >= MAX_STACKS:
            return None
        self._stacks += 1
        self._last_stack = event.stack
        return event.stack

    def end_silence(self) -> None:
        """Reset the counts, because a job has ended."""
        self.skipped = None
        self._last_stack = ""
        self._beats = self._recorded = self._stacks = 0
