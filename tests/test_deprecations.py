"""Public names of 0.2 that moved work until 0.4, each with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import zemosaic
from tests.helpers.tiles import simulated
from zemosaic.runtime import events
from zemosaic.runtime.observers import Observer


def test_the_observer_of_the_old_module_is_the_new_one() -> None:
    """The import of the README of 0.2 still works."""
    with pytest.warns(DeprecationWarning, match=r"runtime\.observers\.Observer since 0\.3"):
        from zemosaic.runtime.events import Observer as Old
    assert Old is Observer


def test_no_other_name_appears_in_the_old_module() -> None:
    """A name that never was there is still an error."""
    with pytest.raises(AttributeError, match="no attribute 'Watcher'"):
        _ = events.Watcher  # type: ignore[attr-defined]


def test_an_observer_with_the_old_method_receives_the_events_of_a_run() -> None:
    """Both its own `tell` and the one that it inherits do what they did."""
    with pytest.warns(DeprecationWarning, match="handle_batch"):

        class Old(Observer):
            told = ended = 0

            def tell(self, batch: Sequence[Any]) -> None:
                self.told += len(batch)
                super().tell(batch)

            def job_ended(self, event: Any) -> None:
                self.ended += 1

    observer = Old()
    tiles = [(tile.data, tile.wcs) for tile in simulated(tiles=2, shape=(96, 96))]
    zemosaic.calibrate(tiles, pool="serial", observers=[observer])
    assert observer.told > observer.ended >= len(tiles)


def test_the_names_of_the_readme_of_0_2_are_there() -> None:
    """All of them, from where they were."""
    from zemosaic import Settings, Solution, Tile, TileError, open_tile, tile_from_array
    from zemosaic.zemosaic_utils import compute_intertile_affine_calibration

    names = [Settings, Solution, Tile, TileError, open_tile, tile_from_array, zemosaic.calibrate]
    assert all(map(callable, [*names, compute_intertile_affine_calibration]))
