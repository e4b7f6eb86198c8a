"""The kernels in C: allocate their outputs and work arrays, and call them.

Importing this module raises ImportError if the package was built without a compiler. `reference`
documents the functions.
"""

from __future__ import annotations

import numpy as np

from . import _fused  # type: ignore[attr-defined]
from .fit_summary import FIT_SUMMARY
from .fronts import Fronts
from .lattice import AREAS, BandSums
from .layout import (
    BlockNoise,
    Column,
    Kind,
    LineFit,
    OverlapBlocks,
    OverlapFrame,
    PreviewPair,
    SampleArrays,
    has_scene,
)


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


def block_weights(
    means: np.ndarray, highest: np.ndarray, cell_count: np.ndarray, *,
    shared_noise: float, block_cells: int,
) -> BlockNoise:  # fmt: skip
    """Turn the variances of cells in `means` into those of block means, in place."""
    channels, blocks = highest.shape[1:]
    typical_variance, prominence = np.empty((2, channels, 1)), np.empty(blocks)
    _fused.block_weights(
        means=means,
        highest=highest,
        cell_count=cell_count,
        typical_variance=typical_variance,
        prominence=prominence,
        index_work=np.empty(blocks),
        shared_noise=shared_noise,
        block_cells=block_cells,
    )
    return BlockNoise(typical_variance, prominence)


def sky_planes(samples: SampleArrays) -> np.ndarray:
    """Fit planes through the blocks without stars."""
    planes = np.empty((3, 2, len(samples.x), 1))
    _fused.sky_planes(
        x=samples.x,
        y=samples.y,
        u=samples.u,
        v=samples.v,
        bright=samples.bright,
        planes=planes,
        index_work=np.empty(len(samples.u)),
    )
    return planes


def initial_slope(
    samples: SampleArrays, planes: np.ndarray, *, bright_quantile: float, huber: float,
    rounds: int, tolerance: float, outlier_limit: float,
) -> np.ndarray:  # fmt: skip
    """Fit robust lines through the flattened blocks, without nuisance terms."""
    channels, blocks = samples.x.shape
    slope, (x_variance, y_variance) = np.empty(channels), samples.block_variance
    _fused.initial_slope(
        x=samples.x,
        y=samples.y,
        x_variance=x_variance,
        y_variance=y_variance,
        u=samples.u,
        v=samples.v,
        bright=samples.bright,
        planes=planes,
        slope=slope,
        flattened_work=np.empty((2, channels, blocks)),
        block_work=np.empty((6, blocks)),
        line_work=np.empty((8, channels)),
        bright_quantile=bright_quantile,
        huber=huber,
        rounds=rounds,
        tolerance=tolerance,
        outlier_limit=outlier_limit,
    )
    return slope


def design_matrix(
    samples: SampleArrays, planes: np.ndarray, slope: np.ndarray, *,
    detail_noise: tuple[float, float, float], derivative_noise: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Compute all columns of the design matrix."""
    design = np.empty((len(samples.x), len(Column), samples.variance.shape[-1]))
    _fused.design_matrix(
        x=samples.x,
        y=samples.y,
        derivatives=samples.derivatives,
        variance=samples.variance,
        u=samples.u,
        v=samples.v,
        slope=slope,
        cell_count=samples.cell_count,
        block_index=samples.block_index,
        cells=samples.star_cells,
        cell_position=samples.cell_position,
        cell_block=samples.cell_block,
        typical_variance=samples.typical_variance,
        planes=planes,
        columns=design,
        scene_work=np.empty((2, len(samples.u))),
        image_work=np.empty((6, *samples.frame_shape)),
        detail_noise_1=detail_noise[0],
        detail_noise_3=detail_noise[1],
        detail_noise_9=detail_noise[2],
        derivative_noise=derivative_noise,
    )
    return design


def fit_irls(
    design: np.ndarray, variance: np.ndarray, cell_block: np.ndarray, slope: np.ndarray, *,
    fixed_slope: bool, scene_information: np.ndarray, biweight: float, rounds: int,
    tolerance: float,
) -> LineFit:  # fmt: skip
    """Fit lines by iteratively reweighted least squares."""
    channels, columns, samples = design.shape
    fit = LineFit(
        design if has_scene(design) else design.copy(),  # the kernel sets its instrument
        slope.copy(),
        np.empty((channels, samples)),
        np.empty((channels, columns, columns)),
        np.empty((channels, 2, columns)),
        *np.empty((3, channels)),
    )
    _fused.fit_irls(
        columns=fit.design,
        x_variance=variance[0],
        y_variance=variance[1],
        cell_block=cell_block,
        slope=fit.slope,
        weights=fit.weights,
        gram=fit.gram,
        line=fit.line,
        scale=fit.scale,
        bread=fit.bread,
        instrument_noise=fit.instrument_noise,
        lost_work=np.empty(channels),
        residual_work=np.empty((channels, samples)),
        row_work=np.empty((6, samples)),
        scene_information=scene_information,
        fixed_slope=fixed_slope,
        biweight=biweight,
        rounds=rounds,
        tolerance=tolerance,
    )
    return fit


def summarize_fit(samples: SampleArrays, fit: LineFit) -> np.ndarray:
    """Summarize the fit of each channel in a record of `FIT_SUMMARY`."""
    channels, count = fit.weights.shape
    patches = int(samples.patch.max()) + 1
    summary = np.empty(channels, FIT_SUMMARY)
    _fused.summarize_fit(
        x=samples.x,
        y=samples.y,
        u=samples.u,
        v=samples.v,
        patch=samples.patch,
        columns=fit.design,
        weights=fit.weights,
        gram=fit.gram,
        line=fit.line,
        instrument_noise=fit.instrument_noise,
        patch_sum_work=np.empty((2, patches)),
        patch_share_work=np.empty((2, patches)),
        residual_work=np.empty((2, count)),
        summary=summary.view(np.float64).reshape(channels, -1),
    )
    return summary


def summarize_bands(
    samples: SampleArrays, fit: LineFit, *, scene_information: np.ndarray
) -> BandSums:
    """Summarize the bands and the areas of each channel."""
    channels, columns, count = fit.design.shape
    lattice, patches = (
        samples.lattice.for_design(has_scene(fit.design)),
        int(samples.patch.max()) + 1,
    )
    small, middle = lattice.band_rows(len(samples.u), count)
    sums = BandSums.empty(channels)
    _fused.summarize_bands(
        x=samples.x,
        y=samples.y,
        u=samples.u,
        v=samples.v,
        block_index=samples.block_index,
        cell_block=samples.cell_block,
        patch=samples.patch,
        lattice=np.array(lattice, dtype=np.intp),
        columns=fit.design,
        weights=fit.weights,
        scale=fit.scale,
        instrument_noise=fit.instrument_noise,
        scene_information=scene_information,
        bands=sums.bands,
        shares=sums.shares,
        levels=sums.levels,
        row_index=np.empty((2, count), dtype=np.intp),
        unit_index=np.empty((2, middle), dtype=np.intp),
        small_work=np.empty((columns + 1, small)),
        middle_work=np.empty((columns + 1, middle)),
        product_work=np.empty((3, max(small, middle))),
        patch_work=np.empty((3, patches)),
        group_work=np.empty((3, max(AREAS, middle, small))),
    )
    return sums


def factorize_fronts(
    fronts: Fronts, diagonal: np.ndarray, blocks: np.ndarray, panels: np.ndarray,
    updates: np.ndarray,
) -> bool:  # fmt: skip
    """Factorize all fronts."""
    definite = np.empty(1)
    _fused.factorize_fronts(
        *fronts,
        diagonal=diagonal,
        blocks=blocks,
        panels=panels,
        updates=updates,
        definite=definite,
        front_work=np.empty(fronts.largest**2),
    )
    return bool(definite[0])


def solve_fronts(fronts: Fronts, panels: np.ndarray, solution: np.ndarray) -> None:
    """Solve for right-hand sides, in place."""
    _fused.solve_fronts(
        *fronts,
        panels=panels,
        solution=solution,
        side_work=np.empty((solution.shape[1], fronts.largest)),
    )


def invert_fronts(
    fronts: Fronts, panels: np.ndarray, updates: np.ndarray, diagonal: np.ndarray,
    blocks: np.ndarray,
) -> None:  # fmt: skip
    """Compute the inverse within all fronts."""
    _fused.invert_fronts(
        *fronts,
        panels=panels,
        updates=updates,
        diagonal=diagonal,
        blocks=blocks,
        front_work=np.empty(fronts.largest**2),
    )
