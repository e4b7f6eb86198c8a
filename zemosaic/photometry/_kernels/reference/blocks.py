"""Common cells of two previews: means of fit blocks, single cells, and the noise of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..algebra import median, thin
from ..block_sums import block_highest, block_sum
from ..layout import (
    BlockNoise,
    BlockStatistic,
    Kind,
    OverlapBlocks,
    OverlapFrame,
    PreviewArrays,
    PreviewPair,
)

#: The statistic of preview blocks for each `Kind`, in its order.
KIND_STATISTICS = [
    BlockStatistic.MEAN, BlockStatistic.VARIANCE, BlockStatistic.GRADIENT_U,
    BlockStatistic.GRADIENT_V, BlockStatistic.LAPLACIAN,
]  # fmt: skip


def gather_blocks(
    pair: PreviewPair, frame: OverlapFrame, *,
    preview_side: int, few_cells: int, whole_share: float, border_error: float,
) -> OverlapBlocks | None:  # fmt: skip
    """Average the common cells of two previews by fit block.

    Preview blocks complete in both tiles are added from their means, the others cell by cell,
    unless they hold a negligible share of the cells.

    Parameters
    ----------
    pair : tuple of PreviewArrays
        On the same grid and with the same channels.
    frame : OverlapFrame
        Its `side` is 1 or a multiple of `preview_side`.
    preview_side : int
        Cells along a block of the previews.
    few_cells : int
        Largest number of common cells for which the result is flagged as `few`.
    whole_share : float
        Fraction of the cells in complete preview blocks, from which on others are left out.
    border_error : float
        Error of single cells in units of the differences to their neighbours.

    Returns
    -------
    OverlapBlocks or None
        None if channels are not valid in the same cells.
    """
    sums = _BlockSums.zeros(len(pair[0].values), frame)
    if frame.side == 1:
        everywhere = np.ones((frame.height, frame.width), dtype=bool)
        same = sums.add_cells(pair, everywhere, border_error)
        return sums.means(sums.cell_count.sum()) if same else None
    blocks = _framed_blocks(pair, frame, preview_side)
    counts = blocks[BlockStatistic.COUNT]
    if (counts != counts[:, :1]).any():
        return None
    fewest = counts[:, 0].min(axis=0)
    bound = fewest.sum()
    if bound <= few_cells:
        return sums.means(bound, few=True)
    sums.add_whole_blocks(blocks, fewest, preview_side)
    if sums.cell_count.sum() >= whole_share * bound:
        return sums.means(bound)
    cut = (fewest > 0) & (fewest < preview_side**2)
    cut_cells = cut.repeat(preview_side, axis=0).repeat(preview_side, axis=1)
    same = sums.add_cells(pair, cut_cells, border_error)
    return sums.means(sums.cell_count.sum()) if same else None


@dataclass(eq=False)
class _BlockSums:
    """Sums over the common cells of each fit block; arrays as in `OverlapBlocks`."""

    frame: OverlapFrame
    sums: np.ndarray
    position: np.ndarray
    highest: np.ndarray
    cell_count: np.ndarray

    @classmethod
    def zeros(cls, channels: int, frame: OverlapFrame) -> _BlockSums:
        """Return the sums over no cells."""
        n = frame.width * frame.height
        return cls(
            frame,
            np.zeros((len(Kind), 2, channels, n)),
            np.zeros((2, n)),
            np.full((2, channels, n), -np.inf),
            np.zeros(n),
        )

    def means(self, cells: float, few: bool = False) -> OverlapBlocks:
        """Divide the sums by the numbers of cells."""
        share = 1 / np.maximum(self.cell_count, 1)
        return OverlapBlocks(
            self.sums * share, self.position * share, self.highest, self.cell_count, int(cells),
            few,
        )  # fmt: skip

    def add_whole_blocks(self, blocks: np.ndarray, fewest: np.ndarray, side: int) -> None:
        """Add preview blocks (as of `_framed_blocks`) that are complete in both tiles."""
        along = self.frame.side // side  # preview blocks along a fit block
        whole = fewest == side**2
        cells = np.where(whole, fewest, 0.0)
        centres = np.indices(fewest.shape)[::-1] * side + (side - 1) / 2
        for sums, added in (
            (self.sums, blocks[KIND_STATISTICS] * cells),
            (self.position, centres * cells),
            (self.cell_count, cells),
        ):
            sums[:] += block_sum(added.reshape(-1, *fewest.shape), along).reshape(sums.shape)
        highest = np.where(whole, blocks[BlockStatistic.HIGHEST], -np.inf).reshape(
            -1, *fewest.shape
        )
        self.highest[:] = block_highest(highest, along).reshape(self.highest.shape)

    def add_cells(self, pair: PreviewPair, chosen: np.ndarray, border_error: float) -> bool:
        """Add single cells that are valid in both tiles.

        `chosen` is a bool image of the frame in cells. Return whether all channels are valid in
        the same cells.
        """
        frame, n = self.frame, len(self.cell_count)
        # From the corner of the frame to the corner of the overlap.
        down, right = frame.y0 - frame.top * frame.side, frame.x0 - frame.left * frame.side
        height, width = frame.y1 - frame.y0, frame.x1 - frame.x0
        row, column = np.nonzero(chosen[down : down + height, right : right + width])
        cells, valid = _read_cells(pair, row + frame.y0, column + frame.x0, border_error)
        if (valid != valid[:1]).any():
            return False
        row, column = row[valid[0]] + down, column[valid[0]] + right
        block = row // frame.side * frame.width + column // frame.side
        numbers = cells[..., valid[0]].reshape(self.sums.size // n, -1)
        added = np.concatenate([numbers, [column, row, np.ones(len(block))]])
        sums = np.array([np.bincount(block, values, n) for values in added])
        self.sums += sums[:-3].reshape(self.sums.shape)
        self.position += sums[-3:-1]
        self.cell_count += sums[-1]
        # Kind.VALUE comes first.
        for highest, values in zip(self.highest.reshape(-1, n), numbers, strict=False):
            np.maximum.at(highest, block, values)
        return True


def _framed_blocks(pair: PreviewPair, frame: OverlapFrame, side: int) -> np.ndarray:
    """Return the preview blocks ``(7, 2, C, h, w)`` that cover a frame; 0 outside a preview."""
    along = frame.side // side
    shape = frame.height * along, frame.width * along
    blocks = np.zeros((len(BlockStatistic), 2, len(pair[0].values), *shape))
    corners = [
        (preview.y0 // side - frame.top * along, preview.x0 // side - frame.left * along)
        for preview in pair
    ]
    top, left = (max(0, *corner) for corner in zip(*corners, strict=True))
    for t, (preview, (row, column)) in enumerate(zip(pair, corners, strict=True)):
        height, width = preview.blocks.shape[2:]
        inside = preview.blocks[..., top - row : shape[0] - row, left - column : shape[1] - column]
        blocks[:, t, :, top : row + height, left : column + width] = inside
    return blocks


def gather_cells(
    pair: PreviewPair, frame: OverlapFrame, chosen_blocks: np.ndarray, *, border_error: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the common cells of chosen fit blocks.

    Parameters
    ----------
    pair, frame, border_error
        As for `gather_blocks`.
    chosen_blocks : ndarray
        ``(N,)`` intp flat indices in the frame.

    Returns
    -------
    cells : ndarray
        ``(5, 2, C, F)`` float64, each `Kind` in both tiles.
    position : ndarray
        ``(2, F)`` float64 u and v, from the corner of the frame.
    chosen_index : ndarray
        ``(F,)`` intp index in `chosen_blocks` of the block of each cell.
    """
    side = frame.side
    v, u = (index[:, np.newaxis] * side for index in np.divmod(chosen_blocks, frame.width))
    down, right = np.divmod(np.arange(side**2), side)
    v, u = (v + down).ravel(), (u + right).ravel()
    chosen_index = np.arange(len(chosen_blocks)).repeat(side**2)
    row, column = v + frame.top * side, u + frame.left * side
    inside = (row >= frame.y0) & (row < frame.y1) & (column >= frame.x0) & (column < frame.x1)
    cells, valid = _read_cells(pair, row[inside], column[inside], border_error)
    common = valid.all(axis=0)
    inside[inside] = common
    position = np.array([u, v], dtype=float)[:, inside]
    return cells[..., common], position, chosen_index[inside]


def _read_cells(
    pair: PreviewPair, row: np.ndarray, column: np.ndarray, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of cells of the grid that lie inside both previews.

    Returns
    -------
    cells, valid : ndarray
        ``(5, 2, C, N)`` float64, and ``(C, N)`` bool: whether valid in both tiles.
    """
    cells = np.stack([_read_tile(preview, row, column, error) for preview in pair], axis=1)
    return cells, np.isfinite(cells[Kind.VALUE]).all(axis=0)


def _read_tile(
    preview: PreviewArrays, row: np.ndarray, column: np.ndarray, error: float
) -> np.ndarray:
    """Return the numbers ``(5, C, N)`` of cells of one preview.

    Derivatives are 0 along an axis on which a neighbour is missing.
    """
    channels, height, width = preview.values.shape
    v, u, values = row - preview.y0, column - preview.x0, preview.values.reshape(channels, -1)
    index = v * width + u
    cells = np.zeros((len(Kind), channels, len(row)))
    cells[Kind.VALUE] = values.take(index, axis=1)
    cells[Kind.VARIANCE] = preview.variance.reshape(channels, -1).take(index, axis=1)
    for kind, place, length, stride in (
        (Kind.GRADIENT_U, u, width, 1), (Kind.GRADIENT_V, v, height, width),
    ):  # fmt: skip
        exists = np.array([place > 0, place + 1 < length])
        neighbours = np.where(exists, index + np.array([[-stride], [stride]]), index)
        steps = values.take(neighbours, axis=1) - cells[Kind.VALUE][:, np.newaxis]
        low, high = np.where(exists, steps, np.nan).swapaxes(0, 1)
        both = np.isfinite(low + high)
        cells[kind] = np.where(both, (high - low) / 2, 0)
        cells[Kind.LAPLACIAN] += np.where(both, low + high, 0)
        cells[Kind.VARIANCE] += error**2 * (np.nan_to_num(low) ** 2 + np.nan_to_num(high) ** 2)
    return cells


def block_weights(
    means: np.ndarray, highest: np.ndarray, cell_count: np.ndarray, *,
    shared_noise: float, block_cells: int,
) -> BlockNoise:  # fmt: skip
    """Turn the variances of cells in `means` into variances of block means, in place.

    Parameters
    ----------
    means, highest, cell_count : ndarray
        As in `OverlapBlocks`.
    shared_noise : float
        Factor of the variance of a mean for the noise that neighbouring cells share.
    block_cells : int
        Cells of a complete fit block.
    """
    nonempty = np.flatnonzero(cell_count)
    typical = np.ones((2, *highest.shape[:2], 1))  # value and variance
    if len(nonempty):
        thinned = nonempty[thin(len(nonempty))]
        typical = median(np.abs(means[: Kind.VARIANCE + 1, ..., thinned]))[..., None]
    # Sky without noise (simulated, or clipped to a constant) would get infinite weights. The
    # constant is far below any noise.
    floor = 1e-60 + (1e-6 * typical[Kind.VALUE]) ** 2
    noise = typical[Kind.VARIANCE] + floor
    prominence = ((highest - means[Kind.VALUE]) * noise**-0.5).sum(axis=0).max(axis=0)
    means[Kind.VARIANCE] += floor
    means[Kind.VARIANCE] *= np.minimum(shared_noise / np.maximum(cell_count, 1), 1)
    return BlockNoise(noise * (shared_noise / block_cells), prominence)
