"""A survey of a tile before the coadd: its noise, its borders, its blank pixels, its header."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..preview.binning import bin_strip
from ..preview.noise import estimate_noise
from ..tiles.blank_survey import Survey
from ..tiles.blanks import find_blanks
from ..tiles.fits_files import open_fits
from ..tiles.tile import Tile

#: Bins along the shorter side of a tile, and those of them over which its weight rises.
BINS, FEATHER_BINS = 64, 8
#: Weight of a valid pixel at the border: it counts alone, but hardly beside other tiles.
FLOOR = 1e-3
#: Side in pixels of the bins that the noise is measured in, as for the previews of most tiles.
NOISE_BIN = 2
#: Pixels of the strips in which a tile is read, and pixels that the noise is measured in.
STRIP_PIXELS, NOISE_PIXELS = 1 << 18, 1 << 21
#: Weights that their median is taken of.
SAMPLED_WEIGHTS = 1 << 16
#: Keywords of a tile that the header of the mosaic is made of.
KEYWORDS = (
    "OBJECT", "FILTER", "INSTRUME", "TELESCOP", "DATE-OBS", "DATE-END", "LIVETIME", "TOTALEXP",
    "EXPTIME", "EXPOSURE",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TileSurvey:
    """A tile as the coadd needs to know it beforehand.

    Parameters
    ----------
    noise : ndarray
        ``(C,)`` float64 standard deviation of the noise of a pixel in ADU, from bins of two
        pixels; 0 if unknown.
    feather : ndarray
        ``(h, w)`` float32 in bins of `side` pixels: a weight that falls from 1 to almost 0 towards
        the borders of the valid pixels. Single bad pixels have no border.
    side : int
        Side of a bin in pixels.
    typical_weight : float
        Median of the tile's own weights, 1 without any.
    blank : bytes or None
        Pixels that hold no datum, one bit each, compressed; None without any.
    keywords : Mapping
        Values of `KEYWORDS` in its header.
    """

    noise: np.ndarray
    feather: np.ndarray
    side: int
    typical_weight: float
    blank: bytes | None
    keywords: Mapping[str, object]

    @cached_property
    def _blank_bits(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.blank or b""), dtype=np.uint8)

    def blank_mask(self, shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """Return the blank pixels ``(h, w)`` bool of a part of the tile of the given shape."""
        bits = self._blank_bits.reshape(shape[0], -1)[rows]
        return np.unpackbits(bits, axis=1)[:, columns].astype(bool)


def survey_tile(tile: Tile) -> TileSurvey:
    """Read a tile once, or several times if it has blank pixels.

    Raises
    ------
    TileError
        It cannot be read to its end.
    """
    values = Survey(tile.shape[0])
    layers = _read(tile, None, values)
    blanks = find_blanks(tile, values)
    mask = None if blanks is None else blanks.grown()
    if mask is not None:
        layers = _read(tile, mask, None)
    return TileSurvey(
        noise=layers.noise,
        feather=feather(layers.valid >= 0.5),
        side=layers.side,
        typical_weight=layers.typical_weight,
        blank=None if mask is None else zlib.compress(np.packbits(mask, axis=1).tobytes(), 1),
        keywords=_keywords(tile),
    )


class _Layers(NamedTuple):
    """Valid share of each bin ``(h, w)``, side of a bin, noise ``(C,)`` and typical weight."""

    valid: np.ndarray
    side: int
    noise: np.ndarray
    typical_weight: float


def _read(tile: Tile, blank: np.ndarray | None, values: Survey | None) -> _Layers:
    """Read a tile without its blank pixels, and add its strips to the survey of its values."""
    side = max(1, min(tile.shape) // BINS)
    rows = max(1, STRIP_PIXELS // (tile.shape[1] * side)) * side
    strips = -(-tile.shape[0] // rows)
    every = min(strips, max(1, tile.shape[0] * tile.shape[1] // NOISE_PIXELS))
    valid = np.zeros([-(-length // side) for length in tile.shape], dtype=np.float32)
    bins, weights = [], []
    for number, strip in enumerate(tile.strips(rows, weights=True)):
        channels = strip[: tile.channels]
        if values is not None:
            values.add(channels)
        if blank is not None:
            channels[:, blank[number * rows : (number + 1) * rows]] = np.nan
        share = _valid_share(channels, side)
        valid[number * rows // side :][: len(share)] = share
        if number % every == every // 2:
            bins.append(bin_strip(channels, min(NOISE_BIN, *tile.shape))[0])
        if tile.has_weights:
            positive = strip[-1][strip[-1] > 0]
            weights.append(positive[:: max(1, len(positive) * strips // SAMPLED_WEIGHTS)])
    joined = np.concatenate(bins, axis=1)
    noise = np.array([estimate_noise(channel) * min(NOISE_BIN, *tile.shape) for channel in joined])
    typical = float(np.median(np.concatenate(weights))) if any(map(len, weights)) else 1.0
    return _Layers(valid, side, noise, typical)


def feather(valid: np.ndarray) -> np.ndarray:
    """Return weights ``(h, w)`` float32 that rise with the distance from the borders.

    Parameters
    ----------
    valid : ndarray
        ``(h, w)`` bool; what is beyond its edges is not valid.
    """
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1] - 0.5
    width = max(1.0, min(valid.shape) * FEATHER_BINS / BINS)
    t = np.clip(distance / width, 0, 1)
    return (FLOOR + (1 - FLOOR) * t * t * (3 - 2 * t)).astype(np.float32)


def _valid_share(strip: np.ndarray, side: int) -> np.ndarray:
    """Return the share of pixels ``(h, w)`` of each bin that are valid in all channels."""
    valid = np.isfinite(strip[0])
    for channel in strip[1:]:
        valid &= np.isfinite(channel)
    _, height, width = strip.shape
    ends = [np.arange(0, length, side) for length in (height, width)]
    counts = np.add.reduceat(valid, ends[0], axis=0, dtype=np.int32)
    counts = np.add.reduceat(counts, ends[1], axis=1)
    sizes = [np.diff(np.append(end, n)) for end, n in zip(ends, (height, width), strict=True)]
    return counts / np.outer(*sizes)


def _keywords(tile: Tile) -> dict[str, object]:
    if tile.path is None:
        return {}
    with open_fits(tile.path) as hdus:
        headers = hdus[tile.options.hdu].header, hdus[0].header
        found = {}
        for key in KEYWORDS:
            for header in headers:
                if key in header and str(header[key]).strip():
                    found[key] = header[key]
                    break
    return found
