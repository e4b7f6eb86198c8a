"""The current folder and a prepared run folder change nothing but the place of the results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import Run

SCRIPT = """
import multiprocessing, sys
method = sys.argv.pop(1)
multiprocessing.get_all_start_methods = lambda: [method]
if __name__ == "__main__":
    from zemosaic.cli import main
    main()
"""
HOSTILE = "import pathlib; pathlib.Path(__file__ + '.ran').touch(); raise SystemExit(7)\n"
METHODS = ["spawn"] if os.name == "nt" else ["spawn", "forkserver"]


def run_from(folder: Path, script: Path, method: str, *arguments: str) -> Run:
    """Run the command as the installed script does, with a current folder and a start method."""
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("method", METHODS)
def test_no_file_of_the_current_folder_is_imported(
    method: str, tiles: list[str], tmp_path: Path
) -> None:
    """Workers import what the run has imported, not packages and modules that lie in the folder."""
    (tmp_path / "bin").mkdir()
    here = tmp_path / "downloads"
    (here / "zemosaic").mkdir(parents=True)
    names = ["zemosaic/__init__", "numpy", "astropy", "socket", "pickle", "selectors", "signal"]
    for name in names:
        (here / f"{name}.py").write_text(HOSTILE)
    done = run_from(here, tmp_path / "bin" / "command.py", method, "intertile", *tiles,
                    "--workers", "2", "--no-report")  # fmt: skip
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
