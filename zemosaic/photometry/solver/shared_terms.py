"""The terms that the tiles of an instrument share, with their covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..illumination import TERMS, Illumination, Instruments
from .bordered import Bordered
from .columns import Columns
from .pair_rows import State


@dataclass(frozen=True, eq=False)
class SharedTerms:
    """Shared terms of Q instruments in one channel.

    Parameters
    ----------
    log_flat, glow : ndarray
        ``(Q, M)`` coefficients of ln F and of the glow; 0 without one.
    log_flat_cov, glow_cov : ndarray
        ``(Q, M, M)`` their covariances.
    """

    log_flat: np.ndarray
    glow: np.ndarray
    log_flat_cov: np.ndarray
    glow_cov: np.ndarray

    @classmethod
    def of(cls, state: State, columns: Columns, normal: Bordered) -> SharedTerms:
        """Collect the terms of a solution."""
        number, width, active = columns.instruments, columns.shared_terms, columns.active
        covariance = np.zeros((2, number, len(TERMS), len(TERMS)))
        flats = int(np.count_nonzero(active.log_flat))
        kinds = ((active.log_flat, 0), (active.glow, flats))
        for k in range(number):
            for kind, (terms, start) in enumerate(kinds):
                place = k * width + start + np.arange(np.count_nonzero(terms))
                covariance[kind, k][np.ix_(terms, terms)] = normal.shared_inverse[
                    np.ix_(place, place)
                ]
        return cls(state.log_flat, state.glow, covariance[0], covariance[1])

    def in_adu(self, unit: float) -> SharedTerms:
        """Convert terms in units of `unit` ADU."""
        return replace(self, glow=unit * self.glow, glow_cov=unit**2 * self.glow_cov)


def illuminations(
    channels: Sequence[SharedTerms], instruments: Instruments, shapes: np.ndarray
) -> tuple[Illumination, ...]:
    """Return the illumination of each instrument that has one in any channel.

    `shapes` ``(T, 2)`` are the heights and widths of the tiles in pixels.
    """
    found = []
    for number, name in enumerate(instruments.names):
        log_flat, glow, log_flat_cov, glow_cov = (
            np.stack([getattr(channel, key)[number] for channel in channels])
            for key in ("log_flat", "glow", "log_flat_cov", "glow_cov")
        )
        tiles = np.flatnonzero(instruments.labels == number)
        if len(tiles) and (log_flat.any() or glow.any()):
            height, width = shapes[tiles[0]].tolist()
            terms = log_flat, glow, log_flat_cov, glow_cov
            found.append(Illumination(name, tiles, (height, width), *terms))
    return tuple(found)
