"""The main function of a worker process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from . import stacks
from .events import JobError
from .library_messages import collect_library_messages
from .worker import TaskResult, run_task

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def serve(pipe: Connection, lifeline: Connection, identify: Callable[[], str]) -> None:
    """Run tasks received through a pipe, and send their results back.

    Parameters
    ----------
    pipe : Connection
        Receives pickled pairs (function, args); a description of the imported package and then
        pickled results are sent.
    lifeline : Connection
        Reading end of a pipe; only the run holds the other one.
    identify : callable
        Describes the imported package.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # looking at the imported modules would copy the memory shared with the server
    gc.enable()
    _end_with_run(lifeline)
    keep_freed_memory()
    stacks.use_alarm()
    with contextlib.suppress(EOFError, OSError):  # the run has ended
        pipe.send_bytes(identify().encode(errors="surrogateescape"))
        while True:
            pipe.send_bytes(run_pickled(pipe.recv_bytes()))


def run_pickled(task: bytes, run: Callable[..., TaskResult] = run_task) -> bytes:
    """Run a pickled task; return its pickled result, or the error of pickling or unpickling."""
    result = TaskResult(None, None, 0, 0, os.getpid())
    try:
        with collect_library_messages():  # astropy reads a header again; its scan has the messages
            function, args = pickle.loads(task)
        result = run(function, args)
        return bytes(ForkingPickler.dumps(result))
    except Exception as error:  # noqa: BLE001 - pickling may raise anything
        return pickle.dumps(replace(result, value=None, error=JobError.of(error)))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next task.

    By default it returns large arrays to the kernel, which clears their pages again for the next
    ones: up to a quarter of the time of previews. Does nothing on other systems.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_TRIM_THRESHOLD, 1 << 28)
            libc.mallopt(_MMAP_THRESHOLD, 1 << 25)  # the largest value allowed


def _end_with_run(lifeline: Connection) -> None:
    """Make the kernel end this process when the run ends, even if the run is killed.

    An idle worker sees the end of its pipe. A worker stuck with the GIL does not, and
    would outlive its run; so the kernel sends a signal, which ends a process by default, when the
    run's end of the lifeline closes. Linux only: elsewhere such a worker stays, and
    ``zemosaic autopsy`` names it.
    """
    if sys.platform != "linux":
        return
    import fcntl

    with contextlib.suppress(OSError):  # /proc is not mounted
        # Opened again: the inherited description is shared by all workers but has one owner.
        descriptor = os.open(f"/proc/self/fd/{lifeline.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    if lifeline.poll():  # the run ended before
        os._exit(1)
