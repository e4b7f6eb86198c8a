"""A copy of the package for the folder of an application."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from .._version import __version__
from ..errors import UserError
from ..photometry._kernels import COMPILED

PACKAGE = Path(__file__).parents[1]
#: The file that marks a copy as replaceable.
MARK = "VENDORED"


def vendor_package(folder: Path, name: str) -> Path:
    """Copy the package into a folder under a name, with its licence; replace an earlier copy.

    Raises
    ------
    UserError
        The name is no name of a package, or belongs to something else in the folder.
    """
    if not name.isidentifier():
        raise UserError(f"{name}: is no name of a Python package; give letters, digits and _")
    target = folder / name
    if target.exists() and not (target / MARK).is_file():
        raise UserError(f"{target}: exists and is no copy made by zemosaic vendor; choose --name")
    if PACKAGE.is_relative_to(target.resolve()):
        raise UserError(f"{target}: is the package that runs now; choose another folder")
    temporary = folder / f".{name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(PACKAGE, temporary, ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.h"))
    (temporary / "LICENSE").write_text(_licence(), encoding="utf-8")
    kernels = f"compiled kernels for {sys.platform}" if COMPILED else "no compiled kernels"
    text = f"zemosaic {__version__}, {kernels}; made by zemosaic vendor, which replaces it.\n"
    (temporary / MARK).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def _licence() -> str:
    """Return the licence from the installed package, or from the source beside it."""
    sources = [PACKAGE / "LICENSE", PACKAGE.parent / "LICENSE"]
    try:
        listed = files("zemosaic") or []
    except PackageNotFoundError:
        listed = []
    sources += [Path(str(file.locate())) for file in listed if file.name == "LICENSE"]
    for path in sources:
        if path.is_file() and "BSD" in (text := path.read_text(encoding="utf-8")):
            return text
    raise UserError("the licence of zemosaic is not installed with it; install it again")
