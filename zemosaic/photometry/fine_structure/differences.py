"""Differences of corrected tiles in the blocks of their overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .corrected_blocks import CorrectedBlocks

FEWEST_BLOCKS = 12  # of an overlap that is used


@dataclass(frozen=True, eq=False)
class Differences:
    """N blocks of P overlaps, in the order of these, in C channels.

    Parameters
    ----------
    tiles : ndarray
        ``(P, 2)`` int: tiles i and j of each overlap.
    start : ndarray
        ``(P,)`` int: the first block of each overlap.
    values : ndarray
        ``(C, N)`` corrected tile i minus corrected tile j in ADU.
    variance : ndarray
        ``(C, N)`` of the values, but for a factor.
    light : ndarray
        ``(C, N)`` mean of the light of both tiles in ADU.
    scale : ndarray
        ``(2, C, N)`` change of both tiles by 1 ADU more in their data.
    places : ndarray
        ``(2, 2, N)`` detector coordinates x and y of the block in tile i, and in tile j.
    """

    tiles: np.ndarray
    start: np.ndarray
    values: np.ndarray
    variance: np.ndarray
    light: np.ndarray
    scale: np.ndarray
    places: np.ndarray

    @cached_property
    def pair(self) -> np.ndarray:
        """Number ``(N,)`` of the overlap of each block."""
        return np.repeat(np.arange(len(self.start)), self.blocks)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.values)

    @property
    def count(self) -> int:
        """Number of blocks N."""
        return self.values.shape[1]

    @property
    def blocks(self) -> np.ndarray:
        """Number ``(P,)`` of blocks of each overlap."""
        return np.diff(self.start, append=self.count)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum values ``(N, ...)`` over the blocks of each overlap."""
        return np.asarray(np.add.reduceat(values, self.start, axis=0))

    def by_tile(self, values: np.ndarray) -> np.ndarray:
        """Sum values ``(P, ...)`` over the overlaps of each tile."""
        sums = np.zeros((int(self.tiles.max()) + 1, *values.shape[1:]))
        for end in self.tiles.T:
            np.add.at(sums, end, values)
        return sums

    @classmethod
    def of(
        cls,
        pairs: Iterable[tuple[int, int]],
        blocks: Callable[[int], CorrectedBlocks],
        most: float = np.inf,
    ) -> Differences | None:
        """Collect the blocks of overlaps; None if all are too small.

        Parameters
        ----------
        pairs : iterable of tuple of int
            Tiles i and j of each overlap.
        blocks : callable
            Returns the corrected blocks of a tile.
        most : float
            Number of blocks, after which no overlap is added.
        """
        found: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
        count = 0
        for i, j in pairs:
            if count >= most:
                break
            part = _common(blocks(i), blocks(j))
            if part is not None:
                found[i, j] = part
                count += part[0].shape[1]
        if not found:
            return None
        joined = (np.concatenate(arrays, axis=-1) for arrays in zip(*found.values(), strict=True))
        lengths = [values.shape[1] for values, *_ in found.values()]
        return cls(np.array(list(found)), np.cumsum([0, *lengths[:-1]]), *joined)


def _common(one: CorrectedBlocks, other: CorrectedBlocks) -> tuple[np.ndarray, ...] | None:
    """Return values, variances, light and places of the common blocks of two tiles."""
    both = one, other
    left, top = max(b.column for b in both), max(b.row for b in both)
    right, bottom = (
        min(corner + length for corner, length in ends)
        for ends in (
            [(b.column, b.valid.shape[1]) for b in both],
            [(b.row, b.valid.shape[0]) for b in both],
        )
    )
    if right <= left or bottom <= top:
        return None
    boxes = [
        np.s_[..., top - b.row : bottom - b.row, left - b.column : right - b.column] for b in both
    ]
    valid = one.valid[boxes[0]] & other.valid[boxes[1]]
    if np.count_nonzero(valid) < FEWEST_BLOCKS:
        return None

    def chosen(name: str) -> list[np.ndarray]:
        return [getattr(b, name)[box][..., valid] for b, box in zip(both, boxes, strict=True)]

    names = "values", "variance", "light", "scale"
    values, variance, light, scale = (np.stack(chosen(name)) for name in names)
    places = np.stack([chosen("x"), chosen("y")], axis=1)
    return values[0] - values[1], variance.sum(axis=0), light.mean(axis=0), scale, places
