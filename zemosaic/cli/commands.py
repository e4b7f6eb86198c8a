"""The commands of the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files import require_different
from ..pipeline import PRELOAD
from ..settings import Settings
from . import INCOMPLETE, NO_SOLUTION, SOLVED
from .inputs import expand_inputs
from .options import (
    FOLDER,
    RUN_OPTIONS,
    find_anchor,
    output_options,
    parse_hdu,
    parse_size,
    print_version,
    refuse_to_overwrite_inputs,
    run_options,
)
from .output import Output, echo

if TYPE_CHECKING:
    from ..pipeline.mosaic_stage import MosaicOptions
    from ..pipeline.solution import PhaseSolution


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=print_version, help="Show the version and exit.")  # fmt: skip
def cli() -> None:
    """Match the brightness of the tiles of an astronomical mosaic."""


@cli.command()
@click.argument("tiles", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "folder",
    type=FOLDER,
    default=Path("zemosaic-run"),
    show_default=True,
    metavar="RUN",
    help="Run folder.",
)
@output_options
@click.option(
    "--anchor",
    metavar="TILE",
    help="Tile that keeps gain 1 and offset 0: a file, or an image like a.fits[SCI,2].",
)
@click.option(
    "--min-overlap",
    type=float,
    default=Settings.min_overlap,
    metavar="FRACTION",
    help="Smallest overlap to measure, as a fraction of the smaller tile.",
)
@click.option(
    "--hdu",
    callback=parse_hdu,
    metavar="HDUS",
    help="Images of each file: 1, SCI,2, SCI (all of the name), 1,4, SCI,1+SCI,4 or all. "
    "By default all chips of a camera.",
)
@click.option(
    "--mask-hdu",
    callback=parse_hdu,
    metavar="HDU",
    help="HDU of a mask, whose flagged pixels are bad; none ignores the DQ of JWST and HST.",
)
@click.option(
    "--mask-bits",
    metavar="FLAGS",
    help="Flags of the mask to ignore, numbers or names; after a ~ the only ones not to ignore.",
)
@click.option(
    "--weight-hdu",
    callback=parse_hdu,
    metavar="HDU",
    help="HDU of weights: 0 is bad, more is better (WHT, coverage, ALPHA).",
)
@click.option(
    "--mask", metavar="PATTERN", help="Mask in a file beside each tile: {stem}.mask.fits."
)
@click.option(
    "--weight", metavar="PATTERN", help="Weights in a file beside each tile: {stem}.weight.fits."
)
@click.option(
    "--wcs",
    default=Settings.wcs,
    show_default=True,
    metavar="PATTERN",
    help="File with the WCS of an image whose header has none, beside it.",
)
@click.option(
    "--group",
    metavar="KEY[:gain|:level]",
    help="Tiles that share gain and level, or one of them: exposure (those of one file) or a "
    "keyword.",
)
@click.option(
    "--instrument",
    default=Settings.instrument,
    metavar="KEYS",
    help="Keywords that distinguish instruments, whose tiles share an illumination: KEY,KEY, auto "
    "or none.",
)
@click.option(
    "--blank",
    default=Settings.blank,
    metavar="VALUE",
    help="Value of pixels without a datum: a number, none, or auto for the fill value of frames.",
)
@click.option("--resume", is_flag=True, help="Reuse the results of an earlier run in RUN.")
@run_options
@click.pass_obj
def intertile(
    output: Output,
    /,
    tiles: tuple[str, ...],
    folder: Path,
    apply_to: Path | None,
    mosaic: MosaicOptions | None,
    anchor: str | None,
    **options: Any,
) -> int:
    """Calibrate the FITS files TILES.

    Each of TILES is a file, a folder with FITS files, a pattern ('tile_*.fits'), @FILE or - for
    names in a file or on standard input, one per line.

    Solves gain and offset of each tile so that the overlaps agree. All chips of a file are tiles;
    file.fits[SCI,2] is one of them.
    """
    files = expand_inputs(tiles)
    require_different(files)
    run = {name: options.pop(name) for name in (*RUN_OPTIONS, "resume")}
    settings = Settings(anchor=find_anchor(anchor, files), **options)
    refuse_to_overwrite_inputs(files, apply_to, mosaic.output if mosaic else None)
    run |= {"apply_to": apply_to, "mosaic": mosaic}
    _, code = _calibrate(output, files, settings, folder, **run)
    return code


def _calibrate(
    output: Output, tiles: Sequence[str], settings: Settings, folder: Path, **options: Any
) -> tuple[PhaseSolution, int]:
    """Run the calibration and print its results; return the solution and the exit code."""
    _start_workers(options["pool"])
    from .session import RunOptions, run_in_folder

    run_options = RunOptions(**options, quiet=output.quiet, verbose=output.verbose)
    result = run_in_folder(tiles, settings, folder, run_options)
    for line in result.lines:
        output.line(line)
    output.facts |= result.facts
    code = _exit_code(output, result.solution)
    return result.solution, code if code != SOLVED or result.journalled else INCOMPLETE


def _start_workers(pool: str) -> None:
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


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--tiles", type=int, default=12, show_default=True, help="Number of tiles.")
@click.option(
    "--size",
    "shape",
    callback=parse_size,
    default="480x360",
    show_default=True,
    help="Width x height of a tile in pixels.",
)
@click.option(
    "--overlap",
    type=float,
    default=0.25,
    show_default=True,
    help="Overlap of neighbours as a fraction of a side.",
)
@click.option(
    "--rotation",
    type=float,
    default=3.0,
    show_default=True,
    help="Largest rotation of a tile in degrees.",
)
@click.option(
    "--islands", type=int, default=1, show_default=True, help="Number of separate groups of tiles."
)
@click.option("--gradient", is_flag=True, help="Add a different sky gradient to each tile.")
@click.option(
    "--vignetting",
    type=float,
    default=0.0,
    metavar="FRACTION",
    help="Take this fraction of the light from the corners of all tiles.",
)
@click.option(
    "--flat-residual",
    type=float,
    default=0.0,
    metavar="FRACTION",
    help="Leave a pattern of this rms in all tiles, as of an imperfect flat.",
)
@click.option(
    "--glow",
    type=float,
    default=0.0,
    metavar="ADU",
    help="Add the glow of an amplifier to all tiles, with this peak.",
)
@click.option("--trail", is_flag=True, help="Add a satellite trail to every third tile.")
@click.option("--border", is_flag=True, help="Replace ragged borders by NaN.")
@click.option("--sip", is_flag=True, help="Distort the tiles (SIP).")
@click.option("--rgb", is_flag=True, help="Simulate three colours with different gains.")
@click.option("--no-noise", is_flag=True, help="Leave out photon and read noise.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Seed of the random numbers.",
)
def simulate(folder: Path, no_noise: bool, **options: Any) -> int:
    """Simulate tiles in FOLDER.

    Writes the tiles as FITS files, and their true corrections to truth.ecsv. What they share of
    the instrument is in truth/illumination.fits.
    """
    from ..photometry.simulate import Scene
    from .scene_files import write_scene

    scene = Scene(electrons=0.0 if no_noise else Scene.electrons, **options)
    paths = write_scene(scene, folder)
    echo(f"{len(paths)} tiles and their truth in {folder}")
    return SOLVED


@cli.command()
@click.argument("folder", type=FOLDER, default=Path("zemosaic-demo"))
@run_options
@click.pass_obj
def demo(output: Output, /, folder: Path, **options: Any) -> int:
    """Simulate a mosaic and calibrate it.

    Writes the mosaic and the results to FOLDER, and compares the results with the truth.
    """
    run = {name: options.pop(name) for name in RUN_OPTIONS}
    settings = Settings(**options)
    _start_workers(run["pool"])
    from ..photometry.simulate import Scene
    from .scene_files import comparison_lines, write_scene

    paths = write_scene(Scene(), folder / "tiles")
    output.line(f"simulated    {len(paths)} tiles in {folder / 'tiles'}")
    solution, code = _calibrate(output, paths, settings, folder, **run)
    for line in comparison_lines(solution, folder / "tiles"):
        output.line(line)
    return code


RUN = click.argument("folder", type=FOLDER, metavar="RUN")


@cli.command()
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


@cli.command()
@RUN
@click.option("--png", is_flag=True, help="Also write the figures as PNG to RUN/figures.")
def report(folder: Path, png: bool) -> int:
    """Write the page of a run.

    Shows the results of the run in the folder RUN in pictures.
    """
    from ..report.build import write_report

    for path in write_report(folder, png):
        echo(str(path))
    return SOLVED


@cli.command()
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


@cli.command()
@RUN
@click.option(
    "--otlp",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[URL]",
    help="Send the missing spans to a collector; without URL to that of the run.",
)
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
