"""A corrected tile at the pixels of a block of the canvas.

The tile is sampled linearly: no sample is outside the range of its pixels, which a sharper kernel
would leave beside stars and bad pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from ..apply.arrays import correct_rows, row_strips
from ..solver.solve import Correction
from ..tiles.fits_files import name_read_errors
from ..tiles.strips import read_window
from ..tiles.tile import Tile
from .canvas import Box, Placement
from .positions import find_positions
from .survey import TileSurvey, feather

#: Least share of valid pixels by which a sample is weighted.
SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class CoaddInput:
    """A tile to be coadded.

    Parameters
    ----------
    tile : Tile
        The tile.
    correction : Correction
        Its correction.
    survey : TileSurvey
        Its survey.
    placement : Placement
        Its place on the canvas.
    noise : ndarray
        ``(C,)`` standard deviation of the noise of a corrected pixel in ADU, above 0.
    """

    tile: Tile
    correction: Correction
    survey: TileSurvey
    placement: Placement
    noise: np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """A corrected tile on a part of the canvas.

    Parameters
    ----------
    box : Box
        That part.
    values : ndarray
        ``(C, h, w)`` float32 in ADU, NaN where the tile has no datum.
    weight : ndarray
        ``(h, w)`` float32: weight of the tile by its distance from its borders.
    inverse_variance : ndarray
        ``(C, 1, 1)`` or ``(C, h, w)`` float32 of a pixel of the corrected tile.
    change : ndarray or None
        ``(C, m, n)`` float32: corrected minus uncorrected values at every so many pixels.
    lattice : tuple of ndarray
        Rows ``(m,)`` and columns ``(n,)`` of these in the box.
    """

    box: Box
    values: np.ndarray
    weight: np.ndarray
    inverse_variance: np.ndarray
    change: np.ndarray | None = None
    lattice: tuple[np.ndarray, np.ndarray] = (np.empty(0, int), np.empty(0, int))


def lattice(box: Box, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns in a box of the middle pixel of each square of a side of `step`."""
    ends = (box.y0, box.y1), (box.x0, box.x1)
    rows, columns = (
        np.arange((step // 2 - start) % step, stop - start, step) for start, stop in ends
    )
    return rows, columns


def sample_tile(wcs: WCS, block: Box, source: CoaddInput, change_step: int = 0) -> Layer | None:
    """Return a tile on a block of the canvas with this WCS; None if it is not on it.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        WCS of the canvas.
    block : Box
        The block.
    source : CoaddInput
        The tile.
    change_step : int
        Step of the pixels at which the change by the correction is needed as well; 0 for none.

    Raises
    ------
    TileError
        The tile cannot be read.
    """
    if source.placement.box is None or (box := block.common(source.placement.box)) is None:
        return None
    grid = find_positions(wcs, box, source.tile, source.placement)
    window = grid.window(source.tile.shape)
    if window is None:
        return None
    raw, weight = _read(source, *window)
    corrected = _correct(raw, source, *window)
    sampled = grid.sample(corrected, window)
    if not np.isfinite(sampled).any():
        return None
    maps = grid.sample_map(_coarse_maps(source), source.tile.shape)
    weights = feather(maps[0], source.tile.shape)
    valid = np.isfinite(corrected).all(axis=0, keepdims=True)
    if not valid.all():
        # A value beside an invalid pixel counts less, down to nothing.
        weights *= np.nan_to_num(np.maximum(grid.sample(valid, window)[0], SMALLEST_SHARE))
    inverse_variance = (1 / source.noise**2).astype(np.float32)[:, None, None]
    if len(maps) > 1:
        inverse_variance = inverse_variance * maps[1:] ** 2
    if weight is not None:
        relative = np.nan_to_num(grid.sample(weight, window))
        inverse_variance = inverse_variance * (relative / np.float32(source.survey.typical_weight))
    places = lattice(box, change_step) if change_step else ()
    if not places or not all(map(len, places)):
        return Layer(box, sampled, weights, inverse_variance)
    changed = grid.at(*places).sample(corrected - raw, window)
    return Layer(box, sampled, weights, inverse_variance, changed, places)


@contextmanager
def _reading(tile: Tile) -> Iterator[None]:
    """Name the file in the errors of the block."""
    if tile.path is None:
        yield
    else:
        with name_read_errors(tile.path):
            yield


def _read(source: CoaddInput, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray | None]:
    """Return channels ``(C, h, w)`` and weights ``(1, h, w)``, if any, of a part of a tile."""
    tile = source.tile
    with _reading(tile), tile.open() as (image, quality):
        window = read_window(image, quality, rows, columns, weights=True)
    channels = window[: tile.channels]
    if source.survey.blank is not None:
        channels[:, source.survey.blank_mask(tile.shape, rows, columns)] = np.nan
    return channels, window[tile.channels :] if tile.has_weights else None


def _correct(raw: np.ndarray, source: CoaddInput, rows: slice, columns: slice) -> np.ndarray:
    corrected = np.empty_like(raw)
    channels, height, width = raw.shape
    for strip in row_strips(height, channels * width):
        own = slice(rows.start + strip.start, rows.start + strip.stop)
        corrected[:, strip] = correct_rows(
            raw[:, strip], source.correction, own, source.tile.shape, columns
        )
    return corrected


def _coarse_maps(source: CoaddInput) -> np.ndarray:
    """Return the border distance in bins and, with an illumination, F of each channel."""
    distance, light = source.survey.distance[np.newaxis], source.correction.illumination
    if light is None:
        return distance
    # F is unknown beyond the tile.
    y, x = (np.clip(np.arange(-1, n - 1) * 2 + 1, 0, 2 * n - 4) / (n - 2) - 1
            for n in distance.shape[1:])  # fmt: skip
    factor, _ = light.on_grid(x, y)
    return np.concatenate([distance, factor.astype(np.float32)])
