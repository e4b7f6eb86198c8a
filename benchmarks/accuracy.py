"""How accurate the corrections are, on simulated mosaics with a known truth.

    python benchmarks/accuracy.py [--quick] [--sets NAME...] [--seeds N] [--workers N] [--json FILE]

Each set is solved with `auto` and with every fixed model. The columns are explained in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from errors import errors
from noise_limit import noise_limit
from seams import as_tile, remains

from zemosaic import Settings, calibrate
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.settings import MODELS

LIMIT = "what noise allows"
FIXED = [m for m in ("offset", "gain+offset", "gain+plane", "gain+surface") if m in MODELS]
#: What `auto` is compared in with the fixed models.
COMPARED = ("gain_percent", "within_sigma", "shape_sigma")
COLUMNS = (
    "gain error %", "max", "level σ", "within σ", "shape σ", "χ² gain", "χ² offset",
    "largest z", "bad", "unknown",
)  # fmt: skip

LARGE = {"tiles": 64, "shape": (1080, 1920), "overlap": 0.3}
MANY = {"tiles": 196, "shape": (512, 512), "overlap": 0.28}
MOSAIC = {**MANY, "tiles": 64}
SMALL = {"tiles": 16, "shape": (512, 512), "overlap": 0.3}
FLAT = {
    "tiles": 9, "shape": (192, 192), "overlap": 0.3, "gains": (0.9, 1.1), "offset": 40.0,
    "nebula": 150.0, "stars": 2e-3, "read_noise": 0.0,
}  # fmt: skip
CLIPPED = {"saturation": 65000.0, "fluxes": (2000.0, 1.4e6)}
SETS: dict[str, dict[str, Any]] = {
    "64 large tiles, noise only": LARGE,
    "16 tiles, noise only": SMALL,
    "16 tiles, gradients": {**SMALL, "gradient": True},
    "16 tiles, everything wrong": {
        **SMALL, "gradient": True, "trail": True, "border": True, "bad": True, "sip": True,
    },
    "16 tiles, borders of zeros": {**SMALL, "border": True, "blank": 0.0},
    "16 tiles, seeing 1 : 2": {**SMALL, "seeing": 1 / 3},
    "9 tiles, flat sky, few stars": {**SMALL, "tiles": 9, "nebula": 0.0, "stars": 1e-4},
    "64 tiles, gains to 1.3 %, few stars": {
        **MOSAIC, "gains": (0.9775, 1.0225), "nebula": 0.0, "stars": 3e-5,
    },
    "64 tiles, vignetting 5 %": {**MOSAIC, "vignetting": 0.05},
    "64 tiles, vignetting 5 %, skies to 10 %": {
        **MOSAIC, "vignetting": 0.05, "sky_scatter": 100.0,
    },
    "196 tiles, vignetting 5 %": {**MANY, "vignetting": 0.05},
    "64 tiles, vignetting 5 %, gradients": {**MOSAIC, "vignetting": 0.05, "gradient": True},
    "64 tiles, vignetting 20 %, 4th order": {**MOSAIC, "vignetting": 0.2, "quartic": True},
    "64 tiles, vignetting 5 %, gradients, trails, bad tile": {
        **MOSAIC, "vignetting": 0.05, "gradient": True, "trail": True, "bad": True,
    },
    "6 tiles, vignetting 5 %, bad tile": {**SMALL, "tiles": 6, "vignetting": 0.05, "bad": True},
    "9 tiles, vignetting 20 %, 4th order, bad tile": {
        **SMALL, "tiles": 9, "vignetting": 0.2, "quartic": True, "bad": True,
    },
    "64 tiles, glow of 100 ADU": {**MOSAIC, "glow": 100.0},
    "64 tiles, clipped stars": {**MOSAIC, **CLIPPED},
    "64 tiles, clipped stars, gradients": {**MOSAIC, **CLIPPED, "gradient": True},
    "9 tiles, flat residual 0.2 %, own": {**FLAT, "flat_residual": 0.002, "flat_shared": False},
    "9 tiles, flat residual 1 %, shared": {**FLAT, "flat_residual": 0.01},
    "9 tiles, flat residual 1 %, own": {**FLAT, "flat_residual": 0.01, "flat_shared": False},
    "64 tiles, flat residual 0.2 %, own": {**MOSAIC, "flat_residual": 0.002, "flat_shared": False},
    "64 tiles, flat residual 1 %, shared": {**MOSAIC, "flat_residual": 0.01},
    "64 tiles, flat residual 1 %, own": {**MOSAIC, "flat_residual": 0.01, "flat_shared": False},
    "64 tiles, quadratic 20 ADU": {**MOSAIC, "quadratic": 20.0},
    "64 tiles, quadratic 60 ADU": {**MOSAIC, "quadratic": 60.0},
    "64 tiles, quadratic 200 ADU": {**MOSAIC, "quadratic": 200.0},
    "64 tiles, lamp": {**MOSAIC, "lamp": 50.0},
}  # fmt: skip
#: Sets whose limit by noise is known.
LIMITED = {
    "64 large tiles, noise only", "16 tiles, noise only", "16 tiles, gradients",
    "16 tiles, everything wrong",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One sky of a set."""

    set_name: str
    seed: int

    @property
    def scene(self) -> Scene:
        """The scene of this sky."""
        return Scene(seed=self.seed, **SETS[self.set_name])


def measure(case: Case) -> list[dict[str, Any]]:
    """Calibrate one sky with every model, and compare the results with the truth."""
    name = {"set": case.set_name, "seed": case.seed}
    simulated = list(simulate(case.scene))
    tiles = [as_tile(tile) for tile in simulated]
    solutions = [
        calibrate(tiles, Settings(model=model), pool="serial", observers=[])
        for model in ("auto", *FIXED)
    ]
    limit = [{"model": LIMIT, **noise_limit(case.scene)}] if case.set_name in LIMITED else []
    measured = [
        {
            "model": solution.settings.model,
            **errors(case.scene, simulated, solution),
            **left,
            "suspects": len(solution.suspects),
            "found": solution.model_line(),
        }
        for solution, left in zip(solutions, remains(case.scene, solutions), strict=True)
    ]
    return [{**name, **row} for row in limit + measured]


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Combine the figures of several skies: rms of errors, mean of χ², largest of the rest."""
    ways = {
        "gain_percent": _rms, "level_sigma": _rms, "within_sigma": _rms, "shape_sigma": _rms,
        "chi2_gain": np.mean, "chi2_offset": np.mean, "chi2_gain_trend": np.mean,
        "chi2_offset_trend": np.mean, "gain_max_percent": np.max, "largest_pull": np.max,
        "suspects": np.sum, "unknown": np.sum,
    }  # fmt: skip
    return {
        name: float(way(values))
        for name, way in ways.items()
        if (values := [row[name] for row in rows if name in row])
    }


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def print_set(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of a set, and how much worse `auto` is than the best fixed model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    table = {model: average([row for row in rows if row["model"] == model]) for model in models}
    for model, row in table.items():
        chi2 = [_chi2(row, "chi2_gain"), _chi2(row, "chi2_offset")]
        cells = [
            _cell(row, "gain_percent", 3), _cell(row, "gain_max_percent", 2),
            _cell(row, "level_sigma", 4), _cell(row, "within_sigma", 4),
            _cell(row, "shape_sigma", 3), *chi2, _cell(row, "largest_pull", 1),
            _cell(row, "suspects", 0), _cell(row, "unknown", 0),
        ]  # fmt: skip
        print(f"| {name} | {model} | {' | '.join(cells)} |")
    gain, within, shape = (
        f"{table['auto'].get(key, np.nan) / min(table[model][key] for model in FIXED):.2f}"
        for key in COMPARED
    )
    print(f"| {name} | auto / best | {gain} | | | {within} | {shape} | | | | | |", flush=True)


def _cell(row: Mapping[str, float], key: str, digits: int) -> str:
    value = row.get(key, np.nan)
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def _chi2(row: Mapping[str, float], key: str) -> str:
    trend = _cell(row, f"{key}_trend", 2)
    without = _cell(row, key, 2)
    return without if without == trend else f"{without} ({trend})"


def run_sets(names: Sequence[str], seeds: int, workers: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name and the rows of each set, in order."""
    cases = [Case(name, seed) for name, seed in product(names, range(1, seeds + 1))]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        results = pool.map(measure, cases)
        for name in names:
            yield name, [row for _ in range(seeds) for row in next(results)]


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sets of up to 16 tiles only")
    parser.add_argument("--sets", nargs="+", default=[""], help="parts of the names of the sets")
    parser.add_argument("--seeds", type=int, default=1, help="random skies per set")
    parser.add_argument("--workers", type=int, default=1, help="skies at the same time")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    names = [
        name
        for name, scene in SETS.items()
        if any(part in name for part in options.sets)
        and not (options.quick and scene["tiles"] > 16)
    ]
    print(f"| set | model | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 2)}|", flush=True)
    results = []
    for name, rows in run_sets(names, options.seeds, options.workers):
        print_set(name, rows)
        results += rows
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
