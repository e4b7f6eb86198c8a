"""The interface of pools: processes, threads, the calling thread, or a foreign executor.

`Pool.submit` returns a future whose result is a `TaskResult`, also when the task raised; its times
come from the worker's clock. `Pool.abandon` ends a stuck task as far as the pool can: a
process is killed and replaced, a thread is left behind and replaced, a worker of a foreign
executor is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import WorkerStarted
from .kept_files import Call, KeptFile
from .worker import TaskResult


@dataclass(frozen=True)
class Host:
    """The machine of a worker.

    Parameters
    ----------
    name : str
        Empty for the machine of the run.
    offset_ns : int
        Its clock minus the run's, in nanoseconds; 0 if they agree or nobody knows.
    """

    name: str = ""
    offset_ns: int = 0


LOCAL = Host()


class Pool:
    """Interface of all pools; `kind` and `workers` appear in traces and reports.

    `max_batch` is the largest number of short jobs to submit as one task: a batch costs one
    message to a worker instead of one per job.
    """

    kind: str
    workers: int
    max_batch: int = 1
    #: Whether futures show that they run; if not, a submission counts as running once fewer
    #: unfinished ones than there are workers came before it.
    marks_running: bool = True
    #: Whether jobs may run in this process.
    runs_here: bool = True
    #: Whether files may stay with the workers that make them (see `kept_files`).
    keeps_files: bool = False

    @property
    def window(self) -> int:
        """Number of submissions to keep: no worker idles, and few jobs wait unstarted."""
        return 4 * self.workers

    @property
    def rows(self) -> int:
        """Largest number of submissions in the table of running jobs."""
        return self.window

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Check that the workers see folders of the run, if they may be on other machines.

        Raises
        ------
        UserError
            One does not.
        """

    def keep_files(self, folder: Path, make: Callable[[str], Call | None]) -> None:
        """Prepare the pool for calls with kept files.

        Parameters
        ----------
        folder : pathlib.Path
            Folder of this machine for the files that `find_kept` returns.
        make : callable
            Returns the call that makes a file; None for a file that is not to be made again.
        """
        raise NotImplementedError

    def find_kept(self, file: KeptFile) -> Path:
        """Return the path of a kept file, copied to this machine or made again there."""
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Submit a task."""
        raise NotImplementedError

    def abandon(self, future: Future[TaskResult]) -> bool:
        """End a stuck task; return False if its worker is lost to the pool."""
        raise NotImplementedError

    def abandon_all(self, futures: Iterable[Future[TaskResult]]) -> None:
        """Abandon tasks; their outcomes do not matter any more."""
        for future in futures:
            self.abandon(future)

    def host(self, future: Future[TaskResult]) -> Host:
        """Return the machine of the worker that has, or last had, a task."""
        return LOCAL

    def idle_deaths(self) -> list[Exception]:
        """Return the deaths of idle workers since the last call."""
        return []

    def worker_starts(self) -> list[WorkerStarted]:
        """Return the workers that have become ready since the last call."""
        return []

    def close(self) -> None:
        """Release the workers without waiting for stuck ones."""
        raise NotImplementedError


def no_identity() -> str:
    """Return no description of the package, for pools with workers that run any function."""
    return ""


def usable_processors() -> int:
    """Return the number of processors usable by this process (see `os.sched_getaffinity`)."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
