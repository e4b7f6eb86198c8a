"""The stages of the phase, top to bottom: each composes what the wings do.

tiles -> prepare (scan, then one preview per tile) -> overlap -> pairs -> solve -> apply
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NoSolution
from ..photometry.apply import write_corrected
from ..photometry.overlap.graph import OverlapGraph, find_overlaps, prune
from ..photometry.preview.grid import make_grid
from ..photometry.preview.preview import Preview
from ..photometry.preview.thumbnails import thumb_factor
from ..photometry.solver.channel import TileFrame
from ..photometry.solver.mosaic_solver import solve_mosaic
from ..photometry.tiles.tile import Tile
from ..runtime.events import FanOut, Note, StageEnded, StageStarted
from ..runtime.inflight import Inflight
from ..runtime.make_pool import SerialPool
from ..runtime.pool import Pool
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Clock, Job, Outcome, run
from ..settings import Settings
from .records import (
    PairRecord,
    decode_measurements,
    encode_measurements,
    encode_tile,
    failure_reason,
    make_record,
    restore_tile,
    save_thumbnails,
    summarize_pair,
)
from .solution import PhaseSolution
from .tasks import (
    PreparedTile,
    ScannedTile,
    TileLike,
    cache_key,
    measure,
    prepare,
    preview_path,
    scan,
    tile_name,
)


@dataclass(frozen=True)
class Phase:
    """What the stages share: where jobs run, who is told, and where previews are kept."""

    settings: Settings
    pool: Pool
    observers: FanOut
    clock: Clock
    inflight: Inflight | None
    previews: Path
    cached_results: Mapping[str, Any]
    kept: Path | None  # run folder, for thumbnails; None where it is a temporary one

    def run(
        self, given: Sequence[TileLike], apply_to: str | os.PathLike[str] | None
    ) -> PhaseSolution:
        """All stages, from the tiles as given to corrections, and corrected tiles if asked."""
        if len(given) < 2:
            raise NoSolution(f"{len(given)} tile cannot be matched to others; give at least two")
        names = tuple(tile_name(tile, index) for index, tile in enumerate(given))
        failed: dict[int, str] = {}
        with self._stage("prepare"):
            scanned = self._scan(given, names, failed)
            tiles = {index: found.tile for index, found in scanned.items()}
            previews, keys = self._prepare(scanned, failed)
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
        records = self._measure(graph, previews, names, keys)
        with self._stage("solve") as attributes:
            sky = np.full((len(given), _channels(previews)), np.nan)
            for index, preview in previews.items():
                sky[index] = preview.sky
            measurements = [record.measurements for record in records]
            model = self.settings.model
            frame = _frame(len(given), previews)
            solved = solve_mosaic(graph, corners, measurements, sky, model, anchor, frame)
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
    ) -> dict[int, ScannedTile]:
        """Read all headers, as jobs, since a drive that hangs hangs here first."""
        options = (self.settings.hdu, self.settings.mask_hdu)
        work = [
            Job(index + 1, scan, (tile, names[index], *options), _known(index, names[index]))
            for index, tile in enumerate(given)
        ]
        # Arrays are looked at here: sending them to a worker and back would prove nothing.
        files = any(isinstance(tile, (str, os.PathLike)) for tile in given)
        pool = self.pool if files else SerialPool()
        outcomes = self._jobs("scan", work, len(work), self.settings.tile_timeout, pool=pool)
        return _results(outcomes, range(len(given)), names, failed)

    def _prepare(
        self, scanned: Mapping[int, ScannedTile], failed: dict[int, str]
    ) -> tuple[dict[int, Preview], dict[int, str]]:
        """Previews of all tiles, and what each of them depends on."""
        if not scanned:
            return {}, {}
        tiles = {index: found.tile for index, found in scanned.items()}
        grid = make_grid(list(tiles.values()), self.settings.block)
        channels = Counter(tile.channels for tile in tiles.values()).most_common(1)[0][0]
        keys = {
            index: cache_key(found.mark, grid, channels) if found.mark else ""
            for index, found in scanned.items()
        }
        self.previews.mkdir(parents=True, exist_ok=True)
        thumb = 0
        if self.kept is not None:
            thumb = thumb_factor(np.array([tile.corners for tile in tiles.values()]), grid)
        made = {}
        for index, key in keys.items():
            found = restore_tile(self.cached_results.get(key), preview_path(self.previews, index))
            if found is not None:
                made[index] = found
        left = {index: tile for index, tile in tiles.items() if index not in made}
        work = (
            Job(
                number,
                prepare,
                (tile, channels, grid, preview_path(self.previews, index), thumb),
                _known(index, tile.name),
                keys[index],
            )
            for number, (index, tile) in enumerate(tiles.items(), 1)
            if index in left
        )
        outcomes = self._jobs(
            "tiles", work, len(tiles), self.settings.tile_timeout, done=len(made),
            serialize=encode_tile,
        )  # fmt: skip
        names = [tile.name for tile in left.values()]
        made |= _results(outcomes, left, names, failed)
        if self.kept is not None:
            self._keep_thumbnails(self.kept, made)
        return {index: made[index].preview for index in sorted(made)}, keys

    def _keep_thumbnails(self, folder: Path, made: Mapping[int, PreparedTile]) -> None:
        small = {index: tile.thumbnail for index, tile in made.items()}
        try:
            save_thumbnails(folder, {k: some for k, some in small.items() if some is not None})
        except OSError as error:
            why = error.strerror or str(error)
            self._note(
                logging.WARNING,
                f"{RunFolder(folder).thumbnails}: cannot be written ({why}); "
                "the report will have no pictures",
            )

    def _measure(
        self,
        graph: OverlapGraph,
        previews: Mapping[int, Preview],
        names: Sequence[str],
        keys: Mapping[int, str],
    ) -> tuple[PairRecord, ...]:
        places = {k: str(preview_path(self.previews, k)) for k in previews}
        began = time.time_ns()  # the next run may have previews in the same places

        def job(index: int, i: int, j: int) -> Job:
            known = {"tile_i": i, "tile_j": j, "name_i": names[i], "name_j": names[j]}
            model = self.settings.model
            key = cache_key(keys[i], keys[j], model) if keys[i] and keys[j] else ""
            return Job(index, measure, (places[i], places[j], model, began), known, key)

        ends = list(zip(graph.i.tolist(), graph.j.tolist(), strict=True))
        jobs = (job(index, i, j) for index, (i, j) in enumerate(ends, 1))
        outcomes: dict[int, Outcome] = {}
        left = []
        for work in jobs if self.cached_results else ():
            if work.key in self.cached_results:
                value = decode_measurements(self.cached_results[work.key])
                outcomes[work.index] = Outcome(work, "measured", value)
            else:
                left.append(work)
        if self.cached_results:
            self._note(
                logging.INFO,
                f"resumed: {len(outcomes)} of {len(ends)} pairs are known from an earlier run",
            )
        for outcome in self._jobs(
            "pairs", left if self.cached_results else jobs, len(ends), self.settings.pair_timeout,
            summarize=summarize_pair, serialize=encode_measurements, done=len(outcomes),
        ):  # fmt: skip
            outcomes[outcome.job.index] = outcome
        return tuple(
            make_record(outcomes[index], i, j, float(area), _channels(previews))
            for index, ((i, j), area) in enumerate(zip(ends, graph.area, strict=True), 1)
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
        *,
        pool: Pool | None = None,
        **more: Any,
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
                inflight=self.inflight,
                **more,
            )

    @contextmanager
    def _stage(self, stage: str, total: int = 0) -> Iterator[dict[str, Any]]:
        self.observers.dispatch(StageStarted(stage=stage, time_ns=time.time_ns(), total=total))
        if self.inflight is not None:
            self.inflight.progress(stage, 0, total)
        attributes: dict[str, Any] = {}
        yield attributes
        self.observers.dispatch(
            StageEnded(stage=stage, time_ns=time.time_ns(), attributes=attributes)
        )

    def _note(self, level: int, message: str) -> None:
        self.observers.dispatch(Note(level=level, message=message))

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
        if loose := solution.loose_gains:
            self._note(
                logging.WARNING,
                f"no pair ties the gains of {loose} tiles to those of most others (too little "
                "contrast in their overlaps): levels agree, and those gains keep the mean 1",
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
            failed[index] = failure_reason(outcome.error, name)
    return values
