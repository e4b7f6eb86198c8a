"""The output of a command: lines for people, or one JSON object for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import click

from ..runtime.library_messages import LibraryMessage
from ..text import printable


def echo(text: str, err: bool = False) -> None:
    """Print a line, with control characters as text.

    Raises
    ------
    OSError
        The line cannot be written; the error names the stream.
    """
    try:
        click.echo(printable(text), err=err)
    except OSError as error:
        _discard(sys.stderr if err else sys.stdout)
        stream = "standard error" if err else "standard output"
        raise OSError(error.errno, error.strerror, stream) from None


def _discard(stream: IO[str]) -> None:
    """Discard the unwritten rest of a stream, which Python would report with a code of its own."""
    with contextlib.suppress(OSError, ValueError):  # not a file, or closed
        number = stream.fileno()
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), number)


@dataclass
class Output:
    """Prints the results and errors of a command.

    Parameters
    ----------
    quiet : bool
        Print errors only.
    verbose : bool
        Print every job.
    as_json : bool
        Print one JSON object to standard output at the end, and all lines to standard error.
    facts : dict
        Contents of the JSON object besides the exit code.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self, text: str) -> None:
        """Print a line of the results."""
        if not self.quiet:
            echo(text, err=self.as_json)

    def library_messages(self, messages: Iterable[LibraryMessage]) -> None:
        """Print messages of libraries, one of each kind, if everything is to be printed."""
        if self.verbose:
            for message in {message.kind: message for message in messages}.values():
                echo(str(message), err=True)

    def error(self, message: str, code: int) -> int:
        """Print an error in one line, and return the exit code."""
        echo(f"zemosaic: {message}", err=True)
        self.facts["error"] = message
        return code

    def finish(self, code: int) -> None:
        """Print the JSON object if it was asked for."""
        if self.as_json:
            echo(json.dumps({"exit_code": code, **self.facts}))


def _store(context: click.Context, option: click.Parameter, value: bool) -> None:
    output = context.ensure_object(Output)
    if value:
        setattr(output, str(option.name), value)
    if output.quiet and output.verbose:
        raise click.UsageError("-q and -v contradict each other; give one of them")


#: Options of a calibration run, stored in the `Output` of the context.
OUTPUT_OPTIONS = [
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_store,
                 help="Print errors only."),
    click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_store,
                 help="Print every tile and pair, and complete stacks."),
    click.option("--json", "as_json", is_flag=True, expose_value=False, callback=_store,
                 is_eager=True, help="Print one JSON object to standard output at the end."),
]  # fmt: skip
