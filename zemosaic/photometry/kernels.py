"""The arithmetic of a pair's fit, compiled where numba is installed.

One source serves both ways: array expressions that numba turns into loops and that numpy runs as
they stand, with the same answer up to rounding. Everything compiled is in this file, because
numba's cache looks at the file of the function that is called and at no other. The module is
imported where the first pair is measured, since importing numba takes a good part of a second.

Products of matrices are taken in pieces and vectors are short, so that BLAS uses one thread: more
would fight with the other workers, and the last bits of a sum could depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError:  # the same functions, slower
    njit = None

SAMPLE = 500  # rows for medians, about
PIECE = 1_800  # rows of one matrix product
FREE, HELD, THROUGH_ZERO = 0, 1, 2  # slope and level, level alone, slope alone
FIRST_ROUNDS = 5  # with Huber's weights, on a sample of the rows
NEARLY = 1e-3  # relative change of the slope that ends them
HUBER = 1.345
ROUNDS = 6  # with Tukey's weights, at most
STEADY = 1e-5
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
BRIGHT = 0.995  # quantile whose distance from the median gives a first slope
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
PLAIN_TERMS = 4  # level, gradient and Laplacian: those before the smooth terms
PLANE_TERMS = 6  # and the plane
ALL_TERMS = 9
# What the second order must explain: it costs half of the precision, so only where it is plain.
CURVATURE_CHI2 = 100.0
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them. Of cells, cells and square cells.
SCENE_INFORMATION = np.array([0.5**-2, 0.5**-2, 0.2**-2])
LEAST_PLANE = 0.02  # of the rows' scatter: what registration alone may tilt by
MAX_GAIN_ERROR = 0.25  # relative; above it the overlap holds no contrast to measure a gain by
# Noise of the details between a block, 3 blocks, 9 and the largest, in units of a block's.
DETAIL_NOISE = (0.95, 0.42, 0.14)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code; as it is without numba, or where its cache cannot be kept."""
    if njit is None:
        return function
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to write to: each process would compile for many seconds
        return function


@compiled
def median(z: np.ndarray) -> float:
    """Median of a vector without NaN; `numpy.median` takes longer to start than to do it."""
    half = len(z) // 2
    ranked = np.partition(z, half)
    return ranked[half] if len(z) % 2 else (ranked[half] + ranked[:half].max()) / 2


@compiled
def robust_scale(z: np.ndarray) -> float:
    """Robust standard deviation of residuals; 1 where most of them are 0."""
    scale = median(np.abs(z)) / 0.6745
    return scale if scale > 0 else 1.0


@compiled
def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a small system whose empty columns (a scene without structure) get zeros."""
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale = np.where(scale == 0, 1.0, scale)
    scaled = matrix / np.outer(scale, scale) + 1e-12 * np.eye(len(scale))
    return np.linalg.solve(scaled, right / scale) / scale


@compiled
def products(columns: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted scalar products ``(K, K)`` of the rows of a ``(K, R)`` array."""
    total = np.zeros((len(columns), len(columns)))
    for k in range(0, len(w), PIECE):
        piece = np.ascontiguousarray(columns[:, k : k + PIECE])
        total += (piece * w[k : k + PIECE]) @ piece.T
    return total


@compiled
def combined(coefficients: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of the first columns with these coefficients."""
    total = np.zeros(columns.shape[1])
    for k in range(len(coefficients)):
        total += coefficients[k] * columns[k]
    return total


@compiled
def line(gram: np.ndarray, count: int, slope: float, free: bool) -> np.ndarray:
    """Slope and coefficients of the first `count` terms; `slope` is kept unless it is free.

    `gram` holds the products of x, y, the instrument and the terms, in this order.
    """
    k = 3 + count
    found = np.full(1 + count, slope)
    if not free:
        found[1:] = solved(gram[3:k, 3:k], gram[3:k, 1] - slope * gram[3:k, 0])
        return found
    matrix, right = np.empty((1 + count, 1 + count)), np.empty(1 + count)
    matrix[0, 0], right[0] = gram[2, 0], gram[2, 1]
    matrix[0, 1:], matrix[1:, 0] = gram[2, 3:k], gram[3:k, 0]
    matrix[1:, 1:], right[1:] = gram[3:k, 3:k], gram[3:k, 1]
    return solved(matrix, right)


@compiled
def patch_sums(cluster: np.ndarray, w: np.ndarray, z: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Sums over patches of what pulls at the coefficient of z, enlarged by their leverage."""
    share = np.bincount(cluster, weights=w * z * z)
    left = np.maximum(1 - share / max(share.sum(), 1e-300), 0.1)
    return np.bincount(cluster, weights=w * z * rest) / left


@compiled
def error_of(
    cluster: np.ndarray, w: np.ndarray, z: np.ndarray, rest: np.ndarray, information: float,
    scale: float,
) -> float:  # fmt: skip
    """Standard error of the coefficient of z from sums over patches.

    The sandwich estimator of Liang and Zeger (1986, Biometrika 73, 13): neighbouring cells
    share pixels and star edges, so their errors are not independent; those of patches are.
    The sum of each patch is enlarged by its leverage, since it draws the fit to itself (as in
    MacKinnon and White 1985, J. Econometrics 29, 305). A few patches tell too little, so it is
    never less than for independent rows.
    """
    if not information > 0:
        return np.inf
    sums = patch_sums(cluster, w, z, rest)
    return np.sqrt(max(np.dot(sums, sums) / information**2, scale**2 / information))


@compiled
def bread(bent: np.ndarray) -> float:
    """What the biweight's slope takes from the information (Huber 1981, section 7.6)."""
    t = np.minimum(bent * bent, 1.0)
    kept = ((1 - t) * (1 - 5 * t)).sum()
    return max(1.0, ((1 - t) ** 2).sum() / kept) if kept > 0 else 1.0


@compiled
def plane_through(
    z: np.ndarray, u: np.ndarray, v: np.ndarray, weight: np.ndarray
) -> np.ndarray:  # fmt: skip
    """The plane in u and v that comes nearest to z, at the places of z."""
    columns = np.ones((4, len(z)))
    columns[1], columns[2], columns[3] = u - u.mean(), v - v.mean(), z
    gram = products(columns, weight)
    return combined(solved(gram[:3, :3], gram[:3, 3]), columns)


@compiled
def rough_slope(rows: np.ndarray, place: np.ndarray, bright: np.ndarray) -> float:
    """Slope of a robust line without nuisance through a part of the flattened rows; 0: none.

    A robust fit finds the line next to where it starts: where clouds hold most rows and a few
    stars most of the light, either may look like outliers to the other. So it starts from both,
    and the line that leaves less unexplained is taken.
    """
    size = len(bright)
    step = max(1, size // SAMPLE)
    dark = np.zeros(size)
    dark[::step] = 1.0
    if not bright.all():
        dark = np.where(bright, 0.0, dark)
    # Few stars may hold all that is known of the gain: none may be left out by chance.
    part = bright.copy()
    part[::step] = True
    # Gradients hide stars and mimic slopes.
    x = rows[0] - plane_through(rows[0], place[0], place[1], dark)
    y = rows[1] - plane_through(rows[1], place[0], place[1], dark)
    top = int(BRIGHT * (size - 1))
    spread_x = np.partition(x, top)[top] - median(x[::step])
    spread_y = np.partition(y, top)[top] - median(y[::step])
    if spread_x**2 < median(rows[2, ::step]) or spread_y**2 < median(rows[3, ::step]):
        return 0.0  # constant: nothing but rounding
    light_x = (x[bright] - median(x[::step])).sum()
    light_y = (y[bright] - median(y[::step])).sum()
    x, y, vx, vy = x[part], y[part], rows[2][part], rows[3][part]
    least, best = np.inf, 0.0
    for stars in (False, True):
        if stars and not min(light_x, light_y) > 0:
            break
        slope = light_y / light_x if stars else spread_y / spread_x
        level = median(y - slope * x)
        for _ in range(FIRST_ROUNDS):
            variance = vy + slope * slope * vx
            u = np.abs(y - slope * x - level) / np.sqrt(variance)
            w = 1 / (np.maximum(1.0, u / (HUBER * robust_scale(u))) * variance)
            total = w.sum()
            mean_x, mean_y = np.dot(w, x) / total, np.dot(w, y) / total
            dx, dy = x - mean_x, y - mean_y
            along = w * (dx * vy + slope * dy * vx) / variance
            down, before = np.dot(along, dx), slope
            slope = np.dot(along, dy) / down if down > 0 else -1.0
            if not slope > 0:
                break
            level = mean_y - slope * mean_x
            if abs(slope - before) < NEARLY * slope:
                break
        if slope > 0:
            left = (y - slope * x - level) ** 2 / (vy + slope * slope * vx)
            unexplained = np.minimum(left, BIWEIGHT**2).sum()
            if unexplained < least:
                least, best = unexplained, slope
    return best


@compiled
def cut(detail: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """Details shrunk to 0 at three times their noise, and little changed far above it."""
    square = np.maximum(detail * detail, 1e-300)
    return detail * np.maximum(0.0, 1 - 9 * noise * noise / square)


@compiled
def threes(image: np.ndarray, step: int) -> np.ndarray:
    """Sums over three elements `step` apart along both axes; beyond the edges are zeros."""
    rows = image.copy()
    rows[step:] += image[:-step]
    rows[:-step] += image[step:]
    both = rows.copy()
    both[:, step:] += rows[:, :-step]
    both[:, :-step] += rows[:, step:]
    return both


@compiled
def mean_scene(values: np.ndarray, slope: float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a·x and y whose noise y - a·x does not share, and its standard deviation."""
    wide = slope * slope * values[2]
    both = values[3] + wide
    mean = (slope * values[0] * values[3] + (values[1] - level) * wide) / both
    return mean, np.sqrt(wide * values[3] / both)


@compiled
def derivatives(image: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Gradient and Laplacian ``(3, N)`` of an image given row by row, at some of its elements.

    An element without all four neighbours has zeros: it takes no part in these terms.
    """
    left, right, low, high = image[at - 1], image[at + 1], image[at - width], image[at + width]
    laplacian = left + right + low + high - 4 * image[at]
    whole = np.isfinite(laplacian)
    terms = np.empty((3, len(at)))
    terms[0] = np.where(whole, (right - left) / 2, 0.0)
    terms[1] = np.where(whole, (high - low) / 2, 0.0)
    terms[2] = np.where(whole, laplacian, 0.0)
    return terms


@compiled
def scene_terms(
    blocks: np.ndarray, count: np.ndarray, coarse: np.ndarray, fine: np.ndarray,
    windows: np.ndarray, picked: np.ndarray, side: int, slope: float, level: float,
) -> np.ndarray:  # fmt: skip
    """The scene in ADU of tile j that both tiles share, and its derivatives: ``(4, R)``.

    It is the mean whose noise the residual does not share, without what may be noise: details
    of each size are cut where they stay below three times their noise, as in wavelet denoising
    (Donoho and Johnstone 1994, Biometrika 81, 425). The noise that is left is independent of
    the residual, so any function of it is an instrument that bends nothing; rows that hold
    noise alone would only dilute it.
    """
    width = count.shape[1]
    number = count.ravel()
    there = np.flatnonzero(number)
    image, noise = mean_scene(blocks, slope, level)
    typical = median(noise[there])
    total, cells = threes((image * number).reshape(count.shape), 1), threes(count, 1)
    three = total.ravel() / np.maximum(cells.ravel(), 1e-9)
    total, cells = threes(total, 3), threes(cells, 3)
    nine = total.ravel()[there] / cells.ravel()[there]
    row, column = (there // width).astype(np.float64), (there % width).astype(np.float64)
    plane = plane_through(nine, column, row, np.ones_like(nine))
    kept = np.full(len(number), np.nan)
    kept[there] = (
        plane
        + cut(nine - plane, DETAIL_NOISE[2] * typical)
        + cut(three[there] - nine, DETAIL_NOISE[1] * typical)
        + cut(image[there] - three[there], DETAIL_NOISE[0] * noise[there])
    )
    found = np.empty((4, len(coarse) + len(picked)))
    found[0, : len(coarse)] = kept[coarse]
    found[1:, : len(coarse)] = derivatives(kept, coarse, width)
    found[1:3, : len(coarse)] /= side
    found[3, : len(coarse)] /= side * side
    if len(picked):
        detail, noise = mean_scene(windows, slope, level)
        behind = np.repeat(kept[fine], (side + 2) ** 2)
        detail = behind + cut(detail - behind, noise)
        found[0, len(coarse) :] = detail[picked]
        found[1:, len(coarse) :] = derivatives(detail, picked, side + 2)
    return found


@compiled
def fitted(
    rows: np.ndarray, place: np.ndarray, cluster: np.ndarray, bright: np.ndarray, cells: int,
    blocks: np.ndarray, count: np.ndarray, coarse: np.ndarray, fine: np.ndarray,
    windows: np.ndarray, picked: np.ndarray, side: int, kind: int,
) -> np.ndarray:  # fmt: skip
    """Robust errors-in-variables fit; an empty array where the slope is not determined.

    The arguments are those of `zemosaic.photometry.cells.Rows`, and one of FREE, HELD,
    THROUGH_ZERO. What comes back, in order: gain and its error, both with a plane, x, y, level
    error, u, v, tilts of x and of y, covariance of the tilt (uu, uv, vv), rms, correlation.
    """
    nothing = np.empty(0)
    x, y, vx, vy = rows[0], rows[1], rows[2], rows[3]
    step, free = max(1, len(x) // SAMPLE), kind != HELD
    slope = 1.0
    if kind == FREE:
        slope = rough_slope(rows, place, bright)
    elif kind == THROUGH_ZERO:
        middle = median(x[::step]), median(y[::step])
        slope = middle[1] / middle[0] if min(middle) > 0 else 0.0
    if not slope > 0:
        return nothing
    rest = y - slope * x
    level = 0.0 if kind == THROUGH_ZERO else median(rest[::step])
    terms = (0 if kind == THROUGH_ZERO else 1) if cells < MIN_NUISANCE_CELLS else ALL_TERMS
    terms = 0 if kind == THROUGH_ZERO else terms
    scenic = terms == ALL_TERMS
    columns = np.ones((3 + terms, len(x)))
    columns[0], columns[1] = x, y
    if scenic:
        # Made once, with the rough line: what is left of its error is of second order.
        scene = scene_terms(blocks, count, coarse, fine, windows, picked, side, slope, level)
        columns[2], columns[4:7] = scene[0] / slope, scene[1:]
        u, v = place[0] - place[0].mean(), place[1] - place[1].mean()
        # Up to the second order, since a sky gradient need not be a plane over half a frame.
        columns[7], columns[8], columns[9], columns[10], columns[11] = u, v, u * u, u * v, v * v
    rest = rest - level
    gram = np.empty((0, 0))
    scale = 1.0
    bent = w = variance = rest
    for _ in range(ROUNDS):
        variance = vy + slope * slope * vx
        scaled = rest / np.sqrt(variance)
        scale = robust_scale(scaled[::step])
        bent = scaled / (BIWEIGHT * scale)
        w = np.maximum(1 - bent * bent, 0.0) ** 2 / variance
        if not scenic:
            # York's adjusted points have noise unlike the residual's, and so has the scene that
            # is made of them: either serves as the instrument for the noisy x.
            columns[2] = x + slope * vx * rest / variance
        gram = products(columns, w)
        if scenic:
            for k in range(len(SCENE_INFORMATION)):
                gram[4 + k, 4 + k] += SCENE_INFORMATION[k]
        before, found = slope, line(gram, terms, slope, free)
        slope = found[0]
        if not slope > 0:
            return nothing
        if abs(slope - before) < STEADY * slope:
            break
        rest = y - slope * x - combined(found[1:], columns[3:])
    # The noise of York's points is part of their spread, and tells nothing of the slope.
    noise = 0.0 if scenic else (w * vx * vy / variance).sum() * scale**2
    return described(rows, place, cluster, columns, w, gram, bread(bent), scale, slope, noise, kind)


@compiled
def described(
    rows: np.ndarray, place: np.ndarray, cluster: np.ndarray, columns: np.ndarray, w: np.ndarray,
    gram: np.ndarray, widened: float, scale: float, slope: float, noise: float, kind: int,
) -> np.ndarray:  # fmt: skip
    """Gains without and with a plane, levels and tilts at the pivot, and all errors."""
    x, y, one = rows[0], rows[1], np.ones_like(w)
    terms, free, out = len(columns) - 3, kind != HELD, np.zeros(17)
    counts = (min(terms, PLAIN_TERMS), min(terms, PLANE_TERMS))
    if terms == ALL_TERMS:
        left = np.zeros(2)
        for k in range(2):  # weighted squares without and with the second order
            count = PLANE_TERMS if k == 0 else ALL_TERMS
            whole = np.zeros(3 + terms)
            found = line(gram, count, slope, free)
            whole[0], whole[1], whole[3 : 3 + count] = -found[0], 1.0, -found[1:]
            left[k] = np.dot(whole, gram @ whole)
        if left[0] - left[1] > CURVATURE_CHI2:
            counts = (PLAIN_TERMS, ALL_TERMS)
    rest = y
    out[:4] = np.nan
    for k in range(2):
        count = counts[k]
        found = line(gram, count, slope, free)
        rest = y - found[0] * x - combined(found[1:], columns[3:])
        if not free or (k == 1 and terms == 1):
            continue
        nearest = solved(gram[3 : 3 + count, 3 : 3 + count], gram[3 : 3 + count, 2])
        clean = columns[2] - combined(nearest, columns[3:])
        # What x does not show of the instrument (a hot pixel of the other tile) tells nothing.
        information = min(np.dot(w * clean, clean) - noise, np.dot(w * clean, x))
        error = widened * error_of(cluster, w, clean, rest, information, scale)
        if 0 < error <= MAX_GAIN_ERROR * found[0]:
            out[2 * k], out[2 * k + 1] = found[0], error
    if free and np.isnan(out[0]) and np.isnan(out[2]):
        return np.empty(0)
    total = w.sum()
    dx, dy = x - np.dot(w, x) / total, y - np.dot(w, y) / total
    du, dv = place[0] - np.dot(w, place[0]) / total, place[1] - np.dot(w, place[1]) / total
    out[4], out[5] = np.dot(w, x) / total, np.dot(w, y) / total
    out[6] = widened * error_of(cluster, w, one, rest, total, scale)
    out[7], out[8] = np.dot(w, place[0]) / total, np.dot(w, place[1]) / total
    out[13], out[15] = np.inf, np.inf
    rms = median(np.abs(rest[:: max(1, len(x) // SAMPLE)])) / 0.6745
    out[16] = rms
    if terms == ALL_TERMS:
        # Of plain planes: a shift of the scene is not told from a level by its mean gradient.
        which = np.array([3, 7, 8])
        plane = np.empty((3, 3))
        for k in range(3):
            plane[k] = gram[which[k]][which]
        out[9:11] = solved(plane, gram[0][which])[1:]
        out[11:13] = solved(plane, gram[1][which])[1:]
        out[13:16] = tilt_covariance(cluster, w, du, dv, rest, widened, scale)
        floor = (LEAST_PLANE * rms) ** 2 * total
        out[13] += floor / max(np.dot(w * du, du), 1e-300)
        out[15] += floor / max(np.dot(w * dv, dv), 1e-300)
    spread = np.dot(w * dx, dx) * np.dot(w * dy, dy)
    together = np.dot(w * dx, dy) / np.sqrt(spread) if spread > 0 else 0.0
    return np.append(out, together)


@compiled
def tilt_covariance(
    cluster: np.ndarray, w: np.ndarray, du: np.ndarray, dv: np.ndarray, rest: np.ndarray,
    widened: float, scale: float,
) -> np.ndarray:  # fmt: skip
    """Covariance (uu, uv, vv) of the slopes of a plane, as in `error_of`."""
    uu, uv, vv = np.dot(w * du, du), np.dot(w * du, dv), np.dot(w * dv, dv)
    determinant = uu * vv - uv * uv
    if not determinant > 0:
        return np.array([np.inf, 0.0, np.inf])
    inverse = np.array([[vv, -uv], [-uv, uu]]) / determinant
    one, other = patch_sums(cluster, w, du, rest), patch_sums(cluster, w, dv, rest)
    mixed = np.dot(one, other)
    middle = np.array([[np.dot(one, one), mixed], [mixed, np.dot(other, other)]])
    covariance = widened**2 * (inverse @ middle @ inverse) + scale**2 * inverse
    return np.array([covariance[0, 0], covariance[0, 1], covariance[1, 1]])
