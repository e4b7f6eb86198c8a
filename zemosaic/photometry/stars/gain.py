"""The gain of a pair of tiles from the stars that both show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..pairfit.measurement import Measurement, PairMeasurement
from ..robust import GAUSSIAN_MEDIAN
from .aperture import Stars

#: Largest distance of the positions of one star, in FWHM.
MATCH_FWHM = 1.0
#: Fewest stars of a gain, and deviations from the median beyond which a star is left out.
FEWEST_STARS, CLIP = 3, 4.0
#: Rounds of the ratio of the fluxes; it moves by less than its error after the second.
ITERATIONS = 5
#: Fewest standard deviations of a star's flux above the noise of either tile.
MIN_SIGNAL = 7.0
#: Steps from below towards the scatter beyond noise.
NEWTON_STEPS = 10
#: Share of a normal distribution within one standard deviation, from below.
ONE_SIGMA = 0.8413447460685429


@dataclass(frozen=True)
class StarGain:
    """The gain of one channel of a pair from its stars.

    Parameters
    ----------
    gain, gain_err : float
        Fluxes in tile j over fluxes in tile i, as the gain of `PairMeasurement`, and the standard
        error, from noise and from the scatter of the stars; NaN with too few stars.
    stars : int
        Stars that agree on it.
    """

    gain: float = math.nan
    gain_err: float = math.nan
    stars: int = 0


def star_gains(first: Stars, second: Stars) -> tuple[StarGain, ...]:
    """Return the gain of every channel of a pair from the stars of both tiles."""
    channels = first.flux.shape[1]
    step = max(first.first_step, second.first_step)
    steps = [step - stars.first_step for stars in (first, second)]
    if max(steps) >= len(first.flux):
        return (StarGain(),) * channels  # the seeing is too different
    i, j = match_stars(first, second)
    x, x_err = first.flux[steps[0]][:, i], first.flux_err[steps[0]][:, i]
    y, y_err = second.flux[steps[1]][:, j], second.flux_err[steps[1]][:, j]
    return tuple(flux_ratio(*channel) for channel in zip(x, x_err, y, y_err, strict=True))


def match_stars(first: Stars, second: Stars) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the stars nearest to each other in both tiles."""
    from scipy.spatial import KDTree

    nothing = np.empty(0, dtype=np.int64)
    if not (len(first.position) and len(second.position)):
        return nothing, nothing
    reach = math.radians(MATCH_FWHM * max(first.fwhm, second.fwhm))
    distance, nearest = KDTree(second.position).query(first.position, distance_upper_bound=reach)
    found = np.flatnonzero(np.isfinite(distance))
    # Of the stars sharing a nearest one, the closest comes first and is kept.
    found = found[np.argsort(distance[found], kind="stable")]
    j, kept = np.unique(nearest[found], return_index=True)
    return found[kept], j


def flux_ratio(x: np.ndarray, x_err: np.ndarray, y: np.ndarray, y_err: np.ndarray) -> StarGain:
    """Return the ratio y / x of the fluxes of N stars, without stars that deviate.

    Both fluxes are noisy. A star is chosen and weighted by the mean of both, the noise of which
    does not correlate with the noise of ``y - gain * x``, so neither faint stars nor the limit of
    one tile bend the ratio (as in York's line; see `pairfit.measure`).

    Stars scatter by more than their noise: their colours, faint neighbours and the flat differ. The
    variance of this scatter is added to the variance of each star, so a few bright stars do not
    decide alone (Paule and Mandel 1982, J. Res. NBS 87, 377).

    Parameters
    ----------
    x, x_err, y, y_err : ndarray
        ``(N,)`` fluxes and their errors in both tiles; NaN if not measured.

    Returns
    -------
    StarGain
        The error covers 68 % of Student's distribution.
    """
    from scipy.special import stdtrit

    positive = (x > 0) & (y > 0) & (x_err > 0) & (y_err > 0)
    x, x_err, y, y_err = (values[positive] for values in (x, x_err, y, y_err))
    if len(x) < FEWEST_STARS:
        return StarGain()
    gain, error, stars = float(np.median(y / x)), math.nan, 0
    for _ in range(ITERATIONS):
        flux = (x / x_err**2 + gain * y / y_err**2) / (1 / x_err**2 + (gain / y_err) ** 2)
        clear = (flux > MIN_SIGNAL * x_err) & (gain * flux > MIN_SIGNAL * y_err)
        deviation = ((y - gain * x) / (gain * flux))[clear]
        variance = (np.hypot(y_err, gain * x_err) / (gain * flux))[clear] ** 2
        kept = _without_outliers(deviation, variance)
        stars = int(np.count_nonzero(kept))
        if stars < FEWEST_STARS:
            return StarGain()
        deviation, variance = deviation[kept], variance[kept]
        weight = 1 / (variance + _excess(deviation, variance))
        gain *= math.exp(weight @ deviation / weight.sum())
        error = stdtrit(stars - 1, ONE_SIGMA) / math.sqrt(weight.sum())
    return StarGain(gain, float(gain * error), stars)


def _without_outliers(deviation: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return which stars are near enough to the median, given their noise and the scatter."""
    if not len(deviation):
        return np.zeros(0, dtype=bool)
    distance = np.abs(deviation - np.median(deviation))
    spread = (np.median(distance) / GAUSSIAN_MEDIAN) ** 2
    return distance**2 < CLIP**2 * (spread + variance)


def _excess(deviation: np.ndarray, variance: np.ndarray) -> float:
    """Return the variance beyond noise with which χ² is its expectation; 0 if it is below."""
    excess, freedom = 0.0, len(deviation) - 1
    for _ in range(NEWTON_STEPS):
        weight = 1 / (variance + excess)
        chi2 = weight * (deviation - weight @ deviation / weight.sum()) ** 2
        total = float(chi2.sum())
        if total <= freedom:
            break
        # Newton's step for the inverse of χ², which is almost linear.
        excess += total * (total / freedom - 1) / float(weight @ chi2)
    return excess


def with_star_gains(
    measurements: Sequence[Measurement], gains: Sequence[StarGain]
) -> tuple[Measurement, ...]:
    """Return the measurements of a pair with the gains of its stars in place of their own.

    Parameters
    ----------
    measurements : sequence of PairMeasurement or Rejected
        One per channel; rejected channels stay rejected.
    gains : sequence of StarGain
        One per channel, or none at all.
    """
    gains = gains or [StarGain()] * len(measurements)
    return tuple(
        _with_star_gain(line, gain) if isinstance(line, PairMeasurement) else line
        for line, gain in zip(measurements, gains, strict=True)
    )


def _with_star_gain(line: PairMeasurement, star: StarGain) -> PairMeasurement:
    measured = star.stars > 0
    gain, error = (star.gain, star.gain_err) if measured else (1.0, math.nan)
    concentration = 1 / max(star.stars, 1)
    bands = PairMeasurement.bands
    if measured:
        bands = gain, error, concentration, *bands[3:]
    return replace(
        line,
        gain=gain,
        gain_err=error,
        offset=line.y - gain * line.x,
        gain_measured=measured,
        concentration=concentration,
        bands=bands,
    )
