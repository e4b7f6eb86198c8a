"""The solution of a mosaic, in which misplaced tiles do not bias the planes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..overlap.graph import OverlapGraph, repetition
from ..pairfit.measure import Measurement
from .channel import TileFrame
from .solve import Solution, solve

CORRECTION = ("gain", "offset", "slope_x", "slope_y")
OF_TILES = (*CORRECTION, "gain_err", "offset_err", "planes", "plane_chi2", "plane_ratio")
OF_PAIRS = ("residual", "gain_residual", "chi")


def solve_mosaic(
    graph: OverlapGraph,
    corners: np.ndarray,
    measurements: Sequence[Sequence[Measurement]],
    sky: np.ndarray,
    model: str,
    anchor: int | None,
    frame: TileFrame | None,
) -> Solution:
    """Solve a mosaic, and solve it again without misplaced tiles that have planes.

    The pairs of a misplaced tile turn slopes of the scene into tilts, and planes follow them.
    Without planes such a tile is kept: robust weights protect its neighbours, and its sky still
    constrains levels.

    Parameters
    ----------
    graph : OverlapGraph
        The measured pairs.
    corners : ndarray
        ``(T, 4, 2)`` as for `find_overlaps`.
    measurements, sky, model, anchor, frame
        As for `solve`.

    Returns
    -------
    Solution
    """

    def solve_graph(kept: OverlapGraph, lines: Sequence[Sequence[Measurement]]) -> Solution:
        factors = repetition(kept, corners)
        return solve(kept.i, kept.j, lines, sky, model, anchor, frame, factors)

    solution = solve_graph(graph, measurements)
    misplaced = (solution.misplaced & solution.planes).any(axis=1)
    kept = ~(misplaced[graph.i] | misplaced[graph.j])
    if not _can_drop(graph, misplaced, kept, anchor):
        return solution
    lines = [line for line, keep in zip(measurements, kept, strict=True) if keep]
    return _merge(solution, solve_graph(graph.keep(kept), lines), misplaced, kept)


def _can_drop(
    graph: OverlapGraph, misplaced: np.ndarray, kept: np.ndarray, anchor: int | None
) -> bool:
    """Whether all other tiles stay connected, and anchored, without the misplaced ones."""
    if not misplaced.any() or not kept.any() or (anchor is not None and misplaced[anchor]):
        return False
    before = graph.components()[~misplaced]
    after = graph.keep(kept).components()[~misplaced]
    return len(np.unique(after)) <= len(np.unique(before))


def _merge(whole: Solution, without: Solution, misplaced: np.ndarray, kept: np.ndarray) -> Solution:
    """Merge the solution without misplaced tiles with the corrections of these.

    `misplaced` ``(T,)`` and `kept` ``(P,)`` are the tiles and pairs dropped and kept.
    """
    merged = {name: getattr(without, name).copy() for name in OF_TILES}
    for tile, channel in np.argwhere(np.broadcast_to(misplaced[:, None], whole.gain.shape)):
        for name, values in merged.items():
            values[tile, channel] = getattr(whole, name)[tile, channel]
        component = whole.component[:, channel]
        neighbours = ~misplaced & (component == component[tile])
        if neighbours.any():
            factor, level = _gauge_change(whole, without, neighbours, channel)
            for name in CORRECTION:
                merged[name][tile, channel] *= factor
            merged["offset"][tile, channel] += level
    for name in OF_PAIRS:
        merged[name] = getattr(whole, name).copy()
        merged[name][kept] = getattr(without, name)
    return replace(whole, **merged, suspect=without.suspect | whole.misplaced)


def _gauge_change(
    whole: Solution, without: Solution, tiles: np.ndarray, channel: int
) -> tuple[float, float]:
    """Compute the factor and the level in ADU from the gauge of one solution to the other's.

    They are medians over the chosen tiles ``(T,)``.
    """
    ratio = without.gain[tiles, channel] / whole.gain[tiles, channel]
    factor = np.exp(np.median(np.log(ratio)))
    level = without.offset[tiles, channel] - factor * whole.offset[tiles, channel]
    return factor, np.median(level)
