"""The truth of simulated tiles: written beside them, and aligned with a solution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from ...files import atomic_write
from ..solver.solve import Solution
from .render import simulate
from .scene import Scene

#: File of the truth, in the folder of the tiles.
TRUTH = "truth.ecsv"


def write_scene(scene: Scene, folder: Path) -> list[str]:
    """Write the tiles of a scene as FITS files, and their truth as ``truth.ecsv``.

    Parameters
    ----------
    scene : Scene
        The scene.
    folder : pathlib.Path
        An existing folder.

    Returns
    -------
    list of str
        The FITS files.
    """
    rows, files = [], []
    for index, tile in enumerate(simulate(scene)):
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
    with atomic_write(folder / TRUTH) as temporary:
        truth.write(temporary, format="ascii.ecsv", overwrite=True)
    return files


def align_truth(
    solution: Solution, gain: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Transform the truth to the gauge of a solution, so that the two can be compared.

    A solution is determined up to one factor and one level per component and channel. The truth
    is given those that match the solution best.

    Parameters
    ----------
    solution : Solution
        The solution.
    gain, offset : ndarray
        ``(T, C)`` true gains, and offsets in ADU.

    Returns
    -------
    gain, offset : ndarray
        ``(T, C)`` in the solution's gauge.
    """
    gain, offset = gain.copy(), offset.copy()
    for channel in range(gain.shape[1]):
        for component in np.unique(solution.component[:, channel]):
            tiles = solution.component[:, channel] == component, channel
            factor = np.exp(np.mean(np.log(solution.gain[tiles] / gain[tiles])))
            gain[tiles] *= factor
            offset[tiles] *= factor
            offset[tiles] += np.mean(solution.offset[tiles] - offset[tiles])
    return gain, offset
