"""Potentials from their differences: exact, robust, and whatever the order of elimination."""

from __future__ import annotations

import numpy as np
import pytest

from zemosaic.photometry.solver.dissection import dissect
from zemosaic.photometry.solver.potentials import Differences, potentials


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


@pytest.mark.parametrize("anchor", [None, 5])
def test_potentials_and_their_errors_are_those_of_dense_algebra(anchor: int | None) -> None:
    """One round is plain least squares; its variances are those of the pseudo-inverse."""
    rng = np.random.default_rng(3)
    i, j = lattice(18, rng)
    i, j = np.r_[i, 324, 326], np.r_[j, 325, 327]  # and two islands and a lone node
    differences = random_differences(329, i, j, rng)
    fit = potentials(329, differences, anchor, rounds=1)
    rows = np.zeros((len(i), 329))
    rows[np.arange(len(i)), i], rows[np.arange(len(i)), j] = 1.0, -1.0
    normal = rows.T @ (differences.weight[:, None] * rows)
    covariance = np.linalg.pinv(normal, rcond=1e-10, hermitian=True)
    expected = covariance @ rows.T @ (differences.weight * differences.value)
    if anchor is not None:
        shift = np.eye(329)
        shift[:324, anchor] -= 1
        expected, covariance = shift @ expected, shift @ covariance @ shift.T
    assert fit.value == pytest.approx(expected, abs=1e-9)
    scale = max(1.0, np.median(np.abs(fit.residual) * differences.weight**0.5) / 0.6745)
    assert fit.variance[:328] == pytest.approx(np.diag(covariance)[:328] * scale**2, rel=1e-4)
    assert np.isnan(fit.variance[328])


def test_positions_change_no_potential() -> None:
    """True positions, wrong ones and none give the same potentials and errors."""
    rng = np.random.default_rng(8)
    i, j = lattice(20, rng)
    differences = random_differences(400, i, j, rng)
    true, ends = np.stack(np.divmod(np.arange(400), 20), axis=1).astype(float), np.stack([i, j], 1)
    fits = [
        potentials(400, differences, dissection=dissect(ends, position))
        for position in (true, rng.uniform(0, 1, (400, 2)), np.zeros((400, 2)))
    ]
    fits.append(potentials(400, differences))
    for fit in fits[1:]:
        assert fit.value == pytest.approx(fits[0].value, abs=1e-8)
        assert fit.variance == pytest.approx(fits[0].variance, rel=1e-9)


def test_outliers_are_rejected_at_every_size() -> None:
    """A tenth of wrong differences moves no potential by more than 5 of its errors."""
    rng = np.random.default_rng(9)
    for side in (12, 60):
        i, j = lattice(side, rng)
        truth, error = rng.normal(0, 100, side**2), rng.uniform(0.5, 2.0, len(i))
        value = truth[i] - truth[j] + error * rng.normal(size=len(i))
        wrong = rng.random(len(i)) < 0.1
        value[wrong] += rng.uniform(50, 500, wrong.sum())
        fit = potentials(side**2, Differences(i, j, value, error**-2.0))
        off = fit.value - truth + truth.mean()
        assert np.abs(off).max() < 5 * np.sqrt(fit.variance.max())


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
