"""The gauge: degrees of freedom of the solution that no overlap constrains."""

from __future__ import annotations

import numpy as np


def in_reference_group(group: np.ndarray, component: np.ndarray, anchor: int | None) -> np.ndarray:
    """Find the tiles whose gain is comparable to the gain of the anchor or of most tiles.

    Parameters
    ----------
    group : ndarray
        ``(T,)`` int: tiles joined by pairs with a measured gain.
    component : ndarray
        ``(T,)`` int: tiles joined by any pairs.
    anchor : int or None
        A tile; its group is the reference of its component. In other components the largest group
        is, or the first of several.

    Returns
    -------
    ndarray
        ``(T,)`` bool; false for a tile that is alone in its group.
    """
    size = np.bincount(group)[group]
    reference = np.zeros(component.max(initial=-1) + 1, dtype=int)
    largest_last = np.lexsort((group, -size))[::-1]
    reference[component[largest_last]] = group[largest_last]
    if anchor is not None:
        reference[component[anchor]] = group[anchor]
    return (group == reference[component]) & (size > 1)
