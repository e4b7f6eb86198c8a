"""Priors of terms whose means depend on shared ones, against a dense normal law."""

from __future__ import annotations

import numpy as np
import pytest

from zemosaic.photometry.solver.priors import Priors


@pytest.mark.parametrize("trends", [0, 2])
def test_priors_are_those_of_a_normal_law(trends: int) -> None:
    """Deviance, its gradient and its curvature are those of all terms together."""
    rng, terms, shared = np.random.default_rng(1), 7, 4
    priors = Priors(
        rng.uniform(0.5, 2, terms), rng.uniform(0.5, 2, shared), rng.normal(size=(terms, trends))
    )
    minus_means = np.eye(terms + shared)
    minus_means[:terms, terms + shared - trends :] -= priors.means
    precision = np.diag(np.r_[priors.own, priors.shared])
    curvature = minus_means.T @ precision @ minus_means
    border, corner = priors.shared_blocks()
    np.testing.assert_allclose(border, curvature[:terms, terms:], atol=1e-12)
    np.testing.assert_allclose(corner, curvature[terms:, terms:], atol=1e-12)
    values = rng.normal(size=terms + shared)
    deviations = np.split(minus_means @ values, [terms])
    own, common = priors.pull(*deviations)
    np.testing.assert_allclose(np.r_[own, common], -curvature @ values, atol=1e-12)
    expected = values @ curvature @ values - np.linalg.slogdet(curvature)[1]
    assert priors.deviance(*deviations) == pytest.approx(expected)
