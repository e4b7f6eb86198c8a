"""Tiles sharing their gain or their level, such as the chips of one exposure.

A group of tied tiles is one node of the graph, represented by its first tile, so pairs of any of
its tiles determine all of them. Levels of a group follow one offset or one plane.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..overlap.graph import component_labels

Groupings = Sequence[Sequence[Hashable | None]]


@dataclass(frozen=True, eq=False)
class Ties:
    """Groups of tiles with one gain, and groups of tiles with one level.

    Parameters
    ----------
    gain, level : ndarray
        ``(T,)`` int: first tile of the group of each tile; itself if it is not tied.
    """

    gain: np.ndarray
    level: np.ndarray

    @classmethod
    def none(cls, tiles: int) -> Ties:
        """Return the ties of independent tiles."""
        return cls(np.arange(tiles), np.arange(tiles))

    @classmethod
    def of(cls, gain: Groupings, level: Groupings) -> Ties:
        """Tie tiles by one or more groupings, each with a group or None for every tile."""
        return cls(_first_tiles(gain), _first_tiles(level))

    @property
    def node(self) -> np.ndarray:
        """First tiles ``(T, 2)`` for gain and level."""
        return np.stack([self.gain, self.level], axis=1)

    @property
    def mixed_gains(self) -> np.ndarray:
        """Whether each tile ``(T,)`` shares its level with tiles of other gains."""
        return self._of_groups(self.gain != self.gain[self.level])

    def untie_levels(self, tiles: np.ndarray) -> Ties:
        """Return the ties without the level groups of some tiles ``(T,)``."""
        return Ties(
            self.gain, np.where(self._of_groups(tiles), np.arange(len(self.level)), self.level)
        )

    def _of_groups(self, tiles: np.ndarray) -> np.ndarray:
        """Return whether the level group of each tile ``(T,)`` has any of some tiles ``(T,)``."""
        chosen = np.zeros(len(self.level), dtype=bool)
        chosen[self.level[tiles]] = True
        return chosen[self.level]

    def level_components(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Label ``(T,)`` the tiles joined by pairs ``(i, j)`` or by their level."""
        return _components(self.level, i, j)

    def gain_components(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Label ``(T,)`` the tiles joined by pairs ``(i, j)`` or by their gain."""
        return _components(self.gain, i, j)


def _first_tiles(groupings: Groupings) -> np.ndarray:
    """Return the first ``(T,)`` of the tiles sharing a group with each, in any grouping."""
    tiles = np.arange(len(groupings[0]))
    first = tiles
    for groups in groupings:
        of_group: dict[Hashable, int] = {}
        same = [k if g is None else of_group.setdefault(g, k) for k, g in enumerate(groups)]
        labels = component_labels(len(tiles), np.r_[tiles, tiles], np.r_[first, same])
        first = np.unique(labels, return_index=True)[1][labels]
    return first


def _components(node: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    tiles = len(node)
    return component_labels(tiles, np.r_[i, np.arange(tiles)], np.r_[j, node])
