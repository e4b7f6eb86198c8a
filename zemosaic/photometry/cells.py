"""The common cells of a pair, gathered into a few thousand rows for the fit.

All common cells count, but not one by one: sky and clouds are smooth, so the mean of a block of
4 x 4 cells says as much as its cells. Where stars stand far above the noise in both tiles the
block is kept cell by cell, since there registration and seeing matter; so are all blocks of a
small overlap. Blocks lie on the lattice of the overlap and stars are found in both tiles
together, far above their noise, hence the choice of rows bends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zemosaic.photometry.preview import Preview
from zemosaic.photometry.regression import median, planes_through

SAMPLE = 500  # rows for medians, about
SIDE = 4  # cells of a block; doubled until there are fewer than MANY_BLOCKS
MANY_BLOCKS = 2_000
CLUSTER = 12  # cells: errors are taken to be independent from one such patch to the next
FEW_CELLS = 2_500  # up to which all are taken one by one
FINE_CELLS = 512  # of the blocks with the brightest stars, where there are more than that
STANDS_OUT = 12.0  # both tiles' deviations together: a cell with a star in it
SHARED_NOISE = 0.3  # of a cell's, with its neighbour: the sampling kernel is wider than a cell
# Noise of the details between a block, 3 blocks, 9 and the largest, in units of a block's.
DETAIL_NOISE = (0.95, 0.42, 0.14)


@dataclass(frozen=True, eq=False)
class Rows:
    """What one channel of a pair has in common: means of blocks first, then single cells.

    Parameters
    ----------
    x, y, vx, vy : ndarray
        ``(R,)`` float64: values of both tiles in ADU, and their variances.
    u, v : ndarray
        ``(R,)`` float64: place in cells, from the corner of the overlap.
    cluster : ndarray
        ``(R,)`` int: number of the patch of CLUSTER x CLUSTER cells.
    bright : ndarray
        ``(R,)`` bool: lies in a block with a star.
    cells : int
        Common valid cells.
    blocks : ndarray
        ``(4, h * w)`` x, y, vx, vy of all blocks, within a frame of empty ones.
    count : ndarray
        ``(h, w)`` float64: valid cells of all blocks.
    coarse, fine : ndarray
        Flat indices of the blocks that are rows, and of those whose cells are.
    windows : ndarray
        ``(4, F * (side + 2)**2)`` the cells in and around the fine blocks; x NaN where invalid.
    picked : ndarray
        Flat indices of those of their cells that are rows, in order.
    side : int
        Cells along a block.
    """

    x: np.ndarray
    y: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    u: np.ndarray
    v: np.ndarray
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

    @property
    def sample(self) -> slice:
        """Rows for medians."""
        return slice(None, None, max(1, len(self.x) // SAMPLE))

    def flattened(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y less a plane through each: gradients hide stars and mimic slopes."""
        dark = np.flatnonzero(~self.bright)[self.sample]
        if len(dark) < 3:
            dark = np.arange(len(self.x))
        z, u, v = np.stack([self.x, self.y]), self.u - self.u.mean(), self.v - self.v.mean()
        (x0, y0), (xu, yu), (xv, yv) = planes_through(z[:, dark], u[dark], v[dark])
        return self.x - (x0 + xu * u + xv * v), self.y - (y0 + yu * u + yv * v)

    def scene(self, slope: float, level: float) -> np.ndarray:
        """The scene in ADU of tile j that both tiles share, its gradient (u, v) and Laplacian.

        It is the mean whose noise the residual does not share, without what may be noise: details
        of each size are cut where they stay below three times their noise, as in wavelet
        denoising (Donoho and Johnstone 1994, Biometrika 81, 425). The noise that is left is
        independent of the residual, so any function of it is an instrument that bends nothing;
        rows that hold noise alone would only dilute it.

        Returns
        -------
        ndarray
            ``(4, R)`` per cell; derivatives are 0 where a neighbour is missing.
        """
        width, number = self.count.shape[1], self.count.ravel()
        there = np.flatnonzero(number)
        image, noise = _mean_scene(self.blocks, slope, level)
        typical = median(noise[there])
        three = _threes(np.stack([(image * number).reshape(self.count.shape), self.count]), 1)
        total, cells = _threes(three, 3).reshape(2, -1)[:, there]
        nine = total / cells
        total, cells = three.reshape(2, -1)[:, there]
        three = total / cells
        row, column = np.divmod(there, width)
        u, v = column - width / 2, row - len(self.count) / 2
        (z,), (du,), (dv,) = planes_through(nine[np.newaxis], u, v)
        plane = z + du * u + dv * v
        here = image[there]
        kept = np.full(len(number), np.nan)
        kept[there] = (
            plane
            + _cut(nine - plane, DETAIL_NOISE[2] * typical)
            + _cut(three - nine, DETAIL_NOISE[1] * typical)
            + _cut(here - three, DETAIL_NOISE[0] * noise[there])
        )
        scale = np.array([1, self.side, self.side, self.side**2], dtype=float)[:, None]
        found = _with_derivatives(kept, self.coarse, width) / scale
        if len(self.fine):
            cells, noise = _mean_scene(self.windows, slope, level)
            behind = np.repeat(kept[self.fine], (self.side + 2) ** 2)
            cells = behind + _cut(cells - behind, noise)
            nearby = _with_derivatives(cells, self.picked, self.side + 2)
            found = np.concatenate([found, nearby], axis=1)
        return found


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
    shape = (-(-h // side) + 2) * side, (-(-w // side) + 2) * side
    planes = np.zeros((len(first.values), 4, *shape), dtype=np.float32)
    valid = np.zeros((len(first.values), *shape), dtype=bool)
    inside = np.s_[..., side : side + h, side : side + w]
    for k, p in enumerate((first, second)):
        box = np.s_[:, y0 - p.y0 : y0 - p.y0 + h, x0 - p.x0 : x0 - p.x0 + w]
        planes[:, k][inside] = p.values[box]
        planes[:, 2 + k][inside] = p.variance[box]
    valid[inside] = np.isfinite(planes[:, 0][inside] + planes[:, 1][inside])
    np.copyto(planes, 0, where=~valid[:, None])
    return [_rows(*channel, side) for channel in zip(planes, valid, strict=True)]


def _rows(planes: np.ndarray, valid: np.ndarray, side: int) -> Rows:
    """Rows of the framed planes x, y, vx, vy ``(4, H, W)`` of a channel; 0 where invalid."""
    across = planes.shape[2]
    cells = int(np.count_nonzero(valid))
    count, u, v = _places(valid, side)
    width, number = count.shape[1], count.ravel()
    there = np.flatnonzero(number)
    many = np.maximum(number, 1)
    blocks = _column_sums(_row_sums(planes, side), side).reshape(4, -1) / many
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    least = np.full((2, 1), 1e-12)
    one = other = 0.0
    if cells:
        least[:, 0] += [(1e-6 * median(np.abs(z[there]))) ** 2 for z in blocks[:2]]
        one, other = (median(z[there]) ** -0.5 for z in blocks[2:] + least)
    blocks[2:] += least
    # How far the brightest cell of each block is above its mean, by both tiles together.
    light = planes[0] * np.float32(one) + planes[1] * np.float32(other)
    light[~valid] = -np.inf
    above = _highest(light, side).ravel() - one * blocks[0] - other * blocks[1]
    if cells <= FEW_CELLS:
        fine = there
    else:
        fine = np.flatnonzero(above > _threshold(above, FINE_CELLS // side**2))
    single = np.zeros(len(number), dtype=bool)
    single[fine] = True
    coarse = there[~single[there]]
    blocks[2:] *= np.where(number > 1, (1 + 2 * SHARED_NOISE * (1 - 1 / side)) ** 2 / many, 1.0)
    # The cells of the fine blocks and those around them.
    k = np.arange(side + 2)
    corner = (fine // width * side - 1) * across + fine % width * side - 1
    window = corner[:, None, None] + (k[:, None] * across + k)
    known = valid.ravel()[window]
    values = planes.reshape(4, -1)[:, window.ravel()].astype(np.float64)
    values[0, ~known.ravel()] = np.nan
    values[2:] += least
    known[:, [0, -1]] = known[:, :, [0, -1]] = False
    picked = np.flatnonzero(known)
    cell = window.ravel()[picked]
    x, y, vx, vy = np.concatenate([blocks[:, coarse], values[:, picked]], axis=1)
    share = many[coarse]
    u = np.concatenate([u.ravel()[coarse] / share, cell % across]) - side
    v = np.concatenate([v.ravel()[coarse] / share, cell // across]) - side
    patch = (v // CLUSTER) * (across // CLUSTER + 1) + u // CLUSTER
    bright = np.zeros(len(x), dtype=bool)
    bright[len(coarse) :] = (above[fine] > STANDS_OUT).repeat((side + 2) ** 2)[picked]
    return Rows(
        x, y, vx, vy, u, v, patch.astype(np.intp), bright, cells,
        blocks, count, coarse, fine, values, picked, side,
    )  # fmt: skip


def _row_sums(planes: np.ndarray, side: int) -> np.ndarray:
    *n, h, w = planes.shape
    return planes.reshape(*n, h // side, side, w).sum(axis=-2)


def _column_sums(rows: np.ndarray, side: int) -> np.ndarray:
    sums = rows[..., ::side].astype(np.float64)
    for k in range(1, side):
        sums += rows[..., k::side]
    return sums


def _places(valid: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each block: how many cells are valid, and the sums of their columns and rows."""
    h, w = valid.shape
    cells = valid.astype(np.float32)
    rows, columns = _row_sums(cells, side), _column_sums(cells, side)
    u = _column_sums(rows * np.arange(w, dtype=np.float32), side)
    return _column_sums(rows, side), u, _row_sums(columns * np.arange(h)[:, None], side)


def _highest(light: np.ndarray, side: int) -> np.ndarray:
    """Largest value of each block."""
    h, w = light.shape
    rows = light.reshape(h // side, side, w).max(axis=1)
    highest = rows[:, ::side]
    for k in range(1, side):
        highest = np.maximum(highest, rows[:, k::side])
    return highest


def _threshold(above: np.ndarray, most: int) -> float:
    """Above it are stars, and at most that many of them."""
    if len(above) <= most:
        return STANDS_OUT
    return max(STANDS_OUT, float(np.partition(above, -most - 1)[-most - 1]))


def _mean_scene(values: np.ndarray, slope: float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a·x and y whose noise y - a·x does not share, and its standard deviation."""
    x, y, vx, vy = values
    wide = slope**2 * vx
    both = wide + vy
    return (slope * x * vy + (y - level) * wide) / both, np.sqrt(wide * vy / both)


def _threes(images: np.ndarray, step: int) -> np.ndarray:
    """Sums over three elements `step` apart along both axes; beyond the edges are zeros."""
    rows = images.copy()
    rows[:, step:] += images[:, :-step]
    rows[:, :-step] += images[:, step:]
    both = rows.copy()
    both[..., step:] += rows[..., :-step]
    both[..., :-step] += rows[..., step:]
    return both


def _with_derivatives(image: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Value, gradient and Laplacian ``(4, N)`` of a flat image at some of its elements.

    An element without all four neighbours has zeros: it takes no part in these terms.
    """
    middle = image[at]
    left, right, low, high = (image[at + step] for step in (-1, 1, -width, width))
    across, along = left + right, low + high
    laplacian = across + along - 4 * middle
    terms = np.stack([middle, (right - left) / 2, (high - low) / 2, laplacian])
    terms[1:, ~np.isfinite(laplacian)] = 0.0
    return terms


def _cut(detail: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """Details shrunk to 0 at three times their noise, and little changed far above it."""
    square = np.maximum(detail * detail, 1e-300)
    return detail * np.maximum(0.0, 1 - 9 * noise * noise / square)
