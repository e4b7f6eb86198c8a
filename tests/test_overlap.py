"""Footprints on the sphere, and pruning that keeps each component connected."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.footprints import rectangle, scattered, tangent
from zemosaic.photometry.overlap import graph as overlap
from zemosaic.photometry.overlap.graph import (
    component_labels,
    find_overlaps,
    loose_ends,
    prune,
    repetition,
)
from zemosaic.photometry.tiles.sky import edge_points, pixel_to_sky


@pytest.mark.parametrize("centre", [(180.0, 0.0), (0.0, 10.0), (359.99, -45.0), (77.0, 89.9),
                                   (10.0, -90.0), (123.0, 90.0)])  # fmt: skip
def test_overlap_areas_are_right_anywhere_on_the_sky(centre: tuple[float, float]) -> None:
    """Two 100 x 80 rectangles 60 apart share 40 x 80, also at RA 0 and at the poles."""
    wcs = tangent(*centre)
    corners = np.stack([rectangle(wcs, 0, 0, 100, 80), rectangle(wcs, 60, 0, 100, 80)])
    graph = find_overlaps(corners)
    assert graph.i.tolist() == [0]
    assert graph.j.tolist() == [1]
    assert graph.area[0] == pytest.approx(40 * 80 * 1e-6, rel=1e-5)
    assert graph.fraction[0] == pytest.approx(0.4, rel=1e-5)


@pytest.mark.parametrize("crpix", [(1.0, 1.0), (5000.5, -3000.0), (-1e5, 2e4)])
def test_the_reference_pixel_does_not_matter(crpix: tuple[float, float]) -> None:
    """Overlaps are the same for any CRPIX."""
    near, far = tangent(30.0, 40.0), tangent(30.0, 40.0, crpix)
    shift = np.array(crpix) - 1
    same = rectangle(near, 0, 0, 100, 80)
    other = rectangle(far, shift[0] + 50, shift[1] + 40, 100, 80)
    graph = find_overlaps(np.stack([same, other]))
    assert graph.fraction[0] == pytest.approx(0.25, rel=1e-4)


def test_partial_overlaps_against_monte_carlo() -> None:
    """Areas of rotated rectangles agree with counts of random points, an independent truth."""
    rng = np.random.default_rng(3)
    base = tangent(10.0, 60.0)
    polygons, corners = [], []
    for _ in range(12):
        turn = np.deg2rad(rng.uniform(0, 360))
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        box = (edge_points((80, 100), 1) - [50, 40]) @ matrix.T + rng.uniform(-60, 60, 2)
        polygons.append(box)
        corners.append(pixel_to_sky(base, box))
    graph = find_overlaps(np.stack(corners))
    points = rng.uniform(-130, 130, (200_000, 2))
    inside = np.stack([_contains(polygon, points) for polygon in polygons])
    counted = (inside[:, None] & inside[None]).mean(axis=2) * 260**2 * 1e-6
    area = np.zeros((12, 12))
    area[graph.i, graph.j] = graph.area
    upper = np.triu_indices(12, 1)
    assert np.abs(area[upper] - counted[upper]).max() < 2e-4
    assert area.max() > 3e-3


def _contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    edge = np.roll(polygon, -1, axis=0) - polygon
    to = points[:, None] - polygon[None]
    side = edge[None, :, 0] * to[..., 1] - edge[None, :, 1] * to[..., 0]
    return (side > 0).all(axis=1) | (side < 0).all(axis=1)


def test_tiles_that_touch_or_are_apart_do_not_overlap() -> None:
    """Neighbours with a gap or a common edge are no pair, and a tile without a WCS has none."""
    wcs = tangent(0.0, 0.0)
    corners = np.stack([
        rectangle(wcs, 0, 0, 50, 50), rectangle(wcs, 60, 0, 50, 50),
        np.full((4, 2), np.nan), rectangle(wcs, 40, 60, 50, 50),
    ])  # fmt: skip
    assert len(find_overlaps(corners).i) == 0
    assert find_overlaps(corners[:1]).components().tolist() == [0]


def test_small_overlaps_are_left_out_when_asked() -> None:
    """`min_fraction` is a fraction of the smaller footprint."""
    wcs = tangent(0.0, 0.0)
    corners = np.stack([rectangle(wcs, 0, 0, 200, 200), rectangle(wcs, 190, 0, 100, 100)])
    assert find_overlaps(corners, 0.09).fraction[0] == pytest.approx(0.1, rel=1e-3)
    assert len(find_overlaps(corners, 0.11).i) == 0


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_pruning_keeps_components_and_the_largest_overlaps(neighbours: int) -> None:
    """Each tile keeps its K largest overlaps, and each component stays connected."""
    rng = np.random.default_rng(7)
    wcs = tangent(200.0, -30.0)
    places = np.concatenate([rng.uniform(0, 400, (40, 2)), rng.uniform(2000, 2300, (25, 2))])
    graph = find_overlaps(np.stack([rectangle(wcs, x, y, 100, 100) for x, y in places]))
    pruned = prune(graph, neighbours)
    assert 64 - 1 <= len(pruned.i) < len(graph.i)
    assert np.array_equal(graph.components(), pruned.components())
    kept = set(zip(pruned.i.tolist(), pruned.j.tolist(), strict=True))
    for tile in range(65):
        of_tile = np.flatnonzero((graph.i == tile) | (graph.j == tile))
        largest = of_tile[np.argsort(-graph.area[of_tile])][:neighbours]
        assert {(int(graph.i[p]), int(graph.j[p])) for p in largest} <= kept
    order = list(zip(pruned.i.tolist(), pruned.j.tolist(), strict=True))
    assert order == sorted(order)


def test_pruning_an_empty_graph_and_with_zero() -> None:
    """An empty graph stays empty, and 0 neighbours keeps all pairs."""
    wcs = tangent(1.0, 2.0)
    corners = np.stack([rectangle(wcs, 30.0 * k, 0, 100, 100) for k in range(6)])
    graph = find_overlaps(corners)
    assert prune(graph, 0) is graph
    empty = graph.keep(np.zeros(len(graph.i), dtype=bool))
    assert len(prune(empty, 3).i) == 0


def test_equal_overlaps_do_not_break_a_component() -> None:
    """A mosaic of equal overlaps, in which each choice is a tie, stays connected."""
    wcs = tangent(0.0, 0.0)
    corners = np.stack([rectangle(wcs, 50.0 * x, 50.0 * y, 100, 100)
                        for x in range(5) for y in range(5)])  # fmt: skip
    pruned = prune(find_overlaps(corners), 1)
    assert set(pruned.components().tolist()) == {0}


def test_labels_count_in_the_order_of_first_tiles() -> None:
    """Component 0 holds tile 0, and so on: labels do not depend on internals of the graph."""
    labels = component_labels(7, np.array([5, 2]), np.array([6, 4]))
    assert labels.tolist() == [0, 1, 2, 3, 2, 4, 4]


@pytest.mark.parametrize("few", [0, 1000], ids=["by class of size", "all pairs"])
@pytest.mark.parametrize("batch", [1, 50, 1 << 16])
def test_tiles_of_any_size_find_each_other(
    monkeypatch: pytest.MonkeyPatch, batch: int, few: int
) -> None:
    """The search among few and among many tiles equals that of one pair at a time."""
    monkeypatch.setattr(overlap, "CANDIDATES", batch)
    monkeypatch.setattr(overlap, "FEW_TILES", few)
    corners = scattered(5)
    graph = find_overlaps(corners)
    expected = {}
    for i in range(len(corners)):
        for j in range(i + 1, len(corners)):
            pair = find_overlaps(corners[[i, j]])
            if len(pair.i):
                expected[i, j] = (pair.area[0], pair.fraction[0])
    assert list(zip(graph.i.tolist(), graph.j.tolist(), strict=True)) == sorted(expected)
    assert graph.area.tolist() == [expected[pair][0] for pair in sorted(expected)]
    assert graph.fraction.tolist() == [expected[pair][1] for pair in sorted(expected)]
    assert (np.bincount(np.r_[graph.i, graph.j]) == 0)[[7, 20]].all()


@pytest.mark.parametrize("batch", [1, 50, 1 << 16])
def test_repetition_is_half_the_mean_depth(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """The mean of m / 2 over an overlap equals that of points counted in a row of tiles."""
    monkeypatch.setattr(overlap, "CANDIDATES", batch)
    wcs = tangent(10.0, -20.0)
    begin = np.array([0, 30, 55, 60, 90, 300, 340])  # the last two lie apart
    graph = find_overlaps(np.stack([rectangle(wcs, x, 0, 100, 50) for x in begin]))
    factor = repetition(graph, np.stack([rectangle(wcs, x, 0, 100, 50) for x in begin]))
    x = np.arange(450) + 0.5
    inside = (x > begin[:, None]) & (x < begin[:, None] + 100)
    both = inside[graph.i] & inside[graph.j]
    depth = (both * inside.sum(axis=0)).sum(axis=1) / both.sum(axis=1)
    assert factor == pytest.approx(depth / 2, rel=1e-4)
    assert factor[-1] == 1.0


def test_nothing_repeats_without_a_third_tile() -> None:
    """In a row in which no three tiles meet each factor is 1; without pairs there are none."""
    wcs = tangent(10.0, -20.0)
    corners = np.stack([rectangle(wcs, 80.0 * k, 0, 100, 50) for k in range(5)])
    graph = find_overlaps(corners)
    assert repetition(graph, corners).tolist() == [1.0] * 4
    assert repetition(graph.keep(np.zeros(4, dtype=bool)), corners).tolist() == []


def test_loose_ends_are_the_pairs_of_chains_that_end() -> None:
    """A chain at a ring is loose, and a pair apart; a ring and a bridge between two are not."""
    ring, bridge, other = [(0, 1), (1, 2), (0, 2)], [(2, 3)], [(3, 4), (4, 5), (3, 5)]
    chain, apart = [(5, 6), (6, 7)], [(8, 9)]
    i, j = np.array(ring + bridge + other + chain + apart).T
    assert loose_ends(10, i, j).tolist() == [False] * 7 + [True] * 3
    assert loose_ends(10, i[:0], j[:0]).tolist() == []
