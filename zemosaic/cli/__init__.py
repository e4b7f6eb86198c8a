"""The command line: entry point and exit codes.

Exit codes: 0 solved; 1 solved, but tiles or pairs failed; 2 bad input or usage; 3 no solution;
130 interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from ..errors import ClusterLostError, UserError
from ..runtime import stacks
from ..runtime.interrupts import handle_signals
from ..runtime.library_messages import collect_library_messages
from ..text import shell_command
from .output import Output, echo

SOLVED, INCOMPLETE, BAD_INPUT, NO_SOLUTION, INTERRUPTED = 0, 1, 2, 3, 130

_PACKAGE = __name__.rpartition(".")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Before numpy is imported. The solver's blocks are small: beside busy workers a second thread
    # of OpenBLAS spins more than it computes, and OpenBLAS interrupts if it cannot start one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A thread that imports or computes keeps the one that feeds the workers waiting for so long.
    sys.setswitchinterval(0.001)
    if isinstance(sys.stdout, TextIOWrapper):
        # A file name that the terminal's encoding lacks must not lose the results.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Log records also arrive as notes; without a handler they would be printed twice.
    logging.getLogger(_PACKAGE).addHandler(logging.NullHandler())
    handle_signals()
    stacks.use_alarm()
    try:
        code = run(arguments)
    finally:
        if "multiprocessing" in sys.modules:
            from ..runtime.process_start import stop_server

            stop_server()
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    A mistake of the user is reported as one line on standard error.
    """
    output = Output()
    with collect_library_messages() as messages:
        code = _run(arguments, output)
    try:
        output.library_messages(messages)
        output.finish(code)
    except OSError as error:
        return output.error(f"{error.filename}: {error.strerror}", INCOMPLETE)
    return code


def _run(arguments: Sequence[str] | None, output: Output) -> int:
    from .commands import cli

    try:
        result = cli.main(arguments, prog_name="zemosaic", standalone_mode=False, obj=output)
        return result if isinstance(result, int) else SOLVED
    except (click.Abort, KeyboardInterrupt):
        return output.error("interrupted", INTERRUPTED)
    except click.ClickException as error:
        usage = isinstance(error, click.UsageError)
        hint = "; see zemosaic --help" if usage and "help" not in error.format_message() else ""
        message = error.format_message().replace("\n", " ").rstrip(".") + hint
        return output.error(message, BAD_INPUT)
    except UserError as error:
        if is_lost := isinstance(error, ClusterLostError):
            error.args = (f"{error}; resume the run, there or with another --pool:",)
        code = output.error(str(error), NO_SOLUTION if is_lost else BAD_INPUT)
        if is_lost:
            echo(_resume_command(sys.argv[1:] if arguments is None else arguments), err=True)
        return code
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map" not in str(error):
            raise
        return output.error("out of memory; give the run more of it, and --resume", NO_SOLUTION)
    except OSError as error:  # most likely a full disk
        path = error.filename or "the run folder"
        return output.error(f"{path}: {error.strerror}", INCOMPLETE)


def _resume_command(arguments: Sequence[str]) -> str:
    """Return the command that resumes the run of a command."""
    words = ["zemosaic", *arguments]
    if "--resume" not in words:
        # After the name of the subcommand, because "--" may end the options.
        name = next(k for k, word in enumerate(words) if k and not word.startswith("-"))
        words.insert(name + 1, "--resume")
    return shell_command(words)
