"""The clock of the scheduler, which tests replace."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any


class Clock:
    """The system's clocks, and waiting for futures."""

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        return time.monotonic()

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return time.time_ns()

    def wait(self, futures: Collection[Future[Any]], timeout: float) -> set[Future[Any]]:
        """Wait until a future is done, for at most `timeout` seconds; return the done ones."""
        return wait(futures, timeout, return_when=FIRST_COMPLETED).done
