"""The calibration: its stages, the tasks of its workers, and its results."""

from __future__ import annotations

from pathlib import Path

from .._version import __version__

#: Modules that worker processes import before their first task.
PRELOAD = (f"{__name__}.tasks",)


def describe_package() -> str:
    """Return the version, the folder and the kind of kernels of the imported package."""
    from ..photometry._kernels import COMPILED

    kernels = "compiled kernels" if COMPILED else "no compiled kernels"
    return f"zemosaic {__version__} ({kernels}) in {Path(__file__).parents[1]}"
