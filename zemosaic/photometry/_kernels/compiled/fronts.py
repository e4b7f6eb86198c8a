"""Calls of the kernels that factorize, solve and invert front by front."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..fronts import Fronts


def factorize_fronts(
    fronts: Fronts, diagonal: np.ndarray, blocks: np.ndarray, panels: np.ndarray,
    updates: np.ndarray,
) -> bool:  # fmt: skip
    """Factorize all fronts."""
    definite = np.empty(1)
    _fused.factorize_fronts(
        *fronts,
        diagonal=diagonal,
        blocks=blocks,
        panels=panels,
        updates=updates,
        definite=definite,
        front_work=np.empty(fronts.largest**2),
    )
    return bool(definite[0])


def solve_fronts(fronts: Fronts, panels: np.ndarray, solution: np.ndarray) -> None:
    """Solve for right-hand sides, in place."""
    _fused.solve_fronts(
        *fronts,
        panels=panels,
        solution=solution,
        side_work=np.empty((fronts.largest, solution.shape[1])),
    )


def invert_fronts(
    fronts: Fronts, panels: np.ndarray, updates: np.ndarray, diagonal: np.ndarray,
    blocks: np.ndarray,
) -> None:  # fmt: skip
    """Compute the inverse within all fronts."""
    _fused.invert_fronts(
        *fronts,
        panels=panels,
        updates=updates,
        diagonal=diagonal,
        blocks=blocks,
        front_work=np.empty(fronts.largest**2),
    )
