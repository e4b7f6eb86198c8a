"""What a person sees of a run: a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from zemosaic.runtime.events import (
    Heartbeat,
    JobEnded,
    Note,
    Observer,
    RunEnded,
    SlowJob,
    StageEnded,
    StageStarted,
)

TITLES = {"scan": "headers", "apply": "corrected tiles"}


class Console(Observer):
    """Shows progress and tells at once what went wrong, on standard error."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._names: dict[tuple[str, int], str] = {}
        self.stage_seconds: dict[str, float] = {}
        self._started: dict[str, int] = {}

    def stage_started(self, event: StageStarted) -> None:
        """Start a bar."""
        self._started[event.stage] = event.time_ns
        if event.total and self._terminal.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:>16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._terminal,
                transient=True,
            )
            title = TITLES.get(event.stage, event.stage)
            self._task = self._progress.add_task(title, total=event.total)
            self._progress.start()

    def stage_ended(self, event: StageEnded) -> None:
        """Stop the bar."""
        self._stop()
        seconds = (event.time_ns - self._started[event.stage]) / 1e9
        self.stage_seconds[event.stage] = seconds

    def job_ended(self, event: JobEnded) -> None:
        """Advance the bar; say which job failed."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=event.done)
        if event.error is not None:
            what = _name(event.stage, event.index, event.attributes)
            self._say(logging.ERROR, f"{what}: {event.error}")

    def heartbeat(self, event: Heartbeat) -> None:
        """Say that nothing moves, and what is stuck."""
        running = zip(
            event.running_indices, event.running_attributes, event.running_time, strict=True
        )
        stuck = ", ".join(f"{_name(event.stage, i, a)} for {s:.0f} s" for i, a, s in running)
        self._say(
            logging.WARNING,
            f"heartbeat: {event.done}/{event.total} {TITLES.get(event.stage, event.stage)} done, "
            f"none for {event.idle_time:.0f} s; running: {stuck or 'none'}; "
            f"last to end: {event.last_completed_index or 'none'}",
        )

    def slow_job(self, event: SlowJob) -> None:
        """Name a slow job while the others go on."""
        what = _name(event.stage, event.index, event.attributes)
        self._say(logging.WARNING, f"{what} has been running for {event.running_time:.0f} s")

    def note(self, event: Note) -> None:
        """Say it."""
        self._say(event.level, event.message)

    def run_ended(self, event: RunEnded) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _say(self, level: int, message: str) -> None:
        style = {logging.ERROR: "bold red", logging.WARNING: "yellow"}.get(level, "")
        line = Text(f"{time.strftime('%H:%M:%S')} {message}", style=style)
        self._terminal.print(line, soft_wrap=True)


def _name(stage: str, index: int, attributes: Mapping[str, Any]) -> str:
    """What a person calls a job: pair 348 (a.fits, b.fits), or the tile's name."""
    if stage == "pairs":
        return f"pair {index} ({attributes.get('name_i')}, {attributes.get('name_j')})"
    return str(attributes.get("name", f"tile {index}"))
