"""Simulated scenes as files: the tiles, their truth, and the comparison with a solution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from ..photometry.simulate import Scene, SimulatedTile, align_truth, simulate
from ..photometry.solver.solve import Solution
from ..pipeline.tables import write_table
from ..text import with_error
from .options import check_writable


def write_scene(scene: Scene, folder: Path) -> list[str]:
    """Write the tiles of a scene and their truth, and return the paths of the tiles."""
    check_writable(folder)
    rows, paths = [], []
    formula = "scene = gain * data + offset"
    for index, tile in enumerate(simulate(scene)):
        header = tile.wcs.to_header(relax=True)
        header["BUNIT"] = "adu"
        path = folder / tile.name
        fits.PrimaryHDU(tile.data, header).writeto(path, overwrite=True)
        paths.append(str(path))
        if index == 0 and (tile.flat.ndim or tile.glow.ndim):
            shared = _write_shared(tile, folder)
            formula = f"scene = (gain * (data - GLOW) + offset) / FLAT, see {shared}"
        for channel, (gain, offset) in enumerate(zip(tile.gain, tile.offset, strict=True)):
            rows.append((index, tile.name, channel, gain, offset, tile.fwhm))
    truth = Table(rows=rows, names=("tile", "file", "channel", "gain", "offset", "fwhm"))
    truth["offset"].unit, truth["fwhm"].unit = u.adu, u.pix
    truth.meta["formula"] = formula
    write_table(truth, folder / "truth.ecsv")
    return paths


def _write_shared(tile: SimulatedTile, folder: Path) -> str:
    """Write illumination and glow of all tiles as images, and return the name of the file."""
    name = "truth/illumination.fits"  # in a folder of its own: DIR/*.fits are the tiles
    images = [
        fits.ImageHDU(np.broadcast_to(values, tile.data.shape[-2:]).astype(np.float32), name=key)
        for key, values in (("FLAT", tile.flat), ("GLOW", tile.glow))
    ]
    images[1].header["BUNIT"] = "adu"
    (folder / name).parent.mkdir(exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(folder / name, overwrite=True)
    return name


def comparison_lines(solution: Solution, folder: Path) -> Iterator[str]:
    """Yield a table of the true and the solved corrections of a scene with one channel."""
    truth = Table.read(folder / "truth.ecsv", format="ascii.ecsv")
    true_gain, true_offset = truth["gain"].data[:, None], truth["offset"].data[:, None]
    gain, offset = align_truth(solution, true_gain, true_offset)
    yield ""
    yield "tile  true gain             solved  true offset      solved (ADU)"
    columns = (gain, solution.gain, solution.gain_err, offset, solution.offset, solution.offset_err)
    for tile, row in enumerate(zip(*(column[:, 0] for column in columns), strict=True)):
        solved_gain, solved_offset = with_error(*row[1:3]), with_error(*row[4:])
        yield f"{tile:4d}  {row[0]:9.5f}  {solved_gain:>17}  {row[3]:11.2f}  {solved_offset:>16}"
    error = (solution.gain / gain - 1).std() * 100
    yield f"rms gain error {error:.3f} %; the true gains vary by {100 * gain.std():.1f} %"
