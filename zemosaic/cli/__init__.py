"""The door: arguments -> settings, pool and observers; exit codes.

0 solved; 1 solved, but tiles or pairs failed (each named); 2 bad input or usage; 3 no solution;
130 interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from ..errors import UserError
from ..runtime import stacks
from .output import Says

SOLVED, INCOMPLETE, BAD_INPUT, NO_SOLUTION, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that the terminal's encoding lacks must not cost the results.
        sys.stdout.reconfigure(errors="backslashreplace")
    # What is logged is told by notes, in a line; without a handler it would come twice.
    logging.getLogger("zemosaic").addHandler(logging.NullHandler())
    for name in ("SIGTERM", "SIGBREAK"):  # the second is what closing a console on Windows sends
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    stacks.use_alarm()
    sys.exit(run(arguments))


def _stop(number: int, frame: object) -> None:
    """End as after Ctrl-C: spans sent, journal whole, exit code 130."""
    raise KeyboardInterrupt


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. A user's mistake is one line on standard error."""
    says = Says()
    code = _run(arguments, says)
    says.end(code)
    return code


def _run(arguments: Sequence[str] | None, says: Says) -> int:
    from .commands import cli

    try:
        result = cli.main(arguments, prog_name="zemosaic", standalone_mode=False, obj=says)
        return result if isinstance(result, int) else SOLVED
    except (click.Abort, KeyboardInterrupt):
        return says.complain("interrupted", INTERRUPTED)
    except click.ClickException as error:
        usage = isinstance(error, click.UsageError)
        hint = "; see zemosaic --help" if usage and "help" not in error.format_message() else ""
        message = error.format_message().replace("\n", " ").rstrip(".") + hint
        return says.complain(message, BAD_INPUT)
    except UserError as error:
        return says.complain(str(error), BAD_INPUT)
    except OSError as error:  # a full disk, most likely
        what = error.filename or "the run folder"
        return says.complain(f"{what}: {error.strerror}", INCOMPLETE)
