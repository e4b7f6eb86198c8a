"""Drop-in replacement for ZeMosaic's module of the same name.

`compute_intertile_affine_calibration` accepts the arguments of ZeMosaic, reports progress through
its callback and returns ``{tile index: (gain, offset)}``. Progress is the number of pairs that
have ended, so it only increases and always reaches its total; a heartbeat reports a stall.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from .runtime.events import Heartbeat, JobEnded, Note, Observer, SlowJob, StageStarted
from .runtime.pool import Pool
from .runtime.scheduler import Clock
from .settings import Settings

#: Prefix of all log lines.
PREFIX = "[Intertile] "
#: Indices of pending pairs in the log line of a heartbeat.
HEARTBEAT_INDICES = 5
#: Pairs between two progress reports of the phase.
PHASE_INTERVAL = 5
#: Smallest preview in cells that ZeMosaic may request.
MIN_PREVIEW_SIZE = 128
#: Smallest overlap with `use_auto_intertile`, as a fraction of the smaller tile.
AUTO_MIN_OVERLAP = 0.01


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
    pool: str | Executor | Pool = "threads",
    clock: Clock | None = None,
    observers: Sequence[Observer] = (),
    **ignored: Any,
) -> dict[int, tuple[float, float]]:
    """Compute gain and offset of each tile, so that ``gain * data + offset`` agrees in overlaps.

    Parameters
    ----------
    tile_data_with_wcs : sequence
        ``(data, wcs)`` or ``(data, wcs, mask)`` tuples: ``(H, W)``, ``(H, W, C)`` or
        ``(C, H, W)`` in ADU, which are never changed. A mask is a coverage from 0 (bad) to 1. Of
        a colour tile the mean of its channels is matched, since one pair of numbers is returned.
    preview_size : int
        Approximate longer side of a preview in cells, at least 128.
    min_overlap_fraction : float
        Smallest overlap to measure, as a fraction of the smaller tile.
    use_auto_intertile : bool
        Measure overlaps down to 1 % of a tile.
    logger : logging.Logger, optional
        Receives the log lines, each with the prefix ``[Intertile] ``.
    progress_callback : callable, optional
        Called with ``("phase5_intertile_pairs", done, total)`` for each pair that ended, with
        ``("phase5_intertile", done, total)`` for every fifth, and with
        ``(message, None, level)`` for each log line. Its exceptions are ignored.
    tile_weights : sequence of float, optional
        The tile with the highest weight becomes the anchor, with gain 1 and offset 0.
    cpu_workers : int, optional
        Number of jobs at once; one per processor by default.
    max_neighbors_per_tile : int
        Pairs kept for each tile; 0 keeps all.
    pool : {"threads", "processes", "serial"}, Executor or Pool
        Where pairs are measured. A thread that hangs is abandoned, a process is replaced.
    clock : Clock, optional
        Clock of the scheduler.
    observers : sequence of Observer
        Receive all events, in addition to the application's tracer provider.
    final_output_wcs, final_output_shape_hw, sky_percentile, robust_clip_sigma, ignored
        Accepted for compatibility. They are not needed: previews have their own grid, the sky
        level is a median, and Tukey's biweight rejects outliers.

    Returns
    -------
    dict
        ``{index in the list: (gain, offset in ADU)}`` of all usable tiles; empty if nothing could
        be matched, for which the log has the reason.
    """
    from .errors import NoSolution
    from .observe.telemetry import Telemetry
    from .pipeline.calibrate import calibrate

    reporter = _ZeMosaicReporter(logger, progress_callback)
    if ignored:
        reporter.log(logging.DEBUG, f"ignored: {', '.join(sorted(ignored))}")
    tiles = [_convert_tile(entry) for entry in tile_data_with_wcs or ()]
    if use_auto_intertile:
        min_overlap_fraction = min(min_overlap_fraction, AUTO_MIN_OVERLAP)
    settings = Settings(
        anchor=_heaviest_tile(tile_weights, len(tiles), reporter),
        neighbours=max_neighbors_per_tile,
        min_overlap=min_overlap_fraction,
        block=_cell_pixels(tiles, max(MIN_PREVIEW_SIZE, preview_size)),
        workers=cpu_workers or 0,
    )
    try:
        solution = calibrate(
            tiles, settings, pool, [reporter, Telemetry(), *observers], clock=clock
        )
    except NoSolution as error:
        reporter.log(logging.ERROR, str(error))
        return {}
    if not (solution.pairs > 0).any():
        reporter.log(logging.WARNING, "no overlap could be measured; the tiles stay as they are")
        return {}
    corrections = zip(solution.gain[:, 0], solution.offset[:, 0], strict=True)
    return {
        index: (float(gain), float(offset))
        for index, (gain, offset) in enumerate(corrections)
        if np.isfinite(gain)
    }


class _ZeMosaicReporter(Observer):
    """Reports events to ZeMosaic's logger and progress callback, in the format it expects."""

    def __init__(self, logger: logging.Logger | None, callback: Callable[..., Any] | None) -> None:
        self._logger = logger
        self._callback = callback
        self._callback_failed = False

    def log(self, level: int, message: str) -> None:
        line = message if message.startswith(PREFIX) else PREFIX + message
        if self._logger is not None:
            self._logger.log(level, line)
        self._call_back(line, None, logging.getLevelName(level))

    def stage_started(self, event: StageStarted) -> None:
        if event.stage == "pairs":
            self.log(logging.INFO, f"Measuring {event.total} pairs")

    def job_ended(self, event: JobEnded) -> None:
        if event.error is not None:
            kind = "Pair" if event.stage == "pairs" else "Tile"
            self.log(logging.ERROR, f"{kind} future failed idx={event.index}: {event.error}")
        if event.stage == "pairs":
            self._call_back("phase5_intertile_pairs", event.done, event.total)
            if event.done % PHASE_INTERVAL == 0:
                self._call_back("phase5_intertile", event.done, event.total)

    def heartbeat(self, event: Heartbeat) -> None:
        sample = list(event.pending_indices[:HEARTBEAT_INDICES])
        self.log(
            logging.WARNING,
            f"Heartbeat: done={event.done}/{event.total} pending={event.pending} "
            f"last_completed_idx={event.last_completed_index} sample_pending_idx={sample}",
        )

    def slow_job(self, event: SlowJob) -> None:
        seconds = round(event.running_time)
        self.log(logging.WARNING, f"Slow: idx={event.index} has run for {seconds} s")

    def note(self, event: Note) -> None:
        self.log(event.level, event.message)

    def _call_back(self, *arguments: Any) -> None:
        """Call the callback; log its first exception, as when its window has been closed."""
        if self._callback is None:
            return
        try:
            self._callback(*arguments)
        except Exception as error:  # noqa: BLE001
            if not self._callback_failed and self._logger is not None:
                self._callback_failed = True
                name = type(error).__name__
                self._logger.warning("%sprogress_callback raised %s: %s", PREFIX, name, error)


def _convert_tile(entry: Any) -> Any:
    """Return ``(luminance, wcs)`` or ``(luminance, wcs, bad)``; `bad` is true for bad pixels.

    An invalid entry is returned as it is, so that it is reported by name with the other tiles.
    """
    if not isinstance(entry, (tuple, list)) or not 2 <= len(entry) <= 3:
        return entry
    data = np.asarray(entry[0])
    if data.ndim == 3 and min(data.shape) > 0:
        from .photometry.tiles.axes import to_channels_first

        try:
            data = np.asarray(to_channels_first(data).mean(axis=0, dtype=np.float32))
        except ValueError:
            return entry
    if len(entry) == 2 or entry[2] is None:
        return data, entry[1]
    coverage = np.asarray(entry[2], dtype=np.float32)
    if coverage.ndim == 3:
        coverage = coverage[..., 0]
    # Pixels covered by less than one half are bad, unless all are; then any coverage is good.
    limit = 0.5 if np.nanmax(coverage, initial=0.0) > 0.5 else 0.0
    return data, entry[1], ~(coverage > limit)


def _cell_pixels(tiles: Sequence[Any], preview_size: int) -> int:
    """Return the side of a cell in pixels, so that the median tile has `preview_size` cells.

    0, the automatic choice, if cells would be smaller than that, which is about a star's FWHM.
    """
    sides = [max(t[0].shape) for t in tiles if isinstance(t, tuple) and t[0].ndim >= 2]
    if not sides or min(sides) == 0:
        return 0
    longer_side = float(np.median(sides))
    return 0 if longer_side <= 4 * preview_size else round(longer_side / preview_size)


def _heaviest_tile(
    weights: Sequence[float] | None, tiles: int, reporter: _ZeMosaicReporter
) -> int | None:
    """Return the index of the tile with the highest weight; None without usable weights."""
    if weights is None:
        return None
    if len(weights) != tiles:
        reporter.log(logging.WARNING, f"{len(weights)} tile weights for {tiles} tiles: ignored")
        return None
    finite = np.nan_to_num(np.asarray(weights, dtype=np.float64), nan=0.0)
    return int(np.argmax(finite)) if tiles else None
