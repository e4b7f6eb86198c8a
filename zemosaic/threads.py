"""Helper threads, which the system may refuse to start, and reports about doing without."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

_reports: deque[str] = deque()


def start_thread(target: Callable[[], None], name: str, without: str) -> threading.Thread | None:
    """Start a daemon thread; return None, and report it, if the system starts no more.

    Parameters
    ----------
    target : callable
        Function of the thread.
    name : str
        Name of the thread.
    without : str
        The consequence of a missing thread, for the report.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        report(f"{str(error) or 'out of memory'}: {without}")
        return None
    return thread


def report(message: str) -> None:
    """Keep a message for the next `take_reports`, in any thread."""
    _reports.append(message)


def take_reports() -> list[str]:
    """Return the reports since the last call."""
    return [_reports.popleft() for _ in range(len(_reports))]
