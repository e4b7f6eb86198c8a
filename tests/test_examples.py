"""The examples, run as their users run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from astropy.nddata import CCDData
from astropy.table import QTable

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: Any) -> str:
    """Run an example in a process of its own and return its output."""
    command = [sys.executable, "-W", "error::DeprecationWarning", str(EXAMPLES / name)]
    result = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_files_are_matched_and_written(write_tiles: Callable[..., list[Path]]) -> None:
    """The example for files prints the gains and writes the tables and a corrected tile."""
    folder = write_tiles()[0].parent
    assert "4 of 4 tiles in 1 group" in run_example("files.py", folder)
    assert len(QTable.read(folder / "corrections.ecsv")) == 4
    assert CCDData.read(folder / "corrected.fit").unit == "adu"


def test_frames_in_memory_are_matched() -> None:
    """The example for CCDData has less scatter in the coadd after correction than before."""
    before, after = run_example("ccd_data.py").splitlines()
    assert float(before.split()[-2]) > float(after.split()[-2])


def test_the_map_is_drawn(write_tiles: Callable[..., list[Path]], tmp_path: Path) -> None:
    """The example for maps writes a picture."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run_example("sky_map.py", write_tiles()[0].parent, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_every_example_is_tested() -> None:
    """No example is left out of this file."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py") if path.name not in text} == set()
