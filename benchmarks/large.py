"""The cost of a large mosaic besides its pixels: a run on tiny tiles, extrapolated.

    python benchmarks/large.py [--tiles N] [--to N] [--workers N] [--folder DIR] [--json FILE]

Runs ``zemosaic intertile`` on N tiles of 96 × 96 pixels, each of which overlaps eight neighbours:
cuts of a periodic sky with noise, written as FITS files once. Processor times are those of the
process of the run, by stage; then those of reading its journal and of its report, each in a
process of its own. Times and memory grow linearly with the number of tiles beyond those of a run a
quarter as large; the last column extrapolates to ``--to`` tiles. Memory is the peak of the process
of the run. The model is gain+offset, whose solver takes little of either. The size of the report
does not grow beyond 10,000 tiles, so its extrapolation from fewer is too large.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does; for the steps
SIDE, STEP = 96, 72  # pixels
SCALE = 1e-4  # degrees per pixel
PERIOD = 3 * STEP
SAMPLING = 0.02  # seconds
STAGES = ("scan", "tiles", "overlap", "pairs", "solve")


def write_tiles(tiles: int, folder: Path) -> Path:
    """Write the tiles of a lattice, or find those of an earlier run; return the list of them."""
    from astropy.io import fits

    names = folder / f"{tiles}.txt"
    if names.exists():
        return names
    folder.mkdir(parents=True, exist_ok=True)
    sky, rng = periodic_sky(), np.random.default_rng(4)
    columns = math.isqrt(tiles - 1) + 1
    paths = []
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 120.0, 30.0
    header["CDELT1"], header["CDELT2"] = -SCALE, SCALE
    for number in range(tiles):
        row, column = divmod(number, columns)
        header["CRPIX1"] = (columns / 2 - column) * STEP
        header["CRPIX2"] = (columns / 2 - row) * STEP
        y, x = row * STEP % PERIOD, column * STEP % PERIOD
        data = rng.uniform(0.8, 1.25) * (
            sky[y : y + SIDE, x : x + SIDE] + rng.normal(0, 10, (SIDE, SIDE))
        )
        path = folder / f"tile_{number:06d}.fits"
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(path, overwrite=True)
        paths.append(str(path))
    names.write_text("\n".join(paths))
    return names


def periodic_sky() -> np.ndarray:
    """Return a sky with stars, periodic in both directions, large enough for each tile."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:PERIOD, :PERIOD]
    sky = np.full((PERIOD, PERIOD), 1000.0)
    for flux, star_y, star_x in zip(
        rng.pareto(1.5, 150) * 300 + 100, *rng.uniform(0, PERIOD, (2, 150)), strict=True
    ):
        apart = [(a - b + PERIOD / 2) % PERIOD - PERIOD / 2 for a, b in ((y, star_y), (x, star_x))]
        sky += flux * np.exp(-(apart[0] ** 2 + apart[1] ** 2) / 8)
    return np.tile(sky, (2, 2))


@contextmanager
def cpu_samples() -> Iterator[list[tuple[int, float]]]:
    """Sample the processor time of this process."""
    samples, stop = [(time.time_ns(), time.process_time())], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLING):
            samples.append((time.time_ns(), time.process_time()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append((time.time_ns(), time.process_time()))


def run_phase(names: Path, folder: Path, workers: int) -> dict[str, float]:
    """Run the phase in this process; return its processor seconds by stage and its peak memory."""
    shutil.rmtree(folder, ignore_errors=True)
    from zemosaic.cli import run

    with cpu_samples() as samples:
        options = ["-q", "--no-report", "--neighbours", "8", "--model", "gain+offset"]
        code = run(
            ["intertile", f"@{names}", "-o", str(folder), "--workers", str(workers), *options]
        )
    if code:
        raise SystemExit(f"the run ended with {code}")
    times, cpu = np.array(samples).T
    spans: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    started: dict[str, int] = {}
    for line in (folder / "journal.jsonl").read_bytes().splitlines():
        if b'"kind":"Stage' in line:
            event = json.loads(line)
            at = float(np.interp(event["time_ns"], times, cpu))
            stage = event["stage"]
            if event["kind"] == "StageStarted":
                started[stage] = at
            elif stage in spans:
                spans[stage] += at - started[stage]
    figures = {f"{stage}, s": spans[stage] for stage in STAGES}
    return figures | {"run, s": cpu[-1] - cpu[0], "run, GiB": peak()}


def read_journal(folder: Path) -> dict[str, float]:
    """Read a journal; return the processor time and the peak memory of this process."""
    from zemosaic.runtime import journal

    start = time.process_time()
    journal.read(folder)
    size = (folder / "journal.jsonl").stat().st_size / 2**20
    return {"journal, s": time.process_time() - start, "journal, GiB": peak(), "journal, MB": size}


def write_page(folder: Path) -> dict[str, float]:
    """Write the report; return the processor time, the peak memory and the size of the page."""
    from zemosaic.report.build import write_report

    start = time.process_time()
    (page, *_) = write_report(folder)
    seconds = time.process_time() - start
    return {"report, s": seconds, "report, GiB": peak(), "report, MB": page.stat().st_size / 1e6}


def peak() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(tiles: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure all steps at one size, each in a process of its own."""
    folder = options.folder / "run"
    names = write_tiles(tiles, options.folder / f"tiles{tiles}")
    figures: dict[str, float] = {}
    for step in ("phase", "journal", "page"):
        command = [sys.executable, __file__, "--step", step, "--names", str(names), "--folder",
                   str(folder), "--workers", str(options.workers)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures |= json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--to", type=int, default=100_000, help="tiles to extrapolate to")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "bench-large"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--names", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        steps = {
            "phase": lambda: run_phase(options.names, options.folder, options.workers),
            "journal": lambda: read_journal(options.folder),
            "page": lambda: write_page(options.folder),
        }
        print(json.dumps(steps[options.step]()))
        return
    sizes = options.tiles // 4, options.tiles
    rows: list[dict[str, Any]] = [measure(tiles, options) for tiles in sizes]
    print(f"| | {sizes[0]:,} tiles | {sizes[1]:,} tiles | ms per tile | {options.to:,} tiles |")
    print("|---|---|---|---|---|")
    for name, large in rows[1].items():
        slope = (large - rows[0][name]) / (sizes[1] - sizes[0])
        per_tile = f"{1000 * slope:.3f}" if name.endswith(", s") else ""
        rest = large + slope * (options.to - sizes[1])
        print(f"| {name} | {rows[0][name]:.2f} | {large:.2f} | {per_tile} | {rest:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(dict(zip(sizes, rows, strict=True)), indent=1))


if __name__ == "__main__":
    main()
