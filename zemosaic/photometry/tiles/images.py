"""The tiles in a FITS file: all chips of a camera, but no error or mask planes.

An image is chosen by a text such as ``SCI,2`` (name and version), ``SCI`` (all of this name),
``3`` (number), ``1,4`` (numbers), ``all``, or several of these joined by ``+``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ...errors import TileError
from .axes import channels_first_shape
from .file_options import HduKey, group_rules, instrument_keywords
from .fits_files import get_hdu, ignore_astropy_warnings, is_image
from .sky import unit_vectors

#: The word that selects every image with a celestial WCS.
ALL = "all"
#: The key of groups made of the images of one file.
EXPOSURE = "exposure"
#: Words in the names of HDUs that do not hold the sky but belong to an image that does.
AUXILIARY = re.compile(
    "ALPHA|AREA|BACKGROUND|BKG|BPM|CON|CONTEXT|COV|COVERAGE|CTX|DQ|ERR|ERROR|EXP|EXPMAP|EXPOSURE|"
    "EXPTIME|FLAGS?|FLG|HITS|INVVAR|IVAR|MASK|MODEL|NSAMP|PREVIEW|PSF|QUAL|QUALITY|RESIDUAL|RMS|SAMP|"
    "SIGMA|STD|STDEV|THUMB|THUMBNAIL|TIME|UNC|UNCERT|UNCERTAINTY|VAR|VARIANCE|WAVELENGTH|WEIGHT|"
    "WHT|WMAP"
)
#: Distance between the centres of two images, in sizes of an image, below which they are planes of
#: one image.
SAME_PLACE = 0.05
#: Largest ratio of the sides of two chips of a camera; a preview is smaller.
LARGEST_RATIO = 1.5


def select_images(hdus: fits.HDUList, path: Path, key: HduKey) -> list[int]:
    """Return the numbers of the HDUs of all tiles in a file.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file.
    path : pathlib.Path
        Its path, for errors.
    key : HduKey
        Selects images; None selects the first with a celestial WCS and all others of its kind.

    Raises
    ------
    TileError
        There is no image, or none as selected.
    """
    images = [number for number, hdu in enumerate(hdus) if is_image(hdu)]
    if key is None:
        if not images:
            raise TileError(f"{path}: holds no image; give a FITS file with one")
        return images if len(images) == 1 else _chips(hdus, images)
    if key == ALL:
        images = _positioned(hdus, images)
        if not images:
            raise TileError(f"{path}: no image in it has a celestial WCS; solve the plate first")
        return images
    parts = [key] if isinstance(key, int | tuple) else key.split("+")
    numbers = [number for part in parts for number in _numbers(hdus, path, part)]
    for number in numbers:
        if number not in images:
            raise TileError(f"{path}: HDU {number} holds no image; choose another with --hdu")
    return list(dict.fromkeys(numbers))


def image_label(hdus: fits.HDUList, number: int) -> str:
    """Return the shortest key of an HDU: its name, name and version, or number."""
    hdu = hdus[number]
    name = _name(hdu)
    versions = [other.ver for other in hdus if _name(other) == name]
    if not name or versions.count(hdu.ver) > 1:
        return str(number)
    return name if len(versions) == 1 else f"{name},{hdu.ver}"


def has_celestial(header: fits.Header) -> bool:
    """Return whether a header has axes of celestial longitude and latitude."""
    types = [str(header.get(f"CTYPE{axis}", ""))[:4] for axis in range(1, 10)]
    longitude = any(re.fullmatch(r"RA--|.LON|..LN", kind) for kind in types)
    return longitude and any(re.fullmatch(r"DEC-|.LAT|..LT", kind) for kind in types)


def hdu_of_image(hdus: fits.HDUList, path: Path, key: int | str, image: int) -> int:
    """Return the number of the HDU, such as a mask, that belongs to an image.

    A name without version stands for the HDU of this name with the version (EXTVER) of the
    image, or for the only one if the image is alone as well.

    Raises
    ------
    TileError
        There is no such HDU, or several.
    """
    numbers = _numbers(hdus, path, key)
    if len(numbers) > 1 or not isinstance(key, int):
        own = [number for number in numbers if hdus[number].ver == hdus[image].ver]
        alone = len(numbers) == 1 and sum(hdu.name == hdus[image].name for hdu in hdus) == 1
        explicit = isinstance(key, str) and "," in key
        numbers = numbers if alone or explicit else own
    if len(numbers) != 1:
        raise TileError(
            f"{path}: has {len(numbers)} HDUs {key} for the image {image_label(hdus, image)}; "
            "give one of the same EXTVER"
        )
    return numbers[0]


def groups_of_image(
    hdus: fits.HDUList, path: Path, image: int, group: str | None
) -> tuple[str, ...]:
    """Return the group of an image by each rule: its file, or the value of a keyword.

    Keywords come from the header of the image, or else from the primary header.

    Raises
    ------
    TileError
        There is no such keyword.
    """
    groups = []
    for key, _ in group_rules(group):
        value = hdus[image].header.get(key, hdus[0].header.get(key))
        if key == EXPOSURE:
            value = os.path.abspath(path)
        if value is None:
            raise TileError(f"{path}: has no keyword {key} to group it by; choose another")
        groups.append(str(value))
    return tuple(groups)


def instrument_of_image(
    hdus: fits.HDUList, image: int, several: bool, instrument: str
) -> tuple[str, ...]:
    """Return the values of the keywords that distinguish instruments, empty for a missing one.

    Keywords come from the header of the image, or else from the primary header. By default the
    name of an image counts only in a file with `several`, where it names a chip.
    """
    headers, values = (hdus[image].header, hdus[0].header), []
    for key in instrument_keywords(instrument):
        in_file = several or instrument != "auto" or key not in ("EXTNAME", "EXTVER")
        found = (header[key] for header in headers if key in header) if in_file else iter(())
        values.append(" ".join(str(next(found, "")).split()))
    return tuple(values)


def _numbers(hdus: fits.HDUList, path: Path, key: int | str | tuple[str, int]) -> list[int]:
    """Return the numbers of the HDUs that a key without ``+`` selects."""
    if isinstance(key, tuple):
        key = ",".join(map(str, key))
    if isinstance(key, int):
        return [hdus.index(get_hdu(hdus, path, key))]
    name, *versions = (part.strip() for part in key.split(","))
    if not all(version.isdecimal() for version in versions):
        raise TileError(f"{path}: {key!r} is no HDU; give it like SCI,2 or SCI or 1,4 or all")
    if name.isdecimal():
        chosen = [int(number) for number in (name, *versions)]
        return [hdus.index(get_hdu(hdus, path, number)) for number in chosen]
    named = [number for number, hdu in enumerate(hdus) if hdu.name == name.upper()]
    if not versions:
        chosen = named
    else:
        wanted = [int(version) for version in versions]
        chosen = [n for version in wanted for n in named if hdus[n].ver == version]
    return chosen or [hdus.index(get_hdu(hdus, path, key))]


def _positioned(hdus: fits.HDUList, images: list[int]) -> list[int]:
    """Return the images of the sky with a celestial WCS of their own."""
    return [
        number
        for number in images
        if has_celestial(hdus[number].header)
        and not any(map(AUXILIARY.fullmatch, re.split(r"[\W\d_]+", _name(hdus[number]))))
    ]


def _chips(hdus: fits.HDUList, images: list[int]) -> list[int]:
    """Return the first image with a celestial WCS and all others of its kind.

    These have the same name; or they have no name or a numbered one, places of their own on the
    sky, and similar shapes.
    """
    positioned = _positioned(hdus, images)
    if not positioned:
        return images[:1]
    first = positioned[0]
    names = {number: _name(hdus[number]) for number in positioned}
    if names[first] and Counter(names.values())[names[first]] > 1:
        return [number for number in positioned if names[number] == names[first]]
    chips, centres = [first], [_centre(hdus[first])]
    if _is_unnamed_or_numbered(names[first]):
        for number in positioned[1:]:
            alike = bool(names[number]) == bool(names[first])
            alike &= _is_unnamed_or_numbered(names[number])
            centre = _centre(hdus[number])
            if alike and _similar_shapes(hdus[first], hdus[number]) and _is_new(centre, centres):
                chips.append(number)
                centres.append(centre)
    return chips


def _is_unnamed_or_numbered(name: str) -> bool:
    return not name or any(letter.isdigit() for letter in name)


def _name(hdu: Any) -> str:
    """Return the EXTNAME of an HDU, empty if its file gives none."""
    name = str(hdu.header.get("EXTNAME", "")).strip().upper()
    return "" if name == "COMPRESSED_IMAGE" else name


def _centre(image: Any) -> tuple[np.ndarray, float]:
    """Return the unit vector of an image's centre and its size in radians; NaN if unknown."""
    height, width = image.shape[-2:]
    try:
        with ignore_astropy_warnings():
            wcs = WCS(image.header, naxis=2)
        middle = np.array([width, height]) / 2
        vectors = unit_vectors(np.deg2rad(wcs.wcs_pix2world([middle, [0, 0]], 0)))
    except Exception:  # noqa: BLE001 - wcslib raises a dozen kinds; the tile reports it
        return np.full(3, np.nan), np.nan
    return vectors[0], 2 * float(np.linalg.norm(vectors[1] - vectors[0]))


def _is_new(centre: tuple[np.ndarray, float], others: list[tuple[np.ndarray, float]]) -> bool:
    """Return whether an image lies elsewhere than others; planes of one image lie together."""
    distances = [np.linalg.norm(centre[0] - other) for other, _ in others]
    return not any(distance < SAME_PLACE * centre[1] for distance in distances)


def _similar_shapes(first: Any, second: Any) -> bool:
    """Return whether two images can be chips of one camera."""
    try:
        shapes = (channels_first_shape(image.shape) for image in (first, second))
        return all(max(pair) <= LARGEST_RATIO * min(pair) for pair in zip(*shapes, strict=True))
    except ValueError:
        return False
