"""One tile of some pairs: its corrected levels in their patches, and their derivatives."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._kernels.lattice import AREAS as PATCHES

#: Directions of the points of a patch, by its principal steps.
SIGNS = np.array([(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)])


class Lit(NamedTuple):
    """The effect of the instrument of one tile on its levels in the patches of n pairs.

    Parameters
    ----------
    log_flat, by_level, glow, tilt : ndarray
        ``(n, 16)`` ln F, 1 / F, glow, and covariance of ln F with the level within the patch.
    flat_basis, glow_basis, tilt_basis : ndarray
        ``(n, 16, m)`` active terms of ln F and of the glow, and covariances of the first terms of
        ln F with the levels.
    """

    log_flat: np.ndarray
    by_level: np.ndarray
    glow: np.ndarray
    tilt: np.ndarray
    flat_basis: np.ndarray
    glow_basis: np.ndarray
    tilt_basis: np.ndarray

    def derivatives(self, light: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n, 16, S)`` of levels by the shared terms.

        `light` ``(n, 16)`` is the light divided by F, and `gain` ``(n,)`` the gain of the tile.
        """
        flats, glows = self.flat_basis.shape[2], self.glow_basis.shape[2]
        if not flats + glows:
            return self.flat_basis
        by_flat = -light[..., None] * self.flat_basis
        by_level = gain[:, None] * self.by_level
        by_flat[..., : self.tilt_basis.shape[2]] -= by_level[..., None] * self.tilt_basis
        by_bias = (1 - self.by_level)[..., None][..., : int(flats > 0)]
        by_glow = -by_level[..., None] * self.glow_basis
        return np.concatenate([by_flat, by_glow, by_bias], axis=2)


@lru_cache(maxsize=4)
def even_light(pairs: int) -> Lit:
    """Return an even illumination without shared terms."""
    nothing, basis = np.zeros((pairs, PATCHES)), np.zeros((pairs, PATCHES, 0))
    return Lit(nothing, np.ones((pairs, PATCHES)), nothing, nothing, basis, basis, basis)


class PairEnd(NamedTuple):
    """One tile of n pairs: its log-gain ``(n,)`` and its corrected levels ``(n, 16)``.

    `lever` ``(n, 16)``, `surface` ``(K, n, 16)`` and `by_shared` ``(n, 16, S)`` are the derivatives
    of levels by the log-gain, the terms of the surface and the own bias, and the active shared
    terms.
    """

    log_gain: np.ndarray
    value: np.ndarray
    lever: np.ndarray
    surface: np.ndarray
    by_shared: np.ndarray
    lit: Lit

    def shared(self, sign: int, contrast: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n, 17, S)`` by the shared terms, with the sign of the tile.

        The derivatives by ln F are at levels below the tile's own by a `distance` ``(n, 16)``.
        """
        pairs, patches, terms = self.by_shared.shape
        derivatives = np.zeros((pairs, patches + 1, terms))
        if terms:
            basis = self.lit.flat_basis
            flats = basis.shape[2]
            derivatives[:, :-1] = sign * self.by_shared
            derivatives[:, :-1, :flats] += sign * distance[..., None] * basis
            derivatives[:, -1, :flats] = sign * np.einsum("np,npm->nm", contrast, basis)
        return derivatives


def patch_points(place: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Return four points ``(..., 4, 2)`` with the mean and the covariance of patches.

    Up to the third order, means over them equal the means over a uniform rectangle.

    Parameters
    ----------
    place : ndarray
        ``(..., 2)`` means.
    extent : ndarray
        ``(..., 3)`` covariances uu, uv and vv.
    """
    along, across, rest = _root(extent)
    steps = np.stack([along, across], axis=-1)[..., None, :] * SIGNS[:, :1]
    steps[..., 1] += rest[..., None] * SIGNS[:, 1]
    return np.asarray(place[..., None, :] + steps)


def tilted_light(extent: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the levels ``(..., 4)`` at the points of patches, above their means.

    Parameters
    ----------
    extent : ndarray
        ``(..., 3)`` covariances uu, uv and vv.
    covariance : ndarray
        ``(..., 2)`` of the levels with u and v.
    """
    along, across, rest = _root(extent)
    first = covariance[..., 0] / along
    second = (covariance[..., 1] - across * first) / np.where(rest > 0, rest, np.inf)
    return np.asarray(np.stack([first, second], axis=-1) @ SIGNS.T)


def _root(extent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries of the triangular square roots of covariances."""
    uu, uv, vv = np.moveaxis(extent, -1, 0)
    along = np.sqrt(np.maximum(uu, 1e-12))
    across = uv / along
    return along, across, np.sqrt(np.maximum(vv - across**2, 0.0))
