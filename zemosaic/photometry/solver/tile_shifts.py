"""Tiles that do not lie where their WCS says, by what their pairs see in common.

Every pair with stars tells how far the scene of one tile lies beyond that of the other, to a few
hundredths of a cell. A small shift the fit of the pair takes up by itself, to first order. A large
one bends gains and levels, and smoothly enough for the pair to pass: such a tile is told by its
place, which its pairs agree about.
"""

from __future__ import annotations

import numpy as np

from ..overlap.graph import component_labels
from .plane_test import medians
from .potentials import potentials

MISPLACED = 0.75  # cells: beyond that a shift bends gains and levels
SHIFT_ERROR = 0.02  # cells, at least: a star's image is another in each tile
KNOWN = 0.125  # cells: without stars a shift is not told to that, and the sky's slopes pass for one


def tile_shifts(
    tiles: int, i: np.ndarray, j: np.ndarray, shift: np.ndarray, error: np.ndarray
) -> np.ndarray:
    """How far tiles lie beyond most of their component.

    Parameters
    ----------
    tiles : int
        Number of tiles.
    i, j : ndarray
        ``(P,)`` int: the tiles of each pair.
    shift, error : ndarray
        ``(P, 2)`` as of `PairMeasurement`, in cells; NaN where not known.

    Returns
    -------
    ndarray
        ``(T, 2)`` in cells, median 0 in each component; NaN where not known to an eighth.
    """
    known = np.isfinite(error).all(axis=1)
    i, j = i[known], j[known]
    used = np.bincount(np.r_[i, j], minlength=tiles) > 0
    found = np.full((tiles, 2), np.nan)
    if not used.any():
        return found
    label = component_labels(tiles, i, j)
    for axis in range(2):
        weight = np.hypot(error[known, axis], SHIFT_ERROR) ** -2.0
        place, variance, _ = potentials(tiles, j, i, shift[known, axis], weight)
        middle, _ = medians(label[used], place[used], label.max() + 1)
        sure = used & (variance <= KNOWN**2)
        found[sure, axis] = (place - middle[label])[sure]
    return found
