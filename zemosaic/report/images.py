"""Images of the mosaic before and after correction, coadded from the thumbnails of the tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..pictures import encode_webp, stretch
from ..runtime.run_folder import RunFolder
from .coadd import ThumbnailStack
from .data import RunData

MAX_CELLS = 4_000_000  # of an image; a larger one is an all-sky mosaic, with tiles like dots
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
        ``(C, h, w)`` float32 in ADU: mean of the tiles that cover a cell, NaN if none does, or the
        written mosaic. `after` is None without a solution.
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


def coadd_mosaic(folder: Path, run: RunData) -> Mosaic | None:
    """Coadd the thumbnails of a run folder; return None if there are none, or too many cells."""
    thumbnails = ThumbnailStack.load(folder, run)
    if not len(thumbnails.tiles) or math.prod(thumbnails.shape[1:]) > MAX_CELLS:
        return None
    images = thumbnails.coadd(corrected=False)
    if run.solved and run.matched:
        images += thumbnails.coadd(corrected=True)
    return Mosaic(*images)


def with_pictures(mosaic: Mosaic, folder: Path) -> Mosaic:
    """Return the images of the mosaic that the run wrote, if it did, in place of coadds."""
    try:
        after, before = np.load(RunFolder(folder).mosaic)[:, :, ::-1]
    except (OSError, ValueError):
        return mosaic
    return replace(mosaic, before=before, after=after)


def stretch_rgb(mosaic: Mosaic) -> list[np.ndarray]:
    """Return the images with one asinh stretch: ``(h, w, 4)`` uint8 red, green, blue and alpha.

    The levels of an uncorrected image, in which tiles disagree, would hide the sky.
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
