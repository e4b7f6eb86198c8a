"""How much of a tile its mask and weights cover, and whether they cover its sources."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .strips import read_raw_strips
from .tile import Tile

#: Rows read at once, and the step of the sample along both axes.
STRIP_ROWS, SAMPLE_STEP = 256, 3
#: Heights of bright pixels above the median in robust standard deviations; bad ones are higher.
BRIGHT = 3.0, 30.0
#: Fewest bright pixels in the sample.
FEWEST = 50


class MaskCover(NamedTuple):
    """Shares of a tile marked bad by its mask, weights and alpha channel.

    Parameters
    ----------
    all : float
        Of all pixels.
    bright, other : float
        Of the bright pixels, and of the others; 0 if there are too few bright ones.
    """

    all: float
    bright: float
    other: float

    @property
    def hides_sources(self) -> bool:
        """Whether most bright pixels are bad, and few others."""
        return self.bright > 0.5 > 3 * self.other


def mask_cover(tile: Tile) -> MaskCover | None:
    """Measure the cover of a tile; None if it has neither mask nor weights."""
    if not tile.has_mask:
        return None
    values, covered = [], []
    with tile.open() as (image, quality):
        for strip, bad in read_raw_strips(image, quality, STRIP_ROWS):
            values.append(strip[0, ::SAMPLE_STEP, ::SAMPLE_STEP].ravel())
            any_bad = np.zeros(strip.shape[1:], dtype=bool)
            for part in bad:
                any_bad |= part[0]
            covered.append(any_bad[::SAMPLE_STEP, ::SAMPLE_STEP].ravel())
    value, is_covered = np.concatenate(values), np.concatenate(covered)
    finite = np.isfinite(value)
    low, middle = np.percentile(value[finite], [15.9, 50]) if finite.any() else (0.0, 0.0)
    height = (value - middle) / max(middle - low, np.finfo(np.float32).tiny)
    bright = finite & (height > BRIGHT[0]) & (height < BRIGHT[1])
    if np.count_nonzero(bright) < FEWEST:
        return MaskCover(float(is_covered.mean()), 0.0, 0.0)
    return MaskCover(*(float(is_covered[k].mean()) for k in (slice(None), bright, ~bright)))
