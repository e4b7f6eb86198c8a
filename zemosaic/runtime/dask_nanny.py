"""Functions that run at the nannies of Dask's workers: examinations, leases and deaths.

A nanny reads the table of its worker and the dumps of its stacks, also when the worker is stopped,
stuck with the GIL or dead. A signal asks for a dump, and if the GIL is held another, which
`faulthandler` answers without it. A worker without a nanny examines itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import inflight, stacks
from .dask_worker import CAN_DUMP, DUMP, DUMP_AT_ONCE, KILL
from .inflight import Row
from .run_folder import RunFolder

DUMP_TIME = 0.3  # seconds until a worker that is not stopped has dumped its stacks, twice at most
LONGEST = 1e9  # seconds: longer than any job, and finite
EXIT_TIME = 3.0  # seconds until the nanny has seen the end of its worker


@dataclass(frozen=True)
class Examination:
    """The state of a worker: its rows and stacks by the run's tickets, and its exit code."""

    rows: Mapping[int, Row]
    stacks: Mapping[int, str]
    exitcode: int | None


_processes: dict[str, Any] = {}  # of all workers by their folders, also dead ones
_kept: dict[str, str] = {}  # folders of their kept files, by their folders
_leases: dict[str, float] = {}  # by the folder of a worker: when to end its jobs
_guards: set[asyncio.Task[None]] = set()  # which asyncio refers to weakly


def watch(folder: str, kept: str, dask_worker: Any) -> None:
    """Keep the process of a nanny's worker, for its exit code, and the folder of its files."""
    _kept[folder] = kept
    if dask_worker.process is not None and dask_worker.process.process is not None:
        _processes[folder] = dask_worker.process.process


async def renew_leases(workers: Mapping[str, int], seconds: float) -> None:
    """Let the workers of a nanny go on for some seconds, without which their jobs are ended.

    Parameters
    ----------
    workers : mapping
        Processes of workers by their folders; workers of other nannies are ignored.
    seconds : float
        Until then the run renews the lease, or has ended.
    """
    for folder, pid in workers.items():
        if folder in _processes and os.path.isdir(folder):
            is_new = folder not in _leases
            _leases[folder] = time.monotonic() + seconds
            if is_new:
                task = asyncio.get_running_loop().create_task(_end_without_lease(folder, pid))
                _guards.add(task)
                task.add_done_callback(_guards.discard)


async def _end_without_lease(folder: str, pid: int) -> None:
    """Kill a worker that still has jobs of a run with an ended lease; its nanny replaces it."""
    while (left := _leases[folder] - time.monotonic()) > 0:
        await asyncio.sleep(left)
    del _leases[folder]
    shutil.rmtree(_kept[folder], ignore_errors=True)  # a suspended run makes them again
    if _rows(folder):  # else the run may have been suspended, and go on
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, KILL)
        shutil.rmtree(folder, ignore_errors=True)


async def examine(folder: str, pid: int, patience: float) -> Examination:
    """Return the jobs of a worker, with the stacks of jobs running for `patience` seconds."""
    rows = {int(row.stage): row for row in _rows(folder)}
    since = time.time_ns() - int(min(patience, LONGEST) * 1e9)
    long_running = {ticket: row for ticket, row in rows.items() if row.started_ns <= since}
    if long_running:
        await _dump(folder, pid)
    dumped = {
        ticket: stacks.find(Path(folder), row.pid, row.thread, row.started_ns)
        for ticket, row in long_running.items()
    }
    return Examination(rows, dumped, None)


async def kill(folder: str, pid: int, ticket: int) -> Examination:
    """Examine a worker and kill it if it has a job of this ticket; with 0 in any case."""
    examination = await examine(folder, pid, 0.0)
    if ticket in examination.rows or not ticket:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, KILL)
    return examination


async def bury(folder: str, pid: int) -> Examination:
    """Return the jobs at which a worker died, the stacks of a fatal error, and its exit code."""
    process, deadline = _processes.get(folder), time.monotonic() + EXIT_TIME
    while process is not None and process.exitcode is None and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    rows = {int(row.stage): row for row in _rows(folder)}
    path = RunFolder(Path(folder)).stack(pid)
    dumped = {
        ticket: stacks.read_last(path, row.thread, row.started_ns) for ticket, row in rows.items()
    }
    shutil.rmtree(folder, ignore_errors=True)
    return Examination(rows, dumped, None if process is None else process.exitcode)


def _rows(folder: str) -> tuple[Row, ...]:
    try:
        return inflight.read(Path(folder)).rows
    except (OSError, ValueError):
        return ()


async def _dump(folder: str, pid: int) -> None:
    """Make a worker dump its stacks; a stopped worker does not answer."""
    if not CAN_DUMP:
        return
    path = RunFolder(Path(folder)).stack(pid)
    with contextlib.suppress(OSError):  # the worker has ended, or its folder was removed
        before = size = path.stat().st_size
        for number in (DUMP, DUMP_AT_ONCE):
            deadline = time.monotonic() + DUMP_TIME
            os.kill(pid, number)
            while size == before and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                size = path.stat().st_size
            if size > before:
                break
        await asyncio.sleep(0.01)  # of many threads, the last may be missing
