"""Pixels that are not plain intensities: asinh-compressed, undebayered, or saturated ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from astropy.io import fits

#: 2.5 log10(e): asinh-compressed values are like magnitudes.
ALPHA = 2.5 * np.log10(np.e)
#: Keywords with the pattern of a colour filter array, by capture programs.
BAYER_KEYWORDS = ("BAYERPAT", "BAYERPATTERN", "COLORTYP")
#: Keywords with the level from which pixels are saturated. DATAMAX is not among them: the FITS
#: standard defines it as the highest value of the image, which a good pixel has as well.
SATURATION_KEYWORDS = re.compile(
    "SATURATE|SATURAT[A-D]|SATUR_?LEV|SATLEVEL|SATLEV|SATVAL|SATURVAL|SATURATION"
)


class AsinhScale:
    """The asinh compression of Pan-STARRS stacks (BOFFSET and BSOFTEN).

    ``linear = BOFFSET + BSOFTEN * (exp(v / ALPHA) - exp(-v / ALPHA))`` for a stored value v
    (Waters et al. 2020, ApJS 251, 4).
    """

    def __init__(self, offset: float, softening: float) -> None:
        self._offset, self._softening = offset, softening

    @classmethod
    def of(cls, header: fits.Header) -> AsinhScale | None:
        """Return the scale of an image, None if its header has no such compression.

        Raises
        ------
        ValueError
            One of both keywords is missing or no number.
        """
        values = [header.get(key) for key in ("BOFFSET", "BSOFTEN")]
        if values == [None, None]:
            return None
        if not all(isinstance(value, (int, float)) for value in values) or not values[1]:
            raise ValueError("BOFFSET and BSOFTEN are not both numbers")
        return cls(*map(float, values))

    def linearize(self, stored: Any) -> np.ndarray:
        """Return linear values, float64, of stored ones."""
        with np.errstate(over="ignore"):
            scaled = 2 * np.sinh(np.asarray(stored, dtype=np.float64) / ALPHA)
        return self._offset + self._softening * scaled


def bayer_pattern(header: fits.Header, channels: int) -> str:
    """Return the pattern of an undebayered image, like RGGB; empty if there is none."""
    if channels != 1:
        return ""
    for key in BAYER_KEYWORDS:
        match = re.search("[RGB]{4}", str(header.get(key, "")).upper())
        if match and sorted(match[0]) == sorted("RGGB"):
            return match[0]
    return ""


def saturation_level(header: fits.Header) -> float:
    """Return the lowest saturation level in a header, inf if it gives none.

    Only positive finite numbers count.
    """
    levels = (header[key] for key in header if SATURATION_KEYWORDS.fullmatch(key))
    numbers = (
        float(level)
        for level in levels
        if isinstance(level, (int, float)) and not isinstance(level, bool)
    )
    return min((number for number in numbers if 0 < number < np.inf), default=np.inf)
