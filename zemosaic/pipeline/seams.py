"""Steps at the seams between tiles, before and after correction."""

from __future__ import annotations

import numpy as np

from ..text import two_digits
from .solution import PhaseSolution


def seam_steps(solution: PhaseSolution) -> tuple[np.ndarray, np.ndarray]:
    """Return the level difference of each pair, before and after correction.

    Returns
    -------
    before, after : ndarray
        ``(P, C)`` float64 in units of the cell noise; NaN where a pair was not measured or has no
        noise.
    """
    heads = solution.heads
    rms = np.where(heads["rms"] > 0, heads["rms"], np.nan)
    tiles = np.array([record.j for record in solution.records], dtype=int)
    before = np.abs(heads["y"] - heads["x"]) / rms
    return before, np.abs(solution.residual) / (solution.gain[tiles] * rms)


def seam_line(solution: PhaseSolution) -> str:
    """Return the typical step at a seam, and the errors of the match, in one line."""
    before, after = (steps[np.isfinite(steps)] for steps in seam_steps(solution))
    if not len(after):
        return "no seam was measured"
    typical = [two_digits(float(np.median(steps))) for steps in (before, after)]
    unit = f" {solution.unit}" if solution.unit else ""
    errors = [f"{two_digits(error)}{unit}" for error in solution.seam_errors]
    worst = solution.records[int(np.nan_to_num(solution.seam_err).max(axis=1).argmax())]
    return (
        f"typical step {typical[0]} before, {typical[1]} after, in units of the cell noise; levels "
        f"match to {errors[0]}, at worst to {errors[1]} ({solution.names[worst.i]} and "
        f"{solution.names[worst.j]})"
    )
