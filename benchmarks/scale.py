"""How the numerics grow with the number of tiles: overlap search, pruning, solver, previews.

    python benchmarks/scale.py [--quick] [--sizes N ...] [--only NAME ...] [--json FILE]

Footprints are those of a mosaic on a patch of sky in which each tile overlaps its eight
neighbours. In "mixed" 1 % of them are between 0.1 and 6 times as large, and five cover most of a
hundred thousand. The solver gets simulated pairs with noise and 1 % outliers, packed as in a run;
the time to pack these does not count. "planes" is the model gain+surface; in "islands" tiles form
separate pairs; "random" are dithers without a pattern, and "nearest" the same with the eight
nearest neighbours of each; a "ring" is a closed strip, and a narrow "bridge" joins two clusters.
"previews" is the complete phase on tiles of 1080 × 1920 with eight neighbours each: nine
frames of a periodic sky serve as all tiles, so only previews and measurements grow; memory is that
of the process tree.

χ² is that of (estimate - truth) / error; 1 is honest. The exponent is the growth of CPU time with
the number of tiles since the previous size. Each line is measured in a separate process; "before"
is its memory when the clock starts: interpreter, libraries and input.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS
from harness import cpu_seconds, memory_of
from scipy.spatial import KDTree

from zemosaic import Settings, Tile, calibrate, tile_from_array
from zemosaic.photometry.overlap.graph import find_overlaps, prune, repetition
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS, PATCH_WEIGHT, PairMeasurement
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.photometry.solver.channel import TileFrame
from zemosaic.photometry.solver.solve import Solution, solve
from zemosaic.pipeline.packed_measurements import PackedMeasurements, stack_measured

MEDIAN_CHI2 = 0.455  # of one degree of freedom
FRAME = (1080, 1920)
STEP = 0.05  # degrees between neighbours
SIZES = (10_000, 30_000, 100_000)
BRIDGE = 3, 12  # tiles across and along
CASES = (
    "overlaps", "overlaps, mixed", "solver", "solver, planes", "solver, islands", "solver, random",
    "solver, nearest", "solver, ring", "solver, bridge", "previews",
)  # fmt: skip
OTHER_SIZES = {"previews": (500, 2_000)}
QUICK = 10  # factor between the sizes of a normal and a quick run
LARGEST = {"solver, planes": 30_000}  # tiles, except with --only


def footprints(tiles: int, mixed: bool) -> np.ndarray:
    """Return the corners ``(T, 4, 2)`` in degrees of rotated squares on a jittered lattice."""
    rng = np.random.default_rng(1)
    side = math.isqrt(tiles - 1) + 1
    place = (np.stack(np.divmod(np.arange(tiles), side), axis=1) - side / 2) * STEP
    place += rng.normal(0, STEP / 25, (tiles, 2))
    size = np.full(tiles, 1.25 * STEP)
    if mixed:
        odd = rng.random(tiles) < 0.01
        size[odd] *= rng.uniform(0.1, 6, odd.sum())
        size[rng.choice(tiles, 5, replace=False)] = 12.0
    turn = np.deg2rad(rng.uniform(-3, 3, tiles))
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * size[:, None, None]
    x = square[..., 0] * np.cos(turn)[:, None] - square[..., 1] * np.sin(turn)[:, None]
    y = square[..., 0] * np.sin(turn)[:, None] + square[..., 1] * np.cos(turn)[:, None]
    dec = place[:, 1, None] + y
    return np.stack([(place[:, 0, None] + x / np.cos(np.deg2rad(dec))) % 360, dec], axis=-1)


def neighbours(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places ``(T, 2)`` of tiles on a bool lattice, and the pairs of neighbours.

    Diagonal ones are included.
    """
    place = np.argwhere(field)
    number = np.full(field.shape, -1)
    number[field] = np.arange(len(place))
    ends = [
        (number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1]),
    ]  # fmt: skip
    pairs = np.concatenate([np.stack([i.ravel(), j.ravel()]) for i, j in ends], axis=1)
    return place, *np.sort(pairs[:, (pairs >= 0).all(axis=0)], axis=0)


def lattice(tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tiles in a square."""
    return neighbours(np.ones((math.isqrt(tiles),) * 2, dtype=bool))


def bridge(tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tiles in two squares, and a narrow bridge from one to the other."""
    side = math.isqrt(tiles // 2)
    field = np.ones((side, 2 * side + BRIDGE[1]), dtype=bool)
    field[BRIDGE[0] :, side:-side] = False
    return neighbours(field)


def islands(tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tiles that overlap one other each."""
    i = np.arange(0, tiles - 1, 2)
    return np.stack(np.divmod(np.arange(i[-1] + 2), math.isqrt(tiles)), axis=1), i, i + 1


def dithers(tiles: int, nearest: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tiles at random, each with its eight nearest, or all so near that eight are usual."""
    place = np.random.default_rng(3).uniform(0, math.sqrt(tiles), (tiles, 2))
    tree = KDTree(place)
    if not nearest:
        return place, *tree.query_pairs(math.sqrt(8 / math.pi), output_type="ndarray").T
    near = tree.query(place, 9)[1][:, 1:]
    ends = np.stack([np.repeat(np.arange(tiles), 8), near.ravel()], axis=1)
    return place, *np.unique(np.sort(ends, axis=1), axis=0).T


def ring(tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a closed strip in which each tile overlaps the four before it and the four after."""
    i = np.repeat(np.arange(tiles), 4)
    j = (i + np.tile(np.arange(1, 5), tiles)) % tiles
    angle = 2 * np.pi * np.arange(tiles) / tiles
    place = tiles / (4 * np.pi) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return place, np.minimum(i, j), np.maximum(i, j)


GRAPHS = {
    "islands": islands, "random": partial(dithers, nearest=False),
    "nearest": partial(dithers, nearest=True), "ring": ring, "bridge": bridge,
}  # fmt: skip


class Truth:
    """Tiles with invented gains, offsets and slopes, and the measurements of their pairs."""

    def __init__(self, tiles: int, graph: str, planes: bool) -> None:
        rng = np.random.default_rng(2)
        place, self.i, self.j = GRAPHS.get(graph, lattice)(tiles)
        tiles = len(place)
        self.tiles, self.pairs = tiles, len(self.i)
        self.gain, self.offset = rng.uniform(0.85, 1.15, tiles), rng.uniform(-200, 200, tiles)
        slope = rng.normal(0, 0.1 if planes else 0.0, (tiles, 2))
        self.centre = 80.0 * place
        pivot = (self.centre[self.i] + self.centre[self.j]) / 2
        self.gain_err = rng.uniform(0.5e-3, 2e-3, self.pairs)
        self.level_err = rng.uniform(0.05, 0.2, self.pairs)
        scene = rng.uniform(900, 1100, self.pairs)
        self.a = self.gain[self.i] / self.gain[self.j]
        self.a = self.a * np.exp(self.gain_err * rng.normal(size=self.pairs))

        def seen(tile: np.ndarray) -> np.ndarray:
            plane = ((pivot - self.centre[tile]) * slope[tile]).sum(axis=1)
            return (scene - self.offset[tile] - plane) / self.gain[tile]

        self.x, self.y = seen(self.i), seen(self.j)
        # Noise in one tile alone would pull all gains in the direction of the pairs.
        noise = self.level_err / math.sqrt(2) * rng.normal(size=(2, self.pairs))
        self.x, self.y = self.x + noise[0] / self.a, self.y + noise[1]
        bad = rng.random(self.pairs) < 0.01
        self.a[bad] *= 1.2
        self.y[bad] += 20
        self.pivot, self.planes = pivot, planes
        self.x_slope, self.y_slope = (-slope[t] / self.gain[t, None] for t in (self.i, self.j))
        self.patches = self._patches(rng)

    def _patches(self, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers ``(P, 16, 11)`` of 4 x 4 patches of 8 cells of each pair."""
        v, u = np.mgrid[-1.5:2, -1.5:2].reshape(2, 16) * 8.0
        patches = np.zeros((self.pairs, 16, PATCH_NUMBERS))
        patches[..., 0], patches[..., 1] = self.pivot[:, :1] + u, self.pivot[:, 1:] + v
        for k, level, steps in ((2, self.x, self.x_slope), (3, self.y, self.y_slope)):
            noise = math.sqrt(8) * self.level_err[:, None] * rng.normal(size=(self.pairs, 16))
            noise /= 1.0 if k == 3 else self.a[:, None]
            patches[..., k] = level[:, None] + steps[:, :1] * u + steps[:, 1:] * v
            patches[..., k] += noise - noise.mean(axis=1, keepdims=True)
        patches[..., 4:7] = 64 / 12 * np.array([1, 0, 1])
        patches[..., PATCH_WEIGHT] = (4 * self.level_err[:, None]) ** -2
        patches[..., 8] = 1 / 16
        return patches

    def measured(self) -> list[PackedMeasurements]:
        """Return the measurements of all pairs, in one channel, as a run has them."""
        columns = (
            self.a, self.a * self.gain_err, self.x, self.y, self.level_err, *self.pivot.T,
            self.patches.reshape(self.pairs, -1),
        )  # fmt: skip
        lines = (
            PairMeasurement(
                a, err, y - a * x, x, y, level_err, u, v, 1000, 1.0, 0.9, True,
                concentration=0.1, patches=tuple(patches.tolist()),
            )
            for a, err, x, y, level_err, u, v, patches in zip(
                *(column.tolist() for column in columns[:-1]), columns[-1], strict=True
            )
        )  # fmt: skip
        return [PackedMeasurements.of((line,)) for line in lines]


def memory() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def clocks() -> np.ndarray:
    """Return wall and CPU time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def solving(tiles: int, case: str) -> list[dict[str, Any]]:
    """Measure the time of the solver, and the χ² of its gains."""
    truth = Truth(tiles, case.rpartition(", ")[2], case.endswith("planes"))
    sky = ((1000 - truth.offset) / truth.gain)[:, None]
    measured, before = truth.measured(), memory()
    jacobians, shapes = (
        np.broadcast_to(np.eye(2), (truth.tiles, 2, 2)),
        np.full((truth.tiles, 2), 100),
    )
    frame = TileFrame(truth.centre, jacobians, shapes)
    model = "gain+surface" if truth.planes else "gain+offset"
    start = clocks()
    solution = solve(truth.i, truth.j, [stack_measured(measured, 0)], sky, model, frame=frame)
    seconds, cpu = clocks() - start
    size = {"tiles": truth.tiles, "pairs": truth.pairs, "before": before}
    times = {"seconds": seconds, "cpu": cpu}
    return [{"step": case, **size, **times, "peak": memory(), "chi2": chi2(truth, solution)}]


def chi2(truth: Truth, solution: Solution) -> float:
    """Compute the χ² of the gains from a median, since a few tiles have only outlying pairs.

    Some dithers have no pair.
    """
    error = np.log(solution.gain[:, 0] / truth.gain)
    component = solution.component[:, 0]
    error -= (np.bincount(component, error) / np.bincount(component))[component]
    pull = error / (solution.gain_err / solution.gain)[:, 0]
    return float(np.nanmedian(pull**2) / MEDIAN_CHI2)


def overlapping(tiles: int, case: str) -> list[dict[str, Any]]:
    """Measure the times of the overlap search, of pruning, and of the repetition of pairs."""
    corners, before = footprints(tiles, case.endswith("mixed")), memory()
    rows: list[dict[str, Any]] = []

    def timed(step: str, call: Any) -> Any:
        start = clocks()
        graph = call()
        seconds, cpu = clocks() - start
        row = {"step": case.replace("overlaps", step), "tiles": tiles, "before": before}
        rows.append({**row, "seconds": seconds, "cpu": cpu, "peak": memory(), "chi2": None})
        return graph

    graph = timed("overlaps", lambda: find_overlaps(corners))
    pruned = timed("pruning", lambda: prune(graph, 8))
    timed("repetition", lambda: repetition(pruned, corners))
    for row, pairs in zip(rows, (graph, pruned, pruned), strict=True):
        row["pairs"] = len(pairs.i)
    return rows


def same_sky(tiles: int) -> list[Tile]:
    """Return tiles on a lattice, cut from nine arrays with a sky of the lattice's period."""
    rng = np.random.default_rng(3)
    h, w = FRAME
    period = h * 3 // 4, w * 3 // 4
    scene = Scene(tiles=1, shape=period, electrons=0)
    (first,) = simulate(scene)
    sky = np.tile(first.data, (2, 2))[:h, :w]
    frames = [sky + rng.normal(0, 10, FRAME).astype(np.float32) for _ in range(9)]
    columns = math.isqrt(tiles)
    lattice = []
    for row, column in (divmod(k, columns) for k in range(tiles)):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [120.0, 30.0]
        wcs.wcs.cdelt = [-1e-4, 1e-4]
        wcs.wcs.crpix = [(columns / 2 - column) * period[1], (columns / 2 - row) * period[0]]
        lattice.append(tile_from_array(frames[row % 3 * 3 + column % 3], wcs))
    return lattice


def previewing(tiles: int) -> list[dict[str, Any]]:
    """Measure time and memory of the phase from arrays to the solution, over all processes."""
    mosaic, before = same_sky(tiles), memory()
    start, spent = time.perf_counter(), cpu_seconds()
    with memory_of(os.getpid()) as peaks:
        solution = calibrate(mosaic, Settings(neighbours=8), observers=[])
    if solution.failed:
        raise SystemExit(f"a tile failed: {solution.failed[min(solution.failed)]}")
    seconds = time.perf_counter() - start
    row = {"step": "previews", "tiles": tiles, "pairs": len(solution.records), "before": before}
    cpu, peak = cpu_seconds() - spent, peaks[0] / 2**30
    return [{**row, "seconds": seconds, "cpu": cpu, "peak": peak, "chi2": None}]


def run(tiles: int, case: str) -> list[dict[str, Any]]:
    """Measure one case at one size."""
    if case == "previews":
        return previewing(tiles)
    return (solving if case.startswith("solver") else overlapping)(tiles, case)


def sizes(case: str, quick: bool) -> list[int]:
    """Return the default numbers of tiles of a case."""
    return [tiles // (QUICK if quick else 1) for tiles in OTHER_SIZES.get(case, SIZES)]


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times smaller")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of tiles")
    parser.add_argument("--only", nargs="+", choices=CASES, help="only these cases")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--here", action="store_true", help="measure one case in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(run(options.sizes[0], options.only[0]), default=float))
        return
    results: list[dict[str, Any]] = []
    print("| step | tiles | pairs | wall s | CPU s | exponent | before GiB | peak GiB | χ² gain |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in options.only or CASES:
        previous: dict[str, dict[str, Any]] = {}
        for tiles in sorted(options.sizes or sizes(case, options.quick)):
            if not options.only and tiles > LARGEST.get(case, tiles):
                continue
            command = [sys.executable, __file__, "--here", "--sizes", str(tiles), "--only", case]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for row in json.loads(done.stdout):
                last = previous.get(row["step"])
                previous[row["step"]] = row
                row["exponent"] = last and math.log(row["cpu"] / last["cpu"]) / math.log(
                    row["tiles"] / last["tiles"]
                )
                results.append(row)
                exponent, gain_chi2 = (
                    "" if row[name] is None else f"{row[name]:.2f}" for name in ("exponent", "chi2")
                )
                print(
                    f"| {row['step']} | {row['tiles']:,} | {row['pairs']:,} "
                    f"| {row['seconds']:.2f} | {row['cpu']:.2f} | {exponent} | {row['before']:.2f} "
                    f"| {row['peak']:.2f} | {gain_chi2} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
