"""The summary of a run: lines for people and facts for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..pipeline.illumination_text import describe_illuminations
from ..pipeline.seams import seam_line
from ..pipeline.solution import PhaseSolution
from ..pipeline.star_gains import stars_facts, stars_line

STAGES = ("prepare", "overlap", "pairs", "solve", "apply", "mosaic")


def summary_facts(solution: PhaseSolution, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the summary as an object for JSON."""
    outcomes = Counter(record.outcome for record in solution.records)
    return {
        "tiles": {
            "total": len(solution.names),
            "used": len(solution.names) - len(solution.failed),
            "failed": {
                solution.names[index]: reason for index, reason in sorted(solution.failed.items())
            },
            "suspect": [solution.names[index] for index in solution.suspects],
        },
        "groups": solution.groups,
        "pairs": {"overlaps": solution.candidates, "total": len(solution.records), **outcomes},
        "doubt": solution.sky_check.doubt,
        "model": solution.settings.model,
        **({"stars": stars_facts(solution.records)} if solution.settings.needs_stars else {}),
        "illumination": [
            {
                "instrument": light.name,
                "tiles": len(light.tiles),
                "corner_loss": [light.corner_loss(c)[0] for c in range(len(light.log_flat))],
                "structure": light.fine.series.rms.tolist() if light.fine else [],
                "glow": [light.glow_range(c)[0] for c in range(len(light.glow))],
            }
            for light in solution.illuminations
        ],
        "rms": solution.rms,
        "seam_err": dict(zip(("median", "largest"), solution.seam_errors, strict=True)),
        "seconds": {name: round(value, 3) for name, value in stage_seconds.items()},
    }


def summary_lines(solution: PhaseSolution, stage_seconds: Mapping[str, float]) -> list[str]:
    """Return the summary as lines of text."""
    outcomes = Counter(record.outcome for record in solution.records)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    groups, tiles = solution.groups, len(solution.names)
    times = [f"{name} {stage_seconds[name]:.2f} s" for name in STAGES if name in stage_seconds]
    return [
        f"tiles        {tiles - len(solution.failed)} of {tiles}, in {groups} "
        f"group{'s' if groups != 1 else ''}",
        f"pairs        {len(solution.records)} of {solution.candidates} overlaps"
        + (f": {counts}" if counts else ""),
        f"model        {solution.model_line()}",
        *([f"seams        {seam_line(solution)}"] if outcomes["measured"] else []),
        *(
            f"{name:12} {text}"
            for name, text in describe_illuminations(solution.illuminations, solution.unit)
        ),
        *(
            [f"stars        {stars_line(solution.records, solution.names)}"]
            if solution.settings.needs_stars
            else []
        ),
        *([f"doubt        {solution.sky_check.doubt}"] if solution.sky_check.doubt else []),
        *(
            f"suspect      {solution.names[index]}: {solution.why_suspect(index)}"
            for index in solution.suspects
        ),
        *([f"failed       {solution.no_mosaic}"] if solution.no_mosaic else []),
        *(f"failed       {reason}" for _, reason in sorted(solution.failed.items())),
        "time         " + ", ".join(times),
    ]
