"""The coadd of corrected tiles: its plan, its blocks, and the whole of it in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..solver.solve import Correction
from ..tiles.tile import Tile
from . import store
from .canvas import Box, Canvas, canvas_like, choose_canvas, divide, place_tile
from .combine import Coadd, combine
from .header import mosaic_header, tiles_table
from .resample import CoaddInput, sample_tile
from .survey import TileSurvey, survey_tile


@dataclass(frozen=True, eq=False)
class CoaddPlan:
    """All that the blocks of a mosaic need.

    Parameters
    ----------
    canvas : Canvas
        The canvas.
    sources : tuple of CoaddInput
        The tiles.
    known_noise : ndarray
        ``(C,)`` bool: whether any tile shows noise in a channel.
    combination : {"mean", "clip"}
        How the tiles are combined.
    """

    canvas: Canvas
    sources: tuple[CoaddInput, ...]
    known_noise: np.ndarray
    combination: str

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.known_noise)

    def blocks(self, multiple: int = 1) -> list[Box]:
        """Return the blocks of the canvas, which begin at multiples of a number."""
        boxes = [source.placement.box for source in self.sources]
        stacked = self.combination == "clip"
        return divide(self.canvas, [box for box in boxes if box], self.channels, stacked, multiple)

    def on(self, box: Box) -> CoaddPlan:
        """Return the plan with the tiles that may cover a box."""
        sources = tuple(
            source
            for source in self.sources
            if source.placement.box is not None and box.common(source.placement.box)
        )
        return CoaddPlan(self.canvas, sources, self.known_noise, self.combination)

    def files(self, run: str = "") -> tuple[fits.Header, fits.BinTableHDU]:
        """Return the header of the mosaic and the table of its tiles."""
        tiles, surveys, corrections, noise = zip(
            *((s.tile, s.survey, s.correction, s.noise) for s in self.sources), strict=True
        )
        header = mosaic_header(self.canvas, tiles, surveys, self.combination, run)
        return header, tiles_table(tiles, corrections, surveys, np.array(noise))


def plan_coadd(
    tiles: Sequence[tuple[Tile, Correction]],
    surveys: Sequence[TileSurvey],
    canvas: Canvas,
    combination: str = "mean",
) -> CoaddPlan:
    """Plan the coadd of tiles, each with its correction, on a canvas."""
    noise = np.array(
        [np.abs(correction.gain) * survey.noise
         for (_, correction), survey in zip(tiles, surveys, strict=True)]
    )  # fmt: skip
    known = np.any(noise > 0, axis=0)
    for channel in noise.T:
        positive = channel[channel > 0]
        channel[~(channel > 0)] = np.median(positive) if len(positive) else 1.0
    wcs = canvas.wcs
    sources = (
        CoaddInput(tile, correction, survey, place_tile(canvas, wcs, tile), own)
        for (tile, correction), survey, own in zip(tiles, surveys, noise, strict=True)
    )
    return CoaddPlan(canvas, tuple(sources), known, combination)


def coadd_block(plan: CoaddPlan, box: Box, change_step: int = 0) -> Coadd:
    """Coadd a block of the canvas.

    Parameters
    ----------
    plan : CoaddPlan
        The plan, with at least the tiles that may cover the block.
    box : Box
        The block.
    change_step : int
        Step of the pixels at which the mean change by the corrections is needed as well; 0 for
        none.

    Raises
    ------
    TileError
        A tile cannot be read.
    """
    wcs = plan.canvas.wcs
    layers = (sample_tile(wcs, box, source, change_step) for source in plan.sources)
    used = (layer for layer in layers if layer is not None)
    coadd = combine(used, box, plan.channels, plan.combination, change_step)
    coadd.error[~plan.known_noise] = np.nan
    return coadd


def write_mosaic(
    tiles: Iterable[tuple[Tile, Correction]],
    output: Path,
    like: Path | None = None,
    combination: str = "mean",
    run: str = "",
) -> None:
    """Coadd corrected tiles in this process, and write the mosaic.

    Parameters
    ----------
    tiles : iterable of (Tile, Correction)
        Each tile with its correction.
    output : pathlib.Path
        FITS file, which appears when it is complete: float32 ``(H, W)`` or ``(C, H, W)`` in ADU,
        NaN where there is no tile; the extensions ERROR, COVERAGE and TILES. It is compressed if
        its name ends in ``.fz`` or ``.gz``.
    like : pathlib.Path or None
        FITS file with the WCS and the size of the mosaic, by default chosen to fit the tiles.
    combination : {"mean", "clip"}
        Weighted mean of the tiles, or without outliers where three or more cover a pixel.
    run : str
        Name of the run that calibrated the tiles, for the header.

    Raises
    ------
    TileError
        A tile cannot be read, or has coordinates that a mosaic cannot have.
    UserError
        The mosaic would be too large, or cannot be written.
    """
    given = list(tiles)
    only = [tile for tile, _ in given]
    canvas = choose_canvas(only) if like is None else canvas_like(like)
    plan = plan_coadd(given, [survey_tile(tile) for tile in only], canvas, combination)
    file = store.create(output, canvas, plan.files(run)[0], plan.channels, plan.files(run)[1])
    try:
        for box in plan.blocks():
            file.write(box, coadd_block(plan.on(box), box))
        store.finish(file)
    finally:
        file.path.unlink(missing_ok=True)
