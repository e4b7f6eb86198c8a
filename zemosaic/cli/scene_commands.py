"""The commands that simulate tiles: simulate and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..settings import Settings
from . import SOLVED
from .calibration import run_calibration, start_workers
from .options import FOLDER, RUN_OPTIONS, parse_size, run_options
from .output import Output, echo


@click.command()
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


@click.command()
@click.argument("folder", type=FOLDER, default=Path("zemosaic-demo"))
@run_options
@click.pass_obj
def demo(output: Output, /, folder: Path, **options: Any) -> int:
    """Simulate a mosaic and calibrate it.

    Writes the mosaic and the results to FOLDER, and compares the results with the truth.
    """
    run = {name: options.pop(name) for name in RUN_OPTIONS}
    settings = Settings(**options)
    start_workers(run["pool"])
    from ..photometry.simulate import Scene
    from .scene_files import comparison_lines, write_scene

    paths = write_scene(Scene(), folder / "tiles")
    output.line(f"simulated    {len(paths)} tiles in {folder / 'tiles'}")
    solution, code = run_calibration(output, paths, settings, folder, **run)
    for line in comparison_lines(solution, folder / "tiles"):
        output.line(line)
    return code
