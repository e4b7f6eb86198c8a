"""Files that appear whole or not at all, and files given more than once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename that file to `path` at the end.

    The suffix stays, because it may select a compression. If the block raises, the temporary file
    is removed and `path` keeps its content.
    """
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_different(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise `UserError` if a file is given twice: it would count twice, as its own neighbour."""
    seen = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise UserError(f"{os.fspath(path)}: is given twice; give each tile once")
        seen.add(real)
