"""Systems in which a few columns, shared by all tiles, border the tiles' own columns.

With the blocks A of the tiles, B between tiles and shared columns, and C of the shared columns, the
inverse follows from ``W = A⁻¹ B`` and the Schur complement ``S = C - Bᵀ W``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .block_system import BlockFactor, BlockSystem


@dataclass(frozen=True, eq=False)
class Bordered:
    """A factorized system of N columns of tiles and M shared ones.

    Parameters
    ----------
    factor : BlockFactor
        Factor of A.
    ratio : ndarray
        ``(N, M)``: W.
    shared_inverse : ndarray
        ``(M, M)`` inverse of S, the covariance of the shared columns.
    """

    factor: BlockFactor
    ratio: np.ndarray
    shared_inverse: np.ndarray

    @classmethod
    def of(
        cls,
        system: BlockSystem,
        diagonal: np.ndarray,
        blocks: np.ndarray,
        border: np.ndarray,
        corner: np.ndarray,
        replaced: Bordered | None = None,
    ) -> Bordered:
        """Factorize A, given as for `BlockSystem.factorize`, with B ``(N, M)`` and C ``(M, M)``.

        A `replaced` system is not used any more.
        """
        factor = system.factorize(diagonal, blocks, None if replaced is None else replaced.factor)
        if not border.shape[1]:
            return cls(factor, border, corner)
        ratio = factor.solve(border)
        # Not with scipy.linalg: the threads of its OpenBLAS and of numpy's would compete.
        inverse_root = np.linalg.inv(np.linalg.cholesky(corner - border.T @ ratio).T)
        return cls(factor, ratio, inverse_root @ inverse_root.T)

    @property
    def log_determinant(self) -> float:
        """Logarithm of the determinant of the whole matrix."""
        return self.factor.log_determinant - float(np.linalg.slogdet(self.shared_inverse)[1])

    def solve(self, right: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Solve for right-hand sides ``(N,)`` and ``(M,)``, or several columns of both."""
        own = self.factor.solve(right)
        common = self.shared_inverse @ (shared - self.ratio.T @ right)
        return own - self.ratio @ common, common

    def variance(self, means: np.ndarray) -> np.ndarray:
        """Compute the variances ``(N,)`` of the tiles' terms minus the means of their priors.

        These are products of `means` ``(N, m)`` and the last m shared terms.
        """
        ratio = self.ratio.copy()
        ratio[:, ratio.shape[1] - means.shape[1] :] += means
        by_shared = np.einsum("nm,nm->n", ratio @ self.shared_inverse, ratio)
        return self.factor.inverse_diagonal() + by_shared

    def row_variances(
        self,
        own: np.ndarray,
        shared: np.ndarray,
        blocks: np.ndarray,
        cliques: np.ndarray,
        place: np.ndarray,
    ) -> np.ndarray:
        """Compute the variances of R linear functions of the terms of each of n cliques.

        Parameters
        ----------
        own, shared : ndarray
            ``(n, R, m)`` and ``(n, R, s)`` derivatives by the columns of the clique, and by some of
            the shared ones.
        blocks : ndarray
            ``(n, m, m)`` inverse of A at the cliques.
        cliques : ndarray
            ``(n, m)`` int columns of the cliques; N stands for none.
        place : ndarray
            ``(s,)`` int: which of the shared columns.

        Returns
        -------
        ndarray
            ``(n, R)``.
        """
        variance = np.einsum("nra,nra->nr", own @ blocks, own)
        if len(place):
            ratio = np.append(self.ratio, np.zeros((1, self.ratio.shape[1])), axis=0)
            across = -own @ ratio[cliques]
            across[..., place] += shared
            variance += np.einsum("nrs,nrs->nr", across @ self.shared_inverse, across)
        return np.asarray(variance)
