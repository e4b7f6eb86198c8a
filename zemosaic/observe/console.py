"""What a person sees of a run: a progress bar, or plain lines where there is no terminal.

Every number is one that was seen: jobs that ended, of all; failures among them; the rate of
the last half minute; the time left with its spread, or that it is not known.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ..runtime.events import (
    Heartbeat,
    JobEnded,
    Note,
    Observer,
    RunEnded,
    SlowJob,
    StageEnded,
    StageStarted,
)
from ..runtime.stacks import innermost
from .progress import ProgressRate

TITLES = {"scan": "headers", "tiles": "previews", "apply": "corrected tiles"}
EVERY = 10.0  # seconds between two lines of progress where there is no terminal
ADVICE = 6  # heartbeats between two times that one is told what can be done
LOST = ("failed", "timeout", "crashed")


class Console(Observer):
    """Shows progress and tells at once what went wrong, on standard error.

    Parameters
    ----------
    terminal : rich.console.Console
        Where to; without colours where ``NO_COLOR`` is set, without a bar where it is a file.
    folder : pathlib.Path, optional
        Run folder, for the command that looks into it.
    quiet, verbose : bool
        Tell only what is wrong; tell of every job.
    clock : callable
        Seconds that go on.
    """

    def __init__(
        self,
        terminal: Terminal,
        folder: Path | None = None,
        *,
        quiet: bool = False,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terminal, self._folder, self._clock = terminal, folder, clock
        self._quiet, self._verbose = quiet, verbose
        self._bar: Progress | None = None
        self._pace: ProgressRate | None = None
        self._told = 0.0
        self._telling = False  # of this stage, in lines
        self._beats = 0  # without anything having ended in between
        self.stage_seconds: dict[str, float] = {}
        self._started: dict[str, int] = {}

    def stage_started(self, event: StageStarted) -> None:
        """Start a bar."""
        self._started[event.stage] = event.time_ns
        if not event.total:
            return
        self._told, self._telling = self._clock(), False
        self._pace = ProgressRate(event.total, self._told)
        if self._terminal.is_terminal and not self._quiet:
            self._bar = Progress(
                TextColumn("{task.description:>16}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(self._pace, self._clock),
                console=self._terminal,
                transient=True,
            )
            self._bar.add_task(_title(event.stage), total=event.total)
            self._bar.start()

    def stage_ended(self, event: StageEnded) -> None:
        """Stop the bar; say how the stage went, if lines told of it before."""
        seconds = (event.time_ns - self._started[event.stage]) / 1e9
        self.stage_seconds[event.stage] = seconds
        if self._pace is not None:
            if self._verbose or self._telling:
                self._say(logging.INFO, f"{self._counted(event.stage)} in {seconds:.1f} s")
            self._pace = None
        self._stop()

    def job_ended(self, event: JobEnded) -> None:
        """Advance the bar; say which job failed."""
        now, self._beats = self._clock(), 0
        if self._pace is not None:
            self._pace.ended(event.done, now, event.outcome in LOST)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=event.done)
        what = _name(event.stage, event.index, event.attributes)
        if event.error is not None:
            self._say(logging.ERROR, f"{what}: {event.error}")
        elif self._verbose:
            why = f": {event.attributes['reason']}" if "reason" in event.attributes else ""
            took = (event.ended_ns - event.started_ns) / 1e9
            self._say(logging.INFO, f"{what} {event.outcome} in {took:.3f} s{why}")
        if self._pace is None or self._bar is not None or event.done == event.total:
            return
        if now - self._told >= EVERY:
            self._told, self._telling = now, True
            self._say(logging.INFO, f"{self._counted(event.stage)}, {self._pace.words(now)}")

    def heartbeat(self, event: Heartbeat) -> None:
        """Say that nothing moves, what is stuck and where, what will happen, what can be done."""
        count = len(event.running_indices)
        lines = [
            f"nothing has ended for {event.idle_time:.0f} s: {event.done} of {event.total} "
            f"{_title(event.stage)} done, {count} running"
        ]
        parts = [*event.running_steps, *[""] * count]
        running = zip(
            event.running_indices, event.running_attributes, event.running_time, parts,
            strict=False,
        )  # fmt: skip
        for number, (index, known, seconds, part) in enumerate(running):
            where = innermost(event.stack) if number == 0 else ""
            said = [f"for {seconds:.0f} s", part and f"at {part!r}", where and f"in {where}"]
            if event.timeout:
                said.append(f"given up in {max(0.0, event.timeout - seconds):.0f} s")
            else:
                said.append("never given up (no time-out is set)")
            name = _name(event.stage, index, known)
            lines.append(f"  {name}: {', '.join(filter(None, said))}")
        if self._beats % ADVICE == 0:
            lines.append(f"  {self._advice(event)}")
        self._beats += 1
        if self._verbose:
            lines += [f"    {line}" for line in event.stack.splitlines()]
        self._say(logging.WARNING, "\n".join(lines))

    def slow_job(self, event: SlowJob) -> None:
        """Name a slow job while the others go on."""
        what = _name(event.stage, event.index, event.attributes)
        where = innermost(event.stack)
        parts = [event.step and f"at {event.step!r}", where and f"in {where}"]
        at = ", ".join(["", *filter(None, parts)])
        self._say(logging.WARNING, f"{what} has been running for {event.running_time:.0f} s{at}")

    def note(self, event: Note) -> None:
        """Say it."""
        self._say(event.level, event.message)

    def run_ended(self, event: RunEnded) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _counted(self, stage: str) -> str:
        rate = self._pace
        assert rate is not None
        failed = f" ({rate.failed} failed)" if rate.failed else ""
        return f"{_title(stage)}: {rate.done} of {rate.total}{failed}"

    def _advice(self, event: Heartbeat) -> str:
        after = "is given up, and the others go on" if event.timeout else "may never end"
        look = f"zemosaic status {shlex.quote(str(self._folder))}" if self._folder else ""
        see = f'; see more with "{look}" in another terminal' if look else ""
        return f"wait (what hangs {after}){see}; or stop with Ctrl-C, and go on later with --resume"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, level: int, message: str) -> None:
        if level < (logging.WARNING if self._quiet else logging.INFO):
            return
        style = {logging.ERROR: "bold red", logging.WARNING: "yellow"}.get(level, "")
        now = time.strftime("%H:%M:%S")
        line = Text(f"{now} " + message.replace("\n", f"\n{now} "), style=style)
        self._terminal.print(line, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Failures, rate and time left; drawn anew while nothing ends, so that it slows down too."""

    def __init__(self, rate: ProgressRate, clock: Callable[[], float]) -> None:
        super().__init__()
        self._pace, self._clock = rate, clock

    def render(self, task: Task) -> Text:
        """The words."""
        failed = f"{self._pace.failed} failed, " if self._pace.failed else ""
        return Text(failed + self._pace.words(self._clock()))


def _title(stage: str) -> str:
    return TITLES.get(stage, stage)


def _name(stage: str, index: int, attributes: Mapping[str, Any]) -> str:
    """What a person calls a job: pair 348 (a.fits, b.fits), or the tile's name."""
    if stage == "pairs":
        return f"pair {index} ({attributes.get('name_i')}, {attributes.get('name_j')})"
    return str(attributes.get("name", f"tile {index}"))
