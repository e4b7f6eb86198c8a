"""Layout of the fronts of a sparse symmetric system; see `zemosaic.photometry.solver.front_tree`.

In shapes, F are the fronts in postorder, N the columns of the system, P the blocks adding up to its
matrix, and m their columns. A front of s columns, of which n are eliminated there, has a panel
``(n, s)`` of the factor U, upper triangular and row by row, and an update ``(s - n, s - n)``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class FrontField(IntEnum):
    """Columns of `Fronts.table`."""

    OWN = 0  # number of columns eliminated in the front
    START = 1  # of its columns in `Fronts.columns`
    CHILDREN = 2  # start of its children in `Fronts.children`
    BLOCKS = 3  # start of its blocks in `Fronts.order`
    PANEL = 4  # start of its panel
    UPDATE = 5  # start of its update, which replaces the updates of its children
    PARENT = 6  # -1 for none


class Fronts(NamedTuple):
    """The fronts, and the places of their numbers.

    Parameters
    ----------
    table : ndarray
        ``(F + 1, 7)`` int, see `FrontField`; the last row has the ends.
    columns : ndarray
        Int columns of each front: those eliminated there, then the others as they will be.
    above : ndarray
        Int places of these in the columns of the parent; -1 for eliminated ones.
    children : ndarray
        Int fronts with a parent, by parent.
    order : ndarray
        Int blocks by the front in which they are added.
    place : ndarray
        ``(P, m)`` int places of the columns of blocks in the columns of the front; -1 for none.
    """

    table: np.ndarray
    columns: np.ndarray
    above: np.ndarray
    children: np.ndarray
    order: np.ndarray
    place: np.ndarray

    def end(self, field: FrontField) -> int:
        """Return the total length of a field."""
        return int(self.table[-1, field])

    @property
    def largest(self) -> int:
        """Columns of the largest front."""
        return int(np.diff(self.table[:, FrontField.START]).max(initial=0))

    def columns_of(self, front: int) -> np.ndarray:
        """Return the columns ``(s,)`` of a front."""
        begin, end = self.table[front : front + 2, FrontField.START].tolist()
        return self.columns[begin:end]

    def above_of(self, front: int) -> np.ndarray:
        """Return the places ``(s - n,)`` of the columns that a front leaves to its parent."""
        begin, end = self.table[front : front + 2, FrontField.START].tolist()
        return self.above[begin + int(self.table[front, FrontField.OWN]) : end]

    def children_of(self, front: int) -> list[int]:
        """Return the children of a front."""
        begin, end = self.table[front : front + 2, FrontField.CHILDREN].tolist()
        return list(map(int, self.children[begin:end]))

    def blocks_of(self, front: int) -> np.ndarray:
        """Return the blocks that are added in a front."""
        begin, end = self.table[front : front + 2, FrontField.BLOCKS].tolist()
        return self.order[begin:end]

    def panel(self, front: int, panels: np.ndarray) -> np.ndarray:
        """Return the panel ``(n, s)`` of a front, a view."""
        begin, end = self.table[front : front + 2, FrontField.PANEL].tolist()
        shape = int(self.table[front, FrontField.OWN]), len(self.columns_of(front))
        return panels[begin:end].reshape(shape)

    def update(self, front: int, updates: np.ndarray) -> np.ndarray:
        """Return the update ``(s - n, s - n)`` of a front, a view."""
        rest = len(self.above_of(front))
        begin = int(self.table[front, FrontField.UPDATE])
        return updates[begin : begin + rest**2].reshape(rest, rest)
