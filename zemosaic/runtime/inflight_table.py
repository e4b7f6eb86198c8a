"""The format of the table of running jobs: a header, and a row per submitted batch."""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAGIC = b"ZMFLY1\0\0"
_HEADER = struct.Struct("<8sIIIIqq16s")  # the fields of `Header`
# Seqlock: a counter is stored at both ends of a row. A writer changes the first before the row and
# the last after it; a reader loads the last before the row and the first after it, and tries again
# when they differ. The fields of `RowValues` lie between.
_ROW = struct.Struct("<IIIIQq16sq24sI")
_COUNTER, _COUNTER_TICKET = struct.Struct("<I"), struct.Struct("<II")
_STEP = struct.Struct("<q24s")  # the last two fields of `RowValues`
_HOST = struct.Struct("<44s")  # 0 of workers on the machine of the run
_STEP_OFFSET, _LAST_OFFSET, _HOST_OFFSET = 48, 80, 84  # bytes from the start of a row
HEADER_SIZE, ROW_SIZE = 128, 128
_READS = 100  # attempts at a row: only a writer killed during a change leaves it torn


class Header(NamedTuple):
    """The head of the table; `stage` is an ending once the run has ended."""

    magic: bytes
    rows: int
    pid: int
    done: int
    total: int
    created_ns: int
    last_end_ns: int
    stage: bytes


class RowValues(NamedTuple):
    """The content of a row: the owner's ticket and the current job, 0 between jobs."""

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
    host : str
        Machine of the worker; empty for the run's own.
    """

    stage: str
    index: int
    step: str
    pid: int
    thread: int
    started_ns: int
    step_ns: int
    host: str = ""


def encode_host(name: str) -> bytes:
    """Return the name of a machine as a row has it; of a long one its start and its end."""
    half = _HOST.size // 2
    text = name.encode()
    return text if len(text) <= _HOST.size else text[:half] + text[-half:]


def decode_text(padded: bytes) -> str:
    """Return the text of a field padded with zeros."""
    return padded.rstrip(b"\0").decode(errors="replace")


class Table:
    """The mapped file."""

    def __init__(self, path: Path, access: int = mmap.ACCESS_WRITE) -> None:
        with path.open("rb" if access == mmap.ACCESS_READ else "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=access)
        self.rows = (len(self._memory) - HEADER_SIZE) // ROW_SIZE

    @property
    def header(self) -> Header:
        """The header of the file."""
        return Header(*_HEADER.unpack_from(self._memory))

    @header.setter
    def header(self, header: Header) -> None:
        _HEADER.pack_into(self._memory, 0, *header)

    def write(self, row: int, ticket: int, values: RowValues, host: bytes | None = None) -> None:
        """Write a row, if the ticket owns it; only an empty one changes its host."""
        offset = HEADER_SIZE + row * ROW_SIZE
        counter, owner = _COUNTER_TICKET.unpack_from(self._memory, offset)
        if owner == ticket:
            counter = (counter + 1) & 0xFFFFFFFF
            if host is not None:
                _HOST.pack_into(self._memory, offset + _HOST_OFFSET, host)
            _ROW.pack_into(self._memory, offset, counter, *values, counter)

    def write_step(self, row: int, ticket: int, step: str) -> None:
        """Write the step of a row, if the ticket owns it."""
        offset = HEADER_SIZE + row * ROW_SIZE
        counter, owner = _COUNTER_TICKET.unpack_from(self._memory, offset)
        if owner != ticket:
            return
        counter = (counter + 1) & 0xFFFFFFFF
        _COUNTER.pack_into(self._memory, offset, counter)
        _STEP.pack_into(self._memory, offset + _STEP_OFFSET, time.time_ns(), step.encode())
        _COUNTER.pack_into(self._memory, offset + _LAST_OFFSET, counter)

    def read(self, row: int) -> Row | None:
        """Return the running job of a row; None if there is none."""
        values, host = self._read_values(HEADER_SIZE + row * ROW_SIZE)
        if not values.job_index:
            return None
        return Row(
            stage=decode_text(values.stage),
            index=values.job_index,
            step=decode_text(values.step),
            pid=values.pid,
            thread=values.thread,
            started_ns=values.started_ns,
            step_ns=values.step_ns,
            host=decode_text(host),
        )

    def _read_values(self, offset: int) -> tuple[RowValues, bytes]:
        """Return a row and its host; an empty row instead of a torn one."""
        for _ in range(_READS):
            last = _COUNTER.unpack_from(self._memory, offset + _LAST_OFFSET)
            values = _ROW.unpack_from(self._memory, offset)
            (host,) = _HOST.unpack_from(self._memory, offset + _HOST_OFFSET)
            if _COUNTER.unpack_from(self._memory, offset) == last:
                return RowValues(*values[1:-1]), host
        return RowValues(0), b""


@dataclass(frozen=True)
class _LastTable:
    """The table used last in this process: in a worker process, the only one."""

    path: str = ""
    created_ns: int = 0
    table: Table | None = None


_last_table = _LastTable()


def open_table(path: str, created_ns: int) -> Table | None:
    """Return the table of a path, mapped once; None if it cannot be, as on another machine."""
    global _last_table  # noqa: PLW0603
    last = _last_table  # read once, because an abandoned thread may replace it
    if (last.path, last.created_ns) != (path, created_ns):
        last = _last_table = _LastTable(path, created_ns, _map_table(path, created_ns))
    return last.table


def forget_table(path: str, created_ns: int) -> None:
    """Unmap a table if `open_table` returned it last."""
    global _last_table  # noqa: PLW0603
    if (_last_table.path, _last_table.created_ns) == (path, created_ns):
        _last_table = _LastTable()


def _map_table(path: str, created_ns: int) -> Table | None:
    try:
        table = Table(Path(path))
        # A thread abandoned by an earlier run has no row in the table of the next.
        return table if table.header.created_ns == created_ns else None
    except (OSError, ValueError):
        return None
