"""The fit of a cosine series to the differences of corrected tiles.

In an overlap the corrected tiles differ by ``light * (ln F(place in i) - ln F(place in j))``, and
by a plane, due to the tiles' own terms or to low orders of F. The variance of the terms in each
octave of wave numbers comes from the data (MacKay 1992, Neural Computation 4, 415). An octave
counts only if the tiles agree in it: if the square of the sum of all contributions is far larger
than the sum of the squares of those of each tile, which noise and the structure of single tiles
have as well. Structure that a glow describes better, which adds the same to the data of all tiles
whatever their gains, is none of F.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from ..cosine_series import CosineSeries
from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN
from .differences import Differences
from .lattice import Lattice

CLEAR = 5.0  # standard errors, under the hypothesis of noise, of an octave with structure
LEAST_AGREEMENT = 2.0  # of the tiles in it; that of noise is at most 1
WEIGHTING_ROUNDS = 3  # of the robust weights
SCALING_ROUNDS = 3  # of the planes and the scatter in each of these
VARIANCE_ROUNDS, SETTLED = 30, 0.02  # of the variances of the octaves, and their last change
FIRST_VARIANCE, LEAST_VARIANCE = 1e-2**2, 1e-7**2  # of ln F
LEAST_SCATTER = 1e-9  # of the light
#: Ratio of what a glow and F explain, up to which the gains are too alike to tell them apart.
ALIKE = 1.005
SINGULAR, TINY = 1e-12, 1e-300  # added to normal matrices that may be singular


@dataclass(frozen=True, eq=False)
class _Rows:
    """The N equations of one channel for the M terms, by the nodes of a lattice.

    Parameters
    ----------
    given : Differences
        Blocks of the overlaps.
    value, variance : ndarray
        ``(N,)`` differences in ADU, and their variances but for a factor.
    plane : ndarray
        ``(N, 3)`` terms of a plane in each overlap.
    design : csr_array
        ``(N, nodes)`` derivatives of the differences by ln F at the nodes.
    terms : ndarray
        ``(nodes, M)`` the terms at the nodes.
    """

    given: Differences
    value: np.ndarray
    variance: np.ndarray
    plane: np.ndarray
    design: csr_array
    terms: np.ndarray

    @classmethod
    def of(cls, given: Differences, lattice: Lattice, channel: int) -> _Rows:
        light = given.light[channel]
        plane = np.column_stack([np.ones(given.count), given.places[0].T])
        plane[:, 1:] -= given.sums(plane[:, 1:])[given.pair] / given.blocks[given.pair, None]
        variance = np.maximum(given.variance[channel], (LEAST_SCATTER * light) ** 2)
        design = _design(given, lattice, np.stack([light, light]))
        return cls(given, given.values[channel], variance, plane, design, lattice.terms)

    def of_glow(self, lattice: Lattice, channel: int) -> _Rows:
        """Return the equations for a glow in ADU instead of ln F."""
        return replace(self, design=_design(self.given, lattice, self.given.scale[:, channel]))

    def weights(self, residual: np.ndarray) -> np.ndarray:
        """Return inverse variances ``(N,)`` by the scatter of each overlap about a plane."""
        weight = 1 / self.variance
        for _ in range(SCALING_ROUNDS):
            chi = np.abs(self.without_planes(residual, weight)) / np.sqrt(self.variance)
            scatter = np.array([np.median(part) for part in np.split(chi, self.given.start[1:])])
            scatter = np.maximum(scatter / GAUSSIAN_MEDIAN, np.finfo(float).tiny)[self.given.pair]
            tukey = np.clip(1 - (chi / scatter / BIWEIGHT) ** 2, 0, None) ** 2
            weight = tukey / (self.variance * scatter**2)
        return weight

    def planes(self, weight: np.ndarray) -> np.ndarray:
        """Return orthonormal planes ``(N, 3)`` in each overlap."""
        squares = self.plane[:, :, None] * self.plane[:, None]
        gram = self.given.sums(weight[:, None, None] * squares)
        gram += np.eye(3) * (SINGULAR * np.trace(gram, axis1=1, axis2=2)[:, None, None] + TINY)
        whitening = np.linalg.inv(np.linalg.cholesky(gram))
        return np.einsum("nab,nb->na", whitening[self.given.pair], self.plane)

    def without_planes(self, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return values ``(N,)`` minus the plane that fits them best in each overlap."""
        plane = self.planes(weight)
        amount = self.given.sums(weight[:, None] * plane * values[:, None])
        return values - (plane * amount[self.given.pair]).sum(axis=1)

    def by_pair(self, weighted: np.ndarray) -> np.ndarray:
        """Return the products ``(P, M)`` of the equations with values ``(N,)``, by overlap."""
        count, ends = self.given.count, np.append(self.given.start, self.given.count)
        chosen = csr_array((weighted, np.arange(count), ends), shape=(len(ends) - 1, count))
        return np.asarray((chosen @ self.design) @ self.terms)

    def normal(self, weight: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return the normal matrix ``(n, n)`` of some terms ``(n,)``, planes eliminated."""
        weighted, terms = csr_array(self.design.multiply(weight[:, None])), self.terms[:, chosen]
        normal = terms.T @ (self.design.T @ weighted).toarray() @ terms
        for axis in self.planes(weight).T:
            absorbed = self.by_pair(weight * axis)[:, chosen]
            normal -= absorbed.T @ absorbed
        return np.asarray(normal)

    def right(self, weight: np.ndarray) -> np.ndarray:
        """Return the right-hand side ``(M,)``, the planes of the overlaps eliminated."""
        return self.by_pair(weight * self.without_planes(self.value, weight)).sum(axis=0)

    def explained(self, weight: np.ndarray, chosen: np.ndarray) -> float:
        """Return by how much some terms ``(n,)`` reduce the weighted squares."""
        normal, right = self.normal(weight, chosen), self.right(weight)[chosen]
        least = SINGULAR * normal.diagonal().max() * np.eye(len(chosen))
        return float(right @ np.linalg.solve(normal + least, right))

    def of_tiles(self, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the part ``(T, M)`` of the overlaps of each tile in the right-hand side."""
        return self.given.by_tile(self.by_pair(weight * self.without_planes(residual, weight)))


def shows_fine_flat(given: Differences, lattice: Lattice) -> bool:
    """Whether tiles agree in a structure of ln F in any channel.

    Parameters
    ----------
    given : Differences
        Differences of corrected tiles.
    lattice : Lattice
        Its terms describe the structure.
    """
    return any(
        len(_structure(_Rows.of(given, lattice, k), lattice, k)[1]) for k in range(given.channels)
    )


def fit_fine_flat(given: Differences, lattice: Lattice) -> CosineSeries | None:
    """Fit the structure of ln F to the differences of corrected tiles.

    Parameters
    ----------
    given : Differences
        Differences of tiles corrected without it.
    lattice : Lattice
        Its terms are those of the series.

    Returns
    -------
    CosineSeries or None
        0 in a channel that shows no structure; None if none does.
    """
    fits = [_fit(given, lattice, channel) for channel in range(given.channels)]
    values, errors = (np.stack(parts) for parts in zip(*fits, strict=True))
    if not values.any():
        return None
    nodes = given.channels, lattice.rows, lattice.columns
    return CosineSeries(lattice.arranged(values), errors.reshape(nodes))


def _design(given: Differences, lattice: Lattice, factors: np.ndarray) -> csr_array:
    """Return the derivatives ``(N, nodes)`` of differences by both tiles' `factors` ``(2, N)``."""
    one, other = (
        lattice.interpolation(*places).multiply(factor[:, None])
        for places, factor in zip(given.places, factors, strict=True)
    )
    return csr_array(one - other)


def _structure(rows: _Rows, lattice: Lattice, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights ``(N,)`` of the blocks, and the terms ``(n,)`` in which tiles agree."""
    weight = rows.weights(rows.value)
    clear = np.flatnonzero(_agree(rows.of_tiles(rows.value, weight), lattice.octave))
    if len(clear):
        of_glow = rows.of_glow(lattice, channel).explained(weight, clear)
        if of_glow > ALIKE * rows.explained(weight, clear):
            clear = clear[:0]
    return weight, clear


def _fit(given: Differences, lattice: Lattice, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the terms ``(M,)`` of one channel, and the errors ``(nodes,)`` of their sum."""
    rows = _Rows.of(given, lattice, channel)
    weight, clear = _structure(rows, lattice, channel)
    values, errors, octave = (
        np.zeros(len(lattice.octave)), np.zeros(len(lattice.terms)), lattice.octave[clear],
    )  # fmt: skip
    if not len(clear):
        return values, errors
    size, noise, terms = np.full(len(np.unique(octave)), FIRST_VARIANCE), 1.0, rows.terms[:, clear]
    for number in range(WEIGHTING_ROUNDS):
        residual = rows.value - rows.design @ (terms @ values[clear])
        weight = rows.weights(residual) if number else weight
        normal = rows.normal(weight, clear)
        if number:  # before, structure is in the residuals
            noise = _noise(rows.of_tiles(residual, weight)[:, clear], normal.diagonal(), octave)
        right = rows.right(weight)[clear]
        values[clear], covariance, size = _shrunk(normal / noise, right / noise, octave, size)
    return values, np.sqrt(np.sum((terms @ covariance) * terms, axis=1))


def _agree(of_tiles: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Return which terms ``(M,)`` belong to octaves in which the tiles agree.

    `of_tiles` ``(T, M)`` are the contributions of the overlaps of each tile to the right-hand side,
    in which each overlap counts twice.
    """
    squares = (of_tiles.sum(axis=0) / 2) ** 2, (of_tiles**2).sum(axis=0)
    agreed, alone = (np.bincount(octave, values) for values in squares)
    spread = np.sqrt(2 / np.maximum(np.bincount(octave), 1))
    return np.asarray((agreed > np.maximum(LEAST_AGREEMENT, 1 + CLEAR * spread) * alone)[octave])


def _noise(of_tiles: np.ndarray, information: np.ndarray, octave: np.ndarray) -> float:
    """Return the factor on the variances of noise ``(n,)``: the largest of any octave.

    `of_tiles` ``(T, n)`` are the contributions of the residuals.
    """
    _, octave = np.unique(octave, return_inverse=True)
    measured = np.bincount(octave, (of_tiles**2).sum(axis=0))
    return float((measured / np.bincount(octave, information)).max())


def _shrunk(
    normal: np.ndarray, right: np.ndarray, octave: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return terms ``(n,)``, their covariance, and the variance of the terms of each octave.

    `size` are the first ones of the octaves.
    """
    _, octave, count = np.unique(octave, return_inverse=True, return_counts=True)
    for _ in range(VARIANCE_ROUNDS):
        covariance = np.linalg.inv(normal + np.diag(1 / size[octave]))
        values = covariance @ right
        free = count - np.bincount(octave, covariance.diagonal()) / size
        measured = np.bincount(octave, values**2) / np.maximum(free, 1e-3)
        last, size = size, np.maximum(measured, LEAST_VARIANCE)
        if (np.abs(size - last) <= SETTLED * last).all():
            break
    return values, covariance, size
