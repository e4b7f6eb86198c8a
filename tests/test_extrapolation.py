"""Tests of the extrapolation of robust weights."""

from __future__ import annotations

import numpy as np

from zemosaic.photometry.solver.extrapolation import INTERVAL, Extrapolation
from zemosaic.photometry.solver.robust_lsq import LEAST_WEIGHT


def weights_of_rounds(limit: np.ndarray, rate: np.ndarray, rounds: int) -> list[np.ndarray]:
    """Return the weights after rounds in which steps shrink by a rate."""
    extrapolation = Extrapolation()
    return [extrapolation.of_round(limit + 0.1 * rate**number) for number in range(rounds)]


def test_weights_that_approach_a_limit_reach_it() -> None:
    """Each weight reaches its own limit, however slowly it approaches it."""
    limit, rate = np.array([0.1, 0.5, 0.8]), np.array([0.1, 0.6, 0.85])
    *before, last = weights_of_rounds(limit, rate, INTERVAL)
    np.testing.assert_allclose(last, limit, rtol=1e-9)
    assert (np.abs(before[-1] - limit)[1:] > 0.01).all()


def test_weights_without_a_limit_are_kept() -> None:
    """Weights that are at rest, oscillate or diverge are those of the round."""
    limit, rate = np.full(4, 0.5), np.array([0.0, 1.0, -0.5, 1.5])
    *_, last = weights_of_rounds(limit, rate, INTERVAL)
    np.testing.assert_array_equal(last, limit + 0.1 * rate ** (INTERVAL - 1))


def test_limits_are_weights() -> None:
    """No limit exceeds 1, nor falls below the least weight."""
    rate = np.array([0.8, 0.8])
    extrapolation = Extrapolation()
    for number in range(INTERVAL):
        last = extrapolation.of_round(np.array([1.2, -0.2]) + np.array([-1, 1]) * rate**number)
    np.testing.assert_array_equal(last, [1.0, LEAST_WEIGHT])
