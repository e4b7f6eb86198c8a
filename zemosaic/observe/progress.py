"""How fast jobs end, and how long the others will take: from the ends themselves, no more."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

RECENT = 30.0  # seconds whose ends give the rate
FEWEST = 5  # ends before anything is said of the time left: their spread means little
SURE = 2.0  # standard deviations of the time left that are told


class ProgressRate:
    """The recent rate of ends, and the time left with its spread.

    Parameters
    ----------
    total : int
        All jobs.
    now : float
        When they began, in seconds.
    """

    def __init__(self, total: int, now: float) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._ends: deque[float] = deque([now])

    def ended(self, done: int, now: float, failed: bool = False) -> None:
        """A job ended; `done` counts it."""
        self.done = done
        self.failed += failed
        self._ends.append(now)
        while len(self._ends) > FEWEST + 1 and now - self._ends[0] > RECENT:
            self._ends.popleft()

    def rate(self, now: float) -> float:
        """Ends per second lately, silence since the last one included; 0 before any."""
        gaps = len(self._ends) - 1
        span = now - self._ends[0]
        return gaps / span if gaps and span > 0 else 0.0

    def left(self, now: float) -> tuple[float, float] | None:
        """Seconds left, at least and at most; None where that is not known.

        The time of the n jobs left is n times the mean gap between ends: its spread is that of
        the mean, from the N gaps seen, and that of the n gaps to come: s √(n²/N + n).
        """
        times = list(self._ends)
        gaps = [b - a for a, b in pairwise(times)]
        # The gap that is still open counts once it is longer than the others.
        mean = sum(gaps) / len(gaps) if gaps else 0.0
        if len(gaps) < FEWEST or mean <= 0:
            return None
        if now - times[-1] > mean:
            gaps.append(now - times[-1])
            mean = sum(gaps) / len(gaps)
        n, seen = self.total - self.done, len(gaps)
        scatter = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (seen - 1))
        spread = SURE * scatter * math.sqrt(n * n / seen + n)
        return max(0.0, n * mean - spread), n * mean + spread

    def words(self, now: float) -> str:
        """Rate and time left, for people."""
        rate = self.rate(now)
        if rate <= 0:
            return "no rate yet"
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        left = self.left(now)
        if self.done >= self.total:
            return speed
        if left is None:
            return f"{speed}, time left not known yet"
        low, high = (duration(seconds) for seconds in left)
        return f"{speed}, {low if low == high else f'{low} to {high}'} left"


def duration(seconds: float) -> str:
    """A length of time as people say it: 8 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 120 * 60 else f"{seconds / 3600:.1f} h"
