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


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("zemosaic", *(part for part in parts if part != "__init__")))


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
#: Each imports only those above it.
PHOTOMETRY = (
    "robust", "_kernels", "tiles", "preview", "overlap", "pairfit", "solver", "apply", "mosaic",
    "simulate",
)  # fmt: skip
#: The numerics use neither futures, telemetry, logs nor clocks.
IMPURE = {"concurrent", "logging", "opentelemetry", "time", "datetime", "multiprocessing"}


def imported_by(path: Path) -> Iterator[str]:
    """Absolute names of all modules, and of the names in them, that a file imports anywhere."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def wing(name: str) -> dict[str, Path]:
    return {m: path for m, path in MODULES.items() if within(m, f"zemosaic.{name}")}


def ours(*names: str) -> tuple[str, ...]:
    return tuple(f"zemosaic.{name}" for name in names)


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("photometry", ours("runtime", "observe", "report", "pipeline", "cli")),
        ("runtime", ours("photometry", "observe", "report", "pipeline", "cli")),
        ("observe", (*ours("photometry", "report", "pipeline", "cli"), "numpy", "scipy")),
        ("report", ours("photometry", "cli", "pipeline.calibrate", "pipeline.stages")),
        ("pipeline", ours("report", "cli")),
    ],
)
def test_a_wing_does_not_import_the_others(name: str, foreign: tuple[str, ...]) -> None:
    """The four wings keep to themselves, and the hall does not depend on what stands above it."""
    assert len(wing(name)) > 2
    for module, path in wing(name).items():
        bad = [target for target in imported_by(path) if within(target, *foreign)]
        assert not bad, f"{module} imports {bad}"


@pytest.mark.parametrize("name", ["observe", "report"])
def test_observers_and_the_report_import_events_and_file_formats_alone(name: str) -> None:
    """Of the runtime they use the events and the formats of the files of a run folder."""
    allowed = ours(
        *(f"runtime.{part}" for part in ("events", "journal", "inflight", "stacks", "run_folder"))
    )
    for module, path in wing(name).items():
        bad = [
            target
            for target in imported_by(path)
            if within(target, "zemosaic.runtime")
            and not within(target, *allowed)
            and target != "zemosaic.runtime"
        ]
        assert not bad, f"{module} imports {bad}"


def test_imports_inside_the_package_are_relative() -> None:
    """A copy of the package under another name therefore imports its own modules."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(within(a.name, "zemosaic") for a in node.names), module
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert not within(node.module or "", "zemosaic"), module


def test_numerics_are_pure() -> None:
    """photometry knows no futures, telemetry, logs or clocks."""
    for module, path in wing("photometry").items():
        bad = [target for target in imported_by(path) if within(target, *IMPURE)]
        assert not bad, f"{module} imports {bad}"


def test_photometry_imports_only_upwards() -> None:
    """Each part of the data flow imports only those above it in the list."""
    prefix = "zemosaic.photometry."
    assert {m.removeprefix(prefix).partition(".")[0] for m in wing("photometry")} == {
        *PHOTOMETRY, "zemosaic",
    }  # fmt: skip
    for place, name in enumerate(PHOTOMETRY):
        allowed = ours(*(f"photometry.{above}" for above in PHOTOMETRY[: place + 1]))
        for module, path in wing(f"photometry.{name}").items():
            bad = [
                target
                for target in imported_by(path)
                if within(target, "zemosaic.photometry")
                and not within(target, *allowed)
                and target != "zemosaic.photometry"
            ]
            assert not bad, f"{module} imports {bad}"


def test_opentelemetry_lives_in_three_modules() -> None:
    """The API in observe/telemetry.py, the SDK in exporters.py and live.py, nothing elsewhere."""
    for module, path in MODULES.items():
        targets = [t for t in imported_by(path) if within(t, "opentelemetry")]
        if module == "zemosaic.observe.telemetry":
            assert targets
            assert not [t for t in targets if within(t, "opentelemetry.sdk")]
        elif module not in ours("observe.exporters", "observe.live"):
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
