"""The slope from which the fit of a pair starts: robust, and without nuisance terms."""

from __future__ import annotations

import numpy as np

from .. import _kernels
from ..robust import HUBER
from .samples import PairSamples

ROUNDS = 5  # at most, with Huber's weights, which do not reject good bright cells
TOLERANCE = 2e-3  # relative change of the slope that ends them
BRIGHT_QUANTILE = 0.995  # its distance from the median gives a first slope
OUTLIER_LIMIT = 6.0  # standard deviations: residuals beyond count as much when lines are compared


def initial_slope(samples: PairSamples) -> np.ndarray:
    """Fit robust lines without nuisance terms through the flattened blocks.

    A robust fit converges to the line next to its start: where most samples are clouds and a few
    stars hold most of the light, either may look like outliers to the other. The fit therefore
    starts from both. The initial lines remain candidates, because the rounds only do harm where
    light is cut off in one tile and a trail crosses the other.

    Returns
    -------
    ndarray
        ``(C,)``; NaN if there is no line.
    """
    return _kernels.initial_slope(
        samples,
        samples.planes,
        bright_quantile=BRIGHT_QUANTILE,
        huber=HUBER,
        rounds=ROUNDS,
        tolerance=TOLERANCE,
        outlier_limit=OUTLIER_LIMIT,
    )
