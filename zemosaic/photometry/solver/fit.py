"""The fitted model of a channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bordered import Bordered
from .columns import Columns
from .pair_residuals import PairResiduals
from .pair_rows import Rows, State
from .spreads import Spreads


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted model.

    Parameters
    ----------
    half_tile : float
        Unit of the places in the surfaces, in cells.
    state : State
        Values of all terms.
    spreads : Spreads
        Sizes of their classes.
    columns : Columns
        The terms that were solved for.
    normal : Bordered
        The factorized normal equations.
    rows : list of Rows
        The equations of the pairs about the state.
    residuals : PairResiduals
        Residuals of the pairs.
    doubtful : ndarray
        ``(T,)`` bool: tiles whose pairs had the least weight throughout.
    apart : ndarray
        ``(T,)`` bool: these, and tiles in another unit, which do not count for the mean gain.
    """

    half_tile: float
    state: State
    spreads: Spreads
    columns: Columns
    normal: Bordered
    rows: list[Rows]
    residuals: PairResiduals
    doubtful: np.ndarray
    apart: np.ndarray
