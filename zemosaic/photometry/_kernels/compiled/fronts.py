"""Calls of the kernels that factorize, solve and invert front by front."""

from __future__ import annotations

import numpy as np

from .. import _fused  # type: ignore[attr-defined]
from ..fronts import Fronts
from ..threads import at_once


def factorize_fronts(
    fronts: Fronts, diagonal: np.ndarray, blocks: np.ndarray, panels: np.ndarray,
    updates: np.ndarray,
) -> bool:  # fmt: skip
    """Factorize all fronts."""
    definite = np.zeros((fronts.shares + 1, 1))

    def factorize(share: int) -> None:
        _fused.factorize_fronts(
            *fronts,
            diagonal=diagonal,
            blocks=blocks,
            panels=panels,
            updates=updates,
            definite=definite[share],
            front_work=np.empty(fronts.largest**2),
            share=share,
        )

    at_once(factorize, range(fronts.shares))
    if definite[:-1].all():
        factorize(-1)
    return bool(definite.all())


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

    def invert(share: int) -> None:
        _fused.invert_fronts(
            *fronts,
            panels=panels,
            updates=updates,
            diagonal=diagonal,
            blocks=blocks,
            front_work=np.empty(fronts.largest**2),
            share=share,
        )

    invert(-1)
    at_once(invert, range(fronts.shares))
