"""The walls of the house, read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zemosaic

PACKAGE = Path(zemosaic.__file__).parent
MODULES = {
    ".".join(("zemosaic", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}
PHOTOMETRY = (
    "compiled", "fits_files", "tiles", "sampling", "preview", "overlap", "regression", "blocks",
    "cells", "rough", "refine", "measure", "sparse", "graph", "planes",
    "registration", "channel", "solve", "apply",
    "mosaic", "simulate",
)  # fmt: skip
#: What the numerics may not touch: futures, telemetry, logs, clocks.
IMPURE = {"concurrent", "logging", "opentelemetry", "time", "datetime", "multiprocessing"}


def imported_by(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def wing(name: str) -> dict[str, Path]:
    return {m: path for m, path in MODULES.items() if within(m, f"zemosaic.{name}")}


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("photometry", ("zemosaic.runtime", "zemosaic.observe")),
        ("runtime", ("zemosaic.photometry", "zemosaic.observe")),
        ("observe", ("zemosaic.photometry", "numpy", "scipy", "zemosaic.phase")),
    ],
)
def test_a_wing_does_not_know_the_others(name: str, foreign: tuple[str, ...]) -> None:
    """photometry, runtime and observe keep to themselves."""
    assert len(wing(name)) > 2
    for module, path in wing(name).items():
        bad = [target for target in imported_by(path) if within(target, *foreign)]
        assert not bad, f"{module} imports {bad}"


def test_observers_know_the_events_and_nothing_else_of_the_runtime() -> None:
    """observe imports runtime.events, and the formats of the files of a run folder."""
    allowed = [f"zemosaic.runtime.{name}" for name in ("events", "journal", "inflight", "stacks")]
    for module, path in wing("observe").items():
        bad = [
            target
            for target in imported_by(path)
            if within(target, "zemosaic.runtime")
            and not within(target, *allowed)
            and target != "zemosaic.runtime"
        ]
        assert not bad, f"{module} imports {bad}"


def test_numerics_are_pure() -> None:
    """photometry knows no futures, telemetry, logs or clocks."""
    for module, path in wing("photometry").items():
        bad = [target for target in imported_by(path) if within(target, *IMPURE)]
        assert not bad, f"{module} imports {bad}"


def test_photometry_imports_only_upwards() -> None:
    """Each module of the data flow imports only those above it in the list."""
    assert {m.rpartition(".")[2] for m in wing("photometry")} == {*PHOTOMETRY, "__init__"}
    for place, name in enumerate(PHOTOMETRY):
        allowed = {f"zemosaic.photometry.{above}" for above in PHOTOMETRY[:place]}
        ours = {
            target
            for target in imported_by(MODULES[f"zemosaic.photometry.{name}"])
            if target in MODULES and within(target, "zemosaic.photometry")
        }
        assert ours <= allowed, f"{name} imports {ours - allowed}"


def test_opentelemetry_lives_in_two_modules() -> None:
    """The API in observe/telemetry.py, the SDK in observe/exporters.py, nothing elsewhere."""
    for module, path in MODULES.items():
        targets = [t for t in imported_by(path) if within(t, "opentelemetry")]
        if module == "zemosaic.observe.telemetry":
            assert targets
            assert not [t for t in targets if within(t, "opentelemetry.sdk")]
        elif module != "zemosaic.observe.exporters":
            assert not targets, f"{module} imports {targets}"


def test_import_zemosaic_is_light() -> None:
    """`import zemosaic` alone imports neither numpy nor anything else that is heavy."""
    program = (
        "import sys, zemosaic; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'scipy', 'astropy', 'reproject', 'opentelemetry', 'rich', 'click'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    """Everything in __all__ can be imported, and nothing else is made up."""
    for name in zemosaic.__all__:
        assert getattr(zemosaic, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        zemosaic.__getattr__("calibrat")


def test_every_test_says_its_promise() -> None:
    """Each test function of the suite has a docstring."""
    silent = [
        f"{path.name}:{node.name}"
        for path in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent
