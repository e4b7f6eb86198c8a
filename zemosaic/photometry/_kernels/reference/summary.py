"""The summary of a pair's fit: its slope, and sums over samples and over patches."""

from __future__ import annotations

import numpy as np

from ...robust import GAUSSIAN_MEDIAN
from ..algebra import dot, median, solve_normal_equations, thin
from ..fit_summary import FIT_SUMMARY
from ..layout import Column, LineFit, SampleArrays, has_scene


def summarize_fit(samples: SampleArrays, fit: LineFit) -> np.ndarray:
    """Summarize the fit of each channel.

    Parameters
    ----------
    samples : SampleArrays
        Of C channels.
    fit : LineFit
        Their fit.

    Returns
    -------
    ndarray
        ``(C,)`` of dtype `FIT_SUMMARY`.
    """
    residual, instrument = (fit.line @ fit.design).swapaxes(0, 1)
    summary, blocks = np.empty(len(fit.slope), FIT_SUMMARY), len(samples.u)
    summary["slope"] = -fit.line[:, 0, Column.X]
    _set_moments(summary, samples, fit.weights[:, :blocks])
    _set_patch_sums(summary, samples, fit, residual, instrument)
    _set_information(summary, fit, instrument)
    summary["rms"] = median(np.abs(residual[:, :blocks][:, thin(blocks)])) / GAUSSIAN_MEDIAN
    _set_shift(summary, fit)
    return summary


def _set_moments(summary: np.ndarray, samples: SampleArrays, weights: np.ndarray) -> None:
    """Set weight, pivot and moments.

    Only blocks enter, since the differences of cells depend on the slope alone.
    """
    values = np.empty((4, *weights.shape))
    values[:] = [
        np.broadcast_to(samples.u, weights.shape),
        np.broadcast_to(samples.v, weights.shape),
        samples.x,
        samples.y,
    ]
    total = weights.sum(axis=-1)
    pivot = dot(weights, values) / total
    dx, dy = values[2:] - pivot[2:, :, None]
    summary["weight"], summary["pivot"] = total, pivot.T
    summary["moments"] = np.array(
        [dot(weights * a, b) for a, b in ((dx, dx), (dx, dy), (dy, dy))]
    ).T


def _set_patch_sums(
    summary: np.ndarray, samples: SampleArrays, fit: LineFit, residual: np.ndarray,
    instrument: np.ndarray,
) -> None:  # fmt: skip
    """Set the sums over patches of the slope and the level, and the norm."""
    ones = np.zeros_like(fit.weights)
    ones[:, : len(samples.u)] = 1.0
    regressors = np.array([instrument, ones])
    weighted = fit.weights * regressors
    sums = patch_sums(samples.patch, weighted, regressors, np.array([residual, residual]))
    summary["patch_squares"] = dot(sums, sums).T
    summary["instrument_norm"] = dot(weighted[0], instrument) - fit.instrument_noise


def _set_information(summary: np.ndarray, fit: LineFit, instrument: np.ndarray) -> None:
    """Set the weighted product of the instrument and the signal.

    The signal is the mean of x and y / slope, the same for either order of the tiles: the prior
    on the terms of the scene affects x and y differently.
    """
    slope = summary["slope"]
    scale = np.where(slope > 0, slope, 1.0)[:, None]
    signal = (fit.design[:, Column.X] + fit.design[:, Column.Y] / scale) / 2
    summary["information"] = dot(fit.weights * instrument, signal) - fit.instrument_noise


def _set_shift(summary: np.ndarray, fit: LineFit) -> None:
    """Set the shift of the scene and its variance; NaN if the fit has no terms for it."""
    summary["shift"] = summary["shift_variance"] = np.nan
    if not has_scene(fit.design):
        return
    summary["shift"] = fit.line[:, 0, Column.GRADIENT_U : Column.LAPLACIAN]
    nuisance = fit.gram[:, Column.LEVEL :, Column.LEVEL :]
    unit = np.eye(nuisance.shape[1])[:, 1:3]
    summary["shift_variance"] = solve_normal_equations(nuisance, unit)[:, [1, 2], [0, 1]]


def patch_sums(
    patch: np.ndarray, weighted: np.ndarray, regressor: np.ndarray, residual: np.ndarray
) -> np.ndarray:
    """Sum weight x regressor x residual over patches, each sum enlarged by its leverage.

    Standard errors from these sums are right for any correlation within a patch: the sandwich
    estimator of Liang and Zeger (1986, Biometrika 73, 13). Neighbouring cells share pixels and
    edges of stars, so their errors are not independent, but the errors of patches are. A patch
    draws the fit to itself in proportion to its share of the weight (as in MacKinnon and White
    1985, J. Econometrics 29, 305).

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
