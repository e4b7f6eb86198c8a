"""The choice of a pool by its kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from .executor_pool import ExecutorPool
from .pool import Pool, no_identity, usable_processors
from .serial_pool import SerialPool
from .thread_pool import ThreadPool

#: Windows waits for 63 pipes at most: the pipes of the workers, and one of the run.
MOST_ON_WINDOWS = 60
KINDS = ("processes", "threads", "serial", "dask", "dask://HOST:PORT")


def make_pool(
    kind: str | Executor | Pool | Any,
    workers: int = 0,
    preload: Sequence[str] = (),
    identify: Callable[[], str] = no_identity,
) -> Pool:
    """Make a pool of a kind, or wrap an executor.

    Parameters
    ----------
    kind : {"processes", "threads", "serial", "dask"}, str, Executor, Pool or Client
        A pool is returned as it is; "dask://HOST:PORT" and a client of Dask join its cluster.
    workers : int
        Workers to start; 0 starts one per usable processor. Of an executor that does not name it,
        the number of its workers.
    preload : sequence of str
        Modules that worker processes import before their first task, if the platform allows it.

    identify : callable
        Describes the imported package, in this process and in worker processes; workers with
        another description end the run.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if isinstance(kind, Pool):
        return kind
    if isinstance(kind, Executor):
        return ExecutorPool(kind, workers)
    workers = workers or usable_processors()
    if is_dask(kind):
        from .dask_pool import DaskPool

        return DaskPool(kind, workers, identify)
    if kind == "processes":
        from .process_pool import ProcessPool

        if sys.platform == "win32":
            workers = min(workers, MOST_ON_WINDOWS)
        return ProcessPool(workers, preload, identify)
    if kind == "threads":
        return ThreadPool(workers)
    if kind == "serial":
        return SerialPool()
    raise ValueError(f"pool is {kind!r}; choose one of {', '.join(KINDS)} or give an Executor")


def is_dask(kind: Any) -> bool:
    """Return whether a kind of pool names a Dask cluster or is a client of one."""
    if isinstance(kind, str):
        return kind == "dask" or kind.startswith("dask://")
    names = {f"{base.__module__}.{base.__name__}" for base in type(kind).__mro__}
    return "distributed.client.Client" in names
