"""Cosine series of the position on the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CosineSeries:
    """One function of the position on the detector for each of C channels.

    Term (k, l) is ``cos(π k (y + 1) / 2) cos(π l (x + 1) / 2)``, with x and y from -1 to 1 between
    the edges of a tile.

    Parameters
    ----------
    coefficients : ndarray
        ``(C, K, L)`` float64.
    errors : ndarray
        ``(C, h, w)`` float64: standard errors in the middles of ``h x w`` equal parts of a tile.
        They are large where tiles do not overlap, as in their middle, and leave out what is finer
        than the series.
    """

    coefficients: np.ndarray
    errors: np.ndarray

    def channel(self, index: int) -> CosineSeries:
        """Return the function of a single channel."""
        only = slice(index, index + 1)
        return CosineSeries(self.coefficients[only], self.errors[only])

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the functions ``(C, h, w)`` at x ``(w,)`` and y ``(h,)``."""
        along_y, along_x = self._along(x, y)
        return np.asarray(along_y @ self.coefficients @ along_x.T)

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the functions ``(C, ...)`` at places x and y ``(...)``."""
        along_y, along_x = self._along(np.ravel(x), np.ravel(y))
        values = np.einsum("ckn,nk->cn", self.coefficients @ along_x.T, along_y)
        return values.reshape(-1, *np.shape(x))

    def errors_on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the standard errors ``(C, h, w)`` of the functions, as `on_grid`."""
        down, right = (
            _interpolation(place, parts)
            for place, parts in zip((y, x), self.errors.shape[1:], strict=True)
        )
        return np.asarray(down @ self.errors @ right.T)

    @property
    def rms(self) -> np.ndarray:
        """Root mean square ``(C,)`` of the functions over the detector."""
        mean_squares = [np.where(np.arange(n) > 0, 0.5, 1.0) for n in self.coefficients.shape[1:]]
        return np.sqrt(np.einsum("ckl,k,l->c", self.coefficients**2, *mean_squares))

    def _along(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = self.coefficients.shape[1:]
        return cosines(y, rows), cosines(x, columns)


def cosines(place: np.ndarray, count: int) -> np.ndarray:
    """Return the first cosines ``(N, count)`` at places ``(N,)`` from -1 to 1 along an axis."""
    return np.cos(np.pi / 2 * np.arange(count) * (np.asarray(place)[:, None] + 1))


def _interpolation(place: np.ndarray, parts: int) -> np.ndarray:
    """Return the weights ``(N, parts)`` of the middles of equal parts of an axis at some places."""
    middles = (2 * np.arange(parts) + 1) / parts - 1
    return np.stack([np.interp(place, middles, unit) for unit in np.eye(parts)], axis=1)
