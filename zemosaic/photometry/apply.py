"""Application of a correction to a tile, as an array or as a FITS file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..files import atomic_write
from .solver.solve import Correction
from .tiles.axes import from_channels_first, to_channels_first
from .tiles.fits_files import TileError, find_image_hdu, open_fits
from .tiles.tile import Tile


def correct(data: np.ndarray, correction: Correction) -> np.ndarray:
    """Apply gain, offset and slopes, channel by channel.

    Parameters
    ----------
    data : ndarray
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN stays NaN.
    correction : Correction
        The correction of the C channels.

    Returns
    -------
    ndarray
        float32 of the shape of `data`: ``gain * data + offset + slope_x * (x - x0) + slope_y *
        (y - y0)``, where (x0, y0) is the tile's centre.
    """
    image = to_channels_first(np.asarray(data)).astype(np.float64)
    channels, height, width = image.shape
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2

    def per_channel(values: np.ndarray | float) -> np.ndarray:
        return np.broadcast_to(values, (channels,))[:, None, None]

    corrected = image * per_channel(correction.gain) + per_channel(correction.offset)
    corrected += per_channel(correction.slope_x) * x + per_channel(correction.slope_y) * y[:, None]
    return from_channels_first(corrected.astype(np.float32), np.shape(data))


def write_corrected(tile: Tile, correction: Correction, folder: Path) -> Path:
    """Write the corrected tile to a folder as a FITS file of the same name.

    All HDUs and headers are kept. The image becomes float32, and its header records the
    correction. A file that is compressed as a whole (``.fits.gz``) stays compressed. The file is
    written atomically.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TileError
        The tile is an array or asinh-compressed, the file would replace the tile, or it cannot be
        read or written.
    """
    if tile.path is None:
        raise TileError(f"{tile.name}: is an array, not a file; use correct()")
    if tile.asinh:
        raise TileError(
            f"{tile.path}: its pixels are asinh-compressed (BSOFTEN), and a correction would not "
            "keep that; convert it to linear values first"
        )
    target = folder / tile.path.name
    if target.exists() and target.samefile(tile.path):
        raise TileError(f"{tile.path}: would be overwritten; choose another folder for --apply")
    with open_fits(tile.path) as hdus:
        image = find_image_hdu(hdus, tile.path, tile.options.hdu)
        corrected = correct(np.asarray(image.data), correction)
        _record_correction(image.header, tile.channels, correction)
        _replace_image(hdus, image, corrected)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_fits(hdus, target)
        except OSError as error:
            reason = error.strerror or error
            raise TileError(
                f"{target}: cannot be written ({reason}); choose another folder"
            ) from None
    return target


def _record_correction(header: fits.Header, channels: int, correction: Correction) -> None:
    """Add a correction to a header, as keywords and as a line of HISTORY per channel."""
    terms = (
        np.broadcast_to(values, (channels,))
        for values in (correction.gain, correction.offset, correction.slope_x, correction.slope_y)
    )
    for channel, (gain, offset, slope_x, slope_y) in enumerate(zip(*terms, strict=True)):
        header[f"ZEGAIN{channel}"] = (float(gain), f"intertile gain, channel {channel}")
        header[f"ZEOFFS{channel}"] = (float(offset), f"[adu] intertile offset, channel {channel}")
        formula = f"{gain:.8g} * data + {offset:.8g}"
        if slope_x or slope_y:
            comment = f"[adu/pix] intertile slope, channel {channel}"
            header[f"ZESLPX{channel}"] = (float(slope_x), comment)
            header[f"ZESLPY{channel}"] = (float(slope_y), comment)
            formula += f" + {slope_x:.8g} * (x - x0) + {slope_y:.8g} * (y - y0)"
        header.add_history(f"zemosaic: channel {channel} = {formula}")


def _replace_image(hdus: fits.HDUList, image: Any, data: np.ndarray) -> None:
    """Replace an image in its file by float32 data, with the same header.

    A compressed image becomes a plain one, because lossy compression would undo the correction.
    """
    image.header.remove("BLANK", ignore_missing=True)
    hdu_type = fits.PrimaryHDU if image is hdus[0] else fits.ImageHDU
    hdus[hdus.index(image)] = hdu_type(data, image.header)


def write_fits(hdus: fits.HDUList, path: Path) -> None:
    """Write a FITS file atomically; with new checksums if the HDUs have any."""
    checksum = any({"CHECKSUM", "DATASUM"} & set(hdu.header) for hdu in hdus)
    with atomic_write(path) as temporary:
        hdus.writeto(temporary, overwrite=True, output_verify="silentfix+ignore", checksum=checksum)
