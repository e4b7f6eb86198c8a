"""The measurement of one channel of a pair, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

# Fields that every measurement has; the others may be NaN, but not infinite.
REQUIRED = (
    "gain", "offset", "x", "y", "level_err", "u", "v", "rms",
    "correlation", "concentration", "patches",
)  # fmt: skip
#: Numbers of a patch in `PairMeasurement.patches`, and which of them are its weight and contrast.
PATCH_NUMBERS, PATCH_WEIGHT, PATCH_CONTRAST = 11, 7, 8


@dataclass(frozen=True)
class PairMeasurement:
    """The line y = gain·x + offset of one channel of one pair.

    Parameters
    ----------
    gain, gain_err : float
        Slope of the contrast within patches and its standard error; 1 and NaN if `gain_measured`
        is false.
    offset : float
        Intercept in ADU of the line through the pivot.
    x, y : float
        The pivot in ADU: weighted means of both tiles, of all blocks.
    level_err : float
        Standard error in ADU of ``y - gain * x`` at the pivot.
    u, v : float
        Position of the pivot on the shared grid, in cells.
    cells : int
        Common valid cells.
    rms : float
        Robust scatter about the line in ADU of tile j.
    correlation : float
        Weighted correlation of the cells.
    gain_measured : bool
        False if the overlap has too little contrast, or the model has no free gain.
    shift, shift_err : tuple of float
        Position of the scene of tile j relative to tile i along the grid's two axes, in cells, to
        first order (a tenth too large at a third of a cell, too small beyond half a cell), and the
        standard errors due to noise alone; NaN for lines without an intercept.
    free_gain, free_gain_err : float
        In a model with the gains held at 1, the gain shown by the pair nevertheless; NaN in
        other models and without contrast.
    concentration : float
        Sum of the squares of the shares of single patches of 12 cells in the information on the
        gain: 1 if it depends on one star, 1 / n if n patches contribute alike.
    bands : tuple of float
        Gain, standard error and concentration of contrast within 16 px, the same of contrast
        between these and within the patches, and the sum of the products of the shares of single
        patches of 12 cells in both. Gain and error are NaN if a band shows none.
    patches : tuple of float
        u, v, x, y, uu, uv, vv, weight, contrast, xu and xv of up to 16 patches of the overlap, one
        after the other; 0 for unused ones. u and v (cells on the shared grid), x and y (ADU)
        are weighted means over the blocks, uu, uv and vv (cells²) the covariances of the
        positions of their cells, the weight (ADU⁻²) is the inverse variance of ``y - gain * x``,
        the contrast is the share of the patch in the information on the gain, and xu and xv
        (ADU of tile i times cells) are the covariances of the levels with the positions, averaged
        over both tiles.
    """

    gain: float
    gain_err: float
    offset: float
    x: float
    y: float
    level_err: float
    u: float
    v: float
    cells: int
    rms: float
    correlation: float
    gain_measured: bool
    shift: tuple[float, float] = (math.nan, math.nan)
    shift_err: tuple[float, float] = (math.nan, math.nan)
    free_gain: float = math.nan
    free_gain_err: float = math.nan
    concentration: float = 1.0
    bands: Annotated[tuple[float, ...], 7] = (math.nan, math.nan, 1.0, math.nan, math.nan, 1.0, 0.0)
    patches: Annotated[tuple[float, ...], 176] = (0.0,) * 176


@dataclass(frozen=True)
class Rejected:
    """The reason why a pair could not be measured in a channel."""

    reason: str


Measurement = PairMeasurement | Rejected


def require_finite(measurement: Measurement) -> Measurement:
    """Return a measurement, or reject it if a number in it is not finite.

    Values that one tile cannot hold beside the others, as after a broken copy, overflow.
    """
    if isinstance(measurement, Rejected):
        return measurement
    for name, value in vars(measurement).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if math.isfinite(sum(numbers)):
            continue
        for number in numbers:
            if math.isinf(number) or (math.isnan(number) and name in REQUIRED):
                return Rejected(f"the values overflow (its {name} is {number})")
    return measurement
