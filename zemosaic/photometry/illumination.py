"""The illumination and the glow shared by all tiles of one instrument.

Both are smooth functions of the position on the detector, in Legendre polynomials of its
coordinates x and y, which run from -1 to 1 between the edges of a tile. The illumination F is the
exponential of such a sum, so it is positive; the glow is a sum itself. Where many tiles overlap, a
cosine series describes the structure of ln F, or of the glow, finer than the polynomials.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial import legendre

from .cosine_series import CosineSeries

DEGREE = 8  # largest sum of the degrees along x and y
SMOOTH = 4  # degree of vignetting
#: ``(M, 2)`` degrees along x and y of each term, without the constant.
TERMS = np.array([(a, n - a) for n in range(1, DEGREE + 1) for a in range(n, -1, -1)])


@dataclass(frozen=True, eq=False)
class FineStructure:
    """Structure of the illumination or the glow that their polynomials leave.

    Parameters
    ----------
    kind : {"log_flat", "glow"}
        Of ln F, or of the glow in ADU.
    series : CosineSeries
        In C channels; 0 in a channel that shows none.
    """

    kind: str
    series: CosineSeries

    def channel(self, index: int) -> FineStructure:
        """Return the structure in a single channel."""
        return FineStructure(self.kind, self.series.channel(index))


@dataclass(frozen=True, eq=False)
class Illumination:
    """Illumination and glow of one instrument in C channels.

    ``gain * (data - glow) + offset`` of a tile is ``F * light + bias`` with F = 1 on average (of
    ln F).

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
        ``(C, M)`` float64 coefficients of the glow in ADU of the tiles before correction.
    log_flat_cov, glow_cov : ndarray
        ``(C, M, M)`` float64 covariances of the coefficients.
    fine : FineStructure or None
        Finer structure of ln F or of the glow; None without any.
    """

    name: str
    tiles: np.ndarray
    shape: tuple[int, int]
    log_flat: np.ndarray
    glow: np.ndarray
    log_flat_cov: np.ndarray
    glow_cov: np.ndarray
    fine: FineStructure | None = None

    def factor(self, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Return F ``(C, rows, columns)`` for a part of a tile; 1 is the mean of ln F."""
        return np.exp(self._log_flat_on_grid(*self._axes(rows, columns)))

    def glow_level(self, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Return the glow ``(C, rows, columns)`` in ADU for a part of a tile."""
        return self._glow_on_grid(*self._axes(rows, columns))

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return F and the glow in ADU, ``(C, ...)``, at detector coordinates x and y ``(...)``."""
        log_flat, glow = (
            _values(part, x, y) + (0.0 if fine is None else fine.at(x, y))
            for part, fine in ((self.log_flat, self._fine_log_flat), (self.glow, self._fine_glow))
        )
        return np.exp(log_flat), glow

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return F and the glow in ADU, ``(C, h, w)``, at detector coordinates of a grid.

        Parameters
        ----------
        x, y : ndarray
            ``(w,)`` and ``(h,)`` coordinates of its columns and rows.
        """
        return np.exp(self._log_flat_on_grid(x, y)), self._glow_on_grid(x, y)

    def errors_on_grid(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard errors of F and of the glow in ADU, as `on_grid`."""
        places = np.meshgrid(x, y)
        basis = detector_basis(*(place.ravel() for place in places))
        log_flat, glow = (
            np.sqrt(np.maximum(np.sum((basis @ cov) * basis, axis=2), 0)).reshape(
                -1, *places[0].shape
            )
            for cov in (self.log_flat_cov, self.glow_cov)
        )
        if self._fine_log_flat is not None:
            log_flat = np.hypot(log_flat, self._fine_log_flat.errors_on_grid(x, y))
        if self._fine_glow is not None:
            glow = np.hypot(glow, self._fine_glow.errors_on_grid(x, y))
        return self.on_grid(x, y)[0] * log_flat, glow

    @property
    def digest(self) -> str:
        """16 digits of the SHA-256 of its coefficients."""
        parts = [self.log_flat, self.glow]
        parts += [self.fine.series.coefficients] if self.fine is not None else []
        numbers = np.concatenate([part.ravel() for part in parts]).astype("<f8").tobytes()
        return hashlib.sha256(numbers).hexdigest()[:16]

    @property
    def differs_by_channel(self) -> bool:
        """Whether F of any channel differs from that of another."""
        fine = self._fine_log_flat
        parts = [self.log_flat] if fine is None else [self.log_flat, fine.coefficients]
        return any(np.ptp(part, axis=0).any() for part in parts)

    @property
    def has_glow(self) -> bool:
        """Whether there is a glow in any channel."""
        return bool(self.glow.any() or self._fine_glow is not None)

    def smooth(self, kind: str) -> Illumination:
        """Return the illumination with "log_flat" or "glow" up to degree `SMOOTH` alone."""
        low = TERMS.sum(axis=1) <= SMOOTH
        if kind == "glow":
            return replace(self, glow=np.where(low, self.glow, 0.0))
        return replace(self, log_flat=np.where(low, self.log_flat, 0.0))

    def corner_loss(self, channel: int) -> tuple[float, float]:
        """Return the fraction of light missing in the corners, and its standard error.

        It is 1 - F of the corners, in their geometric mean, divided by F of the centre, so a
        linear trend of ln F does not count. It is negative if the corners have more light.
        """
        ends = np.array([-1.0, 1.0, -1.0, 1.0]), np.array([-1.0, -1.0, 1.0, 1.0])
        zero = np.zeros(1)
        change = detector_basis(*ends).mean(axis=0) - detector_basis(zero, zero)[0]
        ratio = np.exp(change @ self.log_flat[channel])
        variance = change @ self.log_flat_cov[channel] @ change
        return float(1 - ratio), float(ratio * np.sqrt(max(variance, 0.0)))

    def glow_range(self, channel: int) -> tuple[float, float]:
        """Return the difference of the brightest and the faintest glow in ADU, and its error."""
        steps = np.linspace(-1, 1, 4 * DEGREE + 1)
        basis = detector_basis(*(axis.ravel() for axis in np.meshgrid(steps, steps)))
        glow = self._glow_on_grid(steps, steps)[channel].ravel()
        ends = [glow.argmax(), glow.argmin()]
        change = basis[ends[0]] - basis[ends[1]]
        variance = max(change @ self.glow_cov[channel] @ change, 0.0)
        if self._fine_glow is not None:
            errors = self._fine_glow.errors_on_grid(steps, steps)[channel].ravel()
            variance += np.square(errors[ends]).sum()
        return float(np.ptp(glow)), float(np.sqrt(variance))

    def _axes(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.shape
        x = detector_coordinate(np.arange(width)[columns], width)
        return x, detector_coordinate(np.arange(height)[rows], height)

    @property
    def _fine_log_flat(self) -> CosineSeries | None:
        return self.fine.series if self.fine is not None and self.fine.kind == "log_flat" else None

    @property
    def _fine_glow(self) -> CosineSeries | None:
        return self.fine.series if self.fine is not None and self.fine.kind == "glow" else None

    def _log_flat_on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _on_grid(self.log_flat, self._fine_log_flat, x, y)

    def _glow_on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _on_grid(self.glow, self._fine_glow, x, y)


def _on_grid(
    coefficients: np.ndarray, fine: CosineSeries | None, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return sums ``(C, h, w)`` of the terms, and of a series, at x ``(w,)`` and y ``(h,)``."""
    along_y, along_x = (legendre.legvander(axis, DEGREE) for axis in (y, x))
    sums = np.asarray(along_y @ _matrix(coefficients) @ along_x.T)
    return sums if fine is None else sums + fine.on_grid(x, y)


def _values(coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return sums ``(C, ...)`` of the terms, up to the highest degree with a coefficient."""
    degree = TERMS.sum(axis=1)[coefficients.any(axis=0)].max(initial=0)
    used = _matrix(coefficients)[:, : degree + 1, : degree + 1]
    return np.asarray(legendre.legval2d(x, y, used.transpose(2, 1, 0)))


def _matrix(coefficients: np.ndarray) -> np.ndarray:
    """Arrange coefficients ``(C, M)`` by their degrees along y and x."""
    matrix = np.zeros((len(coefficients), DEGREE + 1, DEGREE + 1))
    matrix[:, TERMS[:, 1], TERMS[:, 0]] = coefficients
    return matrix


def detector_coordinate(pixel: np.ndarray, length: int) -> np.ndarray:
    """Convert pixel indices along an axis of some length to the range from -1 to 1."""
    return (pixel - (length - 1) / 2) / (length / 2)


def detector_basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the terms ``(N, M)`` at detector coordinates x and y ``(N,)``."""
    along_x, along_y = (legendre.legvander(axis, DEGREE).T for axis in (x, y))
    basis = np.empty((len(TERMS), len(x)))
    for term, (power_x, power_y) in zip(basis, TERMS.tolist(), strict=True):
        np.multiply(along_x[power_x], along_y[power_y], out=term)
    return basis.T


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

    def of_many(self, tiles: np.ndarray, fewest: int) -> Instruments:
        """Take the tiles off instruments with fewer than `fewest` of some tiles."""
        labels = self.labels[tiles]
        count = np.bincount(labels[labels >= 0], minlength=len(self.names))
        few = np.append(count < fewest, True)[self.labels]
        return Instruments(np.where(few, -1, self.labels), self.names)

    @classmethod
    def none(cls, tiles: int) -> Instruments:
        """Return tiles that share nothing."""
        return cls(np.full(tiles, -1), ())
