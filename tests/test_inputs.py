"""The inputs of the command line: folders, patterns, lists and standard input."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from tests.helpers.cli import Run
from zemosaic.cli.inputs import expand_inputs

Command = Callable[..., Run]
WriteTiles = Callable[..., list[Path]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.fits", "a.fits", "c.FIT", "d.fits.gz", "notes.txt", "tile_[1].fits"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_a_folder_stands_for_its_fits_files(folder: Path) -> None:
    """Sorted by name, compressed ones included, and nothing else."""
    names = ["a.fits", "b.fits", "c.FIT", "d.fits.gz", "tile_[1].fits"]
    assert expand_inputs([str(folder)]) == [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.fits", ["a.fits", "b.fits", "tile_[1].fits"]),
        ("[ab].fits", ["a.fits", "b.fits"]),
        ("?.fits[SCI,2]", ["a.fits[SCI,2]", "b.fits[SCI,2]"]),
        ("tile_[1].fits", ["tile_[1].fits"]),
        ("a.fits[SCI,2]", ["a.fits[SCI,2]"]),
        ("missing.fits", ["missing.fits"]),
        ("missing.fits[2]", ["missing.fits[2]"]),
        ("x*.fits", ["x*.fits"]),
    ],
)
def test_a_pattern_stands_for_its_matches(folder: Path, pattern: str, names: list[str]) -> None:
    """Sorted, with the image given after it; files of that very name and plain names stay."""
    assert expand_inputs([pattern]) == names


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\0"])
def test_a_list_has_a_name_per_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    """In its order, in a file as on standard input; lines may end in any way, or in zero bytes."""
    content = ending.join([b"b.fits", b"a file.fits", b""])
    (folder / "list.txt").write_bytes(content)
    feed(monkeypatch, content)
    names = ["b.fits", "a file.fits"]
    assert expand_inputs(["@list.txt", "-", "a.fits"]) == [*names, *names, "a.fits"]


def test_comments_and_empty_lines_are_no_names(folder: Path) -> None:
    """Nor is the byte order mark of an editor under Windows."""
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf# night 1\n\n  a.fits  \n")
    assert expand_inputs(["@list.txt"]) == ["a.fits"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_need_not_be_utf_8(folder: Path) -> None:
    """The bytes of a name reach the disk unchanged."""
    (folder / "list.txt").write_bytes(b"caf\xe9.fits\n")
    (name,) = expand_inputs(["@list.txt"])
    assert os.fsencode(name) == b"caf\xe9.fits"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("@none.txt", "@none.txt: the list cannot be read (No such file or directory)"),
        ("@empty.txt", "empty.txt: holds no names"),
        ("empty", "empty: holds no FITS files"),
    ],
)
def test_an_argument_without_files_is_refused(folder: Path, argument: str, message: str) -> None:
    """One line names the argument."""
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    with pytest.raises(click.UsageError) as error:
        expand_inputs([argument])
    assert message in error.value.message
    assert "\n" not in error.value.message


def test_all_forms_give_the_same_run(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The tables of a folder and of a list equal those of the names, in the order of the names."""
    files = write_tiles()
    tables = []
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)))
    for arguments in (files, [files[0].parent], [f"@{tmp_path / 'list.txt'}"]):
        assert intertile(*arguments).code == 0
        (table,) = tmp_path.rglob("corrections.ecsv")
        tables.append(table.read_bytes())
        table.unlink()
    assert tables[0] == tables[1] == tables[2]
