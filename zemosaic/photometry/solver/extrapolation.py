"""Extrapolation of the robust weights to their limit.

A pair at the border of the outliers changes its weight by ever smaller steps, at a
rate of its own. Aitken's process (1926, Proc. R. Soc. Edinb. 46, 289) estimates the limit of each
weight from its last steps.
"""

from __future__ import annotations

import numpy as np

from .robust_lsq import LEAST_WEIGHT

INTERVAL = 3  # rounds: the last two steps show the rates
LARGEST_RATE = 0.9  # of two successive steps, up to which the limit is sure enough


class Extrapolation:
    """Watches the weights of all rounds, and replaces those of every third by their limits."""

    def __init__(self) -> None:
        self._rounds: list[np.ndarray] = []

    def of_round(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights ``(P,)`` of a round, or their limits."""
        self._rounds.append(weights)
        if len(self._rounds) < INTERVAL:
            return weights
        first, second, third = self._rounds
        self._rounds = []
        before, after = second - first, third - second
        rate = np.divide(after, before, out=np.zeros_like(after), where=before != 0)
        rate = np.where((rate > 0) & (rate < 1), np.minimum(rate, LARGEST_RATE), 0.0)
        return np.clip(third + after * rate / (1 - rate), LEAST_WEIGHT, 1.0)
