"""Reading an image of any layout and type in strips of float32, channels first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .axes import channel_axis, channels_first_shape, row_axis, squeeze_shape, to_channels_first
from .fits_files import PixelReader, TileError


def read_strips(
    read_pixels: PixelReader,
    shape: tuple[int, ...],
    rows: int,
    bad: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Read an image from top to bottom.

    Parameters
    ----------
    read_pixels : PixelReader
        Reads a part of the image.
    shape : tuple of int
        Shape of the image, in any layout.
    rows : int
        Height of a strip; the last may be lower.
    bad : ndarray or None
        ``(C, H, W)`` bool: pixels that become NaN.
    weight : ndarray or None
        ``(H, W)``: pixels become NaN unless their weight is above 0.

    Yields
    ------
    ndarray
        ``(C, rows, W)`` float32, a copy. Values beyond the range of float32 are infinite.
    """
    channels, height, width = channels_first_shape(shape)
    channels_last = channel_axis(squeeze_shape(shape)) == 2
    before_rows = (slice(None),) * row_axis(shape)
    for top in range(0, height, rows):
        strip_rows = slice(top, min(top + rows, height))
        raw = read_pixels((*before_rows, strip_rows))
        # Not by `to_channels_first`, which would take a single row for a degenerate axis.
        if channels_last:
            raw = np.moveaxis(raw.reshape(-1, width, channels), 2, 0)
        else:
            raw = raw.reshape(channels, -1, width)
        with np.errstate(over="ignore"):
            strip = raw.astype(np.float32, order="C")
        if bad is not None:
            strip[bad[:, strip_rows]] = np.nan
        if weight is not None:
            strip[:, ~(weight[strip_rows] > 0)] = np.nan
        yield strip


def bad_pixels(name: str, mask: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask as ``(C, H, W)`` bool, true where it is not 0.

    Parameters
    ----------
    name : str
        Name of the tile, for the error.
    mask : ndarray
        One mask for all channels, or one per channel in the layout of the image.
    image_shape : tuple of int
        Shape of the image, in any layout.

    Raises
    ------
    TileError
        The mask has another shape than the image.
    """
    shape = channels_first_shape(image_shape)
    bad = mask != 0
    bad = to_channels_first(bad) if bad.shape == image_shape else np.squeeze(bad)
    if bad.shape not in (shape, shape[1:]):
        raise TileError(
            f"{name}: its mask has the shape {mask.shape}, the image {shape[1:]}; give a mask of "
            "the image's shape"
        )
    return np.broadcast_to(bad, shape)
