"""Coaddition of corrected tiles with reproject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..files import atomic_write
from .apply import correct
from .solver.solve import Correction
from .tiles.blanks import find_blanks
from .tiles.fits_files import TileError
from .tiles.frames import frame_of_longitudes, is_known_frame, needs_conversion
from .tiles.tile import Tile


def write_mosaic(tiles: Sequence[tuple[Tile, Correction]], output: Path) -> None:
    """Coadd corrected tiles on a tangent plane that fits them, and write the result.

    Parameters
    ----------
    tiles : sequence of (Tile, Correction)
        Each tile with its correction.
    output : pathlib.Path
        FITS file, written atomically: float32 ``(H, W)`` or ``(C, H, W)`` in ADU, NaN where there
        is no tile. It is in ICRS if any tile is in another frame than right ascension and
        declination of ICRS or J2000.

    Raises
    ------
    TileError
        The coordinates of the tiles are in a frame that reproject does not know.
    """
    from astropy.coordinates import ICRS
    from astropy.wcs.utils import custom_wcs_to_frame_mappings
    from reproject.mosaicking import find_optimal_celestial_wcs

    first = tiles[0][0]
    if not is_known_frame(first.wcs):
        raise TileError(f"{first.name}: a mosaic cannot have the coordinates {first.frame}")
    frame = ICRS() if any(needs_conversion(tile.wcs) for tile, _ in tiles) else None
    with custom_wcs_to_frame_mappings(frame_of_longitudes):
        footprints = [(tile.shape, tile.wcs) for tile, _ in tiles]
        wcs, shape = find_optimal_celestial_wcs(footprints, frame=frame)
        images = [_coadd_channel(tiles, channel, wcs, shape) for channel in range(first.channels)]
    data = images[0] if len(images) == 1 else np.stack(images)
    header, units = wcs.to_header(), {tile.unit for tile, _ in tiles}
    if len(units) == 1 and units != {""}:
        header["BUNIT"] = units.pop()
    with atomic_write(output) as temporary:
        hdus = fits.HDUList([fits.PrimaryHDU(data, header)])
        hdus.writeto(temporary, overwrite=True)


def _coadd_channel(
    tiles: Sequence[tuple[Tile, Correction]], channel: int, wcs: WCS, shape: tuple[int, int]
) -> np.ndarray:
    """Return the mean of one channel of the corrected tiles, ``(H, W)`` float32."""
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    inputs, weights = [], []
    for tile, correction in tiles:
        (layers,) = tile.strips(tile.shape[0], weights=True)
        corrected = correct(layers[: tile.channels], correction)[channel]
        valid = np.isfinite(corrected)
        blanks = find_blanks(tile)
        if blanks is not None:
            valid &= ~blanks.grown()
        inputs.append((np.where(valid, corrected, np.float32(0)), tile.wcs))
        weight = valid.astype(np.float32)
        if tile.has_weights:
            weight *= layers[-1]
        weights.append(weight)
    coadd, footprint = reproject_and_coadd(
        inputs,
        wcs,
        shape_out=shape,
        input_weights=weights,
        reproject_function=reproject_interp,
    )
    return np.where(footprint > 0, coadd, np.nan).astype(np.float32)
