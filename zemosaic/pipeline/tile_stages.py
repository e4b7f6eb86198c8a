"""The stage after the scan: the previews of all tiles, and remarks on their pixels."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..photometry.preview.grid import make_grid, odd_scales
from ..photometry.preview.preview import Preview
from ..photometry.preview.thumbnails import thumb_factor
from ..photometry.tiles.tile import Tile
from ..runtime.run_folder import RunFolder
from .preview_jobs import PreviewJobs
from .records import PreparedTile, save_thumbnails
from .run_context import RunContext
from .scan_task import ScannedTile

#: Share of a tile from which on its mask is suspicious.
MOST_MASKED = 0.5


@dataclass(frozen=True, eq=False)
class PreparedTiles:
    """Previews without arrays and their cache keys, and the reasons of failures, by tile index."""

    previews: dict[int, Preview]
    keys: dict[int, str]
    failed: dict[int, str]

    @property
    def channels(self) -> int:
        """Number of channels, which all previews share."""
        return len(next(iter(self.previews.values())).sky)


def prepare_tiles(context: RunContext, scanned: Mapping[int, ScannedTile]) -> PreparedTiles:
    """Make the preview of every tile, or restore it from an earlier run."""
    if not scanned:
        return PreparedTiles({}, {}, {})
    tiles = {index: entry.tile for index, entry in scanned.items()}
    odd = odd_scales(tiles)
    comparable = [tile for index, tile in tiles.items() if index not in odd]
    grid = make_grid(comparable or list(tiles.values()), context.settings.block)
    channels = Counter(tile.channels for tile in tiles.values()).most_common(1)[0][0]
    _note_bayer_frames(context, tiles)
    context.previews.folder.mkdir(parents=True, exist_ok=True)
    thumb = 0
    if context.run_folder is not None:
        thumb = thumb_factor(np.array([tile.corners for tile in tiles.values()]), grid)
    prepared, failed, keys = PreviewJobs(context, scanned, odd, grid, channels, thumb).prepare()
    _save_thumbnails(context, prepared)
    _report_blanks(context, prepared)
    _report_masks(context, [(tiles[index].name, tile) for index, tile in prepared.items()])
    previews = {index: prepared[index].preview for index in sorted(prepared)}
    return PreparedTiles(previews, keys, failed)


def _note_bayer_frames(context: RunContext, tiles: Mapping[int, Tile]) -> None:
    frames = [tile for tile in tiles.values() if tile.bayer]
    if frames:
        context.note(
            logging.WARNING,
            f"{len(frames)} of the tiles are undebayered, as {frames[0].path} (pattern "
            f"{frames[0].bayer}): one gain for a mixture of the colours; debayer them first",
        )


def _report_blanks(context: RunContext, prepared: Mapping[int, PreparedTile]) -> None:
    """Report each fill value once, with the number of its pixels and of the tiles with it."""
    values = {tile.preview.blank for tile in prepared.values()}
    for value in sorted(value for value in values if value is not None):
        tiles = [tile for tile in prepared.values() if tile.preview.blank == value]
        pixels = sum(tile.preview.blank_pixels for tile in tiles)
        share = max(tile.preview.blank_pixels / math.prod(tile.shape) for tile in tiles)
        context.note(
            logging.INFO,
            f"{pixels} pixels of {len(tiles)} tiles (at most {share:.1%} of one) have the value "
            f"{value:g} and count as missing; --blank none keeps them",
        )


def _report_masks(context: RunContext, prepared: Sequence[tuple[str, PreparedTile]]) -> None:
    """Report masks that leave little of a tile, or hide its sources; tiles come with names."""
    dense = [(name, tile.masked) for name, tile in prepared if tile.masked > MOST_MASKED]
    hidden = [name for name, tile in prepared if tile.sources_masked]
    if dense:
        names, shares = zip(*dense, strict=True)
        context.note(
            logging.WARNING,
            f"{_listed(names)}: mask or weights leave only {1 - shares[0]:.0%} of the pixels; "
            "nonzero is bad in a mask (--mask-hdu) and good in weights (--weight-hdu)",
        )
    if hidden:
        context.note(
            logging.WARNING,
            f"{_listed(hidden)}: the mask covers most of the bright pixels, which gains are "
            "measured by; leave out the flags of sources with --mask-bits",
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} others"


def _save_thumbnails(context: RunContext, prepared: Mapping[int, PreparedTile]) -> None:
    if context.run_folder is None:
        return
    images = {index: tile.thumbnail for index, tile in prepared.items()}
    try:
        save_thumbnails(
            context.run_folder,
            {index: image for index, image in images.items() if image is not None},
        )
    except OSError as error:
        context.note(
            logging.WARNING,
            f"{RunFolder(context.run_folder).thumbnails}: cannot be written "
            f"({error.strerror or error}); the report will have no pictures",
        )
