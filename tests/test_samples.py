"""The samples of a pair: each cell counts once, and light that moves within a block stays in it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.previews import NOISE, in_colours, only, pair, preview
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.pairfit.overlap_blocks import (
    FEW_CELLS,
    MANY_BLOCKS,
    WHOLE_SHARE,
    common_samples,
)
from zemosaic.photometry.pairfit.samples import PairSamples
from zemosaic.photometry.pairfit.streaks import cluster_lengths, without_streaks
from zemosaic.photometry.preview.preview import SIDE, Preview

pytestmark = pytest.mark.usefixtures("either_way")


def samples_of(first: Preview, second: Preview) -> PairSamples:
    """Return the samples of channels that are valid in the same cells."""
    samples = common_samples(first, second)
    assert samples is not None
    return samples[0]


def complete_blocks(valid: np.ndarray) -> np.ndarray:
    """Return which cells lie in blocks of SIDE x SIDE valid cells."""
    height, width = (length - length % SIDE for length in valid.shape)
    blocks = valid[:height, :width].reshape(height // SIDE, SIDE, width // SIDE, SIDE)
    complete = np.zeros_like(valid)
    complete[:height, :width] = np.kron(blocks.all(axis=(1, 3)), np.ones((SIDE, SIDE), dtype=bool))
    return complete


@pytest.mark.parametrize("shape", [(40, 50), (61, 83), (150, 203), (400, 500)])
def test_every_common_cell_counts_once(shape: tuple[int, int]) -> None:
    """Each cell is in one fit block, also with holes, ragged edges and odd sizes.

    If nearly all cells lie in complete blocks, the others are left out.
    """
    first, second = pair(shape)
    first.values[0, 5:9, 7:19] = np.nan
    second.values[0][np.tri(*shape, k=-shape[0] // 2, dtype=bool)] = np.nan
    samples = samples_of(first, second)
    common = np.isfinite(first.values[0] + second.values[0])
    assert samples.cells == common.sum()
    if samples.cell_count.sum() < common.sum():
        common = complete_blocks(common)
        assert common.sum() >= WHOLE_SHARE * samples.cells
    assert samples.cell_count.sum() == common.sum()
    assert (samples.cell_count <= samples.side**2).all()
    v, u = np.nonzero(common)
    for means, cells in (
        (samples.x[0], first.values[0][common]), (samples.y[0], second.values[0][common]),
        (samples.u, u), (samples.v, v),
    ):  # fmt: skip
        total = (samples.cell_count * means).sum()
        assert total == pytest.approx(cells.sum(dtype=float), rel=1e-6)


def test_samples_are_few_however_many_cells_there_are() -> None:
    """The cost of a fit hardly grows with the overlap."""
    for shape in ((30, 40), (100, 200), (300, 500), (500, 800)):
        assert len(samples_of(*pair(shape)).u) <= max(FEW_CELLS, 1.1 * MANY_BLOCKS)


def test_samples_do_not_depend_on_the_order_of_the_tiles() -> None:
    """(i, j) and (j, i) choose the same blocks and cells."""
    first, second = pair((120, 160))
    forward, backward = samples_of(first, second), samples_of(second, first)
    for name in ("u", "v", "patch", "bright"):
        assert np.array_equal(getattr(forward, name), getattr(backward, name))
    assert np.array_equal(forward.x, backward.y)


def mean_derivatives(cells: np.ndarray, side: int) -> np.ndarray:
    """Return gradient along u and v, and Laplacian, averaged over blocks: ``(3, H, W)``."""
    height, width = cells.shape
    along_v, along_u = np.gradient(cells)
    bend = np.zeros((2, height, width))
    bend[0, :, 1:-1], bend[1, 1:-1] = np.diff(cells, 2, axis=1), np.diff(cells, 2, axis=0)
    derivatives = np.stack([along_u, along_v, bend.sum(axis=0)])
    blocks = derivatives.reshape(3, height // side, side, width // side, side)
    return np.asarray(blocks.mean(axis=(2, 4)))


@pytest.mark.parametrize(("side", "shape"), [(1, (44, 48)), (SIDE, (100, 148))])
def test_derivatives_are_means_over_the_cells_of_a_block(side: int, shape: tuple[int, int]) -> None:
    """This holds for gradient and Laplacian in both tiles.

    At the edge of a tile, where a neighbour is missing, they are 0 along that axis.
    """
    tiles = pair(shape)
    samples = samples_of(*tiles)
    assert samples.side == side
    for k, tile in enumerate(tiles):
        means = mean_derivatives(tile.values[0].astype(float), side)
        inner = np.zeros(means.shape[1:], dtype=bool)
        inner[1:-1, 1:-1] = True
        derivatives = samples.derivatives[:, k, 0].reshape(means.shape)
        tolerance = 1e-4 * np.abs(means).max()
        np.testing.assert_allclose(derivatives[:, inner], means[:, inner], atol=tolerance)
        sides = ~inner
        sides[[0, -1]] = False
        assert not derivatives[0, sides].any()
        assert derivatives[1, sides].all()


def test_light_that_moves_within_a_block_costs_it_no_weight() -> None:
    """A star in the middle of a block leaves its variance alone; a star at its border does not."""
    y, x = np.mgrid[:100, :148]
    variance = []
    for star_x in (41.5, 43.0):  # the block has the cells 40 to 43
        star = 1e4 * np.exp(-((x - star_x) ** 2 + (y - 41.5) ** 2) / 0.5)
        samples = samples_of(preview(1000 + star, NOISE), preview(1000 + star, NOISE))
        block = (np.abs(samples.u - 41.5) < 2) & (np.abs(samples.v - 41.5) < 2)
        assert block.sum() == 1
        x_variance = samples.block_variance[0]
        variance.append(x_variance[0, block][0] / np.median(x_variance))
    assert variance[0] < 1.1
    assert variance[1] > 3


def test_bright_blocks_are_those_with_stars() -> None:
    """The brightest star is in one of them; noise alone has none."""
    first, second = pair((100, 150))
    samples = samples_of(first, second)
    y, x = np.unravel_index(np.argmax(first.values[0]), (100, 150))
    star = (np.abs(samples.u - x) < SIDE / 2) & (np.abs(samples.v - y) < SIDE / 2)
    assert samples.bright[star].tolist() == [1]
    rng = np.random.default_rng(1)
    flat = [preview(rng.normal(1000, NOISE, (100, 150)), NOISE) for _ in range(2)]
    assert not samples_of(*flat).bright.any()


def test_channels_do_not_influence_each_other() -> None:
    """Colours share the choice of samples: each has the line it has by itself, within its error."""
    pairs = [pair((120, 160), gain) for gain in (0.8, 1.1, 1.5)]
    first, second = in_colours(pairs)
    for together, single in zip(measure_pair(first, second), pairs, strict=True):
        assert isinstance(together, PairMeasurement)
        separate = only(measure_pair(*single))
        assert together.gain == pytest.approx(separate.gain, abs=separate.gain_err)
        assert together.gain_err == pytest.approx(separate.gain_err, rel=0.2)


def test_channels_with_different_masks_are_measured_one_by_one() -> None:
    """Each channel has its own number of cells."""
    first, second = in_colours([pair((120, 160), gain) for gain in (0.8, 1.1, 1.5)])
    second.values[1, :40] = np.nan
    measurements = measure_pair(first, second)
    assert [line.cells for line in measurements if isinstance(line, PairMeasurement)] == [
        120 * 160, 80 * 160, 120 * 160,
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(90, 120), (190, 240)])
def test_lines_through_blocks_have_honest_errors(shape: tuple[int, int]) -> None:
    """Over 20 skies, gain and level scatter about the truth by their errors."""
    gain, level = [], []
    for seed in range(20):
        line = only(measure_pair(*pair(shape, 1.2, seed)))
        gain.append(np.log(line.gain / 1.2) / (line.gain_err / line.gain))
        level.append((line.y - 1.2 * line.x) / line.level_err)
    for pull in (gain, level):
        assert 0.6 < np.sqrt(np.mean(np.square(pull))) < 1.4
        assert abs(np.mean(pull)) < 1.0


@pytest.mark.parametrize(("shape", "side"), [((40, 50), 1), ((150, 203), 4)])
def test_a_streak_is_removed_with_its_surroundings(shape: tuple[int, int], side: int) -> None:
    """A row of outliers and its neighbours go; the few contiguous blocks of a star stay."""
    samples = samples_of(*pair(shape))
    assert samples.side == side
    row, column = np.divmod(samples.block_index, samples.frame_shape[1])
    middle = samples.frame_shape[0] // 2
    size = 6 if side == 1 else 2
    star = (row >= 3) & (row < 3 + size) & (column >= 4) & (column < 4 + size)
    assert without_streaks(samples, star) is None
    clean = without_streaks(samples, (row == middle) | star)
    assert clean is not None
    kept = np.abs(row - middle) > (2 if side == 1 else 1)
    assert clean.block_index.tolist() == samples.block_index[kept].tolist()
    assert clean.x.tolist() == samples.x[:, kept].tolist()
    # Cells stay in their blocks.
    kept_cells = kept[samples.cell_block]
    assert clean.cell_position.tolist() == samples.cell_position[:, kept_cells].tolist()
    old_index = samples.block_index[samples.cell_block[kept_cells]]
    assert clean.block_index[clean.cell_block].tolist() == old_index.tolist()
    assert clean.patch.tolist() == samples.patch[np.r_[kept, kept_cells]].tolist()
    assert clean.variance.shape[-1] == len(clean.patch)


def test_a_majority_of_outliers_is_no_streak() -> None:
    """If most blocks contradict the line, the others are no better."""
    samples = samples_of(*pair((40, 50)))
    row = samples.block_index // samples.frame_shape[1]
    assert without_streaks(samples, row > samples.frame_shape[0] // 4) is None


def test_touching_blocks_form_a_cluster() -> None:
    """Diagonal neighbours touch; the length is the larger side of the cluster's box."""
    row, column = np.array([0, 1, 2, 3, 9, 9]), np.array([0, 1, 2, 3, 0, 1])
    assert cluster_lengths(row, column).tolist() == [4, 4, 4, 4, 2, 2]
