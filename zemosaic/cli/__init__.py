"""The command line: entry point and exit codes.

Exit codes: 0 solved; 1 solved, but tiles or pairs failed; 2 bad input or usage; 3 no solution;
130 interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

from ..runtime.interrupts import handle_signals

if TYPE_CHECKING:
    from .output import Output

SOLVED, INCOMPLETE, BAD_INPUT, NO_SOLUTION, INTERRUPTED = 0, 1, 2, 3, 130

_PACKAGE = __name__.rpartition(".")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Before numpy is imported. The solver's blocks are small: beside busy workers a second thread
    # of OpenBLAS spins more than it computes, and OpenBLAS interrupts if it cannot start one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The thread feeding the workers waits this long for a thread that imports or computes.
    sys.setswitchinterval(0.001)
    # At exit, Python would collect all modules again, which takes a tenth of a second.
    atexit.register(gc.freeze)
    handle_signals()
    _start_workers(sys.argv[1:] if arguments is None else arguments)
    # Imported while the server of the workers imports the numerics, as are the others.
    import logging

    from ..runtime import stacks

    if isinstance(sys.stdout, TextIOWrapper):
        # A file name outside the terminal's encoding must not lose the results.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Log records also arrive as notes; without a handler they would be printed twice.
    logging.getLogger(_PACKAGE).addHandler(logging.NullHandler())
    stacks.use_alarm()
    try:
        code = run(arguments)
    finally:
        if "multiprocessing" in sys.modules:
            from ..runtime.process_start import stop_server

            stop_server()
    sys.exit(code)


def _start_workers(arguments: Sequence[str]) -> None:
    """Start the server of the workers for a command that most likely needs it.

    If the arguments are wrong, it ends with the process.
    """
    if {"intertile", "demo"}.isdisjoint(arguments) or not {"-h", "--help"}.isdisjoint(arguments):
        return
    gc.disable()  # until the modules of a run are imported (`session`)
    if not any(
        word.endswith(("threads", "serial", "dask")) or "dask://" in word for word in arguments
    ):
        from ..pipeline import PRELOAD
        from ..runtime.process_start import start_server

        start_server(PRELOAD)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    A mistake of the user is reported as one line on standard error.
    """
    from ..runtime.library_messages import collect_library_messages
    from .output import Output

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
    import click

    from ..errors import ClusterLostError, UserError
    from .commands import cli
    from .output import echo

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
        is_lost = isinstance(error, ClusterLostError)
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
    from ..text import shell_command

    words = ["zemosaic", *arguments]
    if "--resume" not in words:
        # After the name of the subcommand, because "--" may end the options.
        name = next(k for k, word in enumerate(words) if k and not word.startswith("-"))
        words.insert(name + 1, "--resume")
    return shell_command(words)
