"""A calibration run by a command, and its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline import PRELOAD
from ..settings import Settings
from . import INCOMPLETE, NO_SOLUTION, SOLVED
from .output import Output

if TYPE_CHECKING:
    from ..pipeline.solution import PhaseSolution


def run_calibration(
    output: Output, tiles: Sequence[str], settings: Settings, folder: Path, **options: Any
) -> tuple[PhaseSolution, int]:
    """Run the calibration and print its results; return the solution and the exit code."""
    if options["previews"] != "folder":
        from ..pipeline.preview_files import check_previews

        has_mosaic = options.get("mosaic") is not None
        check_previews(options["previews"], options["pool"], has_mosaic=has_mosaic)
    start_workers(options["pool"])
    from .session import RunOptions, run_in_folder

    run_options = RunOptions(**options, quiet=output.quiet, verbose=output.verbose)
    result = run_in_folder(tiles, settings, folder, run_options)
    for line in result.lines:
        output.line(line)
    output.facts |= result.facts
    code = _exit_code(output, result.solution)
    return result.solution, code if code != SOLVED or result.journalled else INCOMPLETE


def start_workers(pool: str) -> None:
    """Start the process from which workers are forked, which imports the tasks meanwhile."""
    if pool == "processes":
        from ..runtime.process_start import start_server

        start_server(PRELOAD)


def _exit_code(output: Output, solution: PhaseSolution) -> int:
    if not any(record.outcome == "measured" for record in solution.records):
        reason = "no two tiles overlap" if not solution.records else "no pair could be measured"
        message = f"no solution: {reason}; every tile keeps gain 1, offset 0"
        return output.error(message, NO_SOLUTION)
    outcomes = {record.outcome for record in solution.records}
    complete = not solution.failed and outcomes <= {"measured", "rejected"}
    complete &= not solution.sky_check.doubt and not solution.no_mosaic
    return SOLVED if complete else INCOMPLETE
