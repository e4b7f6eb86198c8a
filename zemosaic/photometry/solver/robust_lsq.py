"""Robust least squares of sparse systems, by iteratively reweighted normal equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN, HUBER
from .selected_inverse import factorize

ROUNDS = 32  # largest number of reweighting rounds
# The first rounds use Huber's weights: in the plain least-squares solution a wrong pair has pulled
# its tile so far that Tukey's weights would reject the good pairs and never recover them.
MILD_ROUNDS = 6
# The limit of Tukey's weights then narrows from the worst pair down to its final value: if all
# pairs of a tile contradict the first solution, some that agree shall win instead of none.
NARROWING = 6  # rounds
LEAST_WEIGHT = 1e-6  # of an outlying pair: keeps the graph connected
DIRECT = 3_000  # largest number of unknowns for which each round factorizes its own matrix
STEADY = 1e-12  # convergence, up to DIRECT: change relative to the largest unknown
# Convergence beyond DIRECT, in about 20 rounds: change of any residual in units of its error.
STEADY_ERRORS = 1e-3
STEPS = 20  # of conjugate gradients at most: beyond that a new factor is cheaper
ERROR_REDUCTION = 0.03  # of the error of a round (energy norm), by conjugate gradients
# Conjugate gradients reuse a factor while the diagonal changes by less than these factors.
DIAGONAL_DROP, DIAGONAL_GROWTH = 0.5, 10.0
MEDIAN_CHI = {1: GAUSSIAN_MEDIAN, 2: 1.1774, 3: 1.5382}  # by degrees of freedom


@dataclass(frozen=True, eq=False)
class RobustFit:
    """Solution of a robust least-squares problem.

    Parameters
    ----------
    solution : ndarray
        ``(N,)``.
    residual : ndarray
        ``(R,)`` right-hand side minus design · solution, in units of the errors.
    chi : ndarray
        ``(P,)`` norm of the residuals of each pair.
    scale : float
        Robust scatter of the residuals in units of the errors; at least 1.
    normal : csc_array
        ``(N, N)`` normal matrix of the last round.
    factor : SuperLU
        Its factor.
    """

    solution: np.ndarray
    residual: np.ndarray
    chi: np.ndarray
    scale: float
    normal: csc_array
    factor: Any


def robust_least_squares(
    design: csc_array, right: np.ndarray, ridge: np.ndarray, pairs: int, rounds: int = ROUNDS
) -> RobustFit:
    """Solve whitened least squares with robust weights, one weight per pair.

    Each round solves for the change of the solution: exactly, or, in a large system, by conjugate
    gradients preconditioned with the factor of earlier weights, as far as the next round is going
    to move the solution anyway. The last round is exact.

    Parameters
    ----------
    design : csc_array
        ``(R, N)``: one row for the level of each pair, then, optionally, two rows for its tilt.
    right : ndarray
        ``(R,)`` right-hand side.
    ridge : ndarray
        ``(N,)`` added to the diagonal of the normal matrix.
    pairs : int
        Number of pairs.
    rounds : int
        Largest number of rounds; 1 is plain least squares.

    Returns
    -------
    RobustFit
    """
    equations = _NormalEquations(design, right, ridge, pairs)
    weighting, solver = _Weighting(equations.freedoms), _ReusedFactor()
    weights, solution, residual = np.ones(pairs), np.zeros(len(ridge)), right
    renew = True
    for round_number in range(1, rounds + 1):
        normal, gradient = equations.weighted(weights, solution, residual)
        change = None if renew or round_number == rounds else solver.approximate(normal, gradient)
        exact = change is None
        if change is None:
            change = solver.solve(normal, gradient)
        solution, previous = solution + change, residual
        residual = right - design @ solution
        weights = weighting.of_round(round_number, equations.chi(residual))
        steady = _is_steady(solution, change, residual - previous)
        if steady and exact and round_number > MILD_ROUNDS + NARROWING:
            break
        renew = steady or len(ridge) <= DIRECT
    chi = equations.chi(residual)
    return RobustFit(
        solution, residual, chi, robust_scale(chi, equations.freedoms), normal, solver.factor
    )


def _is_steady(solution: np.ndarray, change: np.ndarray, residual_change: np.ndarray) -> bool:
    """Whether a round has changed nothing of importance."""
    if len(solution) <= DIRECT:
        return bool(np.abs(change).max() <= STEADY * max(1.0, np.abs(solution).max()))
    return bool(np.abs(residual_change).max() <= STEADY_ERRORS)


class _NormalEquations:
    """Normal equations of a ridge regression for changing weights of its pairs."""

    def __init__(self, design: csc_array, right: np.ndarray, ridge: np.ndarray, pairs: int) -> None:
        size = len(ridge)
        self.design, self.ridge, self.pairs = design, ridge, pairs
        self.tilts = (len(right) - pairs) // pairs  # rows of each pair after the first
        self.transposed = design.T.tocsr()
        self.diagonal = csc_array((ridge, (np.arange(size), np.arange(size))), shape=(size, size))

    @property
    def freedoms(self) -> int:
        """Rows of each pair."""
        return 1 + self.tilts

    def weighted(
        self, weights: np.ndarray, solution: np.ndarray, residual: np.ndarray
    ) -> tuple[csc_array, np.ndarray]:
        """Return normal matrix ``(N, N)`` and right-hand side ``(N,)`` for the next change."""
        of_rows = np.concatenate([weights, np.repeat(weights, self.tilts)])
        design = self.design
        scaled = csc_array(
            (design.data * of_rows[design.indices], design.indices, design.indptr), design.shape
        )
        normal = (self.transposed @ scaled + self.diagonal).tocsc()
        return normal, self.transposed @ (of_rows * residual) - self.ridge * solution

    def chi(self, residual: np.ndarray) -> np.ndarray:
        """Compute the norm ``(P,)`` of the residuals of each pair."""
        level, tilt = residual[: self.pairs], residual[self.pairs :]
        return np.sqrt(np.square(np.c_[level, tilt.reshape(self.pairs, self.tilts)]).sum(axis=1))


class _Weighting:
    """Schedule of the robust weights over the rounds."""

    def __init__(self, freedoms: int) -> None:
        self.freedoms, self.widest = freedoms, 1.0

    def of_round(self, round_number: int, chi: np.ndarray) -> np.ndarray:
        """Compute the weights ``(P,)`` for the next round from residuals in their errors."""
        if round_number <= MILD_ROUNDS:
            self.widest = max(1.0, chi.max() / (robust_scale(chi, self.freedoms) * BIWEIGHT))
            return huber_weights(chi, self.freedoms)
        narrowed = min(1.0, (round_number - MILD_ROUNDS) / NARROWING)
        return tukey_weights(chi, self.freedoms, self.widest ** (1 - narrowed))


class _ReusedFactor:
    """Exact solutions, and approximate ones that reuse the factor of the last exact one."""

    def __init__(self) -> None:
        self.factor: Any = None
        self.diagonal = np.zeros(0)

    def solve(self, normal: csc_array, right: np.ndarray) -> np.ndarray:
        """Factorize the matrix and solve exactly."""
        self.factor = None  # frees the memory of the previous factor
        self.factor, self.diagonal = factorize(normal), normal.diagonal()
        return self.factor.solve(right)

    def approximate(self, normal: csc_array, right: np.ndarray) -> np.ndarray | None:
        """Solve by conjugate gradients; None if a new factor is needed.

        An unknown that has lost most of its weight needs one: its error costs no energy, so
        conjugate gradients would let it drift.
        """
        diagonal = normal.diagonal()
        similar = (diagonal > self.diagonal * DIAGONAL_DROP) & (
            diagonal < self.diagonal * DIAGONAL_GROWTH
        )
        return pcg(normal, right, self.factor) if similar.all() else None


def pcg(matrix: csc_array, right: np.ndarray, factor: Any) -> np.ndarray | None:
    """Solve by preconditioned conjugate gradients (Hestenes and Stiefel 1952).

    Parameters
    ----------
    matrix : csc_array
        ``(N, N)``, symmetric positive definite.
    right : ndarray
        ``(N,)`` right-hand side.
    factor : SuperLU
        Factor of a similar matrix.

    Returns
    -------
    ndarray or None
        ``(N,)``, with the error reduced by `ERROR_REDUCTION`; None if that takes more than
        `STEPS` steps.
    """
    solution, residual = np.zeros(len(right)), right
    direction, previous, goal = np.zeros(len(right)), np.inf, 0.0
    for step in range(STEPS):
        preconditioned = factor.solve(residual)
        # Not a dot product, since its rounding depends on the number of threads.
        energy = (residual * preconditioned).sum()
        goal = goal if step else energy * ERROR_REDUCTION**2
        if energy <= goal:
            return solution
        direction = preconditioned + energy / previous * direction
        image = matrix @ direction
        length = energy / (direction * image).sum()
        solution, residual = solution + length * direction, residual - length * image
        previous = energy
    return None


def robust_scale(chi: np.ndarray, freedoms: int = 1) -> float:
    """Compute the scatter of residuals in units of their errors, from their median.

    It is at least 1: pairs with residuals below their errors are no reason to reject others.
    """
    median = float(np.median(chi)) if len(chi) else 0.0
    return max(1.0, median / MEDIAN_CHI[freedoms])


def huber_weights(chi: np.ndarray, freedoms: int = 1) -> np.ndarray:
    """Compute Huber's weights ``(P,)`` of residuals ``(P,)`` in units of their errors."""
    usual = MEDIAN_CHI[freedoms]
    limit = robust_scale(chi, freedoms) * HUBER * usual / GAUSSIAN_MEDIAN
    return 1 / np.maximum(1, chi / limit)


def tukey_weights(chi: np.ndarray, freedoms: int = 1, widening: float = 1.0) -> np.ndarray:
    """Compute Tukey's weights ``(P,)`` of residuals ``(P,)`` in units of their errors.

    They are at least `LEAST_WEIGHT`. `widening` multiplies Tukey's constant.
    """
    usual = MEDIAN_CHI[freedoms]
    limit = robust_scale(chi, freedoms) * widening * BIWEIGHT * usual / GAUSSIAN_MEDIAN
    return np.maximum(np.clip(1 - (chi / limit) ** 2, 0, None) ** 2, LEAST_WEIGHT)
