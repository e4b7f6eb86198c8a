"""How accurate the corrections are, on simulated mosaics with a known truth.

    python benchmarks/accuracy.py [--quick] [--seeds N] [--json FILE]

For each set: gain error (rms, per cent), offset error (rms in ADU, at the sky level of each tile),
and the seam: the rms difference of corrected tiles in all overlaps, in units of the pixel noise of
the sky. The seam is measured on tiles without noise and with equal seeing, so it shows the error of
the corrections alone. Gain and offset errors are those after the gauge is removed, of the tiles
with known gains; "unknown" counts the others, over all skies. χ² is that of
(estimate - truth) / error, per tile; 1 is honest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from noise_limit import noise_limit
from seams import Seams, as_tile

from zemosaic import Settings, calibrate
from zemosaic.photometry.simulate import Scene, SimulatedTile, align_truth, simulate
from zemosaic.pipeline.solution import PhaseSolution

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


def measure(scene: Scene, model: str) -> dict[str, Any]:
    """Calibrate one scene and compare it with the truth."""
    simulated = list(simulate(scene))
    tiles = [as_tile(tile) for tile in simulated]
    start = time.perf_counter()
    solution = calibrate(tiles, Settings(model=model), pool="threads", observers=[])
    seconds = time.perf_counter() - start
    good = np.ones(len(tiles), dtype=bool)
    if scene.bad:
        good[1] = False
    known = good & np.isfinite(solution.gain_err[:, 0])
    if model == "auto":
        model = f"auto → gain+{'plane' if solution.planes.any() else 'offset'}"
    return {
        "model": model,
        **errors(simulated, solution, known),
        "seam_sigma": Seams(scene).rms(solution, solution.records, good),
        "pairs": len(solution.records),
        "seconds": seconds,
        "suspects": [solution.names[k] for k in solution.suspects],
        "unknown": int(np.count_nonzero(good & ~known)),
    }


def errors(
    simulated: Sequence[SimulatedTile], solution: PhaseSolution, known: np.ndarray
) -> dict[str, float]:
    """Compute the rms errors of gains and offsets, and their χ², of tiles with known gains."""
    gain, offset = solution.gain[known], solution.offset[known]
    true_gain, true_offset = align_truth(
        replace(solution, gain=gain, offset=offset, component=solution.component[known]),
        np.array([tile.gain for tile in simulated])[known],
        np.array([tile.offset for tile in simulated])[known],
    )
    sky = np.array([[np.nanmedian(tile.data)] for tile in simulated])[known]
    relative = gain / true_gain - 1
    level = (gain - true_gain) * sky + offset - true_offset
    level -= level.mean()
    gain_pull = relative / (solution.gain_err / solution.gain)[known]
    offset_pull = (offset - true_offset) / solution.offset_err[known]
    return {
        "gain_percent": 100 * float(np.sqrt(np.mean(relative**2))),
        "offset_adu": float(np.sqrt(np.mean(level**2))),
        "chi2_gain": float(np.mean(gain_pull**2)),
        "chi2_offset": float(np.mean(offset_pull**2)),
    }


def print_row(name: str, model: str, rows: list[dict[str, Any]]) -> None:
    """Print the means over several skies as a row of the table."""
    gain, offset, seam = (
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
    offset_text = "–" if np.isnan(offset) else f"{offset:.3f}"
    print(f"| {name} | {model} | {gain:.3f} | {offset_text} | {seam:.4f}{chi2} |", flush=True)


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sets only")
    parser.add_argument("--seeds", type=int, default=1, help="random skies per set")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    results = []
    print(
        "| set | model | gain error % | offset error ADU | seam σ | χ² gain | χ² offset | bad "
        "| unknown |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, (scene, models) in SETS.items():
        if options.quick and scene["shape"][0] > 1000:
            continue
        seeds = range(1, options.seeds + 1)
        if not {"seeing", "stars"} & set(scene):
            print_row(
                name,
                "what noise allows",
                [noise_limit(Scene(seed=seed, **scene)) for seed in seeds],
            )
        for model in models:
            rows = [measure(Scene(seed=seed, **scene), model) for seed in seeds]
            results += [{"set": name, "seed": k, **row} for k, row in zip(seeds, rows, strict=True)]
            print_row(name, rows[0]["model"], rows)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
