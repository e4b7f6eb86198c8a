"""Options shared by several commands, and the checks of their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..files import file_identity, output_names
from ..photometry.tiles.file_options import split_input
from ..runtime.make_pool import KINDS
from ..settings import GAIN_SOURCES, LONGEST_TIMEOUT, MODELS, Settings
from .output import OUTPUT_OPTIONS, echo

#: The options of `run_options` that are fields of `RunOptions`; the others are settings.
RUN_OPTIONS = ("pool", "previews", "otlp", "live", "on_stall", "report", "stage_timeout")


def otlp_option(help_text: str) -> Callable[..., Any]:
    """Return the option ``--otlp``: its value is None without it and empty without a URL."""
    return click.option(
        "--otlp", is_flag=False, flag_value="", default=None, metavar="[URL]", help=help_text
    )


class OutputPath(click.Path):
    """A non-empty path, because an empty one would be the current folder."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path."""
        if not os.fspath(value):
            self.fail("the name is empty; give one, or . for the current folder", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = OutputPath(path_type=Path, file_okay=False)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a calibration run to a command."""
    options = [
        click.option("--model", type=click.Choice(MODELS), default=Settings.model,
                     help="Terms to solve for each tile and channel."),
        click.option("--gain-from", type=click.Choice(GAIN_SOURCES), default=Settings.gain_from,
                     help="Measure gains by all pixels of an overlap, or by its stars alone."),
        click.option("--stars", is_flag=True,
                     help="Compare the gains with those of the stars; needs zemosaic[stars]."),
        click.option("--neighbours", type=int, default=Settings.neighbours, metavar="K",
                     help="Pairs to measure per tile, strongest first; 0 measures all."),
        click.option("--workers", type=int, default=0, metavar="N",
                     help="Jobs to run at the same time; 0 uses all processors."),
        click.option("--pool", default="processes", callback=check_pool, metavar="KIND",
                     shell_complete=complete_pool,
                     help="Kind of workers: processes, threads, serial, dask (a Dask cluster on "
                     "this machine) or dask://HOST:PORT (that of a scheduler)."),
        click.option("--previews", type=click.Choice(("folder", "workers")), default="folder",
                     help="Keep previews in the run folder, or with the workers of a Dask cluster "
                     "that do not share it."),
        click.option("--pair-timeout", type=float, default=Settings.pair_timeout, metavar="S",
                     help="Seconds after which a pair is abandoned; 0 never."),
        click.option("--tile-timeout", type=float, default=Settings.tile_timeout, metavar="S",
                     help="Seconds after which a tile is abandoned; 0 never."),
        click.option("--stage-timeout", type=float, default=900.0, metavar="S",
                     callback=check_seconds,
                     help="Seconds after which a stage of the run itself (overlap, solve, tables, "
                     "page) ends the run; 0 never."),
        click.option("--heartbeat", type=float, default=Settings.heartbeat, metavar="S",
                     help="Seconds without a finished job before the pending jobs are listed."),
        otlp_option("Send the trace to a collector; http://127.0.0.1:4318 without URL."),
        click.option("--live", type=click.Choice(("auto", "snapshot", "marker", "off")),
                     default="auto", help="How to show an unfinished run in the collector."),
        click.option("--on-stall", default="", metavar="COMMAND",
                     help="Command to run when no job ends for a heartbeat; it reads JSON."),
        click.option("--report/--no-report", default=True,
                     help="Write the page of the run, report.html, at the end."),
        *OUTPUT_OPTIONS,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the files that a run writes besides its tables.

    The command gets `apply_to`, a path or None, and `mosaic`, a `MosaicOptions` or None.
    """

    @click.option(
        "--apply",
        "apply_to",
        type=FOLDER,
        metavar="DIR",
        help="Write the corrected tiles to this folder.",
    )
    @click.option(
        "--mosaic",
        type=OutputPath(path_type=Path, dir_okay=False),
        metavar="OUT.fits",
        help="Write a coadd of the corrected tiles, and a picture of it.",
    )
    @click.option(
        "--mosaic-like",
        type=OutputPath(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="FITS file with the WCS and the size of the mosaic.",
    )
    @click.option(
        "--combine",
        type=click.Choice(("mean", "clip")),
        default="mean",
        help="Weighted mean of the tiles, or also without the outliers of three or more.",
    )
    @click.option(
        "--tables",
        type=click.Choice(("fits", "parquet")),
        multiple=True,
        help="Write the tables of the run in this format as well; may be repeated.",
    )
    @wraps(command)
    def checked(
        *args: Any, mosaic: Path | None, mosaic_like: Path | None, combine: str, **options: Any
    ) -> Any:
        if mosaic is None and (mosaic_like is not None or combine != "mean"):
            raise click.UsageError("--mosaic-like and --combine need --mosaic; give it as well")
        if mosaic is not None:
            check_name(mosaic)
        for target in (options["apply_to"], mosaic.parent if mosaic else None):
            if target is not None:
                check_writable(target)
        chosen = None
        if mosaic is not None:  # the imports of a mosaic take a while
            from ..pipeline.mosaic_stage import MosaicOptions

            chosen = MosaicOptions(mosaic, mosaic_like, combine)
        if "parquet" in options["tables"] and find_spec("pyarrow") is None:
            raise click.UsageError(
                "--tables parquet needs pyarrow; pip install 'zemosaic[parquet]'"
            )
        return command(*args, mosaic=chosen, **options)

    return checked


def complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def parse_hdu(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> int | str | None:
    """Return the HDU as a number or a text."""
    return int(value) if value is not None and value.isdecimal() else value


def complete_pool(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the kinds of pool that begin with a text."""
    return [CompletionItem(kind) for kind in KINDS[:-1] if kind.startswith(incomplete)]


def check_pool(_context: click.Context, option: click.Parameter, value: str) -> str:
    """Return a kind of pool, if it is one."""
    if value not in KINDS and not value.startswith("dask://"):
        kinds = ", ".join(map(repr, KINDS))
        raise click.BadParameter(f"{value!r} is not one of {kinds}", param=option)
    return value


def check_seconds(_context: click.Context, option: click.Parameter, value: float) -> float:
    """Return a number of seconds, if it is one."""
    if not 0.0 <= value <= LONGEST_TIMEOUT:
        raise click.BadParameter(f"{value} is not 0 to {LONGEST_TIMEOUT:.0f}", param=option)
    return value


def parse_size(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, int]:
    """Return a size like 480x360 as (height, width)."""
    width, _, height = value.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"{value!r} is not like 480x360")
    return int(height), int(width)


def print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    """Print the version, and whether the kernels are compiled, and exit."""
    if not value or context.resilient_parsing:
        return
    from .._version import __version__
    from ..photometry._kernels import COMPILED

    kernels = "compiled kernels" if COMPILED else "no compiled kernels"
    echo(f"zemosaic, version {__version__} ({kernels})")
    context.exit()


def find_anchor(anchor: str | None, tiles: Sequence[str]) -> int | str | None:
    """Return the index of the input with this path or base name.

    An image of an input (``a.fits[SCI,2]``) is returned as it is, to be found in its file.
    """
    if anchor is None:
        return None
    matches = _matches(anchor, tiles)
    file, key = split_input(anchor)
    of_image = key is not None and not matches
    if of_image:
        matches = _matches(file, tiles)
    if len(matches) != 1:
        problem = "is none of the tiles" if not matches else "names more than one tile"
        raise click.UsageError(f"--anchor {anchor} {problem}; give one as it stands in the list")
    return anchor if of_image else matches[0]


def _matches(text: str, tiles: Sequence[str]) -> list[int]:
    return [index for index, tile in enumerate(tiles) if text in (tile, Path(tile).name)]


def refuse_to_overwrite_inputs(
    tiles: Sequence[str], apply_to: Path | None, mosaic: Path | None
) -> None:
    """Raise a usage error if an output would replace a tile or another output."""
    files = list(dict.fromkeys(Path(split_input(tile)[0]) for tile in tiles))
    inputs = {file_identity(file): file for file in files}
    outputs = []
    if apply_to is not None:
        names = output_names(files)
        outputs = [apply_to / names[Path(os.path.abspath(file))] for file in files]
    seen = set()
    for output in [*outputs, mosaic] if mosaic else outputs:
        path = file_identity(output)
        if path in inputs:
            option = "--mosaic" if output is mosaic else "--apply"
            raise click.UsageError(
                f"{inputs[path]}: would be overwritten; choose another place for {option}"
            )
        if path in seen:
            raise click.UsageError(f"{output}: would be written twice; give each tile once")
        seen.add(path)


def check_name(file: Path) -> None:
    """Raise a usage error before any work if the disk allows no file of this name."""
    try:
        os.lstat(file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise click.UsageError(
            f"{file}: cannot be written ({error.strerror}); choose another name"
        ) from None


def check_writable(folder: Path) -> None:
    """Create a folder; raise a usage error before any work if it cannot be written."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
