"""Fixtures that start commands with injected faults."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.faults.command import INJECT, Command, Start
from tests.faults.dask_hosts import Cluster, corrections
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
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster, with two workers if no other number is given."""
    started: list[Cluster] = []

    def start(workers: int = 2, **options: str) -> Cluster:
        started.append(Cluster(tmp_path, **options))
        for _ in range(workers):
            started[-1].add_worker()
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture
def namespace() -> Iterator[str]:
    """Make a network with a link to this machine, 10.213.7.1 here and 10.213.7.2 there."""
    name = f"zemosaic{os.getpid() % 10000}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b",
        f"ip link set {name}b netns {name}",
        f"ip address add 10.213.7.1/24 dev {name}a",
        f"ip link set {name}a up",
        f"ip netns exec {name} ip address add 10.213.7.2/24 dev {name}b",
        f"ip netns exec {name} ip link set {name}b up",
        f"ip netns exec {name} ip link set lo up",
    ]
    try:
        for command in commands:
            made = subprocess.run(command.split(), capture_output=True, check=False)
            if made.returncode:
                pytest.skip(f"needs the right to make networks: {made.stderr.decode()}")
        yield name
    except FileNotFoundError:
        pytest.skip("needs iproute2")
    finally:
        with contextlib.suppress(FileNotFoundError):
            for undo in (f"ip link del {name}a", f"ip netns del {name}"):
                subprocess.run(undo.split(), capture_output=True, check=False)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiles: list[str]) -> str:
    """Return the corrections of a run on processes without a fault."""
    from zemosaic.cli import run

    folder = tmp_path_factory.mktemp("whole")
    assert run(["intertile", "-o", str(folder), "--no-report", *tiles]) == 0
    return corrections(folder)


@pytest.fixture
def examine(start: Start, zemosaic: Callable[..., Run]) -> Callable[..., Run]:
    """Run ``zemosaic status`` or ``zemosaic autopsy``, as from another terminal."""
    return zemosaic
