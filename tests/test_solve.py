"""The solver against truths that we invent: exact, robust, per component, honest errors."""

from __future__ import annotations

import numpy as np
import pytest

from zemosaic.photometry.graph import potentials
from zemosaic.photometry.measure import Measurement, PairMeasurement, Rejected
from zemosaic.photometry.solve import Solution, solve


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
    potential, variance, residual = potentials(16, i, j, truth[i] - truth[j], weight)
    laplacian = np.zeros((16, 16))
    np.add.at(laplacian, (i, i), weight)
    np.add.at(laplacian, (j, j), weight)
    np.add.at(laplacian, (i, j), -weight)
    np.add.at(laplacian, (j, i), -weight)
    assert np.allclose(variance, np.diag(np.linalg.pinv(laplacian)), rtol=1e-9)
    assert np.allclose(potential, truth - truth.mean(), atol=1e-12)
    assert np.abs(residual).max() < 1e-12


@pytest.mark.parametrize(("n", "scale"), [(4, 1), (33, 1e30), (44, 1e-50), (132, 1e10)])
def test_background_differences_with_one_missing(n: int, scale: float) -> None:
    """reproject's published case: e_i - e_j with one entry missing gives e up to its mean."""
    rng = np.random.default_rng(5)
    expected = rng.random(n) * scale
    i, j = np.triu_indices(n, 1)
    keep = np.ones(len(i), dtype=bool)
    keep[n // 2] = False
    difference = (expected[i] - expected[j])[keep]
    found, _, _ = potentials(n, i[keep], j[keep], difference, np.full(keep.sum(), scale**-2.0))
    assert np.allclose(found, expected - expected.mean(), rtol=1e-7, atol=1e-7 * scale)


def test_no_pairs_at_all() -> None:
    """Every tile stands alone: gain 1, offset 0, nothing known of errors."""
    none = np.zeros(0, dtype=int)
    found = solve(none, none, [], np.array([[10.0], [20.0], [np.nan]]))
    assert found.gain[:2, 0].tolist() == [1.0, 1.0]
    assert found.offset[:2, 0].tolist() == [0.0, 0.0]
    assert np.isnan(found.gain[2, 0])
    assert found.component[:, 0].tolist() == [0, 1, -1]
    assert np.isnan(found.gain_err).all()
