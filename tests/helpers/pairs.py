"""Invented measurements of pairs, for tests of the solver without pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from zemosaic.photometry._kernels.lattice import AREAS
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS, PairMeasurement

#: Places of the patches of `sloping_line` in units of half an overlap, and their half width.
QUARTERS = np.array([(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)])
QUARTER = 0.5


def flatten(patches: np.ndarray) -> tuple[float, ...]:
    """Return patches ``(n, 11)`` as a `PairMeasurement` has them."""
    padded = np.zeros((AREAS, PATCH_NUMBERS))
    padded[: len(patches)] = patches
    return tuple(padded.ravel().tolist())


def patches_of(line: PairMeasurement) -> np.ndarray:
    """Return the patches in use ``(n, 11)``."""
    patches = np.array(line.patches).reshape(AREAS, PATCH_NUMBERS)
    return patches[patches[:, 7] > 0]


def pair_line(
    gain: float,
    x: float,
    y: float,
    gain_err: float = 1e-3,
    level_err: float = 0.1,
    measured: bool = True,
    patches: np.ndarray | None = None,
) -> PairMeasurement:
    """Return the measurement of a pair with a pivot (x, y).

    Parameters
    ----------
    gain, x, y, level_err
        Fields of the measurement.
    gain_err : float
        Relative to the gain.
    measured : bool
        Whether the gain is.
    patches : ndarray, optional
        ``(n, 11)``; one patch of the whole overlap by default.
    """
    if patches is None:
        weight = level_err**-2.0 if level_err > 0 else 1e12
        patches = np.array([(0, 0, x, y, 0, 0, 0, weight, 1, 0, 0)])
    return PairMeasurement(
        gain=gain, gain_err=gain_err * gain if measured else math.nan, offset=y - gain * x,
        x=x, y=y, level_err=level_err, u=0.0, v=0.0, cells=1000, rms=1.0, correlation=0.9,
        gain_measured=measured, patches=flatten(patches),
    )  # fmt: skip


def sloping_patches(
    centre: np.ndarray,
    half: np.ndarray,
    levels: tuple[float, float],
    slopes: tuple[np.ndarray, np.ndarray],
    level_err: float,
) -> np.ndarray:
    """Return the patches ``(4, 11)`` of an overlap in which the tiles differ by a plane.

    Parameters
    ----------
    centre, half : ndarray
        ``(2,)`` middle of the overlap and half its sides, in cells.
    levels : tuple of float
        Levels of both tiles at the middle in ADU.
    slopes : tuple of ndarray
        ``(2,)`` slopes of both in ADU per cell.
    level_err : float
        Standard error of the level of the whole overlap in ADU.
    """
    steps = QUARTERS * half
    x, y = (level + steps @ slope for level, slope in zip(levels, slopes, strict=True))
    patches = np.zeros((len(steps), PATCH_NUMBERS))
    patches[:, :2] = centre + steps
    patches[:, 2], patches[:, 3] = x, y
    patches[:, [4, 6]] = (QUARTER * half) ** 2 / 3
    patches[:, 7], patches[:, 8] = 1 / (len(steps) * level_err**2), 1 / len(steps)
    return patches


def raised(line: PairMeasurement, level: float) -> PairMeasurement:
    """Return the line of a pair whose second tile is brighter by a level in ADU."""
    patches = patches_of(line)
    patches[:, 3] += level
    return replace(line, y=line.y + level, offset=line.offset + level, patches=flatten(patches))


def without_gain(line: PairMeasurement) -> PairMeasurement:
    """Return the line of a pair in which no gain can be measured."""
    return replace(line, gain_err=math.nan, gain_measured=False)


def turned(line: PairMeasurement) -> PairMeasurement:
    """Return the line of the pair with its tiles exchanged."""
    patches = patches_of(line)[:, [0, 1, 3, 2, 4, 5, 6, 7, 8, 9, 10]]
    patches[:, 7] *= line.gain**2
    patches[:, 9:] *= line.gain
    bands = np.array(line.bands)
    bands[[1, 4]] /= bands[[0, 3]] ** 2
    bands[[0, 3]] = 1 / bands[[0, 3]]
    return replace(
        line, gain=1 / line.gain, gain_err=line.gain_err / line.gain**2,
        offset=-line.offset / line.gain, x=line.y, y=line.x, level_err=line.level_err / line.gain,
        patches=flatten(patches), bands=tuple(bands.tolist()),
    )  # fmt: skip
