"""Axes of image arrays: channels first, last or absent.

FITS cubes store the channels first, arrays of image libraries last, and radio cubes have
additional axes of length 1. The numerics use channels first, ``(C, H, W)``, throughout.
"""

from __future__ import annotations

import numpy as np

#: A longer axis is not an axis of colour channels.
MAX_CHANNELS = 4


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the channel axis of a squeezed image shape, or None if the image is monochrome.

    Raises
    ------
    ValueError
        The shape does not describe an image with at most four channels.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and shape[0] <= MAX_CHANNELS:
        return 0
    if len(shape) == 3 and shape[2] <= MAX_CHANNELS:
        return 2
    raise ValueError(f"shape {shape} is neither (H, W), (C, H, W) nor (H, W, C) with C up to 4")


def squeeze_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Remove axes of length 1 before the last two, as radio cubes have them."""
    return (*(length for length in shape[:-2] if length != 1), *shape[-2:])


def channels_first_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` for an image of any layout; raise like `channel_axis`."""
    squeezed = list(squeeze_shape(shape))
    axis = channel_axis(tuple(squeezed))
    channels = 1 if axis is None else squeezed.pop(axis)
    height, width = squeezed
    return channels, height, width


def row_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of the rows in an image of any layout, degenerate axes included."""
    if channel_axis(squeeze_shape(shape)) != 2:
        return len(shape) - 2
    return max(axis for axis, length in enumerate(shape[:-2]) if length != 1)


def to_channels_first(image: np.ndarray) -> np.ndarray:
    """Return a view of an image as ``(C, H, W)``."""
    squeezed = image.reshape(squeeze_shape(image.shape))
    axis = channel_axis(squeezed.shape)
    return squeezed[np.newaxis] if axis is None else np.moveaxis(squeezed, axis, 0)


def from_channels_first(channels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `to_channels_first`: return ``(C, H, W)`` as an image of the given shape."""
    axis = channel_axis(squeeze_shape(shape))
    return (channels[0] if axis is None else np.moveaxis(channels, 0, axis)).reshape(shape)
