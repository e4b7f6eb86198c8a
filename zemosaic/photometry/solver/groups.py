"""Statistics of the values sharing a group label."""

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
    median[label] = values  # of a single one
    several = count[label] > 1
    label, values = label[several], values[several]
    by_value = np.argsort(values)  # NaNs come last in each group
    ranked = values[by_value[np.argsort(label[by_value], kind="stable")]]
    size = np.where(count > 1, count, 0)
    filled = np.flatnonzero(size)
    first, size = (np.cumsum(size) - size)[filled], size[filled]
    middle = (ranked[first + (size - 1) // 2] + ranked[first + size // 2]) / 2
    median[filled] = np.where(np.isnan(ranked[first + size - 1]), np.nan, middle)
    return median, count
