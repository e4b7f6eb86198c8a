"""Interrupts that wait until all observers have the same events.

Otherwise the journal may have the end of a job whose span is missing.
"""

from __future__ import annotations

import signal
import threading


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
    """Raise KeyboardInterrupt for every signal that asks this process to end."""
    for name in ("SIGTERM", "SIGBREAK"):  # Windows sends SIGBREAK when a console is closed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    # A background job of a shell ignores it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signal_number: int, frame: object) -> None:
    if held.depth:
        held.interrupted = True
    else:
        raise KeyboardInterrupt
