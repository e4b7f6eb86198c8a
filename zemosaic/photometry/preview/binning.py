"""Binning of a tile: means over bins of its valid pixels, read strip by strip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._kernels.block_sums import block_sum
from ..tiles.blank_survey import Survey
from ..tiles.tile import Tile
from .damage import DamageSearch, drop_absurd_bins
from .saturation import SaturationSearch

#: Pixels of a strip, 1 MiB.
STRIP_PIXELS = 1 << 18
#: Values in the median for the pedestal; more are thinned.
PEDESTAL_SAMPLE = 1 << 12


class Pedestal:
    """The level near the sky of each channel, subtracted from the strips of a tile.

    It is the median of the first strip with data. Differences of similar numbers are exact.
    """

    def __init__(self) -> None:
        self.level: np.ndarray | None = None

    def subtract(self, strip: np.ndarray) -> None:
        """Subtract the pedestal from a strip ``(C, h, W)`` float32, in place."""
        if self.level is None:
            finite = [channel[np.isfinite(channel)] for channel in strip]
            if not any(map(len, finite)):
                return
            medians = [np.median(_thinned(values)) if len(values) else 0.0 for values in finite]
            self.level = np.array(medians, dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            strip -= self.level[:, None, None]

    def of(self, channels: int) -> np.ndarray:
        """Return the pedestal of each channel, ``(C,)`` float64."""
        return np.zeros(channels) if self.level is None else self.level.astype(np.float64)


def _thinned(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // PEDESTAL_SAMPLE)]


def bin_tile(
    tile: Tile,
    side: int,
    blank: np.ndarray | None = None,
    pedestal: Pedestal | None = None,
    survey: Survey | None = None,
    damage: DamageSearch | None = None,
    saturation: SaturationSearch | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a tile and average it in bins; bins that a clipped pixel touches are invalid.

    Parameters
    ----------
    tile : Tile
        A tile of C channels. Its relative weights, if it has any, are binned as one more.
    side : int
        Side of a bin in pixels; rows and columns beyond the last whole bin are ignored.
    blank : ndarray or None
        ``(H, W)`` bool: pixels that are invalid as well.
    pedestal : Pedestal or None
        Pedestal to subtract from the channels, to be found in their first strip.
    survey : Survey or None
        To be filled with the strips of the tile.
    damage : DamageSearch or None
        Searches the strips without blank pixels.
    saturation : SaturationSearch or None
        Searches them for clipped pixels; None makes one that knows of no level.

    Returns
    -------
    means : ndarray
        ``(C, H // side, W // side)`` float32; 0 where no pixel is valid.
    valid_fraction : ndarray or None
        Fraction of valid pixels, of the same shape; None if all pixels are valid. It is NaN in
        bins that a clipped pixel touches, which no kernel may contain.
    """
    height, width = tile.shape
    shape = (tile.channels + tile.has_weights, height // side, width // side)
    means, valid_fraction = np.empty(shape, dtype=np.float32), None
    strip_bins = max(1, STRIP_PIXELS // (tile.channels * width * side))
    if saturation is None:
        saturation = SaturationSearch((tile.channels, height, width))
    layers = _read_layers(tile, strip_bins * side, blank, pedestal, survey, damage, saturation)
    for number, strip in enumerate(layers):
        rows = slice(number * strip_bins, (number + 1) * strip_bins)
        means[:, rows], fraction = bin_strip(strip, side)
        if fraction is not None:
            if valid_fraction is None:
                valid_fraction = np.ones(shape, dtype=np.float32)
            valid_fraction[:, rows] = fraction
    if tile.has_weights:
        positive = means[-1][means[-1] > 0]
        means[-1] /= np.median(positive) if len(positive) else 1.0
    return means, _drop_clipped(drop_absurd_bins(means, valid_fraction), saturation, side, shape)


def _drop_clipped(
    valid_fraction: np.ndarray | None,
    saturation: SaturationSearch,
    side: int,
    shape: tuple[int, int, int],
) -> np.ndarray | None:
    """Return the valid fractions of the bins, NaN where a clipped pixel touches a bin."""
    clipped = saturation.bins(side)
    if clipped is None:
        return valid_fraction
    if valid_fraction is None:
        valid_fraction = np.ones(shape, dtype=np.float32)
    valid_fraction[:, clipped] = np.nan
    return valid_fraction


def _read_layers(
    tile: Tile,
    rows: int,
    blank: np.ndarray | None,
    pedestal: Pedestal | None,
    survey: Survey | None,
    damage: DamageSearch | None,
    saturation: SaturationSearch,
) -> Iterator[np.ndarray]:
    """Yield strips of the channels and of the relative weights, and have them searched."""
    top = 0
    for layers in tile.strips(rows, weights=True):
        strip = layers[: tile.channels]
        bottom = top + strip.shape[1]
        if survey is not None:
            survey.add(strip)
        if blank is not None:
            strip[:, blank[top:bottom]] = np.nan
        if damage is not None:
            damage.add(strip)
        saturation.add(strip)
        if pedestal is not None:
            pedestal.subtract(strip)
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
