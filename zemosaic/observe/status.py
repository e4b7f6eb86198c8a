"""A run that goes on, seen from another terminal: how far, how fast, and who does what."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..runtime.events import JobEnded
from ..runtime.stacks import innermost
from .autopsy import Autopsy, describe, summary_lines

RECENT = 30.0  # seconds whose rate gives the time left
SILENT = 10.0  # seconds without an end after which that rate means nothing


def watch(look: Callable[[], Autopsy], terminal: Terminal, every: float = 1.0) -> None:
    """Show a run until it is over; once only where there is no terminal.

    Parameters
    ----------
    look : callable
        Finds out what the run folder tells now.
    terminal : rich.console.Console
        Where to show it.
    every : float
        Seconds between two looks.
    """
    found = look()
    if not terminal.is_terminal or found.state != "running":
        terminal.print(status(found))
        return
    with Live(status(found), console=terminal, auto_refresh=False) as shown:
        while found.state == "running":
            started = time.monotonic()
            found = look()
            shown.update(status(found), refresh=True)
            # A long journal takes its time to read: never more than a tenth of ours.
            time.sleep(max(every, 9 * (time.monotonic() - started)))


def status(found: Autopsy) -> Group:
    """What a run does now, as a table; what became of it, if it is over."""
    if found.state != "running":
        return Group(*(Text(line) for line in summary_lines(found)))
    done, total = found.ended(found.stage)
    seconds = (found.last_ns - found.started_ns) / 1e9
    lines = [
        f"run          {found.folder}, process {found.pid}, for {seconds:.0f} s",
        f"stage        {found.stage or 'none'}" + (f": {done} of {total} done" if total else ""),
    ]
    if total:
        lines.append(f"rate         {rate(found, done, total)}")
    table = Table("worker", "job", "at", "seconds", "where", box=None, pad_edge=False)
    for stuck in found.under_way:
        row = stuck.row
        name = describe(stuck).partition(":")[0]
        where = innermost(stuck.stack)
        table.add_row(*map(Text, (str(row.pid), name, row.step, f"{stuck.seconds:.1f}", where)))
    return Group(*map(Text, lines), table)


def rate(found: Autopsy, done: int, total: int) -> str:
    """How many jobs ended lately, and how long the others will take at that rate."""
    ends: deque[int] = deque()
    for event in reversed(found.record.events):
        if not isinstance(event, JobEnded) or event.stage != found.stage:
            continue
        if found.last_ns - event.ended_ns > RECENT * 1e9:
            break
        ends.appendleft(event.ended_ns)
    idle = (found.last_ns - ends[-1]) / 1e9 if ends else RECENT
    if idle >= SILENT:
        return f"none has ended for {idle:.0f} s or more; the time left is not known"
    span = max((found.last_ns - ends[0]) / 1e9, 1.0)
    per_second = len(ends) / span
    left = (total - done) / per_second
    return f"{per_second:.1f} a second over the last {span:.0f} s; about {left:.0f} s left"
