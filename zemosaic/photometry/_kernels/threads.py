"""Independent parts of a computation, each in a thread of its own.

Kernels run without the interpreter's lock, and so do numpy's operations on large arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TypeVar

MOST_THREADS = 8

Part = TypeVar("Part")
Result = TypeVar("Result")


def threads() -> int:
    """Return how many threads compute at once: one for each processor, but not too many."""
    return min(os.cpu_count() or 1, MOST_THREADS)


def at_once(call: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Call a function for all parts, in several threads, and return what it returns, in order.

    If it raises in several threads, one of the exceptions is raised.
    """
    number = min(threads(), len(parts))
    if number <= 1:
        return [call(part) for part in parts]
    results: list[list[Result]] = [[] for _ in range(number)]
    errors: list[Exception] = []

    def call_for(first: int) -> None:
        try:
            results[first] += [call(part) for part in parts[first::number]]
        except Exception as error:  # noqa: BLE001 - a thread's own would be printed and lost
            errors.append(error)

    others = [Thread(target=call_for, args=(first,)) for first in range(1, number)]
    for thread in others:
        thread.start()
    call_for(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
    return [results[k % number][k // number] for k in range(len(parts))]
