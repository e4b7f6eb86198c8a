"""Thumbnails of tiles -> pictures of the mosaic, before and after.

Beside the wings, since it needs arrays, which observers do not know, and a run folder, which
the numerics do not know.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..pipeline.records import load_thumbnails
from .data import Story, TileStory

LARGEST = 4_000_000  # cells of a picture: more is an all-sky mosaic, whose tiles would be dots
BLACK, WHITE = 2.0, 99.7  # black: widths of the sky below its level; white: percentile
LEAST = 6.0  # widths above the sky's level that white is at least, so that noise looks like noise
SOFTENING = 0.1  # of the asinh stretch: linear up to this part of the range
# The colour map "cividis" (Nuñez, Anderton & Renslow 2018) at equal steps: the same to
# everybody's eyes, and in grey.
CIVIDIS = np.array(
    [(0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115), (138, 134, 120),
     (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56)]
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """The mosaic as arrays, north up and east left once its rows are turned over.

    Parameters
    ----------
    before, after : ndarray
        ``(C, h, w)`` float32 in ADU: mean of the tiles that cover a cell, NaN where none does.
        `after` is None where there is no solution.
    seams_before, seams_after : ndarray
        ``(h, w)`` float32 in ADU: standard deviation among the tiles that cover a cell, of the
        channel where it is largest; NaN where fewer than two do.
    """

    before: np.ndarray
    seams_before: np.ndarray
    after: np.ndarray | None
    seams_after: np.ndarray | None


def draw(folder: Path, story: Story) -> Pictures | None:
    """Put the thumbnails of a run folder together; None where there are none."""
    factors = [tile.place.get("thumb", 0) for tile in story.tiles]
    factor = max(set(factors), key=factors.count, default=0)
    kept = load_thumbnails(folder)
    thumbs = [
        (tile, kept[tile.index])
        for tile in story.tiles
        if factor and tile.place.get("thumb") == factor and tile.index in kept
        # On a picture of the whole sky a tile may be smaller than a cell.
        if kept[tile.index].size
    ]
    if not thumbs:
        return None
    left, low = (min(_corner(tile, factor)[k] for tile, _ in thumbs) for k in (0, 1))
    w = max(_corner(tile, factor)[0] + values.shape[2] for tile, values in thumbs) - left
    h = max(_corner(tile, factor)[1] + values.shape[1] for tile, values in thumbs) - low
    channels = len(thumbs[0][1])
    if w * h > LARGEST:
        return None

    def coadd(level: Callable[[TileStory, np.ndarray], np.ndarray]) -> tuple[np.ndarray, ...]:
        def placed() -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
            for tile, values in thumbs:
                x, y = _corner(tile, factor)
                rows = slice(y - low, y - low + values.shape[1])
                columns = slice(x - left, x - left + values.shape[2])
                yield (slice(None), rows, columns), level(tile, values)

        return _coadd(placed, (channels, h, w))

    before = coadd(lambda tile, values: values)
    after = None
    if story.solved and story.matched:
        after = coadd(lambda tile, values: _corrected(tile, values, factor))
    return Pictures(*before, *(after or (None, None)))


def _corner(tile: TileStory, factor: int) -> tuple[int, int]:
    """The cell of the picture where a thumbnail begins: the first whole one of the preview's."""
    return -(-tile.place["x0"] // factor), -(-tile.place["y0"] // factor)


def _corrected(tile: TileStory, values: np.ndarray, factor: int) -> np.ndarray:
    """A thumbnail as the solution has it; as it is, where that does not know the tile."""
    if len(tile.gain) != len(values) or not np.isfinite(tile.gain).all():
        return values

    def column(numbers: list[float]) -> np.ndarray:
        return np.array(numbers, dtype=np.float32)[:, None, None]

    x0, y0 = _corner(tile, factor)
    middle = (factor - 1) / 2  # of a cell of the picture, in cells of the grid
    u = (np.arange(values.shape[2]) + x0) * factor + middle - tile.place["centre"][0]
    v = (np.arange(values.shape[1])[:, None] + y0) * factor + middle - tile.place["centre"][1]
    (a, b), (c, d) = np.linalg.inv(np.array(tile.place["jacobian"])).astype(np.float32)
    x, y = (a * u + b * v).astype(np.float32), (c * u + d * v).astype(np.float32)
    flat = column(tile.gain) * values + column(tile.offset)
    return flat + column(tile.slope_x) * x + column(tile.slope_y) * y


def _coadd(
    placed: Callable[[], Iterator[tuple[tuple[slice, ...], np.ndarray]]],
    shape: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of what covers a cell, and the standard deviation among it."""
    total, count = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int32)
    for where, values in placed():
        valid = np.isfinite(values)
        total[where] += np.where(valid, values, np.float32(0))
        count[where] += valid
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.float32(np.nan))
        total[:] = 0  # now of the squares
        for where, values in placed():
            total[where] += np.nan_to_num(values - mean[where]) ** 2
        spread = np.where(count > 1, np.sqrt(total / (count - 1)), np.float32(np.nan))
    return mean, np.fmax.reduce(spread, axis=0)


def stretched_rgb(pictures: Pictures) -> list[np.ndarray]:
    """Before and, if there is one, after, with the same asinh stretch: ``(h, w, 4)`` uint8.

    Three channels are red, green and blue; of any other number the first is shown.
    """
    planes = [p for p in (pictures.before, pictures.after) if p is not None]
    channels = range(3 if len(planes[0]) == 3 else 1)
    stretched = [_stretched([p[c] for p in planes]) for c in channels]
    shown = []
    for shades in zip(*stretched, strict=True):
        known = np.isfinite(shades).any(axis=0)
        rgb = [np.nan_to_num(255 * plane) for plane in shades] * (3 // len(shades))
        shown.append(np.stack([*rgb, np.where(known, 255, 0)], axis=-1).astype(np.uint8))
    return shown


def mosaic_pngs(pictures: Pictures) -> list[bytes]:
    """The same as PNG."""
    return [png(rgba[::-1]) for rgba in stretched_rgb(pictures)]


def seam_pngs(pictures: Pictures) -> tuple[list[bytes], float]:
    """The seam maps before and, if there is one, after; and the ADU of their brightest colour.

    None where no two tiles overlap.
    """
    maps = [m for m in (pictures.seams_before, pictures.seams_after) if m is not None]
    known = maps[0][np.isfinite(maps[0])]
    if not len(known):
        return [], 0.0
    top = float(np.percentile(known, 99))
    pngs = []
    for values in maps:
        part = np.sqrt(np.clip(values / (top or 1.0), 0, 1))
        steps = np.nan_to_num(part) * (len(CIVIDIS) - 1)
        rgb = [np.interp(steps, np.arange(len(CIVIDIS)), CIVIDIS[:, c]) for c in range(3)]
        alpha = np.where(np.isfinite(values), 255, 0)
        pngs.append(png(np.stack([*rgb, alpha], axis=-1).astype(np.uint8)[::-1]))
    return pngs, top


def _stretched(planes: list[np.ndarray]) -> list[np.ndarray]:
    """One channel of all pictures from 0 to 1, by the levels of the last: the best that there is.

    Those of a picture whose tiles disagree would hide what is in the sky.
    """
    known = planes[-1][np.isfinite(planes[-1])]
    sky = float(np.median(known))
    width = 1.4826 * float(np.median(np.abs(known - sky)))
    low = sky - BLACK * width
    high = max(float(np.percentile(known, WHITE)), sky + LEAST * width)
    scale = SOFTENING * max(high - low, 1e-6)
    top = np.arcsinh((high - low) / scale) or 1.0
    return [np.clip(np.arcsinh((plane - low) / scale) / top, 0, 1) for plane in planes]


def png(pixels: np.ndarray) -> bytes:
    """A picture as PNG (ISO/IEC 15948), ``(h, w, 4)`` uint8 red, green, blue and alpha."""
    h, w, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    rows = np.zeros((h, 1 + 4 * w), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(h, -1)
    head = struct.pack(">IIBBBBB", w, h, 8, 6, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows.tobytes(), 3))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
