"""A run in its folder, as the command line does it: journal, trace, tables, summary."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal

from .._version import __version__
from ..errors import UserError
from ..files import atomic_write
from ..observe.autopsy import Autopsy, replay
from ..observe.console import Console
from ..observe.endpoint import (
    DEFAULT_ENDPOINT,
    check_endpoint,
    endpoint_from_environment,
    trace_url,
)
from ..observe.exporters import Ids, Tracing
from ..observe.telemetry import Telemetry
from ..pipeline.calibrate import calibrate
from ..pipeline.solution import PhaseSolution
from ..pipeline.tables import corrections_table, pairs_table, write_table
from ..runtime import journal
from ..runtime.journal import Journal, Record
from ..runtime.run_folder import RunFolder, claim
from ..settings import Settings

logger = logging.getLogger(__name__)
LIVE = ("snapshot", "marker", "off")


@dataclass(frozen=True)
class Ran:
    """A run that came to a solution, what is to be said of it to people and to machines, and
    whether all was kept.
    """

    solution: PhaseSolution
    lines: tuple[str, ...]
    facts: dict[str, Any]
    whole: bool


def run_in_folder(
    tiles: Sequence[str],
    settings: Settings,
    folder: Path,
    *,
    pool: str = "processes",
    otlp: str | None = None,
    live: str = "snapshot",
    resume: bool = False,
    apply_to: Path | None = None,
    report: bool = True,
    quiet: bool = False,
    verbose: bool = False,
) -> Ran:
    """Run the phase with a run folder, a trace and a console.

    Parameters
    ----------
    tiles : sequence of str
        FITS files.
    settings : Settings
        What to do.
    folder : pathlib.Path
        Is made if need be, and held against other runs meanwhile.
    pool : {"processes", "threads", "serial"}
        Where jobs run.
    otlp : str, optional
        Endpoint; empty for the usual one, None for what the environment says.
    live : {"snapshot", "marker", "off"}
        How a run that has not ended is shown there.
    resume : bool
        Take what earlier runs in the folder have measured.
    apply_to : pathlib.Path, optional
        Folder for corrected tiles.
    report : bool
        Make the page of the run at its end, however that is.
    quiet, verbose : bool
        How much the console says.
    """
    endpoint = endpoint_from_environment() if otlp is None else otlp or DEFAULT_ENDPOINT
    if endpoint:
        check_endpoint(endpoint)
    terminal = Terminal(stderr=True)
    console = Console(terminal, folder, quiet=quiet, verbose=verbose)
    with claim(folder), _page(folder, terminal, report):
        records = journal.read(folder)
        _say_what_died(terminal, records, folder, resume)
        if records and not resume and _finished(records[-1]):
            RunFolder(folder).journal.unlink()  # its results are in the tables
        cached = journal.results(records) if resume else {}
        tracing = Tracing(RunFolder(folder).trace, endpoint)
        about = _about(settings, pool, tracing, live) | {"resume": resume}
        with _journal(folder, about, tracing, terminal) as book:
            telemetry = Telemetry(
                tracing.tracer,
                tracing.snapshot_exporter() if live == "snapshot" else None,
                markers=live == "marker",
            )
            observers = [*book, telemetry, console]  # what was seen is in the journal already

            def write_tables(solution: PhaseSolution) -> None:
                write_table(corrections_table(solution, settings), RunFolder(folder).corrections)
                write_table(pairs_table(solution, settings), RunFolder(folder).pairs)

            gc.freeze()  # all that was imported: to look it through takes a twentieth of a second
            try:
                solution = calibrate(
                    tiles, settings, pool, observers, apply_to=apply_to, folder=folder,
                    cached_results=cached, on_solution=write_tables,
                )  # fmt: skip
            finally:
                gc.unfreeze()
    files = {
        "corrections": str(RunFolder(folder).corrections),
        "pairs": str(RunFolder(folder).pairs),
    }
    if apply_to is not None:
        files["corrected"] = str(apply_to)
    if RunFolder(folder).report.is_file():
        files["report"] = str(RunFolder(folder).report)
    files["trace"] = str(RunFolder(folder).trace)
    if endpoint:
        files["trace"] = trace_url(endpoint, telemetry.trace_id, telemetry.find)
    lines = _summary(solution, console.stage_seconds)
    lines += [f"{name:12} {place}" for name, place in files.items()]
    facts = _facts(solution, console.stage_seconds) | {"folder": str(folder), "files": files}
    return Ran(solution, tuple(lines), facts, bool(book) and not book[0].failed)


@contextlib.contextmanager
def _page(folder: Path, terminal: Terminal, wanted: bool) -> Iterator[None]:
    """The page of the run, however that ends; that of an earlier one goes first."""
    with contextlib.suppress(OSError):
        RunFolder(folder).report.unlink(missing_ok=True)
    try:
        yield
    finally:
        if wanted and RunFolder(folder).journal.exists():
            from ..report.build import report

            try:
                report(folder)
            except Exception as error:  # a night's work must not end over its page
                logger.debug("no report", exc_info=True)
                again = f"zemosaic report {shlex.quote(str(folder))}"
                _warn(
                    terminal,
                    f"{folder}: no {RunFolder(folder).report.name} ({error}); {again} tells more",
                )


@contextlib.contextmanager
def _journal(
    folder: Path, about: dict[str, Any], tracing: Tracing, terminal: Terminal
) -> Iterator[list[Journal]]:
    """The journal, in a list that is empty where there is no room for one; the trace's end."""
    book = []

    def cut_off(why: str) -> None:
        _warn(terminal, f"{folder}: {why}; the run goes on, but not all of it can be resumed")

    try:
        book.append(Journal(folder, about, cut_off))
    except OSError as error:
        _warn(terminal, f"{folder}: no journal ({error.strerror}); the run cannot be resumed")

    def took(numbers: list[int]) -> None:
        with contextlib.suppress(OSError):  # of a full disk the journal itself has told
            for kept in book:
                kept.write({"kind": "delivered", "spans": journal.ranges(numbers)})

    tracing.on_delivered = took
    try:
        yield book
    finally:
        for complaint in tracing.close():
            where = (
                ""
                if complaint.endswith(RunFolder(folder).trace.name)
                else f"; see {RunFolder(folder).trace}"
            )
            _warn(terminal, complaint + where)
        tracing.on_delivered = lambda numbers: None
        for kept in book:
            kept.close()


def _about(settings: Settings, pool: str, tracing: Tracing, live: str) -> dict[str, Any]:
    """What the autopsy, the report and the next run are told besides the events."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "command": shlex.join(["zemosaic", *sys.argv[1:]]),
        "cwd": os.getcwd(),
        "settings": asdict(settings),
        "pool": pool,
        "trace": {
            "id": tracing.ids.trace,
            "first": tracing.ids.first,
            "endpoint": tracing.endpoint,
            "live": live,
        },
    }


def send_missing(found: Autopsy, otlp: str) -> list[str]:
    """Send the spans that a collector lacks, and make the trace file whole; what came of it."""
    if found.state == "running":
        raise UserError(f"{found.folder}: its run goes on; its spans follow when it has ended")
    about = found.record.about
    trace = about["trace"]
    endpoint = check_endpoint(otlp or trace["endpoint"] or DEFAULT_ENDPOINT)
    with claim(found.folder):
        # Of another collector nothing is known: it gets them all.
        had = found.record.delivered if endpoint == trace["endpoint"] else set()
        ids = Ids(trace["id"], trace["first"])
        with atomic_write(RunFolder(found.folder).trace) as fresh:
            tracing = Tracing(fresh, endpoint, ids, had)
            with _delivered(found.folder, tracing, endpoint == trace["endpoint"]) as sent:
                telemetry = Telemetry(
                    tracing.tracer, markers=trace["live"] == "marker", host=about["host"]
                )
                replay(found, telemetry)
                lines = [f"zemosaic: {complaint}" for complaint in tracing.close()]
    lines.append(f"sent         {len(sent)} spans that {endpoint} did not have")
    lines.append(f"trace        {trace_url(endpoint, telemetry.trace_id, telemetry.find)}")
    return lines


@contextlib.contextmanager
def _delivered(folder: Path, tracing: Tracing, same: bool) -> Iterator[list[int]]:
    """Numbers of spans that were delivered; written down for the next time if it is the same."""
    sent: list[int] = []
    tracing.on_delivered = sent.extend
    yield sent
    tracing.on_delivered = lambda numbers: None
    if same and sent:
        journal.append(folder, {"kind": "delivered", "spans": journal.ranges(sent)})


def _finished(record: Record) -> bool:
    return record.ended is not None and record.ended.state == "finished"


def _say_what_died(
    terminal: Terminal, records: Sequence[Record], folder: Path, resume: bool
) -> None:
    """One line where the last run in the folder has not finished."""
    if not records or _finished(records[-1]) or resume:
        return
    ended = records[-1].ended
    how = "died" if ended is None else f"was {ended.state}" if ended.state != "failed" else "failed"
    pairs = len(journal.results(records))
    _warn(
        terminal,
        f"{folder}: the run before {how}; zemosaic autopsy {shlex.quote(str(folder))} tells more, "
        f"and --resume would have taken its {pairs} results",
    )


def _warn(terminal: Terminal, message: str) -> None:
    terminal.print(f"zemosaic: {message}", style="yellow", markup=False, soft_wrap=True)


def _facts(solution: PhaseSolution, seconds: dict[str, float]) -> dict[str, Any]:
    """The summary for machines."""
    outcomes = Counter(record.outcome for record in solution.records)
    return {
        "tiles": {
            "total": len(solution.names),
            "used": len(solution.names) - len(solution.failed),
            "failed": {solution.names[k]: why for k, why in sorted(solution.failed.items())},
            "suspect": [solution.names[k] for k in solution.suspects],
        },
        "groups": solution.groups,
        "pairs": {"overlaps": solution.candidates, "total": len(solution.records), **outcomes},
        "model": solution.settings.model,
        "rms": solution.rms,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _summary(solution: PhaseSolution, seconds: dict[str, float]) -> list[str]:
    outcomes = Counter(record.outcome for record in solution.records)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    groups, tiles = solution.groups, len(solution.names)
    lines = [
        f"tiles        {tiles - len(solution.failed)} of {tiles}, in {groups} "
        f"group{'s' if groups != 1 else ''}",
        f"pairs        {len(solution.records)} of {solution.candidates} overlaps"
        + (f": {ended}" if ended else ""),
    ]
    lines.append(f"model        {solution.model_line()}")
    lines += [
        f"suspect      {solution.names[k]}: {solution.why_suspect(k)}" for k in solution.suspects
    ]
    lines += [f"failed       {why}" for _, why in sorted(solution.failed.items())]
    parts = [name for name in ("prepare", "overlap", "pairs", "solve", "apply") if name in seconds]
    lines.append("time         " + ", ".join(f"{name} {seconds[name]:.2f} s" for name in parts))
    return lines
