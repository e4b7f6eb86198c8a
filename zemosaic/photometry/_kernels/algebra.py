"""Small linear algebra and medians for the fit of a pair.

Written for vectors of one or two thousand elements, for which the start of a numpy call takes as
long as its work: all channels are processed at once, along leading axes (``...``), in few calls.
"""

from __future__ import annotations

import numpy as np

from ..robust import GAUSSIAN_MEDIAN
from .layout import Column

MEDIAN_SAMPLE = 600  # largest number of elements in a median, plus one
PRODUCT_LENGTH = 1_800  # elements of one matrix product
RIDGE = 1e-12 * np.eye(12)


def thin(count: int) -> slice:
    """Return a slice that takes every so many of `count` elements, for a median.

    It takes an odd number of elements, so the median is one of them.
    """
    step = max(1, -(-count // MEDIAN_SAMPLE))
    return slice(None, ((-(-count // step) - 1) | 1) * step, step)


def median(values: np.ndarray) -> np.ndarray:
    """Compute the medians ``(...)`` of vectors ``(..., N)`` without NaN, with little overhead."""
    half = values.shape[-1] // 2
    ranked = np.partition(values, half, axis=-1)
    if values.shape[-1] % 2:
        return np.array(ranked[..., half])
    return np.asarray((ranked[..., half] + ranked[..., :half].max(axis=-1)) / 2)


def robust_scale(squares: np.ndarray) -> np.ndarray:
    """Compute robust standard deviations from squared residuals; 1 if most of these are 0."""
    scale = np.sqrt(median(squares)) / GAUSSIAN_MEDIAN
    return np.where(scale > 0, scale, 1.0)


def solve_normal_equations(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve small normal equations ``(..., n, n)``, ``(..., n, m)``; empty columns get zeros."""
    n = matrix.shape[-1]
    scale = 1 / np.sqrt(matrix.diagonal(axis1=-2, axis2=-1) + 1e-300)[..., None]
    scaled = matrix * scale
    scaled *= scale.swapaxes(-1, -2)
    scaled += RIDGE[:n, :n]
    return np.asarray(np.linalg.solve(scaled, right * scale) * scale)


def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute scalar products along the last axis, without BLAS (see `row_products`)."""
    return np.asarray(np.einsum("...i,...i->...", left, right))


def row_products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute scalar products ``(..., K, L)`` of the rows of ``(..., K, N)`` and ``(..., L, N)``.

    Each matrix product is too short for BLAS to start threads, which would compete with the other
    workers for the processors and could change the last bits of a sum.
    """
    total: np.ndarray | float = 0.0
    for start in range(0, left.shape[-1], PRODUCT_LENGTH):
        piece = np.s_[..., start : start + PRODUCT_LENGTH]
        total = total + left[piece] @ right[piece].swapaxes(-1, -2)
    return np.asarray(total)


def sum_threes(images: np.ndarray, step: int) -> np.ndarray:
    """Sum 3 x 3 elements of ``(N, h, w)`` that are `step` apart; zeros lie beyond the edges."""
    rows = images.copy()
    rows[:, step:] += images[:, :-step]
    rows[:, :-step] += images[:, step:]
    sums = rows.copy()
    sums[..., step:] += rows[..., :-step]
    sums[..., :-step] += rows[..., step:]
    return sums


def fit_line(gram: np.ndarray, terms: int, fixed_slope: np.ndarray | None) -> np.ndarray:
    """Fit the line with the first `terms` nuisance terms.

    Parameters
    ----------
    gram : ndarray
        ``(C, K, K)`` weighted products of the columns of the design matrix.
    terms : int
        Number of nuisance terms.
    fixed_slope : ndarray or None
        ``(C,)`` slopes to keep; None to fit them.

    Returns
    -------
    ndarray
        ``(C, 2, K)`` coefficients of the columns in the residual ``y - slope x - ...``, and in
        the instrument minus its projection on the nuisance terms.
    """
    end = Column.LEVEL + terms
    nuisance = np.s_[Column.LEVEL : end]
    # Coefficients of the nuisance terms in x, y and the instrument.
    explained = solve_normal_equations(gram[:, nuisance, nuisance], gram[:, nuisance, :3])
    slope = fixed_slope
    if slope is None:
        instrument = gram[:, Column.INSTRUMENT]
        product = instrument[:, :2] - np.einsum(
            "ck,cki->ci", instrument[:, nuisance], explained[..., :2]
        )
        slope = product[:, 1] / np.where(product[:, 0] == 0, np.inf, product[:, 0])
    line = np.zeros((len(gram), 2, gram.shape[1]))
    line[:, 0, Column.X], line[:, 0, Column.Y], line[:, 1, Column.INSTRUMENT] = -slope, 1.0, 1.0
    line[:, 0, nuisance] = slope[:, None] * explained[..., 0] - explained[..., 1]
    line[:, 1, nuisance] = -explained[..., 2]
    return line
