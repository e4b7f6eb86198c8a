"""The solution of all tiles and channels from the measured pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..errors import NoSolution
from ..photometry.illumination import Instruments
from ..photometry.overlap.graph import OverlapGraph, repetition
from ..photometry.solver.channel import TileFrame
from ..photometry.solver.channel_pairs import MeasuredPairs
from ..photometry.solver.solve import Solution, solve
from ..photometry.solver.ties import Ties
from ..photometry.stars.gain import with_star_gains
from .fine_structure import FineSearch
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
    """Solve for all corrections, and again if there is fine structure of F or of the glow."""
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
    solve_pairs = partial(
        solve, graph.i, graph.j, sky=sky, model=context.settings.model, anchor=anchor, frame=frame,
        repetition=repetition(graph, corners), ties=ties, instruments=instruments,
        different=different,
    )  # fmt: skip
    solved = solve_pairs(measured)
    search = FineSearch(context, records, frame, instruments)
    try:
        return _without_structure(search, measured, solved, solve_pairs)
    except (OSError, ValueError, NoSolution) as error:
        context.note(
            logging.WARNING,
            f"fine structure of the illumination, if there is any, is not corrected ({error})",
        )
        return solved


def _without_structure(
    search: FineSearch,
    measured: Sequence[MeasuredPairs],
    solved: Solution,
    solve_pairs: Callable[[Sequence[MeasuredPairs]], Solution],
) -> Solution:
    """Return a solution, or another one with the fine structure of F or the glow, if there is any.

    The structure has disturbed the levels of the pairs.
    """
    kinds = search.suspected(solved)
    if not kinds:
        return solved
    fine = search.fit(search.smooth(solved, kinds), kinds)
    if not fine:
        return solved
    again = solve_pairs(search.removed(measured, fine, solved))
    return search.added(again, search.fit(again, kinds) or fine)
