"""Binning of a tile: means over bins of its valid pixels, read strip by strip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._kernels.block_sums import block_sum
from ..tiles.blanks import Survey
from ..tiles.tile import Tile
from .saturation import drop_saturated

#: Pixels of a strip, 1 MiB.
STRIP_PIXELS = 1 << 18


def bin_tile(
    tile: Tile, side: int, blank: np.ndarray | None = None, survey: Survey | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a tile and average it in bins; saturated pixels are invalid.

    Parameters
    ----------
    tile : Tile
        A tile of C channels. Its relative weights, if it has any, are binned as one more.
    side : int
        Side of a bin in pixels; rows and columns beyond the last whole bin are ignored.
    blank : ndarray or None
        ``(H, W)`` bool: pixels that are invalid as well.
    survey : Survey or None
        To be filled with the strips of the tile.

    Returns
    -------
    means : ndarray
        ``(C, H // side, W // side)`` float32; 0 where no pixel is valid.
    valid_fraction : ndarray or None
        Fraction of valid pixels, of the same shape; None if all pixels are valid.
    """
    height, width = tile.shape
    shape = (tile.channels + tile.has_weights, height // side, width // side)
    means, valid_fraction = np.empty(shape, dtype=np.float32), None
    strip_bins = max(1, STRIP_PIXELS // (tile.channels * width * side))
    for number, strip in enumerate(_read_layers(tile, strip_bins * side, blank, survey)):
        rows = slice(number * strip_bins, (number + 1) * strip_bins)
        means[:, rows], fraction = bin_strip(strip, side)
        if fraction is not None:
            if valid_fraction is None:
                valid_fraction = np.ones(shape, dtype=np.float32)
            valid_fraction[:, rows] = fraction
    if tile.has_weights:
        means[-1] /= np.median(means[-1][means[-1] > 0])
    return means, valid_fraction


def _read_layers(
    tile: Tile, rows: int, blank: np.ndarray | None, survey: Survey | None
) -> Iterator[np.ndarray]:
    """Yield strips of the channels without saturated pixels and of the relative weights."""
    highest = np.full(tile.channels, -np.inf)
    top = 0
    for layers in tile.strips(rows, weights=True):
        strip = layers[: tile.channels]
        bottom = top + strip.shape[1]
        if survey is not None:
            survey.add(strip)
        if blank is not None:
            strip[:, blank[top:bottom]] = np.nan
        drop_saturated(strip, highest)
        yield layers
        top = bottom


def bin_strip(strip: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return means and valid fractions, like `bin_tile`, of ``(C, H, W)`` float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # invalid pixels spoil the sum of their bin
        sums = block_sum(strip, side)
    if np.isfinite(sums).all():
        sums *= np.float32(1 / side**2)
        return sums, None
    valid = np.isfinite(strip)
    counts = block_sum(valid.astype(np.float32), side)
    sums = block_sum(np.where(valid, strip, np.float32(0)), side)
    return sums / np.maximum(counts, 1), counts / np.float32(side**2)
