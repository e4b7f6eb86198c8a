"""One tile of some pairs: its corrected levels in their patches, and their derivatives."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._kernels.lattice import AREAS as PATCHES


class Lit(NamedTuple):
    """What the instrument of one tile does to its levels in the patches of n pairs.

    Parameters
    ----------
    log_flat, by_level, glow : ndarray
        ``(n, 16)`` ln F, 1 / F and glow.
    bias : float
        Level that is no light.
    flat_basis, glow_basis : ndarray
        ``(n, 16, m)`` active terms of ln F and of the glow.
    """

    log_flat: np.ndarray
    by_level: np.ndarray
    glow: np.ndarray
    bias: float
    flat_basis: np.ndarray
    glow_basis: np.ndarray

    def derivatives(self, light: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n, 16, S)`` of levels by the shared terms.

        `light` ``(n, 16)`` is what F acts on, divided by it, and `gain` ``(n,)`` that of the tile.
        """
        flats, glows = self.flat_basis.shape[2], self.glow_basis.shape[2]
        if not flats + glows:
            return self.flat_basis
        by_bias = (1 - self.by_level)[..., None][..., : int(flats > 0)]
        by_glow = -(gain[:, None] * self.by_level)[..., None] * self.glow_basis
        return np.concatenate([-light[..., None] * self.flat_basis, by_glow, by_bias], axis=2)


@lru_cache(maxsize=4)
def even_light(pairs: int) -> Lit:
    """Return an even illumination without shared terms."""
    nothing, basis = np.zeros((pairs, PATCHES)), np.zeros((pairs, PATCHES, 0))
    return Lit(nothing, np.ones((pairs, PATCHES)), nothing, 0.0, basis, basis)


class PairEnd(NamedTuple):
    """One tile of n pairs: its log-gain ``(n,)`` and its corrected levels ``(n, 16)``.

    `lever` ``(n, 16)``, `surface` ``(K, n, 16)`` and `by_shared` ``(n, 16, S)`` are the derivatives
    of levels by the log-gain, the terms of the surface, and the active shared terms.
    """

    log_gain: np.ndarray
    value: np.ndarray
    lever: np.ndarray
    surface: np.ndarray
    by_shared: np.ndarray
    lit: Lit

    def shared(self, sign: int, contrast: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n, 17, S)`` by the shared terms."""
        pairs, patches, terms = self.by_shared.shape
        derivatives = np.zeros((pairs, patches + 1, terms))
        if terms:
            basis = self.lit.flat_basis
            derivatives[:, :-1] = sign * self.by_shared
            derivatives[:, -1, : basis.shape[2]] = sign * np.einsum("np,npm->nm", contrast, basis)
        return derivatives


def patch_points(place: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Return four points ``(..., 4, 2)`` with the mean and the covariance of patches.

    Means over them are those over a uniform rectangle up to the third order.

    Parameters
    ----------
    place : ndarray
        ``(..., 2)`` means.
    extent : ndarray
        ``(..., 3)`` covariances uu, uv and vv.
    """
    uu, uv, vv = np.moveaxis(extent, -1, 0)
    along = np.sqrt(np.maximum(uu, 1e-12))
    across = uv / along
    rest = np.sqrt(np.maximum(vv - across**2, 0.0))
    signs = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    steps = np.stack([along, across], axis=-1)[..., None, :] * signs[:, :1]
    steps[..., 1] += rest[..., None] * signs[:, 1]
    return np.asarray(place[..., None, :] + steps)
