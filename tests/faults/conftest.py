"""Fixtures that start commands with injected faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.faults.command import INJECT, Command, Start
from tests.helpers.cli import Run
from tests.helpers.tiles import simulated


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write six small tiles; 0-1, 1-2, 3-4 and 4-5 are among their pairs."""
    folder = tmp_path_factory.mktemp("tiles")
    for tile in simulated(tiles=6):
        fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(folder / tile.name)
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def start(tmp_path: Path, tiles: list[str]) -> Iterator[Start]:
    """Start ``zemosaic intertile`` on the tiles, with the run folder ``run``."""
    started: list[Command] = []

    def command(
        *arguments: Any, fault: str = "none@none", slow: float = 0.0, pool: str = "processes",
        folder: Path = tmp_path / "run", tiles: list[str] = tiles, **more: Any,
    ) -> Command:  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": str(INJECT), "ZEMOSAIC_FAULT": fault, "ZEMOSAIC_SLOW": str(slow), **more,
        }  # fmt: skip
        words = ["intertile", "-o", folder, "--pool", pool, "--workers", 2, "--heartbeat", 0.5]
        started.append(Command([str(w) for w in (*words, *arguments, *tiles)], folder, environment))
        return started[-1]

    yield command
    for running in started:
        running.clean_up()


@pytest.fixture
def examine(start: Start, zemosaic: Callable[..., Run]) -> Callable[..., Run]:
    """Run ``zemosaic status`` or ``zemosaic autopsy``, as from another terminal."""
    return zemosaic
