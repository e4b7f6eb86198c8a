"""Puts a fault into the workers of a command: this folder goes first on PYTHONPATH.

ZEMOSAIC_FAULT is like ``gil@2-3`` (the pair of tiles 2 and 3), ``segfault@tile4`` or ``kill@*``:
what happens, and to which job. The fault is a real one; the program under test knows nothing.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import importlib.abc
import importlib.machinery
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def hold_the_lock() -> None:
    """A loop in C that never looks up."""
    collections.deque(itertools.repeat(None), maxlen=0)


def run_out_of_memory() -> None:
    """Ask for more than any machine has."""
    bytearray(1 << 60)


FAULTS: dict[str, Callable[[], Any]] = {
    "raise": lambda: 1 / 0,
    "sleep": lambda: time.sleep(3600),
    "gil": hold_the_lock,
    "kill": lambda: os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "memory": run_out_of_memory,
}


def at_fault(function: Callable[..., Any], where: Callable[..., str]) -> Callable[..., Any]:
    what, _, place = os.environ["ZEMOSAIC_FAULT"].partition("@")

    @functools.wraps(function)
    def job(*args: Any) -> Any:
        if place in ("*", where(*args)):
            FAULTS[what]()
        slow = os.environ.get("ZEMOSAIC_SLOW")  # so that a test can catch a run in the middle
        if slow:
            time.sleep(float(slow))
        return function(*args)

    return job


def pair(first: tuple[Any, Path], second: tuple[Any, Path], model: str) -> str:
    return f"{first[1].stem}-{second[1].stem}"


def tile(tile: Any, channels: int, grid: Any, path: Path) -> str:
    return f"tile{path.stem}"


class Finder(importlib.abc.MetaPathFinder):
    """Changes zemosaic.jobs when it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "zemosaic.jobs":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            module.measure = at_fault(module.measure, pair)  # type: ignore[attr-defined]
            module.prepare = at_fault(module.prepare, tile)  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "ZEMOSAIC_FAULT" in os.environ:
    sys.meta_path.insert(0, Finder())
