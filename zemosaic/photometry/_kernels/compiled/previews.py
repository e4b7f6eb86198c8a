"""Calls of the kernels that sample previews, and gather the overlap of two."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..layout import Kind, OverlapBlocks, OverlapFrame, PreviewPair


def overlap_areas(
    polygons: np.ndarray, normals: np.ndarray, polygon_index: np.ndarray, tile_index: np.ndarray
) -> np.ndarray:
    """Compute the areas that polygons share with tiles on the sphere."""
    areas = np.empty(len(polygon_index))
    _fused.overlap_areas(polygons, normals, polygon_index, tile_index, areas)
    return areas


def sample_spline(
    smoothed: np.ndarray, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sample smoothed bins with a quadratic B-spline."""
    width = shape[1]
    values = np.empty((len(smoothed), *shape), dtype=np.float32)
    variance_factor = np.empty(shape, dtype=np.float32)
    _fused.sample_spline(
        smoothed=smoothed,
        nodes=np.ascontiguousarray(nodes),
        values=values,
        variance_factor=variance_factor,
        weights_work=np.empty((8, width), dtype=np.float32),
        position_work=np.empty((3, width)),
    )
    return values, variance_factor


def sample_linear(
    image: np.ndarray, nodes: np.ndarray, shape: tuple[int, int], step: int
) -> np.ndarray:
    """Sample an image linearly, without its invalid pixels."""
    values = np.empty((len(image), *shape), dtype=np.float32)
    _fused.sample_linear(
        image=np.ascontiguousarray(image, dtype=np.float32),
        nodes=np.ascontiguousarray(nodes),
        values=values,
        position_work=np.empty((2, shape[1])),
        step=step,
    )
    return values


def gather_blocks(
    pair: PreviewPair, frame: OverlapFrame, *,
    preview_side: int, few_cells: int, whole_share: float, border_error: float,
) -> OverlapBlocks | None:  # fmt: skip
    """Average the common cells of two previews by fit block."""
    channels, blocks = len(pair[0].values), frame.width * frame.height
    means, highest = np.empty((len(Kind), 2, channels, blocks)), np.empty((2, channels, blocks))
    position, cell_count, outcome = np.empty((2, blocks)), np.empty(blocks), np.empty(2)
    _fused.gather_blocks(
        *_pair_arguments(pair, frame, preview_side),
        means=means,
        position=position,
        highest=highest,
        cell_count=cell_count,
        count_work=np.empty(blocks),
        outcome=outcome,
        preview_side=preview_side,
        few_cells=few_cells,
        whole_share=whole_share,
        border_error=border_error,
    )
    cells, few = outcome.tolist()
    if cells < 0:
        return None
    return OverlapBlocks(means, position, highest, cell_count, int(cells), bool(few))


def gather_cells(
    pair: PreviewPair, frame: OverlapFrame, chosen_blocks: np.ndarray, *, border_error: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the common cells of chosen fit blocks."""
    channels, most = len(pair[0].values), len(chosen_blocks) * frame.side**2
    cells, position = np.empty((len(Kind), 2, channels, most)), np.empty((2, most))
    chosen_index, found_cells = np.empty(most, dtype=np.intp), np.empty(1, dtype=np.intp)
    _fused.gather_cells(
        *_pair_arguments(pair, frame, frame.side),  # blocks of previews are not read
        chosen_blocks=chosen_blocks,
        cells=cells,
        position=position,
        chosen_index=chosen_index,
        found_cells=found_cells,
        border_error=border_error,
    )
    count = int(found_cells[0])
    return cells[..., :count], position[:, :count], chosen_index[:count]


def _pair_arguments(pair: PreviewPair, frame: OverlapFrame, side: int) -> list[np.ndarray]:
    """Return the arguments for two previews, from `first_blocks` to `frame`.

    They contain the places of the blocks of both previews in the frame.
    """
    left, top = frame.left * frame.side // side, frame.top * frame.side // side
    origins = [
        (preview.x0, preview.y0, preview.x0 // side - left, preview.y0 // side - top)
        for preview in pair
    ]
    return [
        *(
            np.ascontiguousarray(array, dtype=np.float32)
            for preview in pair
            for array in (preview.blocks, preview.values, preview.variance)
        ),
        np.array(origins, dtype=np.intp).ravel(),
        np.array(frame, dtype=np.intp),
    ]
