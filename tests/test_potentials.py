"""The algebra of the solver: exact variances, and large systems solved like small ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array

from zemosaic.photometry.solver import robust_lsq
from zemosaic.photometry.solver.potentials import Differences, potentials
from zemosaic.photometry.solver.selected_inverse import factorize, fill_pattern, inverse_diagonal


def lattice(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours on a square lattice, diagonal ones included, with 10 % of the pairs missing."""
    number = np.arange(side * side).reshape(side, side)
    ends = [
        (number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1]),
    ]  # fmt: skip
    i, j = (np.concatenate([end[k].ravel() for end in ends]) for k in (0, 1))
    present = rng.random(len(i)) < 0.9
    return i[present], j[present]


def random_differences(
    nodes: int, i: np.ndarray, j: np.ndarray, rng: np.random.Generator
) -> Differences:
    """Noisy differences of random potentials, with 2 % gross outliers."""
    error, truth = rng.uniform(0.5, 2.0, len(i)), rng.normal(0, 100, nodes)
    value = truth[i] - truth[j] + error * rng.normal(size=len(i))
    value[rng.random(len(i)) < 0.02] += 100
    return Differences(i, j, value, error**-2.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_selected_inverse_is_exact(seed: int) -> None:
    """The diagonal of the inverse equals that of dense algebra, also if factor entries cancel."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 60))
    pattern = rng.random((n, n)) < 2.5 / n
    dense = np.where(pattern | pattern.T, rng.choice([-1.0, 0.0, 1.0], (n, n)), 0.0)
    dense = dense + dense.T + np.diag(rng.uniform(20, 30, n))
    i, j = np.nonzero(pattern | pattern.T | np.eye(n, dtype=bool))
    matrix = csc_array((dense[i, j], (i, j)), shape=(n, n))
    factor = factorize(matrix)
    assert len(fill_pattern(matrix, factor.L).rows) > factor.L.nnz  # SuperLU drops zeros
    diagonal = inverse_diagonal(matrix, factor)
    assert diagonal == pytest.approx(np.diag(np.linalg.inv(dense)), rel=1e-12)


@pytest.mark.parametrize("anchor", [None, 5])
@pytest.mark.parametrize("steps", [1, 20])
def test_large_systems_are_solved_like_small_ones(
    monkeypatch: pytest.MonkeyPatch, anchor: int | None, steps: int
) -> None:
    """Conjugate gradients with an earlier factor agree within 1 % of a standard error."""
    rng = np.random.default_rng(3)
    i, j = lattice(18, rng)
    i, j = np.r_[i, 324, 326], np.r_[j, 325, 327]  # and two islands and a lone node
    differences = random_differences(329, i, j, rng)
    small = potentials(329, differences, anchor)
    monkeypatch.setattr(robust_lsq, "DIRECT", 0)
    monkeypatch.setattr(robust_lsq, "STEPS", steps)
    large = potentials(329, differences, anchor)
    error = np.sqrt(np.where(small.variance > 0, small.variance, 1.0))
    assert (np.abs(large.value - small.value)[:328] < 0.01 * error[:328]).all()
    assert large.variance == pytest.approx(small.variance, rel=1e-3, nan_ok=True)
    assert np.isnan(large.variance).tolist() == [False] * 328 + [True]


def test_conjugate_gradients_meet_their_goal() -> None:
    """The energy of the error falls by the required factor; None with too poor a factor."""
    rng = np.random.default_rng(6)
    matrix = np.diag(rng.uniform(1, 1e4, 80)) + 0.1 * np.ones((80, 80))
    right = rng.normal(size=80)
    similar = factorize(csc_array(matrix * rng.uniform(0.8, 1.0)))
    different = factorize(csc_array(np.eye(80)))
    exact = np.linalg.solve(matrix, right)
    solution = robust_lsq.pcg(csc_array(matrix), right, similar)
    assert solution is not None
    error, energy = solution - exact, exact @ matrix @ exact
    assert error @ matrix @ error <= robust_lsq.ERROR_REDUCTION**2 * energy * 1.01
    assert robust_lsq.pcg(csc_array(matrix), right, different) is None


def test_many_islands_are_many_small_problems() -> None:
    """In 2000 pairs of nodes each node has half of its difference and a quarter of its variance."""
    i = np.arange(0, 4000, 2)
    rng = np.random.default_rng(7)
    value, weight = rng.normal(size=2000), rng.uniform(1, 9, 2000)
    fit = potentials(4000, Differences(i, i + 1, value, weight))
    assert fit.value[i] == pytest.approx(value / 2)
    assert fit.value[i + 1] == pytest.approx(-value / 2)
    assert fit.variance == pytest.approx(np.repeat(1 / weight / 4, 2))
    assert np.abs(fit.residual).max() < 1e-15
