"""Gather the common cells of two previews into about a thousand samples.

The fit uses means of blocks: sky and clouds are smooth and the light of a star stays together, so
that little information is lost, and previews hold the means of their 4 x 4 cells. Cells are kept
individually only around the brightest stars, which stand far above the noise in both tiles and
which no sky imitates, and in small overlaps. Light moved by seeing and registration across
the border of a block or a cell is known to first order from its mean gradient and Laplacian in
both tiles.

The choice of samples causes no bias: fit blocks lie on the lattice of the grid, and stars are
detected in both tiles together, far above their noise.
"""

from __future__ import annotations

import math

import numpy as np

from .. import _kernels
from .._kernels.lattice import AREAS, Lattice
from .._kernels.layout import BlockNoise, Kind, OverlapBlocks, OverlapFrame
from ..preview.block_summary import BORDER_ERROR, CELL_ERROR
from ..preview.preview import SIDE, Preview
from .samples import PairSamples

FEW_CELLS = 2_500  # overlaps of up to so many cells are fitted cell by cell
MANY_BLOCKS = 2_000  # in larger overlaps, fit blocks are 2 x 2 blocks, 4 x 4 blocks, ...
WHOLE_SHARE = 0.99  # of the cells in complete blocks: incomplete blocks are not looked up
SHARED_NOISE = 0.3  # of neighbouring cells, correlated: the sampling kernel is wider than a cell
STAR_CELLS = 128  # largest number of cells around stars, unless single blocks hold more
PROMINENCE = 12.0  # of stars in a block, in standard deviations summed over both tiles
PATCH_CELLS = 12  # along a patch; errors of different patches are taken to be independent
AREA_BLOCKS, AREA_CELLS = 8, 64  # fit blocks, or cells, of an area on average
STAR_KINDS = [0, 2, 3, 4]  # all of Kind but the variance

Pair = tuple[Preview, Preview]


def common_samples(first: Preview, second: Preview) -> list[PairSamples] | None:
    """Gather the samples of two previews on one grid.

    Returns
    -------
    list of PairSamples or None
        One element if all channels are valid in the same cells, otherwise one for each channel;
        None if the boxes of the previews do not overlap.
    """
    frame = _overlap_frame(first, second)
    if frame is None:
        return None
    samples = _gather_samples((first, second), frame)
    if samples is not None:
        return [samples]
    channels = range(len(first.values))
    separate = (_gather_samples((first.channel(k), second.channel(k)), frame) for k in channels)
    return [samples for samples in separate if samples is not None]


def _overlap_frame(first: Preview, second: Preview) -> OverlapFrame | None:
    """Return the frame of fit blocks over an overlap, at most about MANY_BLOCKS; None if empty."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(preview.x0 + preview.values.shape[2] for preview in (first, second))
    y1 = min(preview.y0 + preview.values.shape[1] for preview in (first, second))
    if x1 <= x0 or y1 <= y0:
        return None
    side = SIDE
    while (y1 - y0) * (x1 - x0) > MANY_BLOCKS * side**2:
        side *= 2
    left, top = x0 // side - 1, y0 // side - 1
    width, height = 1 - left - (-x1 // side), 1 - top - (-y1 // side)
    return OverlapFrame(x0, y0, x1, y1, side, left, top, width, height)


def _gather_samples(pair: Pair, frame: OverlapFrame) -> PairSamples | None:
    """Return the samples of all channels; None if these are not valid in the same cells."""
    blocks = _gather_blocks(pair, frame)
    if blocks is not None and blocks.few:
        x0, y0, x1, y1, *_ = frame
        frame = OverlapFrame(x0, y0, x1, y1, 1, x0, y0, x1 - x0, y1 - y0)
        blocks = _gather_blocks(pair, frame)
    if blocks is None:
        return None
    # Turns the variances of cells in `blocks.means` into variances of means.
    noise = _kernels.block_weights(
        blocks.means,
        blocks.highest,
        blocks.cell_count,
        shared_noise=_shared_noise(frame.side),
        block_cells=frame.side**2,
    )
    return _make_samples(pair, frame, blocks, noise)


def _shared_noise(side: float) -> float:
    """Return the variance of the sum of a block relative to independent cells."""
    return (1 + 2 * SHARED_NOISE * (1 - 1 / side)) ** 2


def neighbour_noise(side: int) -> float:
    """Return the variance of a sum of blocks relative to independent ones."""
    return _shared_noise(math.inf) / _shared_noise(side)


def _gather_blocks(pair: Pair, frame: OverlapFrame) -> OverlapBlocks | None:
    return _kernels.gather_blocks(
        pair,
        frame,
        preview_side=SIDE,
        few_cells=FEW_CELLS,
        whole_share=WHOLE_SHARE,
        border_error=CELL_ERROR if frame.side == 1 else BORDER_ERROR,
    )


def _make_samples(
    pair: Pair, frame: OverlapFrame, blocks: OverlapBlocks, noise: BlockNoise
) -> PairSamples:
    """Collect the nonempty blocks, and the cells around the brightest stars."""
    block_index = np.flatnonzero(blocks.cell_count)
    means, position, prominence = (
        array.take(block_index, axis=-1)
        for array in (blocks.means, blocks.position, noise.prominence)
    )
    cells, cell_position, cell_block = _gather_star_cells(pair, frame, block_index, prominence)
    corner = np.array([[frame.left * frame.side - frame.x0], [frame.top * frame.side - frame.y0]])
    position = np.concatenate([position, cell_position], axis=1) + corner
    u, v = position[:, : len(block_index)]
    return PairSamples(
        x=means[Kind.VALUE, 0],
        y=means[Kind.VALUE, 1],
        derivatives=means[Kind.GRADIENT_U :],
        variance=np.concatenate([means[Kind.VARIANCE], cells[Kind.VARIANCE]], axis=-1),
        u=u,
        v=v,
        bright=(prominence > PROMINENCE).astype(np.intp),
        cell_count=blocks.cell_count[block_index],
        block_index=block_index,
        star_cells=np.ascontiguousarray(cells[STAR_KINDS]),
        cell_position=np.ascontiguousarray(position[:, len(block_index) :]),
        cell_block=cell_block,
        patch=_patches(frame, position),
        frame_shape=(frame.height, frame.width),
        lattice=_lattice(frame, len(block_index)),
        typical_variance=noise.typical_variance,
        side=frame.side,
        cells=blocks.cells,
    )


def _gather_star_cells(
    pair: Pair, frame: OverlapFrame, block_index: np.ndarray, prominence: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cells around stars, their positions in the frame, and the blocks of each.

    Blocks of a single cell need no others.
    """
    if frame.side == 1:
        channels = len(pair[0].values)
        empty = np.empty((len(Kind), 2, channels, 0)), np.empty((2, 0))
        return *empty, np.empty(0, dtype=np.intp)
    most = STAR_CELLS // frame.side**2
    stars = np.flatnonzero(prominence > _least_prominence(prominence, most))
    cells, position, star_index = _kernels.gather_cells(
        pair, frame, block_index[stars], border_error=CELL_ERROR
    )
    return cells, position, stars[star_index]


def _least_prominence(prominence: np.ndarray, most: int) -> float:
    """Return the threshold that at most `most` blocks exceed, at least PROMINENCE."""
    if len(prominence) <= most:
        return PROMINENCE
    return max(PROMINENCE, float(np.partition(prominence, -most - 1)[-most - 1]))


def _patches(frame: OverlapFrame, position: np.ndarray) -> np.ndarray:
    """Return the patch ``(N,)`` of each position ``(2, N)`` in the overlap.

    Patches lie on the lattice of the grid, too.
    """
    columns = frame.x1 // PATCH_CELLS + 1 - frame.x0 // PATCH_CELLS
    column, row = (
        ((place + origin % PATCH_CELLS) / PATCH_CELLS).astype(np.intp)
        for place, origin in zip(position, (frame.x0, frame.y0), strict=True)
    )
    return np.asarray(row * columns + column)


def _lattice(frame: OverlapFrame, blocks: int) -> Lattice:
    """Return the lattice of an overlap with so many blocks: as many areas as fit, nearly square.

    Units of single cells lie on the lattice of the grid; areas are made of whole units.
    """
    if frame.side == 1:
        most = blocks // AREA_CELLS
        shift_u, shift_v = frame.x0 % SIDE, frame.y0 % SIDE
        units_u, units_v = -(-(shift_u + frame.width) // SIDE), -(-(shift_v + frame.height) // SIDE)
    else:  # without the margin of one block
        most, shift_u, shift_v = blocks // AREA_BLOCKS, -1, -1
        units_u, units_v = frame.width - 2, frame.height - 2
    most = max(1, min(most, AREAS))
    side = math.sqrt(units_u * units_v / most)
    areas_u = max(1, min(most, round(units_u / side)))
    areas_v = max(1, min(most // areas_u, round(units_v / side)))
    step = SIDE if frame.side == 1 else 1
    return Lattice(step, frame.width, shift_u, shift_v, units_u, units_v, areas_u, areas_v)
