"""The data in the report of a run: tiles, pairs, stages and jobs.

A large run has a hundred thousand tiles and a million jobs, so they are in columns; an object is
made of a row when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ..observe.autopsy import Autopsy
from ..observe.replay import RUN_DIED
from ..pipeline.illumination_file import Illumination
from ..runtime.events import Heartbeat, JobEnded, SlowJob

if TYPE_CHECKING:
    from .rows import JobTable, PairTable, TileTable

IN_PROGRESS = "in progress"
RGB = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of a prepared tile on the shared grid of the previews.

    Parameters
    ----------
    x0, y0 : int
        Grid cell of the first cell of the preview.
    centre : list of float
        Centre of the tile in grid cells, ``[x, y]``.
    jacobian : list of list of float
        ``(2, 2)`` derivatives of the grid cell with respect to the pixel x and y of the tile.
    shape : list of int
        Height and width of the tile in pixels.
    scale : float
        Degrees per grid cell.
    thumb : int
        Grid cells along one side of a thumbnail's cell.
    channels : int
        Number of channels.
    origin : list of float
        Right ascension and declination of the origin in degrees; empty in early versions.
    """

    x0: int
    y0: int
    centre: list[float]
    jacobian: list[list[float]]
    shape: list[int]
    scale: float
    thumb: int
    channels: int
    origin: list[float] = field(default_factory=list)

    def corners(self) -> list[list[float]]:
        """Return the ``(4, 2)`` corners of the tile in degrees west and north of the origin."""
        height, width = self.shape
        (xx, xy), (yx, yy) = self.jacobian
        cx, cy = self.centre
        scale, right, top = self.scale, width / 2, height / 2
        corners = ((-right, -top), (right, -top), (right, top), (-right, top))
        return [
            [scale * (cx + xx * x + xy * y), scale * (cy + yx * x + yy * y)] for x, y in corners
        ]


@dataclass(slots=True)
class TileData:
    """One tile; the corrections have one entry per channel and are empty without a solution.

    Parameters
    ----------
    placement : Placement or None
        None if the tile was not prepared.
    failed : str
        Why the tile is unusable; empty if it is usable.
    component : int
        Group of tiles connected by measured pairs; -1 if the tile is in none.
    pairs : int
        Number of its measured pairs.
    suspect : bool
        Whether most of its pairs contradict the others.
    """

    index: int
    name: str
    placement: Placement | None = None
    failed: str = ""
    gain: list[float] = field(default_factory=list)
    gain_err: list[float] = field(default_factory=list)
    offset: list[float] = field(default_factory=list)
    offset_err: list[float] = field(default_factory=list)
    bias: list[float] = field(default_factory=list)
    slope_x: list[float] = field(default_factory=list)
    slope_y: list[float] = field(default_factory=list)
    curve_xx: list[float] = field(default_factory=list)
    curve_xy: list[float] = field(default_factory=list)
    curve_yy: list[float] = field(default_factory=list)
    cubic_xxx: list[float] = field(default_factory=list)
    cubic_xxy: list[float] = field(default_factory=list)
    cubic_xyy: list[float] = field(default_factory=list)
    cubic_yyy: list[float] = field(default_factory=list)
    quartic_xxxx: list[float] = field(default_factory=list)
    quartic_xxxy: list[float] = field(default_factory=list)
    quartic_xxyy: list[float] = field(default_factory=list)
    quartic_xyyy: list[float] = field(default_factory=list)
    quartic_yyyy: list[float] = field(default_factory=list)
    component: int = -1
    pairs: int = 0
    suspect: bool = False

    def corners(self) -> list[list[float]]:
        """Return its corners as `Placement.corners` does; an empty list without a placement."""
        return self.placement.corners() if self.placement else []


@dataclass(frozen=True, slots=True)
class PairResidual:
    """Residuals of a pair in one channel; NaN if the channel has no measurement or solution.

    Parameters
    ----------
    before, after : float
        Absolute level difference before and after correction, in units of the cell noise.
    residual : float
        Level difference after correction in ADU.
    level_err : float
        Standard error of the level difference before correction in ADU.
    level_chi, gain_chi : float
        Residual level difference and residual gain in standard errors.
    """

    before: float = math.nan
    after: float = math.nan
    residual: float = math.nan
    level_err: float = math.nan
    level_chi: float = math.nan
    gain_chi: float = math.nan


@dataclass(frozen=True, slots=True)
class PairData:
    """One pair of tiles.

    Parameters
    ----------
    index : int
        Index of its job, from 1.
    i, j : int
        Indices of its tiles.
    outcome : str
        One of `events.OUTCOMES`, or `IN_PROGRESS` if the run died during its measurement.
    reason : str
        Why it was not measured; empty if it was.
    seconds : float
        Duration of its job.
    residuals : tuple of PairResidual
        One per channel; empty without a result.
    gain_measured : bool
        Whether every measured channel has a measured gain.
    """

    index: int
    i: int
    j: int
    outcome: str
    reason: str
    seconds: float
    residuals: tuple[PairResidual, ...] = ()
    gain_measured: bool = True

    def finite(self, name: str) -> list[float]:
        """Return one field of its residuals, without the channels in which it is NaN."""
        values = (getattr(residual, name) for residual in self.residuals)
        return [value for value in values if math.isfinite(value)]

    @property
    def max_chi(self) -> float:
        """The largest residual in standard errors; NaN without any."""
        chis = [abs(chi) for line in self.residuals for chi in (line.level_chi, line.gain_chi)]
        return max(filter(math.isfinite, chis), default=math.nan)


@dataclass(frozen=True, slots=True)
class StarComparison:
    """The gains of a pair in one channel by its overlap, which may be NaN, and by its stars.

    `pair` is the index of its job, and `i` and `j` are the indices of its tiles.
    """

    pair: int
    i: int
    j: int
    channel: int
    gain: float
    gain_err: float
    star_gain: float
    star_gain_err: float
    stars: int

    @property
    def chi(self) -> float:
        """Difference of the logarithms in standard errors; NaN without a gain by the overlap."""
        if not (self.gain > 0 and self.gain_err > 0):
            return math.nan
        error = math.hypot(self.gain_err / self.gain, self.star_gain_err / self.star_gain)
        return math.log(self.star_gain / self.gain) / error


@dataclass(frozen=True)
class StageTimes:
    """Start and end of a stage in seconds since the start of the run."""

    stage: str
    start: float
    end: float


@dataclass(frozen=True)
class RunData:
    """A run as its report shows it.

    Parameters
    ----------
    stages : list of StageTimes
        In the order of their starts.
    tiles : TileTable
        In the order of the input.
    pairs : PairTable
        In the order of their tiles.
    jobs : JobTable
        All ended jobs of the last run.
    alerts : list of Heartbeat and SlowJob
        In the order of their times.
    solved : bool
        Whether there are corrections.
    unit : str
        Unit of the levels.
    star_gains : list of StarComparison
        Pairs with a gain by their stars; empty if the stars were not measured.
    illuminations : list of Illumination
        One for each instrument with an illumination or a glow.
    """

    autopsy: Autopsy
    tiles: TileTable
    pairs: PairTable
    stages: list[StageTimes]
    jobs: JobTable
    alerts: list[Heartbeat | SlowJob]
    solved: bool
    unit: str = "ADU"
    star_gains: list[StarComparison] = field(default_factory=list)
    illuminations: list[Illumination] = field(default_factory=list)

    def elapsed(self, time_ns: int) -> float:
        """Return a time in seconds since the start of the run."""
        return (time_ns - self.autopsy.started_ns) / 1e9

    def in_unit(self, label: str) -> str:
        """Return the label of an axis or a column with the unit of the levels."""
        return f"{label}, {self.unit}" if self.unit else label

    @property
    def origin(self) -> list[float]:
        """Right ascension and declination of the map's origin in degrees; empty if unknown."""
        origins = self.tiles.place["origin"][self.tiles.is_placed]
        known = np.isfinite(origins).all(axis=1)
        return origins[known.argmax()].tolist() if known.any() else []

    @property
    def matched(self) -> bool:
        """Whether any pair was measured."""
        return bool(self.pairs.measured.any())

    @cached_property
    def n_channels(self) -> int:
        """Number of channels of the tiles; 0 if none was prepared."""
        return int(self.tiles.place["channels"][self.tiles.is_placed].max(initial=0))

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels; three are red, green and blue."""
        count = self.n_channels
        if count == len(RGB):
            return list(RGB)
        return [f"channel {channel}" for channel in range(count)]

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the group of each tile, and the size of each group, the largest first."""
        component = self.tiles.component
        of_any = component >= 0
        _, first, label, size = np.unique(
            component[of_any], return_index=True, return_inverse=True, return_counts=True
        )
        order = np.lexsort([first, -size])
        numbers = np.full(len(component), -1)
        numbers[of_any] = np.argsort(order)[label.ravel()]
        return numbers, size[order]

    @property
    def groups(self) -> list[int]:
        """Sizes of the groups of tiles connected by measured pairs, the largest first."""
        return self._groups[1].tolist()

    @property
    def group_numbers(self) -> list[int]:
        """Number of the group of each tile, in the order of `groups`; -1 for one in none."""
        return self._groups[0].tolist()

    def finite_residuals(self, name: str) -> list[float]:
        """Return one field of the residuals of all pairs and channels, without NaN."""
        values = self.pairs.residuals[name]
        return values[np.isfinite(values)].tolist()


def job_outcome(job: JobEnded) -> str:
    """Return the outcome of a job; `IN_PROGRESS` if it died with its run."""
    return IN_PROGRESS if job.error is not None and job.error.type == RUN_DIED else job.outcome


def job_seconds(job: JobEnded) -> float:
    """Return the duration of a job."""
    return (job.ended_ns - job.started_ns) / 1e9


def finite_median(values: Iterable[float]) -> float:
    """Return the median of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan
