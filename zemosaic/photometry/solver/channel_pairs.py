"""The measured pairs of one channel as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from struct import Struct

import numpy as np

from .._kernels.lattice import AREAS as PATCHES
from ..pairfit.measurement import (
    PATCH_CONTRAST,
    PATCH_NUMBERS,
    PATCH_WEIGHT,
    Measurement,
    PairMeasurement,
)
from .bands import combine_bands

#: Part of the patches of an overlap whose excess is alike: a structure that the model leaves out
#: covers some of them.
ALIKE = 0.5
CHUNK = 1024  # pairs read at once
LEVELS = [2, 3, PATCH_WEIGHT, PATCH_CONTRAST]  # numbers of a patch
DISTRUST = 1e3  # factor on the errors of untrusted pairs
# Fields of a `PairMeasurement` that the solver needs, scalars first: name, type, shape.
_COLUMNS = [
    *((name, float, ()) for name in ("gain", "gain_err", "gain_measured", "concentration")),
    *((name, float, ()) for name in ("x", "y", "level_err")),
    *(("shift", float, (2,)), ("shift_err", float, (2,))),
    ("bands", float, (7,)),
    ("patches", float, (PATCHES * PATCH_NUMBERS,)),
]


@dataclass(frozen=True, eq=False)
class ChannelPairs:
    """The measured pairs of one channel, as arrays over the P pairs.

    The fields are as in `PairMeasurement`, with errors that allow for repeated cells. Levels are in
    units of `unit`.

    Parameters
    ----------
    unit : float
        A power of two near the smallest `level_err`, in ADU.
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    slope : ndarray
        ``(P,)`` gain that the levels were weighted with.
    gain, gain_err : ndarray
        ``(P,)`` gain and standard error; a gain is NaN if it was not measured, its error also if
        the gain is not trusted.
    concentration : ndarray
        ``(P,)`` sum of the squared shares of the gain's information.
    x, y, level_err : ndarray
        ``(P,)`` pivot, and standard error of the level at the pivot.
    row : ndarray
        ``(P,)`` int row of `patches` of each pair.
    patches : ndarray
        ``(R, 16, 11)`` numbers of each patch as measured, also of other pairs.
    x_level, y_level : ndarray
        ``(P, 16)`` levels of both tiles in each patch; another patch's for one without data.
    level_var : ndarray
        ``(P, 16)`` variances of ``y_level - slope * x_level``; infinite without data.
    contrast : ndarray
        ``(P, 16)`` share of each patch in the information on the gain.
    shift, shift_err : ndarray
        ``(P, 2)`` shift of the scene in cells; NaN if not measured.
    repetition : ndarray
        ``(P,)`` factor on the variances of gains and levels, since overlaps share sky and tiles.
    alike : ndarray
        ``(P,)`` factor on an excess of levels: patches and pairs in which it is the same.
    trusted : ndarray
        ``(P,)`` bool: pairs with errors as they were measured.
    """

    unit: float
    i: np.ndarray
    j: np.ndarray
    slope: np.ndarray
    gain: np.ndarray
    gain_err: np.ndarray
    concentration: np.ndarray
    x: np.ndarray
    y: np.ndarray
    level_err: np.ndarray
    row: np.ndarray
    patches: np.ndarray
    x_level: np.ndarray
    y_level: np.ndarray
    level_var: np.ndarray
    contrast: np.ndarray
    shift: np.ndarray
    shift_err: np.ndarray
    repetition: np.ndarray
    alike: np.ndarray
    trusted: np.ndarray

    @classmethod
    def of(
        cls,
        i: np.ndarray,
        j: np.ndarray,
        column: np.ndarray,
        repetition: np.ndarray,
    ) -> ChannelPairs:
        """Collect pairs ``(P,)`` with the fields of `PairMeasurement`.

        Their variances grow by the factors `repetition`.
        """
        widening = np.sqrt(repetition)
        unit = _level_unit(column["level_err"])
        patches = column["patches"].reshape(-1, PATCHES, PATCH_NUMBERS)
        x_level, y_level, level_var, contrast = _patch_levels(patches, unit, repetition)
        gains = combine_bands(column["bands"])
        measured, banded = column["gain_measured"] > 0, np.isfinite(gains.gain)
        return cls(
            unit=unit,
            i=i,
            j=j,
            slope=column["gain"],
            gain=np.where(measured, np.where(banded, gains.gain, column["gain"]), np.nan),
            gain_err=np.where(banded, gains.gain_err, column["gain_err"]) * widening,
            concentration=np.where(banded, gains.concentration, column["concentration"]),
            x=column["x"] / unit,
            y=column["y"] / unit,
            level_err=column["level_err"] / unit * widening,
            row=np.arange(len(i)),
            patches=patches,
            x_level=x_level,
            y_level=y_level,
            level_var=level_var,
            contrast=contrast,
            shift=column["shift"],
            shift_err=column["shift_err"],
            repetition=repetition,
            alike=repetition * np.maximum(ALIKE * np.isfinite(level_var).sum(axis=1), 1.0),
            trusted=np.ones(len(i), dtype=bool),
        )

    def places(self, pairs: np.ndarray) -> np.ndarray:
        """Return the mean positions ``(n, 16, 2)`` in cells of the patches of pairs ``(n,)``.

        A patch without data has the position of another one.
        """
        patches = self.patches[self.row[pairs]]
        weight = patches[..., PATCH_WEIGHT]
        return np.stack([_filled(patches[..., k], weight) for k in (0, 1)], axis=-1)

    def extents(self, pairs: np.ndarray) -> np.ndarray:
        """Return the covariances uu, uv and vv ``(n, 16, 3)`` in cells² within the patches."""
        return self.patches[self.row[pairs], :, 4:7]

    def tilts(self, pairs: np.ndarray) -> np.ndarray:
        """Return the covariances ``(n, 16, 2)`` of levels and positions within the patches.

        They are in the levels of tile i, times cells.
        """
        return np.asarray(self.patches[self.row[pairs], :, 9:] / self.unit)

    @property
    def tiles(self) -> np.ndarray:
        """Indices ``(n,)`` of the tiles with a pair."""
        return np.flatnonzero(np.bincount(np.r_[self.i, self.j]))

    def chosen(self, pairs: np.ndarray) -> ChannelPairs:
        """Return some of the pairs, by a boolean or index array."""
        whole = {"unit", "patches"}
        parts = {name: values[pairs] for name, values in vars(self).items() if name not in whole}
        return replace(self, **parts)

    def distrust(self, doubtful: np.ndarray) -> ChannelPairs:
        """Return the pairs without the gains of doubtful ones ``(P,)``.

        Levels of doubtful pairs keep a small weight, in case nothing else joins their tiles.
        """
        factor = np.where(doubtful, DISTRUST, 1.0)
        return replace(
            self,
            gain_err=np.where(doubtful, np.nan, self.gain_err),
            level_err=self.level_err * factor,
            level_var=self.level_var * factor[:, None] ** 2,
            trusted=self.trusted & ~doubtful,
        )


def _patch_levels(patches: np.ndarray, unit: float, repetition: np.ndarray) -> np.ndarray:
    """Return the levels, their variances and the contrast ``(4, P, 16)`` of patches."""
    found = np.empty((4, *patches.shape[:2]))
    for start in range(0, len(patches), CHUNK):
        part = slice(start, start + CHUNK)
        x, y, weight, contrast = np.moveaxis(patches[part], 2, 0)[LEVELS]
        used = weight > 0
        variance = np.where(used, 1 / np.where(used, weight, 1.0), np.inf)
        found[0, part] = _filled(x, weight) / unit
        found[1, part] = _filled(y, weight) / unit
        found[2, part] = variance / unit**2 * repetition[part, None]
        found[3, part] = contrast / np.maximum(contrast.sum(axis=1, keepdims=True), 1e-300)
    return found


def _filled(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return values ``(P, 16)``; a patch without weight has the value of the heaviest."""
    fullest = np.take_along_axis(values, weight.argmax(axis=1)[:, None], axis=1)
    return np.where(weight > 0, values, fullest)


def _level_unit(level_err: np.ndarray) -> float:
    """Return the power of two below the smallest error of a pair; 1 if none is above 0.

    Not below the median, since most pairs may be of tiles in another unit.
    """
    positive = level_err[level_err > 0]
    return float(np.exp2(np.floor(np.log2(positive.min())))) if len(positive) else 1.0


@dataclass(frozen=True, eq=False)
class MeasuredPairs:
    """Which pairs are measured in a channel, and their numbers.

    Parameters
    ----------
    measured : ndarray
        ``(P,)`` bool.
    rows : ndarray
        ``(n,)`` structured array with the fields of `PairMeasurement`, of the measured ones.
    """

    measured: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, measurements: Iterable[Measurement], pairs: int) -> MeasuredPairs:
        """Collect the measurements of all pairs; one object is in memory at a time."""
        measured, rows = np.zeros(pairs, dtype=bool), np.empty(pairs, np.dtype(_COLUMNS))
        numbers = Struct(f"{rows.itemsize // 8}d")  # takes a third of the time of numpy
        memory, place = rows.view(np.uint8).data, 0
        scalars, arrays = (
            attrgetter(*(name for name, _, shape in _COLUMNS if bool(shape) == of_arrays))
            for of_arrays in (False, True)
        )
        for number, line in enumerate(measurements):
            if isinstance(line, PairMeasurement):
                measured[number] = True
                shift, shift_err, bands, patches = arrays(line)
                given = *scalars(line), *shift, *shift_err, *bands, *patches
                numbers.pack_into(memory, place, *given)
                place += numbers.size
        return cls(measured, rows[: place // numbers.size])

    def finite(self) -> MeasuredPairs:
        """Return the pairs with a finite gain, pivot and level error."""
        rows = self.rows
        used = np.isfinite(rows["gain"] + rows["x"] + rows["y"] + rows["level_err"])
        if used.all():
            return self
        measured = self.measured.copy()
        measured[measured] = used
        return MeasuredPairs(measured, rows[used])
