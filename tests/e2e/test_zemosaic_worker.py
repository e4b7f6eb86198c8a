"""ZeMosaic's own worker, headless, with its function and with ours as the README installs it.

`ZEMOSAIC_SOURCE` names a folder with its modules; they need opencv-python-headless, psutil and
zarr. ``python -m tests.e2e.test_zemosaic_worker`` prints the figures.
"""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from reproject.mosaicking import find_optimal_celestial_wcs

from tests.e2e.test_zemosaic import SCENE, SOURCE
from tests.helpers.zemosaic_app import queue_callback
from zemosaic.photometry.simulate import SimulatedTile, simulate

pytestmark = pytest.mark.skipif(not SOURCE, reason="ZEMOSAIC_SOURCE names no copy of ZeMosaic")
PATIENCE = 600.0  # seconds for the worker on a loaded machine
IMPORT = """
from zemosaic_phase.zemosaic_utils import (
    compute_intertile_affine_calibration as calibrate_intertile,
)
"""
CALL = "zemosaic_utils.compute_intertile_affine_calibration(\n"


def install(folder: Path, ours: bool) -> Path:
    """Copy its modules; with `ours`, vendor our package and change the lines of the README."""
    app = folder / ("ours" if ours else "own")
    shutil.copytree(SOURCE, app, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    if ours:
        program = "from zemosaic.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, "vendor", str(app)], check=True)
        worker = app / "zemosaic_worker.py"
        text = worker.read_text(encoding="utf-8")
        assert text.count(CALL) == 2
        future = "from __future__ import annotations\n"
        text = text.replace(CALL, "calibrate_intertile(\n").replace(future, future + IMPORT, 1)
        worker.write_text(text, encoding="utf-8")
    return app


def work(queue: Any, app: str, files: list[str]) -> None:
    """Run its phase in this process, with the settings that keep corrections as they are."""
    sys.path.insert(0, app)
    import zemosaic_worker

    sources, frames = [], []
    for name in files:
        with fits.open(name) as hdus:
            wcs = WCS(hdus[0].header)
            frames.append((hdus[0].shape, wcs))
        sources.append(zemosaic_worker._TileAffineSource(path=name, wcs=wcs))
    output, shape = find_optimal_celestial_wcs(frames)
    started = time.perf_counter()
    corrections, _, status, error = (
        zemosaic_worker._compute_intertile_affine_corrections_from_sources(
            sources, output, shape, 512, 0.05, (30.0, 70.0), 2.5, False,
            progress_callback=queue_callback(queue), cpu_workers=2,
            intertile_gain_offset_v2=True, intertile_gain_clip=(0.5, 2.0),
        )
    )  # fmt: skip
    seconds = time.perf_counter() - started
    queue.put(("RESULT", corrections, status, {"error": error, "seconds": seconds}))


@dataclass
class Result:
    """The corrections of its worker, its other messages and the duration of the phase."""

    corrections: list[tuple[float, float]] | None = None
    status: str = ""
    seconds: float = 0.0
    messages: list[Any] = field(default_factory=list)


def run_worker(app: Path, files: list[str]) -> Result:
    """Run the phase in a daemonic process, as its windows do."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue, str(app), files), daemon=True)
    process.start()
    result = Result()
    while result.status == "":
        message = queue.get(timeout=PATIENCE)
        if message[0] == "RESULT":
            _, result.corrections, result.status, details = message
            result.seconds = details["seconds"]
        else:
            result.messages.append(message)
    process.join(PATIENCE)
    return result


def write_tiles(folder: Path) -> tuple[list[str], list[SimulatedTile]]:
    """Write the tiles of a scene; return their paths and the tiles."""
    tiles = list(simulate(SCENE))
    for tile in tiles:
        fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(folder / tile.name)
    return [str(folder / tile.name) for tile in tiles], tiles


def errors(result: Result, tiles: list[SimulatedTile]) -> tuple[float, float]:
    """Return the scatter of the gains and of the sky levels in ADU, about the truth."""
    assert result.corrections is not None
    gain, offset = np.array(result.corrections).T
    truth = np.array([tile.gain[0] for tile in tiles])
    ratio = gain / truth
    sky = (SCENE.sky - np.array([tile.offset[0] for tile in tiles])) / truth
    return float(np.std(ratio / ratio.mean())), float(np.std((gain * sky + offset) / ratio.mean()))


def test_its_worker_takes_our_function(tmp_path: Path) -> None:
    """Gains five times closer than with its own, in processes, and progress that never falls."""
    files, tiles = write_tiles(tmp_path)
    own = run_worker(install(tmp_path, ours=False), files)
    ours = run_worker(install(tmp_path, ours=True), files)
    assert own.status == ours.status == "ok"
    assert errors(ours, tiles)[0] < errors(own, tiles)[0] / 5
    lines = [str(message[0]) for message in ours.messages]
    assert any("progress pairs_done=" in line for line in lines)
    assert not any("no process can be started" in line for line in lines)
    pairs = [m[2] for m in ours.messages if m[:2] == ("STAGE_PROGRESS", "phase5_intertile_pairs")]
    assert pairs == list(range(1, len(pairs) + 1))


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, tiles = write_tiles(folder)
        for ours in (False, True):
            result = run_worker(install(folder, ours), files)
            gain, level = errors(result, tiles)
            print(f"{'ours' if ours else 'its own'}: {result.seconds:.1f} s, gains off by "
                  f"{gain:.2%}, sky levels by {level:.2f} ADU")  # fmt: skip
            print(*(m for m in result.messages if m[0] != "STAGE_PROGRESS"), sep="\n")


if __name__ == "__main__":
    main()
