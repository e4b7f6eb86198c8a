"""The weighted normal equations of all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array

from .. import _kernels
from .block_system import BlockSystem
from .bordered import Bordered
from .columns import Columns
from .pair_rows import Rows
from .priors import Priors

#: Of the diagonal, with which rounding leaves the equations positive definite. It damps the step
#: of a term that no pair holds.
LEAST_PRIOR = 1e-12


class NormalEquations:
    """Sums over the pairs, without the prior.

    Parameters
    ----------
    columns : Columns
        The N columns of the tiles, and the S shared ones.
    system : BlockSystem
        The structure of the former; the blocks lie in its memory.
    rows : sequence of Rows
        The equations of P pairs.
    weights : ndarray
        ``(P,)`` robust weights.
    """

    def __init__(
        self,
        columns: Columns,
        system: BlockSystem,
        rows: Sequence[Rows],
        weights: np.ndarray,
    ) -> None:
        size, shared = columns.size, columns.shared_size
        self.system, self.cliques = system, system.cliques
        self.blocks = system.blocks
        self.border, self.corner = np.zeros((size + 1, shared)), np.zeros((shared, shared))
        self.shared_right = np.zeros(shared)
        products = np.empty(self.cliques.shape)
        for part in rows:
            weight = weights[part.pairs, None] / part.variance
            _kernels.normal_blocks(
                part.pairs, part.derivatives, weight, part.residual, self.blocks, products
            )
            if part.shared.shape[2]:
                place = columns.shared_places(part.instruments)
                self._add_shared(part, weight, self.cliques[part.pairs], place)
        self.right = np.bincount(self.cliques.ravel(), products.ravel(), size + 1)

    def _add_shared(
        self, part: Rows, weight: np.ndarray, column: np.ndarray, place: np.ndarray
    ) -> None:
        """Add the products with the shared columns at these places."""
        across = (part.own * weight[..., None]).swapaxes(1, 2) @ part.shared
        flat = across.reshape(-1, across.shape[2])
        entry = np.arange(len(flat))
        collect = coo_array((np.ones(len(flat)), (column.ravel(), entry)),
                            shape=(len(self.border), len(flat))).tocsr()  # fmt: skip
        self.border[:, place] += collect @ flat
        rows = part.shared.reshape(-1, part.shared.shape[2])
        weighted = rows * weight.reshape(-1, 1)
        self.corner[np.ix_(place, place)] += weighted.T @ rows
        self.shared_right[place] += weighted.T @ part.residual.ravel()

    def factorize(self, priors: Priors, replaced: Bordered | None = None) -> Bordered:
        """Factorize with the priors of all terms.

        A `replaced` system is not used any more.

        Raises
        ------
        numpy.linalg.LinAlgError
            The equations have no finite solution.
        """
        border, corner = priors.shared_blocks()
        numbers = np.einsum("paa->pa", self.blocks)
        diagonal = np.bincount(self.cliques.ravel(), numbers.ravel(), len(self.border))[:-1]
        own = np.maximum(priors.own, LEAST_PRIOR * diagonal)
        border, corner = border + self.border[:-1], corner + self.corner
        return Bordered.of(self.system, own, self.blocks, border, corner, replaced)
