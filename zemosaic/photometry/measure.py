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
uncorrelated with the residual, and it serves as the instrument for the noisy x, so that noise
bends nothing. Cells far from the line lose their weight (Tukey's biweight): trails, saturated
stars, variable ones. Cells are chosen by where they are and whether they are valid, never by
their noisy values. Swapping the tiles turns a into 1/a and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from zemosaic.photometry.cells import Rows, common_rows
from zemosaic.photometry.preview import Preview
from zemosaic.photometry.regression import Errors, Gram, combined, dot, robust_scale

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
HUBER = 1.345  # for the first rounds, which must not throw good bright cells away
FIRST_ROUNDS = 5  # on a sample of the rows, with Huber's weights
LAST_ROUNDS = 6  # at most, with Tukey's
STEADY = 1e-5  # relative change of the slope that ends them
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
PLAIN_TERMS = 4  # level, gradient and Laplacian: those before the smooth terms
PLANE_TERMS = 6  # and the plane
# What the second order must explain: it costs half of the precision, so only where it is plain.
CURVATURE_CHI2 = 100.0
BRIGHT = (0.995, 0.5)  # quantiles whose distance gives a first slope
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them.
SCENE_INFORMATION = (0.5**-2, 0.5**-2, 0.2**-2)  # of cells, cells and square cells
LEAST_PLANE = 0.02  # of the cells' scatter: what registration alone may tilt by
MAX_GAIN_ERROR = 0.25  # relative; above it the overlap holds no contrast to measure a gain by


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


@dataclass(frozen=True)
class Rejected:
    """Why a pair could not be measured in a channel, in words."""

    reason: str


Measurement = PairMeasurement | Rejected


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
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(p.x0 + p.values.shape[2] for p in (first, second))
    y1 = min(p.y0 + p.values.shape[1] for p in (first, second))
    if x1 <= x0 or y1 <= y0:
        return (Rejected("no common cells"),) * len(first.values)
    return tuple(_measure_channel(rows, model, x0, y0) for rows in common_rows(first, second))


def _measure_channel(rows: Rows, model: str, x0: int, y0: int) -> Measurement:
    if rows.cells < MIN_OVERLAP_CELLS:
        return Rejected(f"only {rows.cells} common cells")
    fit = None
    if model == "gain":
        middle = np.median(rows.x[rows.sample]), np.median(rows.y[rows.sample])
        if min(middle) > 0:
            fit = _fit(rows, float(middle[1] / middle[0]), model)
    else:
        if not model.startswith("offset"):
            fit = _fit(rows, None, "free")
        fit = fit or _fit(rows, 1.0, "offset")
    if fit is None:
        what = "to measure a gain by" if model == "gain" else "in common"
        return Rejected(f"no signal {what}")
    return replace(fit, u=fit.u + x0, v=fit.v + y0)


class _State(NamedTuple):
    """Where the fit is: the line, and the weighted rows that it is drawn through."""

    slope: float
    w: np.ndarray
    along: np.ndarray
    gram: Gram
    errors: Errors
    noise: float


def _fit(rows: Rows, slope: float | None, model: str) -> PairMeasurement | None:
    """Robust errors-in-variables fit; None where a free slope turns out not to be determined."""
    free = model != "offset"
    if slope is None:
        slope = _rough_slope(rows)
        if slope is None:
            return None
    terms, instrument = _terms(rows, slope, model)
    state = _refined(rows, terms, instrument, slope, free)
    if state is None:
        return None
    held = None if free else state.slope
    gains = []
    for count in (min(len(terms), PLAIN_TERMS), _smooth_terms(rows, state, terms, held)):
        a, coefficients = state.gram.line(count, held)
        rest = rows.y - a * rows.x - combined(coefficients, terms)
        error = np.nan
        if free:
            clean = state.along - combined(state.gram.projected("along", range(count)), terms)
            error = state.errors.of(clean, rest, state.noise, seen=rows.x)
        gains.append((a, error) if free and 0 < error <= MAX_GAIN_ERROR * a else (np.nan, np.nan))
    if free and np.isnan(gains).all():
        return None
    if len(terms) == 1:
        gains[1] = (np.nan, np.nan)
    return _described(rows, state, terms, rest, gains, model)


def _smooth_terms(rows: Rows, state: _State, terms: np.ndarray, held: float | None) -> int:
    """Terms up to the plane, or with the second order too where the overlap clearly shows it."""
    if len(terms) <= PLANE_TERMS:
        return len(terms)
    left = [state.gram.left(count, held) for count in (PLANE_TERMS, len(terms))]
    return len(terms) if left[0] - left[1] > CURVATURE_CHI2 else PLANE_TERMS


def _terms(rows: Rows, slope: float, model: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the nuisance (level, scene terms, plane), and the instrument for x.

    Made once, with the rough line: what is left of its error is of second order.
    """
    if model == "gain":
        return np.empty((0, len(rows.x))), None
    one = np.ones_like(rows.x)
    if rows.cells < MIN_NUISANCE_CELLS:
        return one[np.newaxis], None
    level = float(np.median((rows.y - slope * rows.x)[rows.sample]))
    scene, of_scene = rows.scene(slope, level)
    u, v = rows.u - rows.u.mean(), rows.v - rows.v.mean()
    # Up to the second order, since a sky gradient need not be a plane over half a frame.
    return np.stack([one, *of_scene, u, v, u * u, u * v, v * v]), scene / slope


def _refined(
    rows: Rows, terms: np.ndarray, instrument: np.ndarray | None, slope: float, free: bool
) -> _State | None:
    """Some rounds of reweighting; None where the slope is lost."""
    x, y, vx, vy = rows.x, rows.y, rows.vx, rows.vy
    prior = dict(enumerate(SCENE_INFORMATION, 1)) if len(terms) > 1 else {}
    residual = y - slope * x
    if len(terms):
        residual -= np.median(residual[rows.sample])
    for _ in range(LAST_ROUNDS):
        variance = vy + slope**2 * vx
        scaled = residual / np.sqrt(variance)
        scale = robust_scale(scaled[rows.sample])
        bent = scaled / (BIWEIGHT * scale)
        w = np.maximum(1 - bent * bent, 0) ** 2 / variance
        # York's adjusted points have noise unlike the residual's, and so has what is made of
        # them: either serves as the instrument for the noisy x.
        along = x + slope * vx * residual / variance if instrument is None else instrument
        gram = Gram(w, x, y, along, terms, prior)
        before = slope
        slope, coefficients = gram.line(len(terms), None if free else slope)
        if not slope > 0:
            return None
        if abs(slope - before) < STEADY * slope:
            break
        residual = y - slope * x - combined(coefficients, terms)
    # The noise of York's points is part of their spread, and tells nothing of the slope.
    noise = float((w * vx * vy / variance).sum()) * scale**2 if instrument is None else 0.0
    return _State(slope, w, along, gram, Errors(rows.cluster, w, bent, scale), noise)


def _described(
    rows: Rows,
    state: _State,
    terms: np.ndarray,
    rest: np.ndarray,
    gains: list[tuple[float, float]],
    model: str,
) -> PairMeasurement:
    """Levels and tilts at the pivot, with their errors."""
    (a, gain_err), (plane_a, plane_err) = gains
    known = bool(np.isfinite(a))
    a, w, gram, errors = (a if known else 1.0), state.w, state.gram, state.errors
    total = float(w.sum())
    u, v = dot(w, rows.u) / total, dot(w, rows.v) / total
    du, dv = rows.u - u, rows.v - v
    x_level, y_level = dot(w, rows.x) / total, dot(w, rows.y) / total
    x_tilt, y_tilt = (0.0, 0.0), (0.0, 0.0)
    tilt_cov = (np.inf, 0.0, np.inf)
    rms = float(np.median(np.abs(rest[rows.sample]))) / 0.6745
    if len(terms) > 1:
        # Of plain planes: a shift of the scene is not told from a level by its mean gradient.
        x_tilt, y_tilt = gram.tilt("x"), gram.tilt("y")
        uu, uv, vv = errors.of_two(du, dv, rest)
        floor = (LEAST_PLANE * rms) ** 2 * total
        wide_u, wide_v = (max(dot(w * d, d), 1e-300) for d in (du, dv))
        tilt_cov = uu + floor / wide_u, uv, vv + floor / wide_v
    spread = dot(w * (rows.x - x_level), rows.x - x_level) * dot(
        w * (rows.y - y_level), rows.y - y_level
    )
    together = dot(w * (rows.x - x_level), rows.y - y_level)
    return PairMeasurement(
        gain=a,
        gain_err=gain_err,
        plane_gain=plane_a,
        plane_gain_err=plane_err,
        offset=y_level - a * x_level if model != "gain" else 0.0,
        x=x_level,
        y=y_level,
        level_err=errors.of(np.ones_like(w), rest),
        u=u,
        v=v,
        x_tilt=x_tilt,
        y_tilt=y_tilt,
        tilt_cov=tilt_cov,
        cells=rows.cells,
        rms=rms,
        correlation=together / np.sqrt(spread) if spread > 0 else 0.0,
        gain_measured=known,
    )


def _rough_slope(rows: Rows) -> float | None:
    """Slope of a robust line without nuisance through a part of the flattened rows.

    A robust fit finds the line next to where it starts: where clouds hold most rows and a few
    stars most of the light, either may look like outliers to the other. So it starts from both,
    and the line that leaves less unexplained is taken.
    """
    x, y = rows.flattened()
    some = rows.sample
    spread = [float(np.subtract(*np.quantile(z, BRIGHT))) for z in (x, y)]
    noise = [float(np.sqrt(np.median(v[some]))) for v in (rows.vx, rows.vy)]
    if any(s < n for s, n in zip(spread, noise, strict=True)):  # constant: nothing but rounding
        return None
    starts = [spread[1] / spread[0]]
    if rows.bright.any():
        light = [float((z[rows.bright] - np.median(z[some])).sum()) for z in (x, y)]
        starts += [light[1] / light[0]] if min(light) > 0 else []
    # Few stars may hold all that is known of the gain: none may be left out by chance.
    part = rows.bright.copy()
    part[some] = True
    x, y, vx, vy = x[part], y[part], rows.vx[part], rows.vy[part]
    found = []
    for start in starts:
        slope = start
        level = float(np.median(y - slope * x))
        for _ in range(FIRST_ROUNDS):
            variance = vy + slope**2 * vx
            u = np.abs(y - slope * x - level) / np.sqrt(variance)
            w = 1 / (np.maximum(1, u / (HUBER * robust_scale(u))) * variance)
            total = float(w.sum())
            mean_x, mean_y = dot(w, x) / total, dot(w, y) / total
            dx, dy = x - mean_x, y - mean_y
            along = w * (dx * vy + slope * dy * vx) / variance
            down = dot(along, dx)
            slope = dot(along, dy) / down if down > 0 else -1.0
            if not slope > 0:
                break
            level = mean_y - slope * mean_x
        else:
            u = (y - slope * x - level) ** 2 / (vy + slope**2 * vx)
            found.append((float(np.minimum(u, BIWEIGHT**2).sum()), slope))
    return min(found)[1] if found else None
