"""FITS files: opening them, choosing an HDU and reading parts of its pixels.

Every defect of a file is reported as a one-line `TileError`.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from ...errors import TileError
from .encodings import AsinhScale
from .file_options import HduKey
from .foreign_formats import foreign_format

#: Reads a part of an image: ``read_pixels(key)`` equals ``image.data[key]``.
PixelReader = Callable[[tuple[slice, ...]], np.ndarray]

#: HDUs with pixels stored in the file as they are.
PLAIN_HDUS = fits.PrimaryHDU, fits.ImageHDU

BLOCK = 2880  # bytes
MOST_AXES = 999
_AXES = re.compile(rb"^SIMPLE  =.*?NAXIS   = *(\d+)", re.DOTALL)

# warnings.catch_warnings is not thread-safe before Python 3.14, and threads open tiles.
_WARNINGS_LOCK = threading.Lock()


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, and raise errors of the block as a one-line `TileError`."""
    with name_read_errors(path):
        _refuse_many_axes(path)
        with open_hdus(path) as hdus:
            yield hdus


@contextmanager
def open_hdus(path: Path, **options: Any) -> Iterator[fits.HDUList]:
    """Open a FITS file with options of `astropy.io.fits.open`, and read all its headers."""
    # A file opened by astropy itself stays open if a header is damaged.
    with path.open("rb") as file:
        with ignore_astropy_warnings():
            # No memory map: a network drive that disappears would cause a bus error.
            hdus = fits.open(file, memmap=False, **options)
        with hdus:
            with ignore_astropy_warnings():
                len(hdus)  # reads all headers now, while warnings are ignored
            yield hdus


def _refuse_many_axes(path: Path) -> None:
    """Raise an error for more axes than FITS allows, which astropy would list for minutes."""
    with path.open("rb") as file:
        axes = _AXES.search(file.read(BLOCK))
    if axes is not None and int(axes[1]) > MOST_AXES:
        raise ValueError(f"its NAXIS is {int(axes[1])}, and at most {MOST_AXES} are allowed")


@contextmanager
def name_read_errors(path: Path) -> Iterator[None]:
    """Raise errors of the block, which reads a FITS file, as a one-line `TileError`."""
    try:
        yield
    except (TileError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - gzip, zip, cfitsio and astropy raise their own
        if words := foreign_format(path):
            raise TileError(f"{path}: is {words}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TileError(
            f"{path}: cannot be read as FITS ({reason}); copy it again or recreate it"
        ) from None


@contextmanager
def ignore_astropy_warnings() -> Iterator[None]:
    """Suppress astropy's warnings about headers that other programs wrote, or have them logged."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        logged = getattr(warnings.showwarning, "collects", False)
        warnings.simplefilter("always" if logged else "ignore", AstropyWarning)
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


def require_complete(image: Any, path: Path) -> None:
    """Raise `TileError` if an uncompressed file ends before the last pixel of an image HDU."""
    info = image.fileinfo()
    if type(image) not in PLAIN_HDUS or info["file"].compression is not None:
        return
    end, length = info["datLoc"] + image.size, path.stat().st_size
    if end > length:
        raise TileError(
            f"{path}: cannot be read as FITS (it has {length} of {end} bytes); copy it again or "
            "recreate it"
        )


def pixel_reader(image: Any, path: Path) -> PixelReader:
    """Return a function that reads parts of an image HDU as linear values.

    They are scaled by BSCALE and BZERO, and freed from asinh compression (`AsinhScale`).

    Plain images are read part by part. Compressed data is decompressed once as a whole, because
    each part of a ``.fits.gz`` would have to be decompressed from the start.
    """
    read = _stored_reader(image, path)
    scale = asinh_scale(image, path)
    return read if scale is None else lambda key: scale.linearize(read(key))


def asinh_scale(image: Any, path: Path) -> AsinhScale | None:
    """Return the asinh compression of an image HDU, None for linear pixels."""
    try:
        return AsinhScale.of(image.header)
    except ValueError as error:
        raise TileError(f"{path}: {error}, so its pixels are unknown; mend its header") from None


def _stored_reader(image: Any, path: Path) -> PixelReader:
    plain = type(image) in PLAIN_HDUS
    if plain and image.size and image.fileinfo()["file"].compression is None:
        return image.section.__getitem__
    data = image.data
    if data is None:
        raise TileError(f"{path}: holds no pixels; recreate it")
    return data.__getitem__
