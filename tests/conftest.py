"""Fixtures of several test modules: small tiles with known truth, and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from astropy.io import fits

from tests.helpers.cli import Run
from tests.helpers.kernels import use_kernels
from tests.helpers.tiles import simulated
from tests.shortfalls import SHORTFALLS
from zemosaic.cli import run
from zemosaic.photometry import _kernels

# A loaded machine must not fail a test by the clock.
hypothesis.settings.register_profile("zemosaic", deadline=None)
hypothesis.settings.load_profile("zemosaic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the tests of promises that are not kept yet to fail."""
    for item in items:
        name, _, case = item.nodeid.rpartition("/")[2].partition("[")
        reason, cases = SHORTFALLS.get(name, ("", None))
        if cases is not None and (not cases or case.rstrip("]") in cases):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all variables that would send traces of the tests to a collector."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "JAEGER_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(params=["compiled", "reference"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with the compiled kernels, if there are any, and with those in numpy."""
    if request.param == "compiled" and not _kernels.COMPILED:
        pytest.skip("the kernels were not compiled")
    with use_kernels(getattr(_kernels, request.param)):
        yield


@pytest.fixture
def write_tiles(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write the tiles of `simulated` into the folder ``tiles`` and return their paths."""

    def write(**changes: Any) -> list[Path]:
        folder = tmp_path / "tiles"
        folder.mkdir(exist_ok=True)
        for tile in simulated(**changes):
            header = tile.wcs.to_header(relax=True)
            fits.PrimaryHDU(tile.data, header).writeto(folder / tile.name, overwrite=True)
        return sorted(folder.iterdir())

    return write


@pytest.fixture
def zemosaic(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the command line in this process."""

    def command(*arguments: Any) -> Run:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Run(code, *capsys.readouterr())

    return command


@pytest.fixture
def intertile(zemosaic: Callable[..., Run], tmp_path: Path) -> Callable[..., Run]:
    """Run ``zemosaic intertile`` in this process, with the run folder ``run``."""

    def command(*arguments: Any, pool: str = "serial") -> Run:
        return zemosaic("intertile", "-o", tmp_path / "run", "--pool", pool, *arguments)

    return command
