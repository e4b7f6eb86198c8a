"""Iteratively reweighted least squares with Tukey's biweight: the rounds of a pair's fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..algebra import dot, fit_line, median, robust_scale, row_products, thin
from ..layout import Column, LineFit, has_scene

SCENE_COLUMNS = np.array([Column.GRADIENT_U, Column.GRADIENT_V, Column.LAPLACIAN])


def fit_irls(
    design: np.ndarray, variance: np.ndarray, cell_block: np.ndarray, slope: np.ndarray, *,
    fixed_slope: bool, scene_information: np.ndarray, biweight: float, rounds: int,
    tolerance: float,
) -> LineFit:  # fmt: skip
    """Fit lines by iteratively reweighted least squares.

    Parameters
    ----------
    design : ndarray
        ``(C, K, R)`` design matrix.
    variance : ndarray
        ``(2, C, R)`` of x and y.
    cell_block : ndarray
        ``(F,)`` intp: the block of each of the last F samples.
    slope : ndarray
        ``(C,)`` initial slopes.
    fixed_slope : bool
        Keep the initial slopes.
    scene_information : ndarray
        ``(3,)`` prior information on the coefficients of gradient and Laplacian.
    biweight : float
        Limit of Tukey's biweight in robust standard deviations.
    rounds : int
        Largest number of rounds.
    tolerance : float
        Relative change of the slope that ends them, or of the scale if the slope is fixed.
    """
    scene = has_scene(design)
    design = design if scene else design.copy()
    lost, residual = slope <= 0, _initial_residual(design, slope)
    watched = np.full(len(slope), np.inf) if fixed_slope else slope
    for _ in range(rounds):
        weights = _weigh(residual, slope, variance, cell_block, biweight)
        if not scene:
            # The noise of York's points, and of the scene made of such points, is independent of
            # the residual: either can be the instrument for the noisy x.
            adjustment = slope[:, None] * variance[0] * residual / weights.expected
            design[:, Column.INSTRUMENT] = design[:, Column.X] + adjustment
        gram = row_products(design * weights.final[:, None], design)
        if scene:
            gram[:, SCENE_COLUMNS, SCENE_COLUMNS] += scene_information
        line = fit_line(gram, design.shape[1] - Column.LEVEL, slope if fixed_slope else None)
        slope = -line[:, 0, Column.X]
        lost |= ~(slope > 0)
        slope[lost] = 1.0
        before, watched = watched, weights.scale if fixed_slope else slope
        if (np.abs(watched - before) <= tolerance * watched).all():
            break
        residual = np.einsum("ck,ckn->cn", line[:, 0], design)
    noise = np.zeros(len(slope)) if scene else _york_noise(weights, variance)
    slope[lost] = np.nan
    return LineFit(
        design, slope, weights.final, gram, line, weights.scale, _bread(weights.roots), noise
    )


class _Weights(NamedTuple):
    """Weights ``(C, R)``: expected variance, roots of the biweights, and the quotient of both."""

    expected: np.ndarray
    roots: np.ndarray
    final: np.ndarray
    scale: np.ndarray


def _initial_residual(design: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return y - slope x, minus its median if there is a level."""
    residual = design[:, Column.Y] - slope[:, None] * design[:, Column.X]
    if design.shape[1] > Column.LEVEL:
        residual -= median(residual[:, thin(design.shape[2])])[:, None]
    return np.asarray(residual)


def _weigh(
    residual: np.ndarray, slope: np.ndarray, variance: np.ndarray, cell_block: np.ndarray,
    biweight: float,
) -> _Weights:  # fmt: skip
    """Compute Tukey's biweights. A block has the weight of its worst cell at most.

    A cell with cut-off light changes the mean of its block too.
    """
    expected = slope[:, None] * slope[:, None] * variance[0] + variance[1]
    squares = residual * residual / expected
    scale = robust_scale(squares[:, thin(squares.shape[1])])
    roots = np.maximum(1 - squares * (biweight * scale[:, None]) ** -2, 0)
    blocks = roots.shape[1] - len(cell_block)
    for channel in roots:
        np.minimum.at(channel, cell_block, channel[blocks:])
    return _Weights(expected, roots, roots * roots / expected, scale)


def _york_noise(weights: _Weights, variance: np.ndarray) -> np.ndarray:
    """Return the noise in the weighted sum of squares of York's points.

    It carries no information on the slope.
    """
    x_variance, y_variance = variance
    product = dot(weights.final * x_variance, y_variance / weights.expected)
    return np.asarray(product * weights.scale**2)


def _bread(roots: np.ndarray) -> np.ndarray:
    """Return the factor of errors for the slope of the biweight's influence function.

    It is the ratio of the sums of weights and of derivatives (Huber 1981, Robust Statistics,
    section 7.6), at least 1.
    """
    squares = dot(roots, roots)
    derivative = 5 * squares - 4 * roots.sum(axis=-1)
    return np.maximum(1.0, squares / np.where(derivative == 0, np.inf, derivative))
