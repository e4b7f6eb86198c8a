"""Common cells as rows: every cell counts once, and light that moves within a block stays in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.previews import NOISE, in_colours, only, pair, preview
from zemosaic.photometry.pairfit.measure import PairMeasurement, measure_pair
from zemosaic.photometry.pairfit.overlap_blocks import FEW_CELLS, WHOLE_ENOUGH
from zemosaic.photometry.pairfit.samples import MANY_BLOCKS, PairSamples, common_samples
from zemosaic.photometry.preview.preview import SIDE, Preview

pytestmark = pytest.mark.usefixtures("either_way")


def rows_of(first: Preview, second: Preview) -> PairSamples:
    found = common_samples(first, second)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("shape", [(40, 50), (61, 83), (150, 203), (400, 500)])
def test_every_common_cell_counts_once(shape: tuple[int, int]) -> None:
    """In a block or by itself; holes, ragged edges and sizes that no block divides included.

    Where nearly all cells lie in whole blocks, the others are left out.
    """
    first, second = pair(shape)
    first.values[0, 5:9, 7:19] = np.nan
    second.values[0][np.tri(*shape, k=-shape[0] // 2, dtype=bool)] = np.nan
    rows = rows_of(first, second)
    common = np.isfinite(first.values[0] + second.values[0])
    assert rows.cells == common.sum()
    weight = rows.count
    if weight.sum() < common.sum():
        h, w = (n - n % SIDE for n in shape)
        whole = common[:h, :w].reshape(h // SIDE, SIDE, w // SIDE, SIDE).all(axis=(1, 3))
        common = np.zeros_like(common)
        common[:h, :w] = whole.repeat(SIDE, axis=0).repeat(SIDE, axis=1)
        assert common.sum() >= WHOLE_ENOUGH * rows.cells
    assert weight.sum() == common.sum()
    assert (rows.count <= rows.side**2).all()
    v, u = np.nonzero(common)
    for found, true in (
        (rows.x[0], first.values[0][common]), (rows.y[0], second.values[0][common]),
        (rows.u, u), (rows.v, v),
    ):  # fmt: skip
        assert (weight * found).sum() == pytest.approx(true.sum(dtype=float), rel=1e-6)


def test_rows_are_few_however_many_cells_there_are() -> None:
    """What a fit costs hardly grows with the overlap."""
    for shape in ((30, 40), (100, 200), (300, 500), (500, 800)):
        assert len(rows_of(*pair(shape)).u) <= max(FEW_CELLS, 1.1 * MANY_BLOCKS)


def test_the_rows_are_the_same_from_either_side() -> None:
    """(i, j) and (j, i) choose the same blocks and cells."""
    first, second = pair((120, 160))
    there, back = rows_of(first, second), rows_of(second, first)
    for name in ("u", "v", "cluster", "bright"):
        assert np.array_equal(getattr(there, name), getattr(back, name))
    assert np.array_equal(there.x, back.y)


@pytest.mark.parametrize("side", [1, SIDE])
def test_rows_know_what_crosses_their_borders(side: int) -> None:
    """Gradients and Laplacians are the means over the cells of each row, in both tiles.

    At the tile's edge, where a neighbour is missing, they are 0 along that axis.
    """
    shape = (44, 48) if side == 1 else (100, 148)
    first, second = pair(shape)
    rows = rows_of(first, second)
    assert rows.side == side
    for k, tile in enumerate((first, second)):
        cells = tile.values[0].astype(float)
        along_v, along_u = np.gradient(cells)
        bend = np.zeros((2, *shape))
        bend[0, :, 1:-1], bend[1, 1:-1] = np.diff(cells, 2, axis=1), np.diff(cells, 2, axis=0)
        expected = np.stack([along_u, along_v, bend.sum(axis=0)])
        means = expected.reshape(3, shape[0] // side, side, shape[1] // side, side).mean(
            axis=(2, 4)
        )
        inner = np.zeros(means.shape[1:], dtype=bool)
        inner[1:-1, 1:-1] = True
        found = rows.derivatives[:, k, 0]
        np.testing.assert_allclose(
            found[:, inner.ravel()], means[:, inner], atol=1e-4 * np.abs(means).max()
        )
        left = ~inner
        left[[0, -1]] = False
        assert not found[0, left.ravel()].any()
        assert found[1, left.ravel()].all()


def test_light_that_moves_within_a_block_costs_it_no_weight() -> None:
    """A star in the middle of a block leaves its variance alone; at the border it does not."""
    y, x = np.mgrid[:100, :148]
    variance = []
    for place in (41.5, 43.0):  # the block has the cells 40 to 43
        star = 1e4 * np.exp(-((x - place) ** 2 + (y - 41.5) ** 2) / 0.5)
        rows = rows_of(preview(1000 + star, NOISE), preview(1000 + star, NOISE))
        block = (np.abs(rows.u - 41.5) < 2) & (np.abs(rows.v - 41.5) < 2)
        assert block.sum() == 1
        variance.append(rows.of_blocks[0, 0, block][0] / np.median(rows.of_blocks[0]))
    assert variance[0] < 1.1
    assert variance[1] > 3


def test_bright_rows_are_those_with_stars() -> None:
    """The brightest star is in one of them; of pure noise none is."""
    first, second = pair((100, 150))
    rows = rows_of(first, second)
    y, x = np.unravel_index(np.argmax(first.values[0]), (100, 150))
    near = (np.abs(rows.u - x) < SIDE / 2) & (np.abs(rows.v - y) < SIDE / 2)
    assert rows.bright[near].tolist() == [1]
    rng = np.random.default_rng(1)
    flat = [preview(rng.normal(1000, NOISE, (100, 150)), NOISE) for _ in range(2)]
    assert not rows_of(*flat).bright.any()


def test_channels_together_are_what_they_are_alone() -> None:
    """Colours share rows, not values: each has the line that it has by itself, within its error."""
    gains = (0.8, 1.1, 1.5)
    pairs = [pair((120, 160), gain) for gain in gains]
    first, second = in_colours(pairs)
    for together, alone in zip(measure_pair(first, second), pairs, strict=True):
        assert isinstance(together, PairMeasurement)
        by_itself = only(measure_pair(*alone))
        assert together.gain == pytest.approx(by_itself.gain, abs=by_itself.gain_err)
        assert together.gain_err == pytest.approx(by_itself.gain_err, rel=0.2)
    # Another mask in one channel: each is measured by itself.
    second.values[1, :40] = np.nan
    apart = measure_pair(replace(first), replace(second))
    assert [line.cells for line in apart if isinstance(line, PairMeasurement)] == [
        120 * 160, 80 * 160, 120 * 160,
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(90, 120), (190, 240)])
def test_blocks_say_what_their_cells_say(shape: tuple[int, int]) -> None:
    """Over 20 skies the line through blocks is the truth, and its errors are honest."""
    gain, level, plane = [], [], []
    for seed in range(20):
        found = only(measure_pair(*pair(shape, 1.2, seed)))
        gain.append(np.log(found.gain / 1.2) / (found.gain_err / found.gain))
        plane.append(np.log(found.plane_gain / 1.2) / (found.plane_gain_err / found.plane_gain))
        level.append((found.y - 1.2 * found.x) / found.level_err)
    for pull in (gain, plane, level):
        assert 0.6 < np.sqrt(np.mean(np.square(pull))) < 1.4
        assert abs(np.mean(pull)) < 1.0


@pytest.mark.parametrize(("shape", "side"), [((40, 50), 1), ((150, 203), 4)])
def test_a_streak_is_taken_out_with_what_lies_next_to_it(shape: tuple[int, int], side: int) -> None:
    """A row of far blocks and its neighbours; a star's few that lie together are left."""
    rows = rows_of(*pair(shape))
    assert rows.side == side
    row, column = np.divmod(rows.at, rows.shape[1])
    middle = rows.shape[0] // 2
    size = 6 if side == 1 else 2
    star = (row >= 3) & (row < 3 + size) & (column >= 4) & (column < 4 + size)
    assert rows.without(star) is None
    left = rows.without((row == middle) | star)
    assert left is not None
    away = np.abs(row - middle) > (2 if side == 1 else 1)
    assert left.at.tolist() == rows.at[away].tolist()
    assert left.x.tolist() == rows.x[:, away].tolist()
    # Cells stay in their blocks.
    of_cells = away[rows.block]
    assert left.place.tolist() == rows.place[:, of_cells].tolist()
    assert left.at[left.block].tolist() == rows.at[rows.block[of_cells]].tolist()
    assert left.cluster.tolist() == rows.cluster[np.r_[away, of_cells]].tolist()
    assert left.variance.shape[-1] == len(left.cluster)
    # Where most contradict the line, the rest is no better.
    assert rows.without(row > middle // 2) is None
