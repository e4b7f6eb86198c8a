"""The sparse algebra of the solver against dense numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zemosaic.photometry.solver.block_system import BlockSystem
from zemosaic.photometry.solver.bordered import Bordered
from zemosaic.photometry.solver.dissection import LEAF, coupled_nodes, dissect

WIDTH = 3  # columns of a node
Graph = tuple[np.ndarray, np.ndarray]


def lattice(side: int) -> Graph:
    """Return the edges ``(P, 2)`` of a square lattice, and the positions of its nodes."""
    number = np.arange(side * side).reshape(side, side)
    edges = [
        (number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]),
    ]  # fmt: skip
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in edges])
    return pairs, np.stack(np.divmod(np.arange(side * side), side), axis=1).astype(float)


def islands() -> Graph:
    """Return two lattices far from each other, and a lone node."""
    pairs, position = lattice(8)
    far = position + np.array([1000.0, 0.0])
    return np.concatenate([pairs, pairs + 64]), np.concatenate([position, far, [[0.0, 500.0]]])


def random_graph() -> Graph:
    """Return a graph whose edges do not follow the positions of its nodes."""
    rng = np.random.default_rng(4)
    pairs = rng.integers(0, 120, (200, 2))
    return pairs[pairs[:, 0] != pairs[:, 1]], rng.uniform(0, 10, (120, 2))


def dense_graph() -> Graph:
    """Return a graph in which every node is joined to every other."""
    pairs = np.stack(np.triu_indices(LEAF + 12, 1), axis=1)
    return pairs, np.random.default_rng(5).uniform(0, 10, (LEAF + 12, 2))


GRAPHS: dict[str, Callable[[], Graph]] = {
    "small": lambda: lattice(4),
    "lattice": lambda: lattice(13),
    "islands": islands,
    "random": random_graph,
    "dense": dense_graph,
}


class Case:
    """A random system on a graph, and the same as a dense matrix.

    A tenth of the columns are missing, and some nodes share the columns of the one before.
    """

    def __init__(self, name: str, shared: int = 0) -> None:
        self.pairs, position = GRAPHS[name]()
        self.rng = rng = np.random.default_rng(7)
        nodes = len(position)
        solved = rng.random((nodes, WIDTH)) > 0.1
        self.size = int(solved.sum())
        index = np.full((nodes, WIDTH), self.size)
        index[solved] = np.arange(self.size)
        tied = np.arange(5, nodes, 17)
        index[tied] = index[tied - 1]
        node = np.nonzero(solved)[0]
        self.cliques = np.concatenate([index[self.pairs[:, 0]], index[self.pairs[:, 1]]], axis=1)
        rows = rng.normal(size=(len(self.pairs), 4, 2 * WIDTH))
        present = self.cliques < self.size
        rows *= present[:, None]
        self.blocks = rows.swapaxes(1, 2) @ rows
        self.diagonal = rng.uniform(0.5, 2.0, self.size)
        edges = coupled_nodes(np.append(node, -1)[self.cliques], nodes)
        self.system = BlockSystem(node, self.cliques, dissect(edges, position))
        common = rng.normal(size=(len(self.pairs), 4, shared))
        padded = np.zeros((self.size + 1, self.size + 1))
        self.border = np.zeros((self.size + 1, shared))
        for clique, block, row, other in zip(self.cliques, self.blocks, rows, common, strict=True):
            np.add.at(padded, (clique[:, None], clique), block)
            np.add.at(self.border, clique, row.T @ other)
        self.border = self.border[:-1]
        self.corner = np.einsum("prs,prt->st", common, common) + np.eye(shared)
        own = padded[:-1, :-1] + np.diag(self.diagonal)
        self.dense = np.block([[own, self.border], [self.border.T, self.corner]])
        self.inverse = np.linalg.inv(self.dense)

    def blocks_of_inverse(self) -> np.ndarray:
        """Return the inverse at each clique, 0 at missing columns."""
        padded = np.zeros((self.size + 1, self.size + 1))
        padded[:-1, :-1] = self.inverse[: self.size, : self.size]
        return padded[self.cliques[:, :, None], self.cliques[:, None, :]]


@pytest.mark.parametrize("name", GRAPHS)
def test_block_systems_are_solved_as_by_dense_algebra(name: str) -> None:
    """The solution and the inverse at the cliques are those of numpy."""
    case = Case(name)
    factor = case.system.factorize(case.diagonal, case.blocks)
    right = case.rng.normal(size=(case.size, 3))
    expected = np.linalg.solve(case.dense, right)
    np.testing.assert_allclose(factor.solve(right), expected, atol=1e-10)
    np.testing.assert_allclose(factor.solve(right[:, 0]), expected[:, 0], atol=1e-10)
    variance, blocks = factor.inverse()
    np.testing.assert_allclose(variance, np.diag(case.inverse), rtol=1e-9)
    np.testing.assert_allclose(factor.inverse_diagonal(), variance, rtol=1e-12)
    np.testing.assert_allclose(blocks, case.blocks_of_inverse(), atol=1e-10)


@pytest.mark.parametrize("shared", [0, 1, 9])
@pytest.mark.parametrize("name", GRAPHS)
def test_bordered_systems_are_solved_as_by_dense_algebra(name: str, shared: int) -> None:
    """Shared columns are solved for with the others, in any number."""
    case = Case(name, shared)
    normal = Bordered.of(case.system, case.diagonal, case.blocks, case.border, case.corner)
    right = case.rng.normal(size=(case.size + shared, 2))
    own, common = normal.solve(right[: case.size], right[case.size :])
    expected = np.linalg.solve(case.dense, right)
    np.testing.assert_allclose(np.concatenate([own, common]), expected, atol=1e-9)
    for number in {0, min(shared, 2)}:
        means = case.rng.normal(size=(case.size, number))
        minus_means = np.eye(case.size, case.size + shared)
        minus_means[:, case.size + shared - number :] -= means
        expected = np.einsum("na,ab,nb->n", minus_means, case.inverse, minus_means)
        np.testing.assert_allclose(normal.variance(means), expected, rtol=1e-8)
    np.testing.assert_allclose(normal.log_determinant, np.linalg.slogdet(case.dense)[1], rtol=1e-9)
    place = np.arange(0, shared, 2)
    rows = case.rng.normal(size=(len(case.cliques), 2, case.cliques.shape[1] + len(place)))
    own_rows, shared_rows = np.split(rows, [case.cliques.shape[1]], axis=2)
    variance = normal.row_variances(
        own_rows, shared_rows, normal.factor.inverse()[1], case.cliques, place
    )
    rows[:, :, : case.cliques.shape[1]] *= (case.cliques < case.size)[:, None]
    padded = np.insert(np.insert(case.inverse, case.size, 0, axis=0), case.size, 0, axis=1)
    common = np.broadcast_to(case.size + 1 + place, (len(rows), len(place)))
    index = np.concatenate([case.cliques, common], axis=1)
    expected = np.einsum(
        "nra,nab,nrb->nr", rows, padded[index[:, :, None], index[:, None, :]], rows
    )
    np.testing.assert_allclose(variance, expected, atol=1e-8)


def test_large_lattices_are_divided_and_dense_graphs_are_not() -> None:
    """Fronts of a lattice are small; a dense graph is one front."""
    divided = Case("lattice").system
    assert len(divided.fronts.table) > 5
    assert divided.fronts.largest < divided.size / 2
    assert len(Case("dense").system.fronts.table) == 2  # with the ends


def test_a_singular_system_is_reported() -> None:
    """An indefinite matrix has no factor."""
    case = Case("small")
    with pytest.raises(np.linalg.LinAlgError):
        case.system.factorize(np.full(case.size, -1e3), case.blocks)


def test_the_factor_does_not_depend_on_earlier_ones() -> None:
    """A system is factorized again with the same bits."""
    case = Case("islands")
    right = np.ones(case.size)
    first = case.system.factorize(case.diagonal, case.blocks).solve(right)
    case.system.factorize(2 * case.diagonal, case.blocks)
    again = case.system.factorize(case.diagonal, case.blocks).solve(right)
    assert first.tobytes() == again.tobytes()
