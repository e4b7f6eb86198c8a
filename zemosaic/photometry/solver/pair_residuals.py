"""Residuals of the pairs, and their robust weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN
from .pair_rows import Rows
from .robust_lsq import LEAST_WEIGHT, huber_weights, robust_scale, tukey_weights

MILD_ROUNDS = 6  # with Huber's weights
NARROWING = 6  # rounds in which the limit of Tukey's weights narrows


@dataclass(frozen=True, eq=False)
class PairResiduals:
    """Residuals of P pairs.

    Parameters
    ----------
    level, log_gain : ndarray
        ``(P,)`` of the level at the pivot, and of the log-gain; NaN if not measured.
    level_chi, gain_chi, shape_chi : ndarray
        ``(P,)`` the same in units of their errors, and the scatter of the patches in units of
        theirs, scaled to the median of a single one; 0 if not measured.
    """

    level: np.ndarray
    log_gain: np.ndarray
    level_chi: np.ndarray
    gain_chi: np.ndarray
    shape_chi: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Rows], pairs: int) -> PairResiduals:
        """Summarize the equations of all pairs."""
        level, log_gain = np.full((2, pairs), np.nan)
        level_chi, gain_chi, shape_chi = np.zeros((3, pairs))
        for part in rows:
            residual, ratio = part.residual[:, :-1], part.residual[:, -1]
            weight, gain_var = 1 / part.variance[:, :-1], part.variance[:, -1]
            weighted, total = weight * residual, weight.sum(axis=1)
            product = weighted.sum(axis=1)
            patches = np.count_nonzero(weight, axis=1)
            squares = np.einsum("np,np->n", weighted, residual)
            squares -= product**2 / np.where(total > 0, total, 1.0)
            level[part.pairs] = product / np.where(total > 0, total, np.nan)
            log_gain[part.pairs] = np.where(np.isfinite(gain_var), ratio, np.nan)
            level_chi[part.pairs] = np.abs(product) / np.sqrt(np.where(total > 0, total, 1.0))
            gain_chi[part.pairs] = np.abs(ratio) / np.sqrt(gain_var)
            scatter = np.where(patches > 1, squares, 0.0) / np.maximum(patches - 1, 1)
            shape_chi[part.pairs] = GAUSSIAN_MEDIAN * np.sqrt(np.maximum(scatter, 0.0))
        return cls(level, log_gain, level_chi, gain_chi, shape_chi)

    @property
    def chi(self) -> np.ndarray:
        """The largest of the residuals ``(P,)`` in units of their errors."""
        return np.fmax(np.fmax(self.level_chi, self.gain_chi), self.shape_chi)


class RobustWeights:
    """Weights of the pairs, from all their residuals, over the rounds.

    Parameters
    ----------
    mild : int
        Rounds with Huber's weights.
    narrowing : int
        Rounds after these, in which the limit of Tukey's weights narrows.
    """

    def __init__(self, mild: int = MILD_ROUNDS, narrowing: int = NARROWING) -> None:
        self.mild, self.narrowing = mild, narrowing
        self._widest: list[float] = [1.0] * 3

    @property
    def rounds(self) -> int:
        """Number of rounds until the weights are those of their final limit."""
        return self.mild + self.narrowing

    def of_round(self, number: int, residuals: PairResiduals) -> np.ndarray:
        """Return the weights ``(P,)`` for the residuals of a round."""
        weights = np.ones(len(residuals.level))
        kinds = residuals.level_chi, residuals.gain_chi, residuals.shape_chi
        for kind, chi in enumerate(kinds):
            measured = chi > 0
            values = chi[measured]
            if not len(values):
                continue
            if number <= self.mild:
                limit = robust_scale(values) * BIWEIGHT
                self._widest[kind] = max(1.0, float(values.max()) / limit)
                weights[measured] *= huber_weights(values)
            else:
                narrowed = min(1.0, (number - self.mild) / self.narrowing)
                widening = self._widest[kind] ** (1 - narrowed)
                weights[measured] *= tukey_weights(values, widening=widening)
        return np.maximum(weights, LEAST_WEIGHT)
