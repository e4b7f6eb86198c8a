"""Calls of the kernels of the equations of pairs."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..pair_derivatives import Derivatives, TileTerms


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


def pair_residuals(
    pairs: np.ndarray, residual: np.ndarray, variance: np.ndarray, mean: np.ndarray,
    chi: np.ndarray,
) -> None:  # fmt: skip
    """Summarize the residuals of each pair."""
    _fused.pair_residuals(pairs, residual=residual, variance=variance, mean=mean, chi=chi)


def tile_levels(
    tile: np.ndarray, measured: np.ndarray, terms: TileTerms, basis: np.ndarray, glow: np.ndarray,
    by_level: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Correct the levels of one tile of each pair."""
    # Apart, because the levers are kept for long.
    lever, light, value = (np.empty(measured.shape) for _ in range(3))
    _fused.tile_levels(
        tile,
        measured,
        *terms,
        basis=basis,
        glow=glow,
        by_level=by_level,
        lever=lever,
        light=light,
        value=value,
    )
    return lever, light, value
