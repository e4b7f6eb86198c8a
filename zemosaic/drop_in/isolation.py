"""The pool of a call inside an application."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ..pipeline import PRELOAD, describe_package
from ..runtime.make_pool import make_pool
from ..runtime.pool import Pool

START_TIMEOUT = 60.0  # seconds: a worker imports the main module of the application


@contextmanager
def open_pool(
    pool: str | Executor | Pool, workers: int, log: Callable[[int, str], None]
) -> Iterator[str | Executor | Pool]:
    """Yield the pool of a call; processes that cannot start are replaced by threads.

    Parameters
    ----------
    pool : str, Executor or Pool
        A kind of pool, "auto", or a pool, which is left open.
    workers : int
        Workers to start; 0 starts one per usable processor.
    log : callable
        Receives level and text of the line about the replacement.
    """
    if pool == "auto":
        # A process started by `multiprocessing` shows that the main module can be imported again.
        pool = "threads" if multiprocessing.parent_process() is None else "processes"
    if pool != "processes":
        yield pool
        return
    processes = make_pool("processes", workers, PRELOAD, describe_package)
    try:
        reason = _start_failure(processes)
        if reason:
            log(logging.WARNING, f"no worker process could start ({reason}); using threads")
        yield "threads" if reason else processes
    finally:
        processes.close()


def _start_failure(pool: Pool) -> str:
    """Return why a pool cannot run a task; empty if it can."""
    try:
        result = pool.submit(os.getpid, ()).result(START_TIMEOUT)
    except Exception as error:  # noqa: BLE001 - whatever keeps a process from starting
        return " ".join(f"{type(error).__name__}: {error}".split())
    return "" if result.error is None else str(result.error)
