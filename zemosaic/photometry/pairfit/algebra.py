"""The algebra of a pair's fit: weighted products, small systems, and errors from patches.

Written for vectors of one or two thousand elements, where starting a function of numpy costs as
much as what it does: hence all channels at once, along leading axes (here ``...``), and few calls.
"""

from __future__ import annotations

import math

import numpy as np

SAMPLE = 600  # elements for medians, at most
PIECE = 1_800  # elements of one matrix product
RIDGE = 1e-12 * np.eye(12)


def thin(n: int) -> slice:
    """Every so many of n, an odd number, so that the median is one of them."""
    step = max(1, -(-n // SAMPLE))
    return slice(None, ((-(-n // step) - 1) | 1) * step, step)


def median(z: np.ndarray) -> np.ndarray:
    """Medians ``(...)`` of vectors ``(..., N)`` without NaN; `numpy.median` is slow to start."""
    half = z.shape[-1] // 2
    ranked = np.partition(z, half, axis=-1)
    if z.shape[-1] % 2:
        return np.array(ranked[..., half])
    return np.asarray((ranked[..., half] + ranked[..., :half].max(axis=-1)) / 2)


def robust_scale(square: np.ndarray) -> np.ndarray:
    """Robust standard deviations from squares of residuals; 1 where most of them are 0."""
    scale = np.sqrt(median(square)) / 0.6745
    return np.where(scale > 0, scale, 1.0)


def solve_normal_equations(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution ``(..., n, m)`` of small normal equations; empty columns get zeros."""
    n = matrix.shape[-1]
    scale = 1 / np.sqrt(matrix.diagonal(axis1=-2, axis2=-1) + 1e-300)[..., None]
    scaled = matrix * scale
    scaled *= scale.swapaxes(-1, -2)
    scaled += RIDGE[:n, :n]
    return np.asarray(np.linalg.solve(scaled, right * scale) * scale)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products along the last axis, without BLAS and its threads (see `products`)."""
    return np.asarray(np.einsum("...i,...i->...", a, b))


def products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scalar products ``(..., K, L)`` of the rows of ``(..., K, N)`` and ``(..., L, N)``."""
    # In pieces too small for BLAS to use threads: those would fight with the other workers
    # for the processors, and the last bits of a sum could depend on their number.
    total: np.ndarray | float = 0.0
    for k in range(0, left.shape[-1], PIECE):
        part = np.s_[..., k : k + PIECE]
        total = total + left[part] @ right[part].swapaxes(-1, -2)
    return np.asarray(total)


def cut(detail: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Details shrunk to 0 at three times their noise, and little changed far above it."""
    square = detail * detail
    np.maximum(square, 1e-300, out=square)
    share = variance * -9.0
    share /= square
    share += 1
    np.maximum(share, 0, out=share)
    share *= detail
    return share


def line(gram: np.ndarray, count: int, held: np.ndarray | None) -> np.ndarray:
    """The line with the first `count` terms, and the instrument less what these explain.

    Parameters
    ----------
    gram : ndarray
        ``(C, K, K)`` products of x, y, the instrument for x, and the terms, in this order.
    count : int
        How many terms take part.
    held : ndarray or None
        ``(C,)`` slopes that are kept.

    Returns
    -------
    ndarray
        ``(C, 2, K)`` coefficients of x, y, the instrument and the terms: in what the line
        leaves, ``y - slope x - ...``, and in what is left of the instrument.
    """
    k = 3 + count
    # Of x, y and the instrument, by the terms; then of the line, between what they leave.
    explained = solve_normal_equations(gram[:, 3:k, 3:k], gram[:, 3:k, :3])
    if held is None:
        left = gram[:, 2, :2] - np.einsum("ck,cki->ci", gram[:, 2, 3:k], explained[..., :2])
        held = left[:, 1] / np.where(left[:, 0] == 0, np.inf, left[:, 0])
    found = np.zeros((len(gram), 2, gram.shape[1]))
    found[:, 0, 0], found[:, 0, 1], found[:, 1, 2] = -held, 1.0, 1.0
    found[:, 0, 3:k] = held[:, None] * explained[..., 0] - explained[..., 1]
    found[:, 1, 3:k] = -explained[..., 2]
    return found


def unexplained(gram: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Weighted sums ``(C,)`` of the squares that lines leave (see `line`)."""
    return np.asarray(np.einsum("ck,ckl,cl->c", rest, gram, rest))


def of_patches(
    patch: np.ndarray, weighted: np.ndarray, z: np.ndarray, rest: np.ndarray
) -> np.ndarray:
    """Sums ``(..., P)`` over patches of ``w z rest``, each enlarged by its leverage.

    Errors from such sums are right whatever the noise is within a patch: the sandwich estimator
    of Liang and Zeger (1986, Biometrika 73, 13). Neighbouring cells share pixels and star edges,
    so their errors are not independent; those of patches are. A patch draws the fit to itself,
    by its share of the weight (as in MacKinnon and White 1985, J. Econometrics 29, 305).

    Parameters
    ----------
    patch : ndarray
        ``(N,)`` int: the patch of each row.
    weighted, z, rest : ndarray
        ``(..., N)`` weight times regressor, regressor and residual.
    """
    number = int(patch.max()) + 1
    both = np.empty((2, *z.shape))
    np.multiply(weighted, rest, out=both[0])
    np.multiply(weighted, z, out=both[1])
    index = patch + number * np.arange(both.size // len(patch))[:, None]
    total = np.bincount(index.ravel(), both.ravel(), both.size // len(patch) * number)
    sums, share = total.reshape(2, *z.shape[:-1], number)
    share /= -np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
    share += 1
    sums /= np.maximum(share, 0.1, out=share)
    return np.asarray(sums)


def standard_error(
    information: float, size: float, square: float, scale: float, bread: float
) -> float:
    """Error of a coefficient; inf where nothing is known of it.

    Parameters
    ----------
    information, size : float
        Weighted products of the regressor with what it is the instrument for, and with itself.
        What a noisier variable does not show of its instrument (a hot pixel of the other tile)
        tells nothing of the coefficient.
    square : float
        Sum of the squares of its sums over patches. A few patches tell too little, so the error
        is never less than for independent cells.
    scale : float
        Robust standard deviation of the residuals in units of the expected.
    bread : float
        What the biweight's slope takes from the information (Huber 1981, Robust Statistics,
        section 7.6).
    """
    if not min(information, size) > 0:
        return math.inf
    return bread * math.sqrt(max(square, scale**2 * size)) / information


def standard_covariance(
    size: tuple[float, float, float], first: float, mixed: float, second: float,
    scale: float, bread: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Covariance (first, mixed, second) of two coefficients; see `standard_error`.

    `size` are the weighted products of the two regressors, and the others the sums of the
    squares and products of their sums over patches.
    """
    determinant = size[0] * size[2] - size[1] ** 2
    uu, uv, vv = size[2] / determinant, -size[1] / determinant, size[0] / determinant
    # The inverse of the information, on both sides of the sums.
    low, high = uu * first + uv * mixed, uu * mixed + uv * second
    cross, other = uv * first + vv * mixed, uv * mixed + vv * second
    return (
        bread**2 * (low * uu + high * uv) + scale**2 * uu,
        bread**2 * (low * uv + high * vv) + scale**2 * uv,
        bread**2 * (cross * uv + other * vv) + scale**2 * vv,
    )
