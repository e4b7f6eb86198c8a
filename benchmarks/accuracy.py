"""How true the corrections are, on simulated mosaics whose truth is known.

    python benchmarks/accuracy.py [--quick] [--seeds N] [--json FILE]

For each set: gain error (rms, per cent), offset error (rms in ADU, at each tile's own sky
level), and the seam: the rms difference of corrected tiles over all overlaps, in units of the
pixel noise on the sky, on tiles without noise and with equal seeing, so that it shows the error
of the corrections alone. Gain and offset errors are taken after the gauge is removed, over the
tiles whose gain is said to be known; "unknown" counts the others, over all skies. χ² is that of
(estimate - truth) / error, per tile; 1 is honest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from zemosaic import Settings, calibrate, tile_from_array
from zemosaic.photometry.preview.grid import cell_positions, make_grid
from zemosaic.photometry.preview.preview import make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, compare, simulate
from zemosaic.photometry.tiles.tile import Tile

WRONG = {"gradient": True, "trail": True, "border": True, "bad": True, "sip": True}
SETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "64 tiles, noise only": ({"tiles": 64, "shape": (1080, 1920), "overlap": 0.3}, ("auto",)),
    "16 small tiles, noise only": ({"tiles": 16, "shape": (512, 512), "overlap": 0.3}, ("auto",)),
    "16 small tiles, gradients": (
        {"tiles": 16, "shape": (512, 512), "overlap": 0.3, "gradient": True},
        ("gain+offset", "gain+plane", "auto"),
    ),
    "16 small tiles, everything wrong": (
        {"tiles": 16, "shape": (512, 512), "overlap": 0.3, **WRONG},
        ("offset", "gain+offset", "offset+plane", "gain+plane", "auto"),
    ),
    "16 small tiles, seeing 1 : 2": (
        {"tiles": 16, "shape": (512, 512), "overlap": 0.3, "seeing": 1 / 3},
        ("auto",),
    ),
    "9 small tiles, flat sky, few stars": (
        {"tiles": 9, "shape": (512, 512), "overlap": 0.3, "nebula": 0.0, "stars": 1e-4},
        ("auto",),
    ),
}


def tile_of(tile: SimulatedTile) -> Tile:
    """A simulated tile as the phase takes it."""
    return tile_from_array(tile.data, tile.wcs, name=tile.name)


Placed = tuple[int, int, np.ndarray]  # x and y of the first cell, and the cells


def shared(one: Placed, other: Placed) -> tuple[Any, Any]:
    """Slices of both that lie on the same cells of the grid; empty where there are none."""
    low = [max(one[k], other[k]) for k in (0, 1)]
    high = [min(z[k] + z[2].shape[1 - k] for z in (one, other)) for k in (0, 1)]
    high = [max(pair) for pair in zip(low, high, strict=True)]
    first, second = (
        (slice(low[1] - z[1], high[1] - z[1]), slice(low[0] - z[0], high[0] - z[0]))
        for z in (one, other)
    )
    return first, second


class Seams:
    """The tiles of a scene without noise and with equal seeing, to try corrections on.

    Both tiles of a pair are given the same stars and clouds, those of the first, so that what
    remains is the difference of the corrections and not that of two samplings of a star.
    """

    def __init__(self, scene: Scene) -> None:
        self.noise = float(np.sqrt(scene.sky / scene.electrons + scene.read_noise**2))
        twin = replace(scene, electrons=0.0, seeing=0.0, trail=False, border=False)
        simulated = list(simulate(twin))
        skies = simulate(replace(twin, stars=0.0, nebula=0.0))
        grid = make_grid([tile_of(t) for t in simulated])
        self.tiles = []
        for one, dark in zip(simulated, skies, strict=True):
            whole, sky = (make_preview(tile_of(t), grid) for t in (one, dark))
            light = (whole.values[0] - sky.values[0]) * np.float32(one.gain[0])
            h, w = light.shape
            x, y = cell_positions(tile_of(one), grid, (whole.x0, whole.y0, w, h))
            middle = [(n - 1) / 2 for n in scene.shape]
            place = [(a - b).astype(np.float32) for a, b in ((x, middle[1]), (y, middle[0]))]
            self.tiles.append((whole.x0, whole.y0, sky.values[0], light, *place, one.gain[0]))

    def rms(self, found: Any, records: Iterable[Any], good: np.ndarray | None = None) -> float:
        """Rms difference over the overlaps of the good tiles, in units of the pixel noise.

        `found` has the arrays ``(T, C)`` of a solution; `records` are pairs with `i` and `j`.
        """
        boxes = {}
        for k, (x0, y0, sky, light, x, y, gain) in enumerate(self.tiles):
            if good is not None and not good[k]:
                continue
            corrected = found.gain[k, 0] * sky.astype(np.float64) + found.offset[k, 0]
            corrected += found.slope_x[k, 0] * x + found.slope_y[k, 0] * y
            boxes[k] = x0, y0, corrected, found.gain[k, 0] / gain, light
        squares, cells = 0.0, 0
        for record in records:
            if record.i not in boxes or record.j not in boxes:
                continue
            (xi, yi, a, fa, light), (xj, yj, b, fb, _) = boxes[record.i], boxes[record.j]
            first, second = shared((xi, yi, a), (xj, yj, b))
            difference = a[first] - b[second] + (fa - fb) * light[first]
            difference = difference[np.isfinite(difference)]
            squares, cells = squares + float(np.square(difference).sum()), cells + len(difference)
        return float(np.sqrt(squares / cells)) / self.noise


def limit(scene: Scene) -> dict[str, float]:
    """The least errors that photon and read noise allow (Cramér and Rao), if all else is known.

    A cell that N tiles cover tells of the gains and levels of each of its pairs, and 2 / N of it
    is new. With the light of all stars, however bright, and without seeing and registration,
    which no program knows as well as this takes for granted. Where there are gradients each tile
    has a plane; the level is not told then, since a plane of all is nobody's error. A bad tile
    tells nothing.
    """
    # Gradients stay: the planes take them, and without them borders would be torn elsewhere.
    twin = replace(scene, electrons=0.0, seeing=0.0, trail=False, bad=False)
    simulated = [t for k, t in enumerate(simulate(twin)) if not (scene.bad and k == 1)]
    tiles = [tile_of(t) for t in simulated]
    grid, count = make_grid(tiles), len(tiles)
    terms = 4 if scene.gradient else 2
    light: list[Placed] = []
    for tile, truth in zip(tiles, simulated, strict=True):
        p = make_preview(tile, grid)
        light.append((p.x0, p.y0, truth.gain[0] * p.values[0] + truth.offset[0]))
    low = [min(z[k] for z in light) for k in (0, 1)]
    high = [max(z[k] + z[2].shape[1 - k] for z in light) for k in (0, 1)]
    whole = low[0], low[1], np.zeros((high[1] - low[1], high[0] - low[0]), dtype=int)
    for z in light:
        whole[2][shared(z, whole)[1]] += np.isfinite(z[2])
    cell = round(grid.scale / scene.scale) ** 2  # pixels
    told, seams, cells = *np.zeros((2, terms * count, terms * count)), 0
    for i, j in combinations(range(count), 2):
        first, second = shared(light[i], light[j])
        both = np.isfinite(light[i][2][first]) & np.isfinite(light[j][2][second])
        if not both.any():
            continue
        value = light[i][2][first][both].astype(float)
        tiles_there = whole[2][shared(light[i], whole)[1]][first][both]
        variance = value / scene.electrons + scene.read_noise**2
        weight = cell / variance / tiles_there  # 2 / N of that of a difference
        place = np.indices(whole[2].shape)[:, *shared(light[i], whole)[1]][:, *first][:, both]
        z = np.stack([value - scene.sky, np.ones_like(value), *place])[:terms]
        ends = np.kron(np.eye(count)[i] - np.eye(count)[j], np.eye(terms))
        told += ends.T @ ((z * weight) @ z.T) @ ends
        seams += ends.T @ (z @ z.T) @ ends
        cells += len(value)
    unit = np.tile([1e-3, 1.0, 1e-2, 1e-2][:terms], count)
    covariance = np.linalg.pinv(told * unit[:, None] * unit, rcond=1e-9) * unit[:, None] * unit
    # The gauge as in `measure`: a factor of all, and then the mean level at the tiles' own skies.
    centred = np.eye(terms * count)
    centred[::terms, ::terms] -= 1 / count
    own = [np.nanmedian(t.data) * t.gain[0] + t.offset[0] - scene.sky for t in simulated]
    level = np.kron(np.eye(count), [[0.0, 1.0, 0.0, 0.0][:terms]])
    level[np.arange(count), terms * np.arange(count)] = own
    level = (np.eye(count) - 1 / count) @ level @ centred
    gains = (centred @ covariance @ centred.T).diagonal()[::terms]
    offset = np.sqrt((level @ covariance @ level.T).trace() / count)
    noise = np.sqrt(scene.sky / scene.electrons + scene.read_noise**2)
    return {
        "gain_percent": 100 * float(np.sqrt(gains.mean())),
        "offset_adu": np.nan if scene.gradient else float(offset),
        "seam_sigma": float(np.sqrt((seams @ covariance).trace() / cells) / noise),
    }


def measure(scene: Scene, model: str) -> dict[str, Any]:
    """Calibrate one scene and compare with the truth."""
    simulated = list(simulate(scene))
    tiles = [tile_of(t) for t in simulated]
    start = time.perf_counter()
    solution = calibrate(tiles, Settings(model=model), pool="threads", observers=[])
    seconds = time.perf_counter() - start
    good = np.ones(len(tiles), dtype=bool)
    if scene.bad:
        good[1] = False
    gain, offset = (np.array([getattr(t, n) for t in simulated]) for n in ("gain", "offset"))
    known = good & np.isfinite(solution.gain_err[:, 0])
    part = replace(
        solution,
        gain=solution.gain[known], offset=solution.offset[known],
        component=solution.component[known],
    )  # fmt: skip
    true_gain, true_offset = compare(part, gain[known], offset[known])
    relative = part.gain / true_gain - 1
    sky = np.array([[np.nanmedian(t.data)] for t in simulated])[known]
    level = (part.gain - true_gain) * sky + part.offset - true_offset
    level -= level.mean()
    pull_gain = relative / (solution.gain_err / solution.gain)[known]
    pull_offset = (part.offset - true_offset) / solution.offset_err[known]
    return {
        "model": model
        + (f" → gain+{('offset', 'plane')[int(solution.planes.any())]}" if model == "auto" else ""),
        "gain_percent": 100 * float(np.sqrt(np.mean(relative**2))),
        "offset_adu": float(np.sqrt(np.mean(level**2))),
        "seam_sigma": Seams(scene).rms(solution, solution.records, good),
        "chi2_gain": float(np.mean(pull_gain**2)),
        "chi2_offset": float(np.mean(pull_offset**2)),
        "pairs": len(solution.records),
        "seconds": seconds,
        "suspects": [solution.names[k] for k in solution.suspects],
        "unknown": int(np.count_nonzero(good & ~known)),
    }


def say(name: str, model: str, rows: list[dict[str, Any]]) -> None:
    """Print the means over some skies."""
    gain, offset, at_seams = (
        np.sqrt(np.mean([row[key] ** 2 for row in rows]))
        for key in ("gain_percent", "offset_adu", "seam_sigma")
    )
    chi2 = " |  |  | "
    if "chi2_gain" in rows[0]:
        gains, offsets = (
            np.mean([row[key] for row in rows]) for key in ("chi2_gain", "chi2_offset")
        )
        unknown = sum(row["unknown"] for row in rows)
        chi2 = f" | {gains:.2f} | {offsets:.2f} | {', '.join(rows[0]['suspects'])} | {unknown}"
    told = "–" if np.isnan(offset) else f"{offset:.3f}"
    print(f"| {name} | {model} | {gain:.3f} | {told} | {at_seams:.4f}{chi2} |", flush=True)


def main() -> None:
    """Print a table in markdown; write all figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sets only")
    parser.add_argument("--seeds", type=int, default=1, help="random skies per set")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    results = []
    print(
        "| set | model | gain error % | offset error ADU | seam σ | χ² gain | χ² offset | bad "
        "| unknown |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, (given, models) in SETS.items():
        if options.quick and given["shape"][0] > 1000:
            continue
        seeds = range(1, options.seeds + 1)
        if not {"seeing", "stars"} & set(given):
            say(name, "what noise allows", [limit(Scene(seed=seed, **given)) for seed in seeds])
        for model in models:
            rows = [measure(Scene(seed=seed, **given), model) for seed in seeds]
            results += [{"set": name, "seed": k, **row} for k, row in zip(seeds, rows, strict=True)]
            say(name, rows[0]["model"], rows)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
