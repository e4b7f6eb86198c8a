"""The answers to ZeMosaic's questions about its last calibration, from the solution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..pipeline.solution import PhaseSolution
from .corrections import Corrections

WORST_PAIRS = 10


def describe(
    solution: PhaseSolution, corrections: Corrections, affine: Mapping[int, Any]
) -> dict[str, Any]:
    """Return the diagnostics of a run by ZeMosaic's names, as lists and numbers.

    Residuals are those of the levels of each pair after correction, in ADU.
    """
    records = solution.records
    residual = np.abs(solution.residual)
    strongest = np.nanmax(np.nan_to_num(residual, nan=-1.0), axis=1, initial=-1.0)
    measured = strongest >= 0
    edges = [
        {"i": r.i, "j": r.j, "weight": r.area, "weight_area": r.area, "kept": True} for r in records
    ]
    rows = [
        [r.i, r.j, float(value)] for r, value in zip(records, strongest, strict=True) if value >= 0
    ]
    used = (solution.pairs > 0).any(axis=1)
    summary = _of_tiles(rows, len(solution.names))
    return {
        "status": f"solved_{solution.settings.model}",
        "raw_pairs_count": solution.candidates,
        "pruned_pairs_count": len(records),
        "active_tile_count": int(used.sum()),
        "components_active": len(np.unique(solution.component[used, 0])),
        "bridges_added": 0,
        "fallback_used": False,
        "prune_k": solution.settings.neighbours,
        "configured_prune_k": solution.settings.neighbours,
        "prune_weight_mode": "area",
        "graph_raw_edges": edges,
        "graph_kept_edges": edges,
        "graph_rejected_edges": [],
        "anchor": corrections.anchor,
        "pair_entries_count": int(measured.sum()),
        "affine_solution": {int(k): list(v) for k, v in affine.items()},
        "failed": dict(solution.failed),
        "m2_diag": {
            "constraints": len(records),
            "kept": int(measured.sum()),
            "rejected": int((~measured).sum()),
            "residual_abs_median": _percentile(strongest[measured], 50),
            "residual_abs_p95": _percentile(strongest[measured], 95),
            "worst": sorted(rows, key=lambda row: -row[2])[:WORST_PAIRS],
            "pair_residuals": rows,
            "tile_residual_summary": summary,
        },
    }


def _of_tiles(rows: list[list[Any]], tiles: int) -> list[dict[str, Any]]:
    of_tile: list[list[float]] = [[] for _ in range(tiles)]
    for i, j, value in rows:
        of_tile[i].append(value)
        of_tile[j].append(value)
    return [
        {
            "tile_index": tile,
            "count": len(values),
            "residual_abs_median": _percentile(np.array(values), 50),
            "residual_abs_p95": _percentile(np.array(values), 95),
        }
        for tile, values in enumerate(of_tile)
        if values
    ]


def _percentile(values: np.ndarray, share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else 0.0
