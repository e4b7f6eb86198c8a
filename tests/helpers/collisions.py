"""Calls in several threads between which Python switches wherever it may."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

THREADS, CALLS = 4, 300


def call_at_once(function: Callable[[], object]) -> None:
    """Call a function again and again in several threads; raise the first error."""

    def repeat() -> None:
        for _ in range(CALLS):
            function()

    with _frequent_switches(), ThreadPoolExecutor(THREADS) as threads:
        for future in [threads.submit(repeat) for _ in range(THREADS)]:
            future.result()


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let the collector run often, and call Python code, so that C code is left in its midst."""

    def callback(phase: str, info: dict[str, int]) -> None:
        sum(range(50), start=len(phase) + len(info))

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
