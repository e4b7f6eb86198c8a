"""Two previews -> the straight line between them, channel by channel.

The model is y = a·x + b + nuisance between the cells x of tile i and y of tile j. Both are
noisy, so the slope is York's (1966, Can. J. Phys. 44, 1079; unified in York et al. 2004, Am. J.
Phys. 72, 367): the true point of each cell lies where the line comes nearest in units of both
errors. The nuisance terms are what two exposures of one sky differ by besides gain and offset:

- the Laplacian and the gradient of the common scene: another seeing and a small shift, to first
  order (they move light between neighbouring cells and would bend the line at every star);
- a smooth difference across the overlap, up to the second order: another sky gradient. The slope
  is given without and with it, and the solver chooses, since it costs precision where there is
  no gradient.

The scene that these terms are made of is the weighted mean of both tiles whose noise is
uncorrelated with the residual, and it serves as the instrument for the noisy x, so that noise bends
nothing. Cells far from the line lose their weight (Tukey's biweight): trails, saturated stars,
variable ones. Where they make a streak, the line is drawn anew without it and what lies next to it,
since a trail's faint edges and its share of the scene bend as well. But for these, cells are chosen
by where they are and whether they are valid, never by their noisy values. Swapping the tiles turns
a into 1/a and changes nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..preview.preview import Preview
from .algebra import median, standard_covariance, standard_error
from .initial_slope import initial_slope
from .irls import design_matrix, fit_irls, summarize_fit
from .samples import PairSamples, common_samples

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
LEAST_PLANE = 0.02  # of the cells' scatter: what registration alone may tilt by
MAX_GAIN_ERROR = 0.2  # relative; above it the overlap holds no contrast to measure a gain by


@dataclass(frozen=True)
class PairMeasurement:
    """The line y = gain·x + offset of one channel of one pair.

    Parameters
    ----------
    gain, gain_err : float
        Slope without a plane and its standard error; 1 and NaN where `gain_measured` is false.
    plane_gain, plane_gain_err : float
        The same with a plane taken out of the overlap; NaN where that was not measurable.
    offset : float
        Intercept in ADU of the line without a plane.
    x, y : float
        The pivot in ADU: weighted means of both tiles, where slope and level are uncorrelated.
    level_err : float
        Standard error in ADU of ``y - gain * x`` at the pivot.
    u, v : float
        The pivot's place on the shared grid, in cells.
    x_tilt, y_tilt : tuple of float
        Slopes of both tiles along the grid's two axes, in ADU per cell.
    tilt_cov : tuple of float
        Covariance (uu, uv, vv) of ``y_tilt - gain * x_tilt`` in (ADU per cell)².
    cells : int
        Common valid cells.
    rms : float
        Robust scatter about the line in ADU of tile j.
    correlation : float
        Weighted correlation of the cells.
    gain_measured : bool
        False where the overlap holds too little contrast, or the model has no free gain.
    shift, shift_err : tuple of float
        How far the scene of tile j lies beyond that of tile i along the grid's two axes, in cells,
        to first order (another tenth at a third of a cell, too little beyond half of one), and the
        standard errors that noise alone gives it; NaN where the overlap is too small to tell.
    """

    gain: float
    gain_err: float
    plane_gain: float
    plane_gain_err: float
    offset: float
    x: float
    y: float
    level_err: float
    u: float
    v: float
    x_tilt: tuple[float, float]
    y_tilt: tuple[float, float]
    tilt_cov: tuple[float, float, float]
    cells: int
    rms: float
    correlation: float
    gain_measured: bool
    shift: tuple[float, float] = (math.nan, math.nan)
    shift_err: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Rejected:
    """Why a pair could not be measured in a channel, in words."""

    reason: str


Measurement = PairMeasurement | Rejected


class FitSummary(NamedTuple):
    """A record of `FIT_SUMMARY`, whose fields it has in the same order."""

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


def measure_pair(
    first: Preview, second: Preview, model: str = "gain+offset"
) -> tuple[Measurement, ...]:
    """Measure every channel of a pair on its common valid cells.

    Parameters
    ----------
    first, second : Preview
        On the same grid and with the same channels.
    model : str
        One of `zemosaic.settings.MODELS`: those without a free gain hold the slope at 1,
        "gain" holds the intercept at 0.

    Returns
    -------
    tuple of PairMeasurement or Rejected
        One for each channel.
    """
    channels = common_samples(first, second)
    if channels is None:
        return (Rejected("no common cells"),) * len(first.values)
    corner = max(first.x0, second.x0), max(first.y0, second.y0)
    return tuple(found for rows in channels for found in _measured(rows, model, corner))


def _measured(rows: PairSamples, model: str, corner: tuple[int, int]) -> list[Measurement]:
    """Measure the channels of some rows."""
    if rows.cells < MIN_OVERLAP_CELLS:
        return [Rejected(f"only {rows.cells} common cells")] * len(rows.x)
    if model == "gain":
        x, y = median(rows.x[:, rows.sample]), median(rows.y[:, rows.sample])
        slope = np.where(np.minimum(x, y) > 0, y / np.where(x > 0, x, 1.0), np.nan)
        fits = _fits(rows, slope, model, corner)
        return [fit or Rejected("no signal to measure a gain by") for fit in fits]
    slope = np.full(len(rows.x), np.nan)
    if not model.startswith("offset"):
        slope = initial_slope(rows)
    fits = _fits(rows, slope, "free", corner)
    held = np.where([fit is None for fit in fits], 1.0, np.nan)
    levels = _fits(rows, held, "offset", corner)
    return [
        fit or level or Rejected("no signal in common")
        for fit, level in zip(fits, levels, strict=True)
    ]


def _fits(
    rows: PairSamples, slope: np.ndarray, model: str, corner: tuple[int, int]
) -> list[PairMeasurement | None]:
    """Fit the channels whose first slope is finite; None for the others, and where it is lost."""
    fits: list[PairMeasurement | None] = [None] * len(slope)
    some = np.flatnonzero(np.isfinite(slope))
    if len(some):
        part = rows if len(some) == len(slope) else rows.of(some)
        for k, fit in zip(some, _fit(part, slope[some], model, corner), strict=True):
            fits[k] = fit
    return fits


def _fit(
    rows: PairSamples, slope: np.ndarray, model: str, corner: tuple[int, int]
) -> list[PairMeasurement | None]:
    """Robust errors-in-variables fit; None where a free slope turns out not to be determined."""
    free = model != "offset"
    columns = design_matrix(rows, slope, model)
    state = fit_irls(rows, columns, slope, free)
    far = (state.w[:, : len(rows.u)] == 0).any(axis=0)
    left = rows.without(far) if model == "free" and np.isfinite(state.slope).all() else None
    if left is not None:
        # Light that one tile alone holds reaches beyond the rows that lose their weight, and the
        # scene that the terms are made of holds it, too.
        again = initial_slope(left)
        again = np.where(np.isfinite(again), again, slope)
        clean = design_matrix(left, again, model)
        anew = fit_irls(left, clean, again, free)
        if np.isfinite(anew.slope).all():
            rows, columns, state = left, clean, anew
    summaries = map(_fit_summary, summarize_fit(rows, columns, state, free))
    lost, scale, bread = (z.tolist() for z in (np.isnan(state.slope), state.scale, state.bread))
    return [
        None if gone else _measurement(rows.cells, model, corner, columns.shape[1], *summary)
        for gone, *summary in zip(lost, summaries, scale, bread, strict=True)
    ]


def _fit_summary(record: np.void) -> FitSummary:
    """Return a record as Python numbers; `numpy.void.tolist` would leave its arrays as they are."""
    return FitSummary(*(record[name].tolist() for name in FitSummary._fields))


def _measurement(
    cells: int, model: str, corner: tuple[int, int], terms: int,
    summary: FitSummary, scale: float, bread: float,
) -> PairMeasurement | None:  # fmt: skip
    """Compute the gains, level and tilts of a channel with their errors."""
    slopes, squares = summary.slope, summary.patch_squares
    size, seen = summary.instrument_norm, summary.information
    mixed, total, rms = summary.tilt_patch_product, summary.weight, summary.rms
    u, v, x, y = summary.pivot
    uu, uv, ux, uy, vv, vx, vy, xx, xy, yy = summary.moments
    gains = [(math.nan, math.nan)] * 2
    if model != "offset":
        # With a level alone there is no plane to be taken out.
        for k in range(1 if terms == 4 else 2):
            error = standard_error(seen[k], size[k], squares[k], scale, bread)
            if slopes[k] > 0 and 0 < error <= MAX_GAIN_ERROR * slopes[k]:
                gains[k] = slopes[k], error
        if math.isnan(gains[0][0]) and math.isnan(gains[1][0]):
            return None
    (a, gain_err), (plane_gain, plane_err) = gains
    known = not math.isnan(a)
    a = a if known else 1.0
    x_tilt, y_tilt, tilt_cov = (0.0, 0.0), (0.0, 0.0), (math.inf, 0.0, math.inf)
    determinant = uu * vv - uv * uv
    if terms > 4:
        # Of plain planes: a shift of the scene is not told from a level by its mean gradient.
        if determinant > 1e-12 * uu * vv:
            x_tilt = (vv * ux - uv * vx) / determinant, (uu * vx - uv * ux) / determinant
            y_tilt = (vv * uy - uv * vy) / determinant, (uu * vy - uv * uy) / determinant
            tilt_cov = standard_covariance(
                (uu, uv, vv), squares[3], mixed, squares[4], scale, bread
            )
        floor = (LEAST_PLANE * rms) ** 2 * total
        tilt_cov = (
            tilt_cov[0] + floor / max(uu, 1e-300), tilt_cov[1],
            tilt_cov[2] + floor / max(vv, 1e-300),
        )  # fmt: skip
    rounding = (1e-12 * x * y * total) ** 2  # all that constant tiles spread by
    return PairMeasurement(
        gain=a,
        gain_err=gain_err,
        plane_gain=plane_gain,
        plane_gain_err=plane_err,
        offset=y - a * x if model != "gain" else 0.0,
        x=x,
        y=y,
        level_err=standard_error(total, total, squares[2], scale, bread),
        u=u + corner[0],
        v=v + corner[1],
        x_tilt=x_tilt,
        y_tilt=y_tilt,
        tilt_cov=tilt_cov,
        cells=cells,
        rms=rms,
        correlation=xy / math.sqrt(xx * yy) if xx * yy > rounding else 0.0,
        gain_measured=known,
        shift=(summary.shift[0], summary.shift[1]),
        shift_err=(
            scale * math.sqrt(summary.shift_variance[0]),
            scale * math.sqrt(summary.shift_variance[1]),
        ),
    )
