"""The fit of a cosine series to the differences of corrected tiles.

In an overlap the corrected tiles differ by ``light * (ln F(place in i) - ln F(place in j))``, or by
``gain_i * glow(place in i) - gain_j * glow(place in j)``, and by a plane, due to the tiles' own
terms or to low orders of F. The variance of the terms in each octave of wave numbers comes from the
data (MacKay 1992, Neural Computation 4, 415). An octave counts only if the tiles agree in it: if
the square of the sum of all contributions is far larger than the sum of the squares of those of
each tile, which noise and the structure of single tiles have as well. The gains of the tiles, and
the light of the scene, tell F from a glow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ..cosine_series import CosineSeries
from ..illumination import FineStructure
from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN
from .differences import Differences
from .lattice import Lattice

KINDS = "log_flat", "glow"
CLEAR = 5.0  # standard errors, under the hypothesis of noise, of an octave with structure
LEAST_AGREEMENT = 2.0  # of the tiles in it; that of noise is at most 1
WEIGHTING_ROUNDS = 3  # of the robust weights
SCALING_ROUNDS = 3  # of the planes and the scatter in each of these
VARIANCE_ROUNDS, SETTLED = 30, 0.02  # of the variances of the octaves, and their last change
LEAST_SIZE = 1e-10  # variance of an octave in units of the largest
LEAST_SCATTER, LEAST_CHI = 1e-9, 1e-3  # of the light, and in units of the noise
#: Ratio of what a glow and F explain, up to which the gains are too alike to tell them apart.
ALIKE = 1.005
SINGULAR, TINY = 1e-12, 1e-100  # added to normal matrices that may be singular


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
        ``(N, nodes)`` derivatives of the differences by ln F, or the glow, at the nodes.
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
    def of(cls, given: Differences, lattice: Lattice, channel: int, kind: str) -> _Rows:
        light = given.light[channel]
        plane = np.column_stack([np.ones(given.count), given.places[0].T])
        plane[:, 1:] -= given.sums(plane[:, 1:])[given.pair] / given.blocks[given.pair, None]
        variance = np.maximum(given.variance[channel], (LEAST_SCATTER * light) ** 2 + TINY)
        factors = given.scale[:, channel] if kind == "glow" else (light, light)
        one, other = (
            lattice.interpolation(*places).multiply(factor[:, None])
            for places, factor in zip(given.places, factors, strict=True)
        )
        design = csr_array(one - other)
        return cls(given, given.values[channel], variance, plane, design, lattice.terms)

    def weights(self, residual: np.ndarray) -> np.ndarray:
        """Return inverse variances ``(N,)`` by the scatter of each overlap about a plane."""
        weight = 1 / self.variance
        for _ in range(SCALING_ROUNDS):
            chi = np.abs(self.without_planes(residual, weight)) / np.sqrt(self.variance)
            scatter = np.array([np.median(part) for part in np.split(chi, self.given.start[1:])])
            scatter = np.maximum(scatter / GAUSSIAN_MEDIAN, LEAST_CHI)[self.given.pair]
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

    def agreeing(self, octaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights ``(N,)`` of blocks, and the terms ``(n,)`` in which tiles agree."""
        weight = self.weights(self.value)
        return weight, np.flatnonzero(_agree(self.of_tiles(self.value, weight), octaves))

    def of_tiles(self, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the part ``(T, M)`` of the overlaps of each tile in the right-hand side."""
        return self.given.by_tile(self.by_pair(weight * self.without_planes(residual, weight)))


def fine_kind(given: Differences, lattice: Lattice) -> str:
    """Return the kind of structure in which tiles agree, in any channel; empty if there is none.

    Parameters
    ----------
    given : Differences
        Differences of corrected tiles.
    lattice : Lattice
        Its terms describe the structure.
    """
    explained = np.zeros(2)
    for channel in range(given.channels):
        flat, glow = (_Rows.of(given, lattice, channel, kind) for kind in KINDS)
        weight, clear = flat.agreeing(lattice.octave)
        if len(clear):
            explained += [flat.explained(weight, clear), glow.explained(weight, clear)]
    if not explained.any():
        return ""
    return KINDS[int(explained[1] > ALIKE * explained[0])]


def fit_fine_structure(given: Differences, lattice: Lattice, kind: str) -> FineStructure | None:
    """Fit the structure of ln F, or of the glow, to the differences of corrected tiles.

    Parameters
    ----------
    given : Differences
        Differences of tiles corrected without it.
    lattice : Lattice
        Its terms are those of the series.
    kind : {"log_flat", "glow"}
        As of `fine_kind`.

    Returns
    -------
    FineStructure or None
        None if no channel shows a structure.
    """
    rows = (_Rows.of(given, lattice, channel, kind) for channel in range(given.channels))
    fits = [_fit(of_channel, lattice.octave) for of_channel in rows]
    values, errors = (np.stack(parts) for parts in zip(*fits, strict=True))
    if not values.any():
        return None
    nodes = given.channels, lattice.rows, lattice.columns
    return FineStructure(kind, CosineSeries(lattice.arranged(values), errors.reshape(nodes)))


def _fit(rows: _Rows, octaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the terms ``(M,)`` of one channel, and the errors ``(nodes,)`` of their sum.

    `octaves` ``(M,)`` are those of the terms.
    """
    values, errors = np.zeros(len(octaves)), np.zeros(len(rows.terms))
    weight, clear = rows.agreeing(octaves)
    if not len(clear):
        return values, errors
    octave, terms, noise = octaves[clear], rows.terms[:, clear], 1.0
    size = np.zeros(0)
    for number in range(WEIGHTING_ROUNDS):
        residual = rows.value - rows.design @ (terms @ values[clear])
        weight = rows.weights(residual) if number else weight
        normal, right = rows.normal(weight, clear), rows.right(weight)[clear]
        if number:  # before, structure is in the residuals
            noise = _noise(rows.of_tiles(residual, weight)[:, clear], normal.diagonal(), octave)
        else:
            size = _first_sizes(normal, right, octave)
        values[clear], covariance, size = _shrunk(normal / noise, right / noise, octave, size)
    return values, np.sqrt(np.sum((terms @ covariance) * terms, axis=1))


def _first_sizes(normal: np.ndarray, right: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Return variances of the terms of each octave as if they were independent."""
    _, octave = np.unique(octave, return_inverse=True)
    squares = np.bincount(octave, right**2) / np.bincount(octave, normal.diagonal() ** 2)
    return np.asarray(squares)


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
        last, size = size, np.maximum(measured, LEAST_SIZE * measured.max())
        if (np.abs(size - last) <= SETTLED * last).all():
            break
    return values, covariance, size
