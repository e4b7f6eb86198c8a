"""The weighted products of the equations of pairs of tiles."""

from __future__ import annotations

import numpy as np

from ..pair_derivatives import Derivatives


def normal_blocks(
    pairs: np.ndarray, derivatives: Derivatives, precision: np.ndarray, residual: np.ndarray,
    blocks: np.ndarray, products: np.ndarray,
) -> None:  # fmt: skip
    """Compute the part of the normal equations of each of n pairs.

    Parameters
    ----------
    pairs : ndarray
        ``(n,)`` int.
    derivatives : Derivatives
        Those of the rows of these pairs, by m terms.
    precision, residual : ndarray
        ``(n, 17)`` weights of the rows, and the numbers that they shall be.
    blocks : ndarray
        Gets ``(P, m, m)`` weighted products of the derivatives, at these pairs.
    products : ndarray
        Gets ``(P, m)`` weighted products with the residuals.
    """
    matrix = derivatives.matrix()
    weighted = (matrix * precision[..., None]).swapaxes(1, 2)
    blocks[pairs] = weighted @ matrix
    products[pairs] = (weighted @ residual[..., None])[..., 0]
