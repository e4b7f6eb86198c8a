"""The commands on runs and installations: status, report, autopsy, vendor, doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import INCOMPLETE, SOLVED
from .options import FOLDER, otlp_option
from .output import echo

RUN = click.argument("folder", type=FOLDER, metavar="RUN")


@click.command()
@RUN
def status(folder: Path) -> int:
    """Show the progress of a run.

    Watches the run in the folder RUN until it ends.
    """
    from rich.console import Console as Terminal

    from ..observe.autopsy import examine
    from ..observe.status import watch

    # Lines for a program are not wrapped.
    terminal = Terminal(width=None if sys.stdout.isatty() else 250)
    watch(lambda: examine(folder), terminal)
    return SOLVED


@click.command()
@RUN
@click.option("--png", is_flag=True, help="Also write the figures as PNG to RUN/figures.")
@click.option(
    "--survey",
    is_flag=False,
    flag_value="CDS/P/DSS2/color",
    default="",
    metavar="[HIPS]",
    help="Draw the map over a picture of a survey, fetched from CDS; DSS2 in colour without HIPS.",
)
def report(folder: Path, png: bool, survey: str) -> int:
    """Write the page of a run.

    Shows the results of the run in the folder RUN in pictures.
    """
    from ..report.build import write_report

    for path in write_report(folder, png, survey):
        echo(str(path))
    return SOLVED


@click.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--name", default="zemosaic_phase", show_default=True, help="Name of the copy.")
def vendor(folder: Path, name: str) -> int:
    """Copy this package into an application.

    Writes it to DIR/zemosaic_phase, compiled parts included, with its licence, for applications
    that have a package called zemosaic of their own. An earlier copy is replaced.
    """
    from .vendor import vendor_package

    click.echo(f"{vendor_package(folder, name)}: import it as {name}")
    return SOLVED


@click.command()
@RUN
@otlp_option("Send the missing spans to a collector; without URL to that of the run.")
def autopsy(folder: Path, otlp: str | None) -> int:
    """Explain how a run ended.

    Shows the cause, the running jobs and the saved results of the run in the folder RUN.
    """
    from ..observe.autopsy import examine
    from ..observe.autopsy_text import summary_lines

    examined = examine(folder)
    for line in summary_lines(examined):
        echo(line)
    if otlp is not None:
        from .resend import send_missing_spans

        for line in send_missing_spans(examined, otlp):
            echo(line)
    return SOLVED


@click.command()
@otlp_option("Require a collector; http://127.0.0.1:4318 without URL.")
def doctor(otlp: str | None) -> int:
    """Check the installation and this machine.

    Prints a line for each check, and last the text to put into a bug report. The exit code is 1
    if something is wrong.
    """
    from .doctor import WRONG, check_machine, describe_machine, report_lines

    findings = []
    for finding in check_machine(otlp):
        echo(str(finding))
        findings.append(finding)
    wrong = sum(finding.state == WRONG for finding in findings)
    echo(f"{wrong or 'nothing'} wrong; the text for a bug report:")
    for line in ("", *report_lines([*describe_machine(), *findings])):
        echo(line)
    return INCOMPLETE if wrong else SOLVED
