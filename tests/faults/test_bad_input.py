"""Numbers, names and files that no timer, disk or reader takes: one line each, before any work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.command import PROGRAM
from tests.helpers.cli import Run
from zemosaic import Settings
from zemosaic.errors import UserError

ARGUMENTS = [
    (("--heartbeat", "inf"), "heartbeat is inf; give 0.01 to 86400 seconds"),
    (("--heartbeat", "nan"), "heartbeat is nan"),
    (("--heartbeat", "1e10"), "heartbeat is 10000000000.0"),
    (("--heartbeat", "1e-9"), "heartbeat is 1e-09"),
    (("--pair-timeout", "1e12"), "pair_timeout is 1000000000000.0; give 0 to wait for ever"),
    (("--stage-timeout", "-1"), "--stage-timeout"),
    (("--stage-timeout", "nan"), "--stage-timeout"),
    (("--mosaic", ""), "'--mosaic': the name is empty"),
    (("--apply", ""), "'--apply': the name is empty"),
    (("-o", ""), "the name is empty"),
    (("--mosaic", "x" * 300), "cannot be written (File name too long); choose another name"),
    (("--apply", "x" * 300), "cannot be written (File name too long); choose another folder"),
]


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[str, str],
    words: str,
    tiles: list[str],
    tmp_path: Path,
    zemosaic: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 2 with the name of the option and a remedy, and no run folder."""
    monkeypatch.chdir(tmp_path)
    done = zemosaic("intertile", *tiles, *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    if sys.platform == "linux" or "too long" not in words:
        assert words in done.err
    assert not (tmp_path / "zemosaic-run").exists()


@pytest.mark.parametrize("heartbeat", [0.01, 86400.0])
def test_the_bounds_of_the_heartbeat_are_allowed(heartbeat: float) -> None:
    """They are the shortest and the longest that timers take."""
    assert Settings(heartbeat=heartbeat).heartbeat == heartbeat
    with pytest.raises(UserError):
        Settings(heartbeat=heartbeat * 1.1 if heartbeat > 1 else heartbeat / 2)


def test_links_in_a_circle_and_endless_axes_cost_one_tile(
    tiles: list[str], tmp_path: Path, zemosaic: Callable[..., Run]
) -> None:
    """Each is one line with its file; the others are solved."""
    endless, loop = tmp_path / "endless.fits", tmp_path / "loop.fits"
    content = bytearray(Path(tiles[0]).read_bytes())
    place = content.index(b"NAXIS   =")
    content[place : place + 80] = b"NAXIS   =           2147483647".ljust(80)
    endless.write_bytes(content)
    inputs = [*tiles, endless]
    try:
        loop.symlink_to(loop)
        inputs.append(loop)
    except OSError:  # without the right to make links
        pass
    done = zemosaic("intertile", *inputs, "-o", tmp_path / "run", "--pool", "serial")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "endless.fits: cannot be read as FITS (its NAXIS is 2147483647" in done.err
    assert loop not in inputs or "loop.fits: is a symbolic link that leads to no file" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("option", ["--no-report", "--json"])
def test_a_full_standard_output_is_named(tiles: list[str], tmp_path: Path, option: str) -> None:
    """The tables are written; one line names the stream, not the run folder."""
    words = ["intertile", *tiles, "-o", str(tmp_path / "run"), "--pool", "serial", option]
    command = [sys.executable, "-c", PROGRAM, *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "zemosaic: standard output: No space left on device"
    assert (tmp_path / "run" / "corrections.ecsv").exists()
