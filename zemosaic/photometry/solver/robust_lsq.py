"""Robust least squares of the differences between nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN, HUBER
from .block_system import BlockFactor, BlockSystem

ROUNDS = 32  # largest number of reweighting rounds
# The first rounds use Huber's weights: in the plain least-squares solution a wrong pair has pulled
# its tile so far that Tukey's weights would reject the good pairs and never recover them.
MILD_ROUNDS = 4
# The limit of Tukey's weights then narrows from the worst pair down to its final value: if all
# pairs of a tile contradict the first solution, some that agree shall win instead of none.
NARROWING = 4  # rounds
LEAST_WEIGHT = 1e-6  # of an outlying pair: keeps the graph connected
# Convergence: rms change of the residuals in units of their errors. In a large mosaic a few pairs
# never come to rest.
STEADY = 0.02
MEDIAN_CHI = {1: GAUSSIAN_MEDIAN, 2: 1.1774, 3: 1.5382}  # by degrees of freedom


@dataclass(frozen=True, eq=False)
class RobustFit:
    """Solution of a robust least-squares problem.

    Parameters
    ----------
    solution : ndarray
        ``(N,)``.
    residual : ndarray
        ``(P,)`` measured minus fitted differences, in units of the errors.
    scale : float
        Robust scatter of the residuals in units of the errors; at least 1.
    factor : BlockFactor
        The factor of the normal matrix of the last round.
    """

    solution: np.ndarray
    residual: np.ndarray
    scale: float
    factor: BlockFactor


def fit_differences(
    system: BlockSystem, value: np.ndarray, inverse_error: np.ndarray, rounds: int = ROUNDS
) -> RobustFit:
    """Fit unknowns to their differences with robust weights.

    Each round solves for the change of the solution.

    Parameters
    ----------
    system : BlockSystem
        Its cliques ``(P, 2)`` are the unknowns of each difference, the first minus the second; N
        stands for an unknown held at 0.
    value, inverse_error : ndarray
        ``(P,)`` measured differences, and 1 over their errors.
    rounds : int
        Largest number of rounds; 1 is plain least squares.

    Returns
    -------
    RobustFit
    """
    i, j = system.cliques.T
    solution, residual = np.zeros(system.size + 1), inverse_error * value
    weights, widest = np.ones(len(value)), 1.0
    factor: BlockFactor | None = None
    for number in range(1, rounds + 1):
        factor = _factorize(system, weights * inverse_error**2, factor)
        change = _differences(system, weights * inverse_error * residual)
        solution[:-1] += factor.solve(change)
        previous, residual = residual, inverse_error * (value - solution[i] + solution[j])
        chi = np.abs(residual)
        scale = robust_scale(chi)
        if number <= MILD_ROUNDS:
            widest = max(1.0, chi.max() / (scale * BIWEIGHT))
            weights = huber_weights(chi, scale)
        else:
            narrowed = min(1.0, (number - MILD_ROUNDS) / NARROWING)
            weights = tukey_weights(chi, scale, widening=widest ** (1 - narrowed))
        steady = np.sqrt(np.square(residual - previous).mean()) <= STEADY
        if steady and number > MILD_ROUNDS + NARROWING:
            break
    assert factor is not None
    return RobustFit(solution[:-1], residual, scale, factor)


def _factorize(
    system: BlockSystem, weights: np.ndarray, replaced: BlockFactor | None
) -> BlockFactor:
    """Factorize the Laplacian of a graph with these weights ``(P,)``."""
    blocks = system.blocks
    blocks[:, 0, 0] = blocks[:, 1, 1] = weights
    blocks[:, 0, 1] = blocks[:, 1, 0] = -weights
    return system.factorize(np.zeros(system.size), blocks, replaced)


def _differences(system: BlockSystem, values: np.ndarray) -> np.ndarray:
    """Sum values ``(P,)`` over the pairs of each unknown ``(N,)``, with their signs."""
    plus, minus = (np.bincount(ends, values, system.size + 1) for ends in system.cliques.T)
    return (plus - minus)[:-1]


def robust_scale(chi: np.ndarray, freedoms: int = 1) -> float:
    """Compute the scatter of residuals in units of their errors, from their median.

    It is at least 1: pairs with residuals below their errors are no reason to reject others.
    """
    median = float(np.median(chi)) if len(chi) else 0.0
    return max(1.0, median / MEDIAN_CHI[freedoms])


def huber_weights(chi: np.ndarray, scale: float, freedoms: int = 1) -> np.ndarray:
    """Compute Huber's weights ``(P,)`` of residuals ``(P,)`` in units of their errors.

    `scale` is their scatter, as from `robust_scale`.
    """
    usual = MEDIAN_CHI[freedoms]
    limit = scale * HUBER * usual / GAUSSIAN_MEDIAN
    return 1 / np.maximum(1, chi / limit)


def tukey_weights(
    chi: np.ndarray, scale: float, freedoms: int = 1, widening: float = 1.0
) -> np.ndarray:
    """Compute Tukey's weights ``(P,)`` of residuals ``(P,)`` in units of their errors.

    They are at least `LEAST_WEIGHT`. `scale` is the scatter of the residuals, as from
    `robust_scale`, and `widening` multiplies Tukey's constant.
    """
    usual = MEDIAN_CHI[freedoms]
    limit = scale * widening * BIWEIGHT * usual / GAUSSIAN_MEDIAN
    return np.maximum(np.clip(1 - (chi / limit) ** 2, 0, None) ** 2, LEAST_WEIGHT)
