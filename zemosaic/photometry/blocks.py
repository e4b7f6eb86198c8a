"""What two previews hold in common: block by block, and cell by cell where that matters.

Blocks lie on the lattice of the grid, and previews know the means of theirs. Those that an edge or
a hole cuts are looked up cell by cell, unless they hold next to nothing; so are all blocks of a
small overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zemosaic.photometry.preview import SIDE, Preview
from zemosaic.photometry.sampling import block_highest, block_sum

FEW_CELLS = 2_500  # up to which all are taken one by one
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
    u: np.ndarray  # (N,) mean place of the cells, from the corner of the frame
    v: np.ndarray
    highest: np.ndarray  # (2, C, N) -inf where nothing is in common
    number: np.ndarray  # (N,) cells that these are made of
    cells: int  # in common
    few: bool


def in_common(pair: tuple[Preview, Preview], frame: Frame) -> Blocks | None:
    """What the blocks hold; None where channels are not valid in the same cells."""
    side, c = frame.side, len(pair[0].values)
    found = _blocks(pair, frame)
    counts = found[3]
    if c > 1 and (counts != counts[:, :1]).any():
        return None
    least = np.minimum(counts[0, 0], counts[1, 0])
    bound = least.sum()
    whole = least == SIDE**2
    number = np.where(whole, least, 0.0)
    few = bound <= FEW_CELLS
    # Sums over blocks of this overlap's size, of the parts of them that are whole.
    k, (h, w) = side // SIDE, least.shape
    sums = np.empty((4 * c + 4, h, w))
    np.multiply(found[:2].reshape(4 * c, h, w), number, out=sums[:-4])
    sums[-4:] = number * np.arange(w), number * np.arange(h)[:, None], number, least
    highest = np.where(whole, found[2], -np.inf).reshape(2 * c, h, w)
    if k > 1:
        sums, highest = block_sum(sums, k), block_highest(highest, k)
    number, least = sums[-2:].reshape(2, -1)
    means = sums[:-2].reshape(len(sums) - 2, -1) / np.maximum(number, 1)
    blocks, (u, v) = means[:-2].reshape(4, c, -1), means[-2:] * SIDE + (SIDE - 1) / 2
    highest = highest.reshape(2, c, -1)
    if few or number.sum() < WHOLE_ENOUGH * bound:
        at = np.flatnonzero(least if few else least - number)
        cells, known, row, column = cells_of(pair, frame, at, 0)
        if (known != known[:1]).any():
            return None
        known = known[0]
        number[at] = known.sum(axis=(1, 2))
        share = np.maximum(number[at], 1)
        u[at] = (known * column[:, None]).sum(axis=(1, 2)) / share - frame.left * side
        v[at] = (known * row[:, :, None]).sum(axis=(1, 2)) / share - frame.top * side
        np.copyto(cells, 0, where=~known)
        blocks[..., at] = mean = cells.sum(axis=(-1, -2)) / share
        # Not known cells are no brighter than the mean.
        cells = np.where(known, cells[:2], mean[:2, ..., None, None])
        highest[..., at] = cells.max(axis=(-1, -2))
        bound = number.sum()
    return Blocks(blocks, u, v, highest, number, int(bound), bool(few))


def _blocks(pair: tuple[Preview, Preview], frame: Frame) -> np.ndarray:
    """The blocks of both previews ``(4, 2, C, h, w)`` in a frame, 0 beyond their own."""
    k = frame.side // SIDE
    high, wide = frame.height * k, frame.width * k
    blocks = np.zeros((4, 2, len(pair[0].values), high, wide))
    for t, p in enumerate(pair):
        found = p.blocks
        y, x = p.y0 // SIDE - frame.top * k, p.x0 // SIDE - frame.left * k
        blocks[:, t, :, max(y, 0) : y + found.shape[2], max(x, 0) : x + found.shape[3]] = found[
            ..., max(-y, 0) : high - y, max(-x, 0) : wide - x
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
