"""The solution of all tiles and channels from the measured pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..photometry.illumination import Instruments
from ..photometry.overlap.graph import OverlapGraph, repetition
from ..photometry.solver.channel import TileFrame
from ..photometry.solver.solve import Solution, solve
from ..photometry.solver.ties import Ties
from ..photometry.stars.gain import with_star_gains
from .fine_flats import find_fine_flats, with_fine_flats, without_fine_flats
from .packed_measurements import stack_measured
from .records import PairRecord
from .run_context import RunContext
from .tile_stages import PreparedTiles


def solve_tiles(
    context: RunContext,
    graph: OverlapGraph,
    corners: np.ndarray,
    records: Sequence[PairRecord],
    prepared: PreparedTiles,
    anchor: int | None,
    ties: Ties,
    instruments: Instruments,
    shapes: Mapping[int, tuple[int, int]],
    different: np.ndarray,
) -> Solution:
    """Solve for all corrections, and again without the fine structure of F if there is one."""
    tiles = len(corners)
    sky = np.full((tiles, prepared.channels), np.nan)
    frame = TileFrame(np.zeros((tiles, 2)), np.zeros((tiles, 2, 2)), np.ones((tiles, 2), dtype=int))
    for index, preview in prepared.previews.items():
        sky[index] = preview.sky
        frame.centre[index], frame.jacobian[index] = preview.centre, preview.jacobian
        frame.shape[index] = shapes[index]
    measurements = [record.measurements for record in records]
    if context.settings.gain_from == "stars":
        measurements = [with_star_gains(record.measurements, record.stars) for record in records]
    measured = [stack_measured(measurements, channel) for channel in range(prepared.channels)]
    ends = graph.i, graph.j
    solve_pairs = partial(
        solve, *ends, sky=sky, model=context.settings.model, anchor=anchor, frame=frame,
        repetition=repetition(graph, corners), ties=ties, instruments=instruments,
        different=different,
    )  # fmt: skip
    solved = solve_pairs(measured)
    if not find_fine_flats(context, solved, records, frame, instruments):
        return solved
    # It has disturbed the levels, and bent the high degrees of F.
    smooth = replace(solved, illuminations=tuple(light.smooth for light in solved.illuminations))
    fine = find_fine_flats(context, smooth, records, frame, instruments)
    again = solve_pairs(without_fine_flats(measured, ends, fine, solved, frame, instruments))
    fine = find_fine_flats(context, again, records, frame, instruments) or fine
    return with_fine_flats(again, fine, frame, instruments)
