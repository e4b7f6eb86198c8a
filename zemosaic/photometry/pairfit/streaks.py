"""Trails of satellites and aircraft: streaks of blocks that contradict the line."""

from __future__ import annotations

import numpy as np

from .._kernels.algebra import sum_threes
from .samples import PairSamples

# A star that contradicts the line is shorter than one of these.
STREAK_BLOCKS, STREAK_CELLS = 3, 8
MARGIN_CELLS = 2  # around a streak, which hold some of its light


def without_streaks(samples: PairSamples, outliers: np.ndarray) -> PairSamples | None:
    """Remove streaks of outliers and the blocks next to them.

    Parameters
    ----------
    samples : PairSamples
        B blocks.
    outliers : ndarray
        ``(B,)`` bool: blocks that contradict the line. Blocks of one star are contiguous.

    Returns
    -------
    PairSamples or None
        None if there is no streak, or if more than half of the blocks are outliers or would be
        removed.
    """
    if not STREAK_BLOCKS <= np.count_nonzero(outliers) <= len(outliers) / 2:
        return None
    row, column = np.divmod(samples.block_index[outliers], samples.frame_shape[1])
    streak = cluster_lengths(row, column) >= max(STREAK_BLOCKS, STREAK_CELLS / samples.side)
    image = np.zeros((1, *samples.frame_shape))
    image[0, row[streak], column[streak]] = 1.0
    for _ in range(-(-MARGIN_CELLS // samples.side)):
        image = sum_threes(image, 1)
    kept = image.ravel()[samples.block_index] == 0
    if not len(kept) / 2 <= np.count_nonzero(kept) < len(kept):
        return None
    return samples.select_blocks(kept)


def cluster_lengths(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the length of the cluster of touching blocks that each block belongs to.

    The length is the larger side of the bounding box; blocks that touch in a corner are in one
    cluster. Memory is quadratic in the number of blocks.
    """
    count = len(row)
    distance = np.maximum(np.abs(row - row[:, None]), np.abs(column - column[:, None]))
    label, previous = np.arange(count), np.full(count, -1)
    while (label != previous).any():
        label, previous = np.where(distance <= 1, label, count).min(axis=1), label
        label = label[label]  # skips ahead in long clusters
    length = np.zeros(count, dtype=np.intp)
    for place in (row, column):
        low, high = place.copy(), place.copy()
        np.minimum.at(low, label, place)
        np.maximum.at(high, label, place)
        np.maximum(length, high - low + 1, out=length)
    return length[label]
