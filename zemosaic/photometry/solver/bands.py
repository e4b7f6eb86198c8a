"""The gains of all pairs of a mosaic from their two bands, each with the weight it has earned.

A flat's residual or a gradient that differs between tiles disturbs the middle band of every pair,
with structure too wide for the patches of a single overlap to show. The small band is immune to
it. The differences of both bands in all pairs show by how much the errors of the middle band are
too small.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from ..pairfit.estimates import DISAGREEMENT

#: Squared difference of two bands, in units of its variance, beyond which it counts no more.
OUTLIER_SQUARE = 9.0
#: Mean square of a normal deviate limited in this way.
MEAN_SQUARE = 0.989
#: Factors of the middle band's variance that are considered.
FACTORS = np.geomspace(1.0, 1e4, 161)


class BandGains(NamedTuple):
    """Combined gains of P pairs, their standard errors and concentrations, each ``(P,)``.

    `middle_factor` is the factor by which the variances of the middle band were enlarged where
    there is a small band too.
    """

    gain: np.ndarray
    gain_err: np.ndarray
    concentration: np.ndarray
    middle_factor: float


def combine_bands(bands: np.ndarray) -> BandGains:
    """Combine the bands of all pairs of a channel.

    Parameters
    ----------
    bands : ndarray
        ``(P, 7)`` as `PairMeasurement.bands`.

    Returns
    -------
    BandGains
        Gain and error are NaN if neither band shows a gain.
    """
    share = bands[:, [2, 5]]
    logs, variance = _logarithms(bands[:, [0, 3]], bands[:, [1, 4]])
    factor = _middle_factor(logs, variance)
    variance[:, 1] *= factor
    variance = _add_disagreement(logs, variance, share[:, :1])
    precision = 1 / variance
    total = precision.sum(axis=1)
    any_band = total > 0
    small, middle = (precision / np.where(any_band, total, 1.0)[:, None]).T
    combined = np.exp(small * logs[:, 0] + middle * logs[:, 1])
    relative = 1 / np.sqrt(np.where(any_band, total, np.nan))
    concentration = (
        small**2 * share[:, 0] + 2 * small * middle * bands[:, 6] + middle**2 * share[:, 1]
    )
    return BandGains(
        np.where(any_band, combined, np.nan), combined * relative,
        np.where(any_band, concentration, 1.0), factor,
    )  # fmt: skip


def _logarithms(gain: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-gains and their variances ``(P, 2)``; 0 and infinity if none is measured."""
    with np.errstate(invalid="ignore"):
        measured = gain > 0
    known = np.where(measured, gain, 1.0)
    return np.log(known), np.where(measured, (error / known) ** 2, np.inf)


def _add_disagreement(logs: np.ndarray, variance: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Enlarge the variances ``(P, 2)`` of bands that disagree.

    As in a single pair, the middle band is in doubt, or the small one if it depends on one star;
    `share` ``(P, 1)`` is the concentration of the latter.
    """
    with np.errstate(invalid="ignore"):
        excess = (logs[:, 0] - logs[:, 1]) ** 2 - DISAGREEMENT**2 * variance.sum(axis=1)
    blame = np.sqrt(share)
    return variance + np.where(excess > 0, excess, 0.0)[:, None] * np.hstack([blame, 1 - blame])


def _middle_factor(logs: np.ndarray, variance: np.ndarray) -> float:
    """Return the smallest factor of the middle band's variance that explains the differences."""
    both = np.isfinite(variance).all(axis=1)
    if not both.any():
        return 1.0
    squares = (logs[both, 0] - logs[both, 1]) ** 2
    small, middle = variance[both].T

    def explains(factor: float) -> bool:
        mean = np.minimum(squares / (small + factor * middle), OUTLIER_SQUARE).mean()
        return bool(mean <= MEAN_SQUARE)

    return float(FACTORS[bisect_left(FACTORS[:-1], True, key=explains)])
