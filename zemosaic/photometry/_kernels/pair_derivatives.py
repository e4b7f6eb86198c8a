"""Derivatives of the equations of pairs by the terms of their tiles.

In shapes, n are the pairs and K the terms of a surface. The rows of a pair are the levels of its 16
patches and its gain; its columns are log-gain, level and surface of tile i, then of tile j.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TileTerms(NamedTuple):
    """Terms of all tiles.

    Parameters
    ----------
    gain, reference, offset, bias : ndarray
        ``(T,)``; the offset is the corrected level at the reference level, and the bias the part of
        it that is no light.
    coefficients : ndarray
        ``(T, K)`` of the surfaces.
    """

    gain: np.ndarray
    reference: np.ndarray
    offset: np.ndarray
    bias: np.ndarray
    coefficients: np.ndarray


class Derivatives(NamedTuple):
    """Derivatives of the corrected levels of the first and the second tile of each pair.

    Parameters
    ----------
    first_lever, second_lever : ndarray
        ``(n, 16)`` by the log-gain.
    first_by_level, second_by_level : ndarray
        ``(n, 16)`` by the level.
    first_surface, second_surface : ndarray
        ``(K, n, 16)`` by the terms of the surface.
    """

    first_lever: np.ndarray
    second_lever: np.ndarray
    first_by_level: np.ndarray
    second_by_level: np.ndarray
    first_surface: np.ndarray
    second_surface: np.ndarray

    def matrix(self) -> np.ndarray:
        """Return the derivatives ``(n, 17, 2 (2 + K))`` of both tiles' differences.

        Derivatives by one term are neighbours in memory, as products over the rows need them.
        """
        terms, pairs, patches = self.first_surface.shape
        matrix = np.zeros((pairs, 2, 2 + terms, patches + 1))
        for tile, sign in enumerate((-1, 1)):
            levels = matrix[:, tile, :, :-1]
            levels[:, 0], levels[:, 1] = sign * self[tile], sign * self[2 + tile]
            levels[:, 2:] = sign * self[4 + tile].swapaxes(0, 1)
            matrix[:, tile, 0, -1] = -sign
        return matrix.reshape(pairs, -1, patches + 1).swapaxes(1, 2)
