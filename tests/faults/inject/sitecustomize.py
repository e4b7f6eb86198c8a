"""Injects faults into a command and its workers, if this folder is on PYTHONPATH.

ZEMOSAIC_FAULT is like ``gil@2-3`` (the pair of tiles 2 and 3), ``segfault@tile4``, ``kill@*`` or
``sleep@scan0,exit@solve``: the fault and its place. With ZEMOSAIC_ONCE, the name of a file, a fault
happens once. ZEMOSAIC_CLOCK is the number of seconds by which the clock is fast. The faults are
real, and the program under test is unchanged but for its patience.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import importlib.abc
import importlib.machinery
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def shift_clock(seconds: float) -> None:
    """Make the clock of this process fast; faketime cannot: threads of Python hang under it."""
    seconds_now, nanoseconds_now = time.time, time.time_ns
    time.time = lambda: seconds_now() + seconds
    time.time_ns = lambda: nanoseconds_now() + int(seconds * 1e9)


def hold_the_lock() -> None:
    """Loop in C without releasing the GIL."""
    collections.deque(itertools.repeat(None), maxlen=0)


def hang_in_c() -> None:
    """Wait in C for a lock that this thread holds, with the GIL released; no signal ends it."""
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def wait_for_leave() -> None:
    """Wait until a test creates a file."""
    while not os.path.exists(os.environ["ZEMOSAIC_LEAVE"]):
        time.sleep(0.02)


def run_out_of_memory() -> None:
    """Allocate memory up to the limit of this process."""
    import resource

    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), resource.RLIM_INFINITY))
    try:
        blocks = [bytearray(1 << 20)]
        while True:
            blocks.append(bytearray(1 << 20))
    finally:
        del blocks
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def kill_the_forkserver() -> None:
    """Kill the parent of this worker, the forkserver, and wait."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)


def stop() -> None:
    """Stop this process; its threads go on until the signal has reached all."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


FAULTS: dict[str, Callable[[], Any]] = {
    "raise": lambda: 1 / 0,
    "sleep": lambda: time.sleep(3600),
    "gil": hold_the_lock,
    "c": hang_in_c,
    "wait": wait_for_leave,
    "kill": lambda: os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "memory": lambda: bytearray(1 << 60),
    "exhaust": run_out_of_memory,
    "forkserver": kill_the_forkserver,
    "stop": stop,
    "none": lambda: None,
}
#: Small tiles shall have many blocks, and lost clusters shall be given up soon.
CONSTANTS = {"BLOCK_VALUES": 1 << 12, "SILENCE": 8.0, "LEASE": 4.0}


def is_first() -> bool:
    """Return whether a fault that happens once has not happened yet."""
    if (path := os.environ.get("ZEMOSAIC_ONCE")) is None:
        return True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def at_fault(function: Callable[..., Any], where: Callable[..., str]) -> Callable[..., Any]:
    faults = [entry.partition("@")[::2] for entry in os.environ["ZEMOSAIC_FAULT"].split(",")]

    @functools.wraps(function)
    def job(*args: Any, **named: Any) -> Any:
        here = where(*args)
        for fault, place in faults:
            if place in ("*", here) and is_first():
                FAULTS[fault]()
        time.sleep(float(os.environ.get("ZEMOSAIC_SLOW", "0")))  # a test may interrupt the job
        return function(*args, **named)

    return job


def number(name: str) -> str:
    return str(int("".join(re.findall(r"\d+", Path(name).stem))))


def first_number(file: str | Path) -> str:
    return Path(file).name.partition(".")[0]


PLACES: dict[str, dict[str, Callable[..., str]]] = {
    "zemosaic.pipeline.scan_task": {
        "scan": lambda tile, name, *_: f"scan{number(name)}",
    },
    "zemosaic.pipeline.tasks": {
        "prepare": lambda tile, channels, grid, path, *_: f"tile{first_number(path)}",
        "measure": lambda first, second, *_: f"{first_number(first)}-{first_number(second)}",
    },
    "zemosaic.pipeline.mosaic_tasks": {
        "coadd_to_file": lambda plan, box, *_: f"block{box.x0}-{box.y0}",
    },
    "zemosaic.photometry.solver.solve": {"solve": lambda *_: "solve"},
    "zemosaic.photometry.overlap.graph": {"find_overlaps": lambda *_: "overlap"},
    "zemosaic.report.build": {"write_report": lambda *_: "page"},
    "zemosaic.pipeline.tables": {"write_table": lambda table, path: path.name},
    "zemosaic.photometry.mosaic.canvas": {},
    "zemosaic.runtime.dask_cluster": {},
    "zemosaic.runtime.dask_lookout": {},
}


class Finder(importlib.abc.MetaPathFinder):
    """Wraps the functions of `PLACES` when their modules are imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in PLACES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            for function, where in PLACES[name].items():
                setattr(module, function, at_fault(getattr(module, function), where))
            for constant in CONSTANTS.keys() & vars(module).keys():
                setattr(module, constant, CONSTANTS[constant])

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "ZEMOSAIC_NO_POPEN" in os.environ:
    import subprocess

    def refuse(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    subprocess.Popen = refuse  # type: ignore[assignment, misc]

if "ZEMOSAIC_FAULT" in os.environ:
    sys.meta_path.insert(0, Finder())
    # A background job of a shell ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "ZEMOSAIC_CLOCK" in os.environ:
    shift_clock(float(os.environ["ZEMOSAIC_CLOCK"]))
