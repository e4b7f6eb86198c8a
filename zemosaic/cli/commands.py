"""The commands of the command line and their options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from ..pipeline import PRELOAD
from ..settings import MODELS, Settings
from . import INCOMPLETE, NO_SOLUTION, SOLVED
from .output import OPTIONS, Says

if TYPE_CHECKING:
    from ..pipeline.solution import PhaseSolution
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Match the tiles of an astronomical mosaic, and say where the time went."""


def _hdu(_context: click.Context, _option: click.Parameter, value: str | None) -> int | str | None:
    return int(value) if value is not None and value.isdecimal() else value


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every run has."""
    options = [
        click.option("--model", type=click.Choice(MODELS), default=Settings.model,
                     help="What is solved for each tile and channel."),
        click.option("--neighbours", type=int, default=Settings.neighbours, metavar="K",
                     help="Pairs kept for each tile, strongest first; 0 keeps all."),
        click.option("--workers", type=int, default=0, metavar="N",
                     help="Jobs at once; 0 takes all processors."),
        click.option("--pool", type=click.Choice(("processes", "threads", "serial")),
                     default="processes", help="Where jobs run."),
        click.option("--pair-timeout", type=float, default=Settings.pair_timeout, metavar="S",
                     help="Seconds after which a pair is given up; 0 never."),
        click.option("--tile-timeout", type=float, default=Settings.tile_timeout, metavar="S",
                     help="Seconds after which a tile is given up; 0 never."),
        click.option("--heartbeat", type=float, default=Settings.heartbeat, metavar="S",
                     help="Seconds of silence after which it says what is pending."),
        click.option("--otlp", is_flag=False, flag_value="", default=None, metavar="[URL]",
                     help="Send the trace there; http://127.0.0.1:4318 without URL."),
        click.option("--live", type=click.Choice(("snapshot", "marker", "off")),
                     default="snapshot", help="How a run that goes on is shown there."),
        click.option("--report/--no-report", default=True,
                     help="Whether to make the page of the run, report.html, at its end."),
        *OPTIONS,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


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
@click.option("--apply", "apply_to", type=FOLDER, metavar="DIR", help="Write corrected tiles.")
@click.option(
    "--mosaic",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.fits",
    help="Write a coadd of the corrected tiles.",
)
@click.option("--anchor", metavar="TILE", help="The tile that keeps gain 1 and offset 0.")
@click.option(
    "--min-overlap",
    type=float,
    default=Settings.min_overlap,
    metavar="FRACTION",
    help="Smallest overlap, of the smaller tile.",
)
@click.option("--hdu", callback=_hdu, metavar="HDU", help="HDU of the image, number or name.")
@click.option("--resume", is_flag=True, help="Take what an earlier run in RUN has measured.")
@click.option("--mask-hdu", callback=_hdu, metavar="HDU", help="HDU of a mask; nonzero is bad.")
@_run_options
@click.pass_obj
def intertile(
    says: Says,
    /,
    tiles: tuple[str, ...],
    folder: Path,
    apply_to: Path | None,
    mosaic: Path | None,
    anchor: str | None,
    pool: str,
    otlp: str | None,
    live: str,
    resume: bool,
    report: bool,
    **options: Any,
) -> int:
    """Find gain and offset of each of the FITS files TILES, so that their overlaps agree."""
    options["anchor"] = _anchor_index(anchor, tiles)
    settings = Settings(**options)
    _spare_the_inputs(tiles, apply_to, mosaic)
    for target in (apply_to, mosaic.parent if mosaic else None):
        if target is not None:
            _writable(target)
    how = {"pool": pool, "otlp": otlp, "live": live, "resume": resume, "report": report}
    solution, code = _ran(says, tiles, settings, folder, apply_to=apply_to, **how)
    if mosaic is not None:
        from ..photometry.mosaic import write_mosaic

        usable = [index for index in range(len(tiles)) if index not in solution.failed]
        write_mosaic(
            [(Path(tiles[k]), solution.correction(k)) for k in usable],
            mosaic, settings.hdu, settings.mask_hdu,
        )  # fmt: skip
        says.line(f"mosaic       {mosaic}")
        says.facts["mosaic"] = str(mosaic)
    return code


def _ran(
    says: Says, tiles: Sequence[str], settings: Settings, folder: Path, **how: Any
) -> tuple[PhaseSolution, int]:
    """Run the phase and print what came out; the solution and the exit code."""
    if how["pool"] == "processes":
        from ..runtime.process_pool import start_server

        start_server(PRELOAD)
    from .session import run_in_folder

    how |= {"quiet": says.quiet, "verbose": says.verbose}
    ran = run_in_folder(tiles, settings, folder, **how)
    for line in ran.lines:
        says.line(line)
    says.facts |= ran.facts
    code = _exit_code(says, ran.solution)
    return ran.solution, code if code != SOLVED or ran.whole else INCOMPLETE


def _exit_code(says: Says, solution: PhaseSolution) -> int:
    if not any(record.outcome == "measured" for record in solution.records):
        why = "no two tiles overlap" if not solution.records else "no pair could be measured"
        message = f"no solution: {why}; every tile keeps gain 1, offset 0"
        return says.complain(message, NO_SOLUTION)
    lost = [r for r in solution.records if r.outcome not in ("measured", "rejected")]
    return INCOMPLETE if solution.failed or lost else SOLVED


def _anchor_index(anchor: str | None, tiles: Sequence[str]) -> int | None:
    if anchor is None:
        return None
    matches = [k for k, tile in enumerate(tiles) if anchor in (tile, Path(tile).name)]
    if len(matches) != 1:
        what = "is none of the tiles" if not matches else "names more than one tile"
        raise click.UsageError(f"--anchor {anchor} {what}; give one as it stands in the list")
    return matches[0]


def _spare_the_inputs(tiles: Sequence[str], apply_to: Path | None, mosaic: Path | None) -> None:
    """Refuse a file that would replace a tile, or one that would be written twice."""
    inputs = {Path(tile).resolve(): tile for tile in tiles}
    outputs = [apply_to / Path(tile).name for tile in tiles] if apply_to else []
    seen = set()
    for output in [*outputs, mosaic] if mosaic else outputs:
        place = output.resolve()
        if place in inputs:
            option = "--mosaic" if output is mosaic else "--apply"
            raise click.UsageError(
                f"{inputs[place]}: would be overwritten; choose another place for {option}"
            )
        if place in seen:
            raise click.UsageError(f"{output}: would be written twice; rename one of those tiles")
        seen.add(place)


def _writable(folder: Path) -> None:
    """Refuse a folder before the work rather than after it."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _size(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, int]:
    width, _, height = value.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"{value!r} is not like 480x360")
    return int(height), int(width)


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--tiles", type=int, default=12, show_default=True, help="Number of tiles.")
@click.option(
    "--size",
    "shape",
    callback=_size,
    default="480x360",
    show_default=True,
    help="Width x height of a tile in pixels.",
)
@click.option("--overlap", type=float, default=0.25, show_default=True, help="Of a side.")
@click.option("--rotation", type=float, default=3.0, show_default=True, help="Degrees at most.")
@click.option("--islands", type=int, default=1, show_default=True, help="Separate groups.")
@click.option("--gradient", is_flag=True, help="Give every tile a sky gradient of its own.")
@click.option("--trail", is_flag=True, help="Send a satellite through every third tile.")
@click.option("--border", is_flag=True, help="Tear the borders: NaN.")
@click.option("--sip", is_flag=True, help="Distort the tiles (SIP).")
@click.option("--rgb", is_flag=True, help="Three colours, each with gains of its own.")
@click.option("--no-noise", is_flag=True, help="Leave Poisson and read noise out.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def simulate(folder: Path, no_noise: bool, **options: Any) -> int:
    """Make tiles with known truth in FOLDER: FITS files and truth.ecsv."""
    from ..photometry.simulate import Scene

    scene = Scene(electrons=0.0 if no_noise else Scene.electrons, **options)
    files = _write_scene(scene, folder)
    click.echo(f"{len(files)} tiles and their truth in {folder}")
    return SOLVED


def _write_scene(scene: Any, folder: Path) -> list[str]:
    """Write the tiles of a scene and truth.ecsv; the names of the tiles."""
    from astropy import units as u
    from astropy.io import fits
    from astropy.table import Table

    from ..photometry.simulate import simulate as simulated
    from ..pipeline.tables import write_table

    _writable(folder)
    rows, files = [], []
    for index, tile in enumerate(simulated(scene)):
        header = tile.wcs.to_header(relax=True)
        header["BUNIT"] = "adu"
        path = folder / tile.name
        fits.PrimaryHDU(tile.data, header).writeto(path, overwrite=True)
        files.append(str(path))
        for channel, (gain, offset) in enumerate(zip(tile.gain, tile.offset, strict=True)):
            rows.append((index, tile.name, channel, gain, offset, tile.fwhm))
    truth = Table(rows=rows, names=("tile", "file", "channel", "gain", "offset", "fwhm"))
    truth["offset"].unit, truth["fwhm"].unit = u.adu, u.pix
    truth.meta["formula"] = "scene = gain * data + offset"
    write_table(truth, folder / "truth.ecsv")
    return files


@cli.command()
@click.argument("folder", type=FOLDER, default=Path("zemosaic-demo"))
@_run_options
@click.pass_obj
def demo(
    says: Says,
    /,
    folder: Path,
    pool: str,
    otlp: str | None,
    live: str,
    report: bool,
    **options: Any,
) -> int:
    """Simulate a mosaic in FOLDER, calibrate it, and compare with the truth."""
    from astropy.table import Table

    from ..photometry.simulate import Scene, compare

    settings = Settings(**options)
    files = _write_scene(Scene(), folder / "tiles")
    says.line(f"simulated    {len(files)} tiles in {folder / 'tiles'}")
    how = {"pool": pool, "otlp": otlp, "live": live, "report": report}
    solution, code = _ran(says, files, settings, folder, **how)
    truth = Table.read(folder / "tiles" / "truth.ecsv", format="ascii.ecsv")
    gain, offset = compare(solution, truth["gain"].data[:, None], truth["offset"].data[:, None])
    says.line("\ntile  true gain  found    ± error      true offset  found     ± error (ADU)")
    columns = (gain, solution.gain, solution.gain_err, offset, solution.offset, solution.offset_err)
    for t, row in enumerate(zip(*(column[:, 0] for column in columns), strict=True)):
        says.line("{:4d}  {:9.4f}  {:.4f}  {:.4f}   {:14.2f}  {:8.2f}  {:.2f}".format(t, *row))
    error = (solution.gain / gain - 1).std() * 100
    says.line(f"rms gain error {error:.3f} %, the truth scattering by {100 * gain.std():.1f} %")
    return code


RUN = click.argument("folder", type=FOLDER, metavar="RUN")


@cli.command()
@RUN
def status(folder: Path) -> int:
    """Show what the run in the folder RUN does now, until it is over."""
    from rich.console import Console as Terminal

    from ..observe.autopsy import examine
    from ..observe.status import watch

    # Lines that a program reads are not folded.
    terminal = Terminal(width=None if sys.stdout.isatty() else 250)
    watch(lambda: examine(folder), terminal)
    return SOLVED


@cli.command()
@RUN
@click.option("--png", is_flag=True, help="Write the figures as PNG too, into RUN/figures.")
def report(folder: Path, png: bool) -> int:
    """Make the page of the run in the folder RUN: what came out, in pictures."""
    from ..report.build import report as reported

    for path in reported(folder, png):
        click.echo(str(path))
    return SOLVED


@cli.command()
@RUN
@click.option(
    "--otlp",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[URL]",
    help="Send the spans that are missing there; without URL to where the run did.",
)
def autopsy(folder: Path, otlp: str | None) -> int:
    """Say what became of the run in the folder RUN: how it ended, what was under way."""
    from ..observe.autopsy import examine
    from ..observe.autopsy_text import summary_lines

    found = examine(folder)
    for line in summary_lines(found):
        click.echo(line)
    if otlp is not None:
        from .session import send_missing

        for line in send_missing(found, otlp):
            click.echo(line)
    return SOLVED
