"""The stage that writes the corrected files, one job per file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import output_names
from ..photometry.apply import write_corrected
from ..runtime.scheduler import Job
from .preview_jobs import by_tile, tile_attributes
from .run_context import RunContext
from .scan_task import ScannedTile, TileLike, tile_path
from .solution import PhaseSolution
from .tables import run_name


def write_corrected_tiles(
    context: RunContext,
    tiles: Sequence[TileLike],
    scanned: Mapping[int, ScannedTile],
    solution: PhaseSolution,
    folder: Path,
) -> dict[int, str]:
    """Write the corrected files, each with all its tiles corrected.

    Returns
    -------
    dict
        The reasons of failures by tile index.
    """
    # Files that failed count, so that the names of the others do not depend on failures.
    paths = [*map(tile_path, tiles), *(entry.tile.path for entry in scanned.values())]
    names = output_names([path for path in paths if path is not None])
    indices_of: dict[Path, list[int]] = {}
    for index, entry in scanned.items():
        if entry.tile.path is not None and index not in solution.failed:
            indices_of.setdefault(Path(os.path.abspath(entry.tile.path)), []).append(index)
    run = run_name(solution, context.settings)

    def job(number: int, path: Path, indices: Sequence[int]) -> Job:
        corrected = [(scanned[index].tile, solution.correction(index)) for index in indices]
        attributes = tile_attributes(indices[0], path.name)
        return Job(number, write_corrected, (corrected, folder, names[path], run), attributes)

    for index in sorted(solution.failed):
        name = solution.names[index]
        if any(name.startswith(f"{path.name}[") for path in indices_of):
            context.note(logging.WARNING, f"{name}: is not corrected in {folder}")
    jobs = [job(number, *item) for number, item in enumerate(indices_of.items(), 1)]
    _, failed = by_tile(context.run_jobs("apply", jobs, len(jobs), context.settings.tile_timeout))
    return {
        index: failed[indices[0]]
        for indices in indices_of.values()
        if indices[0] in failed
        for index in indices
    }
