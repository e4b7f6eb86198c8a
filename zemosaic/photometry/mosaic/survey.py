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

#: Bins along the shorter side of a tile, and the share of it over which its weight rises.
BINS, FEATHER = 64, 1 / 8
#: Weight of a valid pixel at the border: it counts alone, but hardly beside other tiles.
FLOOR = 1e-5
#: Side in pixels of the bins that the noise is measured in, as for the previews of most tiles.
NOISE_BIN = 2
#: Pixels of the strips in which a tile is read, and pixels that the noise is measured in.
STRIP_PIXELS, NOISE_PIXELS = 1 << 18, 1 << 21
#: Weights sampled for their median.
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
    distance : ndarray
        The distance from the border of the valid pixels, see `border_distance`. Single bad pixels
        have no border.
    typical_weight : float
        Median of the tile's own weights, 1 without any.
    blank : bytes or None
        Pixels that hold no datum, one bit each, compressed; None without any.
    keywords : Mapping
        Values of `KEYWORDS` in its header.
    """

    noise: np.ndarray
    distance: np.ndarray
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
        distance=border_distance(layers.valid >= 0.5, tile.shape),
        typical_weight=layers.typical_weight,
        blank=None if mask is None else zlib.compress(np.packbits(mask, axis=1).tobytes(), 1),
        keywords=_keywords(tile),
    )


class _Layers(NamedTuple):
    """Valid share of each bin ``(h, w)``, noise ``(C,)`` and typical weight."""

    valid: np.ndarray
    noise: np.ndarray
    typical_weight: float


def _read(tile: Tile, blank: np.ndarray | None, values: Survey | None) -> _Layers:
    """Read a tile without its blank pixels, and add its strips to the survey of its values."""
    height, width = tile.shape
    rows = max(2, STRIP_PIXELS // width)
    strips = -(-height // rows)
    every = min(strips, max(1, height * width // NOISE_PIXELS))
    edges, side = _bin_edges(tile.shape), min(NOISE_BIN, height, width)
    counts, bins, weights = [], [], []
    for number, strip in enumerate(tile.strips(rows, weights=True)):
        channels = strip[: tile.channels]
        if values is not None:
            values.add(channels)
        if blank is not None:
            channels[:, blank[number * rows : (number + 1) * rows]] = np.nan
        valid = np.isfinite(channels).all(axis=0)
        counts.append(np.add.reduceat(valid, edges[1][:-1], axis=1, dtype=np.int32))
        if number % every == 0 and channels.shape[1] >= side:  # the last may be a single row
            bins.append(bin_strip(channels, side)[0])
        if tile.has_weights:
            positive = strip[-1][strip[-1] > 0]
            weights.append(positive[:: max(1, len(positive) * strips // SAMPLED_WEIGHTS)])
    count = np.add.reduceat(np.concatenate(counts), edges[0][:-1], axis=0)
    return _Layers(count / np.outer(*map(np.diff, edges)), _noise(bins, side), _median(weights))


def _noise(bins: list[np.ndarray], side: int) -> np.ndarray:
    """Return the noise of a pixel ``(C,)`` by the bins of some strips."""
    joined = np.concatenate(bins, axis=1)
    return np.array([estimate_noise(channel) * side for channel in joined])


def _median(weights: list[np.ndarray]) -> float:
    return float(np.median(np.concatenate(weights))) if any(map(len, weights)) else 1.0


def _bin_edges(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first rows and columns of bins as square as possible, and the ends."""
    side = max(1, min(shape) // BINS)
    rows, columns = (
        np.rint(np.linspace(0, length, max(1, round(length / side)) + 1)).astype(np.intp)
        for length in shape
    )
    return rows, columns


def border_distance(valid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the distance of bins from the border of the valid ones, in pixels.

    Parameters
    ----------
    valid : ndarray
        ``(h, w)`` bool.
    shape : tuple of int
        Height and width of the tile in pixels.

    Returns
    -------
    ndarray
        ``(h + 2, w + 2)`` float32 at the centres of the bins and of a ring of bins around the tile,
        negative on the other side of the border, which is 0 where bins meet.
    """
    from scipy import ndimage

    inside = np.pad(valid, 1)
    size = np.array(shape) / valid.shape
    distances = (ndimage.distance_transform_edt(part, size) for part in (inside, ~inside))
    within, beyond = (np.maximum(distance - size.mean() / 2, 0) for distance in distances)
    return (within - beyond).astype(np.float32)


def feather(distance: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the weight float32 at a distance in pixels from the border of a tile of a shape.

    It rises smoothly from almost 0 to 1. NaN is outside the tile, where the weight is 0.
    """
    with np.errstate(invalid="ignore"):
        t = np.clip(distance * np.float32(1 / max(1.0, FEATHER * min(shape))), 0, 1)
    t *= t * (3 - 2 * t)
    return np.nan_to_num(np.maximum(t, np.float32(FLOOR)))


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
