"""The commands of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files import require_different
from ..settings import Settings
from .calibration import run_calibration
from .inputs import expand_inputs
from .options import (
    FOLDER,
    RUN_OPTIONS,
    complete_file,
    find_anchor,
    output_options,
    parse_hdu,
    print_version,
    refuse_to_overwrite_inputs,
    run_options,
)
from .output import Output
from .run_commands import autopsy, doctor, report, status, vendor
from .scene_commands import demo, simulate

if TYPE_CHECKING:
    from ..pipeline.mosaic_stage import MosaicOptions


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=print_version, help="Show the version and exit.")  # fmt: skip
def cli() -> None:
    """Match the brightness of the tiles of an astronomical mosaic."""


@cli.command()
@click.argument("tiles", nargs=-1, required=True, shell_complete=complete_file)
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
    shell_complete=complete_file,
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
    tables: tuple[str, ...],
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
    run |= {"apply_to": apply_to, "mosaic": mosaic, "tables": tables}
    _, code = run_calibration(output, files, settings, folder, **run)
    return code


for command in (simulate, demo, status, report, vendor, autopsy, doctor):
    cli.add_command(command)
