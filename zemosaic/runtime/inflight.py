"""A memory-mapped file with one row per running job, readable by any process at any time.

The run and all its workers map the file. Each batch of jobs that is submitted to the pool occupies
a row, in which its worker writes the index of the current job, the current step and the time at
which each began. The file outlives the death of any of them. The stacks of the workers are in
files of their own (see `stacks`).
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..files import atomic_write
from . import stacks
from .run_folder import RunFolder

#: States of a run that has ended, stored in place of the stage.
ENDINGS = ("finished", "failed", "interrupted")

_MAGIC = b"ZMFLY1\0\0"
_HEADER = struct.Struct("<8sIIIIqq16s")  # the fields of `_Header`
# Seqlock: a counter is stored at both ends of a row. A writer changes the first before the row and
# the last after it; a reader loads the last before the row and the first after it, and tries again
# when they differ. The fields of `_Values` lie between.
_ROW = struct.Struct("<IIIIQq16sq24sI")
_COUNTER, _COUNTER_TICKET = struct.Struct("<I"), struct.Struct("<II")
_STEP = struct.Struct("<q24s")  # the last two fields of `_Values`
_STEP_OFFSET, _LAST_OFFSET = 48, 80  # bytes from the start of a row
_HEADER_SIZE, _ROW_SIZE = 128, 128
_READS = 100  # attempts at a row: only a writer that died within a change leaves it torn


class _Header(NamedTuple):
    magic: bytes
    rows: int
    pid: int
    done: int
    total: int
    created_ns: int
    last_end_ns: int
    stage: bytes


class _Values(NamedTuple):
    """The content of a row: `ticket` is that of its owner, `job_index` 0 between two jobs."""

    ticket: int
    job_index: int = 0
    pid: int = 0
    thread: int = 0
    started_ns: int = 0
    stage: bytes = b""
    step_ns: int = 0
    step: bytes = b""


@dataclass(frozen=True)
class Row:
    """A running job.

    Parameters
    ----------
    stage : str
        Stage of the run.
    index : int
        Index of the job.
    step : str
        Current step of the job; empty before the first.
    pid, thread : int
        Process and thread of the worker.
    started_ns, step_ns : int
        Start of the job and of the step, in nanoseconds since the epoch.
    """

    stage: str
    index: int
    step: str
    pid: int
    thread: int
    started_ns: int
    step_ns: int


@dataclass(frozen=True)
class Snapshot:
    """The table at one moment.

    Parameters
    ----------
    pid : int
        Process of the run.
    stage : str
        Current stage, or one of `ENDINGS`.
    done, total : int
        Jobs of the stage that have ended, and all.
    started_ns, last_end_ns : int
        Start of the run and last end of a job, in nanoseconds since the epoch.
    rows : tuple of Row
        Running jobs, oldest first.
    """

    pid: int
    stage: str
    done: int
    total: int
    started_ns: int
    last_end_ns: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Slot:
    """A row as it is sent to a worker, for one batch of jobs.

    Parameters
    ----------
    path : str
        Path of the table.
    created_ns : int
        Creation of the table, because the next run may use the same path.
    row, ticket : int
        Number of the row, and of this use of it.
    stage : str
        Stage of the batch.
    dump_after : float
        Seconds after which the stack of a job is dumped; 0 means never.
    run_pid : int
        Process of the run, which dumps its own stacks by `Inflight.arm_loop_dump`.
    """

    path: str
    created_ns: int
    row: int
    ticket: int
    stage: str
    dump_after: float
    run_pid: int

    def start(self, index: int) -> None:
        """Record that a job starts now, in the calling thread."""
        table = _open_table(self.path, self.created_ns)
        if table is None:
            return
        if self.dump_after and os.getpid() != self.run_pid:
            stacks.arm(os.path.dirname(self.path), self.dump_after)  # pathlib takes 5 µs longer
        now, pid, thread = time.time_ns(), os.getpid(), threading.get_ident()
        values = _Values(self.ticket, index, pid, thread, now, self.stage.encode(), now)
        table.write(self.row, self.ticket, values)

    def enter_step(self, step: str) -> None:
        """Record that a step of the current job starts now."""
        table = _open_table(self.path, self.created_ns)
        if table is not None:
            table.write_step(self.row, self.ticket, step)

    def finish(self) -> None:
        """Record that the last job has ended."""
        if self.dump_after and os.getpid() != self.run_pid:
            stacks.cancel()
        table = _open_table(self.path, self.created_ns)
        if table is not None:
            table.write(self.row, self.ticket, _Values(self.ticket))


class Inflight:
    """The table of a run, for the process that runs it.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder; an earlier table and earlier stacks in it are removed.
    rows : int
        Number of batches that may be submitted at once.
    dump_after : float
        Seconds after which the stack of a job is dumped; 0 means never.
    runs_jobs : bool
        Whether jobs run in this process and it belongs to the run alone. Its stacks are then dumped
        when a job keeps the loop of the scheduler from running.

    Raises
    ------
    OSError
        The disk has no space for the table.
    """

    def __init__(self, folder: Path, rows: int, dump_after: float, runs_jobs: bool = False) -> None:
        self._path, self._dump_after = RunFolder(folder).inflight, dump_after
        self._dumps_loop = runs_jobs and dump_after > 0
        stacks.create_folder(folder)
        # Written in full: a page without space on the disk would be a bus error later. Renamed
        # into place: another process may still map the old file.
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(bytes(_HEADER_SIZE + rows * _ROW_SIZE))
        self._table = _Table(self._path)
        self._created_ns = time.time_ns()
        self._free_rows = list(range(rows))
        self._tickets = 0
        self.write_progress("", 0, 0)

    def write_progress(self, stage: str, done: int, total: int) -> None:
        """Record how many jobs of a stage have ended."""
        self._table.header = _Header(
            magic=_MAGIC,
            rows=self._table.rows,
            pid=os.getpid(),
            done=done,
            total=total,
            created_ns=self._created_ns,
            last_end_ns=time.time_ns(),
            stage=stage.encode(),
        )

    def arm_loop_dump(self) -> None:
        """Restart the timer after which the stacks of this process are dumped, if they are."""
        if self._dumps_loop:
            stacks.arm(str(self._path.parent), self._dump_after)

    def cancel_loop_dump(self) -> None:
        """Stop that timer."""
        if self._dumps_loop:
            stacks.cancel()

    def allocate(self, stage: str) -> Slot | None:
        """Return a free row for a batch; None if there is none."""
        if not self._free_rows:
            return None
        self._tickets += 1
        row = self._free_rows.pop(0)
        self._table.write(row, 0, _Values(self._tickets))
        return Slot(
            path=str(self._path),
            created_ns=self._created_ns,
            row=row,
            ticket=self._tickets,
            stage=stage,
            dump_after=self._dump_after,
            run_pid=os.getpid(),
        )

    def read_row(self, slot: Slot) -> Row | None:
        """Return the current job of a slot; None if its worker has none."""
        return self._table.read(slot.row)

    def release(self, slot: Slot) -> Row | None:
        """Free a row; return its current job if the worker died or was abandoned at one."""
        row = self.read_row(slot)
        # An abandoned thread may come back: its ticket is no longer valid then.
        self._table.write(slot.row, slot.ticket, _Values(0))
        self._free_rows.append(slot.row)
        return row

    def close(self, state: str) -> None:
        """Record how the run has ended, by one of `ENDINGS`, and unmap the file."""
        global _last_table  # noqa: PLW0603 - the workers of a thread pool use it
        if _last_table.path == str(self._path) and _last_table.created_ns == self._created_ns:
            _last_table = _LastTable()
        self.write_progress(state, 0, 0)
        del self._table

    def stack(self, row: Row) -> str:
        """Return the stack of a running job; empty if none is known."""
        return stacks.find(self._path.parent, row.pid, row.thread, row.started_ns)


def read(folder: Path) -> Snapshot:
    """Read the table of a run that is running or dead.

    Raises
    ------
    OSError
        There is no table.
    ValueError
        The file is not a table.
    """
    path = RunFolder(folder).inflight
    with path.open("rb") as file:
        start = file.read(_HEADER_SIZE)
    if len(start) < _HEADER_SIZE or not start.startswith(_MAGIC):
        raise ValueError(f"{path} is not a table of running jobs")
    table = _Table(path, mmap.ACCESS_READ)
    header = table.header
    rows = [row for number in range(header.rows) if (row := table.read(number)) is not None]
    rows.sort(key=lambda row: (row.started_ns, row.index))
    return Snapshot(
        pid=header.pid,
        stage=_text(header.stage),
        done=header.done,
        total=header.total,
        started_ns=header.created_ns,
        last_end_ns=header.last_end_ns,
        rows=tuple(rows),
    )


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")


class _Table:
    """The mapped file."""

    def __init__(self, path: Path, access: int = mmap.ACCESS_WRITE) -> None:
        with path.open("rb" if access == mmap.ACCESS_READ else "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=access)
        self.rows = (len(self._memory) - _HEADER_SIZE) // _ROW_SIZE

    @property
    def header(self) -> _Header:
        return _Header(*_HEADER.unpack_from(self._memory))

    @header.setter
    def header(self, header: _Header) -> None:
        _HEADER.pack_into(self._memory, 0, *header)

    def write(self, row: int, ticket: int, values: _Values) -> None:
        """Write a row, if that ticket owns it."""
        offset = _HEADER_SIZE + row * _ROW_SIZE
        counter, owner = _COUNTER_TICKET.unpack_from(self._memory, offset)
        if owner == ticket:
            counter = (counter + 1) & 0xFFFFFFFF
            _ROW.pack_into(self._memory, offset, counter, *values, counter)

    def write_step(self, row: int, ticket: int, step: str) -> None:
        """Write the step of a row, if that ticket owns it."""
        offset = _HEADER_SIZE + row * _ROW_SIZE
        counter, owner = _COUNTER_TICKET.unpack_from(self._memory, offset)
        if owner != ticket:
            return
        counter = (counter + 1) & 0xFFFFFFFF
        _COUNTER.pack_into(self._memory, offset, counter)
        _STEP.pack_into(self._memory, offset + _STEP_OFFSET, time.time_ns(), step.encode())
        _COUNTER.pack_into(self._memory, offset + _LAST_OFFSET, counter)

    def read(self, row: int) -> Row | None:
        """Return the running job of a row; None if there is none."""
        values = self._read_values(_HEADER_SIZE + row * _ROW_SIZE)
        if values is None or not values.job_index:
            return None
        return Row(
            stage=_text(values.stage),
            index=values.job_index,
            step=_text(values.step),
            pid=values.pid,
            thread=values.thread,
            started_ns=values.started_ns,
            step_ns=values.step_ns,
        )

    def _read_values(self, offset: int) -> _Values | None:
        for _ in range(_READS):
            last = _COUNTER.unpack_from(self._memory, offset + _LAST_OFFSET)
            values = _ROW.unpack_from(self._memory, offset)
            if _COUNTER.unpack_from(self._memory, offset) == last:
                return _Values(*values[1:-1])
        return None


@dataclass(frozen=True)
class _LastTable:
    """The table that this process used last: a worker has one, for as long as it lives."""

    path: str = ""
    created_ns: int = 0
    table: _Table | None = None


_last_table = _LastTable()


def _open_table(path: str, created_ns: int) -> _Table | None:
    """Return the table of a path, mapped once; None if it cannot be, as on another machine."""
    global _last_table  # noqa: PLW0603
    if _last_table.path != path or _last_table.created_ns != created_ns:
        _last_table = _LastTable(path, created_ns, _map_table(path, created_ns))
    return _last_table.table


def _map_table(path: str, created_ns: int) -> _Table | None:
    try:
        table = _Table(Path(path))
        # A thread that an earlier run abandoned has no row in the table of the next.
        return table if table.header.created_ns == created_ns else None
    except (OSError, ValueError):
        return None
