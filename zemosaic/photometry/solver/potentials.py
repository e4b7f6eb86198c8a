"""Potentials on a graph from their measured differences.

The normal matrix of this least-squares problem is the graph's Laplacian: sparse, and singular by
one degree of freedom per connected component. One node of each component is grounded and the rest
is factorized. Outlying differences are downweighted (see `robust_least_squares`), but never to
zero, so the graph stays connected.

On the nearly planar graph of a mosaic the cost of every part grows little faster than the number
of tiles: of the factor, with minimum degree ordering; of the reweighting, by conjugate gradients
preconditioned with an earlier factor; and of the exact variances, by the selected inverse of
Takahashi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csc_array

from ..overlap.graph import component_labels
from .robust_lsq import ROUNDS, RobustFit, robust_least_squares
from .selected_inverse import inverse_diagonal


@dataclass(frozen=True, eq=False)
class Differences:
    """Measured differences of a potential between the ends of each pair.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int ends of each pair.
    value : ndarray
        ``(P,)`` measured potential of i minus potential of j.
    weight : ndarray
        ``(P,)`` inverse variances.
    """

    i: np.ndarray
    j: np.ndarray
    value: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Potentials:
    """Potentials fitted to their differences.

    Parameters
    ----------
    value : ndarray
        ``(nodes,)``; 0 for a node without a difference.
    variance : ndarray
        ``(nodes,)``; NaN for a node without a difference.
    residual : ndarray
        ``(P,)`` measured minus fitted differences.
    """

    value: np.ndarray
    variance: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True, eq=False)
class Grounding:
    """The node of each component that is held, and the gauge set afterwards.

    Parameters
    ----------
    component : ndarray
        ``(nodes,)`` int label of the connected component.
    free : ndarray
        ``(nodes,)`` bool: false for the grounded node of each component.
    centred : ndarray
        ``(components,)`` bool: true if the mean potential is set to 0, false if the anchor's is.
    """

    component: np.ndarray
    free: np.ndarray
    centred: np.ndarray

    @classmethod
    def of(cls, nodes: int, i: np.ndarray, j: np.ndarray, anchor: int | None) -> Grounding:
        """Ground the anchor in its component, and the first node of each other component."""
        component = component_labels(nodes, i, j)
        ground = np.full(component.max(initial=-1) + 1, -1)
        ground[component[::-1]] = np.arange(nodes)[::-1]
        centred = np.ones(len(ground), dtype=bool)
        if anchor is not None:
            ground[component[anchor]] = anchor
            centred[component[anchor]] = False
        free = np.ones(nodes, dtype=bool)
        free[ground] = False
        return cls(component, free, centred)

    @property
    def joined(self) -> np.ndarray:
        """Whether each node ``(nodes,)`` has a difference to another one."""
        return np.bincount(self.component)[self.component] > 1

    def mean(self, values: np.ndarray, members: np.ndarray | None = None) -> np.ndarray:
        """Compute the mean ``(nodes,)`` over each node's component; 0 in the anchored one.

        Nodes outside `members` ``(nodes,)`` do not count.
        """
        members = np.ones(len(values)) if members is None else members
        count = np.bincount(self.component, members)
        total = np.bincount(self.component, values * members)
        return np.where(self.centred, total / np.maximum(count, 1), 0.0)[self.component]

    def variance(self, fit: RobustFit, is_potential: np.ndarray) -> np.ndarray:
        """Compute the variances ``(nodes,)`` under the gauge; NaN without a difference.

        `is_potential` ``(N,)`` selects the unknowns of the fit that are the free potentials.
        With G the inverse of the grounded normal matrix the variance is G_kk in an anchored
        component. With a mean of 0 it is the diagonal of the projected matrix,
        G_kk - 2 mean_l(G_kl) + mean_lm(G_lm).
        """
        diagonal, row_sum = np.zeros((2, len(self.component)))
        diagonal[self.free] = inverse_diagonal(fit.normal, fit.factor)[is_potential]
        row_sum[self.free] = fit.factor.solve(is_potential.astype(float))[is_potential]
        size = np.bincount(self.component)
        row_mean = row_sum / size[self.component]
        overall = (np.bincount(self.component, row_mean) / size)[self.component]
        projected = np.where(
            self.centred[self.component], diagonal - 2 * row_mean + overall, diagonal
        )
        return np.where(self.joined, projected * fit.scale**2, np.nan)


def potentials(
    nodes: int, differences: Differences, anchor: int | None = None, rounds: int = ROUNDS
) -> Potentials:
    """Fit potentials to their measured differences, robustly.

    Parameters
    ----------
    nodes : int
        Number of potentials.
    differences : Differences
        Measured differences and their weights.
    anchor : int or None
        The node with potential 0. In all other components the mean is 0.
    rounds : int
        Largest number of reweighting rounds; 1 is plain least squares.

    Returns
    -------
    Potentials
    """
    grounding = Grounding.of(nodes, differences.i, differences.j, anchor)
    unknowns = np.flatnonzero(grounding.free)
    value = np.zeros(nodes)
    if not len(unknowns):
        return Potentials(value, np.full(nodes, np.nan), differences.value.copy())
    inverse_error = np.sqrt(differences.weight)
    fit = robust_least_squares(
        _incidence(nodes, differences, inverse_error)[:, unknowns],
        inverse_error * differences.value,
        np.zeros(len(unknowns)),
        len(differences.i),
        rounds,
    )
    value[unknowns] = fit.solution
    value -= grounding.mean(value)
    variance = grounding.variance(fit, np.ones(len(unknowns), dtype=bool))
    return Potentials(value, variance, fit.residual / inverse_error)


def _incidence(nodes: int, differences: Differences, inverse_error: np.ndarray) -> csc_array:
    """Return the incidence matrix ``(P, nodes)`` with rows in units of their errors."""
    pair = np.arange(len(inverse_error))
    entries = [(pair, differences.i, inverse_error), (pair, differences.j, -inverse_error)]
    return assemble(entries, (len(pair), nodes))


def assemble(
    entries: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], shape: tuple[int, int]
) -> csc_array:
    """Build a sparse matrix from arrays of rows, columns and values."""
    rows, columns, values = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
    return coo_array((values, (rows, columns)), shape=shape).tocsc()
