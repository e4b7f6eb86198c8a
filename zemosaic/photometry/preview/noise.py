"""Noise of an image, robust against stars and slopes."""

from __future__ import annotations

import numpy as np

#: Second differences in an estimate; about so many give the noise to 0.3 %.
DIFFERENCES = 3 << 15
#: Second differences in the first, clipped estimates.
SUBSET = 1 << 14
#: Median absolute value of a standard normal distribution.
NORMAL_MEDIAN = 0.6745
#: RMS of a standard normal distribution clipped at ±2 sigma.
CLIPPED_RMS = 0.8796
#: Variance of ``a - 2 b + c`` for unit variance of each.
DIFFERENCE_VARIANCE = 6.0


def estimate_noise(image: np.ndarray) -> float:
    """Return the standard deviation of the noise, from second differences.

    Slopes cancel in second differences, and 2-sigma clipping removes most stars.

    Parameters
    ----------
    image : ndarray
        ``(h, w)`` float32, the bins of one channel.

    Returns
    -------
    float
        0 if there are too few bins or all are alike.
    """
    # Every third difference is independent of the one before; the two between add little.
    spacing = 3 if image.size > DIFFERENCES else 1
    row_step = max(1, 2 * image.size // (spacing * DIFFERENCES))
    squares = np.concatenate([
        second_differences(image[::row_step].T, spacing),
        second_differences(image, spacing * row_step),
    ])  # fmt: skip
    np.square(squares, out=squares)
    if not squares.all():
        squares = squares[squares > 0]  # padding and constant areas have no noise
    if not len(squares):
        return 0.0
    subset = squares[:: max(1, len(squares) // SUBSET)]
    variance = float(np.median(subset)) / NORMAL_MEDIAN**2
    for sample in (subset, subset, subset, squares):
        clipped = sample[sample < 4 * variance]
        if not len(clipped):
            break
        variance = float(clipped.mean(dtype=np.float64)) / CLIPPED_RMS**2
    return float(np.sqrt(variance / DIFFERENCE_VARIANCE))


def second_differences(lines: np.ndarray, spacing: int) -> np.ndarray:
    """Return the second differences along the first axis, at every `spacing`-th line."""
    differences = lines[:-2:spacing] + lines[2::spacing]
    differences -= 2 * lines[1:-1:spacing]
    return differences.ravel()
