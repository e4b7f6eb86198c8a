"""FITS files: opening them, choosing an HDU and reading parts of its pixels.

Every defect of a file is reported as a one-line `TileError`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from ...errors import UserError
from .file_options import HduKey

#: Reads a part of an image: ``read_pixels(key)`` equals ``image.data[key]``.
PixelReader = Callable[[tuple[slice, ...]], np.ndarray]

# warnings.catch_warnings is not thread-safe before Python 3.14, and threads open tiles.
_WARNINGS_LOCK = threading.Lock()


class TileError(UserError):
    """A tile cannot be used; the one-line message names the tile, the problem and the remedy."""


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, and raise errors of the block as a one-line `TileError`."""
    with name_read_errors(path):
        # No memory map: a network drive that disappears would cause a bus error.
        with ignore_astropy_warnings():
            hdus = fits.open(path, memmap=False)
        with hdus:
            with ignore_astropy_warnings():
                len(hdus)  # reads all headers now, while warnings are ignored
            yield hdus


@contextmanager
def name_read_errors(path: Path) -> Iterator[None]:
    """Raise errors of the block, which reads a FITS file, as a one-line `TileError`."""
    try:
        yield
    except (TileError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - gzip, zip, cfitsio and astropy raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TileError(
            f"{path}: cannot be read as FITS ({reason}); copy it again or recreate it"
        ) from None


@contextmanager
def ignore_astropy_warnings() -> Iterator[None]:
    """Suppress astropy's warnings about headers that other programs wrote."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def find_image_hdu(hdus: fits.HDUList, path: Path, key: HduKey) -> Any:
    """Return the HDU of an image; raise `TileError` if it is missing or not an image."""
    hdu = get_hdu(hdus, path, key)
    if not is_image(hdu):
        raise TileError(f"{path}: HDU {key} holds no image; choose another with --hdu")
    return hdu


def image_unit(header: fits.Header) -> str:
    """Return the unit of an image as in its BUNIT, empty if there is none."""
    unit = header.get("BUNIT", "")
    return unit.strip() if isinstance(unit, str) else ""


def is_image(hdu: Any) -> bool:
    """Return whether an HDU holds an image with at least two axes."""
    return getattr(hdu, "is_image", False) and len(hdu.shape) >= 2


def get_hdu(hdus: fits.HDUList, path: Path, key: HduKey) -> Any:
    """Return an HDU; raise `TileError` with the list of all HDUs if there is no such one."""
    try:
        return hdus[key]
    except (KeyError, IndexError):
        names = [hdu.name for hdu in hdus]
        available = ", ".join(
            f"{index} {hdu.name}".strip() + (f",{hdu.ver}" if names.count(hdu.name) > 1 else "")
            for index, hdu in enumerate(hdus)
        )
        raise TileError(f"{path}: has no HDU {key}; it has {available}") from None


def pixel_reader(image: Any, path: Path) -> PixelReader:
    """Return a function that reads parts of an image HDU, scaled by BSCALE and BZERO.

    Plain images are read part by part. Compressed data is decompressed once as a whole, because
    each part of a ``.fits.gz`` would have to be decompressed from the start.
    """
    plain = type(image) in (fits.PrimaryHDU, fits.ImageHDU)
    if plain and image.size and image.fileinfo()["file"].compression is None:
        return image.section.__getitem__
    data = image.data
    if data is None:
        raise TileError(f"{path}: holds no pixels; recreate it")
    return data.__getitem__
