"""The intertile calibration phase: the wings composed, top to bottom.

tiles -> prepare (scan, then one preview per tile) -> overlap -> pairs -> solve -> apply
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import stacks
from ..runtime.events import FanOut, JobError, Note, Observer, RunEnded, RunStarted
from ..runtime.inflight import Inflight
from ..runtime.make_pool import make_pool
from ..runtime.pool import Pool
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Clock
from ..settings import Settings
from . import PRELOAD
from .solution import PhaseSolution
from .stages import Phase
from .tasks import TileLike


def calibrate(
    tiles: Iterable[TileLike],
    settings: Settings | None = None,
    pool: str | Executor | Pool = "processes",
    observers: Iterable[Observer] | None = None,
    *,
    apply_to: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    cached_results: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    on_solution: Callable[[PhaseSolution], None] = lambda solution: None,
) -> PhaseSolution:
    """Find one gain and one offset per tile and channel, so that overlaps agree.

    Parameters
    ----------
    tiles : iterable
        FITS files, ``(array, wcs)`` or ``(array, wcs, mask)`` tuples (true in the mask: bad),
        or `Tile` objects; at least two. Arrays are ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``
        in ADU; NaN is "no datum".
    settings : Settings, optional
        What to do.
    pool : {"processes", "threads", "serial"}, Executor or Pool
        Where to do it. With processes a job that hangs or crashes costs itself alone; a script
        then needs the usual ``if __name__ == "__main__":``. What is given is left open.
    observers : iterable of Observer, optional
        Told of everything that happens. By default spans are made with the tracer provider
        that the application has set.
    apply_to : path-like, optional
        Folder for the corrected tiles; those given as arrays are not written.
    folder : path-like, optional
        Run folder: the table of jobs under way, stacks and previews are kept there, the last
        until the run has finished; by default a temporary one. Claim it first if another run
        may use it (`zemosaic.runtime.run_folder.claim`).
    cached_results : Mapping, optional
        Results of an earlier run on these tiles (`zemosaic.runtime.journal.results`), taken where
        nothing that they depend on has changed.
    clock : Clock, optional
        Where the scheduler's time comes from.
    on_solution : callable
        Takes the solution before the run is said to have finished.

    Returns
    -------
    PhaseSolution
        A tile that could not be read has NaN; one that overlaps no other has gain 1, offset 0.

    Raises
    ------
    NoSolution
        Fewer than two tiles were given or could be read.
    UserError
        A setting makes no sense.
    """
    if observers is None:
        from ..observe.telemetry import Telemetry

        observers = [Telemetry()]
    settings = settings or Settings()
    given = list(tiles)
    if settings.anchor is not None and not 0 <= settings.anchor < len(given):
        raise UserError(f"anchor is {settings.anchor}; there are tiles 0 to {len(given) - 1}")
    fan_out = FanOut(observers)
    workers = make_pool(pool, settings.workers, PRELOAD)
    attributes = {
        "tiles.total": len(given),
        "pool.kind": workers.kind,
        "pool.workers": workers.workers,
    }
    fan_out.dispatch(
        RunStarted(run_id=uuid.uuid4().hex, time_ns=time.time_ns(), attributes=attributes)
    )
    state: str = "failed"
    failure: BaseException | None = None
    inflight = None
    try:
        with _run_folder(folder) as place:
            inflight = _inflight(place, workers, settings, fan_out, folder is not None)
            phase = Phase(
                settings,
                workers,
                fan_out,
                clock or Clock(),
                inflight,
                RunFolder(place).previews,
                cached_results or {},
                place if folder is not None else None,
            )
            solution = phase.run(given, apply_to)
            on_solution(solution)
            shutil.rmtree(RunFolder(place).previews, ignore_errors=True)
        state = "finished"
        return solution
    except (KeyboardInterrupt, SystemExit) as error:
        state, failure = "interrupted", error
        raise
    except BaseException as error:
        failure = error
        raise
    finally:
        if workers is not pool:
            workers.close()
        stacks.disarm()
        if inflight is not None:
            inflight.close(state)
        told = JobError.of(failure) if failure is not None else None
        fan_out.dispatch(RunEnded(state=state, time_ns=time.time_ns(), error=told))


@contextmanager
def _run_folder(given: str | os.PathLike[str] | None) -> Iterator[Path]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="zemosaic-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    else:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)


def _inflight(
    folder: Path, pool: Pool, settings: Settings, observers: FanOut, ours: bool
) -> Inflight | None:
    """The table of jobs under way; None where there is no room for it."""
    # Of timers for stacks a process has but one: in somebody else's process it is not ours to
    # set, and its stacks can be had without.
    patience = settings.heartbeat if ours or pool.kind == "processes" else 0.0
    try:
        inside = ours and pool.kind != "processes"
        table = Inflight(folder, pool.window, patience, inside)
        if ours:
            stacks.enable(folder)
        return table
    except OSError as error:
        message = f"{folder}: no table of the jobs under way ({error.strerror}); the run goes on"
        observers.dispatch(Note(level=logging.WARNING, message=message))
        return None
