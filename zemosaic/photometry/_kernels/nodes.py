"""Positions of cells in a tile, exact at nodes and interpolated in between."""

from __future__ import annotations

import numpy as np

NODE_STEP = 16  # cells between nodes; SIP bends by < 0.01 pixel over this distance


def interpolate_nodes(nodes: np.ndarray, first: int, last: int, axis: int) -> np.ndarray:
    """Interpolate linearly between nodes along an axis, at the cells from `first` up to `last`."""
    below, cells = np.divmod(np.arange(first, last), NODE_STEP)
    positions = nodes.take(below, axis)
    step = nodes.take(below + 1, axis) - positions
    step *= np.expand_dims(cells / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    positions += step
    return positions
