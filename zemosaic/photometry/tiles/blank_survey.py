"""A survey of the values of a tile, which shows whether some of its pixels may be blank."""

from __future__ import annotations

from functools import cached_property

import numpy as np

#: Every so many pixels along both axes are in the sample of the values.
SAMPLE_STEP = 7
#: Fewest pixels of a value that is no datum anywhere.
FEWEST = 10
#: Fewest of them in the sample.
FEWEST_IN_SAMPLE = 3
#: Least share of the edge filled by the highest value of a tile if it is no saturated star.
EDGE_SHARE = 0.25


class Survey:
    """Values of a tile that show whether some of its pixels may be blank, strip by strip.

    Parameters
    ----------
    height : int
        Height of the tile.
    """

    def __init__(self, height: int) -> None:
        self.height, self.top, self.zeros = height, 0, 0
        self.edges: list[np.ndarray] = []
        self.samples: list[np.ndarray] = []

    def add(self, strip: np.ndarray) -> None:
        """Add the next strip ``(C, h, W)`` of the tile."""
        common = common_value(strip)
        bottom = self.top + len(common)
        self.edges += [common[:, 0].copy(), common[:, -1].copy()]
        if self.top == 0:
            self.edges.append(common[0].copy())
        if bottom == self.height:
            self.edges.append(common[-1].copy())
        self.samples.append(strip[0, ::SAMPLE_STEP, ::SAMPLE_STEP].ravel())
        self.zeros += int(np.count_nonzero(common == 0))  # of bools: five times as fast
        self.top = bottom

    @cached_property
    def edge(self) -> np.ndarray:
        """``(E,)`` finite edge values shared by all channels."""
        edge = np.concatenate(self.edges)
        return edge[np.isfinite(edge)]

    @cached_property
    def sample(self) -> np.ndarray:
        """``(S,)`` finite values of the first channel."""
        sample = np.concatenate(self.samples)
        return sample[np.isfinite(sample)]

    def candidates(self) -> list[float]:
        """Return the candidates for the fill value.

        They are 0, the commonest at the edge, and the lowest.
        """
        values = [0.0] if self.zeros >= FEWEST else []
        if len(self.sample):
            lowest = float(self.sample.min())
            if lowest != 0 and np.count_nonzero(self.sample == lowest) >= FEWEST_IN_SAMPLE:
                values.append(lowest)
        value, count = _commonest(self.edge)
        highest = value >= self.sample.max(initial=-np.inf)
        enough = EDGE_SHARE * len(self.edge) if highest else FEWEST
        if value not in {0, *values} and count >= enough:
            values.append(value)
        return values

    def distance(self, value: float) -> float:
        """Return the distance of a value from the others, across a gap; 0 without a gap.

        It is in their standard deviations, or steps of their values if these are larger, from
        their median; negative below them.
        """
        others = self.sample[self.sample != value].astype(np.float64)
        if not len(others):
            return 0.0
        low, middle, high = np.percentile(others, [15.9, 50, 84.1])
        near = np.count_nonzero(np.abs(others - value) < abs(middle - value) / 2)
        if near > 1e-2 * np.count_nonzero(self.sample == value):
            return 0.0
        step = np.diff(np.unique(self.sample)).min()
        return float((value - middle) / max((high - low) / 2, step))


def _commonest(values: np.ndarray) -> tuple[float, int]:
    """Return the commonest value and its number; 0 and 0 without values."""
    if not len(values):
        return 0.0, 0
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[counts.argmax()]), int(counts.max())


def common_value(strip: np.ndarray) -> np.ndarray:
    """Return the value ``(h, W)`` that all channels share, NaN if they differ."""
    first = strip[0]
    if len(strip) == 1:
        return first
    return np.where((strip[1:] == first).all(axis=0), first, np.float32(np.nan))
