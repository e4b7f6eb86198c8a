"""The stages after the previews, composed: overlap -> pairs -> solve -> apply."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..photometry.illumination import Instruments
from ..photometry.overlap.graph import OverlapGraph, find_overlaps, prune
from ..photometry.preview.preview import Preview
from ..photometry.solver.ties import Ties
from ..photometry.tiles.tile import Tile
from ..runtime.kept_files import KeptFile
from ..runtime.scheduler import Job, Outcome
from .apply_stage import write_corrected_tiles
from .groups import tie_tiles
from .instruments import find_instruments
from .prepare_stage import FirstStage
from .records import (
    PairRecord,
    decode_measurements,
    encode_measurements,
    make_record,
    summarize_pair,
)
from .run_context import RunContext
from .same_sky import SkyCheck, check_same_sky
from .scan_task import TileLike
from .solution import PhaseSolution
from .solve_stage import solve_tiles
from .star_gains import add_star_gains
from .tasks import cache_key, measure
from .tile_stages import PreparedTiles


def run_stages(
    context: RunContext,
    tiles: Sequence[TileLike],
    first: FirstStage,
    apply_to: str | os.PathLike[str] | None,
) -> PhaseSolution:
    """Run the stages from the overlaps to the corrected tiles, if `apply_to` is given."""
    names, scanned, prepared = tuple(first.scan.names), first.scan.usable, first.prepared
    failed = first.scan.failed | prepared.failed
    with context.stage("overlap") as attributes:
        corners = np.full((len(names), 4, 2), np.nan)
        for index in prepared.previews:
            corners[index] = scanned[index].tile.corners
        candidates = find_overlaps(corners, context.settings.min_overlap)
        graph = prune(candidates, context.settings.neighbours)
        attributes["pairs.candidates"] = len(candidates.i)
        attributes["pairs.total"] = len(graph.i)
    records = _measure_pairs(context, graph, names, prepared)
    shared = _find_shared(context, len(names), {k: scanned[k].tile for k in prepared.previews})
    with context.stage("solve") as attributes:
        records = add_star_gains(context, records)
        sky_check = _check_same_sky(context, records)
        different = np.array([(r.i, r.j) in sky_check.pairs for r in records], dtype=bool)
        solved = solve_tiles(
            context, graph, corners, records, prepared, first.anchor, *shared, different
        )
        solved.suspect[list(sky_check.tiles)] = True
        solution = PhaseSolution(
            **vars(solved),
            settings=context.settings,
            names=names,
            failed=failed,
            records=records,
            candidates=len(candidates.i),
            tiles={index: entry.tile for index, entry in scanned.items()},
            sky_check=sky_check,
            unit=_common_unit(context, [scanned[index].tile for index in prepared.previews]),
        )
        attributes["solve.components"] = solution.groups
        attributes["solve.rms"] = solution.rms
    if sky_check.doubt:
        context.note(logging.ERROR, sky_check.doubt)
    _warn_about_unmatched_tiles(context, solution)
    if apply_to is None:
        return solution
    not_written = write_corrected_tiles(context, tiles, scanned, solution, Path(apply_to))
    return replace(solution, failed=failed | not_written)


def _find_shared(
    context: RunContext, count: int, tiles: Mapping[int, Tile]
) -> tuple[Ties, Instruments, dict[int, tuple[int, int]]]:
    """Return the ties of the tiles, their instruments and their shapes."""
    shapes = {index: tile.shape for index, tile in tiles.items()}
    return tie_tiles(context, count, tiles), find_instruments(context, count, tiles), shapes


def _check_same_sky(context: RunContext, records: Sequence[PairRecord]) -> SkyCheck:
    def load(index: int) -> Preview:
        return Preview.load(context.previews.here(context.previews.preview(index)))

    try:
        return check_same_sky(records, load)
    except (OSError, ValueError) as error:
        context.note(
            logging.WARNING,
            f"{context.previews.folder}: cannot be read again ({error}); whether the overlaps "
            "show the same sky was not checked",
        )
        return SkyCheck()


def _common_unit(context: RunContext, tiles: Sequence[Tile]) -> str:
    """Return the unit of the tiles, see `PhaseSolution`; report tiles of different units."""
    counts = Counter(tile.unit or "adu" for tile in tiles)
    if len({unit.lower() for unit in counts}) == 1:
        return min(counts)
    listed = ", ".join(f"{unit} ({count})" for unit, count in counts.most_common())
    context.note(
        logging.WARNING,
        f"the tiles have different units: {listed}; their gains convert between these, and the "
        "levels have no unit; give tiles of one unit",
    )
    return ""


def _measure_pairs(
    context: RunContext, graph: OverlapGraph, names: Sequence[str], prepared: PreparedTiles
) -> tuple[PairRecord, ...]:
    """Measure all pairs not measured by an earlier run."""
    pairs = list(zip(graph.i.tolist(), graph.j.tolist(), graph.area.tolist(), strict=True))

    def jobs() -> Iterator[Job]:
        return _pair_jobs(context, pairs, names, prepared.keys)

    def make(outcome: Outcome) -> PairRecord:
        return make_record(outcome, *pairs[outcome.job.index - 1], prepared.channels)

    records: dict[int, PairRecord] = {}
    cached = context.cached_results
    if cached:
        records = {
            job.index: make(Outcome(job, "measured", decode_measurements(cached[job.key])))
            for job in jobs()
            if job.key in cached
        }
        context.note(
            logging.INFO,
            f"resumed: {len(records)} of {len(pairs)} pairs are known from an earlier run",
        )
    measured = context.run_jobs(
        "pairs", (job for job in jobs() if job.index not in records), len(pairs),
        context.settings.pair_timeout, summarize=summarize_pair, serialize=encode_measurements,
        done=len(records), keep=make,
    )  # fmt: skip
    records |= {record.index: record for record in measured}
    return tuple(records[index] for index in range(1, len(pairs) + 1))


def _pair_jobs(
    context: RunContext,
    pairs: Iterable[tuple[int, int, float]],
    names: Sequence[str],
    keys: Mapping[int, str],
) -> Iterator[Job]:
    files = {index: context.previews.preview(index) for index in keys}
    paths = {k: file if isinstance(file, KeptFile) else str(file) for k, file in files.items()}
    model, run_ns = context.settings.model, time.time_ns()
    for number, (i, j, _) in enumerate(pairs, 1):
        attributes = {"tile_i": i, "tile_j": j, "name_i": names[i], "name_j": names[j]}
        key = cache_key(keys[i], keys[j], model) if keys[i] and keys[j] else ""
        yield Job(number, measure, (paths[i], paths[j], model, run_ns), attributes, key)


def _warn_about_unmatched_tiles(context: RunContext, solution: PhaseSolution) -> None:
    for message in solution.warnings():
        context.note(logging.WARNING, message)
