"""Drop-in replacement for ZeMosaic's module of the same name.

`compute_intertile_affine_calibration` accepts the arguments of ZeMosaic, reports progress through
its callback and returns ``{tile index: (gain, offset)}``. Progress is the number of ended
pairs, so it only increases and always reaches its total; a heartbeat reports a stall.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .drop_in import arguments
from .settings import Settings

if TYPE_CHECKING:
    from .drop_in.corrections import Corrections
    from .pipeline.scan_task import ScannedTile
    from .pipeline.solution import PhaseSolution
    from .reporting import PhaseReporter
    from .runtime.observers import Observer
    from .runtime.pool import Pool
    from .runtime.scheduler import Clock

_diagnostics: dict[str, Any] = {}


def get_last_intertile_diagnostics() -> dict[str, Any]:
    """Return the results of the last calibration in this process, by ZeMosaic's names.

    Returns
    -------
    dict
        "status", the numbers of pairs, the edges of their graph, "affine_solution", and in
        "m2_diag" the residuals of pairs and tiles in ADU; empty before the first calibration.
    """
    return deepcopy(_diagnostics)


def compute_intertile_affine_calibration(
    tile_data_with_wcs: Sequence[Any],
    final_output_wcs: Any = None,
    final_output_shape_hw: Any = None,
    preview_size: int = 512,
    min_overlap_fraction: float = 0.05,
    sky_percentile: tuple[float, float] = (30.0, 70.0),
    robust_clip_sigma: float = 2.5,
    use_auto_intertile: bool = False,
    logger: logging.Logger | None = None,
    progress_callback: Callable[..., Any] | None = None,
    tile_weights: Sequence[float] | None = None,
    cpu_workers: int | None = None,
    max_neighbors_per_tile: int = 8,
    *,
    return_channels: bool = False,
    tile_names: Sequence[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    pair_timeout: float = Settings.pair_timeout,
    pool: str | Executor | Pool = "auto",
    clock: Clock | None = None,
    observers: Sequence[Observer] = (),
    **options: Any,
) -> dict[int, Any]:
    """Compute gain and offset of each tile, so that ``gain * data + offset`` agrees in overlaps.

    Numbers may be strings; other text counts as the default.

    Parameters
    ----------
    tile_data_with_wcs : sequence
        ``(data, wcs)`` or ``(data, wcs, mask)`` tuples: ``(H, W)``, ``(H, W, C)`` or
        ``(C, H, W)`` in ADU, which are never changed. A mask is a coverage from 0 (bad) to 1; so
        is the last plane of two or four, unless a mask is given.
    preview_size : int
        Approximate longer side of a preview in cells, at least 128.
    min_overlap_fraction : float
        Smallest overlap to measure, as a fraction of the smaller tile.
    use_auto_intertile : bool
        Measure overlaps down to 1 % of a tile.
    logger : logging.Logger, optional
        Receives the log lines, each with the prefix ``[Intertile]``.
    progress_callback : callable, optional
        Called with ``("phase5_intertile_pairs", done, total)`` for each ended pair, with
        ``("phase5_intertile", done, total)`` for each prepared tile and for every fifth pair,
        counting both, and with ``(message, None, level)`` for each log line. Levels are "INFO",
        "WARN", "ERROR" and "DEBUG". Its exceptions are ignored.
    tile_weights : sequence of float, optional
        The usable tile with the highest weight becomes the anchor, with gain 1 and offset 0;
        none does if all weights are equal.
    cpu_workers : int, optional
        Number of jobs at once; one per processor by default.
    max_neighbors_per_tile : int
        Pairs kept for each tile; 0 keeps all.
    return_channels : bool
        Match each channel of colour tiles, and return lists of gains and offsets. Otherwise the
        mean of the channels is matched, since one pair of numbers is returned.
    tile_names : sequence of str, optional
        Names of the tiles in messages, such as their files.
    folder : path-like, optional
        Run folder for journal, table of running jobs and stacks. A call with the folder of a
        run that died reuses its results for unchanged tiles. By default a folder in the
        temporary directory, which the first log line names, and which is removed unless the run
        fails or dies.
    pair_timeout : float
        Seconds after which a pair that hangs fails; 0 waits for ever.
    pool : {"auto", "threads", "processes", "serial"}, Executor or Pool
        Where pairs are measured. A thread that hangs is abandoned; a process is replaced, also if
        it crashes. "auto" chooses processes in a process that an application started with
        `multiprocessing`, as ZeMosaic's worker, and threads elsewhere.
    clock : Clock, optional
        Clock of the scheduler.
    observers : sequence of Observer
        Receive all events, in addition to the application's tracer provider.
    final_output_wcs, final_output_shape_hw, sky_percentile, robust_clip_sigma, options
        Accepted for compatibility. Previews have their own grid, the sky level is a median, and
        Tukey's biweight rejects outliers. ``offset_only_v1`` without ``gain_offset_v2`` holds all
        gains at 1, and ``force_safe_mode`` runs one job at a time. Nothing is clipped to
        ``gain_clip`` and ``offset_clip``; a line reports corrections beyond them.

    Returns
    -------
    dict
        ``{index in the list: (gain, offset in ADU)}`` of all usable tiles; with `return_channels`
        ``(gains, offsets)`` with one number per channel. Empty if nothing could be matched, for
        which the log has the reason.
    """
    from .drop_in.tiles import cell_pixels, scan_entries
    from .reporting import PhaseReporter

    entries = list(() if tile_data_with_wcs is None else tile_data_with_wcs)
    neighbours = arguments.as_int(max_neighbors_per_tile, 8)
    most_pairs = len(entries) * min(neighbours or len(entries), (len(entries) - 1) // 2 + 1)
    reporter = PhaseReporter(logger, progress_callback, len(entries), most_pairs)
    tiles = scan_entries(entries, tile_names or (), channels=bool(return_channels))
    safe_mode = arguments.as_flag(options.pop("force_safe_mode", False))
    settings = Settings(
        model=arguments.model(options),
        neighbours=neighbours,
        min_overlap=arguments.min_overlap(min_overlap_fraction, use_auto_intertile),
        block=cell_pixels(tiles, arguments.as_int(preview_size, 512, arguments.MIN_PREVIEW_SIZE)),
        workers=1 if safe_mode else arguments.workers(cpu_workers),
        pair_timeout=max(0.0, arguments.as_float(pair_timeout, Settings.pair_timeout)),
    )
    limits = arguments.limits(options)
    if unknown := arguments.unknown(options):
        reporter.log(logging.INFO, f"arguments without an effect: {', '.join(unknown)}")
    _diagnostics.clear()
    _diagnostics.update(arguments.NO_DIAGNOSTICS)
    solution = _calibrate(tiles, settings, folder, pool, reporter, observers, clock)
    if solution is None:
        return {}
    corrections = _reduce(solution, tile_weights, reporter)
    return _results(solution, corrections, limits, reporter, channels=bool(return_channels))


def _calibrate(
    tiles: Sequence[ScannedTile],
    settings: Settings,
    folder: str | os.PathLike[str] | None,
    pool: str | Executor | Pool,
    reporter: PhaseReporter,
    observers: Sequence[Observer],
    clock: Clock | None,
) -> PhaseSolution | None:
    """Calibrate in a run folder; log the reason and return None if nothing can be matched."""
    from .drop_in.isolation import open_pool
    from .errors import NoSolution
    from .observe.ids import Ids
    from .observe.run_recorder import Telemetry
    from .pipeline.calibrate import calibrate
    from .runtime.kept_folder import keep_folder

    with ExitStack() as stack:
        kept = stack.enter_context(
            keep_folder(
                folder, {"settings": asdict(settings), "trace": Ids().facts()}, reporter.log
            )
        )
        workers = stack.enter_context(open_pool(pool, settings.workers, reporter.log))
        try:
            solution = calibrate(
                tiles,
                settings,
                workers,
                [*(kept.journals if kept else ()), reporter, Telemetry(), *observers],
                folder=kept.path if kept else None,
                cached_results=kept.cached_results if kept else None,
                clock=clock,
            )
        except NoSolution as error:
            _diagnostics["status"] = f"no solution: {error}"
            reporter.log(logging.ERROR, str(error))
            return None
    if not (solution.pairs > 0).any():
        reporter.log(logging.WARNING, "no overlap could be measured; the tiles stay as they are")
        return None
    return solution


def _reduce(
    solution: PhaseSolution, tile_weights: Sequence[float] | None, reporter: PhaseReporter
) -> Corrections:
    """Return gains and offsets, with an anchor if the weights name one."""
    from .drop_in.corrections import reduce_solution

    try:
        weights = arguments.as_weights(tile_weights, len(solution.names))
    except ValueError as error:
        reporter.log(logging.WARNING, str(error))
        weights = None
    corrections = reduce_solution(solution, weights)
    if corrections.anchor is not None:
        reporter.log(logging.INFO, f"anchor: {solution.names[corrections.anchor]}")
    return corrections


def _results(
    solution: PhaseSolution,
    corrections: Corrections,
    limits: arguments.Limits,
    reporter: PhaseReporter,
    *,
    channels: bool,
) -> dict[int, Any]:
    """Return the corrections as ZeMosaic expects them, log a summary, keep the diagnostics."""
    from .drop_in.corrections import as_dict, limit_lines
    from .drop_in.diagnostics import describe

    results = as_dict(corrections, channels=channels)
    measured = sum(record.outcome == "measured" for record in solution.records)
    reporter.log(
        logging.INFO,
        f"{len(results)} of {len(solution.names)} tiles matched by {measured} of "
        f"{len(solution.records)} pairs; residual {solution.rms:.3g} {solution.unit}",
    )
    for line in limit_lines(corrections, limits):
        reporter.log(logging.INFO, line)
    _diagnostics.update(describe(solution, corrections, results))
    return results
