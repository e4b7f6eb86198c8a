"""Functions that run at the workers of a Dask cluster, and at the nannies that started them.

Each worker keeps a table of its running jobs and the dumps of its stacks in a folder on a disk of
its own host, because memory-mapped files of a shared folder are not the same everywhere. Its nanny
reads both, also when the worker is stopped, stuck with the GIL or dead. A signal asks for a dump:
`faulthandler` answers without the GIL. A worker without a nanny reads its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import inflight, stacks
from .inflight import Inflight, Row, Slot
from .run_folder import RunFolder
from .worker import TaskResult, run_task
from .worker_process import keep_freed_memory, run_pickled

DUMP_TIME = 0.3  # seconds until a worker that is not stopped has dumped its stacks
EXIT_TIME = 3.0  # seconds until the nanny has seen the end of its worker
ROWS_PER_THREAD = 4  # also for tasks that the run has given to another worker
_CAN_DUMP = hasattr(faulthandler, "register") and not stacks.DUMPS_IN_PYTHON
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # parameter of prctl(2)


class UnknownRunError(Exception):
    """A task of a run to which its worker was not introduced: it has replaced a dead one."""


@dataclass(frozen=True)
class Introduction:
    """A worker as it describes itself to a run.

    Parameters
    ----------
    pid, host : int, str
        Its process and the name of its machine.
    nanny : str
        Address of its nanny; empty if it has none.
    identity : str
        Description of the package that it has imported.
    folder : str
        Folder of its table and its stacks, on its own disk.
    """

    pid: int
    host: str
    nanny: str
    identity: str
    folder: str


@dataclass(frozen=True)
class Examination:
    """The state of a worker: its rows and stacks by the run's tickets, and its exit code."""

    rows: Mapping[int, Row]
    stacks: Mapping[int, str]
    exitcode: int | None


@dataclass
class _Place:
    """Where a worker records its jobs for one run."""

    folder: Path
    inflight: Inflight
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> TaskResult:
        """Run a task of the run, in a row of our table if it has one in the run's table."""
        slot = None
        if args and isinstance(args[0], Slot):
            with self.lock:
                slot = self.inflight.allocate(str(args[0].ticket))
        if slot is None:
            return run_task(function, args)
        try:
            return run_task(function, (slot, *args[1:]))
        finally:
            with self.lock:
                self.inflight.release(slot)


_places: dict[str, _Place] = {}  # at a worker, by run
_processes: dict[int, Any] = {}  # at a nanny: all its workers by process, also dead ones
_leases: dict[str, float] = {}  # at a nanny, by the folder of a worker: when to end its jobs
_guards: set[asyncio.Task[None]] = set()  # which asyncio refers to weakly


def introduce(run_id: str, identify: Callable[[], str], dask_worker: Any) -> Introduction:
    """Prepare a worker for the tasks of a run, and return its description.

    Parameters
    ----------
    run_id : str
        Names the run.
    identify : callable
        Describes the imported package.
    dask_worker : distributed.Worker
        Passed by Dask.
    """
    if (place := _places.get(run_id)) is None:
        # Beside the folder of the worker, which its nanny removes when it dies.
        scratch = Path(dask_worker.local_directory).parent
        folder = Path(tempfile.mkdtemp(prefix="zemosaic-", dir=scratch))
        rows = ROWS_PER_THREAD * dask_worker.state.nthreads
        place = _places[run_id] = _Place(folder, Inflight(folder, rows, 0.0))
        _record_stacks(folder)
    if dask_worker.nanny:
        _end_with_nanny()
    keep_freed_memory()
    return Introduction(
        pid=os.getpid(),
        host=socket.gethostname(),
        nanny=dask_worker.nanny or "",
        identity=identify(),
        folder=str(place.folder),
    )


def _record_stacks(folder: Path) -> None:
    if _CAN_DUMP:
        stacks.dump_on_fault(folder)
        dumps = os.open(RunFolder(folder).stack(os.getpid()), os.O_WRONLY | os.O_APPEND)
        faulthandler.register(signal.SIGUSR2, dumps, all_threads=True, chain=False)


def _end_with_nanny() -> None:
    """Make the kernel kill this process when its nanny ends, even if it is stopped or stuck.

    Dask does so by a thread, which needs the GIL. Linux only.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, int(_KILL), 0, 0, 0)


def missing_files(contents: Mapping[str, str]) -> list[str]:
    """Return the paths that hold something else than they should, or nothing."""
    return [path for path, content in contents.items() if not _holds(path, content)]


def _holds(path: str, content: str) -> bool:
    try:
        return Path(path).read_text() == content
    except OSError:
        return False


def leave(run_id: str, folder: str) -> None:
    """Forget a run that has ended."""
    if (place := _places.pop(run_id, None)) is not None:
        place.inflight.close("finished")
    shutil.rmtree(folder, ignore_errors=True)


def clock_ns() -> int:
    """Return the time of this machine in nanoseconds since the epoch."""
    return time.time_ns()


def run_at_worker(run_id: str, task: bytes) -> bytes:
    """Run a pickled task of a run, and return its pickled result.

    Raises
    ------
    UnknownRunError
        The worker was not introduced to the run.
    """
    place = _places.get(run_id)
    if place is None:
        raise UnknownRunError(run_id)
    return run_pickled(task, place.run)


def watch(pid: int, dask_worker: Any) -> None:
    """Keep the process of a nanny's worker, for its exit code."""
    if dask_worker.process is not None and dask_worker.process.process is not None:
        _processes[pid] = dask_worker.process.process


async def renew_leases(workers: Mapping[str, int], seconds: float) -> None:
    """Let the workers of a nanny go on for some seconds, without which their jobs are ended.

    Parameters
    ----------
    workers : mapping
        Processes of workers by their folders; those of other nannies are ignored.
    seconds : float
        Until then the run renews the lease, or has ended.
    """
    for folder, pid in workers.items():
        if pid in _processes and os.path.isdir(folder):
            is_new = folder not in _leases
            _leases[folder] = time.monotonic() + seconds
            if is_new:
                task = asyncio.get_running_loop().create_task(_end_without_lease(folder, pid))
                _guards.add(task)
                task.add_done_callback(_guards.discard)


async def _end_without_lease(folder: str, pid: int) -> None:
    """Kill a worker that still has jobs of a run whose lease has ended; its nanny replaces it."""
    while (left := _leases[folder] - time.monotonic()) > 0:
        await asyncio.sleep(left)
    del _leases[folder]
    if _rows(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _KILL)
    shutil.rmtree(folder, ignore_errors=True)


async def examine(folder: str, pid: int, patience: float) -> Examination:
    """Return the jobs of a worker, with the stacks of those that run for `patience` seconds."""
    rows = {int(row.stage): row for row in _rows(folder)}
    since = time.time_ns() - int(patience * 1e9)
    long_running = {ticket: row for ticket, row in rows.items() if row.started_ns <= since}
    if long_running:
        await _dump(folder, pid)
    dumped = {
        ticket: stacks.find(Path(folder), row.pid, row.thread, row.started_ns)
        for ticket, row in long_running.items()
    }
    return Examination(rows, dumped, None)


async def kill(folder: str, pid: int, ticket: int) -> Examination:
    """Examine a worker and kill it, if it has a job of this ticket; 0 means any."""
    examination = await examine(folder, pid, 0.0)
    if ticket in examination.rows or not ticket:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _KILL)
    return examination


async def bury(folder: str, pid: int) -> Examination:
    """Return the jobs at which a worker died, the stacks of a fatal error, and its exit code."""
    process, deadline = _processes.get(pid), time.monotonic() + EXIT_TIME
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
    """Make a worker dump its stacks; one that is stopped does not answer."""
    if not _CAN_DUMP:
        return
    path = RunFolder(Path(folder)).stack(pid)
    deadline = time.monotonic() + DUMP_TIME
    with contextlib.suppress(OSError):  # the worker has ended, or its folder was removed
        before = size = path.stat().st_size
        os.kill(pid, signal.SIGUSR2)
        while size == before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            size = path.stat().st_size
        await asyncio.sleep(0.01)  # of many threads, the last may be missing
