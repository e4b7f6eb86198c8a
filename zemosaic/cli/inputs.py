"""The inputs of the command line: names, folders, patterns and lists of names.

Windows expands no patterns, and a long list of names does not fit into the arguments of a command.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator

import click

from ..photometry.tiles.file_options import split_input

#: Endings of FITS files; the case does not matter.
PLAIN_ENDINGS = (".fits", ".fit", ".fts")
FITS_ENDINGS = tuple(
    plain + packed for plain in PLAIN_ENDINGS for packed in ("", ".gz", ".fz", ".bz2", ".zip", ".z")
)
STANDARD_INPUT = "-"
LIST_MARK = "@"


def expand_inputs(arguments: Iterable[str]) -> list[str]:
    """Return the names of the files that the arguments stand for, in their order.

    ``-`` stands for the names in standard input, ``@list.txt`` for the names in a file, a folder
    for the FITS files in it, and a pattern (``*``, ``?``, ``[...]``) for the matching files. A file
    of that very name, or a pattern without a match, stands for itself. Folders and patterns are
    sorted by name.

    Raises
    ------
    click.UsageError
        A list cannot be read, or a list or a folder is empty.
    """
    return [name for argument in arguments for name in _expand(argument)]


def _expand(argument: str) -> Iterable[str]:
    if argument == STANDARD_INPUT:
        return _names(sys.stdin.buffer.read(), "standard input")
    # A folder in the place of a file is reported as an unusable tile.
    if os.path.isdir(argument) and not argument.lower().endswith(FITS_ENDINGS):
        return _files_of_folder(argument)
    if os.path.exists(argument):
        return [argument]
    if argument.startswith(LIST_MARK):
        return _read_list(argument[len(LIST_MARK) :])
    return _match(argument)


def _read_list(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            return _names(file.read(), path)
    except OSError as error:
        raise click.UsageError(
            f"{LIST_MARK}{path}: the list cannot be read ({error.strerror}); give a file with one "
            "name per line"
        ) from None


def _names(content: bytes, place: str) -> list[str]:
    """Return the names in a list: one per line, or separated by zero bytes as ``find -print0``."""
    if b"\0" in content:
        names = content.split(b"\0")
    else:
        lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
        names = [line.strip() for line in lines if not line.lstrip().startswith(b"#")]
    found = [os.fsdecode(name) for name in names if name]
    if not found:
        raise click.UsageError(f"{place}: holds no names; give one file per line")
    return found


def _files_of_folder(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.lower().endswith(FITS_ENDINGS))
    except OSError as error:
        raise click.UsageError(f"{folder}: cannot be read ({error.strerror})") from None
    if not names:
        raise click.UsageError(f"{folder}: holds no FITS files ({', '.join(PLAIN_ENDINGS)})")
    return [os.path.join(folder, name) for name in names]


def _match(argument: str) -> Iterator[str]:
    """Yield the files that match a pattern, each with the image given with it."""
    pattern, key = split_input(argument)
    if key is not None and not glob.has_magic(pattern) and not os.path.exists(pattern):
        pattern, key = argument, None  # the brackets may belong to a pattern: tile_[0-9]
    if not glob.has_magic(pattern) or os.path.exists(pattern):
        yield argument  # if it is no file, its scan reports so
        return
    matches = sorted(glob.glob(pattern)) or [pattern]  # the name of a missing file, for its scan
    yield from (match if key is None else f"{match}[{key}]" for match in matches)
