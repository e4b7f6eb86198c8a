"""Coaddition of corrected tiles with reproject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from .apply import correct, write_fits
from .solver.solve import Correction
from .tiles.blanks import find_blanks
from .tiles.file_options import FileOptions
from .tiles.tile import Tile, tile_from_file


def write_mosaic(
    tiles: Sequence[tuple[Path, Correction]],
    output: Path,
    options: FileOptions | None = None,
) -> None:
    """Coadd corrected tiles on a tangent plane that fits them, and write the result.

    Parameters
    ----------
    tiles : sequence
        File and correction of each tile.
    output : pathlib.Path
        FITS file, written atomically: float32 ``(H, W)`` or ``(C, H, W)`` in ADU, NaN where there
        is no tile.
    options : FileOptions
        How the files are read; by default their first images without masks.
    """
    from reproject.mosaicking import find_optimal_celestial_wcs

    corrections = [
        (tile_from_file(path, options or FileOptions()), correction) for path, correction in tiles
    ]
    wcs, shape = find_optimal_celestial_wcs([(tile.shape, tile.wcs) for tile, _ in corrections])
    images = [
        _coadd_channel(corrections, channel, wcs, shape)
        for channel in range(corrections[0][0].channels)
    ]
    data = images[0] if len(images) == 1 else np.stack(images)
    write_fits(fits.HDUList([fits.PrimaryHDU(data, wcs.to_header())]), output)


def _coadd_channel(
    tiles: Sequence[tuple[Tile, Correction]], channel: int, wcs: WCS, shape: tuple[int, int]
) -> np.ndarray:
    """Return the mean of one channel of the corrected tiles, ``(H, W)`` float32."""
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    inputs, weights = [], []
    for tile, correction in tiles:
        corrected = correct(tile.pixels(), correction)[channel]
        valid = np.isfinite(corrected)
        blanks = find_blanks(tile)
        if blanks is not None:
            valid &= ~blanks.grown()
        inputs.append((np.where(valid, corrected, np.float32(0)), tile.wcs))
        weights.append(valid.astype(np.float32))
    coadd, footprint = reproject_and_coadd(
        inputs,
        wcs,
        shape_out=shape,
        input_weights=weights,
        reproject_function=reproject_interp,
    )
    return np.where(footprint > 0, coadd, np.nan).astype(np.float32)
