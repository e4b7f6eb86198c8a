"""Calls of the kernels of the equations of pairs."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..pair_derivatives import Derivatives


def normal_blocks(
    pairs: np.ndarray, derivatives: Derivatives, precision: np.ndarray, residual: np.ndarray,
    blocks: np.ndarray, products: np.ndarray,
) -> None:  # fmt: skip
    """Compute the part of the normal equations of each pair."""
    _fused.normal_blocks(
        pairs,
        *derivatives,
        precision=precision,
        residual=residual,
        blocks=blocks,
        products=products,
    )
