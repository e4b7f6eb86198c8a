"""Positions of tiles relative to their WCS, from the shifts measured by their pairs.

Each pair with stars measures the shift between the scenes of its tiles to a few hundredths of a
cell. The fit of the pair absorbs a small shift to first order. A large shift biases gain and
level, yet smoothly enough for the pair to look sound. It is detected by the position of the tile,
on which its pairs agree.
"""

from __future__ import annotations

import numpy as np

from ..overlap.graph import component_labels
from .dissection import Dissection
from .groups import group_medians
from .potentials import Differences, Potentials, potentials

MISPLACED = 0.75  # cells: larger shifts bias gains and levels
SHIFT_ERROR = 0.02  # cells, at least: the image of a star differs from tile to tile
# Cells. Without stars the error of a shift is larger, and a slope of the sky imitates a shift.
LARGEST_ERROR = 0.125


def tile_shifts(
    dissection: Dissection,
    i: np.ndarray,
    j: np.ndarray,
    shift: np.ndarray,
    shift_err: np.ndarray,
) -> np.ndarray:
    """Compute the position of each tile relative to most of its component.

    Parameters
    ----------
    dissection : Dissection
        Order in which the T tiles are eliminated.
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    shift, shift_err : ndarray
        ``(P, 2)`` as in `PairMeasurement`, in cells; NaN if not measured.

    Returns
    -------
    ndarray
        ``(T, 2)`` in cells, with median 0 in each component; NaN if the error exceeds
        `LARGEST_ERROR`.
    """
    measured = np.isfinite(shift_err).all(axis=1)
    tiles = len(dissection.front)
    shifts = np.full((tiles, 2), np.nan)
    if measured.any():
        i, j = i[measured], j[measured]
        component, fit = component_labels(tiles, i, j), None
        for axis in range(2):
            weight = np.hypot(shift_err[measured, axis], SHIFT_ERROR) ** -2.0
            differences = Differences(j, i, shift[measured, axis], weight)
            fit = potentials(tiles, differences, dissection=dissection, other=fit)
            shifts[:, axis] = _relative_to_median(fit, component)
    return shifts


def _relative_to_median(fit: Potentials, component: np.ndarray) -> np.ndarray:
    """Subtract the median of each component; NaN for tiles with too large an error."""
    joined = np.isfinite(fit.variance)
    median, _ = group_medians(component[joined], fit.value[joined], component.max() + 1)
    precise = joined & (fit.variance <= LARGEST_ERROR**2)
    return np.where(precise, fit.value - median[component], np.nan)


def distance_in_pixels(shifts: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Convert shifts in cells to distances in pixels.

    Parameters
    ----------
    shifts : ndarray
        ``(T, 2)`` in cells; NaN if unknown.
    jacobian : ndarray
        ``(T, 2, 2)`` change of the grid position with the tile's pixel x, y.

    Returns
    -------
    ndarray
        ``(T,)`` in pixels of the tile; NaN if unknown.
    """
    # The pseudo-inverse exists for any matrix; a failed tile has a jacobian of zeros or NaN.
    jacobian = np.where(np.isnan(shifts[:, :1, None]), np.eye(2), jacobian)
    return np.hypot(*(np.linalg.pinv(jacobian) @ shifts[..., None])[..., 0].T)
