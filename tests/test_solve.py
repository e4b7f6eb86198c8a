"""The solver against truths that we invent: exact, robust, per component, honest errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zemosaic.photometry.pairfit.measure import Measurement, PairMeasurement, Rejected
from zemosaic.photometry.solver.channel import TileFrame
from zemosaic.photometry.solver.gauge import subtract_common_slope
from zemosaic.photometry.solver.groups import group_medians
from zemosaic.photometry.solver.potentials import Differences, potentials
from zemosaic.photometry.solver.solve import Solution, solve


def grid_pairs(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbours, diagonal ones too, on a square of tiles."""
    tiles = np.arange(side * side).reshape(side, side)
    ends = [
        (tiles[:, :-1], tiles[:, 1:]), (tiles[:-1], tiles[1:]),
        (tiles[:-1, :-1], tiles[1:, 1:]), (tiles[:-1, 1:], tiles[1:, :-1]),
    ]  # fmt: skip
    i = np.concatenate([a.ravel() for a, _ in ends])
    j = np.concatenate([b.ravel() for _, b in ends])
    return np.minimum(i, j), np.maximum(i, j)


def line(
    a: float, x: float, y: float, err: float = 1e-3, level_err: float = 0.1, measured: bool = True
) -> PairMeasurement:
    gain_err = err * a if measured else float("nan")
    return PairMeasurement(
        gain=a,
        gain_err=gain_err,
        plane_gain=a if measured else float("nan"),
        plane_gain_err=gain_err,
        offset=y - a * x,
        x=x,
        y=y,
        level_err=level_err,
        u=0.0,
        v=0.0,
        x_tilt=(0.0, 0.0),
        y_tilt=(0.0, 0.0),
        tilt_cov=(float("inf"), 0.0, float("inf")),
        cells=1000,
        rms=1.0,
        correlation=0.9,
        gain_measured=measured,
    )


class Truth:
    """Tiles of invented gains and offsets, and the pairs that they would measure."""

    def __init__(self, side: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.i, self.j = grid_pairs(side)
        self.gain = self.rng.uniform(0.8, 1.2, side * side)
        self.offset = self.rng.uniform(-200, 200, side * side)
        self.scene = self.rng.uniform(900, 1100, len(self.i))
        self.sky = ((1000 - self.offset) / self.gain)[:, None]

    def pairs(self, noise: float = 0.0) -> list[list[Measurement]]:
        lines: list[list[Measurement]] = []
        for i, j, s in zip(self.i, self.j, self.scene, strict=True):
            x, y = (s - self.offset[i]) / self.gain[i], (s - self.offset[j]) / self.gain[j]
            a = self.gain[i] / self.gain[j] * np.exp(noise * 1e-3 * self.rng.normal())
            lines.append([line(a, x, y + noise * 0.1 * self.rng.normal())])
        return lines

    def check(self, found: Solution, tiles: np.ndarray, tolerance: float) -> None:
        """Equal to the truth up to one factor and one level."""
        ratio = found.gain[tiles, 0] / self.gain[tiles]
        assert np.ptp(np.log(ratio)) < tolerance
        level = found.offset[tiles, 0] - ratio.mean() * self.offset[tiles]
        assert np.ptp(level) < tolerance * 1e3


@pytest.mark.parametrize(("anchor", "known"), [(None, (1, 2)), (0, (0,)), (4, (1, 2))])
def test_a_gain_that_nothing_ties_is_said_to_be_unknown(
    anchor: int | None, known: tuple[int, ...]
) -> None:
    """Rows of a mosaic joined by flat sky: levels agree, gains of two groups are not compared."""
    truth = Truth(3, 2)
    rows = [
        [replace(m, gain_err=np.nan, plane_gain_err=np.nan, gain_measured=False)]
        if (i // 3 == 0) != (j // 3 == 0) else [m]
        for i, j, (m,) in zip(truth.i, truth.j, truth.pairs(), strict=True)
    ]  # fmt: skip
    found = solve(truth.i, truth.j, rows, truth.sky, anchor=anchor)
    assert (found.component == 0).all()
    groups = found.gain_group[:, 0].reshape(3, 3)
    assert (groups == groups[:, :1]).all()
    assert (groups[0] != groups[1]).all()
    assert (groups[1] == groups[2]).all()
    tied = np.isin(np.arange(9) // 3, known)
    assert (np.isfinite(found.gain_err[:, 0]) == tied).all()


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_planes_that_agree_are_real_though_their_errors_are_too_large(
    gradients: bool, seed: int
) -> None:
    """Slopes of tiles close around every loop, noise of the same size and a bad tile do not."""
    truth = Truth(4, seed)
    slopes = truth.rng.normal(0, 0.05, (16, 2)) * gradients
    noise = 0.005 if gradients else 0.05
    rows = []
    for i, j, (m,) in zip(truth.i, truth.j, truth.pairs(), strict=True):
        tilt = slopes[i] - slopes[j] + truth.rng.normal(0, noise, 2) + (j == 5) - (i == 5)
        u, v = tilt / truth.gain[j]
        variance = (0.05 / truth.gain[j]) ** 2
        rows.append([replace(m, y_tilt=(u, v), tilt_cov=(variance, 0.0, variance))])
    centre = np.array([(k % 4, k // 4) for k in range(16)]) * 100.0
    frame = TileFrame(centre, np.broadcast_to(np.eye(2) / 4, (16, 2, 2)))
    found = solve(truth.i, truth.j, rows, truth.sky, "auto", frame=frame)
    assert (found.plane_chi2 < 10).all()
    assert (found.planes == gradients).all()
    assert ((found.plane_ratio > 20) == gradients).all()


@pytest.mark.parametrize("anchor", [None, 5])
def test_a_gain_that_a_bad_tile_alone_ties_is_unknown(anchor: int | None) -> None:
    """A corner next to a bad tile: the others are as true as without both, and it is not wild."""
    truth = Truth(4, 3)
    truth.scene[truth.i == 0] = 1000  # levels agree whatever the gain, if all are those of one sky
    rows = []
    for i, j, (m,) in zip(truth.i, truth.j, truth.pairs(1.0), strict=True):
        if 1 in (i, j):  # bad: it agrees with nobody, neither in gains nor in levels
            m = replace(m, gain=m.gain * truth.rng.uniform(0.4, 0.7), y=m.y + 20 * j)  # noqa: PLW2901
        elif 0 in (i, j):
            m = replace(m, gain_err=np.nan, plane_gain_err=np.nan, gain_measured=False)  # noqa: PLW2901
        rows.append([m])
    found = solve(truth.i, truth.j, rows, truth.sky, anchor=anchor)
    assert np.flatnonzero(found.suspect[:, 0]).tolist() == [1]
    assert found.gain[0, 0] == 1
    assert np.isnan(found.gain_err[0, 0])
    assert np.isfinite(found.gain_err[1:, 0]).all()
    assert (found.component == 0).all()
    truth.check(found, np.arange(2, 16), 5e-3)
    (bad,) = np.flatnonzero((truth.i == 0) & (truth.j == 1))
    assert found.chi[bad, 0] > 6


def test_exact_pairs_give_the_truth() -> None:
    """Without noise gains and offsets come back to rounding, up to the gauge."""
    truth = Truth(5, 1)
    found = solve(truth.i, truth.j, truth.pairs(), truth.sky)
    truth.check(found, np.arange(25), 1e-10)
    assert np.exp(np.log(found.gain[:, 0]).mean()) == pytest.approx(1.0, abs=1e-12)
    corrected = found.gain * truth.sky + found.offset
    assert np.median(corrected) == pytest.approx(np.median(truth.sky), abs=1e-6)
    assert np.nanmax(np.abs(found.residual)) < 1e-8


def test_an_anchor_keeps_its_place() -> None:
    """The anchor has gain 1 and offset 0, and no error; the others follow it."""
    truth = Truth(4, 2)
    found = solve(truth.i, truth.j, truth.pairs(), truth.sky, anchor=6)
    assert (found.gain[6, 0], found.offset[6, 0]) == (1.0, 0.0)
    assert (found.gain_err[6, 0], found.offset_err[6, 0]) == (0.0, 0.0)
    assert np.allclose(found.gain[:, 0], truth.gain / truth.gain[6], rtol=1e-12)
    free = solve(truth.i, truth.j, truth.pairs(), truth.sky)
    ratio = found.gain[:, 0] / free.gain[:, 0]
    assert np.ptp(ratio) < 1e-12


def test_components_never_mix() -> None:
    """Two islands and a lone tile are each solved alone, and labelled."""
    first, second = Truth(3, 3), Truth(3, 4)
    i = np.concatenate([first.i, second.i + 9])
    j = np.concatenate([first.j, second.j + 9])
    sky = np.concatenate([first.sky, second.sky, [[1234.0]]])
    found = solve(i, j, first.pairs() + second.pairs(), sky)
    assert found.component[:, 0].tolist() == [0] * 9 + [1] * 9 + [2]
    assert (found.gain[18, 0], found.offset[18, 0], found.pairs[18, 0]) == (1.0, 0.0, 0)
    assert np.isnan(found.gain_err[18, 0])
    alone = solve(first.i, first.j, first.pairs(), first.sky)
    assert np.array_equal(found.gain[:9], alone.gain)
    assert np.array_equal(found.offset[:9], alone.offset)


def test_a_bad_pair_loses_its_say() -> None:
    """Three pairs that are wrong by 200 of their errors move nobody."""
    truth = Truth(6, 5)
    pairs = truth.pairs()
    for k in (3, 40, 77):
        bad = pairs[k][0]
        assert isinstance(bad, PairMeasurement)
        pairs[k] = [line(bad.gain * 1.2, bad.x, bad.y + 20)]
    found = solve(truth.i, truth.j, pairs, truth.sky)
    truth.check(found, np.arange(36), 1e-4)
    worst = np.argsort(-np.abs(found.residual[:, 0]))[:3]
    assert set(worst.tolist()) == {3, 40, 77}


def test_rejected_pairs_are_left_out() -> None:
    """A pair that was not measured is no edge, and its residual is not known."""
    truth = Truth(4, 6)
    pairs = truth.pairs()
    pairs[5] = [Rejected("no common cells")]
    found = solve(truth.i, truth.j, pairs, truth.sky)
    truth.check(found, np.arange(16), 1e-10)
    assert np.isnan(found.residual[5, 0])
    ends = found.pairs[[truth.i[5], truth.j[5]], 0]
    whole = solve(truth.i, truth.j, truth.pairs(), truth.sky).pairs
    assert (ends == whole[[truth.i[5], truth.j[5]], 0] - 1).all()


def test_gains_come_by_other_paths() -> None:
    """Where a pair cannot measure its gain, the graph's other pairs determine it."""
    truth = Truth(4, 7)
    pairs = truth.pairs()
    for k in (0, 4, 9):
        known = pairs[k][0]
        assert isinstance(known, PairMeasurement)
        pairs[k] = [line(1.0, known.x, known.y, measured=False)]
    found = solve(truth.i, truth.j, pairs, truth.sky)
    truth.check(found, np.arange(16), 1e-10)


def test_without_any_gain_levels_are_still_matched() -> None:
    """Flat sky: gains stay 1, and the offsets bring the levels together."""
    i, j = grid_pairs(4)
    levels = np.random.default_rng(8).uniform(500, 900, 16)
    pairs = [[line(1.0, levels[a], levels[b], measured=False)] for a, b in zip(i, j, strict=True)]
    found = solve(i, j, pairs, levels[:, None])
    assert (found.gain == 1).all()
    assert np.ptp(levels + found.offset[:, 0]) < 1e-8
    assert np.median(levels + found.offset[:, 0]) == pytest.approx(np.median(levels))


@pytest.mark.parametrize("model", ["offset", "gain"])
def test_models_with_one_freedom(model: str) -> None:
    """ "offset" leaves gains at 1, "gain" leaves offsets at 0; each finds its own truth."""
    truth = Truth(4, 9)
    if model == "offset":
        truth.gain[:] = 1.0
    else:
        truth.offset[:] = 0.0
    truth.sky = ((1000 - truth.offset) / truth.gain)[:, None]
    pairs = truth.pairs()
    if model == "offset":
        pairs = [[line(1.0, p[0].x, p[0].y, measured=False)] for p in pairs]  # type: ignore[union-attr]
    found = solve(truth.i, truth.j, pairs, truth.sky, model=model)
    truth.check(found, np.arange(16), 1e-9)
    assert (found.gain == 1).all() if model == "offset" else (found.offset == 0).all()


def test_errors_are_honest() -> None:
    """Over 60 noisy sets (estimate - truth) / error has an rms of 1, gauge removed."""
    gains, offsets = [], []
    for seed in range(60):
        truth = Truth(4, 100 + seed)
        found = solve(truth.i, truth.j, truth.pairs(noise=1.0), truth.sky)
        log = np.log(found.gain[:, 0] / truth.gain)
        gains.append((log - log.mean()) / (found.gain_err / found.gain)[:, 0])
        offset = found.offset[:, 0] - np.exp(log.mean()) * truth.offset
        offsets.append((offset - offset.mean()) / found.offset_err[:, 0])
    assert 0.85 < np.sqrt(np.mean(np.square(gains))) < 1.15
    assert 0.85 < np.sqrt(np.mean(np.square(offsets))) < 1.15


def test_covariances_are_those_of_the_pseudo_inverse() -> None:
    """The variances are the diagonal of the Laplacian's pseudo-inverse, from dense algebra."""
    rng = np.random.default_rng(11)
    i, j = grid_pairs(4)
    weight = rng.uniform(0.5, 2.0, len(i))
    truth = rng.normal(size=16)
    fit = potentials(16, Differences(i, j, truth[i] - truth[j], weight))
    laplacian = np.zeros((16, 16))
    np.add.at(laplacian, (i, i), weight)
    np.add.at(laplacian, (j, j), weight)
    np.add.at(laplacian, (i, j), -weight)
    np.add.at(laplacian, (j, i), -weight)
    assert np.allclose(fit.variance, np.diag(np.linalg.pinv(laplacian)), rtol=1e-9)
    assert np.allclose(fit.value, truth - truth.mean(), atol=1e-12)
    assert np.abs(fit.residual).max() < 1e-12


@pytest.mark.parametrize(("n", "scale"), [(4, 1), (33, 1e30), (44, 1e-50), (132, 1e10)])
def test_background_differences_with_one_missing(n: int, scale: float) -> None:
    """reproject's published case: e_i - e_j with one entry missing gives e up to its mean."""
    rng = np.random.default_rng(5)
    expected = rng.random(n) * scale
    i, j = np.triu_indices(n, 1)
    keep = np.ones(len(i), dtype=bool)
    keep[n // 2] = False
    difference = (expected[i] - expected[j])[keep]
    weight = np.full(keep.sum(), scale**-2.0)
    fit = potentials(n, Differences(i[keep], j[keep], difference, weight))
    assert np.allclose(fit.value, expected - expected.mean(), rtol=1e-7, atol=1e-7 * scale)


def lines(pairs: list[list[Measurement]]) -> list[PairMeasurement]:
    return [p for (p,) in pairs if isinstance(p, PairMeasurement)]


PROPERTY = settings(derandomize=True, max_examples=25, deadline=None)


@PROPERTY
@given(st.integers(0, 99), st.permutations(range(16)), st.integers(0, 15) | st.none())
def test_the_names_of_tiles_do_not_matter(seed: int, order: list[int], anchor: int | None) -> None:
    """Tiles in another order, and pairs with them, get the same corrections and errors."""
    truth, place = Truth(4, seed), np.argsort(order)
    pairs = truth.pairs(noise=1.0)
    found = solve(truth.i, truth.j, pairs, truth.sky, anchor=anchor)
    again = solve(
        place[truth.i], place[truth.j], pairs, truth.sky[order],
        anchor=None if anchor is None else int(place[anchor]),
    )  # fmt: skip
    for name, limit in (("gain", 1e-9), ("offset", 1e-6), ("gain_err", 1e-9), ("offset_err", 1e-7)):
        assert np.abs(getattr(again, name) - getattr(found, name)[order]).max() < limit
    assert np.abs(again.residual - found.residual).max() < 1e-6


@PROPERTY
@given(st.integers(0, 99), st.integers(0, 15), st.integers(0, 15))
def test_the_anchor_sets_the_gauge_alone(seed: int, first: int, second: int) -> None:
    """Two anchors differ by one line for all tiles, and in no residual once that is scaled."""
    truth = Truth(4, seed)
    pairs = truth.pairs(noise=1.0)
    one, two = (solve(truth.i, truth.j, pairs, truth.sky, anchor=k) for k in (first, second))
    factor, level = two.gain[first, 0], two.offset[first, 0]
    assert two.gain == pytest.approx(factor * one.gain, rel=1e-9)
    assert two.offset == pytest.approx(factor * one.offset + level, abs=1e-6)
    assert two.residual == pytest.approx(factor * one.residual, abs=1e-6)
    assert two.chi == pytest.approx(one.chi, abs=1e-5)


@PROPERTY
@given(
    st.integers(0, 99), st.integers(1, 15), st.floats(0.2, 5.0), st.floats(-500.0, 500.0),
)  # fmt: skip
def test_another_unit_of_a_tile_is_undone(seed: int, tile: int, unit: float, zero: float) -> None:
    """Where a tile's data are unit · data + zero, its correction undoes that; no other changes."""
    truth = Truth(4, seed)
    pairs = lines(truth.pairs(noise=1.0))
    found = solve(truth.i, truth.j, [[p] for p in pairs], truth.sky, anchor=0)
    changed: list[list[Measurement]] = []
    for i, j, p in zip(truth.i, truth.j, pairs, strict=True):
        if tile == i:
            p = line(p.gain / unit, unit * p.x + zero, p.y, level_err=p.level_err)  # noqa: PLW2901
        elif tile == j:
            y, level_err = unit * p.y + zero, unit * p.level_err
            p = line(p.gain * unit, p.x, y, level_err=level_err)  # noqa: PLW2901
        changed.append([p])
    sky = truth.sky.copy()
    sky[tile] = unit * sky[tile] + zero
    again = solve(truth.i, truth.j, changed, sky, anchor=0)
    others = np.arange(16) != tile
    assert again.gain[others] == pytest.approx(found.gain[others], rel=1e-9)
    assert again.offset[others] == pytest.approx(found.offset[others], abs=1e-6)
    assert again.gain[tile] * unit == pytest.approx(found.gain[tile], rel=1e-9)
    undone = again.offset[tile] + again.gain[tile] * zero
    assert undone == pytest.approx(found.offset[tile], abs=1e-6)


@PROPERTY
@given(st.integers(0, 99), st.lists(st.booleans(), min_size=42, max_size=42))
def test_a_pair_may_be_measured_either_way(seed: int, turned: list[bool]) -> None:
    """(j, i) with the line turned round says the same as (i, j)."""
    truth = Truth(4, seed)
    pairs = lines(truth.pairs(noise=1.0))
    found = solve(truth.i, truth.j, [[p] for p in pairs], truth.sky)
    turn = np.array(turned)
    i, j = np.where(turn, truth.j, truth.i), np.where(turn, truth.i, truth.j)
    other = [
        [line(1 / p.gain, p.y, p.x, level_err=p.level_err / p.gain) if t else p]
        for p, t in zip(pairs, turned, strict=True)
    ]
    again = solve(i, j, other, truth.sky)
    # The weight of a level hangs on the gain by which its error is turned round: nearly alike.
    assert again.gain == pytest.approx(found.gain, rel=1e-9)
    assert again.offset == pytest.approx(found.offset, abs=0.02 * np.nanmax(found.offset_err))


def test_islands_by_the_thousand_are_each_on_their_own() -> None:
    """A thousand islands: each has the mean gain 1 and its own median sky level."""
    rng = np.random.default_rng(12)
    i = np.arange(0, 2000, 2)
    gain, sky = rng.uniform(0.8, 1.2, 2000), rng.uniform(500, 1500, 2000)
    pairs = [[line(gain[k] / gain[k + 1], sky[k], sky[k + 1])] for k in i]
    found = solve(i, i + 1, pairs, sky[:, None])
    assert found.component[:, 0].tolist() == np.repeat(np.arange(1000), 2).tolist()
    assert found.gain[i] * found.gain[i + 1] == pytest.approx(1.0)
    corrected = (found.gain[:, 0] * sky + found.offset[:, 0]).reshape(-1, 2)
    assert corrected[:, 0] == pytest.approx(corrected[:, 1])
    assert corrected[:, 0] == pytest.approx(sky.reshape(-1, 2).mean(axis=1))


def test_a_tile_that_all_its_pairs_contradict_is_suspected() -> None:
    """A tile whose levels go their own way in every overlap is named, and no other."""
    truth = Truth(6, 13)
    pairs = lines(truth.pairs(noise=1.0))
    bad = (truth.i == 14) | (truth.j == 14)
    wrong = truth.rng.normal(0, 50, len(pairs))
    moved = [[replace(p, y=p.y + w) if b else p] for p, w, b in zip(pairs, wrong, bad, strict=True)]
    found = solve(truth.i, truth.j, moved, truth.sky)
    assert np.flatnonzero(found.suspect).tolist() == [14]


def test_medians_of_groups_are_those_of_numpy() -> None:
    """Even and odd groups, groups with NaN, and groups without any value."""
    rng = np.random.default_rng(14)
    group = rng.integers(0, 40, 150)
    values = np.where(rng.random(150) < 0.05, np.nan, rng.normal(size=150))
    median, count = group_medians(group, values, 45)
    for k in range(45):
        mine = values[group == k]
        assert count[k] == len(mine)
        expected = np.median(mine) if len(mine) else np.nan
        assert median[k] == expected or np.isnan([median[k], expected]).all()


def test_no_pairs_at_all() -> None:
    """Every tile stands alone: gain 1, offset 0, nothing known of errors."""
    none = np.zeros(0, dtype=int)
    found = solve(none, none, [], np.array([[10.0], [20.0], [np.nan]]))
    assert found.gain[:2, 0].tolist() == [1.0, 1.0]
    assert found.offset[:2, 0].tolist() == [0.0, 0.0]
    assert np.isnan(found.gain[2, 0])
    assert found.component[:, 0].tolist() == [0, 1, -1]
    assert np.isnan(found.gain_err).all()


def test_the_common_slope_is_that_of_most_tiles_of_each_component() -> None:
    """Two components with a slope and an outlier each; what two planes differ by stays."""
    rng = np.random.default_rng(2)
    component = np.repeat([0, 1, 2], [9, 8, 1])
    centre = rng.uniform(0, 1000, (18, 2))
    common = np.array([[0.3, -0.2], [-0.1, 0.0], [0.0, 0.0]])
    slope = rng.uniform(-0.01, 0.01, (18, 2))
    for members in (slice(9), slice(9, 17), slice(17, 18)):
        slope[members] -= slope[members][:-1].mean(axis=0) if members.stop < 18 else slope[members]
    slope[[8, 16]] = [[0.5, 0.1], [0.0, 2.0]]
    planes = np.column_stack([rng.normal(0, 50, 18), slope + common[component]])
    found = subtract_common_slope(component, planes, centre)
    assert found[:, 1:] == pytest.approx(slope, abs=1e-12)

    def differences(z: np.ndarray, u: float, v: float) -> np.ndarray:
        level = z[:, 0] + ((np.array([u, v]) - centre) * z[:, 1:]).sum(axis=1)
        return np.concatenate([np.diff(level[:9]), np.diff(level[9:17])])

    for place in ((0.0, 0.0), (700.0, -300.0)):
        assert differences(found, *place) == pytest.approx(differences(planes, *place), abs=1e-9)
