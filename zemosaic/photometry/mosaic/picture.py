"""Pictures of a mosaic, made small block by block, and turned so that north is up."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import no_follow
from .canvas import Box, Canvas
from .combine import Coadd

#: Longest side of a picture in pixels.
LONGEST = 1600
#: Sine of an angle that makes no difference to the eye.
SMALL_ANGLE = 0.02


@dataclass(frozen=True)
class PictureFile:
    """The pixels of two pictures of a mosaic in one file: after the correction, and before it.

    Parameters
    ----------
    path : pathlib.Path
        ``(2, C, h, w)`` float32 as NumPy writes it.
    shape : tuple of int
        Its shape.
    factor : int
        Pixels of the mosaic along a side of one of the picture.
    fresh : bool
        Whether no earlier run has written to it.
    """

    path: Path
    shape: tuple[int, int, int, int]
    factor: int
    fresh: bool = True

    @classmethod
    def create(cls, path: Path, canvas: Canvas, channels: int) -> PictureFile:
        """Create the file without any pixel; a whole one of the same size stays.

        Raises
        ------
        OSError
            It cannot be written.
        """
        factor = max(1, math.ceil(max(canvas.shape) / LONGEST))
        height, width = (-(-length // factor) for length in canvas.shape)
        shape = 2, channels, height, width
        with suppress(OSError, ValueError):
            if np.load(path).shape == shape:
                return cls(path, shape, factor, fresh=False)
        with open(path, "wb", opener=no_follow) as out:
            np.save(out, np.full(shape, np.nan, dtype=np.float32))
        return cls(path, shape, factor)

    def write(self, box: Box, coadd: Coadd) -> None:
        """Write a block, which begins at a multiple of `factor`; the coadd has its change at
        every `factor` pixels."""
        after = shrink(coadd.data, self.factor)
        change = np.full_like(after, np.nan)  # of squares at the edge without a middle
        if coadd.change is not None:
            _, rows, columns = coadd.change.shape
            change[:, :rows, :columns] = coadd.change
        y, x = box.y0 // self.factor, box.x0 // self.factor
        # Not numpy.load: see Preview.load.
        header = self.path.stat().st_size - 4 * math.prod(self.shape)
        pixels = np.memmap(self.path, np.float32, "r+", header, self.shape)
        height, width = after.shape[1:]
        pixels[0, :, y : y + height, x : x + width] = after
        pixels[1, :, y : y + height, x : x + width] = after - change
        pixels.flush()


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of the finite pixels of ``(C, h, w)`` in squares, NaN without any."""
    if factor == 1:
        return image
    starts = [np.arange(0, length, factor) for length in image.shape[1:]]
    finite = np.isfinite(image)
    total, count = np.where(finite, image, np.float32(0)), finite.astype(np.float32)
    for axis, at in zip((1, 2), starts, strict=True):
        total, count = (np.add.reduceat(part, at, axis=axis) for part in (total, count))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / count).astype(np.float32)


def north_up(image: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Turn a picture ``(C, h, w)`` of a canvas so that its first row is north, and east is left."""
    from scipy import ndimage

    matrix = canvas.wcs.pixel_scale_matrix  # of longitude and latitude by x and y
    if np.linalg.det(matrix) > 0:  # east is right
        image, matrix = image[..., ::-1], matrix * [[-1, 1], [-1, 1]]
    turn = math.atan2(matrix[1, 0], matrix[1, 1])  # of north from the columns
    quarters = round(turn / (math.pi / 2))
    image = np.rot90(image, -quarters, axes=(1, 2))[:, ::-1]
    rest = turn - quarters * math.pi / 2
    if abs(math.sin(rest)) < SMALL_ANGLE:
        return image
    return ndimage.rotate(
        image, math.degrees(rest), axes=(1, 2), order=0, cval=np.nan, prefilter=False
    )
