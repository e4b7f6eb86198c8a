"""Residuals of the pairs: the differences of level and gain after correction."""

from __future__ import annotations

import numpy as np

from .rows import RESIDUALS


def pair_residuals(
    lines: np.ndarray, gain_i: np.ndarray, gain_j: np.ndarray, residual: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the fields of `PairResidual` by name.

    Parameters
    ----------
    lines : ndarray
        ``(N,)`` measurements of channels of pairs (`measurement_heads`).
    gain_i, gain_j : ndarray
        ``(N,)`` gains of their tiles; NaN without a solution.
    residual : ndarray
        ``(N,)`` level difference after correction in ADU; NaN without a solution.
    """
    noise = np.where(lines["rms"] > 0, lines["rms"], np.nan)
    solved = np.isfinite(residual)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "before": abs(lines["y"] - lines["x"]) / noise,
            "after": abs(residual) / (gain_j * noise),
            "residual": residual,
            "level_err": lines["level_err"],
            "level_chi": _level_chi(residual, gain_j * lines["level_err"]),
            "gain_chi": _gain_chi(lines, gain_i, gain_j),
        }
    for name in set(RESIDUALS) - {"before", "level_err"}:
        values[name] = np.where(solved, values[name], np.nan)
    return values


def _level_chi(residual: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the residual level in standard errors; NaN if tiles have no noise."""
    return np.where(error > 0, residual / error, np.nan)


def _gain_chi(lines: np.ndarray, gain_i: np.ndarray, gain_j: np.ndarray) -> np.ndarray:
    """Return the residual gain in standard errors; NaN if the gain was not measured."""
    gain, error = lines["gain"], lines["gain_err"]
    log_residual = np.log(gain) - np.log(gain_i / gain_j)
    measured = lines["gain_measured"] & (gain > 0) & (error > 0)
    return np.where(measured, log_residual / (error / gain), np.nan)
