"""Axes of image arrays: colour planes first, last or absent."""

from __future__ import annotations

import numpy as np


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Axis of the colour planes in a squeezed image shape; None for a monochrome image.

    Raises
    ------
    ValueError
        The shape is not that of an image with at most four planes.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and shape[0] <= 4:
        return 0
    if len(shape) == 3 and shape[2] <= 4:
        return 2
    raise ValueError(f"shape {shape} is neither (H, W), (C, H, W) nor (H, W, C) with C up to 4")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without axes of length 1 before the last two (radio cubes have them)."""
    return (*(n for n in shape[:-2] if n != 1), *shape[-2:])


def to_planes(data: np.ndarray) -> np.ndarray:
    """View of an image as ``(C, H, W)``."""
    data = data.reshape(_squeezed(data.shape))
    axis = channel_axis(data.shape)
    return data[np.newaxis] if axis is None else np.moveaxis(data, axis, 0)


def from_planes(planes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `to_planes`: ``(C, H, W)`` back to an image of the given shape."""
    axis = channel_axis(_squeezed(shape))
    return (planes[0] if axis is None else np.moveaxis(planes, 0, axis)).reshape(shape)
