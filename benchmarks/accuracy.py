"""How true the corrections are, on simulated mosaics whose truth is known.

    python benchmarks/accuracy.py [--quick] [--seeds N] [--json FILE]

For each set: gain error (rms, per cent), offset error (rms in ADU, at each tile's own sky
level), and the seam: the rms difference of corrected tiles over all overlaps, in units of the
pixel noise on the sky, on tiles without noise and with equal seeing, so that it shows the error
of the corrections alone. Gain and offset errors are taken after the gauge is removed. χ² is that
of (estimate - truth) / error, per tile; 1 is honest.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zemosaic import Settings, calibrate, tile_from_array
from zemosaic.photometry.preview import cell_positions, make_grid, make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, compare, simulate
from zemosaic.photometry.tiles import Tile
from zemosaic.result import PhaseSolution

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


def seam(scene: Scene, solution: PhaseSolution, good: np.ndarray) -> float:
    """Seam of the corrected tiles in units of the pixel noise; the good tiles only.

    Both tiles of a pair are given the same stars and clouds, those of the first, so that what
    remains is the difference of the corrections and not that of two samplings of a star.
    """
    twin = replace(scene, electrons=0.0, seeing=0.0, trail=False, border=False)
    simulated = list(simulate(twin))
    skies = list(simulate(replace(twin, stars=0.0, nebula=0.0)))
    tiles = [tile_of(t) for t in simulated]
    grid = make_grid(tiles)
    boxes = {}
    for k in np.flatnonzero(good):
        whole, sky = (make_preview(tile_of(t[k]), grid) for t in (simulated, skies))
        light = (whole.values[0] - sky.values[0]).astype(np.float64) * simulated[k].gain[0]
        h, w = light.shape
        x, y = cell_positions(tiles[k], grid, (whole.x0, whole.y0, w, h))
        corrected = solution.gain[k, 0] * sky.values[0].astype(np.float64) + solution.offset[k, 0]
        corrected += solution.slope_x[k, 0] * (x - (scene.shape[1] - 1) / 2)
        corrected += solution.slope_y[k, 0] * (y - (scene.shape[0] - 1) / 2)
        factor = solution.gain[k, 0] / simulated[k].gain[0]
        boxes[k] = whole.x0, whole.y0, corrected, factor, light
    squares, cells = 0.0, 0
    for record in solution.records:
        if record.i not in boxes or record.j not in boxes:
            continue
        (xi, yi, a, fa, light), (xj, yj, b, fb, _) = boxes[record.i], boxes[record.j]
        x0, y0 = max(xi, xj), max(yi, yj)
        x1 = min(xi + a.shape[1], xj + b.shape[1])
        y1 = min(yi + a.shape[0], yj + b.shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        first = np.s_[y0 - yi : y1 - yi, x0 - xi : x1 - xi]
        second = np.s_[y0 - yj : y1 - yj, x0 - xj : x1 - xj]
        difference = a[first] - b[second] + (fa - fb) * light[first]
        difference = difference[np.isfinite(difference)]
        squares, cells = squares + float(np.square(difference).sum()), cells + len(difference)
    noise = np.sqrt(scene.sky / scene.electrons + scene.read_noise**2)
    return float(np.sqrt(squares / cells) / noise)


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
    part = replace(
        solution,
        gain=solution.gain[good], offset=solution.offset[good],
        component=solution.component[good],
    )  # fmt: skip
    true_gain, true_offset = compare(part, gain[good], offset[good])
    relative = part.gain / true_gain - 1
    sky = np.array([[np.nanmedian(t.data)] for t in simulated])[good]
    level = (part.gain - true_gain) * sky + part.offset - true_offset
    level -= level.mean()
    pull_gain = relative / (solution.gain_err / solution.gain)[good]
    pull_offset = (part.offset - true_offset) / solution.offset_err[good]
    return {
        "model": model
        + (f" → gain+{('offset', 'plane')[int(solution.planes.any())]}" if model == "auto" else ""),
        "gain_percent": 100 * float(np.sqrt(np.mean(relative**2))),
        "offset_adu": float(np.sqrt(np.mean(level**2))),
        "seam_sigma": seam(scene, solution, good),
        "chi2_gain": float(np.mean(pull_gain**2)),
        "chi2_offset": float(np.mean(pull_offset**2)),
        "pairs": len(solution.records),
        "seconds": seconds,
        "suspects": [solution.names[k] for k in solution.suspects],
    }


def main() -> None:
    """Print a table in markdown; write all figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sets only")
    parser.add_argument("--seeds", type=int, default=1, help="random skies per small set")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    results = []
    print("| set | model | gain error % | offset error ADU | seam σ | χ² gain | χ² offset | bad |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (given, models) in SETS.items():
        large = given["shape"][0] > 1000
        if large and options.quick:
            continue
        for model in models:
            rows = [
                measure(Scene(seed=seed, **given), model)
                for seed in range(1, 2 if large else options.seeds + 1)
            ]
            results += [{"set": name, "seed": k, **row} for k, row in enumerate(rows, 1)]
            mean = {
                key: float(np.sqrt(np.mean([row[key] ** 2 for row in rows])))
                for key in ("gain_percent", "offset_adu", "seam_sigma")
            }
            chi = [
                float(np.mean([row[key] for row in rows])) for key in ("chi2_gain", "chi2_offset")
            ]
            print(
                f"| {name} | {rows[0]['model']} | {mean['gain_percent']:.3f} "
                f"| {mean['offset_adu']:.3f} | {mean['seam_sigma']:.4f} "
                f"| {chi[0]:.2f} | {chi[1]:.2f} | {', '.join(rows[0]['suspects'])} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
