"""Statistics of the values that share a group label."""

from __future__ import annotations

import numpy as np


def group_medians(
    label: np.ndarray, values: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the median of each group.

    Parameters
    ----------
    label : ndarray
        ``(N,)`` int group of each value, from 0 to ``groups - 1``.
    values : ndarray
        ``(N,)`` float64.
    groups : int
        Number of groups.

    Returns
    -------
    median : ndarray
        ``(groups,)``; NaN for an empty group and for a group with a NaN, as `numpy.median`.
    count : ndarray
        ``(groups,)`` int number of values.
    """
    count = np.bincount(label, minlength=groups)
    median = np.full(groups, np.nan)
    filled = np.flatnonzero(count)
    ranked = values[np.lexsort((values, label))]  # NaNs come last in each group
    first, size = (np.cumsum(count) - count)[filled], count[filled]
    middle = (ranked[first + (size - 1) // 2] + ranked[first + size // 2]) / 2
    median[filled] = np.where(np.isnan(ranked[first + size - 1]), np.nan, middle)
    return median, count
