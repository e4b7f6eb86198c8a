"""Functions that run at the workers of a Dask cluster.

Each worker keeps a table of its running jobs and the dumps of its stacks in a folder on a disk of
its own host, because memory-mapped files of a shared folder are not the same everywhere. Its nanny
reads both (see `dask_nanny`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
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

from . import dask_files, stacks
from .inflight import Inflight, Slot
from .kept_files import FetchPart, KeptFiles, using
from .run_folder import RunFolder
from .worker import TaskResult, run_task
from .worker_process import keep_freed_memory, run_pickled

ROWS_PER_THREAD = 4  # also for tasks that the run has given to another worker
CAN_DUMP = hasattr(faulthandler, "register") and not stacks.DUMPS_IN_PYTHON
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
#: Signals that make a worker dump its stacks: with the GIL, without which the frames of a busy job
#: may change while they are read, which faults; and at once, for a job that holds the GIL.
DUMP, DUMP_AT_ONCE = (getattr(signal, name, signal.SIGTERM) for name in ("SIGUSR2", "SIGUSR1"))
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
    folder, kept : str
        Folders of its table and its stacks, and of its kept files, on its own disk.
    """

    pid: int
    host: str
    nanny: str
    identity: str
    folder: str
    kept: str


@dataclass
class _Place:
    """The record of a worker's jobs for one run."""

    folder: Path
    kept: Path
    fetch_part: FetchPart
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
        kept = dask_files.open_folder(run_id, dask_worker)
        fetch_part = dask_files.from_peers(run_id, dask_worker)
        place = _Place(folder, kept, fetch_part, Inflight(folder, rows, 0.0))
        _places[run_id] = place
        record_stacks(folder)
    if dask_worker.nanny:
        _end_with_nanny()
    keep_freed_memory()
    return Introduction(
        pid=os.getpid(),
        host=socket.gethostname(),
        nanny=dask_worker.nanny or "",
        identity=identify(),
        folder=str(place.folder),
        kept=str(place.kept),
    )


def record_stacks(folder: Path) -> None:
    """Dump the stacks of this process to a file at a fatal signal, or if a nanny asks for them."""
    if not CAN_DUMP:
        return
    stacks.dump_on_fault(folder)
    dumps = os.open(RunFolder(folder).stack(os.getpid()), os.O_WRONLY | os.O_APPEND)
    faulthandler.register(DUMP_AT_ONCE, dumps, all_threads=True, chain=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(DUMP, lambda *_: faulthandler.dump_traceback(dumps))
        signal.siginterrupt(DUMP, False)
    else:
        faulthandler.register(DUMP, dumps, all_threads=True, chain=False)


def _end_with_nanny() -> None:
    """Make the kernel kill this process when its nanny ends, even if it is stopped or stuck.

    Dask does so by a thread, which needs the GIL. Linux only.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, int(KILL), 0, 0, 0)


def missing_files(contents: Mapping[str, str]) -> list[str]:
    """Return the paths that hold something else than they should, or nothing."""
    return [path for path, content in contents.items() if not _holds(path, content)]


def _holds(path: str, content: str) -> bool:
    try:
        return Path(path).read_text() == content
    except OSError:
        return False


def leave(run_id: str, folder: str) -> None:
    """Forget an ended run."""
    if (place := _places.pop(run_id, None)) is not None:
        place.inflight.close("finished")
    shutil.rmtree(folder, ignore_errors=True)
    dask_files.close_folder(run_id)


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
    return run_pickled(task, _place(run_id).run)


def run_with_files(run_id: str, task: bytes, origins: bytes) -> tuple[bytes, list[str], list[str]]:
    """Run a task using kept files; return its pickled result, its new files and its lost ones."""
    place = _place(run_id)
    files = KeptFiles(place.kept, place.fetch_part, pickle.loads(origins))
    with using(files):
        result = run_pickled(task, place.run)
    return result, files.new, files.lost


def _place(run_id: str) -> _Place:
    if run_id not in _places:
        raise UnknownRunError(run_id)
    return _places[run_id]
