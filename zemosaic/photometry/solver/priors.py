"""The priors of all terms solved for: normal distributions with the sizes of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Priors:
    """Priors of N terms of the tiles and S shared ones.

    Parameters
    ----------
    own, shared : ndarray
        ``(N,)`` and ``(S,)`` inverse variances.
    means : ndarray
        ``(N, m)``: products with the last m shared terms are the means of the tiles' terms.
    """

    own: np.ndarray
    shared: np.ndarray
    means: np.ndarray

    def shared_blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks ``(N, S)`` and ``(S, S)`` of the inverse covariance of all terms."""
        weighted, shared = self.own[:, None] * self.means, len(self.shared)
        border, corner = np.zeros((len(self.own), shared)), np.diag(self.shared)
        last = slice(shared - self.means.shape[1], None)
        border[:, last] = -weighted
        corner[last, last] += self.means.T @ weighted
        return border, corner

    def pull(self, values: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the right-hand sides ``(N,)`` and ``(S,)`` by which terms tend to their means.

        `values` ``(N,)`` and `shared` ``(S,)`` are the terms minus their means.
        """
        own, common = -self.own * values, -self.shared * shared
        common[len(shared) - self.means.shape[1] :] -= self.means.T @ own
        return own, common

    def deviance(self, values: np.ndarray, shared: np.ndarray) -> float:
        """Compute -2 ln of the density at terms minus their means, but for a constant."""
        precision, deviation = np.r_[self.own, self.shared], np.r_[values, shared]
        return float((precision * deviation**2 - np.log(precision)).sum())
