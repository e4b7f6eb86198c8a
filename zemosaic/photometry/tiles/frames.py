"""Reference frames of world coordinates, and their conversion to ICRS.

Most tiles are in ICRS, so astropy.coordinates is imported only for the others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from astropy.wcs import WCS

from .tile import ICRS

#: Convertible reference systems of right ascension and declination.
EQUATORIAL = (ICRS, "FK5", "FK4", "FK4-NO-E")
#: Other convertible types of longitude.
LONGITUDES = ("GLON", "ELON", "SLON")
#: Names of reference systems that programs write besides the standard ones.
OTHER_NAMES = {"J2000": "FK5", "J2000.0": "FK5", "B1950": "FK4", "B1950.0": "FK4", "ICRF": ICRS}
#: RADESYS of ecliptic coordinates, which refer to the mean ecliptic of their equinox in any system.
ECLIPTIC = "ECLIPTIC"
#: Largest difference in degrees between FK5 at J2000 and ICRS: 32 mas.
FK5_ROTATION = 9e-6
#: FK5 at J2000 counts as ICRS if they differ by less than this fraction of a pixel, a fifth of
#: the precision to which a shift between tiles can be measured.
NEGLIGIBLE_SHIFT = 0.02


def standard_radesys(wcs: WCS) -> str:
    """Return the RADESYS of a WCS by its standard name.

    Ecliptic coordinates get one of their own: with the RADESYS of an equatorial system,
    astropy takes them for right ascension and declination.
    """
    if wcs.wcs.lngtyp == "ELON":
        return ECLIPTIC
    name = wcs.wcs.radesys.strip().upper()
    return OTHER_NAMES.get(name, name)


def is_known_frame(wcs: WCS) -> bool:
    """Return whether the world coordinates of a WCS can be converted to ICRS.

    An unknown frame, such as solar coordinates (HPLN) or apparent places (GAPPT), still serves
    tiles that all share it.
    """
    if wcs.wcs.lngtyp == "RA":
        return wcs.wcs.radesys in EQUATORIAL
    return wcs.wcs.lngtyp in LONGITUDES


def frame_name(wcs: WCS) -> str:
    """Return "ICRS" if the frame can be converted, otherwise the name of the frame itself."""
    if is_known_frame(wcs):
        return ICRS
    return wcs.wcs.radesys if wcs.wcs.lngtyp == "RA" else wcs.wcs.lngtyp


def needs_conversion(wcs: WCS) -> bool:
    """Return whether the world coordinates of a WCS need a conversion to ICRS."""
    prm = wcs.wcs
    if not is_known_frame(wcs) or (prm.lngtyp, prm.radesys) == ("RA", ICRS):
        return False
    if (prm.lngtyp, prm.radesys, prm.equinox) == ("RA", "FK5", 2000.0):
        scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
        return bool(scale * NEGLIGIBLE_SHIFT < FK5_ROTATION)
    return True


def to_icrs(wcs: WCS, lonlat: np.ndarray) -> np.ndarray:
    """Convert world coordinates ``(N, 2)`` of a WCS to ICRS; degrees."""
    return _transform(lonlat, _frame(wcs), _icrs()) if needs_conversion(wcs) else lonlat


def from_icrs(wcs: WCS, radec: np.ndarray) -> np.ndarray:
    """Convert ICRS ``(N, 2)`` to the world coordinates of a WCS; degrees."""
    return _transform(radec, _icrs(), _frame(wcs)) if needs_conversion(wcs) else radec


def frame_of_longitudes(wcs: WCS) -> Any:
    """Return the frame of ecliptic or supergalactic coordinates, which astropy.wcs does not map.

    Ecliptic coordinates refer to the mean ecliptic and equinox of EQUINOX, by default J2000
    (Calabretta and Greisen 2002). Other coordinates give None, as
    `astropy.wcs.utils.custom_wcs_to_frame_mappings` expects.
    """
    from astropy.coordinates import BarycentricMeanEcliptic, Supergalactic
    from astropy.time import Time

    if wcs.wcs.lngtyp == "SLON":
        return Supergalactic()
    if wcs.wcs.lngtyp != "ELON":
        return None
    equinox = 2000.0 if np.isnan(wcs.wcs.equinox) else wcs.wcs.equinox
    epoch = "byear" if equinox < 1984.0 else "jyear"
    return BarycentricMeanEcliptic(equinox=Time(equinox, format=epoch))


def _frame(wcs: WCS) -> Any:
    from astropy.wcs.utils import wcs_to_celestial_frame

    frame = frame_of_longitudes(wcs)
    return wcs_to_celestial_frame(wcs) if frame is None else frame


@lru_cache(1)
def _icrs() -> Any:
    from astropy import coordinates

    return coordinates.ICRS()


def _transform(lonlat: np.ndarray, source: Any, target: Any) -> np.ndarray:
    """Transform ``(N, 2)`` degrees between frames; NaN stays NaN."""
    from astropy import units as u
    from astropy.coordinates import UnitSphericalRepresentation

    longitude, latitude = np.moveaxis(lonlat, -1, 0) * u.deg
    known = np.isfinite(longitude) & np.isfinite(latitude)
    position = UnitSphericalRepresentation(longitude[known], latitude[known])
    moved = source.realize_frame(position).transform_to(target)
    moved = moved.represent_as(UnitSphericalRepresentation)
    result = np.full(lonlat.shape, np.nan)
    result[known] = np.stack([moved.lon.deg, moved.lat.deg], axis=-1)
    return result
