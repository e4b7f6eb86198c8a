"""How fast the phase is, beside the least that anybody could do with the same tiles.

    python benchmarks/speed.py [--quick] [--repeats N] [--workers N] [--folder DIR] [--json FILE]

The floor reads every tile once, takes block means and resamples them once to the size of a
preview, on as many processes as the phase has; nothing is measured with it. Both run in turns in
one process with workers that were started, and had imported everything, before; the ratio is the
median over the turns. See benchmarks/README.md.
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
from harness import Load, TileSet, cpu_seconds, median_ratio, run_watched, say_load, size, write_set
from scipy.ndimage import map_coordinates

from zemosaic import Settings, calibrate
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.resampling import NODE_STEP
from zemosaic.photometry.simulate import Scene
from zemosaic.photometry.tiles.sky import edge_points, pixel_to_sky
from zemosaic.photometry.tiles.tile import open_tile
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.runtime.events import JobEnded, Observer, StageEnded, StageStarted
from zemosaic.runtime.pool import usable_processors
from zemosaic.runtime.process_pool import ProcessPool

BLOCK = 4
# Of each tile with its neighbours, so that 200 tiles have more than 4,342 pairs.
DENSE = 0.76
LIGHT = (270, 480)  # of tiles that serve where only proportions matter
OURS = [sys.executable, "-c", "from zemosaic.cli import main; main()", "intertile"]


@dataclass(frozen=True)
class Cut:
    """Which cells of the common grid a tile is resampled to; `at` holds their first and size."""

    path: str
    grid: WCS
    at: tuple[int, int, int, int]


def plan(files: Sequence[str]) -> list[Cut]:
    """Where every tile lies on a common grid; known before the clock starts."""
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
    """Read a tile, take block means, resample them: what no program can do without."""
    with fits.open(cut.path, memmap=False) as hdus:
        data = np.asarray(hdus[0].data, dtype=np.float32)
        wcs = WCS(hdus[0].header, naxis=2)
    planes = data.reshape(-1, *data.shape[-2:])
    c, h, w = planes.shape
    means = planes[:, : h - h % BLOCK, : w - w % BLOCK]
    means = means.reshape(c, h // BLOCK, BLOCK, -1).sum(axis=2)
    means = sum(means[..., k::BLOCK] for k in range(BLOCK)) / np.float32(BLOCK**2)
    x0, y0, w, h = cut.at
    across, down = (np.arange(0, n + NODE_STEP, NODE_STEP) for n in (w, h))
    nodes = np.stack(np.meshgrid(across + x0, down + y0), axis=-1).reshape(-1, 2)
    xy = wcs.wcs_world2pix(cut.grid.wcs_pix2world(nodes.astype(float), 0), 0)
    xy = ((xy + 0.5) / BLOCK - 0.5).T.reshape(2, len(down), len(across))
    x, y = between(between(xy, h, 1), w, 2)
    previews = [
        map_coordinates(mean, [y, x], order=1, output=np.float32, cval=np.nan) for mean in means
    ]
    return float(previews[0][h // 2, w // 2])


def between(nodes: np.ndarray, cells: int, axis: int) -> np.ndarray:
    """Values at `cells` cells along an axis, linear between nodes."""
    below, part = np.divmod(np.arange(cells), NODE_STEP)
    part = np.expand_dims(part / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    first, second = (nodes.take(below + k, axis) for k in (0, 1))
    return first + part * (second - first)


def ready(seconds: float) -> int:
    """Import everything and stay a while, so that every worker gets one of these."""
    import zemosaic.pipeline.calibrate  # noqa: F401

    time.sleep(seconds)
    return os.getpid()


class Stages(Observer):
    """Seconds of every stage, and those that jobs spent in their parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: dict[str, float] = defaultdict(float)
        self.prepare_cpu = 0.0
        self._began: dict[str, int] = {}

    def stage_started(self, event: StageStarted) -> None:
        """Note when a stage begins."""
        self._began[event.stage] = event.time_ns
        if event.stage == "prepare":
            self.prepare_cpu -= cpu_seconds()

    def stage_ended(self, event: StageEnded) -> None:
        """Add a stage's time."""
        self.seconds[event.stage] += (event.time_ns - self._began[event.stage]) / 1e9
        if event.stage == "prepare":
            self.prepare_cpu += cpu_seconds()

    def job_ended(self, event: JobEnded) -> None:
        """Add a job's parts."""
        self.inside[f"{event.stage} jobs"] += (event.ended_ns - event.started_ns) / 1e9
        for name, seconds in event.step_times.items():
            self.inside[f"{event.stage}: {name}"] += seconds


@dataclass(frozen=True)
class Timed:
    """One run of the phase."""

    seconds: float
    cpu: float
    prepare_cpu: float
    stages: dict[str, float]
    inside: dict[str, float]
    solution: PhaseSolution

    @property
    def cells(self) -> int:
        """Cells that the pairs have in common, in all."""
        lines = (m for record in self.solution.records for m in record.measurements)
        return sum(getattr(line, "cells", 0) for line in lines)


class Bench:
    """Warm workers for the floor and for the phase."""

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
        """Let the workers go."""
        self.pool.close()
        self.bare.shutdown()

    def floor(self, cuts: Sequence[Cut]) -> tuple[float, float]:
        """Seconds of the floor, by the clock and of processors."""
        start, spent = time.perf_counter(), cpu_seconds()
        list(self.bare.map(floor, cuts, chunksize=max(1, len(cuts) // (8 * self.workers))))
        return time.perf_counter() - start, cpu_seconds() - spent

    def ours(self, files: Sequence[str], neighbours: int) -> Timed:
        """One run of the phase."""
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
        """The floor and the phase in turns, after one turn that brings files into memory."""
        cuts = plan(tiles.files)
        floors, ours = [], []
        for turn in range(repeats + 1):
            floors.append(self.floor(cuts))
            ours.append(self.ours(tiles.files, neighbours))
            print(
                f"  {len(tiles.files)} tiles, turn {turn}: floor {floors[-1][0]:.2f} s, "
                f"ours {ours[-1].seconds:.2f} s",
                file=sys.stderr,
                flush=True,
            )
        return floors[1:], ours[1:]


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of every entry."""
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in rows[0]}


def summary(
    name: str, floors: Sequence[tuple[float, float]], ours: Sequence[Timed], workers: int
) -> dict[str, Any]:
    """What one comparison with the floor says."""
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


def say_summary(results: Sequence[dict[str, Any]]) -> None:
    """Print the comparisons with the floor, and where the time went."""
    print(
        "\n| set | pairs measured | cells a pair | floor s | ours s | ratio "
        "| ratio of processor time | pairs a second | worker ms a pair |"
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
    print("\n| set | stage | seconds | of which in jobs, all workers together |\n|---|---|---|---|")
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
    """Slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(bench: Bench, tiles: TileSet, repeats: int) -> dict[str, Any]:
    """How the time grows with pairs and with tiles; runs of all sizes in turns."""
    by_pairs: dict[int, list[Timed]] = {k: [] for k in (4, 8, 16, 32, 0)}
    count = len(tiles.files)
    by_tiles: dict[int, list[Timed]] = {n: [] for n in (count // 8, count // 4, count // 2, count)}
    for turn in range(repeats):
        for k, runs in by_pairs.items():
            runs.append(bench.ours(tiles.files, k))
        for n, runs in by_tiles.items():
            runs.append(bench.ours(tiles.files[:n], 8))
        print(f"  growth, turn {turn}", file=sys.stderr, flush=True)

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

    pairs = [row(runs, count) for runs in by_pairs.values()]
    some = [row(runs, n) for n, runs in by_tiles.items()]
    exponents = {
        f"{kind} with {name}": exponent([r[name] for r in rows], [r[kind + suffix] for r in rows])
        for kind in ("seconds", "cpu_seconds")
        for name, rows, suffix in (
            ("pairs", pairs, "_after"), ("cells", pairs, "_after"), ("tiles", some, "")
        )
    }  # fmt: skip
    return {"with_pairs": pairs, "with_tiles": some, "exponents": exponents}


def say_growth(result: dict[str, Any]) -> None:
    """Print the growth."""
    print(
        "\n| tiles | pairs | common cells | s | processor s | s after the previews "
        "| processor s after the previews |\n|---|---|---|---|---|---|---|"
    )
    for r in [*result["with_pairs"], *result["with_tiles"]]:
        print(
            f"| {r['tiles']} | {r['pairs']} | {r['cells']:.3g} | {r['seconds']:.2f} "
            f"| {r['cpu_seconds']:.2f} | {r['seconds_after']:.2f} | {r['cpu_seconds_after']:.2f} |"
        )
    print("\n| growth | exponent by the clock | of processor time |\n|---|---|---|")
    for name, what in (
        ("pairs", "with pairs, after the previews, tiles fixed"),
        ("cells", "with common cells, likewise"),
        ("tiles", "with tiles, 8 neighbours each"),
    ):
        wall, spent = (
            result["exponents"][f"{kind} with {name}"] for kind in ("seconds", "cpu_seconds")
        )
        print(f"| {what} | {wall:.2f} | {spent:.2f} |")


def colours(bench: Bench, mono: TileSet, rgb: TileSet, repeats: int) -> dict[str, Any]:
    """RGB against mono, in turns."""
    seconds: dict[str, list[float]] = {"mono": [], "rgb": []}
    for _ in range(repeats + 1):
        for name, tiles in (("mono", mono), ("rgb", rgb)):
            seconds[name].append(bench.ours(tiles.files, 8).seconds)
    floors = [bench.floor(plan(tiles.files)) for tiles in (mono, rgb)]
    one, three = seconds["mono"][1:], seconds["rgb"][1:]
    return {
        "tiles": len(mono.files),
        "mono_seconds": one,
        "rgb_seconds": three,
        "ratio": median_ratio(three, one),
        "floor_ratio": floors[1][0] / floors[0][0],
    }


def main() -> None:
    """Print tables in markdown; write all figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller tiles and sets")
    parser.add_argument("--repeats", type=int, default=5, help="turns of the first comparison")
    parser.add_argument(
        "--dense", type=size, default=(1080, 1920), metavar="HxW", help="shape of the 200 tiles"
    )
    parser.add_argument("--workers", type=int, default=0, help="0 takes all processors")
    parser.add_argument("--folder", type=Path, help="where tiles are kept for the next time")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zemosaic-speed-") as temporary:
        results = measure(options, options.folder or Path(temporary))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the sets, run everything, print as it comes."""
    few = 16 if options.quick else 64
    shape, small = ((512, 512), LIGHT) if options.quick else ((1080, 1920), options.dense)
    mono = write_set(Scene(tiles=few, shape=shape, overlap=0.3), folder)
    one = write_set(Scene(tiles=16, shape=shape, overlap=0.3), folder)
    three = write_set(Scene(tiles=16, shape=shape, overlap=0.3, rgb=True), folder)
    dense = write_set(Scene(tiles=200, shape=small, overlap=DENSE), folder)
    light = write_set(Scene(tiles=200, shape=LIGHT, overlap=DENSE), folder)
    load = Load()
    bench = Bench(options.workers or usable_processors())
    many = max(1, options.repeats // 3)
    try:
        rows = []
        for name, tiles, neighbours, repeats in (
            (f"{few} tiles {shape[0]} × {shape[1]}, 8 neighbours", mono, 8, options.repeats),
            (f"200 tiles {small[0]} × {small[1]}, 8 neighbours", dense, 8, many),
            (f"200 tiles {small[0]} × {small[1]}, all pairs", dense, 0, many),
        ):
            runs = bench.against_floor(tiles, neighbours, repeats)
            rows.append(summary(name, *runs, bench.workers))
        say_summary(rows)
        grown = growth(bench, light, many)
        say_growth(grown)
        rgb_ratio = colours(bench, one, three, options.repeats)
        print(
            f"\nRGB against mono, {rgb_ratio['tiles']} tiles: "
            f"{statistics.median(rgb_ratio['rgb_seconds']):.2f} s against "
            f"{statistics.median(rgb_ratio['mono_seconds']):.2f} s, ratio "
            f"{rgb_ratio['ratio']:.2f} (the floor's: {rgb_ratio['floor_ratio']:.2f})."
        )
    finally:
        bench.close()
    # As a command, so that nothing but the phase is counted.
    with tempfile.TemporaryDirectory(dir=dense.folder) as scratch:
        command = [*OURS, "--neighbours", "0", "-o", "run", *dense.files]
        whole = run_watched([command], Path(scratch))
    told = load.told()
    print(
        f"\nPeak memory of the whole tree, 200 tiles, all pairs, as a command: "
        f"{whole.peak / 2**20:.0f} MiB in {whole.seconds:.1f} s.\n"
        f"Start of {bench.workers} workers, apart from all of the above: {bench.started:.2f} s.\n"
        f"{say_load(told)}"
    )
    return {
        "against_floor": rows, "growth": grown, "rgb": rgb_ratio,
        "peak_bytes": whole.peak, "command_seconds": whole.seconds,
        "start_of_workers_seconds": bench.started, "machine": told,
    }  # fmt: skip


if __name__ == "__main__":
    main()
