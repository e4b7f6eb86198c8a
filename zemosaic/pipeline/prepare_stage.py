"""The first stage: scan the inputs and make their previews, while this process imports the rest.

Workers can read headers long before this process has imported the modules of the other stages, so
they are imported here during the scan, and not at the top of a module.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import NoSolution

# Imported before the thread starts: it and the pool would deadlock importing the same package.
from ..photometry import _kernels  # noqa: F401
from ..photometry.tiles.tile import Tile
from ..threads import start_thread
from .run_context import RunContext
from .scan_stage import ScannedTiles, scan_tiles
from .scan_task import TileLike

if TYPE_CHECKING:
    from .mosaic_stage import MosaicOptions
    from .tile_stages import PreparedTiles

#: Modules of the later stages, in the order of their use.
LATER = "tile_stages", "stages", "tables"


@dataclass(frozen=True, eq=False)
class FirstStage:
    """The tiles of the inputs, their previews, and the index of the anchor."""

    scan: ScannedTiles
    prepared: PreparedTiles
    anchor: int | None


def scan_and_prepare(
    context: RunContext, tiles: Sequence[TileLike], mosaic: MosaicOptions | None
) -> FirstStage:
    """Read all headers, check the tiles against each other, and make the previews.

    Raises
    ------
    NoSolution
        Fewer than two tiles can be used, or the anchor cannot.
    UserError
        The mosaic cannot have these tiles.
    """
    with context.stage("prepare", has_jobs=True) as attributes:
        if context.pool.kind == "processes":  # other workers import them in this process
            start_thread(_import_later_stages, "zemosaic-import", "the first tiles are read later")
        scan = scan_tiles(context, tiles)
        attributes["tiles.total"] = len(scan.names)
        if len(scan.names) < 2:
            raise NoSolution(
                f"{len(scan.names)} tile cannot be matched to others; give at least two"
            )
        anchor = scan.anchor_index(context.settings.anchor)
        if mosaic is not None:
            _check_canvas(mosaic, {index: entry.tile for index, entry in scan.usable.items()})
        from .tile_stages import prepare_tiles

        prepared = prepare_tiles(context, scan.usable)
    _check_usable(len(scan.names), anchor, scan.failed | prepared.failed)
    return FirstStage(scan, prepared, anchor)


def _import_later_stages() -> None:
    with contextlib.suppress(Exception):  # the stage imports it again, and raises
        for name in LATER:
            importlib.import_module(f".{name}", __package__)


def _check_canvas(mosaic: MosaicOptions, tiles: Mapping[int, Tile]) -> None:
    """Raise `UserError` if the mosaic cannot have the tiles, leaving out tiles bound to fail."""
    from ..photometry.preview.grid import odd_scales

    odd = odd_scales(tiles)
    usable = [tile for index, tile in tiles.items() if index not in odd]
    if usable:
        mosaic.canvas(usable)


def _check_usable(tiles: int, anchor: int | None, failed: Mapping[int, str]) -> None:
    if anchor is not None and anchor in failed:
        raise NoSolution(f"the anchor cannot be used ({failed[anchor]}); choose another")
    usable = tiles - len(failed)
    if usable < 2:
        raise NoSolution(f"{usable} of {tiles} tiles can be used ({failed[min(failed)]})")
