"""A memory-mapped file with one row per running job, readable by any process at any time.

The run and all its workers map the file. Each submitted batch of jobs occupies
a row, in which its worker writes the index of the current job, the current step and the time at
which each began. The file outlives the death of any of them. The stacks of the workers are in
files of their own (see `stacks`).
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ..files import atomic_write
from . import stacks
from .inflight_table import (
    HEADER_SIZE,
    MAGIC,
    ROW_SIZE,
    Header,
    Row,
    RowValues,
    Table,
    decode_text,
    encode_host,
    forget_table,
    open_table,
)
from .run_folder import RunFolder

__all__ = ["ENDINGS", "Inflight", "Row", "Slot", "Snapshot", "read"]

#: Final states of a run, stored in place of the stage.
ENDINGS = ("finished", "failed", "interrupted")
HOST = socket.gethostname()


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
        Ended jobs of the stage, and all its jobs.
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
    run_pid, run_host : int, str
        Process of the run, which dumps its own stacks by `Inflight.arm_loop_dump`, and its machine.
    """

    path: str
    created_ns: int
    row: int
    ticket: int
    stage: str
    dump_after: float
    run_pid: int
    run_host: str

    @property
    def host(self) -> str:
        """The name of this machine; empty if it is the run's own."""
        return "" if self.run_host == HOST else HOST

    def start(self, index: int) -> None:
        """Record that a job starts now, in the calling thread."""
        table = open_table(self.path, self.created_ns)
        if table is None:
            return
        host = self.host
        if self.dump_after and (host or os.getpid() != self.run_pid):
            folder = os.path.dirname(self.path)  # pathlib takes 5 µs longer
            stacks.arm(folder, self.dump_after, host)
        now, pid, thread = time.time_ns(), os.getpid(), threading.get_ident()
        values = RowValues(self.ticket, index, pid, thread, now, self.stage.encode(), now)
        table.write(self.row, self.ticket, values, encode_host(host) if host else None)

    def enter_step(self, step: str) -> None:
        """Record that a step of the current job starts now."""
        table = open_table(self.path, self.created_ns)
        if table is not None:
            table.write_step(self.row, self.ticket, step)

    def copy(self, row: Row | None) -> None:
        """Record the job of a worker without access to the table; None if it has no job."""
        table = open_table(self.path, self.created_ns)
        if table is not None and row is not None:
            texts = self.stage.encode(), row.step_ns, row.step.encode()
            numbers = row.index, row.pid, row.thread, row.started_ns
            host = encode_host(row.host)
            table.write(self.row, self.ticket, RowValues(self.ticket, *numbers, *texts), host)
        elif table is not None:
            table.write(self.row, self.ticket, RowValues(self.ticket))

    def finish(self) -> None:
        """Record the end of the last job."""
        if self.dump_after and (self.host or os.getpid() != self.run_pid):
            stacks.cancel()
        table = open_table(self.path, self.created_ns)
        if table is not None:
            table.write(self.row, self.ticket, RowValues(self.ticket))


class Inflight:
    """The table of a run, for the process of the run.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder; an earlier table and earlier stacks in it are removed.
    rows : int
        Largest number of batches submitted at once.
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
            temporary.write_bytes(bytes(HEADER_SIZE + rows * ROW_SIZE))
        self._table = Table(self._path)
        self._created_ns = time.time_ns()
        self._free_rows = list(range(rows))
        self._tickets = 0
        self.write_progress("", 0, 0)

    def write_progress(self, stage: str, done: int, total: int) -> None:
        """Record how many jobs of a stage have ended."""
        self._table.header = Header(
            magic=MAGIC,
            rows=self._table.rows,
            pid=os.getpid(),
            done=done,
            total=total,
            created_ns=self._created_ns,
            last_end_ns=time.time_ns(),
            stage=stage.encode(),
        )

    def arm_loop_dump(self) -> None:
        """Restart the timer of the stacks of this process, if `runs_jobs`."""
        if self._dumps_loop:
            stacks.arm(str(self._path.parent), self._dump_after)

    def cancel_loop_dump(self) -> None:
        """Stop the timer of `arm_loop_dump`."""
        if self._dumps_loop:
            stacks.cancel()

    def allocate(self, stage: str) -> Slot | None:
        """Return a free row for a batch; None if there is none."""
        if not self._free_rows:
            return None
        self._tickets += 1
        row = self._free_rows.pop(0)
        self._table.write(row, 0, RowValues(self._tickets), host=b"")
        return Slot(
            path=str(self._path),
            created_ns=self._created_ns,
            row=row,
            ticket=self._tickets,
            stage=stage,
            dump_after=self._dump_after,
            run_pid=os.getpid(),
            run_host=HOST,
        )

    def write_row(self, slot: Slot, index: int, thread: int, started_ns: int) -> None:
        """Enter the job of a thread of this process, which does not enter it itself."""
        stage = slot.stage.encode()
        values = RowValues(slot.ticket, index, os.getpid(), thread, started_ns, stage, started_ns)
        self._table.write(slot.row, slot.ticket, values)

    def read_row(self, slot: Slot) -> Row | None:
        """Return the current job of a slot; None if its worker has none."""
        return self._table.read(slot.row)

    def release(self, slot: Slot) -> Row | None:
        """Free a row; return its current job if the worker died or was abandoned at one."""
        row = self.read_row(slot)
        # An abandoned thread may come back: its ticket is no longer valid then.
        self._table.write(slot.row, slot.ticket, RowValues(0))
        self._free_rows.append(slot.row)
        return row

    def close(self, state: str) -> None:
        """Record how the run has ended, by one of `ENDINGS`, and unmap the file."""
        forget_table(str(self._path), self._created_ns)  # which the workers of a thread pool use
        self.write_progress(state, 0, 0)
        del self._table

    def stack(self, row: Row) -> str:
        """Return the stack of a running job; empty if none is known."""
        if row.host:
            path = RunFolder(self._path.parent).stack(row.pid, row.host)
            return stacks.read_last(path, row.thread, row.started_ns)
        return stacks.find(self._path.parent, row.pid, row.thread, row.started_ns)


def read(folder: Path) -> Snapshot:
    """Read the table of a live or dead run.

    Raises
    ------
    OSError
        There is no table.
    ValueError
        The file is not a table.
    """
    path = RunFolder(folder).inflight
    with path.open("rb") as file:
        start = file.read(HEADER_SIZE)
    if len(start) < HEADER_SIZE or not start.startswith(MAGIC):
        raise ValueError(f"{path} is not a table of running jobs")
    table = Table(path, mmap.ACCESS_READ)
    header = table.header
    rows = [row for number in range(header.rows) if (row := table.read(number)) is not None]
    rows.sort(key=lambda row: (row.started_ns, row.index))
    return Snapshot(
        pid=header.pid,
        stage=decode_text(header.stage),
        done=header.done,
        total=header.total,
        started_ns=header.created_ns,
        last_end_ns=header.last_end_ns,
        rows=tuple(rows),
    )
