"""The summary of a pair's fit: slopes, and sums over samples and over patches."""

from __future__ import annotations

import numpy as np

from ...robust import GAUSSIAN_MEDIAN
from ..algebra import dot, fit_line, median, solve_normal_equations, thin
from ..fit_summary import FIT_SUMMARY
from ..layout import Column, LineFit, SampleArrays

# Rows that the lines without and with a plane leave of y and of the instrument.
RESIDUAL, INSTRUMENTS = 2, slice(1, None, 2)
# The residuals by which the regressors of `patch_squares` are multiplied.
RESIDUAL_OF_REGRESSOR = [0, RESIDUAL, RESIDUAL, RESIDUAL, RESIDUAL]


def summarize_fit(
    samples: SampleArrays, fit: LineFit, *,
    fixed_slope: bool, plain_terms: int, plane_terms: int, curvature_chi2: float,
) -> np.ndarray:  # fmt: skip
    """Summarize the fit of each channel.

    Parameters
    ----------
    samples : SampleArrays
        Of C channels.
    fit : LineFit
        Their fit.
    fixed_slope : bool
        Whether the slopes were fixed.
    plain_terms, plane_terms : int
        Number of nuisance terms of the lines without and with a plane.
    curvature_chi2 : float
        Reduction of the weighted sum of squares from which on the second-order terms are kept.

    Returns
    -------
    ndarray
        ``(C,)`` of dtype `FIT_SUMMARY`.
    """
    lines = _choose_lines(fit, fixed_slope, (plain_terms, plane_terms), curvature_chi2)
    # (4, C, R): residual and instrument, without and with a plane.
    rows = (np.concatenate(lines, axis=1) @ fit.design).swapaxes(0, 1)
    slopes = -np.array([line[:, 0, Column.X] for line in lines])
    summary = np.empty(len(fit.slope), FIT_SUMMARY)
    summary["slope"] = slopes.T
    position = _set_moments(summary, samples, fit.weights)
    _set_patch_sums(summary, samples, fit, rows, position)
    _set_information(summary, fit, rows[INSTRUMENTS], slopes)
    blocks = len(samples.u)
    summary["rms"] = median(np.abs(rows[RESIDUAL][:, :blocks][:, thin(blocks)])) / GAUSSIAN_MEDIAN
    _set_shift(summary, fit, plain_terms)
    return summary


def _choose_lines(
    fit: LineFit, fixed_slope: bool, terms: tuple[int, int], curvature_chi2: float
) -> list[np.ndarray]:
    """Return the lines ``(C, 2, K)`` without and with a plane.

    The latter includes the second order if the overlap clearly shows it.
    """
    most = fit.gram.shape[1] - Column.LEVEL
    slope = fit.slope if fixed_slope else None
    plain, plane = (fit_line(fit.gram, min(most, count), slope) for count in terms)
    reduction = _unexplained(fit.gram, plane) - _unexplained(fit.gram, fit.line)
    curved = (reduction > curvature_chi2)[:, None, None]
    return [plain, np.where(curved, fit.line, plane)]


def _unexplained(gram: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return the weighted sums ``(C,)`` of squared residuals."""
    residual = line[:, 0]
    return np.asarray(np.einsum("ck,ckl,cl->c", residual, gram, residual))


def _set_moments(summary: np.ndarray, samples: SampleArrays, weights: np.ndarray) -> np.ndarray:
    """Set weight, pivot and moments; return u, v, x and y ``(4, C, R)`` about the pivot.

    Only blocks enter, since the differences of cells depend on the slope alone.
    """
    blocks = len(samples.u)
    block_weights, position = np.zeros_like(weights), np.zeros((4, *weights.shape))
    block_weights[:, :blocks] = weights[:, :blocks]
    for out, values in zip(position, (samples.u, samples.v, samples.x, samples.y), strict=True):
        out[:, :blocks] = values
    total = block_weights.sum(axis=-1)
    pivot = dot(block_weights, position) / total
    position[..., :blocks] -= pivot[..., None]
    moments = np.einsum("icr,jcr->ijc", weights * position, position)
    summary["weight"], summary["pivot"] = total, pivot.T
    summary["moments"] = moments[np.triu_indices(4)].T
    return position


def _set_patch_sums(
    summary: np.ndarray, samples: SampleArrays, fit: LineFit, rows: np.ndarray,
    position: np.ndarray,
) -> None:  # fmt: skip
    """Set the sums over patches of both slopes, the level and both tilts, and the norms."""
    ones = np.zeros_like(fit.weights)
    ones[:, : len(samples.u)] = 1.0
    regressors = np.concatenate([rows[INSTRUMENTS], ones[None], position[:2]])
    weighted = fit.weights * regressors
    sums = patch_sums(samples.patch, weighted, regressors, rows[RESIDUAL_OF_REGRESSOR])
    summary["patch_squares"] = dot(sums, sums).T
    summary["tilt_patch_product"] = dot(sums[3], sums[4])
    norm = dot(weighted[:2], regressors[:2]) - fit.instrument_noise
    summary["instrument_norm"] = norm.T


def _set_information(
    summary: np.ndarray, fit: LineFit, instruments: np.ndarray, slopes: np.ndarray
) -> None:
    """Set the weighted product of the instrument and the signal.

    The signal is the mean of x and y / slope, the same for either order of the tiles: the prior
    on the terms of the scene affects x and y differently.
    """
    scale = np.where(slopes > 0, slopes, 1.0)[..., None]
    signal = (fit.design[:, Column.X] + fit.design[:, Column.Y] / scale) / 2
    information = dot(fit.weights * instruments, signal) - fit.instrument_noise
    summary["information"] = information.T


def _set_shift(summary: np.ndarray, fit: LineFit, plain_terms: int) -> None:
    """Set the shift of the scene and its variance; NaN if the fit has no terms for it."""
    summary["shift"] = summary["shift_variance"] = np.nan
    terms = fit.gram.shape[1] - Column.LEVEL
    if terms <= plain_terms:
        return
    summary["shift"] = fit.line[:, 0, Column.GRADIENT_U : Column.LAPLACIAN]
    unit = np.eye(terms)[:, 1:3]
    covariance = solve_normal_equations(fit.gram[:, Column.LEVEL :, Column.LEVEL :], unit)
    summary["shift_variance"] = covariance[:, [1, 2], [0, 1]]


def patch_sums(
    patch: np.ndarray, weighted: np.ndarray, regressor: np.ndarray, residual: np.ndarray
) -> np.ndarray:
    """Sum weight x regressor x residual over patches, each sum enlarged by its leverage.

    Standard errors from these sums are right for any correlation within a patch: the sandwich
    estimator of Liang and Zeger (1986, Biometrika 73, 13). Neighbouring cells share pixels and
    edges of stars, so their errors are not independent, but those of patches are. A patch draws
    the fit to itself in proportion to its share of the weight (as in MacKinnon and White 1985,
    J. Econometrics 29, 305).

    Parameters
    ----------
    patch : ndarray
        ``(N,)`` intp patch of each sample.
    weighted, regressor, residual : ndarray
        ``(..., N)`` weight x regressor, regressor and residual.

    Returns
    -------
    ndarray
        ``(..., P)``.
    """
    number = int(patch.max()) + 1
    both = np.array([weighted * residual, weighted * regressor])
    rows = both.size // len(patch)
    index = patch + number * np.arange(rows)[:, None]
    totals = np.bincount(index.ravel(), both.ravel(), rows * number)
    sums, share = totals.reshape(*both.shape[:-1], number)
    leverage = share / np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
    return np.asarray(sums / np.maximum(1 - leverage, 0.1))
