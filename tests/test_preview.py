"""Previews: a cell has the same value wherever it falls in a tile and however the tile is read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.ndimage import convolve1d, map_coordinates

from tests.helpers.collisions import call_at_once
from tests.helpers.tiles import simulated
from zemosaic.photometry._kernels.nodes import NODE_STEP, interpolate_nodes
from zemosaic.photometry._kernels.reference import resampling as spline
from zemosaic.photometry.preview import binning, resampling
from zemosaic.photometry.preview.binning import bin_tile
from zemosaic.photometry.preview.block_summary import BlockStatistic
from zemosaic.photometry.preview.grid import Box, Grid, make_grid, odd_scales, pixel_nodes
from zemosaic.photometry.preview.noise import estimate_noise
from zemosaic.photometry.preview.preview import SIDE, Preview, make_preview
from zemosaic.photometry.preview.resampling import (
    local_contrast,
    sample,
)
from zemosaic.photometry.tiles.tile import Tile, TileError, tile_from_array

SCALE = 1e-3


def tangent_plane(
    shape: tuple[int, int], shift: tuple[float, float] = (0, 0), rotation: float = 0.0
) -> WCS:
    """Return a WCS centred `shift` pixels from the tangent point; `rotation` is in degrees."""
    angle = np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    centre = np.array([shape[1] - 1, shape[0] - 1]) / 2
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 20.0]
    wcs.wcs.crpix = centre + 1 - np.array([[cos, sin], [-sin, cos]]) @ np.array(shift)
    wcs.wcs.cd = SCALE * np.array([[-cos, sin], [sin, cos]])
    return wcs


def nodes_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the nodes of the positions x and y of all cells."""
    return np.stack([x, y])[:, ::NODE_STEP, ::NODE_STEP]


# ---- binning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("strip_pixels", [1, 1000, 1 << 18])
@pytest.mark.parametrize("invalid", [False, True])
def test_bins_are_means_of_their_valid_pixels(
    side: int, strip_pixels: int, invalid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For strips of any size, with NaN, infinities and an incomplete last row of bins."""
    monkeypatch.setattr(binning, "STRIP_PIXELS", strip_pixels)
    data = np.random.default_rng(1).normal(1000, 30, (3, 50, 71)).astype(np.float32)
    if invalid:
        data[:, :9, 3:20] = np.nan
        data[1, 30, 30], data[1, 30, 31] = np.inf, -np.inf
    means, valid_fraction = bin_tile(tile_from_array(data, tangent_plane((50, 71))), side)
    h, w = 50 // side, 71 // side
    bins = data[:, : h * side, : w * side].reshape(3, h, side, w, side).astype(float)
    valid = np.isfinite(bins)
    counts = valid.sum(axis=(2, 4))
    sums = np.where(valid, bins, 0).sum(axis=(2, 4))
    np.testing.assert_allclose(means, sums / np.maximum(counts, 1), rtol=1e-6)
    assert (valid_fraction is None) == (not invalid)
    if valid_fraction is not None:
        np.testing.assert_allclose(valid_fraction, counts / side**2, rtol=1e-6)


def test_weights_are_binned_as_one_more_channel() -> None:
    """Weights are relative to their median; pixels with weight 0 are invalid."""
    data, weight = np.full((40, 60), 7.0, dtype=np.float32), np.full((40, 60), 3.0)
    weight[:, 30:] = 6.0
    weight[:4] = 0.0
    tile = tile_from_array(data, tangent_plane((40, 60)), weight=weight)
    means, valid_fraction = bin_tile(tile, 4)
    assert means.shape == (2, 10, 15)
    assert valid_fraction is not None
    np.testing.assert_array_equal(valid_fraction[0, 0], 0)
    np.testing.assert_array_equal(means[0, 1:], 7)
    np.testing.assert_allclose(means[1, 1:, 8:] / means[1, 1:, :1], 2)


# ---- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 40), (270, 480), (540, 960), (1080, 1920), (40, 3000)])
def test_noise_is_estimated_despite_stars_and_slopes(shape: tuple[int, int]) -> None:
    """Within three standard errors plus 1.5 % for the stars; slopes have no effect."""
    rng = np.random.default_rng(2)
    h, w = shape
    means = rng.normal(0, 5, shape) + 3 * np.arange(w) + 2 * np.arange(h)[:, None]
    means[rng.uniform(size=shape) < 0.003] += 500
    noise = estimate_noise(means.astype(np.float32))
    assert noise == pytest.approx(5, rel=0.015 + 3 * 1.3 / np.sqrt(min(h * w, 1 << 16)))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 50), (50, 1)])
def test_noise_of_a_few_bins(shape: tuple[int, int]) -> None:
    """0 if there are too few bins for a difference or all are alike; a line of bins suffices."""
    assert estimate_noise(np.full(shape, 9.0, dtype=np.float32)) == 0
    noisy = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    assert (estimate_noise(noisy) > 0.5) == (max(shape) > 2)


# ---- sampling ---------------------------------------------------------------------------------


def rotated_cells() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of 100 x 90 cells in an image of 120 x 110 bins; some are outside."""
    row, column = np.mgrid[: 7 * NODE_STEP + 1, : 6 * NODE_STEP + 1]
    return 1.3 + 1.01 * column + 0.3 * row, -12.7 - 0.3 * column + 1.02 * row + 20


def test_samples_agree_with_scipy() -> None:
    """Samples equal those of scipy's quadratic B-spline through the smoothed bins."""
    means = np.random.default_rng(4).normal(1000, 100, (2, 110, 120)).astype(np.float32)
    x, y = rotated_cells()
    x, y = x[:100, :90], y[:100, :90]
    values, factor, missing = sample(means, None, nodes_of(*rotated_cells()), (100, 90))
    kernel = np.array([0.25, 0.5, 0.25])
    inside = (x >= 1.5) & (x <= 117.5) & (y >= 1.5) & (y <= 107.5)
    assert 0.3 < inside.mean() < 0.95
    for k in range(2):
        smooth = convolve1d(convolve1d(means[k].astype(float), kernel, 0), kernel, 1)
        expected = map_coordinates(smooth, [y, x], order=2, prefilter=False)
        np.testing.assert_allclose(values[k][inside], expected[inside], rtol=1e-6)
    assert np.isnan(values[:, ~inside]).all()
    assert np.isnan(factor[:, ~inside]).all()
    assert (missing == 0).all()


def test_the_variance_factor_is_the_sum_of_squared_weights() -> None:
    """The squared responses of a sample to single bins add up to its variance."""
    row, column = np.mgrid[: 2 * NODE_STEP + 1, : 2 * NODE_STEP + 1]
    nodes = nodes_of(3.1 + 0.11 * column, 3.2 + 0.09 * row)
    total = np.zeros((20, 20))
    for k in range(81):
        means = np.zeros((1, 9, 9), dtype=np.float32)
        means.flat[k] = 1
        values, factor, _ = sample(means, None, nodes, (20, 20))
        total += values[0].astype(float) ** 2
    np.testing.assert_allclose(total, factor[0], rtol=1e-5)


def test_missing_bins_are_compensated() -> None:
    """A constant is unchanged beside missing bins; samples with too few bins are NaN."""
    means = np.full((1, 60, 60), 500.0, dtype=np.float32)
    valid_fraction = np.ones_like(means)
    valid_fraction[0, 20:22, 20:24] = 0
    means *= valid_fraction > 0
    row, column = np.mgrid[: 4 * NODE_STEP + 1, : 4 * NODE_STEP + 1]
    nodes = nodes_of(3.3 + 0.9 * column, 3.4 + 0.9 * row)
    values, factor, missing = sample(means, valid_fraction, nodes, (55, 55))
    valid = np.isfinite(values)
    np.testing.assert_allclose(values[valid], 500, rtol=1e-6)
    assert 0 < (~valid).sum() < 30
    assert 0 < missing[valid].max() <= 1 - resampling.MIN_FRACTION
    complete = sample(means, None, nodes, (55, 55)).variance_factor
    assert (factor[valid] >= complete[valid] * 0.999).all()


@pytest.mark.usefixtures("either_way")
def test_the_size_of_strips_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of cells sampled or rows smoothed at once only affects the speed."""
    means = np.random.default_rng(5).normal(size=(2, 110, 120)).astype(np.float32)
    whole = sample(means, None, nodes_of(*rotated_cells()), (100, 90))
    monkeypatch.setattr(spline, "STRIP_CELLS", 200)
    monkeypatch.setattr(resampling, "STRIP_ROWS", 5)
    for expected, samples in zip(
        whole, sample(means, None, nodes_of(*rotated_cells()), (100, 90)), strict=True
    ):
        np.testing.assert_array_equal(samples, expected)


@pytest.mark.usefixtures("either_way")
def test_positions_off_the_sky_and_tiny_tiles_give_nan() -> None:
    """Without a warning, for NaN positions and for tiles of less than five bins."""
    x, y = rotated_cells()
    x[:NODE_STEP] = np.nan
    means = np.ones((1, 110, 120), dtype=np.float32)
    values, _, _ = sample(means, None, nodes_of(x, y), (100, 90))
    assert np.isnan(values[0, : NODE_STEP - 1]).all()
    assert np.isfinite(values[0, 2 * NODE_STEP :]).any()
    values, _, _ = sample(means[:, :4, :4], None, nodes_of(*rotated_cells()), (100, 90))
    assert np.isnan(values).all()


def test_contrast_is_the_largest_difference_to_a_neighbour() -> None:
    """In any direction and of either sign; NaN neighbours are ignored."""
    values = np.zeros((1, 4, 5), dtype=np.float32)
    values[0, 1, 1], values[0, 3, 4] = 5, np.nan
    expected = np.zeros((4, 5))
    expected[[0, 1, 1, 1, 2], [1, 0, 1, 2, 1]] = 5
    np.testing.assert_array_equal(local_contrast(values)[0], expected)


# ---- previews ---------------------------------------------------------------------------------

STARS = np.random.default_rng(6).uniform(-60, 60, (25, 2))


def starry_tile(
    shift: tuple[float, float], rotation: float, shape: tuple[int, int] = (200, 220)
) -> Tile:
    """Return a tile with the same stars on the sky for any position; their FWHM is 3.5 pixels."""
    wcs = tangent_plane(shape, shift, rotation)
    sky = tangent_plane(shape).all_pix2world(STARS + np.array(shape[::-1]) / 2, 0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.full(shape, 100.0)
    for u, v in wcs.all_world2pix(sky, 0):
        data += 1000 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (3.5 / 2.355) ** 2))
    return tile_from_array(data.astype(np.float32), wcs)


@pytest.mark.parametrize(
    ("shift", "rotation"),
    [((0.5, 0.5), 0), ((1.0, 0.3), 0), ((7.3, -4.9), 3), ((0, 0), 90), ((2, 9), 217)],
)
def test_cells_do_not_depend_on_the_position_of_the_tile(
    shift: tuple[float, float], rotation: float
) -> None:
    """For any shift and rotation, the cells of a star differ by less than 2 % of its peak."""
    grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
    tiles = starry_tile((0, 0), 0), starry_tile(shift, rotation)
    previews = [make_preview(tile, grid).above_zero() for tile in tiles]
    cells = []
    for preview in previews:
        column, row = -15 - preview.x0, -15 - preview.y0
        cells.append(preview.values[0, row : row + 30, column : column + 30])
    assert cells[0].shape == (30, 30)
    assert cells[0].max() > 300
    assert np.abs(cells[1] - cells[0]).max() < 0.02 * (cells[0].max() - 100)
    slope = np.polyfit(cells[0].ravel() - 100, cells[1].ravel() - 100, 1)[0]
    assert slope == pytest.approx(1, abs=5e-3)
    assert previews[0].sky[0] == pytest.approx(previews[1].sky[0], rel=1e-3)


def test_positions_of_cells_are_exact() -> None:
    """Positions interpolated between nodes agree with both WCSs to 0.01 pixel."""
    tile = simulated_tile(sip=True)
    grid = make_grid([tile])
    preview = make_preview(tile, grid)
    h, w = preview.values.shape[1:]
    nodes = pixel_nodes(tile, grid, Box(preview.x0, preview.y0, w, h))
    x, y = interpolate_nodes(interpolate_nodes(nodes, 0, w, 2), 0, h, 1)
    row, column = np.mgrid[:h, :w]
    cells = np.stack([column.ravel() + preview.x0, row.ravel() + preview.y0], axis=1)
    xy = tile.wcs.all_world2pix(grid.wcs.wcs_pix2world(cells.astype(float), 0), 0)
    np.testing.assert_allclose(np.stack([x.ravel(), y.ravel()], axis=1), xy, atol=0.01)


def simulated_tile(**scene: object) -> Tile:
    tile = simulated(**scene)[0]
    return tile_from_array(tile.data, tile.wcs, name=tile.name)


def test_a_preview_is_saved_and_loaded(tmp_path: Path) -> None:
    """Bitwise; a loaded preview is memory-mapped, and one for other processes has no arrays."""
    tile = simulated_tile(rgb=True, border=True)
    preview = make_preview(tile, make_grid([tile]))
    preview.save(tmp_path / "a.preview")
    bare = preview.without_arrays()
    assert bare.values.size == bare.variance.size == 0
    loaded = Preview.load(tmp_path / "a.preview")
    assert not loaded.values.flags.owndata
    assert not loaded.values.flags.writeable
    for name in ("values", "variance", "sky", "centre", "jacobian"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(preview, name))
    assert (loaded.x0, loaded.y0) == (preview.x0, preview.y0)
    assert np.array_equal(loaded.blocks, preview.blocks)
    # A copy has no cached blocks and computes them.
    assert np.array_equal(replace(loaded, x0=loaded.x0).blocks, preview.blocks)


def test_threads_load_previews_at_once(tmp_path: Path) -> None:
    """NumPy's own files cannot be opened so: their headers are parsed by `ast`."""
    tile = simulated_tile()
    make_preview(tile, make_grid([tile])).save(tmp_path / "a.preview")
    call_at_once(lambda: Preview.load(tmp_path / "a.preview"))


@pytest.mark.parametrize("size", [0, 10, 64, 70, -1])
def test_a_truncated_preview_is_not_loaded(size: int, tmp_path: Path) -> None:
    """Also without a whole header."""
    tile = simulated_tile()
    make_preview(tile, make_grid([tile])).save(tmp_path / "a.preview")
    content = (tmp_path / "a.preview").read_bytes()
    (tmp_path / "a.preview").write_bytes(content[:size])
    with pytest.raises(ValueError):  # noqa: PT011 - messages are NumPy's
        Preview.load(tmp_path / "a.preview")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_preview_that_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    """A full disk raises an error instead of leaving a truncated file."""
    import resource

    tile = simulated_tile()
    preview = make_preview(tile, make_grid([tile]))
    preview.save(tmp_path / "complete.preview")
    size = (tmp_path / "complete.preview").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size - 1, size // 2, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(OSError, match="large"):
                preview.save(tmp_path / "truncated.preview")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("corner", [(0, 0), (3, 1), (-2, -5)])
def test_blocks_lie_on_the_lattice_of_the_grid(corner: tuple[int, int]) -> None:
    """Complete blocks have means and highest values; of the others only the count is known."""
    rng = np.random.default_rng(1)
    values = rng.normal(100, 10, (2, 21, 18)).astype(np.float32)
    values[:, 9, 7] = np.nan
    x0, y0 = corner
    unused = np.zeros(2)
    preview = Preview(x0, y0, values, values**2, unused, unused, np.eye(2))
    for k, row in enumerate(range(y0 // SIDE * SIDE, y0 + 21, SIDE)):
        for n, column in enumerate(range(x0 // SIDE * SIDE, x0 + 18, SIDE)):
            top, left = max(row - y0, 0), max(column - x0, 0)
            cells = values[:, top : row + SIDE - y0, left : column + SIDE - x0].reshape(2, -1)
            block = dict(zip(BlockStatistic, preview.blocks[:, :, k, n], strict=True))
            mean, variance = block[BlockStatistic.MEAN], block[BlockStatistic.VARIANCE]
            count = block.pop(BlockStatistic.COUNT)
            assert (count == np.isfinite(cells).sum(axis=1)).all()
            if count[0] == SIDE**2:
                assert mean == pytest.approx(cells.mean(axis=1), rel=1e-5)
                # The rest of the variance is due to light that crosses the border.
                cell_variance = (cells**2).mean(axis=1)
                assert (cell_variance * (1 - 1e-5) < variance).all()
                assert (variance < cell_variance * (1 + 1e-3)).all()
                assert (block[BlockStatistic.HIGHEST] == cells.max(axis=1)).all()
            else:
                assert not np.any(list(block.values()))
    assert preview.blocks.shape[2:] == (k + 1, n + 1)


def test_the_variance_is_that_of_the_noise() -> None:
    """On a flat sky, it equals the scatter of the cells of a rotated tile."""
    pulls = []
    for seed in range(7, 27):
        rng = np.random.default_rng(seed)
        data = rng.normal(1000, 12, (400, 500)).astype(np.float32)
        tile = tile_from_array(data, tangent_plane(data.shape, rotation=33.0))
        grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
        preview = make_preview(tile, grid).above_zero()
        valid = np.isfinite(preview.values)
        pulls.append(np.mean((preview.values[valid] - 1000) ** 2 / preview.variance[valid]))
    # The pull of a single tile scatters by 2 %.
    assert np.mean(pulls) == pytest.approx(1, abs=0.015)


def test_a_channel_without_valid_pixels_is_an_error() -> None:
    """The error names the tile and the remedy."""
    tile = simulated_tile(rgb=True)
    assert tile.data is not None
    data = tile.data.copy()
    data[1] = np.nan
    with pytest.raises(TileError, match="has no valid pixel in at least one channel; leave it out"):
        make_preview(replace(tile, data=data), make_grid([tile]))


def test_a_weight_lowers_the_variance() -> None:
    """Twice the weight halves the variance; the values do not change."""
    data = np.random.default_rng(8).normal(1000, 12, (200, 300)).astype(np.float32)
    weight = np.ones(data.shape)
    weight[:, 150:] = 2.0
    wcs = tangent_plane(data.shape)
    grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
    plain, weighted = (
        make_preview(tile_from_array(data, wcs, weight=w), grid) for w in (None, weight)
    )
    np.testing.assert_allclose(weighted.values, plain.values, rtol=1e-6)
    ratio = weighted.variance / plain.variance
    right, left = np.nanmedian(ratio[..., :30]), np.nanmedian(ratio[..., -30:])
    assert max(right, left) / min(right, left) == pytest.approx(2, rel=0.1)


def test_a_preview_beyond_memory_is_refused() -> None:
    """A tile of as many cells as memory cannot hold fails before anything is allocated."""
    small = tile_from_array(np.zeros((100, 100)), tangent_plane((100, 100)))
    huge_shape = (100_000, 100_000)
    pixels = np.broadcast_to(np.float32(0), huge_shape)
    huge = tile_from_array(pixels, tangent_plane(huge_shape), name="huge.fits")
    with pytest.raises(TileError, match=r"huge\.fits: is \d+ x \d+ times as large as a cell"):
        make_preview(huge, make_grid([small, small, small]))


@pytest.mark.parametrize(
    ("factor", "odd"), [(20, False), (1 / 20, False), (60, True), (0.01, True)]
)
def test_scales_may_differ_within_reason(factor: float, odd: bool) -> None:
    """Wide and narrow fields may be mixed; a scale far from all others is a mistake."""
    tile = tile_from_array(np.zeros((100, 100)), tangent_plane((100, 100)))
    tiles = dict(enumerate([tile, tile, replace(tile, name="odd", scale=factor * tile.scale)]))
    assert list(odd_scales(tiles)) == [2] * odd


def test_a_high_sky_costs_no_precision() -> None:
    """Values above a sky of 60,000 are those above a sky of 0, to float32 pixels."""
    data = np.random.default_rng(3).normal(0, 8, (200, 300)).round(2)
    wcs = tangent_plane(data.shape)
    grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
    low, high = (
        make_preview(tile_from_array((data + sky).astype(np.float32), wcs), grid)
        for sky in (0.0, 60_000.0)
    )
    difference = high.values + (high.pedestals - low.pedestals)[:, None, None] - low.values - 6e4
    assert np.nanmax(np.abs(difference)) < 2e-3  # pixels are rounded to 4e-3
    assert high.sky - low.sky == pytest.approx(60_000, abs=0.01)
