"""Runs of every kind against the registry: sent names are declared, declared names are sent."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Run, intertile, simulated_tiles
from tests.e2e.faults import inject
from tests.helpers.semconv import ATTRIBUTES, SIGNALS, faults, seen


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in colour with every fault that does not end it."""
    folder = tmp_path_factory.mktemp("faulty")
    tiles = simulated_tiles(folder / "tiles", "--rgb", tiles=9, size="96x72", overlap=0.4)
    tiles[8].write_bytes(tiles[8].read_bytes()[:9000])
    (folder / "corrected" / tiles[5].name).mkdir(parents=True)  # in the place of a file
    faults = inject(
        folder / "site", tile_4="sleep", pair_0_1="raise", pair_1_2="crash", pair_3_4="hang"
    )
    return intertile(
        folder / "run", tiles, "--apply", folder / "corrected", "--heartbeat", 0.5,
        "--pair-timeout", 3, "--live", "marker", **faults,
    ).wait()  # fmt: skip


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without a solution: no tile can be read."""
    folder = tmp_path_factory.mktemp("lost")
    tiles = simulated_tiles(folder / "tiles", tiles=2, size="32x32", overlap=0.4)
    for tile in tiles:
        tile.write_bytes(tile.read_bytes()[:100])
    return intertile(folder / "run", tiles).wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A successful run with some overlaps that are too small."""
    folder = tmp_path_factory.mktemp("plain")
    tiles = simulated_tiles(folder / "tiles", tiles=9, size="64x48", overlap=0.6)
    return intertile(folder / "run", tiles, "--neighbours", 0).wait()


def test_every_sent_name_is_declared(faulty: Run, lost: Run, plain: Run) -> None:
    """Names and types are those of the registry, and no required attribute is missing."""
    assert faulty.code == 1, faulty.err
    assert lost.code == 2, lost.err
    assert plain.code == 0, plain.err
    for run in (faulty, lost, plain):
        assert faults(run.resource_spans) == set()


def test_every_declared_name_is_sent(faulty: Run, lost: Run, plain: Run) -> None:
    """Some run has each span, event and attribute of the registry."""
    signals, attributes = set(), set()
    for run in (faulty, lost, plain):
        for signal, values in seen(run.resource_spans):
            signals.add(signal)
            attributes |= {attribute.declared for attribute in values}
    assert SIGNALS.keys() - signals == set()
    assert ATTRIBUTES.keys() - attributes == set()
