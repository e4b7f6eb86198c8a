"""Means of the smooth terms over the patches of pairs, which are the same in each round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..illumination import TERMS, detector_basis
from .channel import Channel
from .pair_ends import patch_points
from .surfaces import half_tile, surface_basis

KEPT_BYTES = 1 << 28  # of the means


class PatchBases:
    """Terms of surfaces and of instruments in the patches.

    Parameters
    ----------
    channel : Channel
        Its pairs and tiles.

    Attributes
    ----------
    half_tile : float
        Unit of the places in the surfaces, in cells.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel, pairs = channel, channel.pairs
        self._kept: dict[tuple[str, int, bool], tuple[np.ndarray, np.ndarray]] = {}
        self.half_tile = 1.0
        if channel.frame is not None:
            used = np.unique(np.r_[pairs.i, pairs.j])
            self.half_tile = half_tile(channel.frame, used) if len(used) else 1.0

    def surface(self, chosen: np.ndarray, of_pairs: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return some terms of surfaces ``(K, n, 16)``.

        `chosen` ``(n,)`` are the pairs, and `of_pairs` ``(P,)`` the tile of every pair.
        """
        return self._mean(self._surface_basis, chosen, of_pairs, terms)

    def detector(self, chosen: np.ndarray, of_pairs: np.ndarray) -> np.ndarray:
        """Return all shared terms ``(n, 16, M)`` likewise."""
        every = np.ones(len(TERMS), dtype=bool)
        return self._mean(self._detector_basis, chosen, of_pairs, every)

    def _mean(
        self,
        compute: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        chosen: np.ndarray,
        of_pairs: np.ndarray,
        terms: np.ndarray,
    ) -> np.ndarray:
        """Return means of some terms over the patches, kept from round to round."""
        key = compute.__name__, int(chosen[0]), of_pairs is self.channel.pairs.i
        kept = self._kept.get(key)
        if kept is not None and np.array_equal(kept[0], terms):
            return kept[1]
        pairs = self.channel.pairs
        place = patch_points(pairs.place[chosen], pairs.extent[chosen])
        basis = compute(of_pairs[chosen], place, terms)
        self._kept.pop(key, None)
        if sum(basis.nbytes for _, basis in self._kept.values()) + basis.nbytes <= KEPT_BYTES:
            self._kept[key] = terms, basis
        return basis

    def _surface_basis(self, tile: np.ndarray, place: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return means of some terms of surfaces ``(K, n, 16)`` over places in cells."""
        node = self.channel.ties.level[tile]
        basis = surface_basis(self._offsets(node, place) / self.half_tile, terms).mean(axis=2)
        return np.ascontiguousarray(np.moveaxis(basis, 2, 0))

    def _offsets(self, tile: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return places ``(n, 16, 4, 2)`` from the centres of tiles ``(n,)`` in cells."""
        assert self.channel.frame is not None
        return place - self.channel.frame.centre[tile][:, None, None]

    def _detector_basis(self, tile: np.ndarray, place: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return means of some shared terms ``(n, 16, M)`` over places in cells."""
        frame = self.channel.frame
        assert frame is not None
        to_pixels = np.linalg.inv(frame.jacobian[tile])
        pixels = np.einsum("nab,npqb->npqa", to_pixels, self._offsets(tile, place))
        x, y = np.moveaxis(pixels / (frame.shape[tile][:, None, None, ::-1] / 2), 3, 0)
        basis = detector_basis(x.ravel(), y.ravel()).reshape(*x.shape, -1)
        return np.asarray(basis[..., terms].mean(axis=2))
