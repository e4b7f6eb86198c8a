"""The lattice of nodes between which a cosine series is interpolated while it is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from ..cosine_series import cosines

MOST_NODES = 48  # along the longer side of a tile
MODES = 2 / 3  # of the nodes along each side: linear interpolation describes no finer ones
#: Shortest side of a structure in units of the longer side of a tile, in half waves: a surface of
#: each tile, or a trend of the gains, is as well an illumination without these.
FEWEST_HALF_WAVES = 2.0


@dataclass(frozen=True, eq=False)
class Lattice:
    """Nodes in the middle of ``rows x columns`` equal parts of a tile.

    Parameters
    ----------
    rows, columns : int
        Nodes along the sides of a tile.
    part : tuple of float
        Height and width of a block of the data in units of the distances of nodes.
    """

    rows: int
    columns: int
    part: tuple[float, float]

    @classmethod
    def of(cls, shape: tuple[int, int], block: float) -> Lattice:
        """Return nodes at least a block apart, for a tile of some shape; both in pixels."""
        longest = min(MOST_NODES, max(shape) / block)
        spacing = max(shape) / max(int(longest), 1)
        rows, columns = (max(round(length / spacing), 1) for length in shape)
        return cls(rows, columns, (block * rows / shape[0], block * columns / shape[1]))

    @staticmethod
    def blocks_between_nodes(shape: tuple[int, int], block: float) -> int:
        """Return how many small blocks fit between nodes, for a tile of some shape; in pixels."""
        return max(int(max(shape) / block / MOST_NODES), 1)

    def interpolation(self, x: np.ndarray, y: np.ndarray) -> csr_array:
        """Return the weights ``(N, rows * columns)`` of the nodes at places x and y ``(N,)``."""
        (row, down), (column, right) = (
            _between(place, nodes) for place, nodes in ((y, self.rows), (x, self.columns))
        )
        first = row * self.columns + column
        below = min(self.rows - 1, 1) * self.columns
        beside = min(self.columns - 1, 1)
        nodes = np.stack([first, first + beside, first + below, first + below + beside], axis=1)
        weights = np.stack(
            [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], axis=1
        )
        count = len(first)
        ends = np.arange(0, 4 * count + 1, 4)
        shape = count, self.rows * self.columns
        return csr_array((weights.ravel(), nodes.ravel(), ends), shape=shape)

    @cached_property
    def degrees(self) -> np.ndarray:
        """Half waves ``(M, 2)`` along y and x of the M terms of the series."""
        counts = [max(int(MODES * nodes), 1) for nodes in (self.rows, self.columns)]
        degrees = np.indices(counts).reshape(2, -1).T
        return degrees[_half_waves(degrees, self) >= FEWEST_HALF_WAVES]

    @cached_property
    def octave(self) -> np.ndarray:
        """Octave ``(M,)`` of the wave number of each term, from 0."""
        waves = _half_waves(self.degrees, self) / FEWEST_HALF_WAVES
        return np.log2(waves).astype(int)

    @cached_property
    def terms(self) -> np.ndarray:
        """Values ``(rows * columns, M)`` at the nodes, by which their interpolation gives terms.

        Interpolation smooths them, and so do the blocks of the data.
        """
        along = []
        for nodes, part in zip((self.rows, self.columns), self.part, strict=True):
            count = max(int(MODES * nodes), 1)
            wave = np.arange(count) / (2 * nodes)  # cycles between two nodes
            smoothing = np.sinc(wave * part) / np.sinc(wave) ** 2
            middle = (2 * np.arange(nodes) + 1) / nodes - 1
            along.append(cosines(middle, count) * smoothing)
        down, right = along[0][:, self.degrees[:, 0]], along[1][:, self.degrees[:, 1]]
        return (down[:, None] * right[None]).reshape(-1, len(self.degrees))

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Return values ``(C, M)`` of the terms as ``(C, K, L)`` by their half waves."""
        table = np.zeros((len(values), *np.max(self.degrees, axis=0) + 1))
        table[:, *self.degrees.T] = values
        return table


def _half_waves(degrees: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Return the half waves ``(M,)`` along the longer side of a tile of terms in any direction."""
    sides = np.array([lattice.rows, lattice.columns])
    return np.hypot(*(degrees * (sides.max() / sides)).T)


def _between(place: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the node before each place from -1 to 1, and the distance from it to the next."""
    position = np.clip((place + 1) / 2 * nodes - 0.5, 0, nodes - 1)
    before = np.minimum(position.astype(np.intp), max(nodes - 2, 0))
    return before, position - before
