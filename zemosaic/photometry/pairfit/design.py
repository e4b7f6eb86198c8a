"""The design matrix of a pair's fit."""

from __future__ import annotations

import numpy as np

from .. import _kernels
from .._kernels.layout import Column, SampleArrays
from .samples import PairSamples

# Noise of the differences between a block, the means of 3 x 3 and of 9 x 9, and the plane, in units
# of the noise of a block.
DETAIL_NOISE = (0.95, 0.42, 0.14)
# Variances of gradient and Laplacian of a cell, and of a block times the cells along it, in units
# of the variance of the value.
CELL_DERIVATIVE_NOISE, BLOCK_DERIVATIVE_NOISE = (0.5, 11.5), (0.9, 4.5)


def design_matrix(samples: PairSamples, slope: np.ndarray, model: str) -> np.ndarray:
    """Compute the columns x, y, instrument for x, and the nuisance terms.

    Blocks enter by their values, star cells by their differences from their block, which have no
    level. The scene is computed once, with an approximate slope, whose error has an effect of
    second order only. With a level, x and y are counted from their means, or digits would be lost.

    Parameters
    ----------
    samples : PairSamples
        C channels, R samples.
    slope : ndarray
        ``(C,)`` approximate slopes.
    model : {"free", "offset", "held", "gain"}
        "gain" has no nuisance terms.

    Returns
    -------
    ndarray
        ``(C, K, R)`` with K = 3 for "gain", otherwise 12 columns; see `Column`.
    """
    if model == "gain":
        return _plain_design(samples)
    return _kernels.design_matrix(
        samples,
        samples.planes,
        slope,
        detail_noise=DETAIL_NOISE,
        derivative_noise=derivative_noise(samples.side),
    )


def _plain_design(samples: SampleArrays) -> np.ndarray:
    """Return the columns x, y and instrument."""
    (channels, blocks), count = samples.x.shape, samples.variance.shape[-1]
    design = np.zeros((channels, Column.LEVEL, count))
    design[:, Column.X, :blocks], design[:, Column.Y, :blocks] = samples.x, samples.y
    design[:, :2, blocks:] = samples.cell_details[0].swapaxes(0, 1)
    design[:, Column.INSTRUMENT] = design[:, Column.X]
    return design


def derivative_noise(side: int) -> np.ndarray:
    """Return the variances ``(2, 2)`` of gradient and Laplacian, of fit blocks and of cells.

    They are in units of the variance of the value.
    """
    cell = np.array(CELL_DERIVATIVE_NOISE)
    block = cell if side == 1 else np.array(BLOCK_DERIVATIVE_NOISE) / side
    return np.array([block, cell])
