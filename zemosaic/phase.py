"""The intertile calibration phase: the wings composed, top to bottom.

tiles -> prepare (scan, then one preview per tile) -> overlap -> pairs -> solve -> apply
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zemosaic.errors import UserError
from zemosaic.jobs import (
    PairRecord,
    TileLike,
    describe,
    measure,
    prepare,
    preview_path,
    reason,
    record,
    scan,
    tile_name,
)
from zemosaic.photometry.apply import write_corrected
from zemosaic.photometry.overlap import OverlapGraph, find_overlaps, prune, repetition
from zemosaic.photometry.preview import Preview, make_grid
from zemosaic.photometry.solve import Solution, TileFrame, solve
from zemosaic.photometry.tiles import Tile
from zemosaic.runtime.events import (
    FanOut,
    Note,
    Observer,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.pool import Pool, SerialPool, make_pool
from zemosaic.runtime.schedule import Clock, Job, Outcome, run
from zemosaic.settings import Settings


class NoSolution(UserError):  # noqa: N818 - it names the result, not a fault
    """There is nothing to solve; the message says why in one line."""


@dataclass(frozen=True, eq=False)
class PhaseSolution(Solution):
    """A `Solution`, and what became of every tile and pair.

    Parameters
    ----------
    settings : Settings
        As asked for.
    names : tuple of str
        Base name of each tile.
    failed : dict
        Why a tile could not be used (or not be written corrected), by its index.
    records : tuple of PairRecord
        All pairs, in order.
    candidates : int
        Overlapping pairs before pruning.
    """

    settings: Settings
    names: tuple[str, ...]
    failed: dict[int, str]
    records: tuple[PairRecord, ...]
    candidates: int

    @property
    def groups(self) -> int:
        """Connected components, tiles that stand alone included."""
        return len(np.unique(self.component[self.component[:, 0] >= 0, 0]))

    @property
    def suspects(self) -> list[int]:
        """Tiles most of whose pairs contradict the others, in any channel."""
        return [int(index) for index in np.flatnonzero(self.suspect.any(axis=1))]

    def model_line(self) -> str:
        """Which model the groups of tiles got, and why, in a few words."""
        if self.settings.model != "auto":
            return self.settings.model
        lines = []
        for name, planes in (("gain+offset", False), ("gain+plane", True)):
            chosen = (self.planes == planes) & (self.pairs > 0)
            if chosen.any():
                chi2 = self.plane_chi2[chosen]
                known = chi2[np.isfinite(chi2)]
                why = "too few pairs to tell"
                if len(known):
                    why = f"the pairs' planes have chi² {np.median(known):.1f}, 1.4 is chance"
                groups = len(np.unique(self.component[chosen]))
                where = f" in {groups} group{'s' if groups != 1 else ''}"
                lines.append(f"{name}{where} ({why})")
        return "; ".join(lines) or "none"

    @property
    def rms(self) -> float:
        """Root mean square of the level residuals of all pairs in ADU; 0 without pairs."""
        known = self.residual[np.isfinite(self.residual)]
        return float(np.sqrt(np.mean(known**2))) if len(known) else 0.0


def calibrate(
    tiles: Iterable[TileLike],
    settings: Settings | None = None,
    pool: str | Executor | Pool = "processes",
    observers: Iterable[Observer] | None = None,
    *,
    apply_to: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    clock: Clock | None = None,
) -> PhaseSolution:
    """Find one gain and one offset per tile and channel, so that overlaps agree.

    Parameters
    ----------
    tiles : iterable
        FITS files, ``(array, wcs)`` or ``(array, wcs, mask)`` tuples (true in the mask: bad),
        or `Tile` objects; at least two. Arrays are ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``
        in ADU; NaN is "no datum".
    settings : Settings, optional
        What to do.
    pool : {"processes", "threads", "serial"}, Executor or Pool
        Where to do it. With processes a job that hangs or crashes costs itself alone; a script
        then needs the usual ``if __name__ == "__main__":``. What is given is left open.
    observers : iterable of Observer, optional
        Told of everything that happens. By default spans are made with the tracer provider
        that the application has set.
    apply_to : path-like, optional
        Folder for the corrected tiles; those given as arrays are not written.
    scratch : path-like, optional
        Folder in which previews are kept during the run; by default a temporary one.
    clock : Clock, optional
        Where the scheduler's time comes from.

    Returns
    -------
    PhaseSolution
        A tile that could not be read has NaN; one that overlaps no other has gain 1, offset 0.

    Raises
    ------
    NoSolution
        Fewer than two tiles were given or could be read.
    UserError
        A setting makes no sense.
    """
    if observers is None:
        from zemosaic.observe.telemetry import Telemetry

        observers = [Telemetry()]
    settings = settings or Settings()
    given = list(tiles)
    if settings.anchor is not None and not 0 <= settings.anchor < len(given):
        raise UserError(f"anchor is {settings.anchor}; there are tiles 0 to {len(given) - 1}")
    fan_out = FanOut(observers)
    workers = make_pool(pool, settings.worker_count)
    phase = _Phase(settings, workers, fan_out, clock or Clock())
    attributes = {
        "tiles.total": len(given),
        "pool.kind": workers.kind,
        "pool.workers": workers.workers,
    }
    fan_out.emit(RunStarted(run_id=uuid.uuid4().hex, time_ns=time.time_ns(), attributes=attributes))
    state: str = "failed"
    failure: BaseException | None = None
    try:
        with tempfile.TemporaryDirectory(
            prefix="zemosaic-", dir=scratch, ignore_cleanup_errors=True
        ) as folder:
            solution = phase.run(given, Path(folder), apply_to)
        state = "finished"
        return solution
    except (KeyboardInterrupt, SystemExit) as error:
        state, failure = "interrupted", error
        raise
    except BaseException as error:
        failure = error
        raise
    finally:
        if workers is not pool:
            workers.close()
        fan_out.emit(RunEnded(state=state, time_ns=time.time_ns(), error=failure))


@dataclass(frozen=True)
class _Phase:
    settings: Settings
    pool: Pool
    observers: FanOut
    clock: Clock

    def run(
        self, given: Sequence[TileLike], scratch: Path, apply_to: str | os.PathLike[str] | None
    ) -> PhaseSolution:
        if len(given) < 2:
            raise NoSolution(f"{len(given)} tile cannot be matched to others; give at least two")
        names = tuple(tile_name(tile, index) for index, tile in enumerate(given))
        failed: dict[int, str] = {}
        with self._stage("prepare"):
            tiles = self._scan(given, names, failed)
            previews = self._prepare(tiles, scratch, failed)
        anchor = self.settings.anchor
        if anchor is not None and anchor in failed:
            raise NoSolution(f"the anchor cannot be used ({failed[anchor]}); choose another")
        if len(previews) < 2:
            raise NoSolution(
                f"{len(previews)} of {len(given)} tiles can be used ({failed[min(failed)]})"
            )
        with self._stage("overlap") as attributes:
            corners = np.full((len(given), 4, 2), np.nan)
            for index in previews:
                corners[index] = tiles[index].corners
            candidates = find_overlaps(corners, self.settings.min_overlap)
            graph = prune(candidates, self.settings.neighbours)
            attributes["pairs.candidates"] = len(candidates.i)
            attributes["pairs.total"] = len(graph.i)
        records = self._measure(graph, previews, names, scratch)
        with self._stage("solve") as attributes:
            sky = np.full((len(given), _channels(previews)), np.nan)
            for index, preview in previews.items():
                sky[index] = preview.sky
            measurements = [record.measurements for record in records]
            model = self.settings.model
            frame = _frame(len(given), previews)
            repeated = repetition(graph, corners)
            solved = solve(graph.i, graph.j, measurements, sky, model, anchor, frame, repeated)
            solution = PhaseSolution(
                **vars(solved),
                settings=self.settings,
                names=names,
                failed=failed,
                records=records,
                candidates=len(candidates.i),
            )
            attributes["solve.components"] = solution.groups
            attributes["solve.rms"] = solution.rms
        self._say_what_stands_alone(solution)
        if apply_to is not None:
            self._apply(tiles, solution, Path(apply_to))
        return solution

    def _scan(
        self, given: Sequence[TileLike], names: Sequence[str], failed: dict[int, str]
    ) -> dict[int, Tile]:
        """Read all headers, as jobs, since a drive that hangs hangs here first."""
        options = (self.settings.hdu, self.settings.mask_hdu)
        work = [
            Job(index + 1, scan, (tile, names[index], *options), _known(index, names[index]))
            for index, tile in enumerate(given)
        ]
        # Arrays are looked at here: sending them to a worker and back would prove nothing.
        files = any(isinstance(tile, (str, os.PathLike)) for tile in given)
        pool = self.pool if files else SerialPool()
        outcomes = self._jobs("scan", work, len(work), self.settings.tile_timeout, pool)
        return _results(outcomes, range(len(given)), names, failed)

    def _prepare(
        self, tiles: Mapping[int, Tile], scratch: Path, failed: dict[int, str]
    ) -> dict[int, Preview]:
        if not tiles:
            return {}
        grid = make_grid(list(tiles.values()), self.settings.block)
        names = [tile.name for tile in tiles.values()]
        channels = Counter(tile.channels for tile in tiles.values()).most_common(1)[0][0]
        work = [
            Job(
                number,
                prepare,
                (tile, channels, grid, preview_path(scratch, index)),
                _known(index, tile.name),
            )
            for number, (index, tile) in enumerate(tiles.items(), 1)
        ]
        outcomes = self._jobs("tiles", work, len(work), self.settings.tile_timeout)
        return _results(outcomes, tiles, names, failed)

    def _measure(
        self,
        graph: OverlapGraph,
        previews: Mapping[int, Preview],
        names: Sequence[str],
        scratch: Path,
    ) -> tuple[PairRecord, ...]:
        def job(index: int, i: int, j: int) -> Job:
            places = [(previews[k], preview_path(scratch, k)) for k in (i, j)]
            known = {"tile_i": i, "tile_j": j, "name_i": names[i], "name_j": names[j]}
            return Job(index, measure, (*places, self.settings.model), known)

        ends = list(zip(graph.i.tolist(), graph.j.tolist(), strict=True))
        work = (job(index, i, j) for index, (i, j) in enumerate(ends, 1))
        timeout = self.settings.pair_timeout
        outcomes = self._jobs("pairs", work, len(ends), timeout, describe=describe)
        return tuple(
            record(outcome, i, j, float(area), _channels(previews))
            for outcome, (i, j), area in zip(outcomes, ends, graph.area, strict=True)
        )

    def _apply(self, tiles: Mapping[int, Tile], solution: PhaseSolution, folder: Path) -> None:
        files = {
            index: tile
            for index, tile in tiles.items()
            if tile.path is not None and index not in solution.failed
        }
        work = [
            Job(
                number,
                write_corrected,
                (tile, solution.correction(index), folder),
                _known(index, tile.name),
            )
            for number, (index, tile) in enumerate(files.items(), 1)
        ]
        outcomes = self._jobs("apply", work, len(work), self.settings.tile_timeout)
        _results(outcomes, files, [tile.name for tile in files.values()], solution.failed)

    def _jobs(
        self,
        stage: str,
        work: Iterable[Job],
        total: int,
        timeout: float,
        pool: Pool | None = None,
        describe: Callable[[Any], tuple[str, Mapping[str, Any]]] = lambda _: ("measured", {}),
    ) -> list[Outcome]:
        with self._stage(stage, total):
            return run(
                work,
                total,
                pool or self.pool,
                self.observers,
                stage=stage,
                timeout=timeout,
                heartbeat=self.settings.heartbeat,
                clock=self.clock,
                describe=describe,
            )

    @contextmanager
    def _stage(self, stage: str, total: int = 0) -> Iterator[dict[str, Any]]:
        self.observers.emit(StageStarted(stage=stage, time_ns=time.time_ns(), total=total))
        attributes: dict[str, Any] = {}
        yield attributes
        self.observers.emit(StageEnded(stage=stage, time_ns=time.time_ns(), attributes=attributes))

    def _note(self, level: int, message: str) -> None:
        self.observers.emit(Note(level=level, message=message))

    def _say_what_stands_alone(self, solution: PhaseSolution) -> None:
        alone = (solution.pairs == 0).all(axis=1) & ~np.isnan(solution.gain).any(axis=1)
        for index in np.flatnonzero(alone):
            self._note(
                logging.WARNING,
                f"{solution.names[index]}: no overlap with another tile could be measured; "
                "it keeps gain 1 and offset 0",
            )
        if (groups := solution.groups - int(alone.sum())) > 1:
            self._note(
                logging.WARNING,
                f"the tiles form {groups} separate groups; how their levels relate is not known",
            )


def _known(index: int, name: str) -> dict[str, Any]:
    """What observers are told of a tile; indices of tiles count from 0, as in the list."""
    return {"index": index, "name": name}


def _frame(tiles: int, previews: Mapping[int, Preview]) -> TileFrame:
    frame = TileFrame(np.zeros((tiles, 2)), np.zeros((tiles, 2, 2)))
    for index, preview in previews.items():
        frame.centre[index], frame.jacobian[index] = preview.centre, preview.jacobian
    return frame


def _channels(previews: Mapping[int, Preview]) -> int:
    return len(next(iter(previews.values())).sky)


def _results(
    outcomes: Iterable[Outcome],
    indices: Iterable[int],
    names: Iterable[str],
    failed: dict[int, str],
) -> dict[int, Any]:
    """Values of the jobs that succeeded, by tile; why the others did not goes to `failed`."""
    values = {}
    for outcome, index, name in zip(outcomes, indices, names, strict=True):
        if outcome.error is None:
            values[index] = outcome.value
        else:
            failed[index] = reason(outcome.error, name)
    return values
