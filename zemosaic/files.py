"""Files that appear whole or not at all, their names, and files given more than once."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

#: Characters of a name kept by its temporary file, so no name is too long for a disk.
NAME_END = 40


def no_follow(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a file as `os.open` does, but no symbolic link; an opener for `open`.

    Raises
    ------
    OSError
        The path is a symbolic link, or the file cannot be opened.
    """
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):  # Windows
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename the file there to `path` at the end.

    The suffix stays, because it may select a compression. If the block raises, the temporary file
    is removed and `path` keeps its content.
    """
    # The name cannot be guessed, so no link can wait there.
    token = secrets.token_hex(4)
    temporary = path.with_name(f".{os.getpid()}-{token}.part.{path.name[-NAME_END:]}")
    try:
        yield temporary
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """Rename a file; on Windows, wait until other programs have closed the replaced file.

    There a file open in a spreadsheet, or for a moment in a virus scanner, is not replaced.

    Raises
    ------
    OSError
        As `os.replace`, but naming the output, not the temporary file.
    """
    for pause in (0.05, 0.2, 0.5, 0.0):
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            is_open = sys.platform == "win32" and isinstance(error, PermissionError)
            if not (is_open and pause):
                reason = f"{error.strerror}; close the programs that have it open"
                raise OSError(error.errno, reason if is_open else error.strerror, path) from None
        time.sleep(pause)


def sweep(path: Path) -> None:
    """Remove the temporary files of a path left by dead processes; not on Windows.

    There a process cannot be asked whether it lives.
    """
    if sys.platform == "win32":
        return
    for left in path.parent.glob(f".*.part.{glob.escape(path.name[-NAME_END:])}"):
        pid = left.name[1:].partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            left.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return True


#: Compressions that can be read but not written.
_READ_ONLY_SUFFIXES = (".zip", ".z")


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a different file name for each absolute path, for outputs in one folder.

    The name is the base name. Where several paths share it, also on a disk that ignores case, the
    differing parts of their folders go before it: ``night1_m31.fits``. The names do not depend on
    the order of the paths.
    """
    named: dict[str, list[Path]] = {}
    for path in sorted({Path(os.path.abspath(path)) for path in paths}):
        named.setdefault(_writable_name(path).casefold(), []).append(path)
    names = {group[0]: _writable_name(group[0]) for group in named.values() if len(group) == 1}
    taken = {name.casefold() for name in names.values()}
    for namesakes in named.values():
        if len(namesakes) == 1:
            continue
        for path, folder in zip(namesakes, _differing_parts(namesakes), strict=True):
            name = wanted = "_".join([*folder, _writable_name(path)])
            number = 2
            while name.casefold() in taken:
                name, number = f"{number}_{wanted}", number + 1
            names[path] = name
            taken.add(name.casefold())
    return names


def _writable_name(path: Path) -> str:
    return path.stem if path.suffix.lower() in _READ_ONLY_SUFFIXES else path.name


def _differing_parts(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return the folders of each path without leading and trailing folders shared by all."""
    folders = [tuple(part.strip("/\\:") for part in path.parent.parts) for path in paths]
    for _ in range(2):
        while all(folders) and len({folder[0] for folder in folders}) == 1:
            folders = [folder[1:] for folder in folders]
        folders = [folder[::-1] for folder in folders]
    return folders


def require_different(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise `UserError` if a file is given twice: it would count twice, as its own neighbour."""
    seen = set()
    for path in paths:
        file = file_identity(path)
        if file in seen:
            raise UserError(f"{os.fspath(path)}: is given twice; give each tile once")
        seen.add(file)


def file_identity(path: str | os.PathLike[str]) -> tuple[int, int] | str:
    """Return one key for all names of a file: links, and other case on a disk that ignores it."""
    with suppress(OSError):  # there is no such file yet
        status = os.stat(path)
        if status.st_ino:  # some network drives have no numbers
            return status.st_dev, status.st_ino
    return os.path.normcase(os.path.realpath(path))
