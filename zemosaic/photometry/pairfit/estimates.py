"""Gains and levels of a pair with their standard errors, from the summary of its fit.

The errors are sandwich estimates: sums over patches between two factors of the inverse information
(Liang and Zeger 1986, Biometrika 73, 13). A few patches underestimate the scatter, so an error is
never smaller than for independent samples.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._kernels.lattice import AREAS, MIDDLE, SMALL, Band

MAX_GAIN_ERROR = 0.2  # relative; above, the overlap has too little contrast to measure a gain
#: Difference of the bands in standard deviations from which on one of them is in doubt.
DISAGREEMENT = 2.0
#: Weight of the scatter of independent samples, in patches.
PRIOR_PATCHES = 16
#: Scatter of the sums over patches that refutes independent samples, in units of their scatter.
CONTRADICTION = 3.0
#: Mean square of the influence of normal noise in units of its mean weight, with the biweight.
BIWEIGHT_INFLUENCE = 0.77


class FitSummary(NamedTuple):
    """A record of `FIT_SUMMARY`, with the same fields in the same order."""

    slope: float
    instrument_norm: float
    information: float
    patch_squares: list[float]
    weight: float
    pivot: list[float]
    moments: list[float]
    rms: float
    shift: list[float]
    shift_variance: list[float]

    @classmethod
    def from_tuple(cls, values: tuple[Any, ...]) -> FitSummary:
        """Convert a record as returned by `ndarray.tolist`, which leaves fields as arrays."""
        return cls._make(v if isinstance(v, float) else v.tolist() for v in values)


class ChannelFit(NamedTuple):
    """The fit of one channel in numbers.

    Parameters
    ----------
    summary : FitSummary
        Sums over the samples.
    scale : float
        Robust standard deviation of the residuals in units of the expected one.
    bread : float
        Factor of the errors for the biweight (Huber 1981, Robust Statistics, section 7.6).
    bands, shares, levels
        Of the channel; see `BandSums`.
    """

    summary: FitSummary
    scale: float
    bread: float
    bands: tuple[Band, Band]
    shares: list[list[float]]
    levels: list[list[float]]

    def standard_error(self, information: float, norm: float, square: float) -> float:
        """Return the standard error of a coefficient; inf without information.

        Parameters
        ----------
        information, norm : float
            Weighted products of the regressor with the variable that it is the instrument for,
            and with itself. Features that the variable lacks (a hot pixel of the other tile)
            carry no information.
        square : float
            Sum of the squares of its sums over patches.
        """
        if not min(information, norm) > 0:
            return math.inf
        return self.bread * math.sqrt(max(square, self.scale**2 * norm)) / information


class Estimate(NamedTuple):
    """A coefficient and its standard error."""

    value: float
    error: float


class DetailGain(NamedTuple):
    """The gain that both bands give together.

    Parameters
    ----------
    gain : Estimate
        NaN if neither band shows it.
    concentration : float
        Sum of the squares of the shares of single patches in the information: 1 if the gain depends
        on one star, 1 / n if n patches contribute alike.
    contrast : list of float
        Share of the information in each area.
    bands : tuple of float
        Gain, standard error and concentration of the small and of the middle band, and the sum of
        the products of their shares; gain and error are NaN where a band does not show the gain.
    """

    gain: Estimate
    concentration: float
    contrast: list[float]
    bands: tuple[float, float, float, float, float, float, float]


NO_ESTIMATE = Estimate(math.nan, math.nan)


def fit_gain(fit: ChannelFit) -> Estimate:
    """Return the slope with all terms; NaN with too large an error.

    It shows whether the weights, and the levels with them, belong to a line.
    """
    summary = fit.summary
    slope, (square, _) = summary.slope, summary.patch_squares
    error = fit.standard_error(summary.information, summary.instrument_norm, square)
    measured = slope > 0 and 0 < error <= MAX_GAIN_ERROR * slope
    return Estimate(slope, error) if measured else NO_ESTIMATE


def detail_gain(fit: ChannelFit) -> DetailGain:
    """Combine the gains of both bands, weighted by their inverse variances.

    Logarithms are averaged, so that exchanging the tiles inverts the result. If the bands disagree,
    the middle band is in doubt, which a flat's residual or a gradient disturbs, or the small band
    as far as it depends on a single star.
    """
    small, middle = fit.bands
    variances = [_relative_variance(fit, band) for band in fit.bands]
    bands = (
        *_band_gain(small, variances[SMALL]),
        *_band_gain(middle, variances[MIDDLE]),
        small.common,
    )
    logs = [math.log(band.slope) if band.slope > 0 else 0.0 for band in fit.bands]
    excess = (logs[SMALL] - logs[MIDDLE]) ** 2 - DISAGREEMENT**2 * sum(variances)
    if excess > 0:
        blame = math.sqrt(small.concentration)
        variances[SMALL] += blame * excess
        variances[MIDDLE] += (1 - blame) * excess
    precision = [1 / variance for variance in variances]
    total = sum(precision)
    if not total > MAX_GAIN_ERROR**-2:
        return DetailGain(NO_ESTIMATE, 1.0, [0.0] * AREAS, bands)
    share, other = (part / total for part in precision)
    gain = math.exp(share * logs[SMALL] + other * logs[MIDDLE])
    norms = [sum(shares) or 1.0 for shares in fit.shares]
    return DetailGain(
        Estimate(gain, gain / math.sqrt(total)),
        share**2 * small.concentration
        + 2 * share * other * small.common
        + other**2 * middle.concentration,
        [
            share * of_small / norms[SMALL] + other * of_middle / norms[MIDDLE]
            for of_small, of_middle in zip(*fit.shares, strict=True)
        ],
        bands,
    )


def _band_gain(band: Band, variance: float) -> tuple[float, float, float]:
    """Return gain, standard error and concentration of a band."""
    if math.isinf(variance):
        return math.nan, math.nan, 1.0
    return band.slope, band.slope * math.sqrt(variance), band.concentration


def _relative_variance(fit: ChannelFit, band: Band) -> float:
    """Return the variance of the slope of a band in units of its square; inf without contrast.

    The sums over patches show the scatter of the residuals, the better the more patches contribute;
    the scatter of independent samples counts like `PRIOR_PATCHES`. If the sums contradict it, as
    where a star is saturated, they count alone.
    """
    if not (min(band.slope, band.information, band.norm) > 0 and band.scale > 0):
        return math.inf
    patches, noise = 1 / band.concentration, band.scale**2 * band.norm
    square = max(band.square, band.area_square)
    if square < CONTRADICTION**2 * noise:
        square = (patches * square + PRIOR_PATCHES * noise) / (patches + PRIOR_PATCHES)
    variance = square * (fit.bread / (band.slope * band.information)) ** 2
    return variance if variance < 1 else math.inf


def level_error(fit: ChannelFit, neighbours: float) -> float:
    """Return the standard error of the level at the pivot, in ADU.

    It holds no more scatter than there is within areas: what differs between them, as by an
    illumination, the solver describes or estimates as an excess. Without contrast the middle band
    has no line to scatter about. In few patches the surfaces take up part of the scatter, so the
    noise of the blocks is a lower limit; their sum has `neighbours` times the variance of
    independent blocks.
    """
    weight, (_, square) = fit.summary.weight, fit.summary.patch_squares
    within = fit.bands[MIDDLE].scale ** 2 * weight
    norm = BIWEIGHT_INFLUENCE * neighbours * weight
    return fit.standard_error(weight, norm, min(square, within))


def shift_errors(fit: ChannelFit) -> tuple[float, float]:
    """Return the standard errors of the shift in cells; NaN without terms of the scene."""
    variance_u, variance_v = fit.summary.shift_variance
    return fit.scale * math.sqrt(variance_u), fit.scale * math.sqrt(variance_v)


def correlation(summary: FitSummary) -> float:
    """Return the weighted correlation of x and y; 0 for constant tiles."""
    xx, xy, yy = summary.moments
    _, _, x, y = summary.pivot
    rounding = (1e-12 * x * y * summary.weight) ** 2
    return xy / math.sqrt(xx * yy) if xx * yy > rounding else 0.0
