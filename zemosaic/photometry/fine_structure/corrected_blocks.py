"""Means of the corrected previews over blocks of cells, on a lattice that all tiles share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._kernels.layout import BlockStatistic
from ..apply.arrays import add_surface, per_channel
from ..preview.preview import SIDE, Preview
from ..solver.solve import Correction


@dataclass(frozen=True, eq=False)
class CorrectedBlocks:
    """The corrected blocks of a tile in C channels.

    Parameters
    ----------
    column, row : int
        The first block, counted from the origin of the grid.
    values : ndarray
        ``(C, h, w)`` corrected values in ADU.
    light : ndarray
        ``(C, h, w)`` the part of them in ADU that the illumination acts on.
    scale : ndarray
        ``(C, h, w)`` change of the values by 1 ADU more in the data.
    variance : ndarray
        ``(C, h, w)`` of the values by noise, but for a factor that all blocks share.
    x, y : ndarray
        ``(h, w)`` detector coordinates, from -1 to 1 between the edges of the tile.
    valid : ndarray
        ``(h, w)`` bool: blocks within the tile with data in all cells and channels.
    """

    column: int
    row: int
    values: np.ndarray
    light: np.ndarray
    scale: np.ndarray
    variance: np.ndarray
    x: np.ndarray
    y: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(
        cls, preview: Preview, correction: Correction, shape: tuple[int, int], side: int
    ) -> CorrectedBlocks:
        """Correct the blocks of a preview, without the fine structure.

        Parameters
        ----------
        preview : Preview
            The preview of the tile.
        correction : Correction
            Its correction.
        shape : tuple of int
            Height and width of the tile in pixels.
        side : int
            Blocks of the preview along a side of the blocks that are returned.
        """
        mean, variance = (
            np.ldexp(preview.blocks[statistic].astype(np.float64), power * preview.exponent)
            for statistic, power in ((BlockStatistic.MEAN, 1), (BlockStatistic.VARIANCE, 2))
        )
        pixels = _pixels(preview)
        x, y = 2 * pixels / np.reshape(shape[::-1], (2, 1, 1))
        factor, glow = _illumination(correction, x, y)
        scale = np.broadcast_to(per_channel(correction.gain) / factor, mean.shape)
        bias = per_channel(correction.bias)
        light = scale * (mean + per_channel(preview.pedestals) - glow)
        light += (per_channel(correction.offset) - bias) / factor
        values = light + bias
        add_surface(values, correction, *pixels)
        valid = (preview.blocks[BlockStatistic.COUNT] == SIDE**2).all(axis=0)
        valid &= (np.abs(x) < 1) & (np.abs(y) < 1)
        whole = cls(*_corner(preview), values, light, scale, variance * scale**2, x, y, valid)
        return whole._merged(side)

    def _merged(self, side: int) -> CorrectedBlocks:
        """Return the means of `side` x `side` blocks."""
        if side == 1:
            return self
        before = self.row % side, self.column % side
        length = [
            -(-(n + skipped) // side) * side
            for n, skipped in zip(self.valid.shape, before, strict=True)
        ]

        def mean(values: np.ndarray) -> np.ndarray:
            padded = np.zeros((*values.shape[:-2], *length))
            rows, columns = (
                slice(skipped, skipped + n)
                for skipped, n in zip(before, self.valid.shape, strict=True)
            )
            padded[..., rows, columns] = values
            parts = padded.reshape(*values.shape[:-2], length[0] // side, side, -1, side)
            return np.asarray(parts.mean(axis=(-3, -1)))

        return CorrectedBlocks(
            self.column // side, self.row // side, mean(self.values), mean(self.light),
            mean(self.scale), mean(self.variance) / side**2, mean(self.x), mean(self.y),
            mean(self.valid.astype(np.float64)) == 1,
        )  # fmt: skip


def _illumination(
    correction: Correction, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return F and the glow in ADU at detector coordinates; 1 and 0 without an illumination."""
    if correction.illumination is None:
        return np.ones((1, 1, 1)), np.zeros((1, 1, 1))
    return correction.illumination.at(x, y)


def _corner(preview: Preview) -> tuple[int, int]:
    """Return the column and the row of the first block of a preview."""
    return preview.x0 // SIDE, preview.y0 // SIDE


def _pixels(preview: Preview) -> np.ndarray:
    """Return x and y ``(2, h, w)`` of the blocks in pixels from the centre of the tile."""
    shape = preview.blocks.shape[2:]
    cells = [
        (np.arange(length) + start + 0.5) * SIDE - 0.5 - centre
        for length, start, centre in zip(shape[::-1], _corner(preview), preview.centre, strict=True)
    ]
    places = np.stack(np.meshgrid(*cells))
    return np.einsum("ab,bhw->ahw", np.linalg.inv(preview.jacobian), places)
