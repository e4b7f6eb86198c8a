"""Residuals of a pair: the differences of level and gain after correction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .data import PairResidual, TileData
from .shorten import PairLine


@dataclass(frozen=True)
class PairCorrections:
    """Corrections of the tiles i and j of a pair in one channel.

    Parameters
    ----------
    gain_i, gain_j : float
        Gains of the tiles; NaN without a solution.
    """

    gain_i: float = math.nan
    gain_j: float = math.nan

    @classmethod
    def of(cls, first: TileData, second: TileData, channel: int) -> PairCorrections:
        """Return the corrections of two tiles in a channel."""
        if channel >= min(len(first.gain), len(second.gain)):
            return cls()
        return cls(first.gain[channel], second.gain[channel])


def pair_residual(
    line: PairLine | None, corrections: PairCorrections, residual: float
) -> PairResidual:
    """Return the residuals of a pair in one channel.

    Parameters
    ----------
    line : PairLine or None
        Measurement of the pair; None if it was rejected.
    corrections : PairCorrections
        Corrections of its tiles.
    residual : float
        Level difference after correction in ADU; NaN without a solution.
    """
    if line is None:
        return PairResidual()
    noise = line.rms if line.rms > 0 else math.nan
    before = abs(line.y - line.x) / noise
    if not math.isfinite(residual):
        return PairResidual(before=before, level_err=line.level_err)
    return PairResidual(
        before=before,
        after=abs(residual) / (corrections.gain_j * noise),
        residual=residual,
        level_err=line.level_err,
        level_chi=_level_chi(residual, corrections.gain_j * line.level_err),
        gain_chi=_gain_chi(line, corrections),
    )


def _level_chi(residual: float, error: float) -> float:
    """Return the residual level in standard errors; NaN if tiles have no noise."""
    return residual / error if error > 0 else math.nan


def _gain_chi(line: PairLine, corrections: PairCorrections) -> float:
    """Return the residual gain in standard errors; NaN if the gain was not measured."""
    gain, error = line.gain, line.gain_err
    if not (line.gain_measured and gain > 0 and error > 0):
        return math.nan
    log_residual = math.log(gain) - math.log(corrections.gain_i / corrections.gain_j)
    return log_residual / (error / gain)
