"""Branches for Windows and macOS, as far as they can be checked on another system."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table

from zemosaic.errors import UserError
from zemosaic.files import atomic_write, require_different
from zemosaic.runtime import make_pool, stacks
from zemosaic.runtime.process_start import start_context
from zemosaic.runtime.run_folder import RunFolder
from zemosaic.text import shell_command

#: Python's own UTF-8 mode would hide the encoding of the system.
OLD_ENCODING = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


class Held:
    """An `os.replace` that fails as on Windows while a program has the file open."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.replace = os.replace

    def __call__(self, source: Any, target: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise PermissionError(errno.EACCES, "Access is denied", source, None, target)
        self.replace(source, target)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("windows")
def test_an_open_file_is_replaced_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows replaces no open file; a virus scanner has a new one open for a moment."""
    monkeypatch.setattr(os, "replace", Held(failures=3))
    with atomic_write(tmp_path / "a.ecsv") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ecsv"]


@pytest.mark.usefixtures("windows")
def test_a_file_that_stays_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name of the output, and the old file stays."""
    (tmp_path / "a.ecsv").write_text("old")
    monkeypatch.setattr(os, "replace", Held(failures=99))
    with (
        pytest.raises(OSError, match="close the programs") as caught,
        atomic_write(tmp_path / "a.ecsv") as temporary,
    ):
        temporary.write_text("new")
    assert caught.value.filename == tmp_path / "a.ecsv"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_elsewhere_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On POSIX an open file is replaced, so an error is final and has the name of the output."""
    monkeypatch.setattr(sys, "platform", "linux")
    held = Held(failures=99)
    monkeypatch.setattr(os, "replace", held)
    with pytest.raises(PermissionError) as caught, atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (caught.value.filename, held.failures) == (tmp_path / "a", 98)


@pytest.mark.usefixtures("windows")
def test_commands_are_quoted_for_the_shell_of_windows() -> None:
    """Neither cmd nor programs know single quotes."""
    words = ["zemosaic", "intertile", r"C:\my tiles\a.fits", "-o", "run"]
    assert shell_command(words) == r'zemosaic intertile "C:\my tiles\a.fits" -o run'


@pytest.mark.usefixtures("windows")
def test_windows_has_no_more_workers_than_it_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for 63 handles at once."""
    started = []
    monkeypatch.setattr(
        "zemosaic.runtime.process_pool.ProcessPool", lambda workers, *_: started.append(workers)
    )
    make_pool.make_pool("processes", 128)
    make_pool.make_pool("processes", 8)
    assert started == [60, 8]


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver"
)
@pytest.mark.parametrize(("platform", "method"), [("darwin", "spawn"), ("linux", "forkserver")])
def test_workers_are_spawned_on_macos(
    platform: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frameworks crash in forked processes."""
    monkeypatch.setattr(sys, "platform", platform)
    assert start_context([]).get_start_method() == method


def test_a_file_with_two_names_is_one(tmp_path: Path) -> None:
    """As two spellings on a disk that ignores case, hard links are names of one file."""
    (tmp_path / "a.fits").write_text("x")
    os.link(tmp_path / "a.fits", tmp_path / "A2.fits")
    with pytest.raises(UserError, match="given twice"):
        require_different([tmp_path / "a.fits", tmp_path / "A2.fits"])
    require_different([tmp_path / "a.fits", tmp_path / "missing.fits"])


def test_stacks_that_cannot_be_removed_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a worker of a dead run may still have its stack open."""
    stacks.create_folder(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    stacks.create_folder(tmp_path)
    assert RunFolder(tmp_path).stacks.is_dir()


@pytest.mark.skipif(os.name == "nt", reason="sets the encoding by the locale of POSIX")
def test_tables_are_utf8_whatever_the_encoding_of_the_system(tmp_path: Path) -> None:
    """Names of files need not be in the code page of Windows."""
    script = (
        "import sys, pathlib; from astropy.table import Table\n"
        "from zemosaic.pipeline.tables import write_table\n"
        "write_table(Table({'file': ['\\u65e5.fits'], 'gain': [1.5]}), pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / "t.ecsv"
    environment = os.environ | OLD_ENCODING
    subprocess.run([sys.executable, "-c", script, path], env=environment, check=True)
    assert b"\r" not in path.read_bytes()
    table = Table.read(path, format="ascii.ecsv", encoding="utf-8")
    assert table["file"].tolist() == ["日.fits"]


def test_a_console_with_a_code_page_loses_no_results(tmp_path: Path) -> None:
    """Characters that the encoding of the console lacks are printed as escapes."""
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}

    def zemosaic(*arguments: str) -> str:
        command = [sys.executable, "-c", "from zemosaic.cli import main; main()", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode("cp1252")

    zemosaic("simulate", "t", "--tiles", "2", "--size", "128x128")
    os.rename(tmp_path / "t" / "tile_0000.fits", tmp_path / "t" / "日.fits")
    done = zemosaic("intertile", "t/日.fits", "t/tile_0001.fits", "-o", "日", "--pool", "serial")
    assert "corrections  \\u65e5" in done
    assert "finished" in zemosaic("autopsy", "日")
