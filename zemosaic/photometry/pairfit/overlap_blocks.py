"""What two previews hold in common: block by block, or cell by cell where there is little.

Blocks lie on the lattice of the grid, and previews know the means of theirs. Those that an edge or
a hole cuts are looked up cell by cell, unless they hold next to nothing. A small overlap is taken
cell by cell: blocks of one cell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._kernels import compiled
from ..preview.block_summary import BORDER_ERROR, CELL_ERROR
from ..preview.block_sums import block_highest, block_sum
from ..preview.preview import SIDE, Preview
from .algebra import median, thin

FEW_CELLS = 2_500  # up to which all are taken one by one
SHARED_NOISE = 0.3  # of a cell's, with its neighbour: the sampling kernel is wider than a cell
WHOLE_ENOUGH = 0.99  # of the cells in blocks that are whole: the others are not looked up
KINDS = 5  # of numbers: value, variance, gradient along u and v, Laplacian
IN_BLOCKS = [0, 1, 3, 4, 5]  # where `Preview.blocks` has them


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

    z: np.ndarray  # (5, 2, C, N) means of each kind in both tiles; 0 where nothing is in common
    place: np.ndarray  # (2, N) mean u and v of the cells, from the corner of the frame
    highest: np.ndarray  # (2, C, N) -inf where nothing is in common
    number: np.ndarray  # (N,) cells that these are made of
    cells: int  # in common
    few: bool  # so that they are to be taken one by one; nothing else is told then


def gather_blocks(pair: tuple[Preview, Preview], frame: Frame) -> Blocks | None:
    """What the blocks hold; None where channels are not valid in the same cells."""
    side, c, n = frame.side, len(pair[0].values), frame.width * frame.height
    error = CELL_ERROR if side == 1 else BORDER_ERROR
    if compiled.fused:
        z, place, highest = np.empty((KINDS, 2, c, n)), np.empty((2, n)), np.empty((2, c, n))
        number, least, told = np.empty(n), np.empty(n), np.empty(2)
        compiled.fused.gather_blocks(
            *arrays(pair, frame), z, place, highest, number, least, told,
            SIDE, FEW_CELLS, WHOLE_ENOUGH, error,
        )  # fmt: skip
        if told[0] < 0:
            return None
        return Blocks(z, place, highest, number, int(told[0]), bool(told[1]))
    found = Blocks(
        np.zeros((KINDS, 2, c, n)), np.zeros((2, n)), np.full((2, c, n), -np.inf), np.zeros(n), 0,
        False,
    )  # fmt: skip
    bound, looked_up = np.inf, np.ones((frame.height, frame.width), dtype=bool)
    if side > 1:
        blocks = _blocks(pair, frame)
        if c > 1 and (blocks[6] != blocks[6, :, :1]).any():
            return None
        least = blocks[6, :, 0].min(axis=0)
        bound = least.sum()
        if bound <= FEW_CELLS:
            return found._replace(cells=int(bound), few=True)
        _take_whole(blocks, least, side // SIDE, found)
        looked_up = ((least > 0) & (least < SIDE**2)).repeat(SIDE, axis=0).repeat(SIDE, axis=1)
    if found.number.sum() < WHOLE_ENOUGH * bound:
        if not _look_up(pair, frame, looked_up, error, found):
            return None
        bound = found.number.sum()
    share = 1 / np.maximum(found.number, 1)
    return found._replace(z=found.z * share, place=found.place * share, cells=int(bound))


def _take_whole(blocks: np.ndarray, least: np.ndarray, k: int, to: Blocks) -> None:
    """Sums over those of `blocks` (as `_blocks`) that are whole, k by k to one of this overlap."""
    whole = least == SIDE**2
    share = np.where(whole, least, 0.0)
    for sums, added in (
        (to.z, blocks[IN_BLOCKS] * share),
        (to.place, (np.indices(least.shape)[::-1] * SIDE + (SIDE - 1) / 2) * share),
        (to.number, share),
    ):
        sums[:] = block_sum(added.reshape(-1, *least.shape), k).reshape(sums.shape)
    highest = np.where(whole, blocks[2], -np.inf).reshape(-1, *least.shape)
    to.highest[:] = block_highest(highest, k).reshape(to.highest.shape)


def _look_up(
    pair: tuple[Preview, Preview], frame: Frame, where: np.ndarray, error: float, to: Blocks
) -> bool:
    """Add single cells of the frame to their blocks; whether channels are valid in the same."""
    side, (_, _, c, n) = frame.side, to.z.shape
    top, left = frame.y0 - frame.top * side, frame.x0 - frame.left * side
    row, column = np.nonzero(
        where[top : top + frame.y1 - frame.y0, left : left + frame.x1 - frame.x0]
    )
    cells, known = _cells(pair, row + frame.y0, column + frame.x0, error)
    if (known != known[:1]).any():
        return False
    row, column = row[known[0]], column[known[0]]
    b = (row + top) // side * frame.width + (column + left) // side
    some = cells[..., known[0]].reshape(2 * KINDS * c, -1)
    added = np.concatenate([some, [column + left, row + top, np.ones(len(b))]])
    sums = np.array([np.bincount(b, one, n) for one in added])
    to.z[:] += sums[:-3].reshape(to.z.shape)
    to.place[:] += sums[-3:-1]
    to.number[:] += sums[-1]
    for highest, one in zip(to.highest.reshape(-1, n), some, strict=False):  # values come first
        np.maximum.at(highest, b, one)
    return True


def gather_cells(
    pair: tuple[Preview, Preview], frame: Frame, blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The common cells of some blocks, by their flat indices.

    Returns
    -------
    z : ndarray
        ``(5, 2, C, R)`` of each kind (see `Blocks`).
    place : ndarray
        ``(2, R)`` u and v, from the corner of the frame.
    which : ndarray
        ``(R,)`` int: the one of `blocks` that each lies in.
    """
    side, c = frame.side, len(pair[0].values)
    if compiled.fused:
        n = len(blocks) * side**2
        z, place = np.empty((KINDS, 2, c, n)), np.empty((2, n))
        which, told = np.empty(n, dtype=np.intp), np.empty(1, dtype=np.intp)
        compiled.fused.gather_cells(*arrays(pair, frame), blocks, z, place, which, told, CELL_ERROR)
        k = int(told[0])
        return z[..., :k], place[:, :k], which[:k]
    v, u = (z[:, np.newaxis] * side for z in np.divmod(blocks, frame.width))
    down, right = np.divmod(np.arange(side**2), side)
    v, u, which = (v + down).ravel(), (u + right).ravel(), np.arange(len(blocks)).repeat(side**2)
    row, column = v + frame.top * side, u + frame.left * side
    inside = (row >= frame.y0) & (row < frame.y1) & (column >= frame.x0) & (column < frame.x1)
    cells, known = _cells(pair, row[inside], column[inside], CELL_ERROR)
    valid = known.all(axis=0)
    inside[inside] = valid
    return cells[..., valid], np.array([u, v], dtype=float)[:, inside], which[inside]


def arrays(pair: tuple[Preview, Preview], frame: Frame) -> list[np.ndarray]:
    """Two previews and their frame, as kernels take them."""
    origins = [
        (p.x0, p.y0, p.x0 // SIDE - frame.left * frame.side // SIDE,
         p.y0 // SIDE - frame.top * frame.side // SIDE)
        for p in pair
    ]  # fmt: skip
    given = [z for p in pair for z in (p.blocks, p.values, p.variance)]
    return [
        *(np.ascontiguousarray(z, dtype=np.float32) for z in given),
        np.array(origins, dtype=np.intp).ravel(), np.array(frame, dtype=np.intp),
    ]  # fmt: skip


def _blocks(pair: tuple[Preview, Preview], frame: Frame) -> np.ndarray:
    """The blocks of both previews ``(7, 2, C, h, w)`` in a frame, 0 beyond their own."""
    k = frame.side // SIDE
    blocks = np.zeros((7, 2, len(pair[0].values), frame.height * k, frame.width * k))
    places = [(p.y0 // SIDE - frame.top * k, p.x0 // SIDE - frame.left * k) for p in pair]
    low, left = (max(0, *place) for place in zip(*places, strict=True))
    for t, (p, (y, x)) in enumerate(zip(pair, places, strict=True)):
        found = p.blocks[..., low - y :, left - x :]
        blocks[:, t, :, low : y + p.blocks.shape[2], left : x + p.blocks.shape[3]] = found[
            ..., : blocks.shape[3] - low, : blocks.shape[4] - left
        ]
    return blocks


def _cells(
    pair: tuple[Preview, Preview], row: np.ndarray, column: np.ndarray, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `block_summary` says of blocks, of some cells of the grid that lie in both tiles.

    Returns
    -------
    cells, known : ndarray
        ``(5, 2, C, R)`` float64, and ``(C, R)`` bool: valid in both.
    """
    cells = np.zeros((KINDS, 2, len(pair[0].values), len(row)))
    for t, p in enumerate(pair):
        c, h, w = p.values.shape
        y, x, values = row - p.y0, column - p.x0, p.values.reshape(c, -1)
        at = y * w + x
        cells[0, t] = values.take(at, axis=1)
        cells[1, t] = p.variance.reshape(c, -1).take(at, axis=1)
        for kind, place, end, step in ((2, x, w, 1), (3, y, h, w)):
            there = np.array([place > 0, place + 1 < end])
            near = np.where(there, at + np.array([[-step], [step]]), at)
            steps = values.take(near, axis=1) - cells[0, t][:, np.newaxis]
            low, high = np.where(there, steps, np.nan).swapaxes(0, 1)
            both = np.isfinite(low + high)
            cells[kind, t] = np.where(both, (high - low) / 2, 0)
            cells[4, t] += np.where(both, low + high, 0)
            cells[1, t] += error**2 * (np.nan_to_num(low) ** 2 + np.nan_to_num(high) ** 2)
    return cells, np.isfinite(cells[0]).all(axis=0)


def block_weights(
    blocks: np.ndarray, highest: np.ndarray, number: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make the variances in `blocks` (as `Blocks.z`), those of cells, the variances of means.

    Returns
    -------
    typical : ndarray
        ``(2, C, 1)`` median of the variances of the means of whole blocks.
    above : ndarray
        ``(N,)`` how far the brightest cells of each block are above its mean, in both tiles
        together, in standard deviations.
    """
    c, n = blocks.shape[2:]
    shared = (1 + 2 * SHARED_NOISE * (1 - 1 / side)) ** 2
    if compiled.fused:
        typical, above = np.empty((2, c, 1)), np.empty(n)
        compiled.fused.block_weights(
            blocks, highest, number, typical, above, np.empty(n), shared, side**2
        )
        return typical, above
    there = np.flatnonzero(number)
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    typical = np.ones((2, 2, c, 1))
    if len(there):
        typical = median(np.abs(blocks[:2, ..., there[thin(len(there))]]))[..., None]
    tiny = 1e-12 + (1e-6 * typical[0]) ** 2
    noise = typical[1] + tiny
    above = ((highest - blocks[0]) * noise**-0.5).sum(axis=0).max(axis=0)
    blocks[1] += tiny
    blocks[1] *= np.minimum(shared / np.maximum(number, 1), 1)
    return noise * (shared / side**2), above
