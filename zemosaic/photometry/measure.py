"""Two previews -> the straight line between them, channel by channel.

The model is y = a·x + b between the cells x of tile i and y of tile j. Both are noisy, so the
slope is York's (1966, Can. J. Phys. 44, 1079; unified in York et al. 2004, Am. J. Phys. 72,
367): the true point of each cell lies where the line comes nearest in units of both errors.
Cells far from the line lose their weight (Tukey's biweight), so a trail, a saturated star or a
variable one is left out. Cells are chosen by where they are and whether they are valid, never
by their noisy values. Swapping the tiles turns a into 1/a and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zemosaic.photometry.preview import Preview

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
HUBER = 1.345  # for the first rounds, which must not throw good bright cells away
ROUNDS = (6, 12)  # at most, with Huber's weights and then with Tukey's
CLUSTER = 8  # cells: errors are taken to be independent from one 8 x 8 patch to the next
MAX_GAIN_ERROR = 0.1  # relative; above it the overlap holds no contrast to measure a gain by


@dataclass(frozen=True)
class PairMeasurement:
    """The line y = gain·x + offset of one channel of one pair.

    Parameters
    ----------
    gain : float
        Slope; 1 where `gain_measured` is false.
    gain_err : float
        Its standard error; NaN where it was not measured.
    offset : float
        Intercept in ADU.
    x, y : float
        The pivot in ADU: weighted means of both tiles, where slope and level are uncorrelated.
    level_err : float
        Standard error in ADU of ``y - gain * x`` at the pivot.
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
    offset: float
    x: float
    y: float
    level_err: float
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
    model : {"gain+offset", "offset", "gain"}
        "offset" holds the slope at 1, "gain" the intercept at 0.

    Returns
    -------
    tuple of PairMeasurement or Rejected
        One for each channel.
    """
    a, b, origin = _common(first, second)
    if a is None or b is None:
        return (Rejected("no common cells"),) * len(first.values)
    return tuple(
        _measure_channel(a[c], b[c], a[c + n], b[c + n], origin, model)
        for n in (len(a) // 2,)
        for c in range(n)
    )


def _common(
    first: Preview, second: Preview
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[int, int]]:
    """Values and variances ``(2C, h, w)`` of both previews on the box that they share."""
    height, width = first.values.shape[1:]
    height_2, width_2 = second.values.shape[1:]
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(first.x0 + width, second.x0 + width_2)
    y1 = min(first.y0 + height, second.y0 + height_2)
    if x1 <= x0 or y1 <= y0:
        return None, None, (0, 0)
    cut = []
    for p in (first, second):
        box = (slice(None), slice(y0 - p.y0, y1 - p.y0), slice(x0 - p.x0, x1 - p.x0))
        cut.append(np.concatenate([p.values[box], p.variance[box]]))
    return cut[0], cut[1], (x0, y0)


def _measure_channel(
    x_plane: np.ndarray,
    y_plane: np.ndarray,
    x_var: np.ndarray,
    y_var: np.ndarray,
    origin: tuple[int, int],
    model: str,
) -> Measurement:
    valid = np.isfinite(x_plane) & np.isfinite(y_plane)
    cells = int(valid.sum())
    if cells < MIN_OVERLAP_CELLS:
        return Rejected(f"only {cells} common cells")
    x, y = x_plane[valid].astype(np.float64), y_plane[valid].astype(np.float64)
    vx, vy = x_var[valid].astype(np.float64), y_var[valid].astype(np.float64)
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    vx += (1e-6 * np.median(np.abs(x))) ** 2 + 1e-12
    vy += (1e-6 * np.median(np.abs(y))) ** 2 + 1e-12
    rows, columns = np.nonzero(valid)
    patch = _patches(rows + origin[1], columns + origin[0])
    line = None
    if model != "offset":
        line = _fit(x, y, vx, vy, patch, _first_slope(x, y, model), model)
        if line is not None and line.gain_err > MAX_GAIN_ERROR * line.gain and model != "gain":
            line = None
    measured = line is not None
    if line is None:
        if model == "gain":
            return Rejected("no signal to measure a gain by")
        line = _fit(x, y, vx, vy, patch, 1.0, "offset")
        if line is None:
            return Rejected("no signal in common")
    return PairMeasurement(
        gain=line.gain,
        gain_err=line.gain_err if measured else float("nan"),
        offset=line.y - line.gain * line.x if model != "gain" else 0.0,
        x=line.x,
        y=line.y,
        level_err=line.level_err,
        cells=cells,
        rms=line.rms,
        correlation=line.correlation,
        gain_measured=measured,
    )


def _first_slope(x: np.ndarray, y: np.ndarray, model: str) -> float:
    """Ratio of the bright ends of both distributions: symmetric, and blind to single cells."""
    if model == "gain":
        return float(np.median(y) / np.median(x)) if np.median(x) != 0 else 1.0
    spread = [float(np.subtract(*np.quantile(v, (0.995, 0.5)))) for v in (x, y)]
    return spread[1] / spread[0] if min(spread) > 0 else 1.0


def _patches(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Number of the CLUSTER x CLUSTER patch of the grid in which each cell lies."""
    r, c = rows // CLUSTER, columns // CLUSTER
    return (r - r.min()) * (c.max() - c.min() + 1) + (c - c.min())


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product without BLAS: its threads would fight with the other workers for the
    processors, and its sums differ in the last bits with the number of threads.
    """
    return float(np.einsum("i,i->", a, b))


@dataclass(frozen=True)
class _Line:
    gain: float
    gain_err: float
    x: float
    y: float
    level_err: float
    rms: float
    correlation: float


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    vx: np.ndarray,
    vy: np.ndarray,
    patch: np.ndarray,
    slope: float,
    model: str,
) -> _Line | None:
    """Robust errors-in-variables fit; None where the slope is not determined.

    With model "offset" the slope stays as given; with "gain" the line goes through zero.
    """
    if not (np.isfinite(slope) and slope > 0):
        return None
    robust = np.ones_like(x)
    level = float(np.median(y - slope * x)) if model != "gain" else 0.0
    free = model != "offset"
    huber_rounds, tukey_rounds = ROUNDS
    for round_ in range(huber_rounds + tukey_rounds):
        variance = vy + slope**2 * vx
        u = (y - slope * x - level) / np.sqrt(variance)
        scale = float(np.median(np.abs(u))) / 0.6745
        if scale <= 0:
            scale = 1.0
        u /= scale
        if round_ < huber_rounds:
            robust = 1 / np.maximum(1, np.abs(u) / HUBER)
        else:
            robust = np.clip(1 - (u / BIWEIGHT) ** 2, 0, None) ** 2
        w = robust / variance
        total = w.sum()
        if not total > 0:
            return None
        mean_x, mean_y = (_dot(w, x) / total, _dot(w, y) / total) if model != "gain" else (0.0, 0.0)
        dx, dy = x - mean_x, y - mean_y
        along = (dx * vy + slope * dy * vx) / variance
        before = slope
        if free:
            down = _dot(w * along, dx)
            if not down > 0:
                return None
            slope = _dot(w * along, dy) / down
            if not (np.isfinite(slope) and slope > 0):
                return None
        level = mean_y - slope * mean_x
        if round_ > huber_rounds and abs(slope - before) < 1e-7 * slope:
            break
    variance = vy + slope**2 * vx
    residual = y - slope * x - level
    along = (dx * vy + slope * dy * vx) / variance
    # Noise spreads the points along the line as well; only the rest of the spread informs.
    noise_along = w * vx * vy / variance * scale**2
    information = _dot(w * along, along) - float(noise_along.sum())
    gain_err = _error(w * along * residual, information, patch, scale) if free else 0.0
    mean_x, mean_y = _dot(w, x) / total, _dot(w, y) / total
    dx, dy = x - mean_x, y - mean_y
    spread = _dot(w * dx, dx) * _dot(w * dy, dy)
    return _Line(
        gain=slope,
        gain_err=gain_err,
        x=float(mean_x),
        y=float(mean_y),
        level_err=_error(w * residual, total, patch, scale),
        rms=float(np.median(np.abs(residual)) / 0.6745),
        correlation=_dot(w * dx, dy) / np.sqrt(spread) if spread > 0 else 0.0,
    )


def _error(score: np.ndarray, information: float, patch: np.ndarray, scale: float) -> float:
    """Standard error from sums over patches: right whatever the noise is within a patch.

    The sandwich estimator of Liang and Zeger (1986, Biometrika 73, 13): neighbouring cells
    share pixels and star edges, so their errors are not independent; those of patches are.
    A few patches tell too little, so it is never less than for independent cells.
    """
    if not information > 0:
        return float("inf")
    sums = np.bincount(patch, weights=score)
    count = max(int((np.bincount(patch) > 0).sum()), 2)
    sandwich = _dot(sums, sums) * count / (count - 1) / information**2
    return float(np.sqrt(max(sandwich, scale**2 / information)))
