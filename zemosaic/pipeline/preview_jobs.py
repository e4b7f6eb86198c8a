"""The jobs of the previews; tiles with clipped stars revealed by others are prepared again."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..photometry.preview.grid import Grid
from ..photometry.preview.saturation import Ceiling, Levels, levels_of_tile, shared_levels
from ..runtime.kept_files import Call
from ..runtime.scheduler import Job, Outcome
from .compact import plain_arrays
from .records import PreparedTile, ceiling_of, encode_tile, restore_tile
from .run_context import RunContext
from .scan_task import ScannedTile, failure_reason
from .tasks import cache_key, prepare, refuse


@dataclass(frozen=True, eq=False)
class PreviewJobs:
    """The input of the previews of all tiles.

    Parameters
    ----------
    context : RunContext
        Context of the run.
    scanned : Mapping
        The tiles by index.
    odd : Mapping
        Reasons why tiles cannot be used beside the others, by index.
    grid : Grid
        The grid that all previews share.
    channels : int
        The number of channels of the mosaic.
    thumb : int
        Side of a thumbnail cell in preview cells; 0 makes no thumbnail.
    """

    context: RunContext
    scanned: Mapping[int, ScannedTile]
    odd: Mapping[int, str]
    grid: Grid
    channels: int
    thumb: int
    _keys: dict[object, str] = field(default_factory=dict)
    _made: dict[int, Levels] = field(default_factory=dict)  # levels of all previews, at the end

    def prepare(self) -> tuple[dict[int, PreparedTile], dict[int, str], dict[int, str]]:
        """Make the preview of every tile, or restore it from an earlier run.

        The level at which a detector clips is known only when all tiles have been read. Tiles
        that reach it, but do not show it by their own pixels, are read once more.

        Returns
        -------
        tuple of dict
            Prepared tiles, reasons of failures, and cache keys, by tile index.
        """
        files = self.context.previews
        if files.keeper is not None:
            files.keeper.keep_files(files.folder, self._call)
        cached = self.context.cached_results
        entries = {index: ceiling_of(cached.get(self.key(index))) for index in self.scanned}
        levels = self._levels({index: entry for index, entry in entries.items() if entry})
        prepared = self._restore(levels)
        failed = self._run(levels, prepared)
        levels = self._levels({index: _ceiling(tile) for index, tile in prepared.items()})
        again = [index for index, tile in prepared.items() if tile.levels != levels.get(index)]
        if again:
            for index in again:
                del prepared[index]
                self.context.previews.make_again(index)
            failed |= self._run(levels, prepared, again)
        self._report(levels)
        self._made.update({index: levels.get(index) for index in prepared})
        return prepared, failed, {index: self.key(index, levels.get(index)) for index in entries}

    def key(self, index: int, levels: Levels = None) -> str:
        """Return the key of a preview; empty if it cannot be reused."""
        file_key = self.scanned[index].file_key
        if not file_key or index in self.odd:
            return ""
        key = self._keys.get((index, levels))
        if key is None:
            others = [levels] if levels else []
            key = cache_key(file_key, self.grid, self.channels, *others)
            self._keys[index, levels] = key
        return key

    def _levels(self, ceilings: Mapping[int, Ceiling]) -> dict[int, Levels]:
        """Return the levels of the tiles that others show to be clipped, by index."""
        instruments: dict[object, list[int]] = {}
        for index, ceiling in ceilings.items():
            # Tiles of one shape pass for tiles of one instrument.
            kind = self.scanned[index].tile.shape, len(ceiling.highest)
            instruments.setdefault(kind, []).append(index)
        levels: dict[int, Levels] = {}
        for indices in instruments.values():
            shared = shared_levels([ceilings[index] for index in indices])
            levels |= {index: levels_of_tile(ceilings[index], shared) for index in indices}
        return {index: own for index, own in levels.items() if own}

    def _restore(self, levels: Mapping[int, Levels]) -> dict[int, PreparedTile]:
        """Return the tiles with intact previews of an earlier run, by index."""
        restored = {}
        files = self.context.previews
        if files.keeper is not None:
            if self.context.cached_results:
                message = "resumed: the previews of an earlier run are not kept; all are made again"
                self.context.note(logging.INFO, message)
            return {}
        for index in self.scanned:
            entry = self.context.cached_results.get(self.key(index, levels.get(index)))
            prepared = restore_tile(entry, Path(files.preview(index)))
            if prepared is not None and self._has_stars(index, prepared):
                restored[index] = prepared
        return restored

    def _has_stars(self, index: int, prepared: PreparedTile) -> bool:
        """Whether the stars of a tile are intact, or not needed."""
        if not self.context.settings.needs_stars:
            return True
        try:
            stars = Path(self.context.previews.stars(index)).read_bytes()
        except OSError:
            return False
        return zlib.crc32(stars) == prepared.stars

    def _run(
        self,
        levels: Mapping[int, Levels],
        prepared: dict[int, PreparedTile],
        again: Collection[int] = (),
    ) -> dict[int, str]:
        """Prepare the tiles not yet `prepared`, or some again, and add them.

        Returns
        -------
        dict
            The reasons of failures by tile index.
        """
        # Numbers of jobs are the same in every run.
        shift, total = (len(self.scanned), len(again)) if again else (0, len(self.scanned))
        jobs = (
            self._job(number + shift, index, levels.get(index))
            for number, index in enumerate(self.scanned, 1)
            if (index in again if again else index not in prepared)
        )
        outcomes = self.context.run_jobs(
            "tiles", jobs, shift + total, self.context.settings.tile_timeout,
            done=shift or len(prepared), serialize=encode_tile, keep=_without_job,
        )  # fmt: skip
        values, failed = by_tile(outcomes)
        prepared |= values
        return failed

    def _job(self, number: int, index: int, levels: Levels) -> Job:
        attributes = tile_attributes(index, self.scanned[index].tile.name)
        if index in self.odd:
            return Job(number, refuse, (self.odd[index],), attributes)
        stars = self.context.settings.needs_stars
        arguments = self._arguments(index, levels, self.thumb, stars=stars)
        return Job(number, prepare, arguments, attributes, self.key(index, levels))

    def _arguments(self, index: int, levels: Levels, thumb: int, *, stars: bool) -> tuple[Any, ...]:
        """Return the arguments of `prepare`."""
        tile, files = self.scanned[index].tile, self.context.previews
        stars_file = files.stars(index) if stars else None
        return tile, self.channels, self.grid, files.preview(index), thumb, levels, stars_file

    def _call(self, name: str) -> Call | None:
        """Return the call that makes a file of a tile again, once the files of all are made."""
        index, _, ending = name.partition(".")
        if int(index) not in self._made:
            return None
        levels, stars = self._made[int(index)], "stars" in ending
        return prepare, self._arguments(int(index), levels, 0, stars=stars)

    def _report(self, levels: Mapping[int, Levels]) -> None:
        """Report the levels that only several tiles together show."""
        reached = [level for own in levels.values() for level in own or () if level is not None]
        for level in sorted(set(reached)):
            self.context.note(
                logging.INFO,
                f"the brightest pixels of several tiles are all {level:g}, so they are clipped "
                f"and count as missing ({reached.count(level)} tiles)",
            )


def _ceiling(prepared: PreparedTile) -> Ceiling:
    preview = prepared.preview
    return Ceiling(np.asarray(preview.highest), np.asarray(preview.clipped))


def tile_attributes(index: int, name: str) -> dict[str, Any]:
    """Return the attributes of a tile's job; tile indices count from 0, as in the input."""
    return {"index": index, "name": name}


def _without_job(outcome: Outcome) -> Outcome:
    """Return an outcome with a compact tile and a job reduced to its attributes."""
    job = Job(outcome.job.index, refuse, (), outcome.job.attributes)
    tile = outcome.value
    if tile is not None:
        tile = replace(tile, preview=plain_arrays(tile.preview))
    return replace(outcome, job=job, value=tile)


def by_tile(outcomes: Iterable[Outcome]) -> tuple[dict[int, Any], dict[int, str]]:
    """Return the values of successful jobs and the reasons of failures, by tile index."""
    values, failed = {}, {}
    for outcome in outcomes:
        index, name = outcome.job.attributes["index"], outcome.job.attributes["name"]
        if outcome.error is None:
            values[index] = outcome.value
        else:
            failed[index] = failure_reason(outcome.error, name)
    return values, failed
