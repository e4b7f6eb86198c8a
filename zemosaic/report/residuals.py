"""Residuals of a pair: the differences of level and gain after correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .data import PairResidual, TileData


@dataclass(frozen=True)
class PairCorrections:
    """Corrections of the tiles i and j of a pair in one channel.

    Parameters
    ----------
    gain_i, gain_j : float
        Gains of the tiles; NaN without a solution.
    planes : bool
        Whether the tiles are corrected by surfaces as well.
    """

    gain_i: float = math.nan
    gain_j: float = math.nan
    planes: bool = False

    @classmethod
    def of(cls, first: TileData, second: TileData, channel: int) -> PairCorrections:
        """Return the corrections of two tiles in a channel."""
        if channel >= min(len(first.gain), len(second.gain)):
            return cls()
        return cls(first.gain[channel], second.gain[channel], first.has_surface(channel))


def pair_residual(measurement: Any, corrections: PairCorrections, residual: float) -> PairResidual:
    """Return the residuals of a pair in one channel.

    Parameters
    ----------
    measurement : PairMeasurement or Rejected
        Measurement of the pair.
    corrections : PairCorrections
        Corrections of its tiles.
    residual : float
        Level difference after correction in ADU; NaN without a solution.
    """
    if not hasattr(measurement, "gain"):  # rejected
        return PairResidual()
    noise = measurement.rms if measurement.rms > 0 else math.nan
    before = abs(measurement.y - measurement.x) / noise
    if not math.isfinite(residual):
        return PairResidual(before=before, level_err=measurement.level_err)
    return PairResidual(
        before=before,
        after=abs(residual) / (corrections.gain_j * noise),
        residual=residual,
        level_err=measurement.level_err,
        level_chi=_level_chi(residual, corrections.gain_j * measurement.level_err),
        gain_chi=_gain_chi(measurement, corrections),
    )


def _level_chi(residual: float, error: float) -> float:
    """Return the residual level in standard errors; NaN if tiles have no noise."""
    return residual / error if error > 0 else math.nan


def _gain_chi(measurement: Any, corrections: PairCorrections) -> float:
    """Return the residual gain in standard errors; NaN if the gain was not measured."""
    gain, error = measurement.gain, measurement.gain_err
    if not (measurement.gain_measured and gain > 0 and error > 0):
        return math.nan
    log_residual = math.log(gain) - math.log(corrections.gain_i / corrections.gain_j)
    return log_residual / (error / gain)
