"""The parts of a large run that its page shows: the worst, and an even selection of the others.

A page with all of a hundred thousand tiles would have 160 MB. Smaller runs are shown whole, and
all figures in the text are of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..observe.progress import FAILED_OUTCOMES
from ..runtime.events import JobEnded
from .data import PairData, RunData, job_seconds

MAX_TILES, MAX_PAIRS, MAX_JOBS = 10_000, 5_000, 20_000
MAX_VALUES = 10_000  # of a histogram
MAX_ROWS = 1_000  # of a table of tiles


@dataclass(frozen=True)
class Shown:
    """Places in the lists of a run that the page shows, in ascending order."""

    tiles: Sequence[int]
    pairs: Sequence[int]
    jobs: Sequence[int]

    @classmethod
    def of(cls, run: RunData) -> Shown:
        """Select the worst pairs and their tiles, failed and suspect tiles, the longest jobs."""
        pairs = _largest([_badness(pair) for pair in run.pairs], MAX_PAIRS)
        jobs = _largest([_length(job) for job in run.jobs], MAX_JOBS)
        return cls(_tiles(run, pairs), pairs, jobs)


def _tiles(run: RunData, pairs: Sequence[int]) -> Sequence[int]:
    count = len(run.tiles)
    if count <= MAX_TILES:
        return range(count)
    first = {index for number in pairs for index in (run.pairs[number].i, run.pairs[number].j)}
    odd = [tile.index for tile in run.tiles if tile.failed or tile.suspect]
    chosen = [*dict.fromkeys([*first, *odd])][:MAX_TILES]
    others = sorted(set(range(count)) - set(chosen))
    return sorted(
        [*chosen, *(others[k] for k in even_places(len(others), MAX_TILES - len(chosen)))]
    )


def _badness(pair: PairData) -> tuple[bool, float]:
    chi = pair.max_chi
    return pair.outcome in FAILED_OUTCOMES, chi if math.isfinite(chi) else -1.0


def _length(job: JobEnded) -> tuple[bool, float]:
    return job.outcome in FAILED_OUTCOMES, job_seconds(job)


def _largest(keys: Sequence[tuple[bool, float]], count: int) -> Sequence[int]:
    if len(keys) <= count:
        return range(len(keys))
    return sorted(sorted(range(len(keys)), key=keys.__getitem__, reverse=True)[:count])


def even_places(length: int, count: int) -> Sequence[int]:
    """Return at most `count` places, evenly spaced in a list."""
    return range(length) if length <= count else [k * length // count for k in range(count)]


def thinned(values: list[float]) -> list[float]:
    """Return values with the same distribution, at most `MAX_VALUES` of them."""
    if len(values) <= MAX_VALUES:
        return values
    ranked = sorted(values)
    return [ranked[place] for place in even_places(len(ranked), MAX_VALUES)]


def selection_sentence(run: RunData) -> str:
    """Return a sentence on what the charts leave out; empty if they show everything."""
    if len(run.tiles) <= MAX_TILES and len(run.pairs) <= MAX_PAIRS and len(run.jobs) <= MAX_JOBS:
        return ""
    return (
        f"The charts show at most {MAX_TILES:,} tiles, the {MAX_PAIRS:,} pairs that disagree most "
        f"and the {MAX_JOBS:,} longest jobs of {len(run.tiles):,} tiles, {len(run.pairs):,} pairs "
        f"and {len(run.jobs):,} jobs; all are in the tables of the run."
    )
