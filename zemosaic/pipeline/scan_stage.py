"""The first stage: read the headers of all inputs, each of which may hold several tiles."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import TileError, UserError
from ..photometry.tiles.file_options import FileOptions, split_input
from ..photometry.tiles.tile import Tile
from ..runtime.scheduler import Job, Outcome
from ..runtime.serial_pool import SerialPool
from .run_context import RunContext
from .scan_task import ScannedTile, TileLike, failure_reason, is_object, scan, tile_name


@dataclass(frozen=True, eq=False)
class ScannedTiles:
    """All tiles, numbered in the order of the inputs and of the images in their files.

    Parameters
    ----------
    names : list of str
        Name of each tile; the name of its file if the file cannot be read.
    usable : dict
        The usable tiles by index.
    failed : dict
        The reasons of the others by index.
    first : list of int
        Index of the first tile of each input.
    """

    names: list[str] = field(default_factory=list)
    usable: dict[int, ScannedTile] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)

    def add(self, scanned: ScannedTile) -> None:
        """Add the next tile."""
        index = len(self.names)
        self.names.append(scanned.name)
        if scanned.problem:
            self.failed[index] = scanned.problem
        else:
            self.usable[index] = scanned

    def anchor_index(self, anchor: int | str | None) -> int | None:
        """Return the tile of an anchor, which is the index of an input, or a file or image.

        Raises
        ------
        UserError
            It is none of the tiles, or belongs to files in several folders.
        """
        if anchor is None:
            return None
        if isinstance(anchor, int):
            return self.first[anchor]
        file, key = split_input(anchor)
        matches = [
            index for index, scanned in self.usable.items() if _is_image_of(scanned.tile, file, key)
        ]
        if len({self.usable[index].tile.path for index in matches}) != 1:
            problem = "is none of the tiles" if not matches else "names more than one tile"
            raise UserError(f"the anchor {anchor} {problem}; give one as it stands in the list")
        return matches[0]


def _is_image_of(tile: Tile, file: str, key: str | None) -> bool:
    """Return whether a tile is in a file, given by path or base name, and has the key there."""
    if tile.path is None or file not in (str(tile.path), tile.path.name):
        return False
    own_key = tile.name[len(tile.path.name) :].strip("[]")
    return key is None or key.upper() in (own_key.upper(), str(tile.options.hdu))


def scan_tiles(context: RunContext, inputs: Sequence[TileLike]) -> ScannedTiles:
    """Read all headers, as jobs, because a stuck drive gets stuck here first."""
    options = FileOptions.of(context.settings)
    names = [tile_name(tile, index) for index, tile in enumerate(inputs)]
    inputs = [
        _scan_object(tile, name, options) if is_object(tile) else tile
        for tile, name in zip(inputs, names, strict=True)
    ]
    jobs = [
        Job(index + 1, scan, (tile, name, options), {"index": index, "name": name})
        for index, (tile, name) in enumerate(zip(inputs, names, strict=True))
    ]
    # Arrays are checked in this process: sending them to a worker and back takes longer.
    has_files = any(isinstance(tile, (str, os.PathLike)) for tile in inputs)
    pool = context.pool if has_files else SerialPool()
    timeout = context.settings.tile_timeout
    tiles = ScannedTiles()
    for scanned in context.run_jobs(
        "scan", jobs, len(jobs), timeout, pool=pool, summarize=_summarize, keep=_keeper()
    ):
        tiles.first.append(len(tiles.names))
        for tile in scanned:
            tiles.add(tile)
    _leave_out_other_frames(tiles)
    _report_files(context, tiles)
    return tiles


def _keeper() -> Callable[[Outcome], list[ScannedTile]]:
    """Return a function that takes the tiles of a file out of an outcome."""
    from .compact import SharedValues

    values = SharedValues()

    def keep(outcome: Outcome) -> list[ScannedTile]:
        if outcome.error is None:
            return [values.compact(tile) for tile in outcome.value]
        name = outcome.job.attributes["name"]
        return [ScannedTile(name, problem=failure_reason(outcome.error, name))]

    return keep


def _scan_object(item: TileLike, name: str, options: FileOptions) -> TileLike:
    """Scan an HDU or an NDData in this process: it may hold a file open, which cannot be sent."""
    try:
        return scan(item, name, options)
    except TileError as error:
        return ScannedTile(name, problem=str(error))


def _summarize(scanned: Sequence[ScannedTile]) -> tuple[str, dict[str, Any]]:
    """Return the outcome of a scan, with the names and problems of several tiles of one file."""
    if len(scanned) == 1:
        return "measured", {}
    names, problems = [tile.name for tile in scanned], [tile.problem for tile in scanned]
    return "measured", {"tiles": names, "problems": problems}


def _leave_out_other_frames(tiles: ScannedTiles) -> None:
    """Fail the tiles with coordinates in another frame than most, which cannot be converted."""
    counts = Counter(scanned.tile.frame for scanned in tiles.usable.values())
    for index, scanned in list(tiles.usable.items()):
        frame, common = scanned.tile.frame, counts.most_common(1)[0][0]
        if frame != common:
            del tiles.usable[index]
            tiles.failed[index] = (
                f"{scanned.tile.place}: its coordinates are {frame}, those of most "
                f"tiles {common}, and neither can be converted; leave it out"
            )


def _report_files(context: RunContext, tiles: ScannedTiles) -> None:
    """Note files with several tiles, and plate solutions beside the files."""
    if len(tiles.names) > len(tiles.first):
        plural = "s" if len(tiles.first) > 1 else ""
        context.note(logging.INFO, f"{len(tiles.names)} tiles in {len(tiles.first)} file{plural}")
    for index in set(tiles.failed) - set(tiles.first):
        context.note(logging.WARNING, tiles.failed[index])
    quality = [s.tile for s in tiles.usable.values() if s.tile.options.mask_hdu is not None]
    if quality and context.settings.mask_hdu is context.settings.mask is None:
        context.note(
            logging.INFO,
            f"{len(quality)} tiles have data quality (DQ), and its bad pixels count as missing; "
            "--mask-hdu none keeps them",
        )
    beside = [s.tile.wcs_path for s in tiles.usable.values() if s.tile.wcs_path is not None]
    if beside:
        context.note(
            logging.INFO,
            f"{len(beside)} tiles have their WCS from files beside them, such as {beside[0].name}",
        )
