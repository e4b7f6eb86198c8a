"""One tile of some pairs: its corrected levels in their patches, and their derivatives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PairEnd(NamedTuple):
    """One tile of n pairs: its corrected levels ``(n, 16)``, and their derivatives.

    `surface` ``(K, n, 16)`` are those by its terms; `by_log_flat`, `by_glow`, `by_bias` and
    `flat_basis` ``(n, 16, m)`` are those of the active shared terms.
    """

    log_gain: np.ndarray
    value: np.ndarray
    lever: np.ndarray
    by_level: np.ndarray
    surface: np.ndarray
    log_flat: np.ndarray
    by_log_flat: np.ndarray
    by_glow: np.ndarray
    by_bias: np.ndarray
    flat_basis: np.ndarray

    def shared(self, sign: int, contrast: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n, 17, S)`` by the shared terms."""
        levels = np.concatenate([self.by_log_flat, self.by_glow, self.by_bias], axis=2)
        if not levels.shape[2]:
            return np.zeros((len(levels), 1 + levels.shape[1], 0))
        gains = np.zeros((len(levels), 1, levels.shape[2]))
        gains[:, 0, : self.flat_basis.shape[2]] = np.einsum("np,npm->nm", contrast, self.flat_basis)
        return sign * np.concatenate([levels, gains], axis=1)


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
