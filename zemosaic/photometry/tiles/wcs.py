"""The WCS of a tile: read from a header, checked, and passed on to other processes.

Pickling a WCS rounds its numbers and takes longer than reading a small tile. A tile therefore
carries the parameters of its WCS, wherever they reproduce it exactly.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import (
    WCS,
    WCSCOMPARE_ANCILLARY,
    InvalidTransformError,
    SingularMatrixError,
    Sip,
    WcsError,
)

from ...errors import TileError
from .fits_files import ignore_astropy_warnings
from .frames import standard_radesys

#: Attributes of `astropy.wcs.Wcsprm` that define a celestial WCS, apart from its matrix.
PROJECTION = ("ctype", "cunit", "crval", "crpix", "lonpole", "latpole", "radesys", "equinox")

#: Keywords of a linear WCS with numbers for values.
LINEAR_KEYWORDS = (
    *(f"{name}{axis}" for name in ("CRVAL", "CRPIX", "CDELT", "CROTA") for axis in (1, 2)),
    *(f"{name}{i}_{j}" for name in ("CD", "PC") for i in (1, 2) for j in (1, 2)),
)
#: Right ascension, which may be counted over several turns, and declination in degrees.
LARGEST_CRVAL = 1080.0, 90.0


def read_wcs(path: Path, header: fits.Header, hdus: fits.HDUList | None) -> WCS:
    """Return the celestial WCS of a header.

    Parameters
    ----------
    path : pathlib.Path
        The file of the header, for errors.
    header : astropy.io.fits.Header
        Header of an image.
    hdus : astropy.io.fits.HDUList or None
        The file, which may hold lookup tables of the WCS.

    Raises
    ------
    TileError
        The header has no usable celestial WCS.
    """
    _require_numbers(path, header)
    try:
        with ignore_astropy_warnings():
            wcs = _parse_celestial(header, hdus)
    except Exception as error:  # noqa: BLE001 - wcslib raises a dozen kinds of its own
        raise _unusable(str(path), error) from None
    return require_celestial(str(path), wcs)


def _require_numbers(path: Path, header: fits.Header) -> None:
    """Raise `TileError` unless all keywords of a linear WCS that are present are finite numbers.

    wcslib reads text as the default of a keyword: CRVAL1 = 0 is a valid position on the sky.
    """
    for key in LINEAR_KEYWORDS:
        try:
            value = header.get(key, 0.0)
        except VerifyError:  # NAN or INF without quotes
            value = "unreadable"
        if isinstance(value, (bool, str)) or not np.isfinite(value):
            raise TileError(f"{path}: its {key} is not a number; solve the plate again")


def _unusable(name: str, error: Exception) -> TileError:
    """Return the error of a tile with a WCS that wcslib refuses."""
    if isinstance(error, SingularMatrixError):
        return TileError(
            f"{name}: the matrix of its WCS (CD, or PC and CDELT) is singular, so its pixels have "
            "no area; solve the plate again"
        )
    if isinstance(error, InvalidTransformError):
        return TileError(
            f"{name}: its WCS has a reference value (CRVAL, LONPOLE, LATPOLE or PV) that is no "
            "position on the sky; solve the plate again"
        )
    reason = " ".join(str(error).split())
    return TileError(f"{name}: its WCS cannot be read ({reason}); solve the plate again")


def _parse_celestial(header: fits.Header, hdus: fits.HDUList | None) -> WCS:
    """Return the WCS of the celestial axes; not celestial if the header has none."""
    # WCS() rejects SIP in a cube, unless it is limited to two axes. This fails in turn if the
    # celestial axes of a cube are not the first two.
    wcs = None
    with suppress(WcsError):
        wcs = WCS(header, fobj=hdus, naxis=2)
    if wcs is not None and wcs.has_celestial:
        return wcs
    return WCS(header, fobj=hdus).celestial


def require_celestial(name: str, wcs: Any) -> WCS:
    """Return the two celestial axes of a WCS; raise `TileError` if it cannot serve a tile."""
    if not isinstance(wcs, WCS):
        raise TileError(f"{name}: its WCS is a {type(wcs).__name__}; give an astropy.wcs.WCS")
    if not wcs.has_celestial:
        raise TileError(f"{name}: has no celestial WCS; solve the plate first")
    wcs = wcs if wcs.naxis == 2 else wcs.celestial
    try:
        wcs.wcs.set()
    except WcsError as error:
        raise _unusable(name, error) from None
    if wcs.wcs.lng != 0:
        raise TileError(f"{name}: its WCS has the declination first; swap the axes of the image")
    for axis, (value, largest) in enumerate(zip(wcs.wcs.crval, LARGEST_CRVAL, strict=True), 1):
        if not abs(value) <= largest:
            raise TileError(
                f"{name}: its CRVAL{axis} is {value:g}, no position on the sky in degrees; solve "
                "the plate again"
            )
    radesys = standard_radesys(wcs)
    if radesys != wcs.wcs.radesys:
        wcs = wcs.deepcopy()
        wcs.wcs.radesys = radesys
        wcs.wcs.set()
    return wcs


def wcs_parameters(wcs: WCS, xy: np.ndarray) -> dict[str, Any] | None:
    """Return the parameters of a celestial WCS at full precision, if they describe it exactly.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, with two axes.
    xy : ndarray
        ``(N, 2)`` pixel x, y at which the reconstructed WCS has to give the same sky positions,
        bit by bit.

    Returns
    -------
    dict or None
        Arguments of `wcs_from_parameters`. None if these lose something: lookup tables, the
        polynomials of TPV, CROTA, and PC beside CD are not among them.
    """
    if wcs.wcs.has_crota():  # replaces the matrix
        return None
    matrix = ("cd",) if wcs.wcs.has_cd() else ("pc", "cdelt")
    parameters = {name: getattr(wcs.wcs, name) for name in (*PROJECTION, *matrix)}
    for name in ("ctype", "cunit"):
        parameters[name] = [str(text) for text in parameters[name]]
    parameters["pv"] = wcs.wcs.get_pv()
    sip = wcs.sip
    parameters["sip"] = sip and (sip.a, sip.b, sip.ap, sip.bp, sip.crpix)
    try:
        rebuilt = wcs_from_parameters(parameters)
    except WcsError:
        return None
    identical = wcs.wcs.compare(rebuilt.wcs, WCSCOMPARE_ANCILLARY)
    identical &= np.array_equal(wcs.all_pix2world(xy, 0), rebuilt.all_pix2world(xy, 0))
    return parameters if identical else None


def wcs_from_parameters(parameters: dict[str, Any]) -> WCS:
    """Construct the WCS from the parameters returned by `wcs_parameters`."""
    wcs = WCS(naxis=2)
    for name, value in parameters.items():
        if name not in ("pv", "sip"):
            setattr(wcs.wcs, name, value)
    wcs.wcs.set_pv(parameters["pv"])
    wcs.sip = parameters["sip"] and Sip(*parameters["sip"])
    wcs.wcs.set()
    return wcs
