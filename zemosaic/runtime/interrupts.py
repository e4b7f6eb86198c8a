"""Interrupts that wait until all observers have the same events.

Otherwise the journal may have the end of a job with a missing span.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


class _Process:
    """State of this process."""

    acknowledge: Callable[[], None] | None = None


class _Held(threading.local):
    """Context in which an interrupt of its thread waits for the end of the context."""

    depth = 0
    interrupted = False

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.interrupted and not self.depth:
            self.interrupted = False
            raise KeyboardInterrupt


held = _Held()


def handle_signals() -> None:
    """Raise KeyboardInterrupt for SIGTERM or SIGBREAK, and SIGINT unless it is ignored."""
    for name in ("SIGTERM", "SIGBREAK"):  # Windows sends SIGBREAK when a console is closed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    # A background job of a shell ignores it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def acknowledge_with(function: Callable[[], None] | None) -> bool:
    """Call a function in the main thread whenever it handles an interrupt.

    Returns whether this process handles interrupts at all, see `handle_signals`.
    """
    _Process.acknowledge = function
    return signal.getsignal(signal.SIGTERM) is _interrupt


def _interrupt(signal_number: int, frame: object) -> None:
    if _Process.acknowledge is not None:
        _Process.acknowledge()
    if held.depth:
        held.interrupted = True
    else:
        raise KeyboardInterrupt
