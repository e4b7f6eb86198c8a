"""The gains of the pairs by their stars, and pairs in which these disagree with the overlaps."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..photometry.pairfit.measurement import Measurement, PairMeasurement
from ..photometry.stars.aperture import Stars
from ..photometry.stars.gain import StarGain, star_gains
from ..text import with_error
from .records import PairRecord
from .run_context import RunContext

KEPT_TILES = 256  # with stars in memory
DISAGREEMENT = 4.0  # errors between both gains of a pair, beyond which they disagree


def add_star_gains(context: RunContext, records: tuple[PairRecord, ...]) -> tuple[PairRecord, ...]:
    """Return the records with the gains of the stars, if these are measured."""
    if not context.settings.needs_stars:
        return records

    @lru_cache(KEPT_TILES)
    def load(index: int) -> Stars:
        return Stars.load(context.previews.here(context.previews.stars(index)))

    try:
        return tuple(
            replace(record, stars=star_gains(load(record.i), load(record.j))) for record in records
        )
    except (OSError, ValueError) as error:
        message = f"{context.previews.folder}: the stars cannot be read again ({error})"
        context.note(logging.WARNING, f"{message}; their gains are missing")
        return records


def gain_difference(line: Measurement, star: StarGain) -> float:
    """Return the difference of both gains of a channel in errors; NaN if one is missing."""
    if not (isinstance(line, PairMeasurement) and line.gain_measured and line.gain > 0):
        return math.nan
    error = math.hypot(line.gain_err / line.gain, star.gain_err / star.gain)
    return abs(math.log(line.gain / star.gain)) / error


def pair_difference(record: PairRecord) -> float:
    """Return the largest difference of both gains of a pair in any channel; NaN without any."""
    differences = map(gain_difference, record.measurements, record.stars)
    return max((value for value in differences if not math.isnan(value)), default=math.nan)


def stars_line(records: Sequence[PairRecord], names: Sequence[str]) -> str:
    """Return a line comparing the gains of the stars with the gains of the overlaps."""
    compared = {record: pair_difference(record) for record in records}
    counts = [max((star.stars for star in record.stars), default=0) for record in records]
    counts = [count for count in counts if count]
    if not counts:
        return "no pair has enough stars for a gain"
    line = f"gains of {len(counts)} of {len(records)} pairs by {min(counts)} to {max(counts)} stars"
    apart = [record for record, value in compared.items() if value > DISAGREEMENT]
    if not apart:
        return f"{line}, which agree with the overlaps"
    worst = max(apart, key=compared.__getitem__)
    return (
        f"{line}; {len(apart)} disagree with the overlap by more than {DISAGREEMENT:g} errors, "
        f"most of all {names[worst.i]} and {names[worst.j]} ({_both_gains(worst)})"
    )


def stars_facts(records: Sequence[PairRecord]) -> dict[str, int]:
    """Count the pairs with a gain by their stars, and the disagreeing pairs."""
    differences = [pair_difference(record) for record in records]
    return {
        "pairs": sum(any(star.stars for star in record.stars) for record in records),
        "disagreeing": sum(value > DISAGREEMENT for value in differences),
    }


def _both_gains(record: PairRecord) -> str:
    """Return both gains of the channel of a pair in which they differ most."""
    channels = zip(record.measurements, record.stars, strict=True)
    line, star = max(
        ((line, star) for line, star in channels if isinstance(line, PairMeasurement)),
        key=lambda channel: np.nan_to_num(gain_difference(*channel)),
    )
    return (
        f"{with_error(line.gain, line.gain_err)} by the overlap, "
        f"{with_error(star.gain, star.gain_err)} by its stars"
    )
