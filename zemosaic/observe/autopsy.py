"""Reconstruct from a run folder how the last run ended and which jobs were running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import inflight, journal, stacks
from ..runtime.events import RunStarted, StageEnded, StageStarted
from ..runtime.inflight import Row, Snapshot
from ..runtime.journal import Collector, RunColumns
from ..runtime.run_folder import RunFolder, holder

SILENCE = 5.0  # seconds without a sign of life that are worth a word
_CAUSE_KILLED = "killed from outside (kill -9, out of memory or power loss): no error was recorded"
_CAUSE_TRUNCATED = "the journal stops before the run ended: a full disk, most likely"


@dataclass(frozen=True)
class StuckJob:
    """A job that had started and not ended.

    Parameters
    ----------
    row : Row
        Its row in the table of running jobs.
    attributes : dict
        Attributes of its submission: names and indices of its tiles.
    seconds : float
        Time since its start.
    stack : str
        Its last stack dump; empty if there is none.
    """

    row: Row
    attributes: dict[str, Any]
    seconds: float
    stack: str


@dataclass(frozen=True)
class OwnStage:
    """A stage without jobs, in which the process of the run works itself.

    Parameters
    ----------
    name : str
        Name of the stage.
    seconds : float
        Time since its start.
    silence : float
        Time since the last sign of life of the run; it gives one a second.
    stack : str
        Last stack dump of the run; empty if there is none.
    """

    name: str
    seconds: float
    silence: float
    stack: str

    def __str__(self) -> str:
        text = f"in {self.name} for {self.seconds:.0f} s"
        if self.silence < SILENCE:
            return text
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - self.silence))
        return f"{text}, no sign of life since {since}"


@dataclass(frozen=True)
class Autopsy:
    """The state of the last run in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    record : RunColumns
        The journal of the run.
    state : str
        "running", "finished", "failed", "interrupted" or "died".
    pid : int
        Process of the run; 0 if unknown.
    cause : str
        Why the run did not finish; empty if it did or if it is running.
    stack : str
        Stack of the run itself, if a segmentation fault ended it.
    last_ns : int
        Last sign of life, in nanoseconds since the epoch.
    running_jobs : tuple of StuckJob
        Jobs that had started and not ended, oldest first.
    own_stage : OwnStage or None
        The stage in which the run itself worked, if it had no jobs.
    """

    folder: Path
    record: RunColumns
    state: str
    pid: int
    cause: str
    stack: str
    last_ns: int
    running_jobs: tuple[StuckJob, ...]
    own_stage: OwnStage | None = None

    @property
    def started_ns(self) -> int:
        """Start of the run, in nanoseconds since the epoch."""
        start = _run_started(self.record)
        return start.time_ns if start else self.last_ns

    @property
    def stage(self) -> str:
        """The innermost open stage; empty if there is none."""
        open_stages: list[str] = []
        for event in self.record.events:
            if isinstance(event, StageStarted):
                open_stages.append(event.stage)
            elif isinstance(event, StageEnded) and event.stage in open_stages:
                open_stages.remove(event.stage)
        return open_stages[-1] if open_stages else ""

    def job_counts(self, stage: str) -> tuple[int, int]:
        """Return the number of ended jobs of a stage and of all its jobs; (0, 0) before it."""
        events = self.record.events
        totals = [e.total for e in events if isinstance(e, StageStarted) and e.stage == stage]
        return self.record.jobs.done[stage], totals[-1] if totals else 0


def examine(folder: Path) -> Autopsy:
    """Return the state of the last run in a folder.

    Raises
    ------
    UserError
        The folder has no journal of a run.
    """
    return examine_runs(folder)[0]


def examine_runs(
    folder: Path, make_collector: Callable[[], Collector | None] = lambda: None
) -> tuple[Autopsy, list[RunColumns]]:
    """Return the state of the last run in a folder, and the journal, read by `read_columns`.

    Raises
    ------
    UserError
        The folder has no journal of a run.
    """
    # The lock is tested before the journal is read: a run that ends in between has its end there,
    # and is not taken for dead.
    alive = holder(folder) is not None
    records = journal.read_columns(folder, make_collector)
    if not records:
        raise UserError(
            f"{folder}: holds no run (no {RunFolder(folder).journal.name}); choose a run folder"
        )
    record, table = records[-1], _running_table(folder)
    fault = _fatal_stack(folder, table.pid)
    state = _state(record, table, alive)
    last_ns = time.time_ns() if state == "running" else _last_sign(folder, record, table)
    autopsy = Autopsy(
        folder=folder,
        record=record,
        state=state,
        pid=table.pid,
        cause=(_read_verdict(folder) if state == "died" else "") or _cause(record, state, fault),
        stack=fault,
        last_ns=last_ns,
        running_jobs=_running_jobs(folder, record, table, state == "running", last_ns),
        own_stage=_own_stage(folder, table, last_ns) if state in ("running", "died") else None,
    )
    return autopsy, records


def _read_verdict(folder: Path) -> str:
    """Return why the watchdog ended the run; empty if it did not."""
    try:
        return RunFolder(folder).verdict.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _own_stage(folder: Path, table: Snapshot, last_ns: int) -> OwnStage | None:
    if table.total or not table.stage or table.stage in inflight.ENDINGS:
        return None
    try:
        alive_ns = RunFolder(folder).lock.stat().st_mtime_ns
    except OSError:
        return None
    return OwnStage(
        name=table.stage,
        seconds=max(0.0, (last_ns - table.last_end_ns) / 1e9),
        silence=max(0.0, (last_ns - alive_ns) / 1e9),
        stack=stacks.read_last(RunFolder(folder).stack(table.pid), 0, table.last_end_ns),
    )


def _running_table(folder: Path) -> Snapshot:
    """Read the table of running jobs; return an empty one if a full disk left none."""
    try:
        return inflight.read(folder)
    except (OSError, ValueError):
        return Snapshot(0, "", 0, 0, 0, 0, ())


def _fatal_stack(folder: Path, pid: int) -> str:
    stack = stacks.read_last(RunFolder(folder).stack(pid))
    return stack if stack.startswith(("Fatal", "Windows")) else ""


def _state(record: RunColumns, table: Snapshot, alive: bool) -> str:
    if record.ended is not None:
        return record.ended.state
    if alive:
        return "running"
    # A full disk may keep the end out of the journal. The table has it, unless it is an earlier
    # run's.
    start = _run_started(record)
    same_run = start is not None and table.started_ns >= start.time_ns
    return table.stage if same_run and table.stage in inflight.ENDINGS else "died"


def _cause(record: RunColumns, state: str, fault: str) -> str:
    if record.ended is not None:
        return str(record.ended.error or "")
    if state == "died":
        return fault.partition("\n")[0].removeprefix("Fatal Python error: ") or _CAUSE_KILLED
    return "" if state == "running" else _CAUSE_TRUNCATED


def _last_sign(folder: Path, record: RunColumns, table: Snapshot) -> int:
    """Return the last sign of life of an ended run, in nanoseconds since the epoch."""
    times = [table.last_end_ns, *record.recent]
    # A run with a blocked loop still dumps its own stack.
    with contextlib.suppress(OSError):
        dump = RunFolder(folder).stack(table.pid).stat()
        if dump.st_size:
            times.append(dump.st_mtime_ns)
    return max(times)


def _running_jobs(
    folder: Path, record: RunColumns, table: Snapshot, alive: bool, last_ns: int
) -> tuple[StuckJob, ...]:
    """Return the jobs in the table, without rows of an earlier run."""
    submitted = {(event.stage, event.index): event for event in record.unfinished()}
    jobs = []
    for row in table.rows:
        if (row.stage, row.index) not in submitted:
            continue
        path = RunFolder(folder).stack(row.pid, row.host)
        stack = stacks.read_last(path, row.thread, row.started_ns)
        if not stack and alive and not row.host:
            stack = stacks.kernel_wait(row.pid)
        attributes = dict(submitted[row.stage, row.index].attributes)
        jobs.append(StuckJob(row, attributes, max(0.0, (last_ns - row.started_ns) / 1e9), stack))
    return tuple(jobs)


def _run_started(record: RunColumns) -> RunStarted | None:
    first = record.events[0] if record.events else None
    return first if isinstance(first, RunStarted) else None
