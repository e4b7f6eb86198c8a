"""Solution + tile -> corrected tile, as an array or as a FITS file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from ..files import atomic_write
from .solver.solve import Correction
from .tiles.axes import from_planes, to_planes
from .tiles.fits_files import TileError, image_hdu, open_fits
from .tiles.tile import Tile


def correct(data: np.ndarray, correction: Correction) -> np.ndarray:
    """Apply gain, offset and plane per channel.

    Parameters
    ----------
    data : ndarray
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN stays NaN.
    correction : Correction
        With as many channels.

    Returns
    -------
    ndarray
        float32 of the shape of `data`: ``gain * data + offset + slope_x * (x - x0) + slope_y *
        (y - y0)`` with (x0, y0) the tile's centre.
    """
    planes = to_planes(np.asarray(data)).astype(np.float64)
    channels, h, w = planes.shape
    x, y = np.arange(w) - (w - 1) / 2, np.arange(h) - (h - 1) / 2

    def column(values: np.ndarray | float) -> np.ndarray:
        return np.broadcast_to(values, (channels,))[:, None, None]

    corrected = planes * column(correction.gain) + column(correction.offset)
    corrected += column(correction.slope_x) * x + column(correction.slope_y) * y[:, None]
    return from_planes(corrected.astype(np.float32), np.shape(data))


def write_corrected(tile: Tile, correction: Correction, folder: Path) -> Path:
    """Write the corrected tile as FITS into a folder, under the name that it has.

    All HDUs and headers are kept; the image becomes float32, and its header tells the
    correction. The file appears whole or not at all: it is written under another name first.
    One that is compressed as a whole (``.fits.gz``) is written so.

    Raises
    ------
    TileError
        The tile was not read from a file, would be overwritten, or cannot be read or written.
    """
    if tile.path is None:
        raise TileError(f"{tile.name}: is an array, not a file; use correct()")
    target = folder / tile.path.name
    if target.exists() and target.samefile(tile.path):
        raise TileError(f"{tile.path}: would be overwritten; choose another folder for --apply")
    with open_fits(tile.path) as hdus:
        image = image_hdu(hdus, tile.path, tile.hdu)
        corrected = correct(np.asarray(image.data), correction)
        _tell(image.header, tile.channels, correction)
        header = image.header
        # Compressed images are written plain: lossy compression would undo the match.
        kind = fits.PrimaryHDU if image is hdus[0] else fits.ImageHDU
        header.remove("BLANK", ignore_missing=True)
        hdus[hdus.index(image)] = kind(corrected, header)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(hdus, target)
        except OSError as error:
            why = error.strerror or error
            raise TileError(f"{target}: cannot be written ({why}); choose another folder") from None
    return target


def _tell(header: fits.Header, channels: int, correction: Correction) -> None:
    """Write a correction into a header and its history."""
    every = (
        np.broadcast_to(value, (channels,))
        for value in (correction.gain, correction.offset, correction.slope_x, correction.slope_y)
    )
    for c, (g, o, sx, sy) in enumerate(zip(*every, strict=True)):
        header[f"ZEGAIN{c}"] = (float(g), f"intertile gain, channel {c}")
        header[f"ZEOFFS{c}"] = (float(o), f"[adu] intertile offset, channel {c}")
        formula = f"{g:.8g} * data + {o:.8g}"
        if sx or sy:
            header[f"ZESLPX{c}"] = (float(sx), f"[adu/pix] intertile slope, channel {c}")
            header[f"ZESLPY{c}"] = (float(sy), f"[adu/pix] intertile slope, channel {c}")
            formula += f" + {sx:.8g} * (x - x0) + {sy:.8g} * (y - y0)"
        header.add_history(f"zemosaic: channel {c} = {formula}")


def write_whole(hdus: fits.HDUList, target: Path) -> None:
    """Write a FITS file whole or not at all: under another name first."""
    summed = any({"CHECKSUM", "DATASUM"} & set(hdu.header) for hdu in hdus)
    with atomic_write(target) as temporary:
        hdus.writeto(temporary, overwrite=True, output_verify="silentfix+ignore", checksum=summed)
