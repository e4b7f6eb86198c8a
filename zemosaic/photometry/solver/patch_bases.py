"""The smooth terms in the patches of pairs, which are the same in each round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..illumination import TERMS, detector_basis
from .channel import Channel
from .pair_ends import patch_points, tilted_light
from .surfaces import half_tile, surface_basis

KEPT_BYTES = 3 << 27  # of the terms in the patches
EVERY = np.ones(len(TERMS), dtype=bool)
#: Terms whose changes within a patch count.
SMOOTH = TERMS.sum(axis=1) <= 4


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
            self.half_tile = half_tile(channel.frame, pairs.tiles) if len(pairs.tiles) else 1.0

    def surface(self, chosen: np.ndarray, of_pairs: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return means of some terms of surfaces ``(K, n, 16)``.

        `chosen` ``(n,)`` are the pairs, and `of_pairs` ``(P,)`` the tile of every pair.
        """
        return self._kept_from(self._surface, chosen, of_pairs, terms)

    def detector(self, chosen: np.ndarray, of_pairs: np.ndarray) -> np.ndarray:
        """Return means of all shared terms ``(n, 16, M)`` likewise."""
        return self._kept_from(self._detector, chosen, of_pairs, EVERY)

    def tilt(self, chosen: np.ndarray, of_pairs: np.ndarray) -> np.ndarray:
        """Return covariances of the smooth shared terms with the levels ``(n, 16, m)`` likewise."""
        return self._kept_from(self._tilt, chosen, of_pairs, SMOOTH)

    def _kept_from(
        self,
        compute: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        chosen: np.ndarray,
        of_pairs: np.ndarray,
        terms: np.ndarray,
    ) -> np.ndarray:
        """Return some terms in the patches, kept from round to round."""
        key = compute.__name__, int(chosen[0]), of_pairs is self.channel.pairs.i
        kept = self._kept.get(key)
        if kept is not None and np.array_equal(kept[0], terms):
            return kept[1]
        basis = compute(chosen, of_pairs, terms)
        self._kept.pop(key, None)
        if sum(basis.nbytes for _, basis in self._kept.values()) + basis.nbytes <= KEPT_BYTES:
            self._kept[key] = terms, basis
        return basis

    def _surface(self, chosen: np.ndarray, of_pairs: np.ndarray, terms: np.ndarray) -> np.ndarray:
        offsets = self._offsets(self.channel.ties.level[of_pairs[chosen]], chosen)
        basis = surface_basis(offsets / self.half_tile, terms).mean(axis=2)
        return np.ascontiguousarray(np.moveaxis(basis, 2, 0))

    def _detector(self, chosen: np.ndarray, of_pairs: np.ndarray, terms: np.ndarray) -> np.ndarray:
        return np.asarray(self._detector_terms(chosen, of_pairs)[..., terms].mean(axis=2))

    def _tilt(self, chosen: np.ndarray, of_pairs: np.ndarray, terms: np.ndarray) -> np.ndarray:
        pairs = self.channel.pairs
        light = tilted_light(pairs.extents(chosen), pairs.tilts(chosen))
        if of_pairs is not pairs.i:
            light *= pairs.slope[chosen, None, None]
        basis = self._detector_terms(chosen, of_pairs)[..., terms]
        return np.asarray(np.einsum("npq,npqm->npm", light / light.shape[2], basis))

    def _detector_terms(self, chosen: np.ndarray, of_pairs: np.ndarray) -> np.ndarray:
        """Return all shared terms ``(n, 16, 4, M)`` at the points of the patches."""
        frame, tile = self.channel.frame, of_pairs[chosen]
        assert frame is not None
        to_pixels = np.linalg.inv(frame.jacobian[tile])
        pixels = np.einsum("nab,npqb->npqa", to_pixels, self._offsets(tile, chosen))
        x, y = np.moveaxis(pixels / (frame.shape[tile][:, None, None, ::-1] / 2), 3, 0)
        return detector_basis(x.ravel(), y.ravel()).reshape(*x.shape, -1)

    def _offsets(self, tile: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return points of the patches ``(n, 16, 4, 2)`` from the centres of tiles ``(n,)``."""
        frame, pairs = self.channel.frame, self.channel.pairs
        assert frame is not None
        points = patch_points(pairs.places(chosen), pairs.extents(chosen))
        return points - frame.centre[tile][:, None, None]
