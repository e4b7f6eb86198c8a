"""The calibration as one function: prepares the run, runs the stages, reports the end."""

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import require_different
from ..runtime import stacks
from ..runtime.events import JobError, Note, RunEnded, RunStarted
from ..runtime.inflight import Inflight
from ..runtime.make_pool import make_pool
from ..runtime.observers import FanOut, Observer
from ..runtime.pool import Pool
from ..runtime.run_folder import RunFolder
from ..runtime.scheduler import Clock
from ..settings import Settings
from . import PRELOAD, describe_package
from .prepare_stage import scan_and_prepare
from .preview_files import PreviewFiles, check_previews
from .run_context import RunContext
from .scan_task import TileLike

if TYPE_CHECKING:
    from .mosaic_stage import MosaicOptions
    from .solution import PhaseSolution


def calibrate(
    tiles: Iterable[TileLike],
    settings: Settings | None = None,
    pool: str | Executor | Pool | Any = "processes",
    observers: Iterable[Observer] | None = None,
    *,
    apply_to: str | os.PathLike[str] | None = None,
    mosaic: MosaicOptions | None = None,
    folder: str | os.PathLike[str] | None = None,
    previews: str = "folder",
    cached_results: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    on_solution: Callable[[PhaseSolution], None] = lambda solution: None,
    progress: bool = False,
) -> PhaseSolution:
    """Compute one gain and one offset per tile and channel to make the overlaps agree.

    Parameters
    ----------
    tiles : iterable
        At least two FITS files, `Tile` objects, HDUs or lists of HDUs of `astropy.io.fits`,
        `astropy.nddata.NDData` or `CCDData` with a WCS, ``(array, wcs)`` or
        ``(array, wcs, mask)`` tuples (mask true: bad pixel). Arrays are ``(H, W)``,
        ``(C, H, W)`` or ``(H, W, C)`` in ADU, or quantities; NaN marks missing data.
    settings : Settings, optional
        Settings of the run.
    pool : {"processes", "threads", "serial", "dask"}, str, Executor, Pool or Client
        Workers of the run. With processes, a job that hangs or crashes affects no other;
        a script then needs the usual ``if __name__ == "__main__":``. "dask" starts a Dask
        cluster on this machine; "dask://HOST:PORT" and a `distributed.Client` join one. An
        executor, pool or client is left open.
    observers : iterable of Observer, optional
        Observers of the run. By default spans go to the tracer provider set by the
        application.
    apply_to : path-like, optional
        Folder for the corrected tiles; tiles given as arrays are not written.
    mosaic : MosaicOptions, optional
        The mosaic to write.
    folder : path-like, optional
        Run folder for the table of running jobs, the stacks and, until the run has finished,
        the previews; temporary by default. If another run may use it, claim it first
        (`zemosaic.runtime.run_folder.claim`).
    previews : {"folder", "workers"}, optional
        Whether all workers share the run folder, where the previews are, or the workers of a
        Dask cluster keep the previews on their own disks. They must then share the tiles alone.
    cached_results : Mapping, optional
        Results of earlier runs on these tiles (`zemosaic.runtime.journal.results`), used
        where nothing they depend on has changed.
    clock : Clock, optional
        Clock of the scheduler.
    on_solution : callable, optional
        Called with the solution before the mosaic is written.
    progress : bool, optional
        Show progress and problems on a terminal or in a notebook.

    Returns
    -------
    PhaseSolution
        A tile that could not be read has NaN; a tile without overlaps has gain 1, offset 0.

    Raises
    ------
    NoSolution
        Fewer than two tiles were given or could be read.
    UserError
        A setting is invalid, a file is given twice, or `previews` does not go with the pool or
        a mosaic.
    """
    if observers is None:
        from ..observe.run_recorder import Telemetry

        observers = [Telemetry()]
    if progress:
        from rich.console import Console as Terminal

        from ..observe.console import Console

        observers = [*observers, Console(Terminal(stderr=True))]
    settings = settings or Settings()
    tiles = list(tiles)
    require_different(tile for tile in tiles if isinstance(tile, (str, os.PathLike)))
    if isinstance(settings.anchor, int) and not 0 <= settings.anchor < len(tiles):
        raise UserError(f"anchor is {settings.anchor}; there are tiles 0 to {len(tiles) - 1}")
    check_previews(previews, pool, has_mosaic=mosaic is not None)
    workers = make_pool(pool, settings.workers, PRELOAD, describe_package)
    fan_out = FanOut(observers)
    with (
        _report_run(fan_out, workers, workers is not pool, len(tiles)) as run,
        _run_folder(folder, workers.kind == "dask") as path,
    ):
        if workers.kind == "dask":  # workers may have folders of their own
            tiles = [os.path.abspath(t) if isinstance(t, (str, os.PathLike)) else t for t in tiles]
            apply_to = None if apply_to is None else os.path.abspath(apply_to)
            mosaic = mosaic and replace(mosaic, output=mosaic.output.absolute())
        keeper = workers if previews == "workers" else None
        shared = _shared_folders(path, apply_to, mosaic)
        workers.use_folders(shared if keeper is None else shared[1:])
        run.inflight = _make_inflight(path, workers, settings, fan_out, folder is not None)
        files = PreviewFiles(RunFolder(path).previews, keeper)
        context = RunContext(
            settings=settings,
            pool=workers,
            observers=fan_out,
            clock=clock or Clock(),
            inflight=run.inflight,
            previews=files,
            cached_results=cached_results or {},
            run_folder=path if folder is not None else None,
        )
        first = scan_and_prepare(context, tiles, mosaic)
        from .stages import run_stages

        solution = run_stages(context, tiles, first, apply_to)
        if run.inflight is not None:
            run.inflight.write_progress("tables", 0, 0)
        on_solution(solution)
        if mosaic is not None:
            from .mosaic_stage import write_mosaic

            problem = write_mosaic(context, solution, mosaic)
            solution = replace(solution, no_mosaic=problem)
        shutil.rmtree(files.folder, ignore_errors=True)
    return solution


def _shared_folders(
    folder: Path, apply_to: str | os.PathLike[str] | None, mosaic: MosaicOptions | None
) -> list[Path]:
    """Return the folders in which workers write."""
    folders = [folder]
    if apply_to is not None:
        Path(apply_to).mkdir(parents=True, exist_ok=True)
        folders.append(Path(apply_to))
    return folders if mosaic is None else [*folders, mosaic.output.parent]


@dataclass
class _Run:
    inflight: Inflight | None = None


@contextmanager
def _report_run(observers: FanOut, pool: Pool, owns_pool: bool, tiles: int) -> Iterator[_Run]:
    """Report the start and the end of a run, and release its pool and table at the end."""
    attributes = {"tiles.total": tiles, "pool.kind": pool.kind, "pool.workers": pool.workers}
    started = RunStarted(run_id=uuid.uuid4().hex, time_ns=time.time_ns(), attributes=attributes)
    observers.dispatch(started)
    run, state = _Run(), "failed"
    failure: BaseException | None = None
    try:
        yield run
        state = "finished"
    except BaseException as error:
        failure = error
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            state = "interrupted"
        raise
    finally:
        if owns_pool:
            pool.close()
        stacks.close()
        if run.inflight is not None:
            run.inflight.close(state)
        error_record = JobError.of(failure) if failure is not None else None
        observers.dispatch(RunEnded(state=state, time_ns=time.time_ns(), error=error_record))


@contextmanager
def _run_folder(folder: str | os.PathLike[str] | None, makes_absolute: bool) -> Iterator[Path]:
    """Yield the run folder, or a temporary one if none is given."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="zemosaic-", ignore_cleanup_errors=True) as name:
            yield Path(name)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder).absolute() if makes_absolute else Path(folder)


def _make_inflight(
    folder: Path, pool: Pool, settings: Settings, observers: FanOut, keeps_folder: bool
) -> Inflight | None:
    """Create the table of running jobs; return None if the disk has no space for it."""
    # A process has one timer for stack dumps. Without a run folder this process may belong to
    # an application that uses the timer, so its own stacks are not dumped.
    own_process = pool.runs_here
    patience = settings.heartbeat if keeps_folder or not own_process else 0.0
    try:
        table = Inflight(folder, pool.rows, patience, keeps_folder and own_process)
        if keeps_folder:
            stacks.dump_on_fault(folder)
        return table
    except OSError as error:
        message = f"{folder}: no table of running jobs ({error.strerror}); the run continues"
        observers.dispatch(Note(level=logging.WARNING, message=message))
        return None
