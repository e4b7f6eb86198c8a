"""The current folder and a prepared run folder change nothing but the place of the results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.cli import Run
from zemosaic.errors import UserError
from zemosaic.files import no_follow
from zemosaic.runtime.run_folder import RunFolder, claim

SCRIPT = """
import multiprocessing, sys
method = sys.argv.pop(1)
multiprocessing.get_all_start_methods = lambda: [method]
if __name__ == "__main__":
    from zemosaic.cli import main
    main()
"""
UNGUARDED = """
import multiprocessing, sys
from zemosaic import Settings, calibrate
from zemosaic.errors import UserError
multiprocessing.get_all_start_methods = lambda: [sys.argv[1]]
try:
    calibrate(sys.argv[2:], Settings(workers=2))
except UserError as error:
    print(error)
"""
HOSTILE = "import pathlib; pathlib.Path(__file__ + '.ran').touch(); raise SystemExit(7)\n"
METHODS = ["spawn"] if os.name == "nt" else ["spawn", "forkserver"]


def run_from(folder: Path, script: Path, method: str, *arguments: str) -> Run:
    """Run the command as the installed script does, with a current folder and a start method."""
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("pool", "method"), [*(("processes", m) for m in METHODS), ("dask", "spawn")]
)
def test_no_file_of_the_current_folder_is_imported(
    pool: str, method: str, tiles: list[str], tmp_path: Path
) -> None:
    """Workers import what the run has imported, not packages and modules that lie in the folder."""
    (tmp_path / "bin").mkdir()
    here = tmp_path / "downloads"
    (here / "zemosaic").mkdir(parents=True)
    names = ["zemosaic/__init__", "numpy", "astropy", "socket", "pickle", "selectors", "signal"]
    names += ["distributed", "dask", "tornado"]
    for name in names:
        (here / f"{name}.py").write_text(HOSTILE)
    done = run_from(here, tmp_path / "bin" / "command.py", method, "intertile", *tiles,
                    "--workers", "2", "--no-report", "--pool", pool,
                    "--heartbeat", "100")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert not list(here.rglob("*.ran"))


@pytest.mark.parametrize("method", METHODS)
def test_workers_with_another_package_end_the_run(
    method: str, tiles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers without the kernels of the run would give other bits: one line and exit 2."""
    script = tmp_path / "command.py"
    if "(compiled kernels)" not in run_from(tmp_path, script, method, "--version").out:
        pytest.skip("has no compiled kernels")
    # Processes started by multiprocessing begin as `python -c`.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '-c' in sys.orig_argv:\n"
        "    sys.modules['zemosaic.photometry._kernels.compiled'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_from(tmp_path, script, method, "intertile", *tiles, "--workers", "2", "-q")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "the workers have imported zemosaic" in done.err
    assert "(no compiled kernels)" in done.err


LINKS = [
    ".lock", "journal.jsonl", "trace.jsonl", "thumbs.npy", "inflight.bin", "corrections.ecsv",
    "pairs.ecsv", "report.html", "previews", "stacks", "figures",
]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_the_run_folder_is_refused(
    name: str, tiles: list[str], tmp_path: Path, zemosaic: Callable[..., Run]
) -> None:
    """One line names it, and nothing is written where it leads."""
    target, folder = tmp_path / "target", tmp_path / "run"
    folder.mkdir()
    if "." in name:
        target.write_text("precious")
    else:
        target.mkdir()
    try:
        (folder / name).symlink_to(target)
    except OSError:
        pytest.skip("needs the right to make links")
    done = zemosaic("intertile", *tiles, "-o", folder, "--pool", "serial")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"{folder / name}: is a symbolic link" in done.err
    assert target.read_text() == "precious" if "." in name else not list(target.iterdir())


def test_a_link_made_later_is_not_followed(tmp_path: Path) -> None:
    """Every file of a run is opened by `no_follow`."""
    (tmp_path / "target").write_text("precious")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "target")
    except OSError:
        pytest.skip("needs the right to make links")
    with pytest.raises(OSError, match="link"):
        no_follow(tmp_path / "link", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives a folder away")
def test_a_folder_of_another_user_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    """One that only its owner can write is not."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.chown(folder, 54321)
    with claim(folder):
        assert RunFolder(folder).lock.exists()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="belongs to another user"), claim(folder):
        pass


@pytest.mark.skipif(os.name == "nt", reason="file names cannot hold control characters")
def test_control_characters_do_not_reach_the_terminal(
    tiles: list[str], tmp_path: Path, zemosaic: Callable[..., Run]
) -> None:
    """Neither those of file names nor those of headers, in no command and no language of errors."""
    names = ["a\x1b]0;title\x07\x1b[31m.fits", "b\nzemosaic: done.fits", "c\x9b2J\u202e.fits"]
    copies = [shutil.copy2(tile, tmp_path / name) for tile, name in zip(tiles, names, strict=False)]
    (tmp_path / "d\x1b[2J.fits").write_bytes(b"SIMPLE  =                    T" + b"\x1b[31m" * 400)
    folder = tmp_path / "run\x1b[1m"
    arguments = [*copies, tmp_path / "d\x1b[2J.fits", "-o", folder, "--pool", "serial"]
    runs = [zemosaic("intertile", *arguments, "-v")]
    runs += [zemosaic(command, folder) for command in ("autopsy", "status", "report")]
    runs.append(zemosaic("intertile", tmp_path / "none\x1b[2J.fits", *copies[:1], "-o", folder))
    for run in runs:
        shown = run.out + run.err
        assert not {c for c in shown if c < " " and c != "\n"} | ({*shown} & {"\x9b", "\u202e"})
        assert "\nzemosaic: done" not in shown
    assert "a\\x1b]0;title\\x07" in runs[0].err
    assert "d\\x1b[2J.fits" in runs[0].err


@pytest.mark.parametrize("method", METHODS)
def test_a_script_that_its_workers_would_run_ends_with_one_line(
    method: str, tiles: list[str], tmp_path: Path
) -> None:
    """Workers import the script of a run; without a guard each would start a run of its own."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(script), method, *tiles],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == (
        "the workers import the script of the run, which starts another run; put its calls under: "
        'if __name__ == "__main__":\n'
    )
