"""Application of a correction to arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..solver.solve import Correction
from ..tiles.axes import to_channels_first

#: Pixels of a strip, which bounds the memory for its float64 values.
STRIP_PIXELS = 1 << 18


def correct(data: np.ndarray, correction: Correction) -> np.ndarray:
    """Apply gain, offset and slopes, channel by channel.

    Parameters
    ----------
    data : ndarray
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN stays NaN.
    correction : Correction
        The correction of the C channels.

    Returns
    -------
    ndarray
        float32 of the shape of `data`: ``gain * data + offset + slope_x * (x - x0) + slope_y *
        (y - y0)``, where (x0, y0) is the tile's centre.
    """
    data = np.asarray(data)
    result = np.empty(data.shape, dtype=np.float32)
    image, corrected = to_channels_first(data), to_channels_first(result)
    channels, height, width = image.shape
    for rows in row_strips(height, channels * width):
        corrected[:, rows] = correct_rows(image[:, rows], correction, rows, height)
    return result


def row_strips(height: int, pixels_per_row: int, multiple: int = 1) -> Iterator[slice]:
    """Yield the rows of each strip, top to bottom; their number is a multiple of `multiple`."""
    strip = max(STRIP_PIXELS // (pixels_per_row * multiple), 1) * multiple
    for top in range(0, height, strip):
        yield slice(top, min(top + strip, height))


def correct_rows(strip: np.ndarray, correction: Correction, rows: slice, height: int) -> np.ndarray:
    """Correct some rows of a tile of the given height, ``(C, rows, W)``, as float32."""
    channels, _, width = strip.shape
    x = np.arange(width) - (width - 1) / 2
    y = np.arange(rows.start, rows.stop)[:, None] - (height - 1) / 2
    gain, offset, slope_x, slope_y = (
        np.broadcast_to(values, (channels,))[:, None, None]
        for values in (correction.gain, correction.offset, correction.slope_x, correction.slope_y)
    )
    corrected = strip.astype(np.float64)
    corrected *= gain
    corrected += offset
    corrected += slope_x * x + slope_y * y
    with np.errstate(over="ignore"):  # beyond the range of float32 is infinite
        return corrected.astype(np.float32)
