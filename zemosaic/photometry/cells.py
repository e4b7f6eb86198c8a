"""The common cells of a pair, gathered into a few thousand rows for the fit.

All common cells count, but not one by one: sky and clouds are smooth, so the mean of a block of
4 x 4 cells says as much as its cells. Where stars stand far above the noise in both tiles the
block is kept cell by cell, since there registration and seeing matter; so are all blocks of a
small overlap. Blocks lie on the lattice of the overlap and stars are found in both tiles
together, far above their noise, hence the choice of rows bends nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zemosaic.photometry.preview import Preview

SIDE = 4  # cells of a block; doubled until there are fewer than MANY_BLOCKS
MANY_BLOCKS = 4_000
CLUSTER = 8  # cells: errors are taken to be independent from one 8 x 8 patch to the next
FEW_CELLS = 2_500  # up to which all are taken one by one
FINE_CELLS = 1_024  # of the blocks with the brightest stars, where there are more than that
STANDS_OUT = 12.0  # both tiles' deviations together: a cell with a star in it
SHARED_NOISE = 0.3  # of a cell's, with its neighbour: the sampling kernel is wider than a cell


class Rows(NamedTuple):
    """What one channel of a pair has in common: means of blocks first, then single cells.

    Parameters
    ----------
    rows : ndarray
        ``(4, R)`` float64: values of both tiles in ADU, and their variances.
    place : ndarray
        ``(2, R)`` float64: u and v in cells, from the corner of the overlap.
    cluster : ndarray
        ``(R,)`` int: number of the patch of CLUSTER x CLUSTER cells.
    bright : ndarray
        ``(R,)`` bool: lies in a block with a star.
    cells : int
        Common valid cells.
    blocks : ndarray
        ``(4, h * w)`` the same as `rows` for all blocks, within a frame of empty ones.
    count : ndarray
        ``(h, w)`` float64: valid cells of all blocks.
    coarse, fine : ndarray
        Flat indices of the blocks that are rows, and of those whose cells are.
    windows : ndarray
        ``(4, F * (side + 2)**2)`` the cells in and around the fine blocks; NaN where invalid.
    picked : ndarray
        Flat indices of those of their cells that are rows, in order.
    side : int
        Cells along a block.
    """

    rows: np.ndarray
    place: np.ndarray
    cluster: np.ndarray
    bright: np.ndarray
    cells: int
    blocks: np.ndarray
    count: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    windows: np.ndarray
    picked: np.ndarray
    side: int


def common_rows(first: Preview, second: Preview) -> list[Rows] | None:
    """The common cells of two previews on one grid, channel by channel; None where boxes part."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(p.x0 + p.values.shape[2] for p in (first, second))
    y1 = min(p.y0 + p.values.shape[1] for p in (first, second))
    if x1 <= x0 or y1 <= y0:
        return None
    h, w, side = y1 - y0, x1 - x0, SIDE
    while h * w > MANY_BLOCKS * side**2:
        side *= 2
    # Whole blocks, with a frame of one block.
    shape = ((-(-h // side) + 2) * side, (-(-w // side) + 2) * side)
    planes = np.full((len(first.values), 4, *shape), np.nan, dtype=np.float32)
    for k, p in enumerate((first, second)):
        box = np.s_[:, y0 - p.y0 : y0 - p.y0 + h, x0 - p.x0 : x0 - p.x0 + w]
        planes[:, k, side : side + h, side : side + w] = p.values[box]
        planes[:, 2 + k, side : side + h, side : side + w] = p.variance[box]
    return [_rows(channel, side) for channel in planes]


def _rows(planes: np.ndarray, side: int) -> Rows:
    """Rows of the framed planes x, y, vx, vy ``(4, H, W)`` of a channel."""
    valid = np.isfinite(planes[0] + planes[1])
    across = planes.shape[2]
    cells = int(np.count_nonzero(valid))
    filled = np.where(valid, planes, np.float32(0))
    count, v, u = _counts(valid, side)
    width = count.shape[1]
    number = count.ravel()
    there = number > 0
    many = np.maximum(number, 1)
    blocks = _block_sums(filled, side).reshape(4, -1) / many
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    least = np.full(2, 1e-12)
    if cells:
        least += (1e-6 * np.median(np.abs(blocks[:2, there]), axis=1)) ** 2
    blocks[2:] += least[:, None]
    stands_out = _stands_out(filled, valid, blocks, there, side)
    if cells <= FEW_CELLS:
        fine = np.flatnonzero(there)
    else:
        fine = np.flatnonzero(stands_out > _threshold(stands_out, FINE_CELLS // side**2))
    single = np.zeros(len(number), dtype=bool)
    single[fine] = True
    coarse = np.flatnonzero(there & ~single)
    blocks[2:] *= np.where(number > 1, (1 + 2 * SHARED_NOISE * (1 - 1 / side)) ** 2 / many, 1.0)
    # The cells of the fine blocks and those around them.
    corner = (fine // width * side - 1) * across + fine % width * side - 1
    k = np.arange(side + 2)
    windows = corner[:, None, None] + (k[:, None] * across + k)
    within = np.zeros_like(windows, dtype=bool)
    within[:, 1:-1, 1:-1] = valid.ravel()[windows[:, 1:-1, 1:-1]]
    picked = np.flatnonzero(within)
    cell = windows.ravel()[picked]
    values = planes.reshape(4, -1)[:, windows.ravel()].astype(np.float64)
    values[2:] += least[:, None]
    rows = np.concatenate([blocks[:, coarse], values[:, picked]], axis=1)
    place = np.empty((2, rows.shape[1]))
    place[0] = np.concatenate([(u.ravel() / many)[coarse], cell % across]) - side
    place[1] = np.concatenate([(v.ravel() / many)[coarse], cell // across]) - side
    patch = (place // CLUSTER).astype(np.intp)
    cluster = patch[1] * (across // CLUSTER + 1) + patch[0]
    bright = np.zeros(rows.shape[1], dtype=bool)
    bright[len(coarse) :] = (stands_out > STANDS_OUT)[fine].repeat((side + 2) ** 2)[picked]
    return Rows(
        rows, place, cluster, bright, cells, blocks, count, coarse, fine, values, picked, side
    )


def _block_sums(planes: np.ndarray, side: int) -> np.ndarray:
    """Sums ``(N, H / side, W / side)`` over blocks, float64."""
    n, h, w = planes.shape
    rows = planes.reshape(n, h // side, side, w).sum(axis=2)
    return _column_sums(rows, side)


def _column_sums(rows: np.ndarray, side: int) -> np.ndarray:
    sums = rows[..., ::side].astype(np.float64)
    for k in range(1, side):
        sums += rows[..., k::side]
    return sums


def _counts(valid: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each block: its valid cells, and the sums of their rows and of their columns."""
    h, w = valid.shape
    place = valid.astype(np.float32)
    rows = place.reshape(h // side, side, w).sum(axis=1)
    lines = np.arange(h, dtype=np.float32).reshape(-1, side, 1)
    down = (place.reshape(h // side, side, w) * lines).sum(axis=1)
    count, v, u = _column_sums(np.stack([rows, down, rows * np.arange(w, dtype=np.float32)]), side)
    return count, v, u


def _stands_out(
    filled: np.ndarray, valid: np.ndarray, blocks: np.ndarray, there: np.ndarray, side: int
) -> np.ndarray:
    """How far the brightest cell of each block is above its mean, by both tiles together."""
    if not there.any():
        return np.zeros(len(there))
    one, other = (1 / np.sqrt(np.median(v[there])) for v in blocks[2:])
    light = filled[0] * np.float32(one) + filled[1] * np.float32(other)
    light = np.where(valid, light, np.float32(-np.inf))
    h, w = light.shape
    rows = light.reshape(h // side, side, w).max(axis=1)
    highest = rows[:, ::side]
    for k in range(1, side):
        highest = np.maximum(highest, rows[:, k::side])
    above = highest.ravel() - one * blocks[0] - other * blocks[1]
    return np.where(there, above, 0.0)


def _threshold(stands_out: np.ndarray, most: int) -> float:
    """Above it are stars, and at most that many of them."""
    if len(stands_out) <= most:
        return STANDS_OUT
    return max(STANDS_OUT, float(np.partition(stands_out, -most - 1)[-most - 1]))
