"""Measure the straight line between the previews of two tiles, channel by channel.

The model
---------
A common cell has the value x in tile i and y in tile j, with the variances σx² and σy². The true
values obey ::

    y = a x + b + Σ c_k t_k,

with the gain a, the offset b, and nuisance terms t_k for other differences between two exposures
of one sky:

- gradient and Laplacian of the scene shared by both tiles: a small shift and a different seeing,
  to first order. They move light between neighbouring cells, which would bend the line at every
  star.
- a surface of second order: a different gradient of the sky.

The line with all terms gives the weights of the cells. The gain comes from contrast within patches
of the overlap, of which there are up to 16: their levels are measured apart, and the solver
compares them with models of sky and instrument. The gain is the mean of two bands, contrast within
16 px, as of stars, and contrast between these and within patches, each with terms of its own.

Noise in both tiles
-------------------
Ordinary regression on the noisy x underestimates the slope. York's slope solves ::

    Σ w z r = 0,    r = y - a x - b - Σ c_k t_k,    w = ρ / (σy² + a² σx²),

with the residual r, robust weights ρ, and an instrument z for x (York 1966, Can. J. Phys. 44, 1079;
unified in York et al. 2004, Am. J. Phys. 72, 367). The instrument is the adjusted point, the point
of the line closest to the cell in units of both errors::

    z = x + a σx² r / (σy² + a² σx²).

Its noise is uncorrelated with the noise of the residual, so noise causes no bias. Multiplied by a,
it is a mean of both tiles, ::

    s = a z = (σy² a x + a² σx² (y - b)) / (σy² + a² σx²),

the best estimate of the scene. It is computed once from an approximate line, details that may be
noise are shrunk, and both the instrument s / a and the terms of the scene are derived from it. A
line without an intercept has no nuisance terms, and x for its instrument.

Robustness
----------
The weights ρ are Tukey's biweight (Beaton and Tukey 1974, Technometrics 16, 147). They reject cells
far from the line: trails, saturated stars, variable stars. If rejected blocks form a streak, the
line is fitted again without the streak and its surroundings, because faint edges of a trail and its
share of the scene cause a bias as well. Where the gain scatters from star to star, the variances of
stars grow by it, and the line is fitted again. Apart from this, cells are selected by position and
validity only, never by their noisy values.

Exchanging the tiles turns a into 1 / a and changes nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .._kernels.algebra import median, thin
from .._kernels.lattice import AREAS, Band
from .._kernels.layout import LineFit, has_scene
from ..preview.preview import Preview
from ..robust import GAUSSIAN_MEDIAN
from .design import design_matrix
from .estimates import (
    NO_ESTIMATE,
    ChannelFit,
    FitSummary,
    correlation,
    detail_gain,
    fit_gain,
    level_error,
    shift_errors,
)
from .initial_slope import initial_slope
from .irls import fit_irls, summarize_bands, summarize_fit
from .measurement import (
    PATCH_NUMBERS,
    Measurement,
    PairMeasurement,
    Rejected,
    require_finite,
)
from .overlap_blocks import common_samples, neighbour_noise
from .samples import PairSamples
from .star_scatter import with_star_scatter
from .streaks import without_streaks

MIN_OVERLAP_CELLS = 25  # with fewer, a robust scale is meaningless
PRECISION = 2.0**-22  # of levels, relative: previews are float32
NEAR_ORIGIN = 3.0  # scatters of the cells: a lower sky does not show its gain


def measure_pair(
    first: Preview, second: Preview, model: str = "gain+offset"
) -> tuple[Measurement, ...]:
    """Measure every channel of a pair on its common valid cells.

    Parameters
    ----------
    first, second : Preview
        On the same grid and with the same channels.
    model : str
        One of `zemosaic.settings.MODELS`: models without a free gain hold the slope at 1,
        "gain" holds the intercept at 0.

    Returns
    -------
    tuple of PairMeasurement or Rejected
        One for each channel.
    """
    if model == "gain":
        first, second = first.above_zero(), second.above_zero()
    second = second.in_unit(first.exponent)
    channels = common_samples(first, second)
    if channels is None:
        return (Rejected("no common cells"),) * len(first.values)
    origin = _Origin.of(first, second)
    measurements: list[Measurement] = []
    for samples in channels:
        measurements += _measure_channels(samples, model, origin.channel(len(measurements)))
    return tuple(map(require_finite, measurements))


class _Origin(NamedTuple):
    """The corner of an overlap in cells, the unit of its values in ADU, and their pedestals."""

    corner: tuple[int, int]
    unit: float
    x: list[float]
    y: list[float]

    @classmethod
    def of(cls, first: Preview, second: Preview) -> _Origin:
        """Return the origin of a pair of previews in one unit."""
        corner = max(first.x0, second.x0), max(first.y0, second.y0)
        unit = math.ldexp(1.0, first.exponent)
        return cls(corner, unit, first.pedestals.tolist(), second.pedestals.tolist())

    def channel(self, first: int) -> _Origin:
        """Return the origin of the channels from the given one on."""
        return self._replace(x=self.x[first:], y=self.y[first:])


def _measure_channels(samples: PairSamples, model: str, origin: _Origin) -> list[Measurement]:
    """Measure channels that are valid in the same cells."""
    if samples.cells < MIN_OVERLAP_CELLS:
        return [Rejected(f"only {samples.cells} common cells")] * len(samples.x)
    if model == "gain":
        lines = _fit_channels(samples, _slope_through_origin(samples), "gain", origin)
        return [line or Rejected("no signal to measure a gain by") for line in lines]
    fits = _fit_channels(samples, initial_slope(samples), "free", origin)
    held = model.startswith("offset")
    levels: list[PairMeasurement | None] = fits
    if held or not all(fits):
        unit_slope = np.where([held or fit is None for fit in fits], 1.0, np.nan)
        levels = _fit_channels(samples, unit_slope, "held" if held else "offset", origin)
    return [
        (_with_free_gain(level, fit) if held else fit or level) or Rejected("no signal in common")
        for fit, level in zip(fits, levels, strict=True)
    ]


def _with_free_gain(
    level: PairMeasurement | None, fit: PairMeasurement | None
) -> PairMeasurement | None:
    """Add the gain of a fit to a measurement that holds it."""
    if level is None or fit is None or not fit.gain_measured:
        return level
    return replace(level, free_gain=fit.gain, free_gain_err=fit.gain_err)


def _slope_through_origin(samples: PairSamples) -> np.ndarray:
    """Return approximate slopes ``(C,)``: ratios of the medians, or, on a sky near 0, of the scene.

    They are NaN if neither is positive.
    """
    thinned = thin(len(samples.u))
    values = np.array([samples.x, samples.y])[..., thinned]
    sky = median(values)
    scatter = median(np.abs(values - sky[..., None])) / GAUSSIAN_MEDIAN
    ratio = sky[1] / np.where(sky[0] == 0, np.inf, sky[0])
    dark = (np.abs(sky) < NEAR_ORIGIN * scatter).any(axis=0) | ~(ratio > 0)
    return np.where(dark, initial_slope(samples), ratio)


def _fit_channels(
    samples: PairSamples, slope: np.ndarray, model: str, origin: _Origin
) -> list[PairMeasurement | None]:
    """Fit the channels with a finite initial slope; None for others and for failed fits.

    The models are "free", "offset" for a slope of 1 where none shows, "held" for one held by the
    model, and "gain" for a fixed intercept of 0.
    """
    fits: list[PairMeasurement | None] = [None] * len(slope)
    finite = np.flatnonzero(np.isfinite(slope))
    if not len(finite):
        return fits
    if len(finite) < len(slope):
        samples = samples.select_channels(finite)
    samples, fit = _fit_without_streaks(samples, slope[finite], model)
    if model == "free":
        samples, fit = _fit_with_scatter(samples, fit)
    failed, channel_fits = np.isnan(fit.slope).tolist(), _channel_fits(samples, fit)
    for lost, channel, channel_fit in zip(failed, finite.tolist(), channel_fits, strict=True):
        if not lost:
            own = origin.channel(channel)
            fits[channel] = _measurement(samples, model, own, channel_fit)
    return fits


def _channel_fits(samples: PairSamples, fit: LineFit) -> list[ChannelFit]:
    """Return the numbers of each channel of a fit."""
    summaries = summarize_fit(samples, fit).tolist()
    sums = summarize_bands(samples, fit)
    numbers = (array.tolist() for array in (fit.scale, fit.bread, *sums))
    return [
        ChannelFit(
            FitSummary.from_tuple(summary), scale, bread, (Band(*bands[0]), Band(*bands[1])),
            shares, levels,
        )
        for summary, scale, bread, bands, shares, levels in zip(summaries, *numbers, strict=True)
    ]  # fmt: skip


def _fit_without_streaks(
    samples: PairSamples, slope: np.ndarray, model: str
) -> tuple[PairSamples, LineFit]:
    """Fit robust lines; if outliers form a streak, remove it and fit again.

    Light of one tile alone extends beyond the samples that lose their weight, and it is part of
    the scene that the nuisance terms are made of.
    """
    fixed_slope = model in ("offset", "held")
    # Stars with another gain than 1 count in the level as well, as in programs for levels alone.
    once = model == "held"
    fit = fit_irls(samples, design_matrix(samples, slope, model), slope, fixed_slope, once)
    if model != "free" or not np.isfinite(fit.slope).all():
        return samples, fit
    outliers = (fit.weights[:, : len(samples.u)] == 0).any(axis=0)
    clean = without_streaks(samples, outliers)
    if clean is None:
        return samples, fit
    start = initial_slope(clean)
    start = np.where(np.isfinite(start), start, slope)
    clean_fit = fit_irls(clean, design_matrix(clean, start, model), start, fixed_slope)
    return (clean, clean_fit) if np.isfinite(clean_fit.slope).all() else (samples, fit)


def _fit_with_scatter(samples: PairSamples, fit: LineFit) -> tuple[PairSamples, LineFit]:
    """Fit again if the gain scatters from star to star."""
    if not has_scene(fit.design) or not np.isfinite(fit.slope).all():
        return samples, fit
    scattered = with_star_scatter(samples, fit)
    if scattered is None:
        return samples, fit
    again = fit_irls(scattered, fit.design, fit.slope, fixed_slope=False)
    return (scattered, again) if np.isfinite(again.slope).all() else (samples, fit)


def _measurement(
    samples: PairSamples, model: str, origin: _Origin, fit: ChannelFit
) -> PairMeasurement | None:
    """Assemble the measurement of a channel; None if the slope is free and no line is found.

    `origin` belongs to the channel and the channels after it.
    """
    detail, gain = detail_gain(fit), NO_ESTIMATE
    if model not in ("offset", "held"):
        gain = detail.gain
        if math.isnan(gain.value) and math.isnan(fit_gain(fit).value):
            return None
    gain_measured = not math.isnan(gain.value)
    slope = gain.value if gain_measured else 1.0
    summary, unit = fit.summary, origin.unit
    u, v, x, y = summary.pivot
    level = level_error(fit, neighbour_noise(samples.side))
    x, y = unit * x + origin.x[0], unit * y + origin.y[0]
    return PairMeasurement(
        gain=slope,
        gain_err=gain.error,
        offset=y - slope * x if model != "gain" else 0.0,
        x=x,
        y=y,
        level_err=max(unit * level, PRECISION * max(slope * abs(x), abs(y))),
        u=u + origin.corner[0],
        v=v + origin.corner[1],
        cells=samples.cells,
        rms=unit * summary.rms,
        correlation=correlation(summary),
        gain_measured=gain_measured,
        shift=(summary.shift[0], summary.shift[1]),
        shift_err=shift_errors(fit),
        concentration=detail.concentration,
        bands=detail.bands,
        patches=_patches(fit, detail.contrast, slope, level, origin, samples.side),
    )


def _patches(
    fit: ChannelFit, contrast: list[float], slope: float, error: float, origin: _Origin, side: int
) -> tuple[float, ...]:
    """Return the levels of both tiles by area; see `PairMeasurement`.

    `error` is the standard error of the level of the whole overlap.
    """
    numbers: list[float] = []
    (left, top), unit, (x_pedestal, *_), (y_pedestal, *_) = origin
    variance = (unit * error) ** 2 * fit.summary.weight  # of an area with weight 1
    within = side**2 / 12  # variance of a position within a block
    for (u, v, x, y, uu, uv, vv, xu, xv, yu, yv, weight), share in zip(
        fit.levels, contrast, strict=True
    ):
        if weight > 0:
            x_level, y_level = unit * x + x_pedestal, unit * y + y_pedestal
            rounding = (PRECISION * max(slope * abs(x_level), abs(y_level))) ** 2
            precision = 1 / max(variance / weight, rounding)
            numbers += (
                u + left, v + top, x_level, y_level, uu + within, uv, vv + within, precision, share,
                unit * (xu + yu / slope) / 2, unit * (xv + yv / slope) / 2,
            )  # fmt: skip
    return (*numbers, *(0.0,) * (PATCH_NUMBERS * AREAS - len(numbers)))
