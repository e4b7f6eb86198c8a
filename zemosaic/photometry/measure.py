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

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from zemosaic.photometry.cells import Rows, common_rows
from zemosaic.photometry.preview import Preview
from zemosaic.photometry.regression import (
    dot,
    line,
    median,
    of_patches,
    products,
    robust_scale,
    standard_covariance,
    standard_error,
    unexplained,
)
from zemosaic.photometry.rough import rough_slope

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
LAST_ROUNDS = 6  # at most, with Tukey's
STEADY = 3e-5  # each round leaves about a sixth of the change of the one before
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
PLAIN_TERMS = 4  # level, gradient and Laplacian: those before the smooth terms
PLANE_TERMS = 6  # and the plane
# What the second order must explain: it costs half of the precision, so only where it is plain.
CURVATURE_CHI2 = 100.0
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them.
SCENE_INFORMATION = np.array([0.5**-2, 0.5**-2, 0.2**-2])  # of cells, cells and square cells
SCENE = np.array([4, 5, 6])  # the columns of gradient and Laplacian
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
    return tuple(found for rows in channels for found in _measured(rows, model, corner))


def _measured(rows: Rows, model: str, corner: tuple[int, int]) -> list[Measurement]:
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
        slope = rough_slope(rows)
    fits = _fits(rows, slope, "free", corner)
    held = np.where([fit is None for fit in fits], 1.0, np.nan)
    levels = _fits(rows, held, "offset", corner)
    return [
        fit or level or Rejected("no signal in common")
        for fit, level in zip(fits, levels, strict=True)
    ]


class _State(NamedTuple):
    """Where the fit is: the lines, and the weighted rows that they are drawn through."""

    slope: np.ndarray  # (C,); NaN where it was lost
    w: np.ndarray  # (C, R)
    gram: np.ndarray  # (C, K, K)
    line: np.ndarray  # (C, 2, K) with all terms (see `line`)
    scale: np.ndarray  # (C,) robust deviation of the residuals, in units of the expected
    bread: np.ndarray  # (C,) what the biweight's slope takes from the information
    noise: np.ndarray  # (C,) of the instrument's spread, what tells nothing of the slope


def _fits(
    rows: Rows, slope: np.ndarray, model: str, corner: tuple[int, int]
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
    rows: Rows, slope: np.ndarray, model: str, corner: tuple[int, int]
) -> list[PairMeasurement | None]:
    """Robust errors-in-variables fit; None where a free slope turns out not to be determined."""
    free = model != "offset"
    columns = _columns(rows, slope, model)
    state = _refined(rows, columns, slope, free)
    gram, terms = state.gram, columns.shape[1] - 3
    held = None if free else slope
    lines = [line(gram, min(terms, n), held) for n in (PLAIN_TERMS, PLANE_TERMS)]
    if terms > PLANE_TERMS:
        # The second order too where the overlap clearly shows it.
        gained = unexplained(gram, lines[1][:, 0]) - unexplained(gram, state.line[:, 0])
        lines[1] = np.where((gained > CURVATURE_CHI2)[:, None, None], state.line, lines[1])
    lost = np.isnan(state.slope)
    left = (np.concatenate(lines, axis=1) @ columns).swapaxes(0, 1)  # (4, C, R)
    found = _described(rows, columns, state, -np.array([z[:, 0, 0] for z in lines]), left)
    return [
        None if gone else _measurement(rows.cells, model, corner, columns.shape[1], *numbers)
        for gone, *numbers in zip(lost.tolist(), *found, strict=True)
    ]


def _described(
    rows: Rows, columns: np.ndarray, state: _State, slopes: np.ndarray, left: np.ndarray
) -> list[list[Any]]:
    """What a measurement is made of, channel by channel: sums over the rows.

    `slopes` ``(2, C)`` are those without and with a plane; `left` ``(4, C, R)`` what that line
    leaves and what is left of its instrument, without a plane and with it.
    """
    # The same from either side: the scene terms' prior is felt by x and y unlike.
    a = np.where(slopes > 0, slopes, 1.0)[..., None]
    seen = (columns[:, 0] + columns[:, 1] / a) / 2
    w = state.w
    about = np.array(np.broadcast_arrays(rows.u, rows.v, rows.x, rows.y))
    total = w.sum(axis=-1)
    pivot = dot(w, about) / total
    about -= pivot[..., None]
    z = np.concatenate([left[1::2], np.ones_like(w)[None], about[:2]])
    weighted = w * z
    sums = of_patches(rows.cluster, weighted, z, left[[0, 2, 2, 2, 2]])
    rms = median(np.abs(left[2][:, rows.sample])) / 0.6745
    moments = np.einsum("icr,jcr->cij", w * about, about)
    size, seen = dot(weighted[:2], z[:2]) - state.noise, dot(weighted[:2], seen) - state.noise
    return [
        slopes.T.tolist(), size.T.tolist(), seen.T.tolist(), dot(sums, sums).T.tolist(),
        dot(sums[3], sums[4]).tolist(), total.tolist(), pivot.T.tolist(), moments.tolist(),
        rms.tolist(), state.scale.tolist(), state.bread.tolist(),
    ]  # fmt: skip


def _measurement(
    cells: int, model: str, corner: tuple[int, int], terms: int,
    slopes: list[float], size: list[float], seen: list[float], squares: list[float], mixed: float,
    total: float, pivot: list[float], moments: list[list[float]], rms: float, scale: float,
    bread: float,
) -> PairMeasurement | None:  # fmt: skip
    """Gains, level and tilts of a channel, with their errors, from what `_described` summed."""
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
    u, v, x, y = pivot
    (uu, uv, ux, uy), (_, vv, vx, vy), (_, _, xx, xy), (_, _, _, yy) = moments
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
        correlation=xy / math.sqrt(xx * yy) if xx * yy > 0 else 0.0,
        gain_measured=known,
    )


def _columns(rows: Rows, slope: np.ndarray, model: str) -> np.ndarray:
    """x, y, the instrument for x, and the nuisance: level, scene terms, second order in u and v.

    All ``(C, K, R)``, made once, with the rough line: what is left of its error is of second
    order. With a level among the terms x and y are counted from their means, or digits are lost.
    """
    few, c, n = rows.cells < MIN_NUISANCE_CELLS, *rows.x.shape
    columns = np.empty((c, 3 if model == "gain" else 4 if few else 12, n))
    columns[:, 0], columns[:, 1], columns[:, 2] = rows.x, rows.y, rows.x
    if model == "gain":
        return columns
    columns[:, :3] -= columns[:, :3].mean(axis=-1, keepdims=True)
    columns[:, 3] = 1.0
    if few:
        return columns
    part, a = rows.sample, slope[:, None]
    level = median(rows.y[:, part] - a * rows.x[:, part])[:, None]
    scene = rows.scene(a, level)
    columns[:, 2] = (scene[:, 0] - scene[:, 0].mean(axis=-1, keepdims=True)) / a
    columns[:, 4:7] = scene[:, 1:]
    u, v = rows.u - rows.u.mean(), rows.v - rows.v.mean()
    # Up to the second order, since a sky gradient need not be a plane over half a frame.
    columns[:, 7:] = np.stack([u, v, u * u, u * v, v * v])
    return columns


def _refined(rows: Rows, columns: np.ndarray, slope: np.ndarray, free: bool) -> _State:
    """Some rounds of reweighting."""
    x, y, vx, vy = columns[:, 0], columns[:, 1], rows.vx, rows.vy
    terms, scenic, some = columns.shape[1] - 3, columns.shape[1] > 4, rows.sample
    lost = slope <= 0
    residual = y - slope[:, None] * x
    if terms:
        residual -= median(residual[:, some])[:, None]
    for _ in range(LAST_ROUNDS):
        a = slope[:, None]
        variance = a * a * vx
        variance += vy
        bent = residual * residual
        bent /= variance
        scale = robust_scale(bent[:, some])
        bent *= (BIWEIGHT * scale[:, None]) ** -2
        kept = 1 - bent
        np.maximum(kept, 0, out=kept)
        w = kept * kept
        w /= variance
        if not scenic:
            # York's adjusted points have noise unlike the residual's, and so has the scene that
            # is made of them: either serves as the instrument for the noisy x.
            columns[:, 2] = x + a * vx * residual / variance
        gram = products(columns * w[:, None], columns)
        if scenic:
            gram[:, SCENE, SCENE] += SCENE_INFORMATION
        found = line(gram, terms, None if free else slope)
        before, slope = slope, -found[:, 0, 0]
        lost |= ~(slope > 0)
        slope[lost] = 1.0
        if (np.abs(slope - before) <= STEADY * slope).all():
            break
        residual = np.einsum("ck,ckn->cn", found[:, 0], columns)
    # The noise of York's points is part of their spread, and tells nothing of the slope.
    noise = np.zeros(len(slope)) if scenic else dot(w * vx, vy / variance) * scale**2
    down = dot(kept, 1 - 5 * np.minimum(bent, 1))
    bread = np.maximum(1.0, dot(kept, kept) / np.where(down == 0, np.inf, down))
    slope[lost] = np.nan
    return _State(slope, w, gram, found, scale, bread, noise)
