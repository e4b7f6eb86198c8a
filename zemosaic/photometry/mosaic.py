"""Corrected tiles -> one coadd, by reproject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from .apply import correct, write_whole
from .solver.solve import Correction
from .tiles.fits_files import HduKey
from .tiles.tile import open_tile


def write_mosaic(
    tiles: Sequence[tuple[Path, Correction]],
    output: Path,
    hdu: HduKey = None,
    mask_hdu: HduKey = None,
) -> None:
    """Coadd corrected tiles onto the tangent plane that fits them, and write the result.

    Parameters
    ----------
    tiles : sequence
        File and correction of each tile.
    output : pathlib.Path
        FITS file: float32 ``(H, W)`` or ``(C, H, W)`` in ADU, NaN where no tile is. It appears
        whole or not at all.
    hdu, mask_hdu : int, str or None
        As for `open_tile`.
    """
    from reproject import reproject_interp
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd

    opened = [open_tile(path, hdu, mask_hdu) for path, _ in tiles]
    wcs, shape = find_optimal_celestial_wcs([(tile.shape, tile.wcs) for tile in opened])
    planes = []
    for channel in range(opened[0].channels):
        inputs, weights = [], []
        for tile, (_, correction) in zip(opened, tiles, strict=True):
            pixels = tile.pixels()
            corrected = correct(pixels, correction)[channel]
            valid = np.isfinite(corrected)
            inputs.append((np.where(valid, corrected, np.float32(0)), tile.wcs))
            weights.append(valid.astype(np.float32))
        coadd, footprint = reproject_and_coadd(
            inputs,
            wcs,
            shape_out=shape,
            input_weights=weights,
            reproject_function=reproject_interp,
        )
        planes.append(np.where(footprint > 0, coadd, np.nan).astype(np.float32))
    data = planes[0] if len(planes) == 1 else np.stack(planes)
    write_whole(fits.HDUList([fits.PrimaryHDU(data, wcs.to_header())]), output)
