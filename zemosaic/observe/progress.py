"""Progress of a stage in words: names of stages and jobs, rate, time left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..text import printable

#: Names of the stages for people, in the order in which a run reaches them.
STAGE_TITLES = {
    "scan": "reading headers",
    "prepare": "preparing tiles",
    "tiles": "making previews",
    "overlap": "finding overlaps",
    "pairs": "measuring pairs",
    "solve": "solving",
    "apply": "writing corrected tiles",
    "mosaic": "making the mosaic",
    "surveys": "looking at tiles",
    "blocks": "coadding blocks",
    "compress": "finishing the mosaic",
    "loop": "running the loop",
}
#: Outcomes of jobs without a result.
FAILED_OUTCOMES = ("failed", "timeout", "crashed")

RATE_WINDOW = 30.0  # seconds over which the rate is averaged
MIN_GAPS = 5  # gaps needed for an estimate: the scatter of fewer means little
SIGMAS = 2.0  # half-width of the interval of the time left, in standard deviations


def stage_title(stage: str) -> str:
    """Return the name of a stage for people; an unknown stage keeps its own name."""
    return STAGE_TITLES.get(stage, stage)


def job_name(stage: str, index: int, attributes: Mapping[str, Any]) -> str:
    """Return the name of a job for people: "pair 348 (a.fits, b.fits)", or a tile's file."""
    if stage == "pairs":
        names = f"{attributes.get('name_i')}, {attributes.get('name_j')}"
        return printable(f"pair {index} ({names})")
    if stage == "blocks":
        return printable(f"block {index} ({', '.join(attributes.get('tiles', ()))})")
    return printable(str(attributes.get("name") or f"tile {index}"))


class ProgressRate:
    """The recent rate of finished jobs, and the time left with its uncertainty.

    Parameters
    ----------
    total : int
        Number of jobs of the stage.
    now : float
        Time at which the stage began, in seconds.
    """

    def __init__(self, total: int, now: float) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._ends: deque[float] = deque([now])

    def job_ended(self, done: int, now: float, failed: bool = False) -> None:
        """Record the end of a job; `done` includes it."""
        self.done = done
        self.failed += failed
        self._ends.append(now)
        while len(self._ends) > MIN_GAPS + 1 and now - self._ends[0] > RATE_WINDOW:
            self._ends.popleft()

    def idle_time(self, now: float) -> float:
        """Return the seconds since a job last finished, or since the stage began."""
        return now - self._ends[-1]

    def rate(self, now: float) -> float:
        """Return the jobs finished per second, counting the silence up to `now`; 0 before any."""
        gaps = len(self._ends) - 1
        elapsed = now - self._ends[0]
        return gaps / elapsed if gaps and elapsed > 0 else 0.0

    def time_left(self, now: float) -> tuple[float, float] | None:
        """Return the bounds of the time left in seconds, or None with fewer than `MIN_GAPS` gaps.

        The n jobs left take n times the mean gap between ends. The mean of the N gaps
        seen and the n gaps to come both add to its variance, so its standard deviation is
        s √(n²/N + n), where s is the standard deviation of a gap.
        """
        gaps = [end - start for start, end in pairwise(self._ends)]
        mean = sum(gaps) / len(gaps) if gaps else 0.0
        if len(gaps) < MIN_GAPS or mean <= 0:
            return None
        # The open gap counts once it is longer than the mean.
        if self.idle_time(now) > mean:
            gaps.append(self.idle_time(now))
            mean = sum(gaps) / len(gaps)
        jobs, seen = self.total - self.done, len(gaps)
        scatter = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (seen - 1))
        margin = SIGMAS * scatter * math.sqrt(jobs * jobs / seen + jobs)
        return max(0.0, jobs * mean - margin), jobs * mean + margin

    def describe(self, now: float) -> str:
        """Return the rate and the time left in words."""
        rate = self.rate(now)
        if rate <= 0:
            return "no rate yet"
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        if self.done >= self.total:
            return speed
        bounds = self.time_left(now)
        if bounds is None:
            return f"{speed}, time left unknown"
        low, high = map(format_duration, bounds)
        return f"{speed}, {low if low == high else f'{low} to {high}'} left"


def format_duration(seconds: float) -> str:
    """Return a duration as people write it: "8 s", "3 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 120 * 60 else f"{seconds / 3600:.1f} h"
