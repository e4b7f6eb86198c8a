"""Gains, levels and tilts of a pair with their standard errors, from the summary of its fit.

The errors are sandwich estimates: sums over patches between two factors of the inverse information
(Liang and Zeger 1986, Biometrika 73, 13). A few patches underestimate the scatter, so an error is
never smaller than that of independent samples.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

MAX_GAIN_ERROR = 0.2  # relative; above, the overlap has too little contrast to measure a gain
LEAST_TILT = 0.02  # of the scatter of cells: the tilt that registration alone may cause
LEVEL = 2  # in `patch_squares`


#: Elements uu, uv and vv of a symmetric matrix.
Covariance = tuple[float, float, float]


class FitSummary(NamedTuple):
    """A record of `FIT_SUMMARY`, with the same fields in the same order."""

    slope: list[float]
    instrument_norm: list[float]
    information: list[float]
    patch_squares: list[float]
    tilt_patch_product: float
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
    """

    summary: FitSummary
    scale: float
    bread: float

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


class Tilts(NamedTuple):
    """Tilts of both tiles along u and v in ADU per cell.

    `covariance` is that of ``y - gain * x`` in (ADU per cell)².
    """

    x: tuple[float, float]
    y: tuple[float, float]
    covariance: Covariance


NO_ESTIMATE = Estimate(math.nan, math.nan)
NO_TILTS = Tilts((0.0, 0.0), (0.0, 0.0), (math.inf, 0.0, math.inf))


def gain_estimates(fit: ChannelFit) -> tuple[Estimate, Estimate]:
    """Return the gains without and with a plane; NaN with too large an error."""
    return _gain_estimate(fit, 0), _gain_estimate(fit, 1)


def _gain_estimate(fit: ChannelFit, index: int) -> Estimate:
    summary = fit.summary
    slope, information = summary.slope[index], summary.information[index]
    error = fit.standard_error(
        information, summary.instrument_norm[index], summary.patch_squares[index]
    )
    measured = slope > 0 and 0 < error <= MAX_GAIN_ERROR * slope
    return Estimate(slope, error) if measured else NO_ESTIMATE


def level_error(fit: ChannelFit) -> float:
    """Return the standard error of the level at the pivot, in ADU."""
    weight = fit.summary.weight
    return fit.standard_error(weight, weight, fit.summary.patch_squares[LEVEL])


def shift_errors(fit: ChannelFit) -> tuple[float, float]:
    """Return the standard errors of the shift in cells; NaN if the overlap is too small."""
    variance_u, variance_v = fit.summary.shift_variance
    return fit.scale * math.sqrt(variance_u), fit.scale * math.sqrt(variance_v)


def tilt_estimates(fit: ChannelFit) -> Tilts:
    """Return the tilts of plain planes through x and y.

    Terms of the scene take no part: a shift of the scene cannot be distinguished from a level by
    its mean gradient.
    """
    uu, uv, ux, uy, vv, vx, vy, *_ = fit.summary.moments
    determinant = uu * vv - uv * uv
    if not determinant > 1e-12 * uu * vv:
        return NO_TILTS
    return Tilts(
        ((vv * ux - uv * vx) / determinant, (uu * vx - uv * ux) / determinant),
        ((vv * uy - uv * vy) / determinant, (uu * vy - uv * uy) / determinant),
        _tilt_covariance(fit, uu, uv, vv),
    )


def correlation(summary: FitSummary) -> float:
    """Return the weighted correlation of x and y; 0 for constant tiles."""
    *_, xx, xy, yy = summary.moments
    _, _, x, y = summary.pivot
    rounding = (1e-12 * x * y * summary.weight) ** 2
    return xy / math.sqrt(xx * yy) if xx * yy > rounding else 0.0


def _tilt_covariance(fit: ChannelFit, uu: float, uv: float, vv: float) -> Covariance:
    """Return the covariance of the tilt, from moments and sums over patches."""
    summary = fit.summary
    *_, square_u, square_v = summary.patch_squares
    determinant = uu * vv - uv**2
    inverse = vv / determinant, -uv / determinant, uu / determinant
    sandwich = _sandwich(inverse, (square_u, summary.tilt_patch_product, square_v))
    bread, variance = fit.bread**2, fit.scale**2
    floor = (LEAST_TILT * summary.rms) ** 2 * summary.weight
    return (
        bread * sandwich[0] + variance * inverse[0] + floor / max(uu, 1e-300),
        bread * sandwich[1] + variance * inverse[1],
        bread * sandwich[2] + variance * inverse[2] + floor / max(vv, 1e-300),
    )


def _sandwich(bread: Covariance, filling: Covariance) -> Covariance:
    """Return the matrix product bread · filling · bread of symmetric matrices."""
    uu, uv, vv = bread
    a, b, c = filling
    u_u, u_v = uu * a + uv * b, uu * b + uv * c
    v_u, v_v = uv * a + vv * b, uv * b + vv * c
    return u_u * uu + u_v * uv, u_u * uv + u_v * vv, v_u * uv + v_v * vv
