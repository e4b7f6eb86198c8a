"""The drop-in inside a stand-in for ZeMosaic: its folders, its queue, its daemonic worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers import zemosaic_app
from tests.helpers.tiles import simulated
from zemosaic.cli import run
from zemosaic.cli.vendor import vendor_package
from zemosaic.errors import UserError
from zemosaic.observe.autopsy import examine
from zemosaic.zemosaic_utils import compute_intertile_affine_calibration


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application in a folder called zemosaic, with our package as zemosaic_phase inside."""
    folder = tmp_path_factory.mktemp("app") / "zemosaic"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "zemosaic_utils.py").write_text("OWN = True\n", encoding="utf-8")
    shutil.copy(zemosaic_app.__file__, folder / "run_zemosaic.py")
    vendor_package(folder, "zemosaic_phase")
    for tile in simulated():
        header = tile.wcs.to_header(relax=True)
        fits.PrimaryHDU(tile.data, header).writeto(folder.parent / f"{tile.name}.fits")
    return folder


def start(app: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the application from its folder, which comes first on its path."""
    files = sorted(map(str, app.parent.glob("*.fits")))
    arguments = json.dumps(["zemosaic_phase", {"files": files, "cpu_workers": 2, **options}])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "run_zemosaic.py", arguments],
        cwd=app, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def messages(process: subprocess.Popen[str]) -> Iterator[list[Any]]:
    """Yield what the queue of the application receives."""
    assert process.stdout is not None
    return map(json.loads, process.stdout)


@pytest.mark.parametrize("pool", ["auto", "threads"])
def test_its_daemonic_worker_calibrates_with_the_vendored_copy(app: Path, pool: str) -> None:
    """With processes of its own or with threads: the same bits as here, and no error."""
    with start(app, pool=pool) as process:
        received = list(messages(process))
    module, corrections = next(m[1:3] for m in received if m[0] == "RESULT")
    assert Path(module).parent == app / "zemosaic_phase"
    files = sorted(app.parent.glob("*.fits"))
    tiles = []
    from astropy.wcs import WCS

    for path in files:
        with fits.open(path) as hdus:
            tiles.append((hdus[0].data.astype(np.float32), WCS(hdus[0].header)))
    expected = compute_intertile_affine_calibration(tiles)
    assert {k: tuple(v) for k, v in corrections} == expected
    assert not [m for m in received if m[2:3] in (["ERROR"], ["WARN"])]
    phase = [
        (m[2], m[3]["total"]) for m in received if m[:2] == ["STAGE_PROGRESS", "phase5_intertile"]
    ]
    shares = [done / total for done, total in phase]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert any("progress pairs_done=6/6" in str(m[0]) for m in received)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_its_death_leaves_a_folder_that_can_be_resumed(app: Path, tmp_path: Path) -> None:
    """The first line names the folder; a call with it reuses all results, to the same bits."""
    folder = tmp_path / "run"
    with start(app, folder=str(folder), pool="threads") as process:
        pid = None
        for message in messages(process):
            pid = message[1] if message[0] == "PID" else pid
            if message[0] == "STAGE_PROGRESS" and message[1] == "phase5_intertile_pairs":
                os.kill(pid, signal.SIGKILL)
                process.kill()
    assert examine(folder).state in ("died", "finished")
    with start(app, folder=str(folder), pool="threads") as process:
        received = list(messages(process))
    assert str(folder) in next(str(m[0]) for m in received if "run folder" in str(m[0]))
    resumed = next(str(m[0]) for m in received if "resumed:" in str(m[0]))
    assert "0 of 6" not in resumed
    assert any(m[0] == "RESULT" and len(m[2]) == 4 for m in received)


def test_vendor_replaces_only_its_own_copies(tmp_path: Path) -> None:
    """The copy has licence and version; another folder of the name stays as it is."""
    target = tmp_path / "zemosaic_phase"
    assert run(["vendor", str(tmp_path)]) == 0
    assert "BSD 3-Clause" in (target / "LICENSE").read_text(encoding="utf-8")
    assert (target / "VENDORED").read_text(encoding="utf-8").startswith("zemosaic ")
    (target / "left-over").touch()
    vendor_package(tmp_path, "zemosaic_phase")
    assert not (target / "left-over").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no copy made by zemosaic vendor"):
        vendor_package(tmp_path, "mine")
    with pytest.raises(UserError, match="no name of a Python package"):
        vendor_package(tmp_path, "zemosaic-phase")
