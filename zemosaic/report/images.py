"""Images of the mosaic before and after correction, coadded from the thumbnails of the tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..pictures import encode_webp, stretch
from ..pipeline.records import load_thumbnails
from ..pipeline.tables import SURFACE_POWERS
from ..runtime.run_folder import RunFolder
from .data import Placement, RunData, TileData

MAX_CELLS = 4_000_000  # of an image; a larger one is an all-sky mosaic, whose tiles would be dots
LONGEST = 800  # pixels along a side of a picture in the page: two stand side by side
SEAM_LIMIT = 99  # percentile of the seam map with the brightest colour
# The colour map "cividis" (Nuñez, Anderton & Renslow 2018) at equal steps: it looks the same with
# and without colour vision deficiency, and in grey.
CIVIDIS = np.array(
    [(0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115), (138, 134, 120),
     (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56)]
)  # fmt: skip


@dataclass(frozen=True)
class Mosaic:
    """Arrays of the mosaic; the first row is the southernmost one, and east is left.

    Parameters
    ----------
    before, after : ndarray
        ``(C, h, w)`` float32 in ADU: mean of the tiles that cover a cell, NaN where none does.
        `after` is None without a solution.
    seams_before, seams_after : ndarray
        ``(h, w)`` float32 in ADU: standard deviation of the tiles that cover a cell, in the
        channel where it is largest; NaN where fewer than two tiles do. `seams_after` is None
        without a solution.
    """

    before: np.ndarray
    seams_before: np.ndarray
    after: np.ndarray | None = None
    seams_after: np.ndarray | None = None

    @property
    def images(self) -> list[np.ndarray]:
        """The mosaic before and, with a solution, after correction."""
        return [image for image in (self.before, self.after) if image is not None]

    @property
    def seam_maps(self) -> list[np.ndarray]:
        """The seam maps before and, with a solution, after correction."""
        return [seams for seams in (self.seams_before, self.seams_after) if seams is not None]

    @property
    def seam_limit(self) -> float:
        """Spread in ADU with the brightest colour in the seam maps; NaN without overlaps."""
        finite = self.seams_before[np.isfinite(self.seams_before)]
        return float(np.percentile(finite, SEAM_LIMIT)) if len(finite) else np.nan


@dataclass(frozen=True)
class _Thumbnail:
    """Values ``(C, h, w)`` of a tile on the image; cells are `factor` grid cells wide."""

    tile: TileData
    placement: Placement
    values: np.ndarray

    @property
    def factor(self) -> int:
        return self.placement.thumb

    @property
    def x(self) -> int:
        """First column: a thumbnail begins with the first whole cell inside its preview."""
        return -(-self.placement.x0 // self.factor)

    @property
    def y(self) -> int:
        return -(-self.placement.y0 // self.factor)

    @property
    def x_end(self) -> int:
        return self.x + self.values.shape[2]

    @property
    def y_end(self) -> int:
        return self.y + self.values.shape[1]


def coadd_mosaic(folder: Path, run: RunData) -> Mosaic | None:
    """Coadd the thumbnails of a run folder; return None if there are none, or too many cells."""
    thumbnails = _thumbnails(folder, run)
    if not thumbnails:
        return None
    left = min(thumbnail.x for thumbnail in thumbnails)
    bottom = min(thumbnail.y for thumbnail in thumbnails)
    width = max(thumbnail.x_end for thumbnail in thumbnails) - left
    height = max(thumbnail.y_end for thumbnail in thumbnails) - bottom
    if width * height > MAX_CELLS:
        return None
    canvas = _Canvas(left, bottom, (len(thumbnails[0].values), height, width))
    before, seams_before = canvas.coadd(thumbnails, lambda thumbnail: thumbnail.values)
    if not (run.solved and run.matched):
        return Mosaic(before, seams_before)
    return Mosaic(before, seams_before, *canvas.coadd(thumbnails, _corrected))


def with_pictures(mosaic: Mosaic, folder: Path) -> Mosaic:
    """Return the images of the mosaic that the run wrote, if it did, in place of coadds."""
    try:
        after, before = np.load(RunFolder(folder).mosaic)[:, :, ::-1]
    except (OSError, ValueError):
        return mosaic
    return replace(mosaic, before=before, after=after)


def _thumbnails(folder: Path, run: RunData) -> list[_Thumbnail]:
    """Return the thumbnails with the factor of most tiles."""
    factors = [tile.placement.thumb if tile.placement else 0 for tile in run.tiles]
    factor = max(set(factors), key=factors.count, default=0)
    values = load_thumbnails(folder)
    return [
        _Thumbnail(tile, tile.placement, values[tile.index])
        for tile in run.tiles
        if factor and tile.placement and tile.placement.thumb == factor and tile.index in values
        # In an image of the whole sky a tile may be smaller than a cell.
        if values[tile.index].size
    ]


@dataclass(frozen=True)
class _Canvas:
    """The image: its first column and row, and its shape ``(C, h, w)``."""

    left: int
    bottom: int
    shape: tuple[int, int, int]

    def window(self, thumbnail: _Thumbnail) -> tuple[slice, slice, slice]:
        rows = slice(thumbnail.y - self.bottom, thumbnail.y_end - self.bottom)
        columns = slice(thumbnail.x - self.left, thumbnail.x_end - self.left)
        return slice(None), rows, columns

    def coadd(
        self, thumbnails: list[_Thumbnail], values_of: Callable[[_Thumbnail], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and largest standard deviation of the tiles as `Mosaic` describes them.

        The values of a thumbnail are computed twice, so that only one is in memory at a time.
        """
        total, count = np.zeros(self.shape, dtype=np.float32), np.zeros(self.shape, dtype=np.int32)
        for thumbnail in thumbnails:
            window, values = self.window(thumbnail), values_of(thumbnail)
            valid = np.isfinite(values)
            total[window] += np.where(valid, values, np.float32(0))
            count[window] += valid
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(count > 0, total / count, np.float32(np.nan))
            squares = np.zeros(self.shape, dtype=np.float32)
            for thumbnail in thumbnails:
                window = self.window(thumbnail)
                squares[window] += np.nan_to_num(values_of(thumbnail) - mean[window]) ** 2
            spread = np.where(count > 1, np.sqrt(squares / (count - 1)), np.float32(np.nan))
        return mean, np.fmax.reduce(spread, axis=0)


def _corrected(thumbnail: _Thumbnail) -> np.ndarray:
    """Return the corrected values of a thumbnail, or its own values if it has no correction."""
    tile, values = thumbnail.tile, thumbnail.values
    if len(tile.gain) != len(values) or not np.isfinite(tile.gain).all():
        return values
    x, y = _tile_pixels(thumbnail)
    gain, offset = _per_channel(tile.gain), _per_channel(tile.offset)
    corrected = gain * values + offset
    if tile.illumination is not None:
        height, width = thumbnail.placement.shape
        # Beyond the edges of the tile the polynomials are no good.
        place = np.clip(2 * x / width, -1, 1), np.clip(2 * y / height, -1, 1)
        factor, glow = (part.astype(np.float32) for part in tile.illumination.at(*place))
        bias = _per_channel(tile.illumination.bias.tolist())
        corrected = (corrected - gain * glow - bias) / factor + bias
    for name, (power_x, power_y) in SURFACE_POWERS.items():
        coefficients = getattr(tile, name)
        if any(coefficients):
            corrected += _per_channel(coefficients) * (x**power_x * y**power_y)
    return corrected


def _per_channel(numbers: list[float]) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)[:, None, None]


def _tile_pixels(thumbnail: _Thumbnail) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the cells in pixels of the tile, from its centre: ``(h, w)`` float32."""
    factor, placement = thumbnail.factor, thumbnail.placement
    _, height, width = thumbnail.values.shape
    middle = (factor - 1) / 2  # of an image cell, in grid cells
    u = (np.arange(width) + thumbnail.x) * factor + middle - placement.centre[0]
    v = (np.arange(height)[:, None] + thumbnail.y) * factor + middle - placement.centre[1]
    (a, b), (c, d) = np.linalg.inv(np.array(placement.jacobian)).astype(np.float32)
    return (a * u + b * v).astype(np.float32), (c * u + d * v).astype(np.float32)


def stretch_rgb(mosaic: Mosaic) -> list[np.ndarray]:
    """Return the images with one asinh stretch: ``(h, w, 4)`` uint8 red, green, blue and alpha.

    The levels of an uncorrected image, whose tiles disagree, would hide the sky.
    """
    return stretch(mosaic.images, levels_of=mosaic.images[-1])


def mosaic_pictures(mosaic: Mosaic) -> list[bytes]:
    """Return the stretched images as WebP files, north up."""
    return [encode_webp(rgba[::-1], LONGEST) for rgba in stretch_rgb(mosaic)]


def seam_pictures(mosaic: Mosaic) -> list[bytes]:
    """Return the seam maps as WebP files, north up; an empty list if no two tiles overlap.

    The colour is linear in the square root of the spread and reaches the brightest one at
    `Mosaic.seam_limit`.
    """
    limit = mosaic.seam_limit
    if np.isnan(limit):
        return []
    pictures = []
    for seams in mosaic.seam_maps:
        fraction = np.sqrt(np.clip(seams / (limit or 1.0), 0, 1))
        steps = np.nan_to_num(fraction) * (len(CIVIDIS) - 1)
        rgb = [np.interp(steps, np.arange(len(CIVIDIS)), shades) for shades in CIVIDIS.T]
        alpha = np.where(np.isfinite(seams), 255, 0)
        rgba = np.stack([*rgb, alpha], axis=-1).astype(np.uint8)[::-1]
        pictures.append(encode_webp(rgba, LONGEST))
    return pictures
