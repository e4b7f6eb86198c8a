"""Runs of every kind, held against the registry: all that is sent is declared, and reversed."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Run, intertile, simulated_tiles
from tests.e2e.faults import inject
from tests.helpers.semconv import ATTRIBUTES, SIGNALS, faults, seen


@pytest.fixture(scope="module")
def wounded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in colour in which everything goes wrong that can without ending it."""
    folder = tmp_path_factory.mktemp("wounded")
    tiles = simulated_tiles(folder / "tiles", "--rgb", tiles=9, size="96x72", overlap=0.4)
    tiles[8].write_bytes(tiles[8].read_bytes()[:9000])
    (folder / "corrected" / tiles[5].name).mkdir(parents=True)  # where a file should go
    faults = inject(
        folder / "site", tile_4="sleep", pair_0_1="raise", pair_1_2="crash", pair_3_4="hang"
    )
    return intertile(
        folder / "run", tiles, "--apply", folder / "corrected", "--heartbeat", 0.5,
        "--pair-timeout", 3, "--live", "marker", **faults,
    ).wait()  # fmt: skip


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that ends without a solution: no tile can be read."""
    folder = tmp_path_factory.mktemp("lost")
    tiles = simulated_tiles(folder / "tiles", tiles=2, size="32x32", overlap=0.4)
    for tile in tiles:
        tile.write_bytes(tile.read_bytes()[:100])
    return intertile(folder / "run", tiles).wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that ended well, with some overlaps too small to tell anything."""
    folder = tmp_path_factory.mktemp("plain")
    tiles = simulated_tiles(folder / "tiles", tiles=9, size="64x48", overlap=0.6)
    return intertile(folder / "run", tiles, "--neighbours", 0).wait()


def test_all_that_is_sent_is_declared(wounded: Run, lost: Run, plain: Run) -> None:
    """Every name, with the type that the registry gives, and nothing that it requires missing."""
    assert wounded.code == 1, wounded.err
    assert lost.code == 2, lost.err
    assert plain.code == 0, plain.err
    for run in (wounded, lost, plain):
        assert faults(run.resource_spans) == set()


def test_all_that_is_declared_is_sent(wounded: Run, lost: Run, plain: Run) -> None:
    """Each span, event and attribute of the registry is seen in some run."""
    signals, attributes = set(), set()
    for run in (wounded, lost, plain):
        for signal, found in seen(run.resource_spans):
            signals.add(signal)
            attributes |= {attribute.declared for attribute in found}
    assert SIGNALS.keys() - signals == set()
    assert ATTRIBUTES.keys() - attributes == set()
