"""Iteratively reweighted least squares: the line of a pair, and the summary of its fit."""

from __future__ import annotations

import numpy as np

from .. import _kernels
from .._kernels.lattice import BandSums
from .._kernels.layout import LineFit
from ..robust import BIWEIGHT
from .samples import PairSamples

ROUNDS = 6  # at most, with Tukey's weights
TOLERANCE = 3e-5  # relative change of the slope; each round leaves about a sixth of the last change
SCALE_TOLERANCE = 0.01  # relative change of the scale of the residuals from a line of fixed slope
# Prior on the difference between two exposures: a shift of a cell in either direction, and a FWHM
# twice as large for the coefficient of the Laplacian. Without it, a scene without stars would leave
# these undetermined, and the level with them. In cells⁻², cells⁻² and cells⁻⁴.
SCENE_INFORMATION = np.array([0.5**-2, 0.5**-2, 0.2**-2])


def fit_irls(
    samples: PairSamples,
    design: np.ndarray,
    slope: np.ndarray,
    fixed_slope: bool,
    once: bool = False,
) -> LineFit:
    """Fit the line of each channel with Tukey's biweight.

    Parameters
    ----------
    samples : PairSamples
        C channels, R samples.
    design : ndarray
        ``(C, K, R)`` as of `design_matrix`.
    slope : ndarray
        ``(C,)`` initial slopes.
    fixed_slope : bool
        Keep the initial slopes.
    once : bool
        Weight the samples by their first residuals alone.
    """
    return _kernels.fit_irls(
        design,
        samples.variance,
        samples.cell_block,
        slope,
        fixed_slope=fixed_slope,
        scene_information=SCENE_INFORMATION,
        biweight=BIWEIGHT,
        rounds=1 if once else ROUNDS,
        tolerance=SCALE_TOLERANCE if fixed_slope else TOLERANCE,
    )


def summarize_fit(samples: PairSamples, fit: LineFit) -> np.ndarray:
    """Return the summary ``(C,)`` of a fit, a record of `FIT_SUMMARY` for each channel."""
    return _kernels.summarize_fit(samples, fit)


def summarize_bands(samples: PairSamples, fit: LineFit) -> BandSums:
    """Return the gain of each channel in bands, and the levels by area."""
    return _kernels.summarize_bands(samples, fit, scene_information=SCENE_INFORMATION)
