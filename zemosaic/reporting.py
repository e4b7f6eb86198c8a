"""Reports of a run to the logger and the progress callback of an application."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .observe.progress import job_name
from .runtime import stacks
from .runtime.events import Heartbeat, JobEnded, Note, SlowJob, StageEnded, StageStarted
from .runtime.observers import Observer

#: Indices of pending jobs in the log line of a heartbeat, and running jobs described there.
HEARTBEAT_INDICES, HEARTBEAT_JOBS = 5, 3
#: Pairs between two progress reports of the phase, and between two log lines.
PHASE_INTERVAL, LOG_INTERVAL = 5, 25
#: Names of levels that the queue of ZeMosaic's worker passes on: INFO, WARN, ERROR, SUCCESS.
_LEVELS = {logging.WARNING: "WARN"}


class CallbackReporter(Observer):
    """Logs heartbeats, slow and failed jobs and notes.

    Parameters
    ----------
    logger : logging.Logger or None
        Receives the lines.
    callback : callable or None
        Called with ``(line, None, level)``, where warnings have the level "WARN", which ZeMosaic
        shows. Its exceptions are ignored, and the first is logged.
    prefix : str
        Start of each line.
    labels : callable
        Maps the index of a job to its name in the application.
    """

    def __init__(
        self,
        logger: logging.Logger | None,
        callback: Callable[..., Any] | None,
        prefix: str,
        labels: Callable[[int], Any] = lambda index: index,
    ) -> None:
        self._logger, self._callback, self._prefix = logger, callback, prefix
        self.labels = labels
        self._callback_failed = False

    def log(self, level: int, message: str) -> None:
        """Log a line at a level of the logging module."""
        line = message if message.startswith(self._prefix) else self._prefix + message
        if self._logger is not None:
            self._logger.log(level, line)
        self.call_back(line, None, _LEVELS.get(level, logging.getLevelName(level)))

    def job_ended(self, event: JobEnded) -> None:
        """Log the failure of a job."""
        if event.error is not None:
            index = self.labels(event.index)
            self.log(logging.ERROR, f"{self.kind(event.stage)} failed idx={index}: {event.error}")

    def kind(self, stage: str) -> str:
        """Return the name of a stage's jobs."""
        return "Future"

    def heartbeat(self, event: Heartbeat) -> None:
        """Log the counts, the first pending indices, and the oldest running jobs."""
        sample = [self.labels(index) for index in event.pending_indices[:HEARTBEAT_INDICES]]
        last = self.labels(event.last_completed_index) if event.last_completed_index else None
        self.log(
            logging.WARNING,
            f"Heartbeat: done={event.done}/{event.total} pending={event.pending} "
            f"last_completed_idx={last} sample_pending_idx={sample}",
        )
        for line in _running_jobs(event):
            self.log(logging.WARNING, line)

    def slow_job(self, event: SlowJob) -> None:
        """Log a slow job."""
        name = job_name(event.stage, event.index, event.attributes)
        self.log(
            logging.WARNING,
            f"Slow: idx={self.labels(event.index)} {name} has run for "
            f"{round(event.running_time)} s{_place(event.step, event.stack)}",
        )

    def note(self, event: Note) -> None:
        """Log a note."""
        self.log(event.level, event.message)

    def call_back(self, *arguments: Any) -> None:
        """Call the callback; log its first exception, as when its window has been closed."""
        if self._callback is None:
            return
        try:
            self._callback(*arguments)
        except Exception as error:  # noqa: BLE001
            if not self._callback_failed and self._logger is not None:
                self._callback_failed = True
                name = type(error).__name__
                self._logger.warning("%sprogress_callback raised %s: %s", self._prefix, name, error)


class PhaseReporter(CallbackReporter):
    """Reports the phase as ZeMosaic's own function does.

    Parameters
    ----------
    tiles : int
        Number of tiles.
    most_pairs : int
        Upper limit of the number of pairs, which is unknown while the tiles are prepared.
    """

    def __init__(
        self,
        logger: logging.Logger | None,
        callback: Callable[..., Any] | None,
        tiles: int,
        most_pairs: int,
    ) -> None:
        super().__init__(logger, callback, "[Intertile] ")
        self._tiles, self._most_pairs = tiles, most_pairs
        #: Attributes of the stages, by short names.
        self.attributes: dict[str, Any] = {}

    def kind(self, stage: str) -> str:
        """Return "Pair future", or "Tile future" in the stages before."""
        return "Pair future" if stage == "pairs" else "Tile future"

    def stage_started(self, event: StageStarted) -> None:
        """Log the number of tiles or pairs."""
        if event.stage == "tiles":
            self.log(logging.INFO, f"Preparing {event.total} tiles")
        elif event.stage == "pairs":
            self.log(logging.INFO, f"Measuring {event.total} pairs")

    def stage_ended(self, event: StageEnded) -> None:
        """Keep the attributes; log the number of pairs."""
        self.attributes.update(event.attributes)
        if event.stage == "overlap":
            raw, pruned = event.attributes["pairs.candidates"], event.attributes["pairs.total"]
            self.log(logging.INFO, f"Pair pruning summary: raw={raw} pruned={pruned}")

    def job_ended(self, event: JobEnded) -> None:
        """Report the progress of both stages as one count of prepared tiles and ended pairs."""
        super().job_ended(event)
        done, total = event.done, event.total
        if event.stage == "tiles":
            # At least as many pairs as there can be, so that the share done never falls.
            self.call_back("phase5_intertile", done, self._tiles + self._most_pairs)
        elif event.stage == "pairs":
            self.call_back("phase5_intertile_pairs", done, total)
            if done % PHASE_INTERVAL == 0 or done == total:
                self.call_back("phase5_intertile", self._tiles + done, self._tiles + total)
            if done % LOG_INTERVAL == 0 or done == total:
                self.log(logging.INFO, f"progress pairs_done={done}/{total}")


def _running_jobs(event: Heartbeat) -> list[str]:
    """Return a line for each of the longest-running jobs: its name, time and place."""
    lines = []
    for number, index in enumerate(event.running_indices[:HEARTBEAT_JOBS]):
        step = event.running_steps[number] if number < len(event.running_steps) else ""
        stack = event.stack if number == 0 else ""
        name = job_name(event.stage, index, event.running_attributes[number])
        seconds = round(event.running_time[number])
        lines.append(f"  {name}: for {seconds} s{_place(step, stack)}")
    return lines


def _place(step: str, stack: str) -> str:
    """Return the step and the innermost line of a job, as far as known."""
    parts = [f"step {step}"] if step else []
    if line := stacks.innermost(stack):
        parts.append(f"in {line}")
    return ", " + ", ".join(parts) if parts else ""
