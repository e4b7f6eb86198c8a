"""The algebra under the solver: exact variances, and large systems like small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_array

from zemosaic.photometry.solver import robust_lsq as sparse
from zemosaic.photometry.solver import selected_inverse
from zemosaic.photometry.solver.potentials import potentials, vector_potentials


def mesh(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours on a square lattice, every diagonal too, some pairs missing."""
    number = np.arange(side * side).reshape(side, side)
    ends = [
        (number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1]),
    ]  # fmt: skip
    i, j = (np.concatenate([end[k].ravel() for end in ends]) for k in (0, 1))
    there = rng.random(len(i)) < 0.9
    return i[there], j[there]


def differences(
    nodes: int, i: np.ndarray, j: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy differences of random potentials, 2 % of them wrong by far, and their weights."""
    error, truth = rng.uniform(0.5, 2.0, len(i)), rng.normal(0, 100, nodes)
    difference = truth[i] - truth[j] + error * rng.normal(size=len(i))
    difference[rng.random(len(i)) < 0.02] += 100
    return difference, error**-2.0


def levels_and_tilts(
    side: int, i: np.ndarray, j: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """What `vector_potentials` takes, from random planes on a lattice that is exactly regular."""
    centre = 80.0 * np.stack(np.divmod(np.arange(side * side), side), axis=1)
    pivot = (centre[i] + centre[j]) / 2
    slope = rng.normal(0, 0.1, (side * side, 2))
    level, weight = differences(side * side, i, j, rng)
    level += ((pivot - centre[i]) * slope[i] - (pivot - centre[j]) * slope[j]).sum(axis=1)
    tilt_cov = np.tile(np.diag([4e-4, 4e-4]), (len(i), 1, 1))
    tilt_cov[::9] = np.diag([np.inf, np.inf])
    return {
        "level": level,
        "level_err": weight**-0.5,
        "tilt": slope[i] - slope[j] + 0.02 * rng.normal(size=(len(i), 2)),
        "tilt_cov": tilt_cov,
        "pivot": pivot,
        "centre": centre,
    }


@pytest.mark.parametrize("seed", range(6))
def test_the_selected_inverse_is_exact(seed: int) -> None:
    """The inverse's diagonal as by dense algebra, also where entries of the factor cancel."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 60))
    pattern = rng.random((n, n)) < 2.5 / n
    dense = np.where(pattern | pattern.T, rng.choice([-1.0, 0.0, 1.0], (n, n)), 0.0)
    dense = dense + dense.T + np.diag(rng.uniform(20, 30, n))
    i, j = np.nonzero(pattern | pattern.T | np.eye(n, dtype=bool))
    matrix = csc_array((dense[i, j], (i, j)), shape=(n, n))
    factor = sparse.factorize(matrix)
    assert len(selected_inverse.filled(matrix, factor.L)[1]) > factor.L.nnz  # it leaves zeros out
    found = selected_inverse.inverse_diagonal(matrix, factor)
    assert found == pytest.approx(np.diag(np.linalg.inv(dense)), rel=1e-12)


@pytest.mark.parametrize("anchor", [None, 5])
@pytest.mark.parametrize("steps", [1, 20])
def test_large_systems_are_solved_like_small_ones(
    monkeypatch: pytest.MonkeyPatch, anchor: int | None, steps: int
) -> None:
    """Conjugate gradients with an older factor: within 1 % of a standard error, outliers or not."""
    rng = np.random.default_rng(3)
    i, j = mesh(18, rng)
    i, j = np.r_[i, 324, 326], np.r_[j, 325, 327]  # two islands more, and a lone node
    given = differences(329, i, j, rng)
    small = potentials(329, i, j, *given, anchor)
    monkeypatch.setattr(sparse, "DIRECT", 0)
    monkeypatch.setattr(sparse, "STEPS", steps)
    large = potentials(329, i, j, *given, anchor)
    error = np.sqrt(np.where(small[1] > 0, small[1], 1.0))
    assert (np.abs(large[0] - small[0])[:328] < 0.01 * error[:328]).all()
    assert large[1] == pytest.approx(small[1], rel=1e-3, nan_ok=True)
    assert np.isnan(large[1]).tolist() == [False] * 328 + [True]


def test_large_systems_of_planes_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels and slopes of planes agree, whichever way the rounds are solved."""
    rng = np.random.default_rng(4)
    i, j = mesh(12, rng)
    given = levels_and_tilts(12, i, j, rng)
    small = vector_potentials(144, i, j, **given)
    monkeypatch.setattr(sparse, "DIRECT", 0)
    large = vector_potentials(144, i, j, **given)
    assert (np.abs(large[0][:, 0] - small[0][:, 0]) < 0.01 * np.sqrt(small[1])).all()
    assert np.abs(large[0][:, 1:] - small[0][:, 1:]).max() < 1e-4
    assert large[1] == pytest.approx(small[1], rel=1e-3)


def test_conjugate_gradients_meet_their_goal() -> None:
    """The energy of the error falls by the factor asked for, or they say that it did not."""
    rng = np.random.default_rng(6)
    matrix = np.diag(rng.uniform(1, 1e4, 80)) + 0.1 * np.ones((80, 80))
    right = rng.normal(size=80)
    near = sparse.factorize(csc_array(matrix * rng.uniform(0.8, 1.0)))
    far = sparse.factorize(csc_array(np.eye(80)))
    exact = np.linalg.solve(matrix, right)
    found = sparse.pcg(csc_array(matrix), right, near)
    assert found is not None
    error, energy = found - exact, exact @ matrix @ exact
    assert error @ matrix @ error <= sparse.GAIN_OF_STEPS**2 * energy * 1.01
    assert sparse.pcg(csc_array(matrix), right, far) is None


def test_many_islands_are_many_small_problems() -> None:
    """Two thousand pairs of tiles: each half of its difference, with half of its variance."""
    i = np.arange(0, 4000, 2)
    rng = np.random.default_rng(7)
    difference, weight = rng.normal(size=2000), rng.uniform(1, 9, 2000)
    potential, variance, residual = potentials(4000, i, i + 1, difference, weight)
    assert potential[i] == pytest.approx(difference / 2)
    assert potential[i + 1] == pytest.approx(-difference / 2)
    assert variance == pytest.approx(np.repeat(1 / weight / 4, 2))
    assert np.abs(residual).max() < 1e-15
