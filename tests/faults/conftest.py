"""Commands in processes of their own, with faults put into them and signals sent to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic.runtime import journal
from zemosaic.runtime.events import Event

INJECT = Path(__file__).parent / "inject"
PROGRAM = "from zemosaic.cli import main; main()"


class Command:
    """A command that runs, with its run folder."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until something is so, while the command runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.005)

    def events(self, kind: type, stage: str = "") -> list[Any]:
        """Events of the run as its journal tells them now."""
        return of(self.folder, kind, stage)

    def kill(self, number: int = signal.SIGKILL if os.name != "nt" else signal.SIGTERM) -> None:
        """Send a signal to the run alone."""
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 60.0) -> Run:
        """Wait for the end."""
        out, err = self.process.communicate(timeout=seconds)
        return Run(self.process.returncode, out, err)

    def clean_up(self) -> None:
        """End what is left: all that it started is in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def of(folder: Path, kind: type, stage: str = "") -> list[Any]:
    """Events of one kind in the last run of a folder."""
    records = journal.read(folder)
    events: list[Event] = records[-1].events if records else []
    return [e for e in events if isinstance(e, kind) and (not stage or e.stage == stage)]


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six small tiles; 0-1, 1-2, 3-4 and 4-5 are among their pairs."""
    folder = tmp_path_factory.mktemp("tiles")
    for tile in simulated(tiles=6):
        fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(folder / tile.name)
    return sorted(map(str, folder.iterdir()))


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path, tiles: list[str]) -> Iterator[Start]:
    """Starts ``zemosaic intertile`` on the tiles, ``run`` being its run folder."""
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
    for one in started:
        one.clean_up()


@pytest.fixture
def tell(start: Start, zemosaic: Callable[..., Run]) -> Callable[..., Run]:
    """Runs ``zemosaic status`` or ``zemosaic autopsy``, as from another terminal."""
    return zemosaic
