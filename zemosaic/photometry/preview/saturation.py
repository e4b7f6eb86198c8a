"""Clipped pixels, at the top of the range of their tile, and their neighbours.

A detector that is full gives the same number for every light. Such pixels are independent of the
gain, and two tiles that have many of them appear to share a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

#: Pixels at exactly the highest value of a tile that need not touch each other to be clipped.
MANY = 10
#: Ratio of their number to the number at the next lower value.
SPIKE = 4
#: Largest share of a tile, or of its valid pixels, filled by clipped stars; a level below more
#: pixels is wrong.
LARGEST_SHARE = 0.1
#: Fraction of the level in a header from which pixels are clipped: a bias may have been subtracted
#: and a flat divided out since, and few detectors are linear up to their limit.
NEAR = 0.95
#: Reach of a clipped pixel in pixels, by bleeding or by the interpolation of a stack.
REACH = 2
#: Ends of the ranges of 8, 10, 12, 14 and 16 bits, also shifted to 16, and of signed 16 bits.
FULL_SCALES = frozenset(
    float(value)
    for bits in (8, 10, 12, 14, 16)
    for value in (2**bits - 1, (2**bits - 1) << (16 - bits))
) | {32767.0}

#: Level in ADU of each channel at which other tiles are clipped, None without one.
Levels = tuple[float | None, ...] | None


@dataclass(frozen=True, eq=False)
class Ceiling:
    """The highest values of a tile.

    Parameters
    ----------
    highest : ndarray
        ``(C,)`` float64 in ADU: highest finite value of each channel, -inf without any.
    clipped : ndarray
        ``(C,)`` bool: whether the tile alone shows that its pixels there are clipped.
    """

    highest: np.ndarray
    clipped: np.ndarray


class _Limit:
    """The pixels of one channel at or above a level, unless these are too many."""

    def __init__(self, level: float, most: float) -> None:
        self._level, self._left = level, most
        self.places: list[np.ndarray] = []

    def add(self, channel: np.ndarray, peak: float, first: int) -> None:
        """Add the next strip ``(h, W)``, its highest value, and the number of its first pixel."""
        if peak < self._level or self._left < 0:
            return
        with np.errstate(invalid="ignore"):
            places = np.flatnonzero((channel >= self._level) & (channel < np.inf))
        self.places.append(places + first)
        self._left -= len(places)
        if self._left < 0:  # a level below the sky, or nonsense
            self.places = []

    def within(self, most: float) -> list[np.ndarray]:
        """Return the places, unless there are too many."""
        return self.places if sum(map(len, self.places)) <= most else []


class _Top:
    """The pixels of one channel at its highest value."""

    def __init__(self) -> None:
        self.highest = -np.inf
        self.places: list[np.ndarray] = []
        self.next_lower, self.next_count = -np.inf, 0

    def add(self, channel: np.ndarray, peak: float, first: int) -> None:
        """Add the next strip ``(h, W)``, its highest value, and the number of its first pixel."""
        if peak < self.highest or not np.isfinite(peak):
            return
        again = peak == self.highest
        if not again:
            self.highest, self.places = peak, []
            self.next_lower, self.next_count = -np.inf, 0
        places = np.flatnonzero(channel == peak)
        self.places.append(places + first)
        if again or len(places) > 1:  # the search takes long, and noise needs none
            self._add_next_lower(channel)

    def _add_next_lower(self, channel: np.ndarray) -> None:
        lower = float(np.max(channel, initial=-np.inf, where=channel < self.highest))
        count = int(np.count_nonzero(channel == lower))
        if lower == self.next_lower:
            self.next_count += count
        elif lower > self.next_lower:
            self.next_lower, self.next_count = lower, count

    def is_clipped(self, width: int, most: float) -> bool:
        """Return whether the pixels at the highest value of a tile are clipped.

        The highest value of an unclipped channel occurs once, or, if it is quantized, hardly more
        often than the next one. Two equal pixels side by side are no chance then. One is enough at
        the end of the range of a converter.
        """
        if not self.places:
            return False
        places = np.concatenate(self.places)
        if len(places) > most:
            return False
        if self.highest in FULL_SCALES:
            return True
        if not np.isfinite(self.next_lower):
            return False
        if len(places) >= MANY:
            return len(places) > SPIKE * self.next_count
        return len(places) > self.next_count and _touch(places, width)


class SaturationSearch:
    """Finds the clipped pixels of a tile, strip by strip.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of the tile.
    header_level : float
        Saturation level in ADU from the header of the tile, inf without one.
    levels : Levels
        Levels at which other tiles are clipped.
    """

    def __init__(
        self, shape: tuple[int, int, int], header_level: float = np.inf, levels: Levels = None
    ) -> None:
        channels, *self._shape = shape
        self._most = LARGEST_SHARE * self._shape[0] * self._shape[1]
        self._tops = [_Top() for _ in range(channels)]
        self._of_header = [_Limit(NEAR * header_level, self._most) for _ in range(channels)]
        self._shared = [
            _Limit(np.inf if level is None else level, self._most)
            for level in levels or [None] * channels
        ]
        self._row, self._valid = 0, [0] * channels

    def add(self, strip: np.ndarray) -> None:
        """Add the next strip, ``(C, h, W)`` float32 in ADU."""
        first = self._row * self._shape[1]
        finders = zip(self._tops, self._of_header, self._shared, strict=True)
        for number, (channel, of_channel) in enumerate(zip(strip, finders, strict=True)):
            peak, valid = _finite_max(channel)
            self._valid[number] += valid
            for finder in of_channel:
                finder.add(channel, peak, first)
        self._row += strip.shape[1]

    @property
    def ceiling(self) -> Ceiling:
        """The highest values of the tile, whatever is known of other tiles."""
        clipped = [
            bool(limit.within(self._most_of(number))) or self._is_clipped(number)
            for number, limit in enumerate(self._of_header)
        ]
        return Ceiling(np.array([top.highest for top in self._tops]), np.array(clipped))

    def _most_of(self, channel: int) -> float:
        return LARGEST_SHARE * self._valid[channel]

    def _is_clipped(self, channel: int) -> bool:
        return self._tops[channel].is_clipped(self._shape[1], self._most_of(channel))

    def bins(self, side: int) -> np.ndarray | None:
        """Return the bins with a pixel that is clipped, or touches a clipped one, in any channel.

        Parameters
        ----------
        side : int
            Side of a bin in pixels.

        Returns
        -------
        ndarray or None
            ``(H // side, W // side)`` bool; None if no pixel is clipped.
        """
        places = []
        for number, top in enumerate(self._tops):
            for limit in (self._of_header[number], self._shared[number]):
                places += limit.within(self._most_of(number))
            places += top.places if self._is_clipped(number) else []
        if not places:
            return None
        height, width = self._shape
        rows, columns = np.divmod(np.unique(np.concatenate(places)), width)
        bins = np.zeros((-(-height // side), -(-width // side)), dtype=bool)
        steps = range(-REACH, REACH + 1)
        for down, right in product(steps, steps):
            near_rows = np.clip(rows + down, 0, height - 1)
            near_columns = np.clip(columns + right, 0, width - 1)
            bins[near_rows // side, near_columns // side] = True
        return bins[: height // side, : width // side]


def shared_levels(ceilings: Sequence[Ceiling]) -> np.ndarray:
    """Return the level of each channel at which several tiles of one instrument are clipped.

    The highest values of two images are seldom equal by chance, as the gap between the brightest
    pixels of a tile is wide. Nor do more tiles exceed the level of a detector than reach it; a few
    may, whose brightest pixel is damaged.

    Parameters
    ----------
    ceilings : sequence of Ceiling
        Of the tiles of one instrument.

    Returns
    -------
    ndarray
        ``(C,)`` float64: the level in ADU, the highest value of at least two tiles to the last
        bit; inf where there is none.
    """
    shared = []
    for highest in np.array([ceiling.highest for ceiling in ceilings]).T:
        finite = highest[np.isfinite(highest)]
        levels, counts = np.unique(finite, return_counts=True)
        above = len(finite) - np.cumsum(counts)
        shared.append(np.max(levels[(counts > 1) & (counts > above)], initial=-np.inf))
    return np.where(np.isfinite(shared), shared, np.inf)


def levels_of_tile(ceiling: Ceiling, shared: np.ndarray) -> Levels:
    """Return the shared level of each channel that reaches it and does not show that itself."""
    found = (ceiling.highest == shared) & ~ceiling.clipped & np.isfinite(shared)
    if not found.any():
        return None
    return tuple(level if use else None for level, use in zip(shared.tolist(), found, strict=True))


def _touch(places: np.ndarray, width: int) -> bool:
    """Return whether two of a few pixels, by their numbers in the tile, are neighbours."""
    rows, columns = np.divmod(places, width)
    distance = np.maximum(
        np.abs(rows[:, None] - rows[None, :]), np.abs(columns[:, None] - columns[None, :])
    )
    return bool(np.count_nonzero(distance <= 1) > len(places))


def _finite_max(channel: np.ndarray) -> tuple[float, int]:
    """Return the highest finite value, -inf if there is none, and the number of finite ones."""
    peak = channel.max()  # usually finite, and ten times as fast
    if np.isfinite(peak):
        return float(peak), channel.size
    finite = np.isfinite(channel)
    return float(np.max(channel, initial=-np.inf, where=finite)), int(np.count_nonzero(finite))
