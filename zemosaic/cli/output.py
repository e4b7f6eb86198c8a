"""What a command says: lines for people, or one JSON object for machines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import click


@dataclass
class Says:
    """Where the words of a command go.

    Parameters
    ----------
    quiet, verbose : bool
        Only what is wrong; also every job.
    as_json : bool
        One object on standard output at the end, and all else on standard error.
    facts : dict
        What that object holds besides the exit code.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self, text: str) -> None:
        """A line of the results."""
        if not self.quiet:
            click.echo(text, err=self.as_json)

    def complain(self, message: str, code: int) -> int:
        """What is wrong, in one line; gives the exit code back."""
        click.echo(f"zemosaic: {message}", err=True)
        self.facts["error"] = message
        return code

    def end(self, code: int) -> None:
        """The last word."""
        if self.as_json:
            click.echo(json.dumps({"exit_code": code, **self.facts}))


def _remember(context: click.Context, option: click.Parameter, value: bool) -> None:
    says = context.ensure_object(Says)
    if value:
        setattr(says, str(option.name), value)
    if says.quiet and says.verbose:
        raise click.UsageError("-q and -v contradict each other; give one of them")


#: Options of every command that runs for a while; they end in the `Says` of the context.
OPTIONS = [
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_remember,
                 help="Say only what is wrong."),
    click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_remember,
                 help="Tell of every tile and pair, and whole stacks."),
    click.option("--json", "as_json", is_flag=True, expose_value=False, callback=_remember,
                 is_eager=True, help="End with one JSON object on standard output."),
]  # fmt: skip
