"""Positions of cells in a tile, exact at nodes and interpolated in between."""

from __future__ import annotations

import numpy as np

#: Cells between nodes; over this distance SIP bends by less than 0.01 pixel.
NODE_STEP = 16


def interpolate_nodes(nodes: np.ndarray, first: int, last: int, axis: int) -> np.ndarray:
    """Interpolate linearly between nodes along an axis, at the cells from `first` up to `last`."""
    below, cells = np.divmod(np.arange(first, last), NODE_STEP)
    positions = nodes.take(below, axis)
    step = nodes.take(below + 1, axis) - positions
    step *= np.expand_dims(cells / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    positions += step
    return positions


def interpolate_at(nodes: np.ndarray, cells: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Interpolate along an axis between nodes `step` cells apart; at a node no other matters."""
    below, beyond = np.divmod(cells, step)
    below = below.astype(np.intp)
    positions = nodes.take(below, axis)
    change = nodes.take(below + 1, axis) - positions
    fraction = np.expand_dims(beyond / step, tuple(range(1, nodes.ndim - axis)))
    with np.errstate(invalid="ignore"):
        change *= fraction
    return positions + np.where(fraction > 0, change, 0.0)
