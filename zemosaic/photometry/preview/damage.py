"""Damaged tiles: values that no image holds, as a lost or an additional byte makes of floats.

A byte too many moves all later bytes of a float32 image, so that parts of mantissas become
exponents: values from 1e-38 to 1e38 side by side, or, if the mantissas end in zeros, values near
1e-39 below a row of ordinary ones. Values are compared with their neighbours alone, because an
image in any unit is legitimate.
"""

from __future__ import annotations

import numpy as np

from ...errors import TileError

#: Ratio of neighbours found in no image, as a power of two: 1e15.
JUMP_BITS = 50
#: Fraction of the columns that jump between two rows of a damaged image.
JUMPS = 0.25
#: Step between the columns looked at, and the fewest of them to judge by.
COLUMN_STEP, FEWEST_COLUMNS = 4, 8
#: Bins brighter than this quantile by a jump are no measurement.
BRIGHT_QUANTILE = 99.0
#: Values for this quantile; more are thinned.
SAMPLE = 1 << 14
_EXPONENT = np.uint32(0xFF)


class DamageSearch:
    """Searches the strips of a tile, from top to bottom, for rows unlike the rows above."""

    def __init__(self) -> None:
        self.found = False
        self._last_row: np.ndarray | None = None

    def add(self, strip: np.ndarray) -> None:
        """Search the next strip, ``(C, h, W)`` float32."""
        rows = np.ascontiguousarray(strip[:, :, ::COLUMN_STEP])
        if rows.shape[2] < FEWEST_COLUMNS:
            return
        if self._last_row is not None:
            rows = np.concatenate([self._last_row, rows], axis=1)
        self._last_row = rows[:, -1:]
        if _are_alike(rows):
            return
        exponent = (rows.view(np.uint32) >> 23 & _EXPONENT).astype(np.int16)
        exponent[~np.isfinite(rows) | (rows == 0)] = -1
        above, below = exponent[:, :-1], exponent[:, 1:]
        jumps = (np.abs(below - above) > JUMP_BITS) & (np.minimum(above, below) >= 0)
        share = np.count_nonzero(jumps, axis=2) / rows.shape[2]
        self.found |= bool((share > JUMPS).any())

    def require_none(self, name: str) -> None:
        """Raise `TileError`, with the name of the tile, if two rows are unlike in many columns."""
        if self.found:
            raise TileError(
                f"{name}: its pixels are damaged (neighbours differ by factors beyond "
                f"1e{JUMP_BITS * 3 // 10}); copy it again or recreate it"
            )


def drop_absurd_bins(means: np.ndarray, valid_fraction: np.ndarray | None) -> np.ndarray | None:
    """Make bins invalid if they are not finite or absurdly bright, as by a single flipped bit.

    Parameters
    ----------
    means, valid_fraction : ndarray
        As returned by `bin_tile`; `means` is changed.

    Returns
    -------
    ndarray or None
        The valid fraction, 0 in these bins.
    """
    if _are_alike(means):
        return valid_fraction
    sizes = np.abs(means)
    limits = np.array([np.ldexp(_bright(layer), JUMP_BITS) for layer in sizes])
    absurd = ~(sizes <= limits[:, None, None])
    if absurd.any():
        valid_fraction = np.ones_like(means) if valid_fraction is None else valid_fraction
        means[absurd] = valid_fraction[absurd] = 0
    return valid_fraction


def _are_alike(values: np.ndarray) -> bool:
    """Return whether all values are finite, none is 0, and none is brighter by a jump."""
    sizes = np.abs(values)
    smallest = float(sizes.min(initial=np.inf))
    return smallest > 0 and float(sizes.max(initial=0.0)) < np.ldexp(smallest, JUMP_BITS)


def _bright(sizes: np.ndarray) -> float:
    """Return the bright quantile of the finite values above 0; inf if there are none."""
    sample = sizes.ravel()[:: max(1, sizes.size // SAMPLE)]
    sample = sample[np.isfinite(sample) & (sample > 0)]
    return float(np.percentile(sample, BRIGHT_QUANTILE)) if len(sample) else np.inf
