"""The scatter of the gain from star to star.

Where the image of a star is smaller than a pixel, or one colour has only one of four pixels, the
recorded light depends on where in the pixel the star lies. In blue frames of a small
telescope a star gains or loses 5 % or more in this way, far more than its noise, and the brightest
one would decide on the gain. Saturation, variable stars and a flat's residual have the same effect.
The scatter is estimated from the residuals of the stars by restricted maximum likelihood, as a
fraction of their light, and added to their variances.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .._kernels.algebra import sum_threes
from .._kernels.layout import Column, LineFit
from .samples import PairSamples

BRIGHT = 4.0  # standard deviations of a star above its surroundings
LEAST_EVIDENCE = 3.0  # standard errors of the score, if there were no scatter
OUTLIER_SQUARE = 9.0  # squared residual in units of its variance, beyond which it counts no more
ROUNDS = 20  # of Fisher's scoring
DAMPING = 0.5  # part of a step: limited squares slow the rounds down


def with_star_scatter(samples: PairSamples, fit: LineFit) -> PairSamples | None:
    """Enlarge the variances of stars by the scatter of their residuals.

    Blocks and star cells, of which the bands of the gain are made, have a scatter each. Most
    overlaps show none in their star cells, and then blocks are not looked at; small overlaps have
    no star cells.

    Parameters
    ----------
    samples : PairSamples
        C channels, B blocks.
    fit : LineFit
        Their fit, with terms of the scene.

    Returns
    -------
    PairSamples or None
        None if the residuals show no scatter.
    """
    blocks, rows = len(samples.u), samples.variance.shape[2]
    if blocks == rows:
        return None
    cells, cell_light = slice(blocks, rows), _cell_light(samples, fit)
    of_cells = _squares(samples, fit, cells, cell_light)
    if not of_cells.any():
        return None
    block_light = _block_light(samples, fit)
    of_blocks = _squares(samples, fit, slice(blocks), block_light)
    added = np.concatenate(
        [of_blocks[:, None] * block_light**2, of_cells[:, None] * cell_light**2], axis=1
    )
    added /= 2 * fit.scale[:, None] ** 2
    both = np.stack([added / fit.slope[:, None] ** 2, added])
    return replace(samples, variance=samples.variance + both)


def _squares(samples: PairSamples, fit: LineFit, rows: slice, light: np.ndarray) -> np.ndarray:
    """Return the squared scatter ``(C,)`` of rows with this light ``(C, n)``."""
    x_variance, y_variance = samples.variance[..., rows]
    variance = (y_variance + fit.slope[:, None] ** 2 * x_variance) * fit.scale[:, None] ** 2
    bright = light**2 > BRIGHT**2 * variance
    if not bright.any():
        return np.zeros(len(light))
    residual, instrument = (fit.line @ fit.design[..., rows]).swapaxes(0, 1)
    norm = np.einsum("ck,ck->c", fit.gram[:, Column.INSTRUMENT], fit.line[:, 1])
    leverage = fit.weights[:, rows] * instrument**2 / norm[:, None]
    return np.array([
        star_scatter(*(values[c, chosen] for values in (light, residual, variance, leverage)))
        for c, chosen in enumerate(bright)
    ])  # fmt: skip


def star_scatter(
    light: np.ndarray, residual: np.ndarray, variance: np.ndarray, leverage: np.ndarray
) -> float:
    """Estimate the squared scatter of stars relative to their light.

    Parameters
    ----------
    light, residual, variance : ndarray
        ``(n,)`` light, residual from the line, and variance of the residual by noise, of each star.
    leverage : ndarray
        ``(n,)`` part of the variance that the line takes up.

    Returns
    -------
    float
        0 if there is no evidence of it.
    """
    ratio, free = light**2 / variance, 1 - np.minimum(leverage, 1.0)
    score = float(((residual**2 / variance - free) * ratio).sum())
    if not score > LEAST_EVIDENCE * np.sqrt(2 * float((ratio**2).sum())):
        return 0.0
    square = 0.0
    for _ in range(ROUNDS):
        total = variance + square * light**2
        ratio = light**2 / total
        squares = np.minimum(residual**2 / total, OUTLIER_SQUARE)
        step = float(((squares - free) * ratio).sum() / (ratio**2).sum())
        square = max(square + DAMPING * step, 0.0)
    return square


def _cell_light(samples: PairSamples, fit: LineFit) -> np.ndarray:
    """Return the light ``(C, F)`` of tile j in star cells above the mean of their block."""
    return fit.slope[:, None] * fit.design[:, Column.INSTRUMENT, len(samples.u) :]


def _block_light(samples: PairSamples, fit: LineFit) -> np.ndarray:
    """Return the light ``(C, B)`` of tile j in blocks above the mean of 9 x 9 blocks.

    A nebula is wider and has no such scatter.
    """
    light = fit.slope[:, None] * fit.design[:, Column.INSTRUMENT, : len(samples.u)]
    images = np.zeros((len(light) + 1, samples.frame_shape[0] * samples.frame_shape[1]))
    images[:-1, samples.block_index], images[-1, samples.block_index] = light, 1.0
    images = sum_threes(images.reshape(-1, *samples.frame_shape), 1)
    *sums, count = sum_threes(images, 3).reshape(len(images), -1)[:, samples.block_index]
    return np.asarray(light - np.array(sums) / count)
