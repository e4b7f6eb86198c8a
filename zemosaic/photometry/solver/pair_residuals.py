"""Residuals of the pairs, and their robust weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import _kernels
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
        mean, chi = np.full((2, pairs), np.nan), np.zeros((3, pairs))
        for part in rows:
            _kernels.pair_residuals(part.pairs, part.residual, part.variance, mean, chi)
        chi[2] *= GAUSSIAN_MEDIAN
        return cls(*mean, *chi)

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
        """Number of rounds until the weights have their final limit."""
        return self.mild + self.narrowing

    def of_round(self, number: int, residuals: PairResiduals) -> np.ndarray:
        """Return the weights ``(P,)`` for the residuals of a round."""
        weights = np.ones(len(residuals.level))
        kinds = residuals.level_chi, residuals.gain_chi, residuals.shape_chi
        for kind, chi in enumerate(kinds):
            measured = chi[chi > 0]
            if not len(measured):
                continue
            scale = robust_scale(measured)
            if number <= self.mild:
                self._widest[kind] = max(1.0, float(measured.max()) / (scale * BIWEIGHT))
                weights *= huber_weights(chi, scale)
            else:
                narrowed = min(1.0, (number - self.mild) / self.narrowing)
                widening = self._widest[kind] ** (1 - narrowed)
                weights *= tukey_weights(chi, scale, widening=widening)
        return np.maximum(weights, LEAST_WEIGHT)
