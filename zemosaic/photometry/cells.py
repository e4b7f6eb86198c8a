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
from scipy.ndimage import uniform_filter

from zemosaic.photometry.preview import Preview
from zemosaic.photometry.regression import combined, solved

SAMPLE = 800  # rows for medians, about
BLOCK = 4  # cells
CLUSTER = 8  # cells: errors are taken to be independent from one 8 x 8 patch to the next
FEW_CELLS = 2_500  # up to which all are taken one by one
FINE_BLOCKS = 64  # at most: the brightest stars, where there are more cells than that
STANDS_OUT = 12.0  # both tiles' deviations together: a cell with a star in it
# The sampling kernel makes neighbours share about 0.3 of their noise, which widens a mean.
SHARED_NOISE = (1 + 2 * 0.3 * (1 - 1 / BLOCK)) ** 2
SMOOTHING = (3, 9)  # blocks
# Noise of the details between a block, those sizes and the largest, in units of a block's.
DETAIL_NOISE = (0.95, 0.42, 0.14)


@dataclass(frozen=True, eq=False)
class Rows:
    """What one channel of a pair has in common: means of blocks first, then single cells.

    Parameters
    ----------
    x, y, vx, vy : ndarray
        ``(R,)`` float64: values of both tiles in ADU, and their variances.
    u, v : ndarray
        ``(R,)`` float64 place in cells, from the corner of the overlap.
    cluster : ndarray
        ``(R,)`` int: number of the patch of CLUSTER x CLUSTER cells.
    bright : ndarray
        ``(R,)`` bool: lies beside or in a star.
    cells : int
        Common valid cells.
    blocks : ndarray
        ``(4, h, w)`` x, y, vx, vy of all blocks; 0 where one is empty.
    count : ndarray
        ``(h, w)`` valid cells of all blocks.
    coarse : ndarray
        Flat indices of the blocks that are rows.
    fine : ndarray
        ``(F,)`` flat indices of those whose cells are.
    windows : ndarray
        ``(4, F, 6, 6)`` x, y, vx, vy of the cells in and around those; NaN where invalid.
    inner : ndarray
        ``(F, 4, 4)`` bool: the valid cells, in the order of the rows.
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
    inner: np.ndarray

    @property
    def sample(self) -> slice:
        """Rows for medians."""
        return slice(None, None, max(1, len(self.x) // SAMPLE))

    def flattened(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y less a plane through each: gradients hide stars and mimic slopes."""
        basis = np.stack([np.ones_like(self.x), self.u - self.u.mean(), self.v - self.v.mean()])
        dark = basis if self.bright.all() else np.where(self.bright, 0.0, basis)
        normal = np.einsum("in,jn->ij", dark, dark)
        return tuple(
            z - combined(solved(normal, np.einsum("in,n->i", dark, z)), basis)
            for z in (self.x, self.y)
        )

    def scene(self, slope: float, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The scene in ADU of tile j that both tiles share, and its gradient and Laplacian.

        It is the mean whose noise the residual does not share, without what may be noise:
        details of each size are cut where they stay below three times their noise, as in wavelet
        denoising (Donoho and Johnstone 1994, Biometrika 81, 425). The noise that is left is
        independent of the residual, so any function of it is an instrument that bends nothing;
        rows that hold noise alone would only dilute it.

        Returns
        -------
        scene : ndarray
            ``(R,)``.
        terms : ndarray
            ``(3, R)``: along u, along v, Laplacian; per cell. 0 where a neighbour is missing.
        """
        image, noise = _mean_scene(self.blocks, slope, level)
        there = self.count > 0
        smooth, coarse = _smoothed(image, self.count), np.flatnonzero(there)
        rows, columns = np.divmod(coarse, there.shape[1])
        basis = np.stack([np.ones(len(rows)), columns - columns.mean(), rows - rows.mean()])
        largest = smooth[-1].ravel()[coarse]
        plane = combined(
            solved(np.einsum("in,jn->ij", basis, basis), np.einsum("in,n->i", basis, largest)),
            basis,
        )
        kept = np.full(there.shape, np.nan)
        typical = float(np.median(noise[there]))
        flat = kept.ravel()
        flat[coarse] = plane + _cut(largest - plane, DETAIL_NOISE[-1] * typical)
        for finer, rougher, share in zip([image, *smooth], smooth, DETAIL_NOISE, strict=False):
            kept += _cut(finer - rougher, share * (noise if finer is image else typical))
        du, dv, laplacian = derivatives(kept)
        terms = np.stack([du / BLOCK, dv / BLOCK, laplacian / BLOCK**2])
        scene, terms = flat[self.coarse], terms.reshape(3, -1)[:, self.coarse]
        if len(self.fine):
            cells, noise = _mean_scene(self.windows, slope, level)
            behind = flat[self.fine][:, None, None]
            cells = behind + _cut(cells - behind, noise)
            inner = np.s_[..., 1:-1, 1:-1]
            scene = np.concatenate([scene, cells[inner][self.inner]])
            nearby = np.stack([d[inner][self.inner] for d in derivatives(cells)])
            terms = np.concatenate([terms, nearby], axis=1)
        return scene, terms


def common_rows(first: Preview, second: Preview) -> list[Rows]:
    """The common cells of two previews on one grid, channel by channel."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(p.x0 + p.values.shape[2] for p in (first, second))
    y1 = min(p.y0 + p.values.shape[1] for p in (first, second))
    channels, w, h = len(first.values), max(x1 - x0, 0), max(y1 - y0, 0)
    # Whole blocks, with a frame of one cell.
    shape = (-(-h // BLOCK) * BLOCK + 2, -(-w // BLOCK) * BLOCK + 2)
    planes = np.full((channels, 4, *shape), np.nan, dtype=np.float32)
    for k, p in enumerate((first, second)):
        box = np.s_[:, y0 - p.y0 : y0 - p.y0 + h, x0 - p.x0 : x0 - p.x0 + w]
        planes[:, k, 1 : 1 + h, 1 : 1 + w] = p.values[box]
        planes[:, 2 + k, 1 : 1 + h, 1 : 1 + w] = p.variance[box]
    return [_rows(channel) for channel in planes]


def _rows(planes: np.ndarray) -> Rows:
    """Rows of the framed planes x, y, vx, vy ``(4, H, W)`` of a channel."""
    inside = planes[:, 1:-1, 1:-1]
    valid = np.isfinite(inside[0] + inside[1])
    cells = int(np.count_nonzero(valid))
    sums = _block_sums(np.where(valid, inside, np.float32(0)))
    place = valid.astype(np.float32)
    h, w = valid.shape
    along = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)
    count, v, u = _block_sums(np.stack([place, place * along[0], place * along[1]]))
    many = np.maximum(count, 1)
    blocks = sums / many
    # Sky without noise (simulated, or clipped to a constant) would have weights without bound.
    blocks[2:] += _least_variance(blocks[:2, count > 0])[:, None, None]
    stands_out = _stands_out(inside, valid, blocks, count)
    if cells <= FEW_CELLS:
        fine = np.flatnonzero(count)
    else:
        fine = np.flatnonzero(stands_out > _threshold(stands_out))
    is_coarse = count.ravel() > 0
    is_coarse[fine] = False
    coarse = np.flatnonzero(is_coarse)
    blocks[2:] *= np.where(count > 1, SHARED_NOISE / many, 1.0)
    windows, inner = _windows(planes, fine, count.shape[1])
    windows[2:] += _least_variance(blocks[:2, count > 0])[:, None, None, None]
    block, row, column = np.nonzero(inner)
    single = windows[:, block, row + 1, column + 1]
    row, column = (
        BLOCK * z + k
        for z, k in zip(np.divmod(fine[block], count.shape[1]), (row, column), strict=True)
    )
    values = np.concatenate([blocks.reshape(4, -1)[:, coarse], single], axis=1)
    u, v = (
        np.concatenate([(z / many).ravel()[coarse], place])
        for z, place in ((u, column), (v, row))
    )
    cluster = (v // CLUSTER).astype(np.intp) * (w // CLUSTER + 1) + (u // CLUSTER).astype(np.intp)
    bright = np.concatenate(
        [np.zeros(len(coarse), dtype=bool), (stands_out > STANDS_OUT)[fine[block]]]
    )
    return Rows(*values, u, v, cluster, bright, cells, blocks, count, coarse, fine, windows, inner)


def _least_variance(levels: np.ndarray) -> np.ndarray:
    """What is added to the variances ``(2,)`` of both tiles whose levels are given."""
    if not levels.size:
        return np.full(2, 1e-12)
    return (1e-6 * np.median(np.abs(levels), axis=1)) ** 2 + 1e-12


def _block_sums(planes: np.ndarray) -> np.ndarray:
    """Sums ``(N, H / BLOCK, W / BLOCK)`` over whole blocks, float64."""
    rows = planes[:, ::BLOCK] + planes[:, 1::BLOCK] + planes[:, 2::BLOCK] + planes[:, 3::BLOCK]
    sums = rows[..., ::BLOCK].astype(np.float64)
    for k in range(1, BLOCK):
        sums += rows[..., k::BLOCK]
    return sums


def _stands_out(
    planes: np.ndarray, valid: np.ndarray, blocks: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """How far the brightest cell of each block is above its mean, by both tiles together."""
    if not count.any():
        return np.zeros(count.size)
    one, other = (1 / np.sqrt(np.median(v[count > 0])) for v in blocks[2:])
    light = planes[0] * np.float32(one) + planes[1] * np.float32(other)
    light = np.where(valid, light, np.float32(-np.inf))
    rows = light[::BLOCK]
    for k in range(1, BLOCK):
        rows = np.maximum(rows, light[k::BLOCK])
    highest = rows[:, ::BLOCK]
    for k in range(1, BLOCK):
        highest = np.maximum(highest, rows[:, k::BLOCK])
    return np.where(count > 0, highest - one * blocks[0] - other * blocks[1], 0.0).ravel()


def _threshold(stands_out: np.ndarray) -> float:
    """Above it are stars, and at most FINE_BLOCKS of them."""
    if len(stands_out) <= FINE_BLOCKS:
        return STANDS_OUT
    return max(STANDS_OUT, float(np.partition(stands_out, -FINE_BLOCKS - 1)[-FINE_BLOCKS - 1]))


def _windows(planes: np.ndarray, fine: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells in and around some blocks, by flat index, and which of those within are valid."""
    row, column = (BLOCK * z for z in np.divmod(fine, width))
    k = np.arange(BLOCK + 2)
    across = planes.shape[2]
    index = (row * across + column)[:, None, None] + k[:, None] * across + k
    windows = planes.reshape(4, -1)[:, index].astype(np.float64)
    inner = np.isfinite(windows[0] + windows[1])[:, 1:-1, 1:-1]
    return windows, inner


def _mean_scene(
    planes: np.ndarray, slope: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a·x and y whose noise y - a·x does not share, and its standard deviation."""
    x, y, vx, vy = planes
    wide = slope**2 * vx
    both = vy + wide
    return (slope * x * vy + (y - level) * wide) / both, np.sqrt(wide * vy / both)


def _smoothed(image: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
    """Means over squares of SMOOTHING blocks."""
    both = np.stack([image * count, count])
    smooth = [uniform_filter(both, (1, size, size), mode="constant") for size in SMOOTHING]
    return [total / np.maximum(number, 1e-9) for total, number in smooth]


def derivatives(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences along the last axis and the one before, and the Laplacian.

    An element without all four neighbours has zeros: it takes no part in these terms.
    """
    middle = image[..., 1:-1, 1:-1]
    left, right = image[..., 1:-1, :-2], image[..., 1:-1, 2:]
    low, high = image[..., :-2, 1:-1], image[..., 2:, 1:-1]
    terms = np.zeros((3, *image.shape))
    terms[0, ..., 1:-1, 1:-1] = (right - left) / 2
    terms[1, ..., 1:-1, 1:-1] = (high - low) / 2
    terms[2, ..., 1:-1, 1:-1] = left + right + low + high - 4 * middle
    terms[:, ~np.isfinite(terms[2] + image)] = 0.0
    return terms[0], terms[1], terms[2]


def _cut(detail: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """Details shrunk to 0 at three times their noise, and little changed far above it."""
    square = np.maximum(detail * detail, 1e-300)
    return detail * np.maximum(0.0, 1 - 9 * noise * noise / square)
