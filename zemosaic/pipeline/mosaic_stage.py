"""The stage of the mosaic: a survey job per tile, a job per block, and the file at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write, sweep
from ..photometry.mosaic import store
from ..photometry.mosaic.canvas import Canvas, canvas_like, choose_canvas
from ..photometry.mosaic.coadd import CoaddPlan, plan_coadd
from ..photometry.mosaic.picture import PictureFile, north_up
from ..photometry.mosaic.survey import TileSurvey, survey_tile
from ..photometry.tiles.tile import Tile
from ..pictures import encode_png, stretch
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Job
from .mosaic_tasks import coadd_to_file
from .preview_jobs import by_tile, tile_attributes
from .run_context import RunContext
from .scan_task import failure_reason, file_key
from .solution import PhaseSolution
from .tables import run_name
from .tasks import cache_key

#: Names of tiles in the attributes of a block.
MOST_NAMES = 16


@dataclass(frozen=True)
class MosaicOptions:
    """Options of the mosaic.

    Parameters
    ----------
    output : pathlib.Path
        FITS file of the mosaic.
    like : pathlib.Path or None
        FITS file with the WCS and the size of the mosaic; None fits both to the tiles.
    combination : {"mean", "clip"}
        How the tiles are combined.
    """

    output: Path
    like: Path | None = None
    combination: str = "mean"

    def canvas(self, tiles: Sequence[Tile]) -> Canvas:
        """Return the canvas; raise `UserError` if it cannot have these tiles."""
        return choose_canvas(tiles) if self.like is None else canvas_like(self.like)


def write_mosaic(context: RunContext, solution: PhaseSolution, options: MosaicOptions) -> str:
    """Write the mosaic of the usable tiles.

    Whole blocks of an earlier run are kept. If a block fails, the unfinished file stays for the
    next run.

    Returns
    -------
    str
        Why the mosaic is not written, empty if it is.
    """
    problem = ""
    with context.stage("mosaic", has_jobs=True):
        try:
            sweep(options.output)
            plan = _plan(context, solution, options)
            problem = _write(context, solution, options, plan)
        except UserError as error:
            problem = str(error)
            context.note(logging.ERROR, problem)
    return problem


def _plan(context: RunContext, solution: PhaseSolution, options: MosaicOptions) -> CoaddPlan:
    """Survey the tiles with gains, and plan the coadd; raise `UserError` if one cannot be read."""
    solved = np.isfinite(solution.gain).all(axis=1)
    tiles = {index: tile for index, tile in solution.tiles.items() if solved[index]}
    jobs = [
        Job(number, survey_tile, (tile,), tile_attributes(index, tile.name))
        for number, (index, tile) in enumerate(tiles.items(), 1)
    ]
    timeout = context.settings.tile_timeout
    outcomes = context.run_jobs("surveys", jobs, len(jobs), timeout)
    surveys, failed = by_tile(outcomes)
    if failed:
        raise UserError(f"{options.output}: is not written: {next(iter(failed.values()))}")
    pairs = [(tile, solution.correction(index)) for index, tile in tiles.items()]
    return plan_coadd(pairs, _in_order(surveys), options.canvas(list(tiles.values())),
                      options.combination)  # fmt: skip


def _in_order(surveys: Mapping[int, TileSurvey]) -> list[TileSurvey]:
    return [surveys[index] for index in sorted(surveys)]


def _write(
    context: RunContext, solution: PhaseSolution, options: MosaicOptions, plan: CoaddPlan
) -> str:
    run = run_name(solution, context.settings)
    header, table = plan.files(run)
    file = store.create(options.output, plan.canvas, header, plan.channels, table)
    folder = RunFolder(context.previews.folder.parent)
    with store.name_write_errors(folder.unfinished_mosaic):
        picture = PictureFile.create(folder.unfinished_mosaic, plan.canvas, plan.channels)
    jobs, kept = _jobs(context, plan, file, picture, run)
    outcomes = context.run_jobs(
        "blocks", jobs, len(jobs) + kept, context.settings.tile_timeout,
        done=kept, serialize=int,
    )  # fmt: skip
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        return (
            f"{options.output}: is not written, because {len(failed)} of {len(jobs) + kept} blocks "
            f"failed ({failure_reason(failed[0], 'a block')}); --resume repeats these alone"
        )
    with context.stage("compress"):
        store.finish(file)
        _finish_pictures(picture, plan.canvas, options.output, folder)
    return ""


def _finish_pictures(picture: PictureFile, canvas: Canvas, output: Path, folder: RunFolder) -> None:
    """Write the PNG file beside the mosaic, and both pictures to the run folder."""
    image = output.with_suffix(".png")
    with store.name_write_errors(image):
        both = [north_up(pixels, canvas) for pixels in np.load(picture.path)]
        with atomic_write(image) as temporary:
            temporary.write_bytes(encode_png(stretch(both[:1], levels_of=both[0])[0]))
        with atomic_write(folder.mosaic) as temporary:
            np.save(temporary, np.array(both))
        picture.path.unlink()


def _jobs(
    context: RunContext, plan: CoaddPlan, file: store.MosaicFile, picture: PictureFile, run: str
) -> tuple[list[Job], int]:
    """Return the jobs of the blocks, and the number of whole blocks of an earlier run."""
    common = run, plan.canvas, plan.combination, str(file.output.absolute())
    keys = {source.tile.name: file_key(source.tile) for source in plan.sources}
    jobs, kept = [], 0
    for number, box in enumerate(plan.blocks(picture.factor), 1):
        own = plan.on(box)
        names = [source.tile.name for source in own.sources]
        own_keys = [keys[name] for name in names]
        key = cache_key(*common, tuple(box), own_keys) if all(own_keys) else ""
        checksum = context.cached_results.get(key) if key else None
        if checksum is not None and not picture.fresh and file.checksum(box) == checksum:
            kept += 1
            continue
        height, width = box.shape
        attributes = {"x": box.x0, "y": box.y0, "width": width, "height": height,
                      "depth": len(names), "tiles": names[:MOST_NAMES]}  # fmt: skip
        jobs.append(Job(number, coadd_to_file, (own, box, file, picture), attributes, key))
    if context.cached_results:
        message = f"resumed: {kept} of {len(jobs) + kept} blocks of the mosaic are whole"
        context.note(logging.INFO, message)
    return jobs, kept
