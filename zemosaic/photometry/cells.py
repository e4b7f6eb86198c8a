"""The common cells of a pair, gathered into about a thousand rows for the fit.

Cells count, but not one by one: sky and clouds are smooth, so the mean of a block of 4 x 4 cells
says as much as its cells, and previews know the means of theirs. Where stars stand far above the
noise in both tiles the cells are rows of their own, since registration and seeing matter; so are
all cells of a small overlap. Blocks that an edge or a hole cuts are looked up cell by cell, unless
they hold next to nothing. Blocks lie on the lattice of the grid and stars are found in both tiles
together, far above their noise, hence the choice of rows bends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from zemosaic.photometry import compiled
from zemosaic.photometry.blocks import Frame, gathered, in_common, weighed
from zemosaic.photometry.preview import SIDE, Preview
from zemosaic.photometry.regression import cut, solved, thin

MANY_BLOCKS = 2_000  # from which on blocks are twice as large, or four times
FINE_CELLS = 128  # of the blocks with the brightest stars, where there are more than that
STANDS_OUT = 12.0  # both tiles' deviations together: a cell with a star in it
# Noise of the details between a block, 3 blocks, 9 and the largest, in units of a block's.
DETAIL_NOISE = (0.95, 0.42, 0.14)


@dataclass(eq=False)
class Rows:
    """What a pair has in common in C channels: means of blocks first, then single cells.

    Parameters
    ----------
    x, y, vx, vy : ndarray
        ``(C, R)`` float64: values of both tiles in ADU, and their variances.
    u, v : ndarray
        ``(R,)`` float64: place in cells, from the corner of the overlap.
    cluster : ndarray
        ``(R,)`` int: number of the patch of CLUSTER x CLUSTER cells.
    bright : ndarray
        ``(R,)`` int: 1 where it lies in a block with a star, else 0.
    cells : int
        Common valid cells; at most, where both tiles end in the same blocks.
    count : ndarray
        ``(h, w)`` float64: cells of all blocks that are in the rows.
    corner : tuple of int
        u and v of the lower left edge of the first of them.
    pixels : ndarray
        ``(4, C, N)`` x, y, vx, vy of all blocks, within a frame of empty ones, and of the cells
        in and around the fine blocks; x NaN where invalid.
    places : ndarray
        ``(5, R)`` indices in `pixels` of each row, and its left, right, low and high neighbours.
    coarse, fine : ndarray
        Flat indices of the blocks that are rows, and of those whose cells are.
    typical : ndarray
        ``(2, C, 1)`` median variances of both tiles' blocks.
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
    count: np.ndarray
    corner: tuple[int, int]
    pixels: np.ndarray
    places: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    typical: np.ndarray
    side: int

    @property
    def sample(self) -> slice:
        """Rows for medians."""
        return thin(len(self.u))

    def of(self, channels: np.ndarray) -> Rows:
        """Some channels alone."""
        return replace(
            self, x=self.x[channels], y=self.y[channels], vx=self.vx[channels],
            vy=self.vy[channels], pixels=self.pixels.take(channels, axis=1),
            typical=self.typical.take(channels, axis=1),
        )  # fmt: skip

    @cached_property
    def planes(self) -> np.ndarray:
        """``(3, 2, C, 1)`` coefficients in 1, u and v of a plane through x and one through y."""
        if compiled.fused:
            found, work = np.empty((3, 2, len(self.x), 1)), np.empty(len(self.u))
            compiled.fused.planes(self.x, self.y, self.u, self.v, self.bright, found, work)
            return found
        dark = np.flatnonzero(self.bright == 0)
        dark = dark[thin(len(dark))] if len(dark) >= 3 else np.arange(len(self.u))
        basis = np.array([np.ones(len(dark)), self.u[dark], self.v[dark]])
        z = np.concatenate([self.x[:, dark], self.y[:, dark]])
        # einsum, since BLAS might use threads for so long a sum.
        products = np.einsum("in,jn->ij", basis, np.concatenate([basis, z]))
        return solved(products[:, :3], products[:, 3:]).reshape(3, 2, -1, 1)

    def flattened(self) -> np.ndarray:
        """x and y ``(2, C, R)`` less their planes: gradients hide stars and mimic slopes."""
        one, u, v = self.planes
        return np.array([self.x, self.y]) - (one + u * self.u + v * self.v)

    def scene(self, slope: np.ndarray, level: np.ndarray) -> np.ndarray:
        """The scene in ADU of tile j that both tiles share, its gradient (u, v) and Laplacian.

        It is the mean whose noise the residual does not share, without what may be noise: details
        of each size are cut where they stay below three times their noise, as in wavelet
        denoising (Donoho and Johnstone 1994, Biometrika 81, 425). The noise that is left is
        independent of the residual, so any function of it is an instrument that bends nothing;
        rows that hold noise alone would only dilute it.

        Parameters
        ----------
        slope, level : ndarray
            ``(C, 1)`` the line of each channel.

        Returns
        -------
        ndarray
            ``(C, 4, R)`` per cell; derivatives are 0 where a neighbour is missing.
        """
        c, (h, w), n = len(self.x), self.count.shape, self.count.size
        x, y, vx, vy = self.pixels
        image, variance = _mean_scene(x, y, vx, vy, slope, level)
        (vx, vy), p, zero = self.typical, self.planes, np.zeros_like(level)
        plane, typical = _mean_scene(p[0, 0], p[0, 1], vx, vy, slope, level)
        up, _ = _mean_scene(p[1, 0], p[1, 1], vx, vy, slope, zero)
        down, _ = _mean_scene(p[2, 0], p[2, 1], vx, vy, slope, zero)
        u = (np.arange(w) + 0.5) * self.side - 0.5 + self.corner[0]
        v = (np.arange(h) + 0.5) * self.side - 0.5 + self.corner[1]
        plane = (plane + up * u)[:, None] + (down * v)[..., None]
        number = self.count.ravel()
        images = np.empty((c + 1, h, w))
        np.multiply(image[:, :n].reshape(c, h, w), self.count, out=images[:c])
        images[c] = self.count
        threes = _threes(images, 1)
        nines = _threes(threes, 3)
        many = np.maximum(np.stack([threes[c], nines[c]]), 1)
        layers = np.empty((4, c, n))
        layers[0] = image[:, :n]
        layers[1] = (threes[:c] / many[0]).reshape(c, n)
        layers[2] = (nines[:c] / many[1]).reshape(c, n)
        layers[3] = plane.reshape(c, n)
        noise = np.empty((3, c, n))
        np.multiply(variance[:, :n], DETAIL_NOISE[0] ** 2, out=noise[0])
        noise[1], noise[2] = DETAIL_NOISE[1] ** 2 * typical, DETAIL_NOISE[2] ** 2 * typical
        kept = cut(layers[:3] - layers[1:], noise).sum(axis=0)
        kept += layers[3]
        if len(self.fine):
            behind = kept[:, self.fine].repeat((self.side + 2) ** 2, axis=1)
            near = cut(image[:, n:] - behind, variance[:, n:])
            np.add(near, behind, out=image[:, n:])
        kept[:, number == 0] = np.nan
        image[:, :n] = kept
        middle, left, right, low, high = image[:, self.places].swapaxes(0, 1)
        step = np.ones(len(self.u))
        step[: len(self.coarse)] = 1 / self.side
        found = np.empty((c, 4, len(step)))
        across, along = left + right, low + high
        laplacian = (across + along - 4 * middle) * step**2
        step /= 2
        found[:, 0] = middle
        found[:, 1] = (right - left) * step
        found[:, 2] = (high - low) * step
        found[:, 3] = laplacian
        np.copyto(found[:, 1:], 0, where=np.isnan(laplacian)[:, None])
        return found


def common_rows(first: Preview, second: Preview) -> list[Rows] | None:
    """The common cells of two previews on one grid; None where their boxes part.

    Channels that are valid in the same cells come together, or else each by itself.
    """
    pair = first, second
    x0, y0 = max(p.x0 for p in pair), max(p.y0 for p in pair)
    x1 = min(p.x0 + p.values.shape[2] for p in pair)
    y1 = min(p.y0 + p.values.shape[1] for p in pair)
    if x1 <= x0 or y1 <= y0:
        return None
    side = SIDE
    while (y1 - y0) * (x1 - x0) > MANY_BLOCKS * side**2:
        side *= 2
    left, top = x0 // side - 1, y0 // side - 1
    shape = 1 - left - (-x1 // side), 1 - top - (-y1 // side)
    frame = Frame(x0, y0, x1, y1, side, left, top, *shape)
    rows = _rows(pair, frame)
    if rows is not None:
        return [rows]
    alone = (_rows((first.channel(k), second.channel(k)), frame) for k in range(len(first.values)))
    return [rows for rows in alone if rows is not None]


def _rows(pair: tuple[Preview, Preview], frame: Frame) -> Rows | None:
    """Rows of all channels; None where they are not valid in the same cells."""
    found = in_common(pair, frame)
    if found is None:
        return None
    side = frame.side
    blocks, place, highest, number, total, few = found
    tiny, typical, above = weighed(blocks, highest, number, side)
    fine, left = np.flatnonzero(number), number
    if not few:
        fine = np.flatnonzero(above > _threshold(above, FINE_CELLS // side**2))
        left = number.copy()
        left[fine] = 0
    coarse = np.flatnonzero(left)[: 0 if few else None]
    pixels, places, (x, y, vx, vy), (u, v), patch, block = gathered(
        pair, frame, fine, coarse, blocks, place, tiny
    )
    bright = np.zeros(len(patch), dtype=np.intp)
    bright[len(coarse) :] = (above[fine] > STANDS_OUT)[block]
    return Rows(
        x, y, vx, vy, u, v, patch, bright, total, number.reshape(frame.height, frame.width),
        (frame.left * side - frame.x0, frame.top * side - frame.y0),
        pixels, places, coarse, fine, typical, side,
    )  # fmt: skip


def _threshold(above: np.ndarray, most: int) -> float:
    """Above it are stars, and at most that many of them."""
    if len(above) <= most:
        return STANDS_OUT
    return max(STANDS_OUT, float(np.partition(above, -most - 1)[-most - 1]))


def _mean_scene(
    x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray,
    slope: np.ndarray, level: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Mean of a·x and y whose noise y - a·x does not share, and its variance."""
    wide = slope * slope * vx
    wide /= wide + vy
    ax = slope * x
    mean = y - level
    mean -= ax
    mean *= wide
    mean += ax
    wide *= vy
    return mean, wide


def _threes(images: np.ndarray, step: int) -> np.ndarray:
    """Sums over three elements `step` apart along both axes; beyond the edges are zeros."""
    rows = images.copy()
    rows[:, step:] += images[:, :-step]
    rows[:, :-step] += images[:, step:]
    both = rows.copy()
    both[..., step:] += rows[..., :-step]
    both[..., :-step] += rows[..., step:]
    return both
