"""Alignment of the truth of simulated tiles with a solution."""

from __future__ import annotations

import numpy as np

from ..solver.solve import Solution


def align_truth(
    solution: Solution, gain: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Transform the truth to the gauge of a solution, so that the two can be compared.

    A solution is determined up to one factor and one level per component and channel. The truth
    is given those that match the solution best.

    Parameters
    ----------
    solution : Solution
        The solution.
    gain, offset : ndarray
        ``(T, C)`` true gains, and offsets in ADU.

    Returns
    -------
    gain, offset : ndarray
        ``(T, C)`` in the solution's gauge.
    """
    gain, offset = gain.copy(), offset.copy()
    for channel in range(gain.shape[1]):
        for component in np.unique(solution.component[:, channel]):
            tiles = solution.component[:, channel] == component, channel
            factor = np.exp(np.mean(np.log(solution.gain[tiles] / gain[tiles])))
            gain[tiles] *= factor
            offset[tiles] *= factor
            offset[tiles] += np.mean(solution.offset[tiles] - offset[tiles])
    return gain, offset
