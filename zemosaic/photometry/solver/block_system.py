"""Sparse symmetric systems of blocks on the graph of a mosaic, solved by nested dissection.

Each part of the mosaic becomes one dense front with the columns that remain coupled to it (Duff and
Reid 1983, ACM TOMS 9, 302). On the way back the same fronts give the inverse within each front
(Takahashi, Fagan and Chen 1973; Erisman and Tinney 1975, Comm. ACM 18, 177): all variances, and the
covariances of the columns of each pair.

The fronts are dense, but most are small: kernels do all their algebra, and no result depends on the
threads of BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .. import _kernels
from .._kernels.fronts import FrontField
from .dissection import Dissection
from .front_tree import front_tree

LARGE = 10**18


class BlockSystem:
    """The structure of a system whose matrix is a sum of dense blocks, one for each clique.

    Parameters
    ----------
    node : ndarray
        ``(N,)`` int node of each column.
    cliques : ndarray
        ``(P, m)`` int columns of each clique; N stands for none.
    dissection : Dissection
        The order of the nodes, of which those of a clique are coupled.
    """

    def __init__(self, node: np.ndarray, cliques: np.ndarray, dissection: Dissection) -> None:
        self.size, self.cliques = len(node), cliques
        self.fronts = front_tree(dissection, node, cliques)

    @cached_property
    def blocks(self) -> np.ndarray:
        """Memory for the blocks ``(P, m, m)`` of one matrix at a time."""
        return np.empty((*self.cliques.shape, self.cliques.shape[1]))

    @cached_property
    def _updates(self) -> np.ndarray:
        return np.empty(self.fronts.end(FrontField.UPDATE))

    def factorize(
        self, diagonal: np.ndarray, blocks: np.ndarray, replaced: BlockFactor | None = None
    ) -> BlockFactor:
        """Factorize ``diag(diagonal) + Σ blocks``.

        Parameters
        ----------
        diagonal : ndarray
            ``(N,)``.
        blocks : ndarray
            ``(P, m, m)`` symmetric blocks of the cliques.
        replaced : BlockFactor or None
            A factor that is not used any more: the new one takes its memory.

        Raises
        ------
        numpy.linalg.LinAlgError
            The matrix is not positive definite.
        """
        if replaced is not None and replaced.system is self:
            panels = replaced.panels
        else:
            panels = np.empty(self.fronts.end(FrontField.PANEL))
        diagonal, blocks = np.ascontiguousarray(diagonal), np.ascontiguousarray(blocks)
        if not _kernels.factorize_fronts(self.fronts, diagonal, blocks, panels, self._updates):
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        return BlockFactor(self, panels)


@dataclass(frozen=True, eq=False)
class BlockFactor:
    """The Cholesky factor of a `BlockSystem`.

    Parameters
    ----------
    system : BlockSystem
        Its structure.
    panels : ndarray
        The factor, front by front.
    """

    system: BlockSystem
    panels: np.ndarray

    @property
    def log_determinant(self) -> float:
        """Logarithm of the determinant of the matrix."""
        fronts = self.system.fronts
        panels = (fronts.panel(front, self.panels) for front in range(len(fronts.table) - 1))
        return 2 * sum(float(np.log(np.diagonal(panel)).sum()) for panel in panels)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve for one right-hand side ``(N,)`` or several ``(N, k)``."""
        solution = right.astype(float, order="C").reshape(len(right), int(np.prod(right.shape[1:])))
        _kernels.solve_fronts(self.system.fronts, self.panels, solution)
        return solution.reshape(right.shape)

    def inverse_diagonal(self) -> np.ndarray:
        """Return the diagonal ``(N,)`` of the inverse."""
        return self._inverse[0]

    def inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the diagonal ``(N,)`` and the blocks ``(P, m, m)`` of the inverse."""
        return self._inverse

    @cached_property
    def _inverse(self) -> tuple[np.ndarray, np.ndarray]:
        fronts, cliques = self.system.fronts, self.system.cliques
        diagonal, blocks = np.empty(self.system.size), np.zeros((*cliques.shape, cliques.shape[1]))
        _kernels.invert_fronts(fronts, self.panels, self.system._updates, diagonal, blocks)
        return diagonal, blocks
