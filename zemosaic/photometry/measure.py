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

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zemosaic.photometry.cells import SAMPLE, Rows, common_rows
from zemosaic.photometry.preview import Preview
from zemosaic.photometry.regression import (
    Errors,
    combined,
    dot,
    line,
    median,
    products,
    robust_scale,
    solved,
    unexplained,
)

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
HUBER = 1.345  # for the first rounds, which must not throw good bright cells away
FIRST_ROUNDS = 5  # on a sample of the rows, with Huber's weights
NEARLY = 1e-3  # relative change of the slope that ends them
LAST_ROUNDS = 6  # at most, with Tukey's
STEADY = 1e-5
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
PLAIN_TERMS = 4  # level, gradient and Laplacian: those before the smooth terms
PLANE_TERMS = 6  # and the plane
# What the second order must explain: it costs half of the precision, so only where it is plain.
CURVATURE_CHI2 = 100.0
BRIGHT = 0.995  # quantile whose distance from the median gives a first slope
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them.
SCENE_INFORMATION = np.array([0.5**-2, 0.5**-2, 0.2**-2])  # of cells, cells and square cells
SCENE_DIAGONAL = np.array([4, 5, 6]) * 13  # of a 12 x 12 matrix
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
    channels = common_rows(first, second)
    if channels is None:
        return (Rejected("no common cells"),) * len(first.values)
    corner = max(first.x0, second.x0), max(first.y0, second.y0)
    return tuple(_measure_channel(rows, model, corner) for rows in channels)


def _measure_channel(rows: Rows, model: str, corner: tuple[int, int]) -> Measurement:
    if rows.cells < MIN_OVERLAP_CELLS:
        return Rejected(f"only {rows.cells} common cells")
    fit = None
    if model == "gain":
        middle = median(rows.x[rows.sample]), median(rows.y[rows.sample])
        if min(middle) > 0:
            fit = _fit(rows, middle[1] / middle[0], model, corner)
        return fit or Rejected("no signal to measure a gain by")
    if not model.startswith("offset"):
        slope = _rough_slope(rows)
        fit = _fit(rows, slope, "free", corner) if slope is not None else None
    return fit or _fit(rows, 1.0, "offset", corner) or Rejected("no signal in common")


class _State(NamedTuple):
    """Where the fit is: the line, and the weighted rows that it is drawn through."""

    slope: float
    w: np.ndarray
    along: np.ndarray
    gram: np.ndarray
    errors: Errors
    noise: float


def _fit(rows: Rows, slope: float, model: str, corner: tuple[int, int]) -> PairMeasurement | None:
    """Robust errors-in-variables fit; None where a free slope turns out not to be determined."""
    free = model != "offset"
    columns = _columns(rows, slope, model)
    state = _refined(rows, columns, slope, free)
    if state is None:
        return None
    gram, terms = state.gram, columns[3:]
    held = None if free else state.slope
    lines = [line(gram, min(len(terms), n), held) for n in (PLAIN_TERMS, PLANE_TERMS)]
    if len(terms) > PLANE_TERMS:
        # The second order too where the overlap clearly shows it.
        full = line(gram, len(terms), held)
        if unexplained(gram, *lines[1]) - unexplained(gram, *full) > CURVATURE_CHI2:
            lines[1] = full
    gains: list[tuple[float, float]] = []
    for a, coefficients in lines:
        rest = rows.y - a * rows.x - combined(coefficients, terms)
        if not free or (gains and len(terms) == 1):
            gains.append((np.nan, np.nan))
            continue
        k = 3 + len(coefficients)
        clean = state.along - combined(solved(gram[3:k, 3:k], gram[3:k, 2]), terms)
        # The same from either side: the scene terms' prior is felt by x and y unlike.
        seen = (rows.x + rows.y / a) / 2
        error = state.errors.of(clean, rest, state.noise, seen)
        gains.append((a, error) if 0 < error <= MAX_GAIN_ERROR * a else (np.nan, np.nan))
    if free and np.isnan(gains).all():
        return None
    return _described(rows, state, rest, gains, model, corner)


def _columns(rows: Rows, slope: float, model: str) -> np.ndarray:
    """x, y, the instrument for x, and the nuisance: level, scene terms, second order in u and v.

    Made once, with the rough line: what is left of its error is of second order.
    """
    if model == "gain":
        return np.stack([rows.x, rows.y, rows.x])
    one = np.ones_like(rows.x)
    if rows.cells < MIN_NUISANCE_CELLS:
        return np.stack([rows.x, rows.y, rows.x, one])
    level = median((rows.y - slope * rows.x)[rows.sample])
    scene, *of_scene = rows.scene(slope, level)
    u, v = rows.u - rows.u.mean(), rows.v - rows.v.mean()
    # Up to the second order, since a sky gradient need not be a plane over half a frame.
    return np.stack([rows.x, rows.y, scene / slope, one, *of_scene, u, v, u * u, u * v, v * v])


def _refined(rows: Rows, columns: np.ndarray, slope: float, free: bool) -> _State | None:
    """Some rounds of reweighting; None where the slope is lost."""
    x, y, vx, vy = rows.x, rows.y, rows.vx, rows.vy
    terms, scenic = len(columns) - 3, len(columns) > 4
    residual = y - slope * x
    if terms:
        residual -= median(residual[rows.sample])
    for _ in range(LAST_ROUNDS):
        variance = vy + slope**2 * vx
        scaled = residual / np.sqrt(variance)
        scale = robust_scale(scaled[rows.sample])
        bent = scaled / (BIWEIGHT * scale)
        kept = np.maximum(1 - bent * bent, 0)
        w = kept * kept / variance
        if not scenic:
            # York's adjusted points have noise unlike the residual's, and so has the scene that
            # is made of them: either serves as the instrument for the noisy x.
            columns[2] = x + slope * vx * residual / variance
        gram = products(columns, w)
        if scenic:
            gram.flat[SCENE_DIAGONAL] += SCENE_INFORMATION
        before = slope
        slope, coefficients = line(gram, terms, None if free else slope)
        if not slope > 0:
            return None
        if abs(slope - before) < STEADY * slope:
            break
        residual = y - slope * x - combined(coefficients, columns[3:])
    # The noise of York's points is part of their spread, and tells nothing of the slope.
    noise = 0.0 if scenic else dot(w * vx, vy / variance) * scale**2
    errors = Errors(rows.cluster, w, bent, scale)
    return _State(slope, w, columns[2], gram, errors, noise)


def _described(
    rows: Rows,
    state: _State,
    rest: np.ndarray,
    gains: list[tuple[float, float]],
    model: str,
    corner: tuple[int, int],
) -> PairMeasurement:
    """Levels and tilts at the pivot, with their errors."""
    (a, gain_err), (plane_a, plane_err) = gains
    known = bool(np.isfinite(a))
    a, w, gram, errors = (a if known else 1.0), state.w, state.gram, state.errors
    total = float(w.sum())
    u, v, x, y = (dot(w, z) / total for z in (rows.u, rows.v, rows.x, rows.y))
    x_tilt, y_tilt = (0.0, 0.0), (0.0, 0.0)
    tilt_cov = (np.inf, 0.0, np.inf)
    rms = median(np.abs(rest[rows.sample])) / 0.6745
    if len(gram) > 4:
        du, dv = rows.u - u, rows.v - v
        # Of plain planes: a shift of the scene is not told from a level by its mean gradient.
        plane = np.ix_([3, 7, 8], [3, 7, 8])
        _, (xu, yu), (xv, yv) = solved(gram[plane], gram[[3, 7, 8], :2]).tolist()
        x_tilt, y_tilt = (xu, xv), (yu, yv)
        uu, uv, vv = errors.of_two(du, dv, rest)
        floor = (LEAST_PLANE * rms) ** 2 * total
        wide_u, wide_v = (max(dot(w * d, d), 1e-300) for d in (du, dv))
        tilt_cov = uu + floor / wide_u, uv, vv + floor / wide_v
    dx, dy = rows.x - x, rows.y - y
    spread = dot(w * dx, dx) * dot(w * dy, dy)
    return PairMeasurement(
        gain=a,
        gain_err=gain_err,
        plane_gain=plane_a,
        plane_gain_err=plane_err,
        offset=y - a * x if model != "gain" else 0.0,
        x=x,
        y=y,
        level_err=errors.of(np.ones_like(w), rest),
        u=u + corner[0],
        v=v + corner[1],
        x_tilt=x_tilt,
        y_tilt=y_tilt,
        tilt_cov=tilt_cov,
        cells=rows.cells,
        rms=rms,
        correlation=dot(w * dx, dy) / np.sqrt(spread) if spread > 0 else 0.0,
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
    middle = [median(z[some]) for z in (x, y)]
    top = int(BRIGHT * (len(x) - 1))
    spread = [float(np.partition(z, top)[top]) - m for z, m in zip((x, y), middle, strict=True)]
    noise = [median(v[some]) for v in (rows.vx, rows.vy)]
    if any(s * abs(s) < n for s, n in zip(spread, noise, strict=True)):
        return None  # constant: nothing but rounding
    starts = [spread[1] / spread[0]]
    # Few stars may hold all that is known of the gain: none may be left out by chance.
    part = rows.bright.copy()
    if part.any():
        light = [float((z[part] - m).sum()) for z, m in zip((x, y), middle, strict=True)]
        starts += [light[1] / light[0]] if min(light) > 0 else []
    part[some] = True
    x, y, vx, vy = (z[part] for z in (x, y, rows.vx, rows.vy))
    found = [_rough_line(x, y, vx, vy, start) for start in starts]
    left, slope = min(found)
    return slope if np.isfinite(left) else None


def _rough_line(
    x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray, slope: float
) -> tuple[float, float]:
    """What a robust line leaves unexplained (inf where it is lost), and its slope."""
    some = slice(None, None, max(1, len(x) // SAMPLE))
    level = median((y - slope * x)[some])
    for _ in range(FIRST_ROUNDS):
        variance = vy + slope**2 * vx
        u = np.abs(y - slope * x - level) / np.sqrt(variance)
        w = 1 / (np.maximum(1, u / (HUBER * robust_scale(u[some]))) * variance)
        total = float(w.sum())
        mean_x, mean_y = dot(w, x) / total, dot(w, y) / total
        dx, dy = x - mean_x, y - mean_y
        along = w * (dx * vy + slope * dy * vx) / variance
        down, before = dot(along, dx), slope
        slope = dot(along, dy) / down if down > 0 else -1.0
        if not slope > 0:
            return np.inf, 0.0
        level = mean_y - slope * mean_x
        if abs(slope - before) < NEARLY * slope:
            break
    u = (y - slope * x - level) ** 2 / (vy + slope**2 * vx)
    return float(np.minimum(u, BIWEIGHT**2).sum()), slope
