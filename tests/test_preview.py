"""Previews: what a cell holds does not depend on where it falls, nor on how a tile is read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.ndimage import convolve1d, map_coordinates

from tests.helpers.tiles import simulated
from zemosaic.photometry._kernels.nodes import NODE_STEP, interpolate_nodes
from zemosaic.photometry._kernels.reference import resampling as spline
from zemosaic.photometry.preview import binning, resampling
from zemosaic.photometry.preview.binning import bin_tile
from zemosaic.photometry.preview.grid import Box, Grid, make_grid, pixel_nodes
from zemosaic.photometry.preview.noise import estimate_noise
from zemosaic.photometry.preview.preview import SIDE, Preview, make_preview
from zemosaic.photometry.preview.resampling import (
    local_contrast,
    sample,
)
from zemosaic.photometry.preview.saturation import drop_saturated
from zemosaic.photometry.tiles.tile import Tile, TileError, tile_from_array

SCALE = 1e-3


def plane(shape: tuple[int, int], at: tuple[float, float] = (0, 0), turn: float = 0.0) -> WCS:
    """A tangent plane whose middle pixel lies `at` pixels from the centre, turned by degrees."""
    angle = np.deg2rad(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    middle = np.array([shape[1] - 1, shape[0] - 1]) / 2
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 20.0]
    wcs.wcs.crpix = middle + 1 - np.array([[cos, sin], [-sin, cos]]) @ np.array(at)
    wcs.wcs.cd = SCALE * np.array([[-cos, sin], [sin, cos]])
    return wcs


def nodes_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Nodes of an affine map, from cells (row, column) to x and y."""
    return np.stack([x, y])[:, ::NODE_STEP, ::NODE_STEP]


# ---- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("strip", [1, 1000, 1 << 18])
@pytest.mark.parametrize("torn", [False, True])
def test_blocks_hold_the_mean_of_their_valid_pixels(
    block: int, strip: int, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is read at once, with NaN, infinities and rows that fill no block."""
    monkeypatch.setattr(binning, "STRIP_PIXELS", strip)
    data = np.random.default_rng(1).normal(1000, 30, (3, 50, 71)).astype(np.float32)
    if torn:
        data[:, :9, 3:20] = np.nan
        data[1, 30, 30], data[1, 30, 31] = np.inf, -np.inf
    means, fraction = bin_tile(tile_from_array(data, plane((50, 71))), block)
    h, w = 50 // block, 71 // block
    blocks = data[:, : h * block, : w * block].reshape(3, h, block, w, block).astype(float)
    valid = np.isfinite(blocks)
    counts = valid.sum(axis=(2, 4))
    sums = np.where(valid, blocks, 0).sum(axis=(2, 4))
    np.testing.assert_allclose(means, sums / np.maximum(counts, 1), rtol=1e-6)
    assert (fraction is None) == (not torn)
    if fraction is not None:
        np.testing.assert_allclose(fraction, counts / block**2, rtol=1e-6)


def test_weights_come_as_one_more_plane() -> None:
    """Relative to their median; what weighs nothing is no datum."""
    data, weight = np.full((40, 60), 7.0, dtype=np.float32), np.full((40, 60), 3.0)
    weight[:, 30:] = 6.0
    weight[:4] = 0.0
    means, fraction = bin_tile(tile_from_array(data, plane((40, 60)), weight=weight), 4)
    assert means.shape == (2, 10, 15)
    assert fraction is not None
    np.testing.assert_array_equal(fraction[0, 0], 0)
    np.testing.assert_array_equal(means[0, 1:], 7)
    np.testing.assert_allclose(means[1, 1:, 8:] / means[1, 1:, :1], 2)


# ---- noise ------------------------------------------------------------------------------------


def strip(rng: np.random.Generator) -> np.ndarray:
    """Sky in counts, as cameras give it."""
    return rng.poisson(40.0, (3, 64, 96)).astype(np.float32)


@pytest.mark.parametrize("ceiling", [300.0, 75.0, np.float32(65535) * 0.7])
def test_saturated_pixels_are_no_data_in_any_channel(ceiling: float) -> None:
    """A star's core that is cut off in one channel, however high the limit is."""
    planes = strip(np.random.default_rng(1))
    planes[1, 20:26, 30:36] = 2 * ceiling
    planes = np.minimum(planes, np.float32(ceiling))
    planes[0, 5, 5], planes[2, 6, 6] = np.nan, np.inf
    before = planes.copy()
    cut = np.zeros(planes.shape, dtype=bool)
    cut[:, 20:26, 30:36] = True
    highest = np.full(3, -np.inf)
    drop_saturated(planes, highest)
    assert np.isnan(planes[cut]).all()
    np.testing.assert_array_equal(planes[~cut], before[~cut])
    assert highest[1] == np.float32(ceiling)
    # A strip below, whose highest values are many but lower, has no saturated pixel.
    below = strip(np.random.default_rng(2))
    below[1, 20:26, 30:36] = ceiling - 1
    before = below.copy()
    drop_saturated(below, highest)
    np.testing.assert_array_equal(below, before)


@pytest.mark.parametrize(
    "planes",
    [
        np.full((1, 64, 96), 5.0),
        np.full((1, 64, 96), np.nan),
        np.random.default_rng(1).poisson(0.3, (1, 640, 960)),  # many pixels have the highest
        np.broadcast_to(np.arange(96.0), (1, 64, 96)),  # a gradient without noise
        np.where(np.arange(96) < 48, 5.0, 6.0) * np.ones((1, 64, 1)),  # a step
        np.random.default_rng(2).normal(9.0, 0.1, (1, 64, 96)),
    ],
    ids=["constant", "empty", "few counts", "gradient", "step", "noise"],
)
def test_what_is_not_cut_off_stays(planes: np.ndarray) -> None:
    """The highest value is nothing by itself, even where many pixels have it."""
    planes = planes.astype(np.float32)
    before = planes.copy()
    drop_saturated(planes, np.full(1, -np.inf))
    np.testing.assert_array_equal(planes, before)


@pytest.mark.parametrize("shape", [(30, 40), (270, 480), (540, 960), (1080, 1920), (40, 3000)])
def test_the_noise_of_blocks_is_told_among_stars_and_slopes(shape: tuple[int, int]) -> None:
    """Within three times its own error and 1.5 % for stars; a slope does not count."""
    rng = np.random.default_rng(2)
    h, w = shape
    means = rng.normal(0, 5, shape) + 3 * np.arange(w) + 2 * np.arange(h)[:, None]
    means[rng.uniform(size=shape) < 0.003] += 500
    told = estimate_noise(means.astype(np.float32))
    assert told == pytest.approx(5, rel=0.015 + 3 * 1.3 / np.sqrt(min(h * w, 1 << 16)))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 50), (50, 1)])
def test_a_few_blocks_have_some_noise_or_none(shape: tuple[int, int]) -> None:
    """Too few for a difference, or all alike: 0; a line of blocks is enough."""
    assert estimate_noise(np.full(shape, 9.0, dtype=np.float32)) == 0
    noisy = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    assert (estimate_noise(noisy) > 0.5) == (max(shape) > 2)


# ---- the kernel -------------------------------------------------------------------------------


def turned_cells() -> tuple[np.ndarray, np.ndarray]:
    """Places in blocks of 100 x 90 cells on an image of 120 x 110 blocks, some outside of it."""
    row, column = np.mgrid[: 7 * NODE_STEP + 1, : 6 * NODE_STEP + 1]
    return 1.3 + 1.01 * column + 0.3 * row, -12.7 - 0.3 * column + 1.02 * row + 20


def test_samples_are_those_of_a_quadratic_spline_through_smoothed_blocks() -> None:
    """As scipy's own spline sampling gives them, which knows nothing of strips or indices."""
    means = np.random.default_rng(4).normal(1000, 100, (2, 110, 120)).astype(np.float32)
    x, y = turned_cells()
    x, y = x[:100, :90], y[:100, :90]
    values, factor, missing = sample(means, None, nodes_of(*turned_cells()), (100, 90))
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
    """A sample's answers to single blocks, squared and added, are its variance."""
    row, column = np.mgrid[: 2 * NODE_STEP + 1, : 2 * NODE_STEP + 1]
    nodes = nodes_of(3.1 + 0.11 * column, 3.2 + 0.09 * row)
    total = np.zeros((20, 20))
    for k in range(81):
        means = np.zeros((1, 9, 9), dtype=np.float32)
        means.flat[k] = 1
        values, factor, _ = sample(means, None, nodes, (20, 20))
        total += values[0].astype(float) ** 2
    np.testing.assert_allclose(total, factor[0], rtol=1e-5)


def test_a_part_of_the_kernel_is_made_up_for() -> None:
    """A constant stays what it is beside missing blocks; far too few of them give no datum."""
    means = np.full((1, 60, 60), 500.0, dtype=np.float32)
    fraction = np.ones_like(means)
    fraction[0, 20:22, 20:24] = 0
    means *= fraction > 0
    row, column = np.mgrid[: 4 * NODE_STEP + 1, : 4 * NODE_STEP + 1]
    nodes = nodes_of(3.3 + 0.9 * column, 3.4 + 0.9 * row)
    values, factor, missing = sample(means, fraction, nodes, (55, 55))
    known = np.isfinite(values)
    np.testing.assert_allclose(values[known], 500, rtol=1e-6)
    assert 0 < (~known).sum() < 30
    assert 0 < missing[known].max() <= 1 - resampling.MIN_FRACTION
    whole = sample(means, None, nodes, (55, 55))[1]
    assert (factor[known] >= whole[known] * 0.999).all()


@pytest.mark.usefixtures("either_way")
def test_strips_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is sampled or smoothed at once is a matter of speed alone."""
    means = np.random.default_rng(5).normal(size=(2, 110, 120)).astype(np.float32)
    whole = sample(means, None, nodes_of(*turned_cells()), (100, 90))
    monkeypatch.setattr(spline, "STRIP_CELLS", 200)
    monkeypatch.setattr(resampling, "STRIP_ROWS", 5)
    for one, other in zip(
        whole, sample(means, None, nodes_of(*turned_cells()), (100, 90)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("either_way")
def test_places_off_the_sky_and_tiny_tiles_give_no_datum() -> None:
    """NaN places, as far from a tile's tangent point, and less than five blocks, without a word."""
    x, y = turned_cells()
    x[:NODE_STEP] = np.nan
    means = np.ones((1, 110, 120), dtype=np.float32)
    values, _, _ = sample(means, None, nodes_of(x, y), (100, 90))
    assert np.isnan(values[0, : NODE_STEP - 1]).all()
    assert np.isfinite(values[0, 2 * NODE_STEP :]).any()
    values, _, _ = sample(means[:, :4, :4], None, nodes_of(*turned_cells()), (100, 90))
    assert np.isnan(values).all()


def test_contrast_is_the_largest_step_to_a_neighbour() -> None:
    """Whatever its sign and direction; a missing neighbour says nothing."""
    values = np.zeros((1, 4, 5), dtype=np.float32)
    values[0, 1, 1], values[0, 3, 4] = 5, np.nan
    expected = np.zeros((4, 5))
    expected[[0, 1, 1, 1, 2], [1, 0, 1, 2, 1]] = 5
    np.testing.assert_array_equal(local_contrast(values)[0], expected)


# ---- the preview ------------------------------------------------------------------------------

STARS = np.random.default_rng(6).uniform(-60, 60, (25, 2))


def starry(at: tuple[float, float], turn: float, shape: tuple[int, int] = (200, 220)) -> Tile:
    """Stars of FWHM 3.5 pixels, the same on the sky wherever the tile lies."""
    wcs = plane(shape, at, turn)
    sky = plane(shape).all_pix2world(STARS + np.array(shape[::-1]) / 2, 0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.full(shape, 100.0)
    for u, v in wcs.all_world2pix(sky, 0):
        data += 1000 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (3.5 / 2.355) ** 2))
    return tile_from_array(data.astype(np.float32), wcs)


@pytest.mark.parametrize(
    ("at", "turn"),
    [((0.5, 0.5), 0), ((1.0, 0.3), 0), ((7.3, -4.9), 3), ((0, 0), 90), ((2, 9), 217)],
)
def test_a_cell_sees_the_same_sky_through_every_tile(at: tuple[float, float], turn: float) -> None:
    """However a tile is shifted and turned, a star's cells differ by less than 2 % of its peak."""
    grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
    one, other = (make_preview(t, grid) for t in (starry((0, 0), 0), starry(at, turn)))
    cells = []
    for p in (one, other):
        column, row = -15 - p.x0, -15 - p.y0
        cells.append(p.values[0, row : row + 30, column : column + 30])
    assert cells[0].shape == (30, 30)
    assert cells[0].max() > 300
    assert np.abs(cells[1] - cells[0]).max() < 0.02 * (cells[0].max() - 100)
    slope = np.polyfit(cells[0].ravel() - 100, cells[1].ravel() - 100, 1)[0]
    assert slope == pytest.approx(1, abs=5e-3)
    assert one.sky[0] == pytest.approx(other.sky[0], rel=1e-3)


def test_a_preview_is_where_the_tile_is() -> None:
    """The cells' places, by node and interpolated, are those of the exact maps both ways."""
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


def test_a_preview_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    """To the bit, mapped and not read; what travels in between has no arrays."""
    tile = simulated_tile(rgb=True, border=True)
    preview = make_preview(tile, make_grid([tile]))
    preview.save(tmp_path / "a.npy")
    small = preview.without_arrays()
    assert small.values.size == small.variance.size == 0
    again = Preview.load(tmp_path / "a.npy")
    assert not again.values.flags.owndata
    assert not again.values.flags.writeable
    for name in ("values", "variance", "sky", "centre", "jacobian"):
        np.testing.assert_array_equal(getattr(again, name), getattr(preview, name))
    assert (again.x0, again.y0) == (preview.x0, preview.y0)
    assert np.array_equal(again.blocks, preview.blocks)
    # A preview without its blocks makes them again.
    assert np.array_equal(replace(again, x0=again.x0).blocks, preview.blocks)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of that kind")
def test_a_preview_that_cannot_be_kept_whole_says_so(tmp_path: Path) -> None:
    """A disk that takes no more is an error at once, not a file that is too short."""
    import resource

    tile = simulated_tile()
    preview = make_preview(tile, make_grid([tile]))
    preview.save(tmp_path / "whole.npy")
    size = (tmp_path / "whole.npy").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size - 1, size // 2, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(OSError, match="large"):
                preview.save(tmp_path / "cut.npy")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("corner", [(0, 0), (3, 1), (-2, -5)])
def test_blocks_lie_on_the_lattice_of_the_grid(corner: tuple[int, int]) -> None:
    """Means and largest value of whole blocks, and how many cells the others have."""
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
            mean, variance, highest, *derivatives, number = preview.blocks[:, :, k, n]
            assert (number == np.isfinite(cells).sum(axis=1)).all()
            if number[0] == SIDE**2:
                assert mean == pytest.approx(cells.mean(axis=1), rel=1e-5)
                square = (cells**2).mean(axis=1)  # and what may have crossed the border
                assert (square * (1 - 1e-5) < variance).all()
                assert (variance < square * (1 + 1e-3)).all()
                assert (highest == cells.max(axis=1)).all()
            else:
                assert (mean == 0).all()
                assert not np.any(derivatives)
    assert preview.blocks.shape[2:] == (k + 1, n + 1)


def test_the_reported_variance_is_that_of_the_noise() -> None:
    """On a flat sky it is the scatter of the cells, at a scale and a turn of any kind."""
    pulls = []
    for seed in range(7, 27):
        rng = np.random.default_rng(seed)
        data = rng.normal(1000, 12, (400, 500)).astype(np.float32)
        tile = tile_from_array(data, plane(data.shape, turn=33.0))
        grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
        preview = make_preview(tile, grid)
        known = np.isfinite(preview.values)
        pulls.append(np.mean((preview.values[known] - 1000) ** 2 / preview.variance[known]))
    # One tile of these scatters by 2 %.
    assert np.mean(pulls) == pytest.approx(1, abs=0.015)


def test_a_channel_without_a_pixel_is_named() -> None:
    """A preview of NaN alone would be no tile; the message says which and what to do."""
    tile = simulated_tile(rgb=True)
    assert tile.data is not None
    data = tile.data.copy()
    data[1] = np.nan
    with pytest.raises(TileError, match="has no valid pixel in at least one channel; leave it out"):
        make_preview(replace(tile, data=data), make_grid([tile]))


def test_a_weight_lowers_the_variance() -> None:
    """Where it is twice as high the variance is half, and the values stay."""
    data = np.random.default_rng(8).normal(1000, 12, (200, 300)).astype(np.float32)
    weight = np.ones(data.shape)
    weight[:, 150:] = 2.0
    wcs = plane(data.shape)
    grid = Grid((150.0, 20.0), 4 * SCALE, 2 * SCALE, "TAN")
    plain, weighted = (
        make_preview(tile_from_array(data, wcs, weight=w), grid) for w in (None, weight)
    )
    np.testing.assert_allclose(weighted.values, plain.values, rtol=1e-6)
    ratio = weighted.variance / plain.variance
    right, left = np.nanmedian(ratio[..., :30]), np.nanmedian(ratio[..., -30:])
    assert max(right, left) / min(right, left) == pytest.approx(2, rel=0.1)
