"""Powers of two as units, so that squares of values in any unit fit into float32.

A unit that is a power of two rounds nothing: results have the same bits in any of them.
"""

from __future__ import annotations

import numpy as np

#: Exponents of units are multiples of this: ADU, electrons and MJy/sr all have the exponent 0.
STEP = 32
#: Largest exponent; float32 ends at 2^127.
LARGEST = 96
#: Values of a median; more are thinned.
SAMPLE = 1 << 14


def binary_exponent(values: np.ndarray) -> int:
    """Return the exponent of the power of two that is a suitable unit for an array.

    Parameters
    ----------
    values : ndarray
        float32 of any shape; zeros, infinities and NaN do not count.

    Returns
    -------
    int
        A multiple of `STEP`, chosen so that most values lie within ``2**(-STEP / 2)`` and
        ``2**(STEP / 2)``.
    """
    sizes = np.abs(values.ravel()[:: max(1, values.size // SAMPLE)])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return 0
    exponent = STEP * round(float(np.log2(np.median(sizes))) / STEP)
    return max(-LARGEST, min(exponent, LARGEST))


def scale_exactly(values: np.ndarray, exponent: int) -> np.ndarray:
    """Return values times ``2**exponent``; the array itself if that is 1."""
    return values if exponent == 0 else np.ldexp(values, exponent)
