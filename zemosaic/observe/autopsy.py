"""A run folder -> what became of the run: how it ended, what was under way, what is safe.

The spans that a dead run never ended are made by telling its journal once more to the same
observer, with the ends that nobody told: under the same ids, since those follow from the order.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import inflight, journal, stacks
from ..runtime.events import (
    Event,
    FanOut,
    JobEnded,
    JobError,
    Note,
    Observer,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
)
from ..runtime.inflight import Row
from ..runtime.journal import Record
from ..runtime.run_folder import RunFolder

LOST = "RunDied"  # type of the error of what was under way


@dataclass(frozen=True)
class Stuck:
    """A job that was under way: its row, what is known of it, seconds, and its stack."""

    row: Row
    known: dict[str, Any]
    seconds: float
    stack: str


@dataclass(frozen=True)
class Autopsy:
    """What a run folder tells.

    Parameters
    ----------
    folder : pathlib.Path
        The run folder.
    record : Record
        The last run in it.
    state : str
        "running", "finished", "failed", "interrupted" or "died".
    pid : int
        Of the run; 0 where it is not known.
    cause : str
        Of a death, in words.
    stack : str
        Where the run itself was, if a segmentation fault ended it.
    last_ns : int
        Last sign of life, in nanoseconds since the epoch.
    under_way : tuple of Stuck
        Jobs that had begun and had not ended, oldest first.
    """

    folder: Path
    record: Record
    state: str
    pid: int
    cause: str
    stack: str
    last_ns: int
    under_way: tuple[Stuck, ...]

    @property
    def started_ns(self) -> int:
        """When the run began."""
        first = self.record.events[0] if self.record.events else None
        return first.time_ns if isinstance(first, RunStarted) else self.last_ns

    def ended(self, stage: str) -> tuple[int, int]:
        """Jobs of a stage that ended, and all of them; 0 of 0 where it never began."""
        begun = [e for e in self.record.events if isinstance(e, StageStarted) and e.stage == stage]
        done = [e.done for e in self.record.events if isinstance(e, JobEnded) and e.stage == stage]
        return max(done, default=0), begun[-1].total if begun else 0

    @property
    def stage(self) -> str:
        """The stage that was begun last and never ended; empty where there is none."""
        open_stages: list[str] = []
        for event in self.record.events:
            if isinstance(event, StageStarted):
                open_stages.append(event.stage)
            elif isinstance(event, StageEnded) and event.stage in open_stages:
                open_stages.remove(event.stage)
        return open_stages[-1] if open_stages else ""


def examine(folder: Path, holder: int | None) -> Autopsy:
    """Find out what became of the last run in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    holder : int or None
        Process that holds the folder; None where none does, so that its run is over.

    Raises
    ------
    UserError
        No run has ever been there.
    """
    records = journal.read(folder)
    if not records:
        raise UserError(
            f"{folder}: holds no run (no {RunFolder(folder).journal.name}); give a run folder"
        )
    record = records[-1]
    try:
        table = inflight.read(folder)
    except (OSError, ValueError):  # the disk was full
        table = inflight.Snapshot(0, "", 0, 0, 0, 0, ())
    fault = stacks.last(RunFolder(folder).stack(table.pid))
    fault = fault if fault.startswith(("Fatal", "Windows")) else ""
    ended = record.ended
    state = ended.state if ended else "died" if holder is None else "running"
    # What the disk had no room for in the journal, the table tells: if it is of the same run.
    begun = record.events[0] if record.events else None
    same = isinstance(begun, RunStarted) and table.started_ns >= begun.time_ns
    cut = state == "died" and same and table.stage in inflight.ENDINGS
    state = table.stage if cut else state
    if state == "running":
        last = time.time_ns()
    else:
        dumped = RunFolder(folder).stack(table.pid)  # while it held the lock for ever
        last = max([table.last_end_ns, *_times(record), *_written(dumped)])
    cause = ""
    if state == "died":
        cause = "killed from outside (kill -9, out of memory, power), since nothing was told"
        if fault:
            cause = fault.splitlines()[0].removeprefix("Fatal Python error: ")
    elif ended is not None and ended.error is not None:
        cause = str(ended.error)
    elif cut:
        cause = "the journal ends before the run did: a full disk, most likely"
    known = {(e.stage, e.index): e for e in record.unfinished()}
    under_way = tuple(
        Stuck(
            row,
            dict(known[row.stage, row.index].attributes),
            max(0.0, (last - row.started_ns) / 1e9),
            stacks.last(RunFolder(folder).stack(row.pid), row.thread, row.started_ns)
            or (stacks.in_kernel(row.pid) if state == "running" else ""),
        )
        for row in table.rows
        if (row.stage, row.index) in known
    )  # fmt: skip
    return Autopsy(folder, record, state, table.pid, cause, fault, last, under_way)


def all_events(found: Autopsy) -> Iterator[Event]:
    """All events of a run that is over, with the ends that a dead one did not tell."""
    yield from found.record.events
    if found.record.ended is not None:
        return
    for stuck in found.under_way:
        row = stuck.row
        yield JobEnded(
            stage=row.stage,
            index=row.index,
            done=found.ended(row.stage)[0],
            total=found.ended(row.stage)[1],
            outcome="crashed",
            attributes=stuck.known,
            submitted_ns=row.started_ns,
            started_ns=row.started_ns,
            ended_ns=max(found.last_ns, row.started_ns),
            pid=row.pid,
            error=JobError(LOST, f"the run died while this was at {row.step!r}", stuck.stack),
        )
    if found.stage:
        yield StageEnded(stage=found.stage, time_ns=found.last_ns)
    error = JobError(LOST, found.cause) if found.state == "died" else None
    yield RunEnded(state=found.state, time_ns=found.last_ns, error=error)


def replay(found: Autopsy, observer: Observer) -> None:
    """Tell an observer the run from its beginning to its end."""
    fan_out = FanOut([observer])
    for event in all_events(found):
        fan_out.dispatch(event)


def summary_lines(found: Autopsy) -> list[str]:
    """What became of the run, in lines for people."""
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.started_ns / 1e9))
    seconds = (found.last_ns - found.started_ns) / 1e9
    lines = [f"run          {found.folder}, begun {begun}, process {found.pid or 'unknown'}"]
    how = {"died": "died without a word", "running": "goes on"}.get(found.state, found.state)
    at = "" if found.state == "finished" or not found.stage else f", in stage {found.stage}"
    lines.append(f"ended        {how} after {seconds:.1f} s{at}")
    if found.cause:
        lines.append(f"why          {found.cause}")
    lines += [f"             {line}" for line in found.stack.splitlines()[1:]]
    for number, stuck in enumerate(found.under_way):
        head = "under way    " if number == 0 else "             "
        lines.append(head + describe(stuck))
        lines += [f"               {line.strip()}" for line in stuck.stack.splitlines()[1:6]]
    lines.append("safe         " + _safe(found))
    if found.state in ("died", "failed", "interrupted"):
        lines.append(f"go on        {command_to_go_on(found)}")
    return lines


def describe(stuck: Stuck) -> str:
    """A job under way in one line: what, where in it, for how long, by whom."""
    row, known = stuck.row, stuck.known
    name = known.get("name", "")
    if row.stage == "pairs":
        name = f"pair {row.index} ({known.get('name_i')}, {known.get('name_j')})"
    part = f" at {row.step}" if row.step else ""
    alive = ", still running" if _alive(row.pid) else ""
    return (
        f"{name or row.index}: {row.stage}{part} for {stuck.seconds:.1f} s, worker {row.pid}{alive}"
    )


def command_to_go_on(found: Autopsy) -> str:
    """The command that takes the run up again."""
    about = found.record.about
    command = str(about.get("command", "zemosaic intertile"))
    if " --resume" not in command and not command.startswith("zemosaic demo"):
        command += " --resume"
    place = str(about.get("cwd", ""))
    return f"cd {shlex.quote(place)} && {command}" if place and place != os.getcwd() else command


def _safe(found: Autopsy) -> str:
    kept = {"tiles": 0, "pairs": 0}
    for event in found.record.events:
        if isinstance(event, JobEnded) and event.key and event.stage in kept:
            kept[event.stage] += 1
    parts = []
    for stage, count in kept.items():
        total = found.ended(stage)[1]
        parts.append(f"{count} of {total} {stage}" if total else f"no {stage}")
    return f"{' and '.join(parts)} measured by this run, in {RunFolder(found.folder).journal}"


def _times(record: Record) -> Iterator[int]:
    for event in record.events[-50:]:
        if isinstance(event, JobEnded):
            yield event.ended_ns
        elif not isinstance(event, Note):
            yield event.time_ns


def _written(path: Path) -> Iterator[int]:
    """When a file was last written to, if there is something in it."""
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_size:
            yield found.st_mtime_ns


def _alive(pid: int) -> bool:
    """Whether a worker outlived its run; never said on Windows, where asking would end it."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
        told = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or no Linux
        return True
    return told.rpartition(")")[2].split()[0] != "Z"  # dead, and nobody has asked how it ended
