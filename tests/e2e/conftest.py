"""A real Jaeger, and real runs of the command line that report to it.

Give one as a program, `JAEGER_BIN` (or ``jaeger`` on PATH), or as a stack that runs, `JAEGER_URL`.
Seen to pass with Jaeger 2.20.0, which is that of the compose stack, and with 2.13, which is the
one that `.ci/jaeger` builds and CI therefore uses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.jaeger import Jaeger, OwnJaeger
from tests.helpers.otlp_receiver import read_otlp_json, spans_of

# Read before a fixture of all tests hides them.
PROGRAM = os.environ.get("JAEGER_BIN") or shutil.which("jaeger")
STACK = os.environ.get("JAEGER_URL", "").rstrip("/")
ZEMOSAIC = shutil.which("zemosaic", path=sysconfig.get_path("scripts"))
HOW = "no Jaeger: set JAEGER_BIN (bash .ci/jaeger builds one, with Go) or JAEGER_URL"
PATIENCE = 300  # seconds that a run may take, however slow the machine


class RunFolder:
    """What is in the folder of a run, now."""

    folder: Path

    @property
    def resource_spans(self) -> list[Any]:
        """What its trace file holds; a line that is being written is not there yet."""
        text = (self.folder / "trace.jsonl").read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [entry for line in lines for entry in read_otlp_json(line)]

    @property
    def spans(self) -> list[Any]:
        """The spans in it."""
        return spans_of(self.resource_spans)

    @property
    def trace_id(self) -> str:
        """The trace that it makes: its file has no other."""
        ids = {span.trace_id.hex() for span in self.spans}
        assert len(ids) == 1
        return ids.pop()


@dataclass(frozen=True)
class Run(RunFolder):
    """A run of the command line that has ended."""

    folder: Path
    code: int
    out: str
    err: str


class Running(RunFolder):
    """A run of the command line that goes on in a process of its own."""

    def __init__(self, folder: Path, *arguments: Any, **environment: str) -> None:
        assert ZEMOSAIC, "zemosaic is not installed beside this Python"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._said = [folder.with_suffix(end) for end in (".out", ".err")]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "JAEGER_"))}
        with self._said[0].open("w") as out, self._said[1].open("w") as err:
            self.process = subprocess.Popen(
                [ZEMOSAIC, *map(str, arguments)],
                env={**kept, **environment}, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill the run as kill -9 does; its workers live on."""
        self.process.kill()
        self.process.wait()

    def clean_up(self) -> None:
        """Kill what is left of the run, its workers too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> Run:
        """How it ended."""
        code = self.process.wait(PATIENCE)
        return Run(self.folder, code, *(said.read_text(encoding="utf-8") for said in self._said))


def intertile(folder: Path, tiles: list[Path], *arguments: Any, **environment: str) -> Running:
    """Start ``zemosaic intertile`` on tiles, with a run folder."""
    return Running(folder, "intertile", *tiles, "-o", folder, *arguments, **environment)


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """The Jaeger of this session: the stack that runs, or a process of our own."""
    if STACK:
        yield Jaeger(STACK, f"http://{urlsplit(STACK).hostname}:4318")
        return
    own = _own(tmp_path_factory.mktemp("jaeger"))
    own.start()
    yield own
    own.stop()


@pytest.fixture
def own_jaeger(tmp_path: Path) -> Iterator[OwnJaeger]:
    """A Jaeger that a test may start, stop and kill."""
    own = _own(tmp_path)
    yield own
    own.stop(kill=True)


def _own(folder: Path) -> OwnJaeger:
    if not PROGRAM:
        pytest.skip(HOW)
    return OwnJaeger(PROGRAM, folder)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiles so small and so close that there are more than 500 pairs of them, in seconds."""
    return simulated_tiles(
        tmp_path_factory.mktemp("many") / "tiles", tiles=56, size="64x48", overlap=0.7, rotation=1
    )


@pytest.fixture(scope="session")
def few_tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiles of a dozen or two pairs."""
    return simulated_tiles(
        tmp_path_factory.mktemp("few") / "tiles", tiles=9, size="128x96", overlap=0.4
    )


def simulated_tiles(folder: Path, *flags: str, **options: Any) -> list[Path]:
    """Tiles that ``zemosaic simulate`` has made in a folder."""
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    run = Running(folder.parent / "simulate", "simulate", folder, *flags, *arguments).wait()
    assert run.code == 0, run.err
    return sorted(folder.glob("*.fits"))


@pytest.fixture(scope="session")
def finished(jaeger: Jaeger, tiles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of more than 500 pairs that ended well."""
    folder = tmp_path_factory.mktemp("finished")
    return intertile(folder / "run", tiles, "--neighbours", 0, "--otlp", jaeger.otlp).wait()
