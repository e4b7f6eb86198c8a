"""A calibration in a run folder: with journal, trace, console, tables and report."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as Terminal

from .._version import __version__
from ..observe.console import Console
from ..observe.endpoint import (
    DEFAULT_ENDPOINT,
    endpoint_from_environment,
    live_mode,
    trace_url,
    traces_endpoint,
    without_credentials,
)
from ..observe.run_trace import make_telemetry, recorded_deliveries
from ..observe.stall import OnStall, run_command
from ..observe.telemetry import environment_parent
from ..observe.tracing import Tracing
from ..pipeline.calibrate import calibrate
from ..runtime import journal
from ..runtime.events import RunStarted
from ..runtime.journal import Journal, Record, RunColumns, SavedResults
from ..runtime.observers import Observer
from ..runtime.run_folder import RunFolder, claim
from ..runtime.watchdog import Watchdog
from ..settings import Settings
from ..text import printable, shell_command

if TYPE_CHECKING:
    from ..pipeline.mosaic_stage import MosaicOptions
    from ..pipeline.solution import PhaseSolution

logger = logging.getLogger(__name__)

STAGE_TIMEOUT = 900.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run besides its settings.

    Parameters
    ----------
    pool : {"processes", "threads", "serial"}
        Kind of workers.
    previews : {"folder", "workers"}
        Whether the previews are in the run folder or stay with the workers of a Dask cluster.
    otlp : str or None
        Endpoint of a collector; empty for the default one, None for the one in the environment.
    live : {"auto", "snapshot", "marker", "off"}
        How an unfinished run is shown in the collector.
    on_stall : str
        Command to run when no job ends for a heartbeat; empty for none.
    resume : bool
        Reuse the results of earlier runs in the folder.
    apply_to : pathlib.Path or None
        Folder for corrected tiles.
    mosaic : MosaicOptions or None
        The mosaic to write.
    tables : tuple of {"fits", "parquet"}
        Formats of the tables besides ECSV.
    stage_timeout : float
        Seconds after which a stage of the run itself is ended with the run; 0 means never.
    report : bool
        Write the page of the run at the end, even if it fails.
    quiet, verbose : bool
        Amount of output on the console.
    """

    pool: str = "processes"
    previews: str = "folder"
    otlp: str | None = None
    live: str = "auto"
    on_stall: str = ""
    resume: bool = False
    apply_to: Path | None = None
    mosaic: MosaicOptions | None = None
    tables: tuple[str, ...] = ()
    stage_timeout: float = STAGE_TIMEOUT
    report: bool = True
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class RunResult:
    """The result of a run, its summary as lines and facts, and whether the journal is complete."""

    solution: PhaseSolution
    lines: tuple[str, ...]
    facts: dict[str, Any]
    journalled: bool


def run_in_folder(
    tiles: Sequence[str], settings: Settings, folder: Path, options: RunOptions
) -> RunResult:
    """Run the calibration with a run folder, a trace and a console.

    Parameters
    ----------
    tiles : sequence of str
        FITS files.
    settings : Settings
        Settings of the calibration.
    folder : pathlib.Path
        Created if necessary, and locked against other runs.
    options : RunOptions
        Other options.
    """
    endpoint = _endpoint(options.otlp)
    terminal = Terminal(stderr=True)
    console = Console(terminal, folder, quiet=options.quiet, verbose=options.verbose)
    paths = RunFolder(folder)
    with (
        claim(folder),
        contextlib.closing(Watchdog(folder, options.stage_timeout)) as watchdog,
        _report_at_end(folder, terminal, options.report, watchdog),
    ):
        records, cached = _earlier_runs(folder, terminal, options.resume)
        tracing = Tracing(paths.trace, endpoint, other_signals=True)
        about = _about(settings, options, tracing, _resumed_run(records) if options.resume else {})
        with _open_journal(folder, about, tracing, terminal) as journals:
            telemetry = make_telemetry(
                tracing, about["trace"], settings.heartbeat, resumed_from=about["resumed_from"]
            )
            # The journal comes first, so that it has every event seen by others.
            observers = [watchdog, *journals, telemetry, console]
            if options.on_stall:
                observers.append(OnStall(run_command(options.on_stall, str(folder))))
            solution = _calibrate(tiles, settings, folder, options, observers, cached, watchdog)
    from .summary import summary_facts, summary_lines

    files = _output_files(paths, options.apply_to)
    if endpoint and (page := trace_url(endpoint, telemetry.trace_id, telemetry.find)):
        files["trace"] = page
    lines = summary_lines(solution, console.stage_seconds)
    lines += [f"{name:12} {location}" for name, location in files.items()]
    facts = summary_facts(solution, console.stage_seconds)
    facts |= {"folder": str(folder), "files": files}
    if options.mosaic is not None and not solution.no_mosaic:
        lines.append(f"mosaic       {options.mosaic.output}")
        facts["mosaic"] = str(options.mosaic.output)
    journalled = bool(journals) and not journals[0].failed
    return RunResult(solution, tuple(lines), facts, journalled)


def _endpoint(otlp: str | None) -> str:
    """Return the endpoint of the collector, checked; empty for none."""
    if otlp is None:
        return endpoint_from_environment()
    return traces_endpoint(otlp or DEFAULT_ENDPOINT)


def _resumed_run(records: Sequence[Record]) -> dict[str, Any]:
    """Return the last run in a journal and the ids of its phase; empty if there is none."""
    for record in reversed(records):
        start = next((e for e in record.events if isinstance(e, RunStarted)), None)
        if start is not None and (trace := record.about.get("trace")):
            # The phase is the first span of a run.
            return {"run": start.run_id, "trace": trace["id"], "span": trace["first"] + 1}
    return {}


def _calibrate(
    tiles: Sequence[str],
    settings: Settings,
    folder: Path,
    options: RunOptions,
    observers: Sequence[Observer],
    cached_results: Mapping[str, Any],
    watchdog: Watchdog,
) -> PhaseSolution:
    paths = RunFolder(folder)

    def write_tables(solution: PhaseSolution) -> None:
        from ..pipeline.illumination_file import write_illuminations
        from ..pipeline.tables import corrections_table, pairs_table, run_name, write_table

        with watchdog.stage("tables"):
            for table, path in (
                (corrections_table(solution, settings), paths.corrections),
                (pairs_table(solution, settings), paths.pairs),
            ):
                for ending in ("ecsv", *options.tables):
                    write_table(table, path.with_suffix(f".{ending}"))
            write_illuminations(solution, paths.illumination, run_name(solution, settings))

    gc.freeze()  # collecting all imported modules takes a twentieth of a second
    gc.enable()
    try:
        return calibrate(
            tiles, settings, options.pool, observers, apply_to=options.apply_to,
            mosaic=options.mosaic, folder=folder, previews=options.previews,
            cached_results=cached_results, on_solution=write_tables,
        )  # fmt: skip
    finally:
        gc.unfreeze()


def _earlier_runs(
    folder: Path, terminal: Terminal, resume: bool
) -> tuple[list[RunColumns], Mapping[str, Any]]:
    """Return the records of earlier runs, and the results to reuse.

    Without `resume` a finished run's journal is removed, because its results are in the tables;
    the journal of an unfinished run is kept, with a warning.
    """
    saved = SavedResults(RunFolder(folder).journal)
    records = journal.read_columns(folder, lambda: saved)
    if damaged := sum(record.damaged for record in records):
        _warn(
            terminal,
            f"{RunFolder(folder).journal}: {damaged} lines are damaged and count as unknown; "
            "check the disk",
        )
    begun = [record for record in records if record.events]  # others were refused before
    if not begun or resume:
        return records, saved if resume else {}
    ended = begun[-1].ended
    if ended is not None and ended.state == "finished":
        RunFolder(folder).journal.unlink()
        return records, {}
    state = (
        "died" if ended is None else f"was {ended.state}" if ended.state != "failed" else "failed"
    )
    _warn(
        terminal,
        f"{folder}: the previous run {state}; see zemosaic autopsy {shell_command([str(folder)])}; "
        f"--resume would have reused its {len(saved)} results",
    )
    return records, {}


@contextlib.contextmanager
def _report_at_end(
    folder: Path, terminal: Terminal, enabled: bool, watchdog: Watchdog
) -> Iterator[None]:
    """Remove the pictures of an earlier run, and write the page of this run however it ends."""
    paths = RunFolder(folder)
    with contextlib.suppress(OSError):
        paths.report.unlink(missing_ok=True)
        paths.mosaic.unlink(missing_ok=True)
    try:
        yield
    finally:
        if enabled and paths.journal.exists():
            from ..report.build import write_report

            try:
                with watchdog.stage("page"):
                    write_report(folder)
            except Exception as error:  # the results of the run matter more than its page
                logger.debug("no report", exc_info=True)
                command = f"zemosaic report {shell_command([str(folder)])}"
                _warn(
                    terminal, f"{folder}: no {paths.report.name} ({error}); see {command} for more"
                )


@contextlib.contextmanager
def _open_journal(
    folder: Path, about: dict[str, Any], tracing: Tracing, terminal: Terminal
) -> Iterator[list[Journal]]:
    """Yield the journal in a list, empty if the disk is full, and close it after the trace."""
    journals = []

    def on_failure(reason: str) -> None:
        _warn(terminal, f"{folder}: {reason}; the run continues, but not all of it can be resumed")

    try:
        journals.append(Journal(folder, about, on_failure))
    except OSError as error:
        _warn(terminal, f"{folder}: no journal ({error.strerror}); the run cannot be resumed")

    def on_loss(problem: str) -> None:
        trace = RunFolder(folder).trace
        _warn(terminal, problem + ("" if problem.endswith(trace.name) else f"; see {trace}"))

    try:
        with recorded_deliveries(tracing, journals, on_loss):
            yield journals
    finally:
        for entry in journals:
            entry.close()


def _about(
    settings: Settings, options: RunOptions, tracing: Tracing, resumed_from: dict[str, Any]
) -> dict[str, Any]:
    """Return the first line of the journal: facts for the autopsy, the report and the next run."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "command": without_credentials(shell_command(["zemosaic", *sys.argv[1:]])),
        "cwd": os.getcwd(),
        "settings": asdict(settings),
        "pool": options.pool,
        "trace": tracing.ids.facts(
            tracing.endpoint, live_mode(options.live, tracing.endpoint), environment_parent()
        ),
        "resume": options.resume,
        "resumed_from": resumed_from,
    }


def _output_files(paths: RunFolder, apply_to: Path | None) -> dict[str, str]:
    files = {"corrections": paths.corrections, "pairs": paths.pairs}
    if paths.illumination.is_file():
        files["illumination"] = paths.illumination
    if apply_to is not None:
        files["corrected"] = apply_to
    if paths.report.is_file():
        files["report"] = paths.report
    files["trace"] = paths.trace
    return {name: str(path) for name, path in files.items()}


def _warn(terminal: Terminal, message: str) -> None:
    terminal.print(printable(f"zemosaic: {message}"), style="yellow", markup=False, soft_wrap=True)
