"""Compare the time of the calibration with the least time that these tiles need.

    python benchmarks/speed.py [--quick] [--repeats N] [--workers N] [--folder DIR] [--json FILE]

The floor reads every tile once, computes block means and resamples them once to the size of a
preview, on as many processes as the calibration; it measures nothing. Both run alternately from one
process, with workers that have already started and imported everything; the ratio is the median
over the rounds. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from harness import (
    Load,
    TileSet,
    cpu_seconds,
    load_line,
    median_ratio,
    run_watched,
    size,
    write_set,
)
from scipy.ndimage import map_coordinates

from zemosaic import Settings, calibrate
from zemosaic.photometry._kernels.nodes import NODE_STEP
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.simulate import Scene
from zemosaic.photometry.tiles.sky import edge_points, pixel_to_sky
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.runtime.events import JobEnded, StageEnded, StageStarted
from zemosaic.runtime.observers import Observer
from zemosaic.runtime.pool import usable_processors
from zemosaic.runtime.process_pool import ProcessPool

BLOCK = 4
# Overlap of neighbours at which 200 tiles have more than 4,342 pairs.
DENSE = 0.76
LIGHT = (270, 480)  # shape of tiles where only proportions matter
OURS = [sys.executable, "-c", "from zemosaic.cli import main; main()", "intertile"]


@dataclass(frozen=True)
class Cut:
    """The cells ``(x0, y0, w, h)`` of the common grid to which a tile is resampled."""

    path: str
    grid: WCS
    cells: tuple[int, int, int, int]


def plan(files: Sequence[str]) -> list[Cut]:
    """Return the cells of every tile on a common grid; this is not part of the measured time."""
    tiles = [open_tile(path) for path in files]
    grid = make_grid(tiles, BLOCK).wcs
    cuts = []
    for path, tile in zip(files, tiles, strict=True):
        cells = grid.wcs_world2pix(pixel_to_sky(tile.wcs, edge_points(tile.shape, 4)), 0)
        low = np.floor(cells.min(axis=0)).astype(int)
        w, h = np.ceil(cells.max(axis=0)).astype(int) - low + 1
        cuts.append(Cut(path, grid, (int(low[0]), int(low[1]), int(w), int(h))))
    return cuts


def floor(cut: Cut) -> float:
    """Read a tile, compute block means and resample them, as every program must."""
    with fits.open(cut.path, memmap=False) as hdus:
        data = np.asarray(hdus[0].data, dtype=np.float32)
        wcs = WCS(hdus[0].header, naxis=2)
    planes = data.reshape(-1, *data.shape[-2:])
    x0, y0, w, h = cut.cells
    across, down = (np.arange(0, n + NODE_STEP, NODE_STEP) for n in (w, h))
    nodes = np.stack(np.meshgrid(across + x0, down + y0), axis=-1).reshape(-1, 2)
    xy = wcs.wcs_world2pix(cut.grid.wcs_pix2world(nodes.astype(float), 0), 0)
    xy = ((xy + 0.5) / BLOCK - 0.5).T.reshape(2, len(down), len(across))
    x, y = between(between(xy, h, 1), w, 2)
    previews = [
        map_coordinates(mean, [y, x], order=1, output=np.float32, cval=np.nan)
        for mean in block_means(planes)
    ]
    return float(previews[0][h // 2, w // 2])


def block_means(planes: np.ndarray) -> np.ndarray:
    """Return the means of blocks of ``(C, H, W)`` arrays; incomplete blocks are left out."""
    c, h, w = planes.shape
    sums = planes[:, : h - h % BLOCK, : w - w % BLOCK]
    sums = sums.reshape(c, h // BLOCK, BLOCK, -1).sum(axis=2)
    return sum(sums[..., k::BLOCK] for k in range(BLOCK)) / np.float32(BLOCK**2)


def between(nodes: np.ndarray, cells: int, axis: int) -> np.ndarray:
    """Interpolate linearly between nodes to `cells` cells along an axis."""
    below, part = np.divmod(np.arange(cells), NODE_STEP)
    part = np.expand_dims(part / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    first, second = (nodes.take(below + k, axis) for k in (0, 1))
    return first + part * (second - first)


def ready(seconds: float) -> int:
    """Import everything and sleep, so that every worker gets one of these jobs."""
    import zemosaic.pipeline.calibrate  # noqa: F401

    time.sleep(seconds)
    return os.getpid()


class Stages(Observer):
    """Collects the seconds of every stage, and those that its jobs spent in each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: dict[str, float] = defaultdict(float)
        self.prepare_cpu = 0.0
        self._start_ns: dict[str, int] = {}

    def stage_started(self, event: StageStarted) -> None:
        """Record the start of a stage."""
        self._start_ns[event.stage] = event.time_ns
        if event.stage == "prepare":
            self.prepare_cpu -= cpu_seconds()

    def stage_ended(self, event: StageEnded) -> None:
        """Add the time of a stage."""
        self.seconds[event.stage] += (event.time_ns - self._start_ns[event.stage]) / 1e9
        if event.stage == "prepare":
            self.prepare_cpu += cpu_seconds()

    def job_ended(self, event: JobEnded) -> None:
        """Add the times of a job's steps."""
        self.inside[f"{event.stage} jobs"] += (event.ended_ns - event.started_ns) / 1e9
        for name, seconds in event.step_times.items():
            self.inside[f"{event.stage}: {name}"] += seconds


@dataclass(frozen=True)
class Timed:
    """One run of the calibration."""

    seconds: float
    cpu: float
    prepare_cpu: float
    stages: dict[str, float]
    inside: dict[str, float]
    solution: PhaseSolution

    @property
    def cells(self) -> int:
        """Total number of common cells of all pairs."""
        measurements = (m for record in self.solution.records for m in record.measurements)
        return sum(getattr(measurement, "cells", 0) for measurement in measurements)


class Bench:
    """Started workers for the floor and for the calibration."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        start = time.perf_counter()
        self.pool = ProcessPool(workers)
        for future in [self.pool.submit(ready, (0.5,)) for _ in range(workers)]:
            future.result()
        self.started = time.perf_counter() - start - 0.5
        method = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in method else "spawn")
        self.bare = ProcessPoolExecutor(workers, mp_context=context)
        list(self.bare.map(ready, [0.5] * workers))

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
        self.bare.shutdown()

    def floor(self, cuts: Sequence[Cut]) -> tuple[float, float]:
        """Return the wall-clock and processor seconds of the floor."""
        start, spent = time.perf_counter(), cpu_seconds()
        list(self.bare.map(floor, cuts, chunksize=max(1, len(cuts) // (8 * self.workers))))
        return time.perf_counter() - start, cpu_seconds() - spent

    def ours(self, files: Sequence[str], neighbours: int) -> Timed:
        """Run the calibration once."""
        stages = Stages()
        settings = Settings(neighbours=neighbours, workers=self.workers)
        start, spent = time.perf_counter(), cpu_seconds()
        solution = calibrate(files, settings, self.pool, [stages])
        seconds, spent = time.perf_counter() - start, cpu_seconds() - spent
        if solution.failed:
            raise SystemExit(f"a tile failed: {solution.failed[min(solution.failed)]}")
        parts = dict(stages.seconds), dict(stages.inside)
        return Timed(seconds, spent, stages.prepare_cpu, *parts, solution)

    def against_floor(
        self, tiles: TileSet, neighbours: int, repeats: int
    ) -> tuple[list[tuple[float, float]], list[Timed]]:
        """Run the floor and the calibration alternately, after one round that caches the files."""
        cuts = plan(tiles.files)
        floors, ours = [], []
        for number in range(repeats + 1):
            floors.append(self.floor(cuts))
            ours.append(self.ours(tiles.files, neighbours))
            print(
                f"  {len(tiles.files)} tiles, round {number}: floor {floors[-1][0]:.2f} s, "
                f"ours {ours[-1].seconds:.2f} s",
                file=sys.stderr,
                flush=True,
            )
        return floors[1:], ours[1:]


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of every entry."""
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in rows[0]}


def summary(
    name: str, floors: Sequence[tuple[float, float]], ours: Sequence[Timed], workers: int
) -> dict[str, Any]:
    """Return the figures of one comparison with the floor."""
    seconds = [run.seconds for run in ours]
    stages, inside = medians([r.stages for r in ours]), medians([r.inside for r in ours])
    measured = sum(record.outcome == "measured" for record in ours[0].solution.records)
    return {
        "set": name,
        "pairs": len(ours[0].solution.records),
        "pairs_measured": measured,
        "cells_per_pair": ours[0].cells / max(measured, 1),
        "floor_seconds": [wall for wall, _ in floors],
        "floor_cpu_seconds": [spent for _, spent in floors],
        "our_seconds": seconds,
        "our_cpu_seconds": [run.cpu for run in ours],
        "ratio": median_ratio(seconds, [wall for wall, _ in floors]),
        "cpu_ratio": median_ratio([run.cpu for run in ours], [spent for _, spent in floors]),
        "stage_seconds": stages,
        "job_seconds": inside,
        "pairs_per_second": measured / max(stages.get("pairs", math.inf), 1e-9),
        "worker_ms_per_pair": 1e3 * inside.get("pairs jobs", 0.0) / max(measured, 1),
        "workers": workers,
    }


def print_summary(results: Sequence[dict[str, Any]]) -> None:
    """Print the comparisons with the floor, and the times of stages and steps."""
    print(
        "\n| set | pairs measured | cells per pair | floor s | ours s | ratio "
        "| ratio of processor time | pairs per second | worker ms per pair |"
        "\n|---|---|---|---|---|---|---|---|---|"
    )
    for row in results:
        print(
            f"| {row['set']} | {row['pairs_measured']} of {row['pairs']} "
            f"| {row['cells_per_pair']:.0f} | {statistics.median(row['floor_seconds']):.2f} "
            f"| {statistics.median(row['our_seconds']):.2f} | {row['ratio']:.2f} "
            f"| {row['cpu_ratio']:.2f} | {row['pairs_per_second']:.0f} "
            f"| {row['worker_ms_per_pair']:.2f} |"
        )
    print("\n| set | stage | seconds | in jobs, sum over workers |\n|---|---|---|---|")
    for row in results:
        # "scan" and "tiles" are parts of "prepare".
        for stage, seconds in row["stage_seconds"].items():
            jobs = row["job_seconds"]
            parts = [
                f"{name.removeprefix(stage + ': ')} {spent:.2f} s"
                for name, spent in jobs.items()
                if name.startswith(f"{stage}: ")
            ]
            inside = f"{jobs[f'{stage} jobs']:.2f} s" if f"{stage} jobs" in jobs else ""
            inside += f" ({', '.join(parts)})" if parts else ""
            print(f"| {row['set']} | {stage} | {seconds:.2f} | {inside} |")


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(bench: Bench, tiles: TileSet, repeats: int) -> dict[str, Any]:
    """Measure the time for several numbers of pairs and of tiles, alternately."""
    by_pairs: dict[int, list[Timed]] = {k: [] for k in (4, 8, 16, 32, 0)}
    count = len(tiles.files)
    by_tiles: dict[int, list[Timed]] = {n: [] for n in (count // 8, count // 4, count // 2, count)}
    for number in range(repeats):
        for k, runs in by_pairs.items():
            runs.append(bench.ours(tiles.files, k))
        for n, runs in by_tiles.items():
            runs.append(bench.ours(tiles.files[:n], 8))
        print(f"  growth, round {number}", file=sys.stderr, flush=True)

    def row(runs: Sequence[Timed], n: int) -> dict[str, float]:
        def median(of: Callable[[Timed], float]) -> float:
            return statistics.median(map(of, runs))

        return {
            "tiles": n,
            "pairs": len(runs[0].solution.records),
            "cells": runs[0].cells,
            "seconds": median(lambda run: run.seconds),
            "cpu_seconds": median(lambda run: run.cpu),
            "seconds_after": median(lambda run: run.seconds - run.stages["prepare"]),
            "cpu_seconds_after": median(lambda run: run.cpu - run.prepare_cpu),
        }

    pair_rows = [row(runs, count) for runs in by_pairs.values()]
    tile_rows = [row(runs, n) for n, runs in by_tiles.items()]
    exponents = {
        f"{kind} with {name}": exponent([r[name] for r in rows], [r[kind + suffix] for r in rows])
        for kind in ("seconds", "cpu_seconds")
        for name, rows, suffix in (
            ("pairs", pair_rows, "_after"), ("cells", pair_rows, "_after"), ("tiles", tile_rows, "")
        )
    }  # fmt: skip
    return {"with_pairs": pair_rows, "with_tiles": tile_rows, "exponents": exponents}


def print_growth(result: dict[str, Any]) -> None:
    """Print the growth and its exponents."""
    print(
        "\n| tiles | pairs | common cells | s | processor s | s after the previews "
        "| processor s after the previews |\n|---|---|---|---|---|---|---|"
    )
    for r in [*result["with_pairs"], *result["with_tiles"]]:
        print(
            f"| {r['tiles']} | {r['pairs']} | {r['cells']:.3g} | {r['seconds']:.2f} "
            f"| {r['cpu_seconds']:.2f} | {r['seconds_after']:.2f} | {r['cpu_seconds_after']:.2f} |"
        )
    print("\n| growth | exponent of wall-clock time | of processor time |\n|---|---|---|")
    for name, description in (
        ("pairs", "with pairs, after the previews, tiles fixed"),
        ("cells", "with common cells, likewise"),
        ("tiles", "with tiles, 8 neighbours each"),
    ):
        wall, spent = (
            result["exponents"][f"{kind} with {name}"] for kind in ("seconds", "cpu_seconds")
        )
        print(f"| {description} | {wall:.2f} | {spent:.2f} |")


def colours(bench: Bench, mono: TileSet, rgb: TileSet, repeats: int) -> dict[str, Any]:
    """Compare colour tiles with monochrome tiles, alternately."""
    seconds: dict[str, list[float]] = {"mono": [], "rgb": []}
    for _ in range(repeats + 1):
        for name, tiles in (("mono", mono), ("rgb", rgb)):
            seconds[name].append(bench.ours(tiles.files, 8).seconds)
    floors = [bench.floor(plan(tiles.files)) for tiles in (mono, rgb)]
    mono_seconds, rgb_seconds = seconds["mono"][1:], seconds["rgb"][1:]
    return {
        "tiles": len(mono.files),
        "mono_seconds": mono_seconds,
        "rgb_seconds": rgb_seconds,
        "ratio": median_ratio(rgb_seconds, mono_seconds),
        "floor_ratio": floors[1][0] / floors[0][0],
    }


def main() -> None:
    """Print tables in Markdown, and write all figures as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller tiles and sets")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the first comparison")
    parser.add_argument(
        "--dense", type=size, default=(1080, 1920), metavar="HxW", help="shape of the 200 tiles"
    )
    parser.add_argument("--workers", type=int, default=0, help="0 uses all processors")
    parser.add_argument("--folder", type=Path, help="keep the tiles in this folder")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zemosaic-speed-") as temporary:
        results = measure(options, options.folder or Path(temporary))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Simulate the sets, run everything, and print the results as they arrive."""
    few = 16 if options.quick else 64
    shape, small = ((512, 512), LIGHT) if options.quick else ((1080, 1920), options.dense)
    mono = write_set(Scene(tiles=few, shape=shape, overlap=0.3), folder)
    colour_pair = tuple(
        write_set(Scene(tiles=16, shape=shape, overlap=0.3, rgb=rgb), folder)
        for rgb in (False, True)
    )
    dense = write_set(Scene(tiles=200, shape=small, overlap=DENSE), folder)
    light = write_set(Scene(tiles=200, shape=LIGHT, overlap=DENSE), folder)
    load = Load()
    bench = Bench(options.workers or usable_processors())
    fewer_rounds = max(1, options.repeats // 3)
    try:
        rows = []
        for name, tiles, neighbours, repeats in (
            (f"{few} tiles {shape[0]} × {shape[1]}, 8 neighbours", mono, 8, options.repeats),
            (f"200 tiles {small[0]} × {small[1]}, 8 neighbours", dense, 8, fewer_rounds),
            (f"200 tiles {small[0]} × {small[1]}, all pairs", dense, 0, fewer_rounds),
        ):
            runs = bench.against_floor(tiles, neighbours, repeats)
            rows.append(summary(name, *runs, bench.workers))
        print_summary(rows)
        results = {"against_floor": rows, "growth": growth(bench, light, fewer_rounds)}
        print_growth(results["growth"])
        results["rgb"] = colours(bench, *colour_pair, options.repeats)
        print_colours(results["rgb"])
    finally:
        bench.close()
    return results | command(dense, bench) | {"machine": print_load(load)}


def print_colours(result: dict[str, Any]) -> None:
    """Print the comparison of colour with monochrome tiles."""
    print(
        f"\nRGB against mono, {result['tiles']} tiles: "
        f"{statistics.median(result['rgb_seconds']):.2f} s against "
        f"{statistics.median(result['mono_seconds']):.2f} s, ratio "
        f"{result['ratio']:.2f} (of the floor: {result['floor_ratio']:.2f})."
    )


def command(tiles: TileSet, bench: Bench) -> dict[str, Any]:
    """Run the command line, and print its peak memory, without this process and its workers."""
    with tempfile.TemporaryDirectory(dir=tiles.folder) as scratch:
        arguments = ["--neighbours", "0", "-o", "run", *tiles.files]
        cost = run_watched([[*OURS, *arguments]], Path(scratch))
    print(
        f"\nPeak memory of all processes of the command, {len(tiles.files)} tiles, all pairs: "
        f"{cost.peak / 2**20:.0f} MiB in {cost.seconds:.1f} s.\n"
        f"Start of {bench.workers} workers, not included above: {bench.started:.2f} s."
    )
    return {
        "peak_bytes": cost.peak,
        "command_seconds": cost.seconds,
        "start_of_workers_seconds": bench.started,
    }


def print_load(load: Load) -> dict[str, Any]:
    """Print and return the machine and its load."""
    machine = load.report()
    print(load_line(machine))
    return machine


if __name__ == "__main__":
    main()
