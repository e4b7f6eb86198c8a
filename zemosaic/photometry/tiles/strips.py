"""Reading an image of any layout and type in strips of float32, channels first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...errors import TileError
from .axes import channel_axis, channels_first_shape, row_axis, squeeze_shape
from .fits_files import PixelReader
from .quality_flags import is_bad

#: Planes of a grey or a colour image with an alpha channel.
ALPHA_PLANES = (2, 4)
#: Rows of the alpha channel read at once.
ALPHA_ROWS = 256


class PixelPlane(NamedTuple):
    """An image that is read by rows: its reader and its shape, in any layout."""

    read: PixelReader
    shape: tuple[int, ...]

    def rows(self, rows: slice) -> np.ndarray:
        """Read some rows as ``(C, h, W)`` of the type of the image."""
        channels, _, width = channels_first_shape(self.shape)
        raw = self.read((*(slice(None),) * row_axis(self.shape), rows))
        # Not by `to_channels_first`, which would take a single row for a degenerate axis.
        if channel_axis(squeeze_shape(self.shape)) == 2:
            return np.moveaxis(raw.reshape(-1, width, channels), 2, 0)
        return raw.reshape(channels, -1, width)


class Quality(NamedTuple):
    """The planes that tell good pixels from bad ones; None without them.

    Parameters
    ----------
    mask : PixelPlane or None
        One mask for all channels, or one for each.
    ignored_flags : int
        Bits of the mask that leave a pixel good.
    weight : PixelPlane or None
        Weights of all channels; bad unless above 0.
    alpha : bool
        Whether the last plane of the image is no channel but 0 where pixels are bad.
    """

    mask: PixelPlane | None = None
    ignored_flags: int = 0
    weight: PixelPlane | None = None
    alpha: bool = False

    def check(self, name: str, shape: tuple[int, int, int]) -> None:
        """Raise `TileError` if a plane has another shape than the image ``(C, H, W)``."""
        for plane, kind in ((self.mask, "mask"), (self.weight, "weights")):
            if plane is None:
                continue
            try:
                own = channels_first_shape(plane.shape)
            except ValueError:
                own = (0, 0, 0)
            if own[1:] != shape[1:] or own[0] not in (1, shape[0], shape[0] - self.alpha):
                raise TileError(
                    f"{name}: its {kind} has the shape {plane.shape}, the image {shape[1:]}; give "
                    f"a {kind.removesuffix('s')} of the image's shape"
                )


def read_strips(
    image: PixelPlane, quality: Quality, rows: int, weights: bool = False
) -> Iterator[np.ndarray]:
    """Read an image from top to bottom.

    Parameters
    ----------
    image : PixelPlane
        The image.
    quality : Quality
        Its bad pixels, which become NaN.
    rows : int
        Height of a strip; the last may be lower.
    weights : bool
        Add the weights as one more channel, 0 where they are not above 0.

    Yields
    ------
    ndarray
        ``(C, rows, W)`` float32, a copy. Values beyond the range of float32 are infinite.
    """
    height = channels_first_shape(image.shape)[1]
    for top in range(0, height, rows):
        yield read_window(image, quality, slice(top, min(top + rows, height)), weights=weights)


def read_window(
    image: PixelPlane,
    quality: Quality,
    rows: slice,
    columns: slice = slice(None),
    weights: bool = False,
) -> np.ndarray:
    """Read a rectangle of an image, as a strip of `read_strips`."""
    strip, bad = _read_raw(image, quality, rows, columns)
    for part in bad:
        strip[np.broadcast_to(part, strip.shape)] = np.nan
    if not weights or quality.weight is None:
        return strip
    weight = quality.weight.rows(rows)[:, :, columns]
    usable = np.where(_is_usable(weight), weight, 0).min(axis=0, keepdims=True)
    return np.concatenate([strip, usable.astype(np.float32)])


def read_raw_strips(
    image: PixelPlane, quality: Quality, rows: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Read an image and its bad pixels.

    Yields
    ------
    strip : ndarray
        ``(C, rows, W)`` float32, a copy, with the bad pixels as they are.
    bad : list of ndarray
        ``(C, rows, W)`` or ``(1, rows, W)`` bool: bad pixels by each plane of `quality`.
    """
    height = channels_first_shape(image.shape)[1]
    for top in range(0, height, rows):
        yield _read_raw(image, quality, slice(top, min(top + rows, height)), slice(None))


def _read_raw(
    image: PixelPlane, quality: Quality, rows: slice, columns: slice
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read a rectangle of an image and its bad pixels, as `read_raw_strips` yields them."""
    raw, bad = image.rows(rows)[:, :, columns], []
    if quality.alpha:
        bad.append(raw[-1:] == 0)
        raw = raw[:-1]
    if quality.mask is not None:
        mask = quality.mask.rows(rows)[:, :, columns]
        bad.append(is_bad(mask, quality.ignored_flags)[: len(raw)])
    if quality.weight is not None:
        weight = quality.weight.rows(rows)[:, :, columns]
        bad.append(~_is_usable(weight).all(axis=0, keepdims=True))
    with np.errstate(over="ignore"):
        strip = raw.astype(np.float32, order="C")
    return strip, bad


def _is_usable(weight: np.ndarray) -> np.ndarray:
    return np.isfinite(weight) & (weight > 0)


def has_alpha(image: PixelPlane) -> bool:
    """Return whether the last plane of a cube is no channel but a mask, as in RGBA images.

    It is if it has only one value besides 0, which no image of the sky has.
    """
    channels, height, _ = channels_first_shape(image.shape)
    if channels not in ALPHA_PLANES:
        return False
    values: set[float] = set()
    for top in range(0, height, ALPHA_ROWS):
        alpha = image.rows(slice(top, min(top + ALPHA_ROWS, height)))[-1]
        values |= set(np.unique(alpha).tolist()[:3])
        if len(values - {0}) > 1:
            return False
    return max(values) > 0
