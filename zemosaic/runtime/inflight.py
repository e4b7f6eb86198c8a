"""What every worker is doing now, seen from outside: a table in a file.

The table is mapped into memory by the run and by every worker, and stays readable by anybody
after any death. Each job that was given to the pool has a row; its worker writes there which job
it is at, in which part of it and since when. Where it is in its code, `stacks` tells.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_write
from . import stacks
from .run_folder import RunFolder

ENDINGS = ("finished", "failed", "interrupted")  # in the place of a stage: how the run ended

_MAGIC = b"ZMFLY1\0\0"
# magic, rows, pid, done, total, start, last end of a job, stage
_HEAD = struct.Struct("<8sIIIIqq16s")
# A count, ticket, index, pid, thread, start of job, stage, start of part, part, and the count
# again. A change begins with the first and ends with the last, so a reader takes the last before
# all else and the first after it: where both are the same, nobody wrote meanwhile.
_ROW = struct.Struct("<IIIIQq16sq24sI")
_COUNT, _MINE = struct.Struct("<I"), struct.Struct("<II")
_STEP, _STEP_AT, _LAST_AT = struct.Struct("<q24s"), 48, 80
_HEAD_SIZE, _ROW_SIZE = 128, 128
_NOBODY = (0, 0, 0, 0, b"", 0, b"")  # after the ticket


@dataclass(frozen=True)
class Row:
    """A job under way.

    Parameters
    ----------
    stage : str
        Stage of the run.
    index : int
        The job's.
    step : str
        Part of the work inside the job; empty before the first.
    pid, thread : int
        Who does it.
    started_ns, step_ns : int
        Since when, in nanoseconds since the epoch.
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
    """The table at one moment; `pid` is that of the run, times are nanoseconds since the epoch."""

    pid: int
    stage: str
    done: int
    total: int
    started_ns: int
    last_end_ns: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Slot:
    """A row as a job, or several that are done one after the other, take it to their worker.

    Parameters
    ----------
    path : str
        Of the table.
    made_ns : int
        When the table was made, since the next one may have the same path.
    row, ticket : int
        Number of the row, and of this use of it.
    stage : str
        Theirs.
    patience : float
        Seconds before the stack of a job is dumped; 0: never.
    run : int
        Process of the run, whose own stacks are not for a job to have dumped.
    """

    path: str
    made_ns: int
    row: int
    ticket: int
    stage: str
    patience: float
    run: int

    def take(self, index: int) -> None:
        """Say that a job begins, here and now."""
        table = _table(self.path, self.made_ns)
        if table is None:
            return
        if self.patience and os.getpid() != self.run:
            stacks.arm(os.path.dirname(self.path), self.patience)  # 5 µs less than by pathlib
        now = time.time_ns()
        table.write(self.row, self.ticket, (self.ticket, index, os.getpid(), threading.get_ident(),
                                            now, self.stage.encode(), now, b""))  # fmt: skip

    def at(self, step: str) -> None:
        """Say which part of the work begins."""
        table = _table(self.path, self.made_ns)
        if table is not None:
            table.write_step(self.row, self.ticket, step)

    def leave(self) -> None:
        """Say that the job has ended."""
        if self.patience and os.getpid() != self.run:
            stacks.rest()
        table = _table(self.path, self.made_ns)
        if table is not None:
            table.write(self.row, self.ticket, (self.ticket, *_NOBODY))


class Inflight:
    """The table of a run, for the process that runs it.

    Parameters
    ----------
    folder : pathlib.Path
        Gets the table and the folder of stacks; what is left there by another run goes.
    rows : int
        Jobs that may be under way at once.
    patience : float
        Seconds before the stack of a job is dumped; 0: never.
    inside : bool
        Jobs are done in this very process, which is ours: if they keep even the loop that waits
        for them from going on, its stacks are dumped.

    Raises
    ------
    OSError
        There is no room for the table.
    """

    def __init__(self, folder: Path, rows: int, patience: float, inside: bool = False) -> None:
        self._path, self._patience = RunFolder(folder).inflight, patience
        self._inside = inside and patience > 0
        stacks.clear(folder)
        # Written out, since a page that the disk has no room for would be a bus error later; and
        # under another name, since the old file may be mapped by somebody.
        with atomic_write(self._path) as fresh:
            fresh.write_bytes(bytes(_HEAD_SIZE + rows * _ROW_SIZE))
        self._table = _Table(self._path)
        self._started = time.time_ns()
        self._free = list(range(rows))
        self._tickets = 0
        self.progress("", 0, 0)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is."""
        head = (_MAGIC, self._table.rows, os.getpid(), done, total, self._started,
                time.time_ns(), stage.encode())  # fmt: skip
        _HEAD.pack_into(self._table.memory, 0, *head)

    def turn(self) -> None:
        """Say that the loop goes on; it looks at a running job for itself."""
        if self._inside:
            stacks.arm(str(self._path.parent), self._patience)

    def rest(self) -> None:
        """Say that the loop has ended."""
        if self._inside:
            stacks.rest()

    def slot(self, stage: str) -> Slot | None:
        """A row for a job; None where there is none left."""
        if not self._free:
            return None
        self._tickets += 1
        number = self._free.pop(0)
        self._table.write(number, 0, (self._tickets, *_NOBODY))
        return Slot(str(self._path), self._started, number, self._tickets, stage, self._patience,
                    os.getpid())  # fmt: skip

    def row(self, slot: Slot) -> Row | None:
        """What is known of the job that has a row; None where none is at work."""
        return self._table.read(slot.row)

    def release(self, slot: Slot) -> Row | None:
        """Take a row back; what it said last, if its worker died."""
        last = self.row(slot)
        # A thread that was left behind may come back: its ticket is no longer valid then.
        self._table.write(slot.row, slot.ticket, (0, *_NOBODY))
        self._free.append(slot.row)
        return last

    def close(self, state: str) -> None:
        """Say how the run has ended, one of `ENDINGS`, and let go of the file."""
        global _open  # noqa: PLW0603 - that of a pool of threads
        if _open[0] == (str(self._path), self._started):
            _open = ("", 0), None
        self.progress(state, 0, 0)
        del self._table

    def stack(self, row: Row) -> str:
        """The stack of a job under way; empty where none is known."""
        return stacks.of(self._path.parent, row.pid, row.thread, row.started_ns)


def read(folder: Path) -> Snapshot:
    """The table of a run that goes on, or is dead.

    Raises
    ------
    OSError, ValueError
        There is none, or it is none of ours.
    """
    path = RunFolder(folder).inflight
    data = path.read_bytes()
    if len(data) < _HEAD_SIZE or not data.startswith(_MAGIC):
        raise ValueError(f"{path} is no table of a run")
    _, rows, pid, done, total, started, last, stage = _HEAD.unpack_from(data, 0)
    table = _Table(path, mmap.ACCESS_READ)
    found = [row for number in range(rows) if (row := table.read(number)) is not None]
    found.sort(key=lambda row: (row.started_ns, row.index))
    return Snapshot(pid, _text(stage), done, total, started, last, tuple(found))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


class _Table:
    """The mapped file."""

    def __init__(self, path: Path, access: int = mmap.ACCESS_WRITE) -> None:
        with path.open("rb" if access == mmap.ACCESS_READ else "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=access)
        self.rows = (len(self.memory) - _HEAD_SIZE) // _ROW_SIZE

    def write(self, number: int, ticket: int, values: tuple[Any, ...]) -> None:
        """The whole row, if it is that ticket's."""
        at = _HEAD_SIZE + number * _ROW_SIZE
        count, owner = _MINE.unpack_from(self.memory, at)
        if owner == ticket:
            count = (count + 1) & 0xFFFFFFFF
            _ROW.pack_into(self.memory, at, count, *values, count)

    def write_step(self, number: int, ticket: int, step: str) -> None:
        """Only the part, if the row is still that ticket's."""
        at = _HEAD_SIZE + number * _ROW_SIZE
        count, owner = _MINE.unpack_from(self.memory, at)
        if owner != ticket:
            return
        count = (count + 1) & 0xFFFFFFFF
        _COUNT.pack_into(self.memory, at, count)
        _STEP.pack_into(self.memory, at + _STEP_AT, time.time_ns(), step.encode())
        _COUNT.pack_into(self.memory, at + _LAST_AT, count)

    def read(self, number: int) -> Row | None:
        at = _HEAD_SIZE + number * _ROW_SIZE
        for _ in range(100):
            last = _COUNT.unpack_from(self.memory, at + _LAST_AT)
            row = _ROW.unpack_from(self.memory, at)
            if _COUNT.unpack_from(self.memory, at) == last:
                break
        else:
            return None  # its worker died in the middle of a change
        _, _, index, pid, thread, start, stage, since, step, _ = row
        if not index:
            return None
        return Row(_text(stage), index, _text(step), pid, thread, start, since)


_open: tuple[tuple[str, int], _Table | None] = (("", 0), None)  # what this process used last


def _table(path: str, made_ns: int) -> _Table | None:
    """The table of a path, mapped once; None where it cannot be, as on another machine."""
    global _open  # noqa: PLW0603 - a worker has one table, for as long as it lives
    what, table = _open
    if what != (path, made_ns):
        try:
            table = _Table(Path(path))
            # A thread that an earlier run left behind has no row in the table of the next.
            table = table if _HEAD.unpack_from(table.memory)[5] == made_ns else None
        except (OSError, ValueError):
            table = None
        _open = (path, made_ns), table
    return table
