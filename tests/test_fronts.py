"""The kernels that factorize, solve and invert front by front, against dense algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.kernels import use_kernels
from zemosaic.photometry import _kernels
from zemosaic.photometry._kernels import reference
from zemosaic.photometry._kernels.fronts import FrontField, Fronts
from zemosaic.photometry.solver.block_system import BlockSystem
from zemosaic.photometry.solver.dissection import dissect, graph_positions


def random_system(
    seed: int, nodes: int, width: int, degree: float, spread: float
) -> tuple[BlockSystem, np.ndarray, np.ndarray, np.ndarray]:
    """Return a system on a random graph, its diagonal and blocks, and the same as a dense matrix.

    `spread` are the decades that the weights of the blocks cover.
    """
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, nodes, (int(degree * nodes), 2))
    place = rng.uniform(0, 1, (nodes, 2)) if seed % 2 else graph_positions(pairs, nodes)
    column = np.arange(nodes * width).reshape(nodes, width)
    cliques = column[pairs].reshape(len(pairs), 2 * width)
    rows = rng.normal(size=(len(pairs), 3, 2 * width))
    rows *= 10 ** rng.uniform(-spread / 2, spread / 2, (len(pairs), 1, 1))
    loop = pairs[:, 0] == pairs[:, 1]  # of a tile with itself: none
    cliques[loop], rows[loop] = nodes * width, 0.0
    blocks = rows.swapaxes(1, 2) @ rows
    diagonal = rng.uniform(0.5, 2.0, nodes * width)
    dense = np.zeros((nodes * width + 1,) * 2)
    for clique, block in zip(cliques, blocks, strict=True):
        np.add.at(dense, (clique[:, None], clique), block)
    system = BlockSystem(np.repeat(np.arange(nodes), width), cliques, dissect(pairs, place))
    return system, diagonal, blocks, dense[:-1, :-1] + np.diag(diagonal)


@given(
    seed=st.integers(0, 10_000),
    nodes=st.integers(1, 90),
    width=st.integers(1, 4),
    degree=st.floats(0, 3),
    spread=st.floats(0, 6),
)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.usefixtures("either_way")
def test_random_systems_agree_with_dense_algebra(
    seed: int, nodes: int, width: int, degree: float, spread: float
) -> None:
    """Solution and inverse agree within rounding, also of weights over six decades and islands."""
    system, diagonal, blocks, dense = random_system(seed, nodes, width, degree, spread)
    factor, inverse = system.factorize(diagonal, blocks), np.linalg.inv(dense)
    right = np.random.default_rng(seed).normal(size=(len(dense), 11))
    bound = 1e-15 * len(dense) * np.linalg.cond(dense) + 1e-13
    expected = np.linalg.solve(dense, right)
    for sides in (1, 2, 11):  # few are solved for one by one
        change = np.abs(factor.solve(right[:, :sides]) - expected[:, :sides])
        assert change.max() <= bound * np.abs(expected).max()
    variance, found = factor.inverse()
    largest = np.abs(inverse).max()
    assert np.abs(variance - np.diag(inverse)).max() <= bound * largest
    padded = np.pad(inverse, (0, 1))
    expected = padded[system.cliques[:, :, None], system.cliques[:, None, :]]
    assert np.abs(found - expected).max(initial=0) <= bound * largest
    assert np.array_equal(factor.inverse_diagonal(), variance)


@pytest.mark.parametrize("nodes", [0, 1, 300])
def test_both_implementations_agree(nodes: int) -> None:
    """C and numpy give the same factor but for the last bits, with any columns missing."""
    system, diagonal, blocks, _ = random_system(3, nodes, 2, 1.2, 1.0)
    found = []
    for implementation in (_kernels.DEFAULT, reference):
        with use_kernels(implementation):
            factor = system.factorize(diagonal, blocks)
            found.append((factor.panels, *factor.inverse(), factor.solve(diagonal)))
    for compiled, numpy in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, numpy, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("wrong", [-1e4, 0.0, np.nan, np.inf])
def test_a_matrix_that_is_not_positive_definite_is_reported(wrong: float) -> None:
    """LinAlgError instead of a factor with NaN."""
    system, diagonal, blocks, _ = random_system(5, 60, 1, 1.5, 0.0)
    diagonal[17], blocks[:] = wrong, blocks * (wrong != 0)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        system.factorize(diagonal, blocks)


@pytest.mark.parametrize("seed", range(6))
def test_each_node_is_eliminated_once_before_its_separator(seed: int) -> None:
    """No two coupled nodes lie in fronts of which neither is above the other."""
    rng = np.random.default_rng(seed)
    nodes, edges = 400, rng.integers(0, 400, (900, 2))
    if seed % 2:  # a tile that overlaps all others
        edges = np.concatenate([edges, np.stack([np.full(399, 7), np.r_[:7, 8:400]], axis=1)])
    front, parent = dissect(edges, graph_positions(edges, nodes))
    assert ((parent > np.arange(len(parent))) | (parent == -1)).all()
    above = np.eye(len(parent), dtype=bool)
    for number in range(len(parent) - 1, -1, -1):
        if parent[number] >= 0:
            above[number] |= above[parent[number]]
    i, j = front[edges].T
    assert (above[i, j] | above[j, i]).all()


def kernel_arguments() -> dict[str, Any]:
    """Return valid arguments of the kernel in C that factorizes."""
    system, diagonal, blocks, _ = random_system(2, 80, 1, 1.5, 0.0)
    fronts = system.fronts
    return {
        **{name: array.copy() for name, array in fronts._asdict().items()},
        "diagonal": diagonal,
        "blocks": blocks,
        "panels": np.empty(fronts.end(FrontField.PANEL)),
        "updates": np.empty(fronts.end(FrontField.UPDATE)),
        "definite": np.empty(1),
        "front_work": np.empty(fronts.largest**2),
    }


@pytest.mark.skipif(not _kernels.COMPILED, reason="the kernels were not compiled")
@pytest.mark.parametrize("value", [-5, 10**6])
@pytest.mark.parametrize("name", Fronts._fields)
def test_places_out_of_range_are_refused(name: str, value: int) -> None:
    """ValueError instead of an access outside the arrays; -1 alone stands for none."""
    fused: Any = pytest.importorskip("zemosaic.photometry._kernels._fused")
    arguments = kernel_arguments()
    fused.factorize_fronts(**arguments)
    assert arguments["definite"][0] == 1
    array = arguments[name]
    if name in ("above", "place") and value < 0:
        pytest.skip("negative places stand for none")
    array[...] = np.where(array >= 0, value, array)
    with pytest.raises(ValueError, match="factorize_fronts: the arrays do not fit together"):
        fused.factorize_fronts(**arguments)


@pytest.mark.skipif(not _kernels.COMPILED, reason="the kernels were not compiled")
@pytest.mark.parametrize("name", ["panels", "updates", "front_work"])
def test_too_little_space_is_refused(name: str) -> None:
    """ValueError for an array that ends within a front."""
    fused: Any = pytest.importorskip("zemosaic.photometry._kernels._fused")
    arguments = kernel_arguments()
    arguments[name] = arguments[name][:-1].copy()
    with pytest.raises(ValueError, match="factorize_fronts: the arrays do not fit together"):
        fused.factorize_fronts(**arguments)
