"""The common cells of a pair, gathered into about a thousand rows for the fit.

Cells count, but not one by one: sky and clouds are smooth and a star's light stays together, so the
mean of a block of 4 x 4 cells says nearly as much as its cells, and previews know the means of
theirs. Where the brightest stars stand far above the noise in both tiles the cells are rows as
well, by their differences from the mean of their block: no sky imitates a star. In a small overlap
every cell is a block. What seeing and registration move across the border of a block or a cell is
known to first order from both tiles, as its mean gradient and Laplacian. Blocks lie on the lattice
of the grid and stars are found in both tiles together, far above their noise, hence the choice of
rows bends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .._kernels import compiled
from ..preview.preview import SIDE, Preview
from .algebra import cut, solve_normal_equations, thin
from .overlap_blocks import Frame, block_weights, gather_blocks, gather_cells

MANY_BLOCKS = 2_000  # from which on blocks are twice as large, or four times
FINE_CELLS = 128  # of the blocks with the brightest stars, where there are more than that
CLUSTER = 12  # cells: errors are taken to be independent from one such patch to the next
STREAK = (3, 8)  # blocks and cells: no star that contradicts a line is so long
AROUND = 2  # cells next to a streak that hold some of its light
STANDS_OUT = 12.0  # both tiles' deviations together: a cell with a star in it
# Noise of the details between a block, 3 blocks, 9 and the largest, in units of a block's.
DETAIL_NOISE = (0.95, 0.42, 0.14)
# Variances of gradient and Laplacian, of a single cell and of a block (over the cells along it), in
# units of the mean's variance.
SLOPE_NOISE = {"cell": (0.5, 11.5), "block": (0.9, 4.5)}


@dataclass(eq=False)
class PairSamples:
    """What a pair has in common in C channels: B blocks, and F cells of those with stars.

    Parameters
    ----------
    x, y : ndarray
        ``(C, B)`` float64: mean values of both tiles in ADU.
    derivatives : ndarray
        ``(3, 2, C, B)`` float64: gradient along u and v, and Laplacian, of both tiles; per cell.
    variance : ndarray
        ``(2, C, B + F)`` float64 in ADU² of both tiles' blocks, and of the cells.
    u, v : ndarray
        ``(B,)`` float64: place in cells, from the corner of the overlap.
    bright : ndarray
        ``(B,)`` int: 1 where there is a star, else 0.
    count : ndarray
        ``(B,)`` float64: the cells that each is made of.
    at : ndarray
        ``(B,)`` int: its flat index in the frame of blocks.
    fine : ndarray
        ``(4, 2, C, F)`` float64 values and derivatives of the cells.
    place : ndarray
        ``(2, F)`` float64: their u and v.
    block : ndarray
        ``(F,)`` int: the block that each lies in.
    cluster : ndarray
        ``(B + F,)`` int: number of the patch of CLUSTER x CLUSTER cells.
    shape : tuple of int
        Height and width of the frame of blocks.
    typical : ndarray
        ``(2, C, 1)`` median variances of both tiles' blocks.
    side : int
        Cells along a block.
    cells : int
        Common valid cells; at most, where both tiles end in the same blocks.
    """

    x: np.ndarray
    y: np.ndarray
    derivatives: np.ndarray
    variance: np.ndarray
    u: np.ndarray
    v: np.ndarray
    bright: np.ndarray
    count: np.ndarray
    at: np.ndarray
    fine: np.ndarray
    place: np.ndarray
    block: np.ndarray
    cluster: np.ndarray
    shape: tuple[int, int]
    typical: np.ndarray
    side: int
    cells: int

    @property
    def of_blocks(self) -> np.ndarray:
        """Variances ``(2, C, B)`` of the blocks alone."""
        return np.ascontiguousarray(self.variance[..., : len(self.u)])

    @property
    def sample(self) -> slice:
        """PairSamples for medians."""
        return thin(len(self.u))

    def of(self, channels: np.ndarray) -> PairSamples:
        """Some channels alone."""
        axes = {"derivatives": 2, "variance": 1, "fine": 2, "typical": 1, "x": 0, "y": 0}
        part = {name: getattr(self, name).take(channels, axis) for name, axis in axes.items()}
        return replace(self, **part)

    def without(self, far: np.ndarray) -> PairSamples | None:
        """What is left without streaks, and what lies next to them; None where there are none.

        Parameters
        ----------
        far : ndarray
            ``(B,)`` bool: blocks that contradict a line. Those of a star lie together.
        """
        if not STREAK[0] <= np.count_nonzero(far) <= len(far) / 2:
            return None
        row, column = np.divmod(self.at[far], self.shape[1])
        streak = _lengths(row, column) >= max(STREAK[0], STREAK[1] / self.side)
        image = np.zeros((1, *self.shape))
        image[0, row[streak], column[streak]] = 1.0
        for _ in range(-(-AROUND // self.side)):
            image = _threes(image, 1)
        kept = image.ravel()[self.at] == 0
        if not len(kept) / 2 <= np.count_nonzero(kept) < len(kept):
            return None
        blocks, cells = np.flatnonzero(kept), np.flatnonzero(kept[self.block])
        rows = np.concatenate([blocks, len(kept) + cells])
        at = {
            **dict.fromkeys(("x", "y", "derivatives", "u", "v", "bright", "count", "at"), blocks),
            **dict.fromkeys(("fine", "place"), cells),
            **dict.fromkeys(("variance", "cluster"), rows),
        }
        part = {name: getattr(self, name).take(k, axis=-1) for name, k in at.items()}
        return replace(self, **part, block=(np.cumsum(kept) - 1)[self.block[cells]])

    @cached_property
    def planes(self) -> np.ndarray:
        """``(3, 2, C, 1)`` coefficients in 1, u and v of a plane through x and one through y."""
        if compiled.fused:
            found, work = np.empty((3, 2, len(self.x), 1)), np.empty(len(self.u))
            compiled.fused.sky_planes(self.x, self.y, self.u, self.v, self.bright, found, work)
            return found
        dark = np.flatnonzero(self.bright == 0)
        dark = dark[thin(len(dark))] if len(dark) >= 3 else np.arange(len(self.u))
        basis = np.array([np.ones(len(dark)), self.u[dark], self.v[dark]])
        z = np.concatenate([self.x[:, dark], self.y[:, dark]])
        # einsum, since BLAS might use threads for so long a sum.
        products = np.einsum("in,jn->ij", basis, np.concatenate([basis, z]))
        return solve_normal_equations(products[:, :3], products[:, 3:]).reshape(3, 2, -1, 1)

    def flattened(self) -> np.ndarray:
        """x and y ``(2, C, B)`` less their planes: gradients hide stars and mimic slopes."""
        one, u, v = self.planes
        return np.array([self.x, self.y]) - (one + u * self.u + v * self.v)

    def scene(self, slope: np.ndarray, level: np.ndarray) -> np.ndarray:
        """The scene in ADU of tile j that both tiles share, its gradient (u, v) and Laplacian.

        They are means whose noise the residual does not share, without what may be noise: details
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
            ``(C, 4, B + F)``: of blocks, and by how much it is another in the cells.
        """
        c, (h, w), n = len(self.x), self.shape, len(self.u)
        (vx, vy), (wide_x, wide_y) = self.variance[..., :n], self.variance
        image, variance = _mean_scene(self.x, self.y, vx, vy, slope, level)
        (vx, vy), p, zero = self.typical, self.planes, np.zeros_like(level)
        plane, typical = _mean_scene(p[0, 0], p[0, 1], vx, vy, slope, level)
        up, _ = _mean_scene(p[1, 0], p[1, 1], vx, vy, slope, zero)
        down, _ = _mean_scene(p[2, 0], p[2, 1], vx, vy, slope, zero)
        layers = np.empty((4, c, n))
        layers[0], layers[3] = image, plane + up * self.u + down * self.v
        images = np.zeros((c + 1, h * w))
        images[:c, self.at] = image * self.count
        images[c, self.at] = self.count
        threes = _threes(images.reshape(c + 1, h, w), 1)
        nines = _threes(threes, 3)
        for k, sums in ((1, threes), (2, nines)):
            found = sums.reshape(c + 1, h * w)[:, self.at]
            layers[k] = found[:c] / found[c]
        noise = np.empty((3, c, n))
        np.multiply(variance, DETAIL_NOISE[0] ** 2, out=noise[0])
        noise[1], noise[2] = DETAIL_NOISE[1] ** 2 * typical, DETAIL_NOISE[2] ** 2 * typical
        scene = np.empty((c, 4, self.variance.shape[-1]))
        scene[:, 0, :n] = cut(layers[:3] - layers[1:], noise).sum(axis=0)
        scene[:, 0, :n] += layers[3]
        (x, y), *fine = self.details
        near, variance = _mean_scene(x, y, wide_x[:, n:], wide_y[:, n:], slope, zero)
        scene[:, 0, n:] = cut(near, variance)
        x, y = np.concatenate([self.derivatives, np.array(fine)], axis=-1).swapaxes(0, 1)
        mixed, variance = _mean_scene(x, y, wide_x, wide_y, slope, zero)
        noise = np.repeat(self.slope_noise, [n, len(self.block)], axis=0)[:, [0, 0, 1]].T
        scene[:, 1:] = cut(mixed, variance * noise[:, np.newaxis]).swapaxes(0, 1)
        return scene

    @property
    def slope_noise(self) -> np.ndarray:
        """Variances ``(2, 2)`` of gradient and Laplacian, of blocks and cells; see SLOPE_NOISE."""
        cell = np.array(SLOPE_NOISE["cell"])
        block = cell if self.side == 1 else np.array(SLOPE_NOISE["block"]) / self.side
        return np.array([block, cell])

    @property
    def details(self) -> np.ndarray:
        """By how much values and derivatives of the cells differ from those of their blocks."""
        of_blocks = np.concatenate([[[self.x, self.y]], self.derivatives])
        return self.fine - of_blocks.take(self.block, axis=-1)


def common_samples(first: Preview, second: Preview) -> list[PairSamples] | None:
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


def _rows(pair: tuple[Preview, Preview], frame: Frame) -> PairSamples | None:
    """PairSamples of all channels; None where they are not valid in the same cells."""
    found = gather_blocks(pair, frame)
    if found is not None and found.few:
        x0, y0, x1, y1, *_ = frame
        frame = Frame(x0, y0, x1, y1, 1, x0, y0, x1 - x0, y1 - y0)
        found = gather_blocks(pair, frame)
    if found is None:
        return None
    side = frame.side
    blocks, place, highest, number, total, _ = found
    typical, above = block_weights(blocks, highest, number, side)
    at = np.flatnonzero(number)
    blocks, place, above = (z.take(at, axis=-1) for z in (blocks, place, above))
    corner = np.array([[frame.left * side - frame.x0], [frame.top * side - frame.y0]])
    place += corner
    block = np.empty(0, dtype=np.intp)
    fine, within = np.empty((*blocks.shape[:3], 0)), np.empty((2, 0))
    if side > 1:
        stars = np.flatnonzero(above > _threshold(above, FINE_CELLS // side**2))
        fine, within, which = gather_cells(pair, frame, at[stars])
        within, block = within + corner, stars[which]
    # Patches lie on the grid's lattice, too.
    u, v = np.concatenate([place, within], axis=1)
    across = frame.x1 // CLUSTER + 1 - frame.x0 // CLUSTER
    column, row = (
        ((z + first % CLUSTER) / CLUSTER).astype(np.intp)
        for z, first in ((u, frame.x0), (v, frame.y0))
    )
    x, y = blocks[0]
    u, v = place
    return PairSamples(
        x, y, blocks[2:], np.concatenate([blocks[1], fine[1]], axis=-1), u, v,
        (above > STANDS_OUT).astype(np.intp), number[at], at,
        np.ascontiguousarray(fine[[0, 2, 3, 4]]), np.ascontiguousarray(within), block,
        row * across + column, (frame.height, frame.width), typical, side, total,
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


def _lengths(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """How far each place of some on a lattice reaches, with those that it touches, and so on."""
    near = np.maximum(np.abs(row - row[:, None]), np.abs(column - column[:, None])) <= 1
    label, before = np.arange(len(row)), None
    while before is None or (label != before).any():
        label, before = np.where(near, label, len(row)).min(axis=1), label
        label = label[label]  # a long way at once
    length = np.zeros(len(row), dtype=np.intp)
    for z in (row, column):
        low, high = z.copy(), z.copy()
        np.minimum.at(low, label, z)
        np.maximum.at(high, label, z)
        np.maximum(length, high - low + 1, out=length)
    return length[label]


def _threes(images: np.ndarray, step: int) -> np.ndarray:
    """Sums over three elements `step` apart along both axes; beyond the edges are zeros."""
    rows = images.copy()
    rows[:, step:] += images[:, :-step]
    rows[:, :-step] += images[:, step:]
    both = rows.copy()
    both[..., step:] += rows[..., :-step]
    both[..., :-step] += rows[..., step:]
    return both
