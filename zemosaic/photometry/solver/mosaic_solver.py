"""The solution of a mosaic, in which misplaced tiles do not bias the planes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..illumination import Instruments
from ..overlap.graph import OverlapGraph, repetition
from ..pairfit.measurement import Measurement
from .channel import TileFrame
from .solve import TERMS, Solution, solve
from .ties import Ties

OF_TILES = (*TERMS, "gain_err", "offset_err", "planes")
OF_PAIRS = ("residual", "gain_residual", "chi")


def solve_mosaic(
    graph: OverlapGraph,
    corners: np.ndarray,
    measurements: Sequence[Sequence[Measurement]],
    sky: np.ndarray,
    model: str,
    anchor: int | None,
    frame: TileFrame | None,
    ties: Ties | None = None,
    instruments: Instruments | None = None,
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
    measurements, sky, model, anchor, frame, ties, instruments
        As for `solve`.

    Returns
    -------
    Solution
    """

    def solve_graph(pairs: OverlapGraph, lines: Sequence[Sequence[Measurement]]) -> Solution:
        factors = repetition(pairs, corners)
        return solve(pairs.i, pairs.j, lines, sky, model, anchor, frame, factors, ties, instruments)

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


def _merge(full: Solution, reduced: Solution, misplaced: np.ndarray, kept: np.ndarray) -> Solution:
    """Add the corrections of misplaced tiles, from the full solution, to the reduced one.

    `misplaced` ``(T,)`` are the dropped tiles, and `kept` ``(P,)`` the pairs of the reduced
    solution.
    """
    merged = {name: getattr(reduced, name).copy() for name in OF_TILES}
    for tile, channel in np.argwhere(np.broadcast_to(misplaced[:, None], full.gain.shape)):
        for name, values in merged.items():
            values[tile, channel] = getattr(full, name)[tile, channel]
        component = full.component[:, channel]
        neighbours = ~misplaced & (component == component[tile])
        if neighbours.any():
            factor, level = _gauge_change(full, reduced, neighbours, channel)
            for name in TERMS:
                merged[name][tile, channel] *= factor
            merged["offset"][tile, channel] += level
    for name in OF_PAIRS:
        merged[name] = getattr(full, name).copy()
        merged[name][kept] = getattr(reduced, name)
    return replace(full, **merged, suspect=reduced.suspect | full.misplaced)


def _gauge_change(
    full: Solution, reduced: Solution, tiles: np.ndarray, channel: int
) -> tuple[float, float]:
    """Compute the factor and the level in ADU between the gauges of two solutions.

    They are medians over some `tiles` ``(T,)``, which both solutions have in common.
    """
    ratio = reduced.gain[tiles, channel] / full.gain[tiles, channel]
    factor = np.exp(np.median(np.log(ratio)))
    level = reduced.offset[tiles, channel] - factor * full.offset[tiles, channel]
    return factor, np.median(level)
