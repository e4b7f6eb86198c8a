"""Two previews -> the straight line between them, channel by channel.

The model is y = a·x + b + nuisance between the cells x of tile i and y of tile j. Both are
noisy, so the slope is York's (1966, Can. J. Phys. 44, 1079; unified in York et al. 2004, Am. J.
Phys. 72, 367): the true point of each cell lies where the line comes nearest in units of both
errors. The nuisance terms are what two exposures of one sky differ by besides gain and offset:

- the Laplacian and the gradient of the common scene: another seeing and a small shift, to first
  order (they move light between neighbouring cells and would bend the line at every star);
- a smooth difference across the overlap, up to the second order: another sky gradient. The slope
  is given without and with it, and the solver chooses, since it costs precision where there is
  no gradient.

The scene that these terms are made of is the weighted mean of both tiles whose noise is
uncorrelated with the residual, and it serves as the instrument for the noisy x, so that noise
bends nothing. Cells far from the line lose their weight (Tukey's biweight): trails, saturated
stars, variable ones. Cells are chosen by where they are and whether they are valid, never by
their noisy values. Swapping the tiles turns a into 1/a and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zemosaic.photometry.cells import Rows, common_rows
from zemosaic.photometry.preview import Preview

MIN_OVERLAP_CELLS = 25  # below this a robust scale means nothing


@dataclass(frozen=True)
class PairMeasurement:
    """The line y = gain·x + offset of one channel of one pair.

    Parameters
    ----------
    gain, gain_err : float
        Slope without a plane and its standard error; 1 and NaN where `gain_measured` is false.
    plane_gain, plane_gain_err : float
        The same with a plane taken out of the overlap; NaN where that was not measurable.
    offset : float
        Intercept in ADU of the line without a plane.
    x, y : float
        The pivot in ADU: weighted means of both tiles, where slope and level are uncorrelated.
    level_err : float
        Standard error in ADU of ``y - gain * x`` at the pivot.
    u, v : float
        The pivot's place on the shared grid, in cells.
    x_tilt, y_tilt : tuple of float
        Slopes of both tiles along the grid's two axes, in ADU per cell.
    tilt_cov : tuple of float
        Covariance (uu, uv, vv) of ``y_tilt - gain * x_tilt`` in (ADU per cell)².
    cells : int
        Common valid cells.
    rms : float
        Robust scatter about the line in ADU of tile j.
    correlation : float
        Weighted correlation of the cells.
    gain_measured : bool
        False where the overlap holds too little contrast, or the model has no free gain.
    """

    gain: float
    gain_err: float
    plane_gain: float
    plane_gain_err: float
    offset: float
    x: float
    y: float
    level_err: float
    u: float
    v: float
    x_tilt: tuple[float, float]
    y_tilt: tuple[float, float]
    tilt_cov: tuple[float, float, float]
    cells: int
    rms: float
    correlation: float
    gain_measured: bool


@dataclass(frozen=True)
class Rejected:
    """Why a pair could not be measured in a channel, in words."""

    reason: str


Measurement = PairMeasurement | Rejected


def measure_pair(
    first: Preview, second: Preview, model: str = "gain+offset"
) -> tuple[Measurement, ...]:
    """Measure every channel of a pair on its common valid cells.

    Parameters
    ----------
    first, second : Preview
        On the same grid and with the same channels.
    model : str
        One of `zemosaic.settings.MODELS`: those without a free gain hold the slope at 1,
        "gain" holds the intercept at 0.

    Returns
    -------
    tuple of PairMeasurement or Rejected
        One for each channel.
    """
    channels = common_rows(first, second)
    if channels is None:
        return (Rejected("no common cells"),) * len(first.values)
    corner = max(first.x0, second.x0), max(first.y0, second.y0)
    return tuple(_measure_channel(rows, model, corner) for rows in channels)


def _measure_channel(rows: Rows, model: str, corner: tuple[int, int]) -> Measurement:
    from zemosaic.photometry.kernels import FREE, HELD, THROUGH_ZERO, fitted

    if rows.cells < MIN_OVERLAP_CELLS:
        return Rejected(f"only {rows.cells} common cells")
    if model == "gain":
        found = fitted(*rows, THROUGH_ZERO)
        if not len(found):
            return Rejected("no signal to measure a gain by")
    else:
        found = fitted(*rows, FREE) if not model.startswith("offset") else ()
        found = found if len(found) else fitted(*rows, HELD)
        if not len(found):
            return Rejected("no signal in common")
    (gain, gain_err, plane_gain, plane_gain_err, x, y, level_err, u, v,
     xu, xv, yu, yv, uu, uv, vv, rms, correlation) = map(float, found)  # fmt: skip
    known = bool(np.isfinite(gain))
    gain = gain if known else 1.0
    return PairMeasurement(
        gain=gain,
        gain_err=gain_err,
        plane_gain=plane_gain,
        plane_gain_err=plane_gain_err,
        offset=y - gain * x if model != "gain" else 0.0,
        x=x,
        y=y,
        level_err=level_err,
        u=u + corner[0],
        v=v + corner[1],
        x_tilt=(xu, xv),
        y_tilt=(yu, yv),
        tilt_cov=(uu, uv, vv),
        cells=rows.cells,
        rms=rms,
        correlation=correlation,
        gain_measured=known,
    )
