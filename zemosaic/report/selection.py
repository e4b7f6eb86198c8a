"""The parts of a large run that its page shows: the worst, and an even selection of the others.

A page with all of a hundred thousand tiles would have 160 MB. Smaller runs are shown whole, and
all figures in the text are of the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..observe.progress import FAILED_OUTCOMES
from .data import IN_PROGRESS, RunData

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
        chi = np.nan_to_num(run.pairs.max_chi, nan=-1.0)
        pairs = _largest(np.isin(run.pairs.outcome, FAILED_OUTCOMES), chi, MAX_PAIRS)
        failed = np.isin(run.jobs.outcome, [*FAILED_OUTCOMES, IN_PROGRESS])
        jobs = _largest(failed, run.jobs.seconds, MAX_JOBS)
        return cls(_tiles(run, pairs), pairs, jobs)


def _tiles(run: RunData, pairs: Sequence[int]) -> Sequence[int]:
    count = len(run.tiles)
    if count <= MAX_TILES:
        return range(count)
    worst = [*pairs]
    first = np.stack([run.pairs.i[worst], run.pairs.j[worst]], axis=1).ravel().tolist()
    odd = sorted({*run.tiles.failed, *np.flatnonzero(run.tiles.suspect).tolist()})
    chosen = [*dict.fromkeys([*first, *odd])][:MAX_TILES]
    others = sorted(set(range(count)) - set(chosen))
    return sorted(
        [*chosen, *(others[k] for k in even_places(len(others), MAX_TILES - len(chosen)))]
    )


def _largest(failed: np.ndarray, size: np.ndarray, count: int) -> Sequence[int]:
    """Return the places of failed ones and of the largest others, in ascending order."""
    if len(size) <= count:
        return range(len(size))
    return sorted(np.lexsort([-size, ~failed])[:count].tolist())


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
    """Return a sentence on the points that the charts leave out; empty if they show all."""
    if len(run.tiles) <= MAX_TILES and len(run.pairs) <= MAX_PAIRS and len(run.jobs) <= MAX_JOBS:
        return ""
    return (
        f"The charts show at most {MAX_TILES:,} tiles, the {MAX_PAIRS:,} pairs that disagree most "
        f"and the {MAX_JOBS:,} longest jobs of {len(run.tiles):,} tiles, {len(run.pairs):,} pairs "
        f"and {len(run.jobs):,} jobs; all are in the tables of the run."
    )
