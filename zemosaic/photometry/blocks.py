"""What two previews hold in common: block by block, and cell by cell where that matters.

Blocks lie on the lattice of the grid, and previews know the means of theirs. Those that an edge or
a hole cuts are looked up cell by cell, unless they hold next to nothing; so are all blocks of a
small overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zemosaic.photometry import compiled
from zemosaic.photometry.preview import SIDE, Preview
from zemosaic.photometry.regression import median, thin
from zemosaic.photometry.sampling import block_highest, block_sum

FEW_CELLS = 2_500  # up to which all are taken one by one
CLUSTER = 12  # cells: errors are taken to be independent from one such patch to the next
SHARED_NOISE = 0.3  # of a cell's, with its neighbour: the sampling kernel is wider than a cell
WHOLE_ENOUGH = 0.99  # of the cells in blocks that are whole: the others are not looked up


class Frame(NamedTuple):
    """The overlap of two previews, and the blocks that cover it, with a frame of one block."""

    x0: int
    y0: int
    x1: int
    y1: int
    side: int
    left: int
    top: int
    width: int
    height: int


class Blocks(NamedTuple):
    """What is in common in the blocks of a frame, all channels alike."""

    z: np.ndarray  # (4, C, N) means of x, y, vx and vy; 0 where nothing is in common
    place: np.ndarray  # (2, N) mean u and v of the cells, from the corner of the frame
    highest: np.ndarray  # (2, C, N) -inf where nothing is in common
    number: np.ndarray  # (N,) cells that these are made of
    cells: int  # in common
    few: bool


def in_common(pair: tuple[Preview, Preview], frame: Frame) -> Blocks | None:
    """What the blocks hold; None where channels are not valid in the same cells."""
    side, c = frame.side, len(pair[0].values)
    if compiled.fused:
        n = frame.width * frame.height
        blocks, place, highest = np.empty((4, c, n)), np.empty((2, n)), np.empty((2, c, n))
        number, least, told = np.empty(n), np.empty(n), np.empty(2)
        compiled.fused.in_common(
            *arrays(pair, frame), blocks, place, highest, number, least, told,
            SIDE, FEW_CELLS, WHOLE_ENOUGH,
        )  # fmt: skip
        if told[0] < 0:
            return None
        return Blocks(blocks, place, highest, number, int(told[0]), bool(told[1]))
    found = _blocks(pair, frame)
    counts = found[3]
    if c > 1 and (counts != counts[:, :1]).any():
        return None
    least = np.minimum(counts[0, 0], counts[1, 0])
    bound = least.sum()
    whole = least == SIDE**2
    number = np.where(whole, least, 0.0)
    few = bound <= FEW_CELLS
    k, (h, w) = side // SIDE, least.shape
    middle = (SIDE - 1) / 2
    sums = np.empty((4 * c + 3, h, w))
    np.multiply(found[:2].reshape(4 * c, h, w), number, out=sums[:-3])
    sums[-3] = number * (np.arange(w) * SIDE + middle)
    sums[-2] = number * (np.arange(h) * SIDE + middle)[:, None]
    sums[-1] = number
    highest = np.where(whole, found[2], -np.inf).reshape(2 * c, h, w)
    if few or number.sum() < WHOLE_ENOUGH * bound:
        v, u = np.nonzero(least * ~whole)
        small = frame._replace(side=SIDE, left=frame.left * k, top=frame.top * k, width=w, height=h)
        cells, known, row, column = cells_of(pair, small, v * w + u, 0)
        if (known != known[:1]).any():
            return None
        known = known[0]
        np.copyto(cells, 0, where=~known)
        sums[:-3, v, u] = cells.sum(axis=(-1, -2)).reshape(4 * c, -1)
        sums[-3, v, u] = (known * (column - frame.left * side)[:, None]).sum(axis=(1, 2))
        sums[-2, v, u] = (known * (row - frame.top * side)[:, :, None]).sum(axis=(1, 2))
        sums[-1, v, u] = known.sum(axis=(1, 2))
        tops = np.where(known, cells[:2], -np.inf).max(axis=(-1, -2), initial=-np.inf)
        highest[:, v, u] = tops.reshape(2 * c, -1)
        bound = sums[-1].sum()
    if k > 1:  # to blocks of this overlap's size
        sums, highest = block_sum(sums, k), block_highest(highest, k)
    number = sums[-1].ravel()
    means = sums[:-1].reshape(4 * c + 2, -1) / np.maximum(number, 1)
    return Blocks(
        means[:-2].reshape(4, c, -1), means[-2:], highest.reshape(2, c, -1), number,
        int(bound), bool(few),
    )  # fmt: skip


def arrays(pair: tuple[Preview, Preview], frame: Frame) -> list[np.ndarray]:
    """Two previews and their frame, as kernels take them."""
    k = frame.side // SIDE
    origins = [
        (p.x0, p.y0, p.x0 // SIDE - frame.left * k, p.y0 // SIDE - frame.top * k) for p in pair
    ]
    given = [z for p in pair for z in (p.blocks, p.values, p.variance)]
    return [
        *(np.ascontiguousarray(z, dtype=np.float32) for z in given),
        np.array(origins, dtype=np.intp).ravel(), np.array(frame, dtype=np.intp),
    ]  # fmt: skip


def _blocks(pair: tuple[Preview, Preview], frame: Frame) -> np.ndarray:
    """The blocks of both previews ``(4, 2, C, h, w)`` in a frame, 0 beyond their own."""
    k = frame.side // SIDE
    blocks = np.zeros((4, 2, len(pair[0].values), frame.height * k, frame.width * k))
    places = [(p.y0 // SIDE - frame.top * k, p.x0 // SIDE - frame.left * k) for p in pair]
    low, left = (max(0, *place) for place in zip(*places, strict=True))
    for t, (p, (y, x)) in enumerate(zip(pair, places, strict=True)):
        found = p.blocks[..., low - y :, left - x :]
        blocks[:, t, :, low : y + p.blocks.shape[2], left : x + p.blocks.shape[3]] = found[
            ..., : blocks.shape[3] - low, : blocks.shape[4] - left
        ]
    return blocks


def cells_of(
    pair: tuple[Preview, Preview], frame: Frame, blocks: np.ndarray, around: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells of some blocks and so many around them.

    Returns
    -------
    cells : ndarray
        ``(4, C, N, n, n)`` float64 x, y, vx, vy.
    known : ndarray
        ``(C, N, n, n)`` bool: valid in both tiles.
    row, column : ndarray
        ``(N, n)`` on the grid.
    """
    c, k = len(pair[0].values), np.arange(-around, frame.side + around)
    v, u = np.divmod(blocks[:, None], frame.width)
    row, column = (v + frame.top) * frame.side + k, (u + frame.left) * frame.side + k
    near_row = np.minimum(np.maximum(row, frame.y0), frame.y1 - 1)
    near_column = np.minimum(np.maximum(column, frame.x0), frame.x1 - 1)
    cells = np.empty((4, c, len(blocks), len(k), len(k)))
    for t, p in enumerate(pair):
        width = p.values.shape[2]
        first = near_column - (p.y0 * width + p.x0)
        place = (near_row * width)[:, :, None] + first[:, None]
        cells[t] = p.values.reshape(c, -1).take(place, axis=1)
        cells[2 + t] = p.variance.reshape(c, -1).take(place, axis=1)
    known = np.isfinite(cells[0] + cells[1])
    known &= (row == near_row)[:, :, None] & (column == near_column)[:, None]
    return cells, known, row, column


def weighed(
    blocks: np.ndarray, highest: np.ndarray, number: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the variances in `blocks`, those of cells, the variances of means.

    Returns
    -------
    tiny, typical : ndarray
        ``(2, C, 1)`` what was added to each cell's variance, and the median of the means'.
    above : ndarray
        ``(N,)`` how far the brightest cells of each block are above its mean, in both tiles
        together, in standard deviations.
    """
    c, n = blocks.shape[1:]
    shared = (1 + 2 * SHARED_NOISE * (1 - 1 / side)) ** 2
    if compiled.fused:
        tiny, typical, above = np.empty((2, c, 1)), np.empty((2, c, 1)), np.empty(n)
        compiled.fused.weighed(
            blocks, highest, number, tiny, typical, above, np.empty(n), shared, side**2
        )
        return tiny, typical, above
    there = np.flatnonzero(number)
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    typical = np.ones((4, c, 1))
    if len(there):
        typical = median(np.abs(blocks[..., there[thin(len(there))]]))[..., None]
    tiny = 1e-12 + (1e-6 * typical[:2]) ** 2
    typical = typical[2:] + tiny
    above = ((highest - blocks[:2]) * typical**-0.5).sum(axis=0).max(axis=0)
    blocks[2:] += tiny
    blocks[2:] *= np.minimum(shared / np.maximum(number, 1), 1)
    return tiny, typical * (shared / side**2), above


def gathered(
    pair: tuple[Preview, Preview], frame: Frame, fine: np.ndarray, coarse: np.ndarray,
    blocks: np.ndarray, place: np.ndarray, tiny: np.ndarray,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """The rows of some blocks, and of the cells of others.

    Returns
    -------
    pixels, places : ndarray
        As in `Rows`.
    cells, at : ndarray
        ``(4, C, R)`` x, y, vx, vy, and ``(2, R)`` u and v.
    patch, block : ndarray
        ``(R,)`` cluster, and for the cells which of the fine blocks they lie in.
    """
    n, across, c = len(coarse), frame.side + 2, blocks.shape[1]
    if compiled.fused:
        most = n + len(fine) * frame.side**2
        pixels = np.empty((4, c, blocks.shape[-1] + len(fine) * across**2))
        cells, at = np.empty((4, c, most)), np.empty((2, most))
        places, patch, block, told = (
            np.empty(k, dtype=np.intp) for k in ((5, most), most, most, 1)
        )
        compiled.fused.gathered(
            *arrays(pair, frame), fine, coarse, blocks, place, tiny, pixels, places, cells, at,
            patch, block, told, CLUSTER,
        )  # fmt: skip
        k = int(told[0])
        found = (np.ascontiguousarray(z[..., :k]) for z in (places, cells, at, patch))
        return pixels, *found, block[n:k]
    # The cells of the fine blocks and those around them.
    cells, known, row, column = cells_of(pair, frame, fine, 1)
    cells[2:] += tiny[..., None, None]
    np.copyto(cells[0], np.nan, where=~known)
    known = known[0]
    known[:, [0, -1]] = known[:, :, [0, -1]] = False
    picked = np.flatnonzero(known)
    pixels = np.concatenate([blocks, cells.reshape(4, c, -1)], axis=-1)
    places = np.empty((5, n + len(picked)), dtype=np.intp)
    places[0, :n], places[0, n:] = coarse, picked + blocks.shape[-1]
    np.add(places[0], [[-1], [1]], out=places[1:3])
    places[3:, :n] = coarse + np.array([[-frame.width], [frame.width]])
    places[3:, n:] = places[0, n:] + np.array([[-across], [across]])
    block, rest = np.divmod(picked, across**2)
    down, right = np.divmod(rest, across)
    at = np.empty((2, n + len(picked)))
    corner = frame.left * frame.side - frame.x0, frame.top * frame.side - frame.y0
    np.add(place[:, coarse], np.array(corner)[:, None], out=at[:, :n])
    at[0, n:] = column[:, 0][block] + right - frame.x0
    at[1, n:] = row[:, 0][block] + down - frame.y0
    # Patches lie on the grid's lattice, too.
    first, beyond = frame.x0 // CLUSTER, frame.x1 // CLUSTER + 1
    patch = ((at[1] + frame.y0) // CLUSTER - frame.y0 // CLUSTER) * (beyond - first)
    patch += (at[0] + frame.x0) // CLUSTER - first
    return pixels, places, pixels.take(places[0], axis=-1), at, patch.astype(np.intp), block
