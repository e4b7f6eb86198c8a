"""Application of a correction to arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..solver.solve import Correction
from ..solver.surfaces import SURFACE_POWERS
from ..tiles.axes import to_channels_first

#: Pixels of a strip, which bounds the memory for its float64 values.
STRIP_PIXELS = 1 << 18


def correct(data: np.ndarray, correction: Correction) -> np.ndarray:
    """Apply the correction of a tile, channel by channel.

    Parameters
    ----------
    data : ndarray
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN stays NaN.
    correction : Correction
        The correction of the C channels.

    Returns
    -------
    ndarray
        float32 of the shape of `data`: ``(gain * (data - glow) + offset - bias) / F + bias
        + surface``, as in `zemosaic.photometry.solver.solve.Solution`.
    """
    data = np.asarray(data)
    result = np.empty(data.shape, dtype=np.float32)
    image, corrected = to_channels_first(data), to_channels_first(result)
    channels, height, width = image.shape
    for rows in row_strips(height, channels * width):
        corrected[:, rows] = correct_rows(image[:, rows], correction, rows, (height, width))
    return result


def row_strips(height: int, pixels_per_row: int, multiple: int = 1) -> Iterator[slice]:
    """Yield the rows of each strip, top to bottom; their number is a multiple of `multiple`."""
    strip = max(STRIP_PIXELS // (pixels_per_row * multiple), 1) * multiple
    for top in range(0, height, strip):
        yield slice(top, min(top + strip, height))


def correct_rows(
    strip: np.ndarray,
    correction: Correction,
    rows: slice,
    shape: tuple[int, int],
    columns: slice = slice(None),
) -> np.ndarray:
    """Correct some rows and columns of a tile of the given shape, ``(C, h, w)``, as float32."""
    corrected, shared = strip.astype(np.float64), correction.illumination
    if shared is not None and shared.has_glow:
        corrected -= shared.glow_level(rows, columns)
    corrected *= per_channel(correction.gain)
    corrected += per_channel(correction.offset)
    if shared is not None:
        bias = per_channel(correction.bias)
        corrected -= bias
        corrected /= shared.factor(rows, columns)
        corrected += bias
    x = np.arange(shape[1])[columns] - (shape[1] - 1) / 2
    y = np.arange(shape[0])[rows, None] - (shape[0] - 1) / 2
    add_surface(corrected, correction, x, y)
    with np.errstate(over="ignore"):  # beyond the range of float32 is infinite
        return corrected.astype(np.float32)


def add_surface(
    corrected: np.ndarray, correction: Correction, x: np.ndarray, y: np.ndarray
) -> None:
    """Add the surface of a tile at pixels x and y from its centre, in place.

    Terms along one axis are added without an array of the size of the strip if x is ``(w,)`` and y
    ``(h, 1)``.
    """
    for name, (power_x, power_y) in SURFACE_POWERS.items():
        coefficient = getattr(correction, name)
        if np.any(coefficient):
            corrected += per_channel(coefficient) * (_power(x, power_x) * _power(y, power_y))


def _power(values: np.ndarray, power: int) -> np.ndarray | float:
    return values**power if power else 1.0


def per_channel(values: np.ndarray | float) -> np.ndarray:
    """Return a number, or one of each channel, to be broadcast with ``(C, h, w)``."""
    return np.reshape(values, (-1, 1, 1))


def pixel_factor(correction: Correction) -> np.ndarray:
    """Return the factor of the pixels' noise, gain / F, to be broadcast with ``(C, H, W)``."""
    gain, shared = per_channel(correction.gain), correction.illumination
    return gain if shared is None else gain / shared.factor()
