"""The dependency rules of the package, checked on the imports of its modules."""

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
    """Return the absolute name of the module in a file of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("zemosaic", *(part for part in parts if part != "__init__")))


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
#: The parts of photometry in the order of the data flow: each imports only those before it.
PHOTOMETRY = (
    "robust", "_kernels", "tiles", "preview", "overlap", "cosine_series", "illumination", "pairfit",
    "stars", "solver", "apply", "fine_structure", "mosaic", "simulate",
)  # fmt: skip
#: Packages that the numerics do not import: futures, telemetry, logs and clocks.
IMPURE = {"concurrent", "logging", "opentelemetry", "time", "datetime", "multiprocessing"}


def imported_by(path: Path) -> Iterator[str]:
    """Yield the absolute name of every module, and every name in it, that a file imports."""
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
    """Return whether a module is one of the packages or in one of them."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def wing(name: str) -> dict[str, Path]:
    """Return the modules of a subpackage and their files."""
    return {m: path for m, path in MODULES.items() if within(m, f"zemosaic.{name}")}


def ours(*names: str) -> tuple[str, ...]:
    """Return the absolute names of modules of the package."""
    return tuple(f"zemosaic.{name}" for name in names)


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("photometry", ours("runtime", "observe", "report", "pipeline", "cli")),
        ("runtime", ours("photometry", "observe", "report", "pipeline", "cli")),
        ("observe", (*ours("photometry", "report", "pipeline", "cli"), "numpy", "scipy")),
        (
            "report",
            (
                *ours("photometry", "cli"),
                *ours("pipeline.calibrate", "pipeline.stages", "pipeline.tile_stages"),
            ),
        ),
        ("pipeline", ours("report", "cli")),
    ],
)
def test_a_wing_does_not_import_the_others(name: str, foreign: tuple[str, ...]) -> None:
    """No wing imports another, and the pipeline imports neither the report nor the command line."""
    assert len(wing(name)) > 2
    for module, path in wing(name).items():
        bad = [target for target in imported_by(path) if within(target, *foreign)]
        assert not bad, f"{module} imports {bad}"


@pytest.mark.parametrize("name", ["observe", "report"])
def test_observers_and_the_report_import_only_events_and_file_formats(name: str) -> None:
    """From the runtime they import the events and the file formats of the run folder."""
    allowed = ours(
        *(
            f"runtime.{part}"
            for part in (
                "events",
                "observers",
                "journal",
                "job_columns",
                "inflight",
                "stacks",
                "run_folder",
            )
        )
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
    """So that a copy of the package under another name imports its own modules."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(within(a.name, "zemosaic") for a in node.names), module
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert not within(node.module or "", "zemosaic"), module


def test_numerics_are_pure() -> None:
    """photometry imports no futures, telemetry, logs or clocks."""
    for module, path in wing("photometry").items():
        bad = [target for target in imported_by(path) if within(target, *IMPURE)]
        assert not bad, f"{module} imports {bad}"


def test_dense_algebra_is_that_of_numpy() -> None:
    """The threads of scipy's OpenBLAS and of numpy's would compete."""
    for module, path in wing("photometry").items():
        assert not any(within(i, "scipy.linalg") for i in imported_by(path)), module


def test_photometry_follows_the_data_flow() -> None:
    """Each part of photometry imports only those before it in the data flow."""
    prefix = "zemosaic.photometry."
    assert {m.removeprefix(prefix).partition(".")[0] for m in wing("photometry")} == {
        *PHOTOMETRY, "zemosaic",
    }  # fmt: skip
    for position, name in enumerate(PHOTOMETRY):
        allowed = ours(*(f"photometry.{part}" for part in PHOTOMETRY[: position + 1]))
        for module, path in wing(f"photometry.{name}").items():
            bad = [
                target
                for target in imported_by(path)
                if within(target, "zemosaic.photometry")
                and not within(target, *allowed)
                and target != "zemosaic.photometry"
            ]
            assert not bad, f"{module} imports {bad}"


#: The modules that import OpenTelemetry: one its API, one makes spans, one has the exporters; and
#: the parts of it that each may import.
OPENTELEMETRY = {
    "telemetry": ("trace", "context", "metrics"),
    "live": ("trace", "context", "attributes", "sdk.trace", "sdk.resources", "sdk.util"),
    "exporters": (
        "sdk.trace", "sdk.metrics", "exporter", "proto", "util.re",
    ),
}  # fmt: skip
#: The modules that hosts of the library import, which may have the API alone.
LIBRARY = ("watching", "zemosaic_utils", "pipeline.calibrate")


def test_three_modules_import_opentelemetry() -> None:
    """Three do, each the parts of its purpose."""
    for module, path in MODULES.items():
        targets = {t for t in imported_by(path) if within(t, "opentelemetry")}
        targets.discard("opentelemetry")
        parts = OPENTELEMETRY.get(module.removeprefix("zemosaic.observe."), ())
        allowed = tuple(f"opentelemetry.{part}" for part in parts)
        foreign = {target for target in targets if not within(target, *allowed)}
        assert not foreign, f"{module} imports {foreign}"
        unused = {part for part in allowed if not any(within(t, part) for t in targets)}
        assert not unused, f"{module} does not import {unused}"


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_imports_no_sdk(module: str) -> None:
    """A library call takes the provider of its application, and needs the API alone."""
    program = (
        f"import sys, zemosaic.{module}; "
        "print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_no_private_name_of_opentelemetry_is_used() -> None:
    """No module or name that is imported from it begins with an underscore."""
    for module, path in MODULES.items():
        for target in imported_by(path):
            if within(target, "opentelemetry"):
                assert "._" not in target, f"{module} imports {target}"


def test_import_zemosaic_is_light() -> None:
    """`import zemosaic` imports neither numpy nor any other large dependency."""
    program = (
        "import sys, zemosaic; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'scipy', 'astropy', 'reproject', 'opentelemetry', 'rich', 'click'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_public_names_can_be_imported() -> None:
    """Every name in __all__ can be imported; any other name raises AttributeError."""
    for name in zemosaic.__all__:
        assert getattr(zemosaic, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        zemosaic.__getattr__("calibrat")


def test_every_test_has_a_docstring() -> None:
    """The docstring of a test states the promise that it checks."""
    undocumented = [
        f"{path.name}:{node.name}"
        for path in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not undocumented
