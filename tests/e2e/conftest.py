"""A real Jaeger, and real runs of the command line that report to it.

Jaeger is a program, `JAEGER_BIN` (or ``jaeger`` on PATH), or a running stack, `JAEGER_URL`. The
tests pass with Jaeger 2.20.0, the version of the compose stack, and with 2.13, the version that
`.ci/jaeger` builds for CI.
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

# Read here because a fixture removes these variables during the tests.
PROGRAM = os.environ.get("JAEGER_BIN") or shutil.which("jaeger")
STACK = os.environ.get("JAEGER_URL", "").rstrip("/")
ZEMOSAIC = shutil.which("zemosaic", path=sysconfig.get_path("scripts"))
NO_JAEGER = "no Jaeger: set JAEGER_BIN (bash .ci/jaeger builds one, with Go) or JAEGER_URL"
TIMEOUT = 300  # seconds that a run may take on a slow machine


class RunFolder:
    """The present contents of a run folder."""

    folder: Path

    @property
    def resource_spans(self) -> list[Any]:
        """The contents of the trace file, without an incomplete last line."""
        text = (self.folder / "trace.jsonl").read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [entry for line in lines for entry in read_otlp_json(line)]

    @property
    def spans(self) -> list[Any]:
        """The spans of the trace file."""
        return spans_of(self.resource_spans)

    @property
    def trace_id(self) -> str:
        """The id of the only trace in the file."""
        ids = {span.trace_id.hex() for span in self.spans}
        assert len(ids) == 1
        return ids.pop()


@dataclass(frozen=True)
class Run(RunFolder):
    """An ended run of the command line."""

    folder: Path
    code: int
    out: str
    err: str


class Running(RunFolder):
    """A running command line in a process of its own."""

    def __init__(self, folder: Path, *arguments: Any, **environment: str) -> None:
        assert ZEMOSAIC, "zemosaic is not installed beside this Python"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._outputs = [folder.with_suffix(end) for end in (".out", ".err")]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "JAEGER_"))}
        with self._outputs[0].open("w") as out, self._outputs[1].open("w") as err:
            self.process = subprocess.Popen(
                [ZEMOSAIC, *map(str, arguments)],
                env={**inherited, **environment}, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill the run like kill -9, but not its workers."""
        self.process.kill()
        self.process.wait()

    def clean_up(self) -> None:
        """Kill the run and its workers, if they are alive."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> Run:
        """Wait for the end and return the result."""
        code = self.process.wait(TIMEOUT)
        return Run(
            self.folder, code, *(output.read_text(encoding="utf-8") for output in self._outputs)
        )


def intertile(folder: Path, tiles: list[Path], *arguments: Any, **environment: str) -> Running:
    """Start ``zemosaic intertile`` on tiles, with a run folder."""
    return Running(folder, "intertile", *tiles, "-o", folder, *arguments, **environment)


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """The Jaeger of this session: a running stack, or a new process."""
    if STACK:
        yield Jaeger(STACK, f"http://{urlsplit(STACK).hostname}:4318")
        return
    own = _own(tmp_path_factory.mktemp("jaeger"))
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="session")
def memory_jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """A Jaeger that keeps every copy of a span."""
    own = _own(tmp_path_factory.mktemp("memory"), in_memory=True)
    own.start()
    yield own
    own.stop()


@pytest.fixture
def own_jaeger(tmp_path: Path) -> Iterator[OwnJaeger]:
    """A Jaeger that a test may start, stop and kill."""
    own = _own(tmp_path)
    yield own
    own.stop(kill=True)


def _own(folder: Path, *, in_memory: bool = False) -> OwnJaeger:
    if not PROGRAM:
        pytest.skip(NO_JAEGER)
    return OwnJaeger(PROGRAM, folder, in_memory=in_memory)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small tiles with more than 500 pairs, which are measured in seconds."""
    return simulated_tiles(
        tmp_path_factory.mktemp("many") / "tiles", tiles=56, size="64x48", overlap=0.7, rotation=1
    )


@pytest.fixture(scope="session")
def few_tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiles with one or two dozen pairs."""
    return simulated_tiles(
        tmp_path_factory.mktemp("few") / "tiles", tiles=9, size="128x96", overlap=0.4
    )


def simulated_tiles(folder: Path, *flags: str, **options: Any) -> list[Path]:
    """Make tiles with ``zemosaic simulate`` and return their paths."""
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    run = Running(folder.parent / "simulate", "simulate", folder, *flags, *arguments).wait()
    assert run.code == 0, run.err
    return sorted(folder.glob("*.fits"))


@pytest.fixture(scope="session")
def finished(jaeger: Jaeger, tiles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A successful run of more than 500 pairs."""
    folder = tmp_path_factory.mktemp("finished")
    return intertile(folder / "run", tiles, "--neighbours", 0, "--otlp", jaeger.otlp).wait()
