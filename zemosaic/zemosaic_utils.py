"""The drop-in, under the module and function name that ZeMosaic imports.

`compute_intertile_affine_calibration` takes what ZeMosaic passes, reports through the callbacks
that its window listens to, and returns ``{tile index: (gain, offset)}``. Progress is the number
of pairs that ended, so it only rises and always arrives; a stall is told by a heartbeat.
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

PREFIX = "[Intertile] "
SAMPLE = 5  # indices in a heartbeat's line
EVERY = 5  # pairs between two reports of the phase as a whole


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
    **more: Any,
) -> dict[int, tuple[float, float]]:
    """Gain and offset of each tile, so that ``gain * data + offset`` agrees in overlaps.

    Parameters
    ----------
    tile_data_with_wcs : sequence
        ``(data, wcs)`` or ``(data, wcs, mask)`` tuples: ``(H, W)``, ``(H, W, C)`` or
        ``(C, H, W)`` in ADU, which are never written to; a mask is a coverage, 0 (bad) to 1.
        Of a colour tile the mean of its channels is matched, since one pair is returned.
    preview_size : int
        Longer side of a preview in cells, about; from 128 on.
    min_overlap_fraction : float
        Smallest overlap worth measuring, of the smaller tile.
    use_auto_intertile : bool
        Take overlaps down to 1 % of a tile.
    logger : logging.Logger, optional
        Takes the log lines, each with the prefix ``[Intertile] ``.
    progress_callback : callable, optional
        Called with ``("phase5_intertile_pairs", done, total)`` for each pair that ended, with
        ``("phase5_intertile", done, total)`` for every fifth, and with
        ``(message, None, level)`` for each log line. What it raises changes nothing.
    tile_weights : sequence of float, optional
        The heaviest tile becomes the anchor, with gain 1 and offset 0.
    cpu_workers : int, optional
        Jobs at once; by default one per processor.
    max_neighbors_per_tile : int
        Pairs kept for each tile; 0 keeps all.
    pool : {"threads", "processes", "serial"}, Executor or Pool
        Where pairs run. A thread that hangs is left behind, a process is replaced.
    clock : Clock, optional
        Where the scheduler's time comes from.
    observers : sequence of Observer
        Told of everything, besides the spans that go to the application's tracer provider.
    final_output_wcs, final_output_shape_hw, sky_percentile, robust_clip_sigma, more
        Taken for compatibility. Previews have a grid of their own, the sky level is a median,
        and outliers lose their weight by Tukey's function, so none of these has a use.

    Returns
    -------
    dict
        ``{index in the list: (gain, offset in ADU)}`` of every tile that could be used; empty
        where nothing could be matched, which the log explains.
    """
    from .errors import NoSolution
    from .observe.telemetry import Telemetry
    from .pipeline.calibrate import calibrate

    legacy = _Legacy(logger, progress_callback)
    if more:
        legacy.say(logging.DEBUG, f"ignored: {', '.join(sorted(more))}")
    tiles = [_tile(entry) for entry in tile_data_with_wcs or ()]
    smallest = min(min_overlap_fraction, 0.01) if use_auto_intertile else min_overlap_fraction
    settings = Settings(
        anchor=_heaviest(tile_weights, len(tiles), legacy),
        neighbours=max_neighbors_per_tile,
        min_overlap=smallest,
        block=_block(tiles, max(128, preview_size)),
        workers=cpu_workers or 0,
    )
    try:
        solution = calibrate(tiles, settings, pool, [legacy, Telemetry(), *observers], clock=clock)
    except NoSolution as error:
        legacy.say(logging.ERROR, str(error))
        return {}
    if not (solution.pairs > 0).any():
        legacy.say(logging.WARNING, "no overlap could be measured; the tiles stay as they are")
        return {}
    return {
        index: (float(gain), float(offset))
        for index, (gain, offset) in enumerate(
            zip(solution.gain[:, 0], solution.offset[:, 0], strict=True)
        )
        if np.isfinite(gain)
    }


class _Legacy(Observer):
    """Speaks to ZeMosaic's logger and window."""

    def __init__(self, logger: logging.Logger | None, callback: Callable[..., Any] | None) -> None:
        self._logger = logger
        self._callback = callback
        self._complained = False

    def say(self, level: int, message: str) -> None:
        line = message if message.startswith(PREFIX) else PREFIX + message
        if self._logger is not None:
            self._logger.log(level, line)
        self._report(line, None, logging.getLevelName(level))

    def stage_started(self, event: StageStarted) -> None:
        if event.stage == "pairs":
            self.say(logging.INFO, f"Measuring {event.total} pairs")

    def job_ended(self, event: JobEnded) -> None:
        if event.error is not None:
            kind = "Pair" if event.stage == "pairs" else "Tile"
            self.say(logging.ERROR, f"{kind} future failed idx={event.index}: {event.error}")
        if event.stage == "pairs":
            self._report("phase5_intertile_pairs", event.done, event.total)
            if event.done % EVERY == 0:
                self._report("phase5_intertile", event.done, event.total)

    def heartbeat(self, event: Heartbeat) -> None:
        sample = list(event.pending_indices[:SAMPLE])
        self.say(
            logging.WARNING,
            f"Heartbeat: done={event.done}/{event.total} pending={event.pending} "
            f"last_completed_idx={event.last_completed_index} sample_pending_idx={sample}",
        )

    def slow_job(self, event: SlowJob) -> None:
        seconds = round(event.running_time)
        self.say(logging.WARNING, f"Slow: idx={event.index} has run for {seconds} s")

    def note(self, event: Note) -> None:
        self.say(event.level, event.message)

    def _report(self, *what: Any) -> None:
        """Call the window; it may be gone, so whatever it raises is told once and no more."""
        if self._callback is None:
            return
        try:
            self._callback(*what)
        except Exception as error:  # noqa: BLE001
            if not self._complained and self._logger is not None:
                self._complained = True
                name = type(error).__name__
                self._logger.warning("%sprogress_callback raised %s: %s", PREFIX, name, error)


def _tile(entry: Any) -> Any:
    """ZeMosaic's tuple as ours: luminance, and a mask that is true where a pixel is bad."""
    if not isinstance(entry, (tuple, list)) or not 2 <= len(entry) <= 3:
        return entry
    data = np.asarray(entry[0])
    if data.ndim == 3 and min(data.shape) > 0:
        from .photometry.tiles.axes import to_planes

        try:
            data = np.asarray(to_planes(data).mean(axis=0, dtype=np.float32))
        except ValueError:
            return entry  # said by name when the tile is looked at
    if len(entry) == 2 or entry[2] is None:
        return data, entry[1]
    coverage = np.asarray(entry[2], dtype=np.float32)
    if coverage.ndim == 3:
        coverage = coverage[..., 0]
    # Half covered is covered; a map that never reaches one half counts from its first light.
    limit = 0.5 if np.nanmax(coverage, initial=0.0) > 0.5 else 0.0
    return data, entry[1], ~(coverage > limit)


def _block(tiles: Sequence[Any], preview_size: int) -> int:
    """Pixels per cell so that the longer side of the median tile is `preview_size` cells."""
    sides = [max(t[0].shape) for t in tiles if isinstance(t, tuple) and t[0].ndim >= 2]
    if not sides or min(sides) == 0:
        return 0
    # Never finer than the automatic choice, which is about a star's FWHM.
    long = float(np.median(sides))
    return 0 if long <= 4 * preview_size else round(long / preview_size)


def _heaviest(weights: Sequence[float] | None, tiles: int, legacy: _Legacy) -> int | None:
    if weights is None:
        return None
    if len(weights) != tiles:
        legacy.say(logging.WARNING, f"{len(weights)} tile weights for {tiles} tiles: ignored")
        return None
    known = np.nan_to_num(np.asarray(weights, dtype=np.float64), nan=0.0)
    return int(np.argmax(known)) if tiles else None
