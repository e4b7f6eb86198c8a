"""One channel of a mosaic: its tiles, its measured pairs, and the model to fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TypeGuard

import numpy as np

from ..pairfit.measurement import Measurement, PairMeasurement
from .ties import Ties

# Largest mosaic that is solved for gains and levels together, for the positions of its tiles and
# for slopes in the plane test. Twice the unknowns take several times as long, and a larger mosaic
# has enough pairs without.
MOST_TILES = 5_000
DISTRUST = 1e3  # factor on the errors of pairs that are not trusted
# Fields of a `PairMeasurement` that the solver needs: name, type, shape.
_COLUMNS = [
    *((name, float, ()) for name in ("gain", "gain_err", "gain_measured", "x", "y", "level_err")),
    *((name, float, ()) for name in ("plane_gain", "plane_gain_err", "u", "v")),
    *(("x_tilt", float, (2,)), ("y_tilt", float, (2,)), ("tilt_cov", float, (3,))),
    *(("shift", float, (2,)), ("shift_err", float, (2,))),
]


@dataclass(frozen=True, eq=False)
class TileFrame:
    """Positions of the tiles on the shared grid; needed to fit planes.

    Parameters
    ----------
    centre : ndarray
        ``(T, 2)`` float64: centre of each tile in cells of the grid.
    jacobian : ndarray
        ``(T, 2, 2)`` float64: change of the grid position (cells) with the tile's pixel x, y.
    """

    centre: np.ndarray
    jacobian: np.ndarray


@dataclass(frozen=True, eq=False)
class ChannelPairs:
    """The measured pairs of one channel, as arrays over the P pairs.

    The fields are those of `PairMeasurement`, with errors that allow for repeated cells. Levels
    are in units of `unit`.

    Parameters
    ----------
    unit : float
        A power of two near the smallest `level_err`, in ADU.
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    gain, gain_err, plane_gain, plane_gain_err : ndarray
        ``(P,)`` slope of the line without and with a plane, and standard errors; a gain is NaN
        if it was not measured, its error also if the gain is not trusted.
    x, y, level_err : ndarray
        ``(P,)`` pivot, and standard error of the level at the pivot.
    pivot : ndarray
        ``(P, 2)`` position of the pivot in cells.
    x_tilt, y_tilt : ndarray
        ``(P, 2)`` slopes of both tiles per cell.
    tilt_cov : ndarray
        ``(P, 2, 2)`` covariance of ``y_tilt - gain * x_tilt``; infinite if not measured.
    shift, shift_err : ndarray
        ``(P, 2)`` shift of the scene in cells; NaN if not measured.
    """

    unit: float
    i: np.ndarray
    j: np.ndarray
    gain: np.ndarray
    gain_err: np.ndarray
    plane_gain: np.ndarray
    plane_gain_err: np.ndarray
    x: np.ndarray
    y: np.ndarray
    level_err: np.ndarray
    pivot: np.ndarray
    x_tilt: np.ndarray
    y_tilt: np.ndarray
    tilt_cov: np.ndarray
    shift: np.ndarray
    shift_err: np.ndarray

    @classmethod
    def of(
        cls,
        i: np.ndarray,
        j: np.ndarray,
        lines: Sequence[PairMeasurement],
        repetition: np.ndarray,
    ) -> ChannelPairs:
        """Collect pairs whose variances grow by the factors `repetition` ``(P,)``."""
        row = attrgetter(*(name for name, *_ in _COLUMNS))
        column = np.fromiter((row(line) for line in lines), np.dtype(_COLUMNS), len(lines))
        widening = np.sqrt(repetition)
        unit = _level_unit(column["level_err"])
        covariance = column["tilt_cov"][:, [0, 1, 1, 2]].reshape(-1, 2, 2)
        return cls(
            unit=unit,
            i=i,
            j=j,
            gain=np.where(column["gain_measured"] > 0, column["gain"], np.nan),
            gain_err=column["gain_err"] * widening,
            plane_gain=column["plane_gain"],
            plane_gain_err=column["plane_gain_err"] * widening,
            x=column["x"] / unit,
            y=column["y"] / unit,
            level_err=column["level_err"] / unit * widening,
            pivot=np.stack([column["u"], column["v"]], axis=1),
            x_tilt=column["x_tilt"] / unit,
            y_tilt=column["y_tilt"] / unit,
            tilt_cov=covariance / unit / unit * widening[:, None, None] ** 2,
            shift=column["shift"],
            shift_err=column["shift_err"],
        )

    def distrust(self, doubtful: np.ndarray) -> ChannelPairs:
        """Return the pairs without the gains of doubtful ones ``(P,)``.

        The levels of those keep a small weight, in case nothing else joins their tiles.
        """
        factor = np.where(doubtful, DISTRUST, 1.0)
        return replace(
            self,
            gain_err=np.where(doubtful, np.nan, self.gain_err),
            plane_gain_err=np.where(doubtful, np.nan, self.plane_gain_err),
            level_err=self.level_err * factor,
            tilt_cov=self.tilt_cov * factor[:, None, None] ** 2,
        )


def _level_unit(level_err: np.ndarray) -> float:
    """Return the power of two below the smallest error of a pair; 1 if none is above 0.

    Not below the median, since most pairs may be those of tiles in another unit.
    """
    positive = level_err[level_err > 0]
    return float(np.exp2(np.floor(np.log2(positive.min())))) if len(positive) else 1.0


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of a mosaic, ready to be solved.

    Levels are in units of the smallest error of a pair (``pairs.unit``), so that the solution does
    not depend on the unit of the tiles.

    Parameters
    ----------
    sky : ndarray
        ``(T,)`` sky level of each tile; NaN for a tile that could not be read.
    measured : ndarray
        Bool over all pairs of the mosaic: those with a measurement in this channel.
    pairs : ChannelPairs
        The measured pairs, P of them.
    model : str
        One of `zemosaic.settings.MODELS`.
    anchor : int or None
        The tile that keeps gain 1 and offset 0 in its component.
    frame : TileFrame or None
        Without it there are no planes.
    ties : Ties
        Groups of tiles that share a gain or a level.
    """

    sky: np.ndarray
    measured: np.ndarray
    pairs: ChannelPairs
    model: str
    anchor: int | None
    frame: TileFrame | None
    ties: Ties

    @classmethod
    def of(
        cls,
        i: np.ndarray,
        j: np.ndarray,
        measurements: Sequence[Measurement],
        repetition: np.ndarray,
        *,
        sky: np.ndarray,
        model: str,
        anchor: int | None,
        frame: TileFrame | None,
        ties: Ties | None = None,
    ) -> Channel:
        """Collect the measurements of all pairs ``(i, j)``; see `solve`."""
        lines = [line for line in measurements if _is_measured(line)]
        measured = np.array([_is_measured(line) for line in measurements], dtype=bool)
        pairs = ChannelPairs.of(
            np.asarray(i)[measured], np.asarray(j)[measured], lines, repetition[measured]
        )
        ties = ties or Ties.none(len(sky))
        return cls(sky / pairs.unit, measured, pairs, model, anchor, frame, ties)

    @property
    def tiles(self) -> int:
        """Number of tiles T."""
        return len(self.sky)

    @cached_property
    def component(self) -> np.ndarray:
        """Label ``(T,)`` of the component of each tile, joined by measured pairs or its level."""
        return self.ties.level_components(self.pairs.i, self.pairs.j)

    @property
    def gains_are_free(self) -> bool:
        """Whether the model has gains other than 1."""
        return not self.model.startswith("offset")

    @property
    def mixed_gains(self) -> np.ndarray:
        """Whether each tile ``(T,)`` shares its level with tiles of other gains."""
        return self.ties.mixed_gains & self.gains_are_free

    @property
    def offsets_are_free(self) -> bool:
        """Whether the model has offsets other than 0."""
        return self.model != "gain"


def _is_measured(line: Measurement) -> TypeGuard[PairMeasurement]:
    """Whether a channel of a pair has a measurement, of finite numbers."""
    return isinstance(line, PairMeasurement) and math.isfinite(
        line.gain + line.x + line.y + line.level_err
    )


def spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Spread float values of the chosen entries over an array of all, with NaN elsewhere.

    Parameters
    ----------
    values : ndarray
        ``(n,)`` float64.
    chosen : ndarray
        ``(N,)`` bool with n true entries.

    Returns
    -------
    ndarray
        ``(N,)`` float64.
    """
    complete = np.full(len(chosen), np.nan)
    complete[chosen] = values
    return complete
