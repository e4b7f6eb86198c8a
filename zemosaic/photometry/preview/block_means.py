"""Means of blocks of pixels, read strip by strip, and their noise."""

from __future__ import annotations

import numpy as np

from .._kernels.block_sums import block_sum
from ..tiles.tile import Tile

STRIP_PIXELS = 1 << 18  # read at once: 1 MiB
SATURATED = 10  # pixels of exactly the highest value: where light saturates, or noise, has one
SPIKE = 4  # times as many as have the value next to it
DIFFERENCES = 3 << 15  # about as many as these tell the noise of a block to 0.3 %


def block_means(tile: Tile, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a tile; mean of the valid pixels of each block, and the fraction that is valid.

    Parameters
    ----------
    tile : Tile
        Of C channels; its relative weights, if it has any, come as one more.
    block : int
        Side of a block in pixels; rows and columns beyond the last whole block are left out.

    Returns
    -------
    means : ndarray
        ``(C, H // block, W // block)`` float32; 0 where no pixel is valid.
    fraction : ndarray or None
        Of the same shape; None where all pixels are valid, as those that are saturated are not.
    """
    h, w = tile.shape
    highest = np.full(tile.channels, -np.inf)
    shape = (tile.channels + (tile.weight is not None), h // block, w // block)
    means, fraction = np.empty(shape, dtype=np.float32), None
    height = max(1, STRIP_PIXELS // (tile.channels * w * block))  # in blocks
    if tile.weight is not None:
        relative = (tile.weight / np.median(tile.weight[tile.weight > 0])).astype(np.float32)
    for number, planes in enumerate(tile.strips(height * block)):
        top = number * height
        drop_saturated(planes, highest)
        if tile.weight is not None:
            rows = slice(top * block, top * block + planes.shape[1])
            planes = np.concatenate([planes, relative[np.newaxis, rows]])  # noqa: PLW2901
        mean, valid = block_mean(planes, block)
        means[:, top : top + height] = mean
        if valid is not None:
            if fraction is None:
                fraction = np.ones(shape, dtype=np.float32)
            fraction[:, top : top + height] = valid
    return means, fraction


def drop_saturated(planes: np.ndarray, highest: np.ndarray) -> None:
    """Make pixels NaN, in all channels, where one channel is cut off at its highest value.

    Cut-off light tells nothing of a gain, and where many pixels have it in two tiles it passes for
    a scene. It is told by its spike: a sky without saturation has its highest value in one pixel,
    or, if it is quantised, hardly more often than the next one.

    Parameters
    ----------
    planes : ndarray
        ``(C, h, W)`` float32 in ADU, a strip of a tile.
    highest : ndarray
        ``(C,)`` the highest values of the strips before; those of this one are noted.
    """
    cut = None
    for k, plane in enumerate(planes):
        top = plane.max()
        if not np.isfinite(top):
            top = np.max(plane, initial=-np.inf, where=np.isfinite(plane))
        if top < highest[k]:
            continue  # saturation would be as high as the highest
        highest[k], at = top, plane == top
        count = np.count_nonzero(at)
        if count < SATURATED or not np.isfinite(top):
            continue
        below = np.max(plane, initial=-np.inf, where=plane < top)
        if np.isfinite(below) and count > SPIKE * np.count_nonzero(plane == below):
            cut = at if cut is None else cut | at
    if cut is not None:
        planes[:, cut] = np.nan


def block_mean(planes: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Means and valid fractions, as `block_means` gives them, of ``(C, H, W)`` float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # one that is not finite spoils its block
        sums = block_sum(planes, block)
    if np.isfinite(sums).all():
        sums *= np.float32(1 / block**2)
        return sums, None
    valid = np.isfinite(planes)
    counts = block_sum(valid.astype(np.float32), block)
    sums = block_sum(np.where(valid, planes, np.float32(0)), block)
    return sums / np.maximum(counts, 1), counts / np.float32(block**2)


def block_noise(means: np.ndarray) -> float:
    """Noise of a block from second differences: blind to slopes, hardly moved by stars.

    Parameters
    ----------
    means : ndarray
        ``(h, w)`` float32, the blocks of one channel.
    """
    # Every third difference is independent of the one before: the others tell little more.
    apart = 3 if means.size > DIFFERENCES else 1
    thin = max(1, 2 * means.size // (apart * DIFFERENCES))
    squares = np.concatenate([_bends(means[::thin].T, apart), _bends(means, apart * thin)])
    np.square(squares, out=squares)
    if not squares.all():
        squares = squares[squares > 0]  # padding and constant areas say nothing
    if not len(squares):
        return 0.0
    few = squares[:: max(1, len(squares) >> 14)]
    variance = float(np.median(few)) / 0.6745**2
    for some in (few, few, few, squares):
        # The rms of a normal distribution cut at ±2 sigma is 0.8796 sigma.
        kept = some[some < 4 * variance]
        if not len(kept):
            break
        variance = float(kept.mean(dtype=np.float64)) / 0.8796**2
    return float(np.sqrt(variance / 6.0))


def _bends(lines: np.ndarray, apart: int) -> np.ndarray:
    """Second differences along the first axis, `apart` lines from one to the next."""
    bends = lines[:-2:apart] + lines[2::apart]
    bends -= 2 * lines[1:-1:apart]
    return bends.ravel()
