"""Tiles, pairs and jobs of a run in columns, with objects of the rows that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import numpy as np

from ..pipeline.tables import SURFACE_POWERS
from ..runtime.events import JobEnded
from ..runtime.job_columns import JobColumns
from .data import PairData, PairResidual, Placement, TileData

Row = TypeVar("Row")
CORRECTION = ("gain", "gain_err", "offset", "offset_err", "bias", *SURFACE_POWERS)
RESIDUALS = tuple(item.name for item in fields(PairResidual))
#: Fields of a `Placement` for numpy.
PLACEMENT = np.dtype(
    [("x0", int), ("y0", int), ("centre", float, 2), ("jacobian", float, (2, 2)),
     ("shape", int, 2), ("scale", float), ("thumb", int), ("channels", int), ("origin", float, 2)]
)  # fmt: skip


class Rows(Generic[Row]):
    """Rows of columns as objects, made when they are asked for."""

    def row(self, number: int) -> Row:
        """Return an object of the row."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self.row(k) for k in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self.row(int(number) % len(self))

    def __iter__(self) -> Iterator[Row]:
        return map(self.row, range(len(self)))


def place_row(result: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return a journalled tile as a row of `PLACEMENT`; None if an early version left fields out.

    The origin is NaN if it is unknown.
    """
    origin = result.get("origin") or (np.nan, np.nan)
    try:
        named = {**result, "channels": len(result["sky"]), "origin": origin}
        return tuple(named[name] for name in PLACEMENT.names or ())
    except (KeyError, TypeError):
        return None


@dataclass(eq=False)
class TileTable(Rows[TileData]):
    """All T tiles in input order.

    Parameters
    ----------
    names : list of str
        Names of the tiles.
    failed : dict
        Why tiles are unusable, by index.
    is_placed : ndarray
        ``(T,)`` whether a tile was prepared.
    place : ndarray
        ``(T,)`` of `PLACEMENT`.
    corrections : dict
        By the names of `CORRECTION`, ``(T, C)``; empty without a solution.
    component, pairs, suspect : ndarray
        ``(T,)``, see `TileData`.
    """

    names: list[str]
    failed: dict[int, str]
    is_placed: np.ndarray
    place: np.ndarray
    component: np.ndarray
    pairs: np.ndarray
    suspect: np.ndarray
    corrections: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, number: int) -> TileData:
        """Return a tile."""
        values = {name: column[number].tolist() for name, column in self.corrections.items()}
        return TileData(
            number,
            self.names[number],
            self._placement(number) if self.is_placed[number] else None,
            self.failed.get(number, ""),
            **values,
            component=int(self.component[number]),
            pairs=int(self.pairs[number]),
            suspect=bool(self.suspect[number]),
        )

    def _placement(self, number: int) -> Placement:
        values = {name: self.place[name][number].tolist() for name in PLACEMENT.names or ()}
        if values["origin"][0] != values["origin"][0]:
            values["origin"] = []
        return Placement(**values)

    def corners(self) -> np.ndarray:
        """Return the corners ``(N, 4, 2)`` of the placed tiles as `Placement.corners` does."""
        place = self.place[self.is_placed]
        height, width = place["shape"].T[..., None] / 2
        x, y = width * (-1, 1, 1, -1), height * (-1, -1, 1, 1)
        jacobian, centre = place["jacobian"][..., None], place["centre"][..., None]
        scale = place["scale"][:, None]
        return np.stack(
            [
                scale * (centre[:, k] + jacobian[:, k, 0] * x + jacobian[:, k, 1] * y)
                for k in (0, 1)
            ],
            axis=-1,
        )

    @property
    def has_surfaces(self) -> bool:
        """Whether any correction has a surface."""
        return any(self.corrections[name].any() for name in SURFACE_POWERS if self.corrections)


@dataclass(eq=False)
class PairTable(Rows[PairData]):
    """All P pairs, ordered by their tiles.

    Parameters
    ----------
    index, i, j : ndarray
        ``(P,)`` number of the job, and indices of the tiles.
    outcome : ndarray
        ``(P,)`` texts, see `PairData`.
    seconds : ndarray
        ``(P,)`` duration.
    gain_measured : ndarray
        ``(P,)`` bool, see `PairData`.
    reasons : dict
        Why pairs were not measured, by row.
    residuals : dict
        By the fields of `PairResidual`, ``(P, C)``.
    """

    index: np.ndarray
    i: np.ndarray
    j: np.ndarray
    outcome: np.ndarray
    seconds: np.ndarray
    gain_measured: np.ndarray
    reasons: dict[int, str]
    residuals: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.index)

    def row(self, number: int) -> PairData:
        """Return a pair."""
        lines = zip(*(self.residuals[name][number].tolist() for name in RESIDUALS), strict=True)
        return PairData(
            index=int(self.index[number]),
            i=int(self.i[number]),
            j=int(self.j[number]),
            outcome=str(self.outcome[number]),
            reason=self.reasons.get(number, ""),
            seconds=float(self.seconds[number]),
            residuals=tuple(PairResidual(*line) for line in lines),
            gain_measured=bool(self.gain_measured[number]),
        )

    def count(self, outcome: Any) -> int:
        """Return the number of pairs with an outcome."""
        return int(np.count_nonzero(self.outcome == outcome))

    @property
    def measured(self) -> np.ndarray:
        """Whether each pair ``(P,)`` was measured."""
        return self.outcome == "measured"

    def largest(self, *names: str) -> np.ndarray:
        """Return the largest absolute residual ``(P,)`` of some kinds; NaN without any."""
        values = np.concatenate([np.abs(self.residuals[name]) for name in names], axis=1)
        values[~np.isfinite(values)] = np.nan
        return np.fmax.reduce(values, axis=1, initial=np.nan)

    @property
    def max_chi(self) -> np.ndarray:
        """The largest residual ``(P,)`` in standard errors; NaN without any."""
        return self.largest("level_chi", "gain_chi")


@dataclass(eq=False)
class JobTable(Rows[JobEnded]):
    """All N ended jobs of a run.

    Parameters
    ----------
    columns : JobColumns
        Jobs in the journal.
    died : list of JobEnded
        Jobs that died with the run, after the others.
    i, j : ndarray
        ``(N,)`` index of the tile of a job, or the indices of the tiles of a pair; -1 without any.
    stage, outcome : ndarray
        ``(N,)`` texts.
    index, pid, started_ns, ended_ns : ndarray
        ``(N,)``, see `JobEnded`.
    """

    columns: JobColumns
    died: list[JobEnded]
    i: np.ndarray
    j: np.ndarray
    stage: np.ndarray
    outcome: np.ndarray
    index: np.ndarray
    pid: np.ndarray
    started_ns: np.ndarray
    ended_ns: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def row(self, number: int) -> JobEnded:
        """Return a job, read from the journal again."""
        known = len(self.columns)
        return self.columns.read(number) if number < known else self.died[number - known]

    @property
    def seconds(self) -> np.ndarray:
        """Duration of each job ``(N,)``."""
        return (self.ended_ns - self.started_ns) / 1e9
