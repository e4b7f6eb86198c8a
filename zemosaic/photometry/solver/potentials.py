"""Potentials on a graph from their measured differences.

The normal matrix of this least-squares problem is the graph's Laplacian: sparse, and singular by
one degree of freedom per connected component. One node of each component is grounded and the rest
is factorized. Outlying differences are downweighted (see `fit_differences`), but never to zero, so
the graph stays connected.

On the nearly planar graph of a mosaic the cost of every part grows little faster than the number
of tiles: of the factor, by nested dissection, and of the exact variances, by the selected inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..overlap.graph import component_labels
from .block_system import BlockSystem
from .dissection import Dissection, dissect, graph_positions
from .robust_lsq import ROUNDS, RobustFit, fit_differences


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
    residual : ndarray
        ``(P,)`` measured minus fitted differences.
    ends : ndarray
        ``(P, 2)`` int nodes of each difference.
    grounding : Grounding
        The gauge.
    fit : RobustFit or None
        Their fit; None if all potentials are held.
    """

    value: np.ndarray
    residual: np.ndarray
    ends: np.ndarray
    grounding: Grounding
    fit: RobustFit | None

    @cached_property
    def variance(self) -> np.ndarray:
        """Variances ``(nodes,)``; NaN for a node without a difference."""
        if self.fit is None:
            return np.full(len(self.value), np.nan)
        return self.grounding.variance(self.fit)


@dataclass(frozen=True, eq=False)
class Grounding:
    """The held node of each component, and the gauge set afterwards.

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

    def variance(self, fit: RobustFit) -> np.ndarray:
        """Compute the variances ``(nodes,)`` under the gauge; NaN without a difference.

        With G the inverse of the grounded normal matrix the variance is G_kk in an anchored
        component. With a mean of 0 it is the diagonal of the projected matrix,
        G_kk - 2 mean_l(G_kl) + mean_lm(G_lm).
        """
        diagonal, row_sum = np.zeros((2, len(self.component)))
        diagonal[self.free] = fit.factor.inverse_diagonal()
        row_sum[self.free] = fit.factor.solve(np.ones(np.count_nonzero(self.free)))
        size = np.bincount(self.component)
        row_mean = row_sum / size[self.component]
        overall = (np.bincount(self.component, row_mean) / size)[self.component]
        projected = np.where(
            self.centred[self.component], diagonal - 2 * row_mean + overall, diagonal
        )
        return np.where(self.joined, projected * fit.scale**2, np.nan)


def potentials(
    nodes: int,
    differences: Differences,
    anchor: int | None = None,
    rounds: int = ROUNDS,
    dissection: Dissection | None = None,
    other: Potentials | None = None,
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
    dissection : Dissection or None
        Order in which the nodes are eliminated; without any, by their distances in the graph.
    other : Potentials or None
        Potentials of the same nodes with the same anchor: their structure serves again if their
        differences are between the same nodes.

    Returns
    -------
    Potentials
    """
    ends = np.stack([differences.i, differences.j], axis=1)
    known = other if other is not None and np.array_equal(other.ends, ends) else None
    if known is None:
        grounding = Grounding.of(nodes, differences.i, differences.j, anchor)
    else:
        grounding = known.grounding
    unknowns = np.flatnonzero(grounding.free)
    value = np.zeros(nodes)
    if not len(unknowns):
        return Potentials(value, differences.value.copy(), ends, grounding, None)
    if known is None or known.fit is None:
        number = np.full(nodes, len(unknowns))
        number[unknowns] = np.arange(len(unknowns))
        dissection = dissection or dissect(ends, graph_positions(ends, nodes))
        system = BlockSystem(unknowns, number[ends], dissection)
    else:
        system = known.fit.factor.system
    inverse_error = np.sqrt(differences.weight)
    fit = fit_differences(system, differences.value, inverse_error, rounds)
    value[unknowns] = fit.solution
    value -= grounding.mean(value)
    return Potentials(value, fit.residual / inverse_error, ends, grounding, fit)
