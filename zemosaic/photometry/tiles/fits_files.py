"""FITS files of all kinds: the HDU that is asked for, its rows and its WCS.

Whatever is wrong with a file comes out as a `TileError` of one line.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WCSCOMPARE_ANCILLARY, Sip, WcsError

from ...errors import UserError

HduKey = int | str | None
Source = Callable[[tuple[slice, ...]], np.ndarray]

# warnings.catch_warnings is not thread-safe before Python 3.14, and tiles are opened by threads.
_WARNINGS_LOCK = threading.Lock()


class TileError(UserError):
    """A tile cannot be used; the message is one line: which tile, why, what to do."""


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file; whatever is wrong with it comes out as a `TileError` of one line."""
    try:
        # Memory maps turn a network drive that goes away into a bus error: read instead.
        with quiet():
            hdus = fits.open(path, memmap=False)
        with hdus:
            with quiet():
                len(hdus)  # reads every header now, where warnings are kept quiet
            yield hdus
    except (TileError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - gzip, zip, cfitsio and astropy each have their own
        why = " ".join(str(error).split()) or type(error).__name__
        raise TileError(f"{path}: cannot be read as FITS ({why}); copy or make it anew") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep astropy's warnings about foreign headers from the user."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def image_hdu(hdus: fits.HDUList, path: Path, key: HduKey) -> Any:
    """The chosen HDU, or the first that holds an image."""
    if key is not None:
        chosen = _hdu(hdus, path, key)
        if not (getattr(chosen, "is_image", False) and len(chosen.shape) >= 2):
            raise TileError(f"{path}: HDU {key} holds no image; choose another with --hdu")
        return chosen
    for candidate in hdus:
        if getattr(candidate, "is_image", False) and len(candidate.shape) >= 2:
            return candidate
    raise TileError(f"{path}: holds no image; give a FITS file with one")


def mask_image(hdus: fits.HDUList, path: Path, key: int | str) -> Any:
    """The HDU of a mask."""
    chosen = _hdu(hdus, path, key)
    if not (getattr(chosen, "is_image", False) and len(chosen.shape) >= 2):
        raise TileError(f"{path}: HDU {key} holds no mask; choose another with --mask-hdu")
    return chosen


def _hdu(hdus: fits.HDUList, path: Path, key: int | str) -> Any:
    try:
        return hdus[key]
    except (KeyError, IndexError):
        known = ", ".join(f"{n} {h.name}".strip() for n, h in enumerate(hdus))
        raise TileError(f"{path}: has no HDU {key}; it has {known}") from None


def pixel_source(image: Any, path: Path) -> Source:
    """How parts of an image are read, in ADU: ``source(key)`` is ``image.data[key]``.

    Of a plain image only the part is read. What is compressed is unpacked whole: parts of a
    ``.fits.gz`` lie where the one before has to be unpacked anew.
    """
    plain = type(image) in (fits.PrimaryHDU, fits.ImageHDU)
    if plain and image.size and image.fileinfo()["file"].compression is None:
        return image.section.__getitem__
    data = image.data
    if data is None:
        raise TileError(f"{path}: holds no pixels; make it anew")
    return data.__getitem__


def header_wcs(path: Path, header: fits.Header, hdus: fits.HDUList) -> WCS:
    """The WCS of an image, of its celestial axes alone if there are more."""
    # wcslib takes a reference value that is text for 0, which is a place on the sky as well.
    text = [key for key in ("CRVAL1", "CRVAL2") if isinstance(header.get(key), str)]
    if text:
        raise TileError(f"{path}: its {text[0]} is no number; solve the plate again")
    # A cube with SIP cannot be read whole, so ask for two axes first; a cube whose celestial
    # axes are not the first two needs the long way.
    wcs = None
    try:
        with quiet():
            with suppress(WcsError):
                wcs = WCS(header, fobj=hdus, naxis=2)
            if wcs is None or not wcs.has_celestial:
                wcs = WCS(header, fobj=hdus).celestial
    except Exception as error:  # noqa: BLE001 - wcslib raises a dozen kinds of its own
        why = " ".join(str(error).split())
        raise TileError(f"{path}: its WCS cannot be read ({why}); solve the plate again") from None
    return wcs


def wcs_numbers(wcs: WCS, xy: np.ndarray) -> dict[str, Any] | None:
    """What defines a celestial WCS, to the last digit; None if it holds more than this knows.

    On its way through a pickle a WCS loses digits, and takes longer than a tile takes to read.
    What is made anew of the numbers must see the same sky in the pixels `xy`, to the bit:
    lookup tables, the polynomials of TPV and CROTA are not among the numbers.
    """
    if wcs.wcs.has_crota():  # hides its matrix
        return None
    names = ("ctype", "cunit", "crval", "crpix", "lonpole", "latpole", "radesys", "equinox")
    matrix = ("cd",) if wcs.wcs.has_cd() else ("pc", "cdelt")
    numbers = {name: getattr(wcs.wcs, name) for name in (*names, *matrix)}
    for name in ("ctype", "cunit"):
        numbers[name] = [str(text) for text in numbers[name]]
    numbers["pv"] = wcs.wcs.get_pv()
    sip = wcs.sip
    numbers["sip"] = sip and (sip.a, sip.b, sip.ap, sip.bp, sip.crpix)
    anew = wcs_of(numbers)
    same = wcs.wcs.compare(anew.wcs, WCSCOMPARE_ANCILLARY)
    same &= np.array_equal(wcs.all_pix2world(xy, 0), anew.all_pix2world(xy, 0))
    return numbers if same else None


def wcs_of(numbers: dict[str, Any]) -> WCS:
    """The WCS that `wcs_numbers` took apart."""
    wcs = WCS(naxis=2)
    for name, value in numbers.items():
        if name not in ("pv", "sip"):
            setattr(wcs.wcs, name, value)
    wcs.wcs.set_pv(numbers["pv"])
    wcs.sip = numbers["sip"] and Sip(*numbers["sip"])
    wcs.wcs.set()
    return wcs
