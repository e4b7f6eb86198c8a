"""The images of errors, variances and weights that belong to an image of the same file.

They are recognized by their name (``ERR``, ``VAR_RNOISE``, ``SCI_WHT``), by the ``UTYPE`` that
`astropy.nddata.CCDData` writes, or by the ``HDUCLAS3`` of the European Southern Observatory.
Masks, exposure times and contexts do not depend on the scale of the pixels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from astropy.io import fits

from ..tiles.axes import channels_first_shape

#: Words in the name of a companion, and its factor as a power of the gain.
POWERS = {
    **dict.fromkeys(("ERR", "ERROR", "ERRORS", "SIGMA", "UNCERT", "UNCERTAINTY", "STDDEV"), 1),
    **dict.fromkeys(("STD", "RMS", "NOISE", "RMSE"), 1),
    **dict.fromkeys(("VAR", "VARIANCE", "STAT", "MSE"), 2),
    **dict.fromkeys(("WHT", "WEIGHT", "WEIGHTS", "WGT", "IVAR", "INVVAR", "INVMSE", "IVM"), -2),
    **dict.fromkeys(("IERR", "ISIG", "INVSIGMA", "INVRMSE"), -1),
}
#: Images beside a tile that neither depend on its scale nor have companions of their own.
INDEPENDENT = frozenset(
    ("DQ", "MASK", "MSK", "FLAG", "FLAGS", "QUALITY", "BPM", "CTX", "CON", "CONTEXT", "EXP",
     "EXPTIME", "EXPOSURE", "COVERAGE", "COV", "NEXP", "TIME", "SAMP", "AREA", "ALPHA",
     "FOOTPRINT")
)  # fmt: skip
UNCERTAINTY_TYPES = {"StdDevUncertainty": 1, "VarianceUncertainty": 2, "InverseVariance": -2}


@dataclass(frozen=True)
class Companion:
    """A companion's HDU, its image's HDU, and its factor as a power of the gain."""

    hdu: int
    image: int
    power: int


def find_companions(
    hdus: fits.HDUList, images: Sequence[int], masks: Collection[int] = ()
) -> Iterator[Companion]:
    """Yield the companions of some images of a file; images and masks are given as HDU numbers.

    A companion has the height and width of its image. If the file has several such images, it
    names its image (``SCIDATA``), or has its EXTVER and either the image's name in its own or the
    place behind it.
    """
    kinds = {index: _power(hdu) for index, hdu in enumerate(hdus) if _is_image(hdu)}
    owners = [
        index
        for index, power in kinds.items()
        if index in images or (power is None and _may_own(hdus[index]))
    ]
    for index, power in kinds.items():
        if power is None or index in images or index in masks:
            continue
        image = _owner(hdus, index, owners)
        if image is not None and image in images:
            yield Companion(index, image, power)


def _is_image(hdu: Any) -> bool:
    return getattr(hdu, "is_image", False) and len(hdu.shape) >= 2


def _words(hdu: Any) -> set[str]:
    """Return the words of an HDU's name without digits at their ends."""
    return {word.rstrip("0123456789") for word in re.split(r"[^A-Z0-9]+", hdu.name.upper())}


def _power(hdu: Any) -> int | None:
    """Return the power of the gain for a companion, None for other images."""
    declared = hdu.header.get("UTYPE"), hdu.header.get("HDUCLAS3")
    if declared[0] in UNCERTAINTY_TYPES:
        return UNCERTAINTY_TYPES[declared[0]]
    if declared[1] in POWERS:
        return POWERS[declared[1]]
    # The unit of exposure times, which some programs use as weights, does not change.
    if str(hdu.header.get("BUNIT", "")).strip().lower() in ("s", "sec", "second", "seconds"):
        return None
    powers = {POWERS[word] for word in _words(hdu) & set(POWERS)}
    return powers.pop() if len(powers) == 1 else None


def _may_own(hdu: Any) -> bool:
    """Return whether an image other than a tile may have companions: with a WCS, and no map."""
    return "CTYPE1" in hdu.header and not _words(hdu) & INDEPENDENT


def _owner(hdus: fits.HDUList, index: int, owners: Sequence[int]) -> int | None:
    """Return the HDU number of a companion's image, None if there is none."""
    companion = hdus[index]
    candidates = [owner for owner in owners if _size(hdus[owner]) == _size(companion)]
    named = str(companion.header.get("SCIDATA", "")).strip().upper()
    if named:
        candidates = [owner for owner in candidates if hdus[owner].name.upper() == named]
    several = len(candidates) > 1 or sum(hdu.name == companion.name for hdu in hdus) > 1
    if several:
        candidates = [owner for owner in candidates if hdus[owner].ver == companion.ver]
    in_name = {o: len(hdus[o].name) for o in candidates if hdus[o].name in companion.name}
    longest = max(in_name.values(), default=0)
    if longest:
        candidates = [owner for owner, length in in_name.items() if length == longest]
    before = [owner for owner in candidates if owner < index]
    return max(before) if before else min(candidates, default=None)


def _size(hdu: Any) -> tuple[int, ...]:
    """Return height and width, or the whole shape of an image that cannot be a tile."""
    try:
        return channels_first_shape(tuple(hdu.shape))[1:]
    except ValueError:
        return tuple(hdu.shape)
