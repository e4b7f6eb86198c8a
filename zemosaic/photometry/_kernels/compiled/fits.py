"""Calls of the kernels that fit the overlap of two previews."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..fit_summary import FIT_SUMMARY
from ..lattice import AREAS, BandSums
from ..layout import BlockNoise, Column, LineFit, SampleArrays, has_scene


def block_weights(
    means: np.ndarray, highest: np.ndarray, cell_count: np.ndarray, *,
    shared_noise: float, block_cells: int,
) -> BlockNoise:  # fmt: skip
    """Turn the variances of cells in `means` into variances of block means, in place."""
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
        **_places_and_levels(samples),
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
        **_places_and_levels(samples),
        x_variance=x_variance,
        y_variance=y_variance,
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
        **_places_and_levels(samples),
        derivatives=samples.derivatives,
        variance=samples.variance,
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
        **_places_and_levels(samples),
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
        **_places_and_levels(samples),
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
        group_work=np.empty((2 + len(Column), max(AREAS, middle, small))),
    )
    return sums


def _places_and_levels(samples: SampleArrays) -> dict[str, np.ndarray]:
    """Return the arguments for the levels of blocks in both tiles, and their places."""
    return {"x": samples.x, "y": samples.y, "u": samples.u, "v": samples.v}
