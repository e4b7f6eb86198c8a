"""The illumination and the glow that all tiles of one instrument share.

Both are smooth functions of the position on the detector, in Legendre polynomials of its
coordinates x and y, which run from -1 to 1 between the edges of a tile. The illumination F is the
exponential of such a sum, so it is positive; the glow is a sum itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

DEGREE = 8  # largest sum of the degrees along x and y
#: ``(M, 2)`` degrees along x and y of each term, without the constant.
TERMS = np.array([(a, n - a) for n in range(1, DEGREE + 1) for a in range(n, -1, -1)])


@dataclass(frozen=True, eq=False)
class Illumination:
    """Illumination and glow of one instrument in C channels.

    ``gain * data + offset`` is ``F * light + glow + bias`` with F = 1 on average (of ln F).

    Parameters
    ----------
    name : str
        The instrument, as in the headers; empty if there is only one.
    tiles : ndarray
        ``(n,)`` int indices of its tiles.
    shape : tuple of int
        Height and width of its tiles in pixels.
    log_flat : ndarray
        ``(C, M)`` float64 coefficients of ln F, in the order of `TERMS`.
    glow : ndarray
        ``(C, M)`` float64 coefficients of the glow in ADU.
    log_flat_cov, glow_cov : ndarray
        ``(C, M, M)`` float64 covariances of the coefficients.
    bias : ndarray
        ``(C,)`` float64 level in ADU that is no light, and that F does not act on.
    """

    name: str
    tiles: np.ndarray
    shape: tuple[int, int]
    log_flat: np.ndarray
    glow: np.ndarray
    log_flat_cov: np.ndarray
    glow_cov: np.ndarray
    bias: np.ndarray

    def factor(self, rows: slice | None = None) -> np.ndarray:
        """Return F ``(C, rows, W)`` for some rows of a tile, or all; 1 is the mean of ln F."""
        return np.exp(self._surface(self.log_flat, rows))

    def glow_level(self, rows: slice | None = None) -> np.ndarray:
        """Return the glow ``(C, rows, W)`` in ADU for some rows of a tile, or all."""
        return self._surface(self.glow, rows)

    def _surface(self, coefficients: np.ndarray, rows: slice | None) -> np.ndarray:
        height, width = self.shape
        y = detector_coordinate(np.arange(height)[rows or slice(None)], height)
        x = detector_coordinate(np.arange(width), width)
        matrix = np.zeros((len(coefficients), DEGREE + 1, DEGREE + 1))
        matrix[:, TERMS[:, 1], TERMS[:, 0]] = coefficients
        along_y, along_x = (legendre.legvander(axis, DEGREE) for axis in (y, x))
        return along_y @ matrix @ along_x.T


def detector_coordinate(pixel: np.ndarray, length: int) -> np.ndarray:
    """Convert pixel indices along an axis of some length to the range from -1 to 1."""
    return (pixel - (length - 1) / 2) / (length / 2)


def detector_basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the terms ``(N, M)`` at detector coordinates x and y ``(N,)``."""
    along_x, along_y = (legendre.legvander(axis, DEGREE) for axis in (x, y))
    return along_x[:, TERMS[:, 0]] * along_y[:, TERMS[:, 1]]


@dataclass(frozen=True, eq=False)
class Instruments:
    """The instruments of T tiles.

    Parameters
    ----------
    labels : ndarray
        ``(T,)`` int number of each tile's instrument; -1 for a tile without one.
    names : tuple of str
        Name of each instrument.
    """

    labels: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def none(cls, tiles: int) -> Instruments:
        """Return tiles that share nothing."""
        return cls(np.full(tiles, -1), ())
