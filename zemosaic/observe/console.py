"""Progress of a run on standard error: a bar on a terminal, plain lines elsewhere.

All figures are measured: ended and failed jobs, the rate over the last half minute, and the time
left with its uncertainty, or that it is unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ..runtime.events import Heartbeat, JobEnded, Note, RunEnded, SlowJob, StageEnded, StageStarted
from ..runtime.observers import Observer
from ..runtime.stacks import innermost
from ..text import printable, shell_command
from ..threads import report
from .progress import FAILED_OUTCOMES, ProgressRate, job_name, stage_title

LINE_INTERVAL = 10.0  # seconds between two lines of progress without a terminal
ADVICE_INTERVAL = 6  # heartbeats between two lines of advice
STYLES = {logging.ERROR: "bold red", logging.WARNING: "yellow"}


class Console(Observer):
    """Show progress, and report failures at once.

    Parameters
    ----------
    terminal : rich.console.Console
        Output; without colours if ``NO_COLOR`` is set, without a bar if it is a file. In a
        notebook the bar needs ipywidgets.
    folder : pathlib.Path, optional
        Run folder, for the advice to call ``zemosaic status``.
    quiet : bool
        Print warnings and errors only.
    verbose : bool
        Print a line for every job, whole stacks, and the messages of libraries.
    clock : callable
        Return a monotonic time in seconds.
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
        self._lowest_level = logging.INFO
        if quiet or verbose:
            self._lowest_level = logging.WARNING if quiet else logging.DEBUG
        self._bar: Progress | None = None
        self._rate: ProgressRate | None = None
        self._last_line = 0.0  # time of the last line of progress
        self._printed_progress = False  # in this stage
        self._idle_beats = 0  # heartbeats since the last job ended
        self.stage_seconds: dict[str, float] = {}
        self._stage_started: dict[str, int] = {}

    def stage_started(self, event: StageStarted) -> None:
        """Start a bar."""
        self._stage_started[event.stage] = event.time_ns
        if not event.total:
            return
        self._last_line, self._printed_progress = self._clock(), False
        self._rate = ProgressRate(event.total, self._last_line)
        if _can_draw(self._terminal) and not self._quiet:
            self._bar = Progress(
                TextColumn("{task.description:>16}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(self._rate, self._clock),
                console=self._terminal,
                transient=True,
            )
            self._bar.add_task(stage_title(event.stage), total=event.total)
            try:
                self._bar.start()
            except RuntimeError as error:  # the bar is drawn by a thread
                self._bar.stop()
                self._bar = None
                report(f"{error}: progress is printed as lines")

    def stage_ended(self, event: StageEnded) -> None:
        """Stop the bar; print a last line if the stage has printed progress."""
        seconds = (event.time_ns - self._stage_started[event.stage]) / 1e9
        self.stage_seconds[event.stage] = seconds
        if self._rate is not None:
            if self._verbose or self._printed_progress:
                self._print(logging.INFO, f"{self._counts(event.stage)} in {seconds:.1f} s")
            self._rate = None
        self._stop_bar()

    def job_ended(self, event: JobEnded) -> None:
        """Advance the bar; print the error of a failed job."""
        now, self._idle_beats = self._clock(), 0
        if self._rate is not None:
            self._rate.job_ended(event.done, now, event.outcome in FAILED_OUTCOMES)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=event.done)
        name = job_name(event.stage, event.index, event.attributes)
        if event.error is not None:
            self._print(logging.ERROR, f"{name}: {event.error}")
        elif self._verbose:
            reason = f": {event.attributes['reason']}" if "reason" in event.attributes else ""
            seconds = (event.ended_ns - event.started_ns) / 1e9
            self._print(logging.INFO, f"{name} {event.outcome} in {seconds:.3f} s{reason}")
        if self._rate is None or self._bar is not None or event.done == event.total:
            return
        if now - self._last_line >= LINE_INTERVAL:
            self._last_line, self._printed_progress = now, True
            self._print(logging.INFO, f"{self._counts(event.stage)}, {self._rate.describe(now)}")

    def heartbeat(self, event: Heartbeat) -> None:
        """Print the stuck jobs with their place and time-out, and from time to time advice."""
        if not event.total:
            place = ", ".join(["", *_place("", event.stack)])
            text = f"stage {event.stage} has been running for {event.idle_time:.0f} s{place}"
            self._print(logging.WARNING, text)
            return
        lines = [
            f"no job has finished for {event.idle_time:.0f} s: {stage_title(event.stage)}, "
            f"{event.done} of {event.total} done, {len(event.running_indices)} running"
        ]
        lines += [f"  {line}" for line in _running_lines(event)]
        if self._idle_beats % ADVICE_INTERVAL == 0:
            lines.append(f"  {self._advice(event)}")
        self._idle_beats += 1
        if self._verbose:
            lines += [f"    {line}" for line in event.stack.splitlines()]
        self._print(logging.WARNING, "\n".join(lines))

    def slow_job(self, event: SlowJob) -> None:
        """Print the name of a slow job."""
        name = job_name(event.stage, event.index, event.attributes)
        place = _place(event.step, event.stack)
        running = f"{name} has been running for {event.running_time:.0f} s"
        self._print(logging.WARNING, ", ".join([running, *place]))

    def note(self, event: Note) -> None:
        """Print the message."""
        self._print(event.level, printable(event.message))

    def run_ended(self, event: RunEnded) -> None:
        """Restore the terminal."""
        self._stop_bar()

    def _counts(self, stage: str) -> str:
        rate = self._rate
        assert rate is not None
        failed = f" ({rate.failed} failed)" if rate.failed else ""
        return f"{stage_title(stage)}: {rate.done} of {rate.total}{failed}"

    def _advice(self, event: Heartbeat) -> str:
        outlook = "time out and the rest continue" if event.timeout else "may never end"
        folder = shell_command([str(self._folder)]) if self._folder else ""
        status = f'; run "zemosaic status {folder}" in another terminal for more' if folder else ""
        return f"wait (stuck jobs {outlook}){status}; or press Ctrl-C and resume with --resume"

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, level: int, message: str) -> None:
        if level < self._lowest_level:
            return
        now = time.strftime("%H:%M:%S")
        text = "\n".join(f"{now} {printable(line)}" for line in message.split("\n"))
        self._terminal.print(Text(text, style=STYLES.get(level, "")), soft_wrap=True)


def _can_draw(terminal: Terminal) -> bool:
    """Return whether a bar can be drawn: on a terminal, or in a notebook with widgets."""
    if terminal.is_jupyter:
        return find_spec("ipywidgets") is not None
    return terminal.is_terminal


def _running_lines(event: Heartbeat) -> Iterator[str]:
    """Yield a line for each running job; the stack belongs to the first, the oldest."""
    jobs = zip(
        event.running_indices,
        event.running_attributes,
        event.running_time,
        chain(event.running_steps, repeat("")),
        chain([event.stack], repeat("")),
        strict=False,
    )
    for index, attributes, seconds, step, stack in jobs:
        timeout = "never times out (no time-out is set)"
        if event.timeout:
            timeout = f"times out in {max(0.0, event.timeout - seconds):.0f} s"
        name = job_name(event.stage, index, attributes)
        yield f"{name}: " + ", ".join([f"for {seconds:.0f} s", *_place(step, stack), timeout])


def _place(step: str, stack: str) -> list[str]:
    """Return the known parts of a place in a job: its step and its innermost frame."""
    frame = innermost(stack)
    return [f"step {step}"] * bool(step) + [f"in {frame}"] * bool(frame)


class _RateColumn(ProgressColumn):
    """Failures, rate and time left; rendered again while no job ends, so the rate falls."""

    def __init__(self, rate: ProgressRate, clock: Callable[[], float]) -> None:
        super().__init__()
        self._rate, self._clock = rate, clock

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        failed = f"{self._rate.failed} failed, " if self._rate.failed else ""
        return Text(failed + self._rate.describe(self._clock()))
