"""The state of a running run in another terminal: progress, rate, and the job of each worker."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..runtime.events import StageStarted
from ..runtime.stacks import innermost
from ..text import printable
from .autopsy import Autopsy
from .autopsy_text import summary_lines
from .progress import FAILED_OUTCOMES, ProgressRate, job_name

IDLE_LIMIT = 10.0  # seconds without a finished job after which the rate says nothing
# The longest share of the time spent on reading the journal, which may be long.
READING_SHARE = 0.1


def watch(look: Callable[[], Autopsy], terminal: Terminal, interval: float = 1.0) -> None:
    """Show a run until it ends, or once if the output is not a terminal.

    Parameters
    ----------
    look : callable
        Return the present state of the run.
    terminal : rich.console.Console
        The terminal.
    interval : float
        Shortest time between two looks, in seconds.
    """
    autopsy = look()
    if not terminal.is_terminal or autopsy.state != "running":
        terminal.print(status(autopsy))
        return
    with Live(status(autopsy), console=terminal, auto_refresh=False) as display:
        while autopsy.state == "running":
            started = time.monotonic()
            autopsy = look()
            display.update(status(autopsy), refresh=True)
            reading = time.monotonic() - started
            time.sleep(max(interval, reading * (1 / READING_SHARE - 1)))


def status(autopsy: Autopsy) -> Group:
    """Return the state of a run: a table of its jobs, or a summary if it is over."""
    if autopsy.state != "running":
        return Group(*(Text(printable(line)) for line in summary_lines(autopsy)))
    done, total = autopsy.job_counts(autopsy.stage)
    seconds = (autopsy.last_ns - autopsy.started_ns) / 1e9
    progress = f": {done} of {total} done" if total else ""
    lines = [
        f"run          {autopsy.folder}, process {autopsy.pid}, for {seconds:.0f} s",
        f"stage        {autopsy.stage or 'none'}{progress}",
    ]
    if (own := autopsy.own_stage) is not None:
        place = innermost(own.stack)
        lines[1] = f"stage        {own}{f', {place}' if place else ''}"
    if total:
        lines.append(f"rate         {describe_rate(autopsy)}")
    table = Table("worker", "job", "step", "seconds", "location", box=None, pad_edge=False)
    for job in autopsy.running_jobs:
        row = job.row
        name = job_name(row.stage, row.index, job.attributes)
        worker = f"{row.host} {row.pid}".lstrip()
        cells = (worker, name, row.step, f"{job.seconds:.1f}", innermost(job.stack))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return Group(*(Text(printable(line)) for line in lines), table)


def describe_rate(autopsy: Autopsy) -> str:
    """Return the rate of the open stage and the time left in words."""
    now = autopsy.last_ns / 1e9
    rate = _stage_rate(autopsy)
    if rate.idle_time(now) >= IDLE_LIMIT:
        return f"no job has finished for {rate.idle_time(now):.0f} s; time left unknown"
    return rate.describe(now)


def _stage_rate(autopsy: Autopsy) -> ProgressRate:
    """Return the rate of the open stage, from the workers' clocks."""
    rate, jobs = ProgressRate(0, autopsy.started_ns / 1e9), autopsy.record.jobs
    for event in autopsy.record.events:
        if isinstance(event, StageStarted) and event.stage == autopsy.stage:
            rate = ProgressRate(event.total, event.time_ns / 1e9)
    ended = sorted(
        (job.ended_ns, jobs.outcomes[job.outcome] in FAILED_OUTCOMES)
        for job in jobs
        if jobs.stages[job.stage] == autopsy.stage
    )
    # Jobs of an earlier run have no end in this one.
    first = jobs.done[autopsy.stage] - len(ended)
    for done, (ended_ns, failed) in enumerate(ended, first + 1):
        rate.job_ended(done, ended_ns / 1e9, failed)
    return rate
