"""Gains, levels and tilts of a pair with their standard errors, from the summary of its fit.

The errors are sandwich estimates: sums over patches between two factors of the inverse information
(Liang and Zeger 1986, Biometrika 73, 13). A few patches underestimate the scatter, so an error is
never smaller than that of independent samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

MAX_GAIN_ERROR = 0.2  # relative; above, the overlap has too little contrast to measure a gain
LEAST_TILT = 0.02  # of the scatter of cells: the tilt that registration alone may cause
LEVEL, TILT_U, TILT_V = 2, 3, 4  # in `patch_squares`


class ChannelSummary(NamedTuple):
    """The fit of one channel in numbers.

    Parameters
    ----------
    record : numpy.void
        A record of `FIT_SUMMARY`.
    scale : float
        Robust standard deviation of the residuals in units of the expected one.
    bread : float
        Factor of the errors for the biweight (Huber 1981, Robust Statistics, section 7.6).
    """

    record: np.void
    scale: float
    bread: float


class Estimate(NamedTuple):
    """A coefficient and its standard error."""

    value: float
    error: float


class Tilts(NamedTuple):
    """Tilts of both tiles along u and v in ADU per cell.

    `covariance` is (uu, uv, vv) of ``y - gain * x`` in (ADU per cell)².
    """

    x: tuple[float, float]
    y: tuple[float, float]
    covariance: tuple[float, float, float]


NO_ESTIMATE = Estimate(math.nan, math.nan)
NO_TILTS = Tilts((0.0, 0.0), (0.0, 0.0), (math.inf, 0.0, math.inf))


def gain_estimates(summary: ChannelSummary) -> list[Estimate]:
    """Return the gains without and with a plane; NaN with too large an error."""
    record, scale, bread = summary
    estimates = []
    for slope, information, norm, square in zip(
        record["slope"].tolist(),
        record["information"].tolist(),
        record["instrument_norm"].tolist(),
        record["patch_squares"].tolist(),
        strict=False,
    ):
        error = _standard_error(information, norm, square, scale, bread)
        measured = slope > 0 and 0 < error <= MAX_GAIN_ERROR * slope
        estimates.append(Estimate(slope, error) if measured else NO_ESTIMATE)
    return estimates


def level_error(summary: ChannelSummary) -> float:
    """Return the standard error of the level at the pivot, in ADU."""
    weight, square = float(summary.record["weight"]), float(summary.record["patch_squares"][LEVEL])
    return _standard_error(weight, weight, square, summary.scale, summary.bread)


def shift_estimates(summary: ChannelSummary) -> list[Estimate]:
    """Return the shift of the scene along u and v in cells; NaN if the overlap is too small."""
    record = summary.record
    return [
        Estimate(shift, summary.scale * math.sqrt(variance))
        for shift, variance in zip(
            record["shift"].tolist(), record["shift_variance"].tolist(), strict=True
        )
    ]


def tilt_estimates(summary: ChannelSummary) -> Tilts:
    """Return the tilts of plain planes through x and y.

    Terms of the scene take no part: a shift of the scene cannot be distinguished from a level by
    its mean gradient.
    """
    record = summary.record
    uu, uv, ux, uy, vv, vx, vy, *_ = record["moments"].tolist()
    determinant = uu * vv - uv * uv
    tilts = NO_TILTS
    if determinant > 1e-12 * uu * vv:
        tilts = Tilts(
            ((vv * ux - uv * vx) / determinant, (uu * vx - uv * ux) / determinant),
            ((vv * uy - uv * vy) / determinant, (uu * vy - uv * uy) / determinant),
            _tilt_covariance(summary, uu, uv, vv),
        )
    floor = (LEAST_TILT * float(record["rms"])) ** 2 * float(record["weight"])
    var_u, covariance, var_v = tilts.covariance
    var_u, var_v = var_u + floor / max(uu, 1e-300), var_v + floor / max(vv, 1e-300)
    return tilts._replace(covariance=(var_u, covariance, var_v))


def correlation(summary: ChannelSummary) -> float:
    """Return the weighted correlation of x and y; 0 for constant tiles."""
    xx, xy, yy = summary.record["moments"][7:].tolist()
    _, _, x, y = summary.record["pivot"].tolist()
    rounding = (1e-12 * x * y * float(summary.record["weight"])) ** 2
    return float(xy / math.sqrt(xx * yy)) if xx * yy > rounding else 0.0


def _standard_error(
    information: float, norm: float, square: float, scale: float, bread: float
) -> float:
    """Return the standard error of a coefficient; inf without information.

    Parameters
    ----------
    information, norm : float
        Weighted products of the regressor with the variable that it is the instrument for, and
        with itself. Features that the variable lacks (a hot pixel of the other tile) carry no
        information.
    square : float
        Sum of the squares of its sums over patches.
    """
    if not min(information, norm) > 0:
        return math.inf
    return bread * math.sqrt(max(square, scale**2 * norm)) / information


def _tilt_covariance(
    summary: ChannelSummary, uu: float, uv: float, vv: float
) -> tuple[float, float, float]:
    """Return the covariance (uu, uv, vv) of the tilt, from moments and sums over patches."""
    record, scale, bread = summary
    square_u, square_v = record["patch_squares"][TILT_U:].tolist()
    product = float(record["tilt_patch_product"])
    determinant = uu * vv - uv**2
    uu, uv, vv = vv / determinant, -uv / determinant, uu / determinant
    # The inverse of the information, on both sides of the sums.
    u_u, u_v = uu * square_u + uv * product, uu * product + uv * square_v
    v_u, v_v = uv * square_u + vv * product, uv * product + vv * square_v
    return (
        bread**2 * (u_u * uu + u_v * uv) + scale**2 * uu,
        bread**2 * (u_u * uv + u_v * vv) + scale**2 * uv,
        bread**2 * (v_u * uv + v_v * vv) + scale**2 * vv,
    )
