"""Two previews -> the straight line between them, channel by channel.

The model is y = a·x + b + nuisance between the cells x of tile i and y of tile j. Both are
noisy, so the slope is York's (1966, Can. J. Phys. 44, 1079; unified in York et al. 2004, Am. J.
Phys. 72, 367): the true point of each cell lies where the line comes nearest in units of both
errors. The nuisance terms are what two exposures of one sky differ by besides gain and offset:

- the Laplacian and the gradient of the common scene: another seeing and a small shift, to first
  order (they move light between neighbouring cells and would bend the line at every star);
- a plane across the overlap: another sky gradient. The slope is given without and with it, and
  the solver chooses, since the plane costs precision where there is no gradient.

The scene that these terms are made of is the weighted mean of both tiles whose noise is
uncorrelated with the residual, and it serves as the instrument for the noisy x, so that noise
bends nothing. Cells far from the line lose their weight (Tukey's biweight): trails, saturated
stars, variable ones. Cells are chosen by where they are and whether they are valid, never by
their noisy values. Swapping the tiles turns a into 1/a and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zemosaic.photometry.preview import Preview

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
HUBER = 1.345  # for the first rounds, which must not throw good bright cells away
FIRST_ROUNDS = 6  # on a sample of the cells, with Huber's weights
LAST_ROUNDS = 6  # at most, with Tukey's
SAMPLE = 2_000  # cells for the first rounds and for medians, about
PIECE = 3_000  # cells of one matrix product
PART = 4_000  # cells for all but the last rounds, about
CLUSTER = 8  # cells: errors are taken to be independent from one 8 x 8 patch to the next
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them.
SCENE_PRIOR = (0.5, 0.5, 0.2)  # cells, cells, square cells
BRIGHT = (0.995, 0.5)  # quantiles whose distance gives a first slope
STANDS_OUT = 12.0  # both tiles' robust deviations together: a cell with a star in it
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
    rows, columns = slice(y0, y1), slice(x0, x1)
    cut = [_cut(p, rows, columns) for p in (first, second)]
    return tuple(
        _measure_channel(_Cells(x, y, vx, vy, x0, y0), model)
        for (x, vx), (y, vy) in zip(zip(*cut[0], strict=True), zip(*cut[1], strict=True),
                                    strict=True)
    )  # fmt: skip


def _cut(p: Preview, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    box = (
        slice(None),
        slice(rows.start - p.y0, rows.stop - p.y0),
        slice(columns.start - p.x0, columns.stop - p.x0),
    )
    return np.asarray(p.values[box]), np.asarray(p.variance[box])


class _Cells:
    """The common valid cells of one channel of a pair, as vectors."""

    def __init__(
        self,
        x_plane: np.ndarray,
        y_plane: np.ndarray,
        x_var: np.ndarray,
        y_var: np.ndarray,
        x0: int,
        y0: int,
    ) -> None:
        self.valid = np.isfinite(x_plane) & np.isfinite(y_plane)
        self.x, self.y, self.vx, self.vy = (
            plane[self.valid].astype(np.float64) for plane in (x_plane, y_plane, x_var, y_var)
        )
        rows, columns = np.nonzero(self.valid)
        self.u, self.v = columns + x0, rows + y0
        self.sample = slice(None, None, max(1, len(self.x) // SAMPLE))

    def flattened(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y less a plane through each: gradients hide stars and mimic slopes."""
        basis = np.stack([np.ones_like(self.x), self.u - self.u.mean(), self.v - self.v.mean()])
        some = basis[:, self.sample]
        normal = np.einsum("in,jn->ij", some, some)
        return tuple(
            z - _combined(_solved(normal, np.einsum("in,n->i", some, z[self.sample])), basis)
            for z in (self.x, self.y)
        )

    def bright(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cells in or beside one that stands out in both flattened tiles together."""
        both = sum((z - np.median(z[self.sample])) / _scale(z[self.sample]) for z in (x, y))
        mask = np.zeros(self.valid.shape, dtype=bool)
        mask[self.valid] = both > STANDS_OUT
        for axis in (0, 1):
            for shift in (1, -1):
                mask |= np.roll(mask, shift, axis)
        return mask[self.valid]

    def patches(self) -> np.ndarray:
        """Number of the CLUSTER x CLUSTER patch of the grid in which each cell lies."""
        row, column = self.v // CLUSTER, self.u // CLUSTER
        return (row - row.min()) * (np.ptp(column) + 1) + column - column.min()

    def scene_terms(self, slope: float, level: float) -> list[np.ndarray]:
        """Gradient and Laplacian of the common scene, in ADU of tile j.

        A cell without all four neighbours has zeros: it takes no part in these terms.
        """
        scene = np.full(self.valid.shape, np.nan)
        noise = self.vy + slope**2 * self.vx
        scene[self.valid] = (
            slope * self.x * self.vy + slope**2 * (self.y - level) * self.vx
        ) / noise
        padded = np.pad(scene, 1, constant_values=np.nan)
        left, right = padded[1:-1, :-2], padded[1:-1, 2:]
        low, high = padded[:-2, 1:-1], padded[2:, 1:-1]
        laplacian = left + right + low + high - 4 * scene
        whole = np.isfinite(laplacian)
        return [
            np.where(whole, term, 0.0)[self.valid]
            for term in ((right - left) / 2, (high - low) / 2, laplacian)
        ]


def _measure_channel(cells: _Cells, model: str) -> Measurement:
    if len(cells.x) < MIN_OVERLAP_CELLS:
        return Rejected(f"only {len(cells.x)} common cells")
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    sample_x, sample_y = cells.x[cells.sample], cells.y[cells.sample]
    cells.vx += (1e-6 * np.median(np.abs(sample_x))) ** 2 + 1e-12
    cells.vy += (1e-6 * np.median(np.abs(sample_y))) ** 2 + 1e-12
    if model == "gain":
        middle = np.median(sample_x), np.median(sample_y)
        fit = _fit(cells, float(middle[1] / middle[0]), model) if min(middle) > 0 else None
        return fit or Rejected("no signal to measure a gain by")
    fit = None
    if not model.startswith("offset"):
        fit = _fit(cells, None, "free")
    return fit or _fit(cells, 1.0, "offset") or Rejected("no signal in common")


def _fit(cells: _Cells, slope: float | None, model: str) -> PairMeasurement | None:
    """Robust errors-in-variables fit; None where a free slope turns out not to be determined."""
    free = model != "offset"
    part = np.arange(0, len(cells.x), max(1, len(cells.x) // PART))
    if slope is None:
        x, y = cells.flattened()
        bright = np.flatnonzero(cells.bright(x, y))
        # Few stars may hold all that is known of the gain: none may be left out by chance.
        part = np.union1d(part, bright[:: max(1, len(bright) // PART)])
        slope = _rough_slope(cells, x, y, bright, part)
        if slope is None:
            return None
    level = float(np.median((cells.y - slope * cells.x)[cells.sample])) if model != "gain" else 0.0
    terms = np.empty((0, len(cells.x)))
    if model != "gain":
        columns = [np.ones_like(cells.x)]
        if len(cells.x) >= MIN_NUISANCE_CELLS:
            u, v = cells.u - cells.u.mean(), cells.v - cells.v.mean()
            columns += [*cells.scene_terms(slope, level), u, v]
        terms = np.stack(columns)
    plain = len(terms) - 2 if len(terms) > 1 else len(terms)
    coefficients = np.zeros(len(terms))
    coefficients[:1] = level
    # Most rounds on a part of the cells; the last two on all.
    for which, rounds in ((part, LAST_ROUNDS), (slice(None), 2)):
        x, y, vx, vy = (a[which] for a in (cells.x, cells.y, cells.vx, cells.vy))
        some = terms[:, which]
        for _ in range(rounds):
            variance = vy + slope**2 * vx
            residual = y - slope * x - _combined(coefficients, some)
            scaled = residual / np.sqrt(variance)
            scale = _scale(scaled[:: max(1, len(x) // SAMPLE)])
            w = np.clip(1 - (scaled / (BIWEIGHT * scale)) ** 2, 0, None) ** 2 / variance
            # York's adjusted points: the instrument for x, with noise unlike the residual's.
            along = x + slope * vx * residual / variance
            gram = _Gram(w, x, y, along, some)
            before = slope
            slope, coefficients = gram.line(len(some), None if free else slope)
            if not slope > 0:
                return None
            if abs(slope - before) < 1e-6 * slope:
                break
    # The instrument's own noise is part of its spread, and tells nothing of the slope.
    noise = float((w * vx * vy / variance).sum()) * scale**2
    errors = _Errors(cells, w, scaled / (BIWEIGHT * scale), scale)
    gains = []
    for count in (plain, len(terms)):
        a, coefficients = gram.line(count, None if free else slope)
        rest = y - a * x - _combined(coefficients, terms)
        clean = along - _combined(gram.projected("along", range(count)), terms)
        gains.append((a, errors.of(clean, rest, noise)))
    known = [free and 0 < error <= MAX_GAIN_ERROR * a for a, error in gains]
    if free and not any(known):
        return None
    (a, gain_err), (plane_a, plane_err) = gains
    if not known[0]:
        a, gain_err = 1.0, np.nan
    if not known[1] or len(terms) == 1:
        plane_a, plane_err = np.nan, np.nan
    return _described(cells, w, rest, errors, gram, terms, model,
                      (a, gain_err, plane_a, plane_err, known[0]))  # fmt: skip


def _described(
    cells: _Cells,
    w: np.ndarray,
    rest: np.ndarray,
    errors: _Errors,
    gram: _Gram,
    terms: np.ndarray,
    model: str,
    gains: tuple[float, float, float, float, bool],
) -> PairMeasurement:
    """Levels and tilts at the pivot, with their errors."""
    a, gain_err, plane_a, plane_err, known = gains
    total = float(w.sum())
    u, v = _dot(w, cells.u) / total, _dot(w, cells.v) / total
    du, dv = cells.u - u, cells.v - v
    x_level, y_level = _dot(w, cells.x) / total, _dot(w, cells.y) / total
    x_tilt, y_tilt = (0.0, 0.0), (0.0, 0.0)
    tilt_cov = (np.inf, 0.0, np.inf)
    if len(terms) > 1:
        # Of plain planes: a shift of the scene is not told from a level by its mean gradient.
        x_tilt, y_tilt = gram.tilt("x"), gram.tilt("y")
        tilt_cov = errors.of_two(du, dv, rest)
    spread = _dot(w * (cells.x - x_level), cells.x - x_level) * _dot(
        w * (cells.y - y_level), cells.y - y_level
    )
    together = _dot(w * (cells.x - x_level), cells.y - y_level)
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
        cells=len(cells.x),
        rms=float(np.median(np.abs(rest[cells.sample]))) / 0.6745,
        correlation=together / np.sqrt(spread) if spread > 0 else 0.0,
        gain_measured=known,
    )


def _rough_slope(
    cells: _Cells, x: np.ndarray, y: np.ndarray, bright: np.ndarray, part: np.ndarray
) -> float | None:
    """Slope of a robust line without nuisance through a part of the flattened cells.

    A robust fit finds the line next to where it starts: where clouds hold most cells and a few
    stars most of the light, either may look like outliers to the other. So it starts from both,
    and the line that leaves less unexplained is taken.
    """
    spread = [float(np.subtract(*np.quantile(z[cells.sample], BRIGHT))) for z in (x, y)]
    noise = [float(np.sqrt(np.median(v[cells.sample]))) for v in (cells.vx, cells.vy)]
    if any(s < n for s, n in zip(spread, noise, strict=True)):  # constant: nothing but rounding
        return None
    starts = [spread[1] / spread[0]]
    if len(bright):
        light = [float(z[bright].sum() - len(bright) * np.median(z[cells.sample])) for z in (x, y)]
        starts += [light[1] / light[0]] if min(light) > 0 else []
    x, y, vx, vy = (a[part] for a in (x, y, cells.vx, cells.vy))
    found = []
    for start in starts:
        slope = start
        level = float(np.median(y - slope * x))
        for _ in range(FIRST_ROUNDS):
            variance = vy + slope**2 * vx
            u = (y - slope * x - level) / np.sqrt(variance)
            w = 1 / (np.maximum(1, np.abs(u) / (HUBER * _scale(u))) * variance)
            total = float(w.sum())
            mean_x, mean_y = _dot(w, x) / total, _dot(w, y) / total
            dx, dy = x - mean_x, y - mean_y
            along = w * (dx * vy + slope * dy * vx) / variance
            down = _dot(along, dx)
            slope = _dot(along, dy) / down if down > 0 else -1.0
            if not slope > 0:
                break
            level = mean_y - slope * mean_x
        else:
            u = (y - slope * x - level) ** 2 / (vy + slope**2 * vx)
            found.append((float(np.minimum(u, BIWEIGHT**2).sum()), slope))
    return min(found)[1] if found else None


class _Gram:
    """Weighted scalar products of x, y, the instrument and the nuisance terms."""

    ROWS = ("x", "y", "along")

    def __init__(
        self,
        w: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        along: np.ndarray,
        terms: np.ndarray,
    ) -> None:
        columns = np.stack([x, y, along, *terms])
        # In pieces too small for BLAS to use threads: those would fight with the other workers
        # for the processors, and the last bits of a sum could depend on their number.
        pieces = range(0, columns.shape[1], PIECE)
        self._products = sum(
            (columns[:, k : k + PIECE] * w[k : k + PIECE]) @ columns[:, k : k + PIECE].T
            for k in pieces
        )
        if len(terms) > 1:
            for k, wide in enumerate(SCENE_PRIOR, 4):
                self._products[k, k] += wide**-2.0

    def line(self, count: int, slope: float | None) -> tuple[float, np.ndarray]:
        """Slope and coefficients of the first `count` terms; a slope that is given is kept."""
        g, k = self._products, list(range(3, 3 + count))
        if slope is not None:
            return slope, _solved(g[np.ix_(k, k)], g[k, 1] - slope * g[k, 0])
        solution = _solved(g[np.ix_([2, *k], [0, *k])], g[[2, *k], 1])
        return float(solution[0]), solution[1:]

    def projected(self, name: str, terms: Sequence[int]) -> np.ndarray:
        """Coefficients of some terms, by number, that come nearest to x, y or along."""
        g, k = self._products, [3 + term for term in terms]
        return _solved(g[np.ix_(k, k)], g[k, self.ROWS.index(name)])

    def tilt(self, name: str) -> tuple[float, float]:
        """Slopes of a plane through x or y, where the last two terms are u and v."""
        last = len(self._products) - 4
        _, u, v = self.projected(name, (0, last - 1, last))
        return float(u), float(v)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a small system whose empty columns (a scene without structure) get zeros."""
    scale = np.sqrt(np.abs(matrix.diagonal()))
    scale[scale == 0] = 1.0
    scaled = matrix / np.outer(scale, scale)
    scaled[np.diag_indices(len(scale))] += 1e-12
    return np.linalg.solve(scaled, right / scale) / scale


def _combined(coefficients: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Sum of the first terms with these coefficients."""
    return np.einsum("k,kn->n", coefficients, terms[: len(coefficients)])


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product without BLAS and its threads (see `_Gram`)."""
    return float(np.einsum("i,i->", a, b))


def _scale(u: np.ndarray) -> float:
    """Robust standard deviation of residuals; 1 where most of them are 0."""
    return float(np.median(np.abs(u))) / 0.6745 or 1.0


class _Errors:
    """Standard errors from sums over patches: right whatever the noise is within a patch.

    The sandwich estimator of Liang and Zeger (1986, Biometrika 73, 13): neighbouring cells
    share pixels and star edges, so their errors are not independent; those of patches are.
    The sum of each patch is enlarged by its leverage, since it draws the fit to itself (as in
    MacKinnon and White 1985, J. Econometrics 29, 305), and all by what the biweight's slope
    takes from the information (Huber 1981, Robust Statistics, section 7.6).
    """

    def __init__(self, cells: _Cells, w: np.ndarray, bent: np.ndarray, scale: float) -> None:
        self._patch, self._w, self._scale = cells.patches(), w, scale
        t = np.minimum(bent**2, 1)
        self._bread = max(1.0, float(((1 - t) ** 2).sum() / ((1 - t) * (1 - 5 * t)).sum()))

    def _sums(self, z: np.ndarray, rest: np.ndarray) -> np.ndarray:
        sums = np.bincount(self._patch, weights=self._w * z * rest)
        share = np.bincount(self._patch, weights=self._w * z * z)
        return sums / np.maximum(1 - share / max(share.sum(), 1e-300), 0.1)

    def of(self, z: np.ndarray, rest: np.ndarray, noise: float = 0.0) -> float:
        """Error of the coefficient of z, whose spread holds that much noise."""
        information = _dot(self._w * z, z) - noise
        if not information > 0:
            return float("inf")
        sums = self._sums(z, rest)
        # A few patches tell too little, so it is never less than for independent cells.
        variance = max(_dot(sums, sums) / information**2, self._scale**2 / information)
        return self._bread * float(np.sqrt(variance))

    def of_two(
        self, z: np.ndarray, other: np.ndarray, rest: np.ndarray
    ) -> tuple[float, float, float]:
        """Covariance (first, mixed, second) of the coefficients of two terms."""
        mixed = _dot(self._w * z, other)
        information = np.array(
            [[_dot(self._w * z, z), mixed], [mixed, _dot(self._w * other, other)]]
        )
        if not np.linalg.det(information) > 0:
            return float("inf"), 0.0, float("inf")
        sums = np.stack([self._sums(z, rest), self._sums(other, rest)])
        inverse = np.linalg.inv(information) * self._bread
        covariance = inverse @ np.einsum("ip,jp->ij", sums, sums) @ inverse
        covariance += self._scale**2 * inverse / self._bread
        return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])
