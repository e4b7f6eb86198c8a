"""Sparse symmetric systems: factors, preconditioned gradients, the diagonal of the inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csc_array

from .selected_inverse import factorize

ROUNDS = 32  # of reweighting at most
BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations
# The first rounds have Huber's weights: after plain least squares a wrong pair has pulled its tile
# so far that Tukey's would give up the right ones, and never take them back.
HUBER, MILD_ROUNDS = 1.345, 6
# Then Tukey's limit comes down from the worst pair: where all pairs of a tile disagree with what
# it was pulled to, those nearest to one another shall win, and not none.
NARROWING = 6  # rounds
LEAST_WEIGHT = 1e-6  # of a pair that disagrees with all others
DIRECT = 3_000  # unknowns up to which every round has a factor of its own
STEADY = 1e-12  # change relative to the largest unknown that ends the rounds; beyond DIRECT:
STEADY_ERRORS = 1e-3  # change of any residual, in its errors; 20 rounds come as far
STEPS = 20  # of pcg gradients at most, before a new factor is cheaper
GAIN_OF_STEPS = 0.03  # by which they diminish the error of a round


def pcg(matrix: csc_array, right: np.ndarray, factor: Any) -> np.ndarray | None:
    """Preconditioned pcg gradients (Hestenes and Stiefel 1952); None: too many steps."""
    solution, rest = np.zeros(len(right)), right
    direction, before, goal = np.zeros(len(right)), np.inf, 0.0
    for step in range(STEPS):
        better = factor.solve(rest)
        now = (rest * better).sum()  # no dot product, whose bits depend on the number of threads
        goal = goal if step else now * GAIN_OF_STEPS**2
        if now <= goal:
            return solution
        direction = better + now / before * direction
        image = matrix @ direction
        length = now / (direction * image).sum()
        solution, rest, before = solution + length * direction, rest - length * image, now
    return None


def robust_least_squares(
    design: csc_array, right: np.ndarray, ridge: np.ndarray, pairs: int, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, csc_array, Any]:
    """Least squares of whitened rows, robust_weights by Tukey's biweight, pair by pair.

    Each round solves for the change of the solution: exactly, or, in a large system, by pcg
    gradients that are preconditioned by the factor of earlier weights, and only as far as the
    next round moves anyway. The last round is exact again.

    Parameters
    ----------
    design : csc_array
        ``(R, N)``: a row for the level of each pair, then perhaps two for its tilts.
    right, ridge : ndarray
        ``(R,)`` right-hand side; ``(N,)`` added to the diagonal of the normal matrix.
    pairs : int
        Number of pairs.
    rounds : int
        At most; 1 is plain least squares.

    Returns
    -------
    solution, rest, chi : ndarray
        ``(N,)``, ``(R,)`` right minus design · solution, ``(P,)`` norm of the rest of each pair.
    scale : float
        By which the errors were too small, judged by the scatter; at least 1.
    normal, factor : csc_array, SuperLU
        ``(N, N)`` normal matrix of the last round, and its factor.
    """
    size, tilts = len(ridge), (len(right) - pairs) // pairs
    diagonal = csc_array((ridge, (np.arange(size), np.arange(size))), shape=(size, size))
    transposed = design.T.tocsr()
    robust, solution, rest = np.ones(pairs), np.zeros(size), right
    factor, then, anew, wide = None, np.zeros(size), True, 1.0
    for turn in range(1, rounds + 1):
        weight = np.concatenate([robust, np.repeat(robust, tilts)])
        weighted = csc_array(
            (design.data * weight[design.indices], design.indices, design.indptr), design.shape
        )
        normal = (transposed @ weighted + diagonal).tocsc()
        gradient = transposed @ (weight * rest) - ridge * solution
        now, change = normal.diagonal(), None
        # An unknown that has lost its weight would drift, since its error costs no energy.
        if not anew and turn < rounds and ((now > then / 2) & (now < then * 10)).all():
            change = pcg(normal, gradient, factor)
        exact = change is None
        if change is None:
            factor = None  # frees the memory of the last one
            factor, then = factorize(normal), now
            change = factor.solve(gradient)
        solution, before = solution + change, rest
        rest = right - design @ solution
        chi = np.sqrt(
            np.square(np.c_[rest[:pairs], rest[pairs:].reshape(pairs, tilts)]).sum(axis=1)
        )
        if turn <= MILD_ROUNDS:
            robust, scale = robust_weights(chi, 1 + tilts, mild=True)
            wide = max(1.0, chi.max() / (scale * BIWEIGHT))
        else:
            narrow = min(1.0, (turn - MILD_ROUNDS) / NARROWING)
            robust, scale = robust_weights(chi, 1 + tilts, wide ** (1 - narrow))
        if size <= DIRECT:
            steady = np.abs(change).max() <= STEADY * max(1.0, np.abs(solution).max())
        else:
            steady = np.abs(rest - before).max() <= STEADY_ERRORS
        if steady and exact and turn > MILD_ROUNDS + NARROWING:
            break
        anew = steady or size <= DIRECT
    return solution, rest, chi, scale, normal, factor


def robust_weights(
    u: np.ndarray, freedoms: int = 1, wide: float = 1.0, mild: bool = False
) -> tuple[np.ndarray, float]:
    """Weights of residuals in units of their errors, and their scale.

    Huber's if `mild`, else Tukey's with his constant that many times as `wide`.
    """
    usual = {1: 0.6745, 2: 1.1774, 3: 1.5382}[freedoms]  # medians of chi with so many freedoms
    # At least 1: pairs that agree better than their errors are no reason to doubt others.
    scale = max(1.0, float(np.median(u)) / usual)
    if mild:
        return 1 / np.maximum(1, u / (scale * HUBER * usual / 0.6745)), scale
    bend = np.clip(1 - (u / (scale * wide * BIWEIGHT * usual / 0.6745)) ** 2, 0, None) ** 2
    return np.maximum(bend, LEAST_WEIGHT), scale
