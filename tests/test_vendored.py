"""A copy of the package works under any name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zemosaic
from tests.helpers.tiles import simulated

PROGRAM = """
import multiprocessing
import sys

class RefuseOriginal:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "zemosaic", name

def assert_no_original():
    assert not [name for name in sys.modules if name.partition(".")[0] == "zemosaic"]

# Worker processes import this file as well, after the modules that their server preloads.
assert_no_original()
has_server = "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
if __name__ != "__main__" and has_server:
    assert "vendored_name.pipeline.tasks" in sys.modules
sys.meta_path.insert(0, RefuseOriginal())

if __name__ == "__main__":
    from vendored_name import Settings, calibrate
    from vendored_name.photometry.solver.solve import Solution

    solution = calibrate(sys.argv[2:], Settings(workers=2, neighbours=0), sys.argv[1])
    assert isinstance(solution, Solution)
    assert_no_original()
    assert not solution.failed, solution.failed
    assert {record.outcome for record in solution.records} == {"measured"}
    print(solution.gain.tobytes().hex(), solution.offset.tobytes().hex())
"""


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_a_copy_under_another_name_calibrates(tmp_path: Path, pool: str) -> None:
    """With processes and with threads, without importing the original, to the same bits."""
    from astropy.io import fits

    source = Path(zemosaic.__file__).parent
    shutil.copytree(
        source, tmp_path / "vendored_name", ignore=shutil.ignore_patterns("__pycache__")
    )
    files = []
    for tile in simulated():
        path = tmp_path / tile.name
        fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(path)
        files.append(str(path))
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script, pool, *files],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = zemosaic.calibrate(files, zemosaic.Settings(workers=2, neighbours=0), "serial")
    gain, offset = (bytes.fromhex(part) for part in done.stdout.split())
    assert gain == expected.gain.tobytes()
    assert offset == expected.offset.tobytes()
