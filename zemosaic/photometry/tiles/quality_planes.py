"""The places of the mask and the weights of an image: its own file, or a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from astropy.io import fits

from ...errors import TileError
from .axes import channels_first_shape
from .file_options import FileOptions
from .fits_files import is_image, open_fits
from .images import hdu_of_image
from .quality_flags import ignored_flags, is_of_jwst
from .sidecars import companion

DQ = "DQ"
#: Names of HDUs with weights or coverage, which are 0 where a mask is not.
WEIGHTS = ("ALPHA", "WHT", "WEIGHT", "WMAP", "COVERAGE", "COV", "IVAR", "INVVAR")


class PlacedPlane(NamedTuple):
    """A plane: the number of its HDU, None without one, and its file if it has one of its own."""

    hdu: int | None = None
    path: Path | None = None


def find_quality(
    hdus: fits.HDUList, path: Path, image: int, options: FileOptions
) -> tuple[PlacedPlane, PlacedPlane, int]:
    """Find the mask and the weights of an image.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open file of the image.
    path : pathlib.Path
        Its path.
    image : int
        Number of the image's HDU.
    options : FileOptions
        How the file is read.

    Returns
    -------
    mask, weight : PlacedPlane
        Where they are.
    ignored : int
        Flags of the mask that leave a pixel good.

    Raises
    ------
    TileError
        A plane is missing, is no image or has another shape, or a flag is unknown.
    """
    weight, _ = _find_plane(hdus, path, image, options.weight, options.weight_hdu, "weight")
    key = options.mask_hdu
    if key == FileOptions.NO_MASK:
        return PlacedPlane(), weight, 0
    own_dq = key is None and options.mask is None and _has_dq(hdus, image)
    key = DQ if own_dq else key
    if isinstance(key, str) and key.upper() in WEIGHTS and options.mask is None:
        raise TileError(
            f"{path}: HDU {key} holds weights, which are 0 where pixels are bad; give it with "
            "--weight-hdu"
        )
    mask, header = _find_plane(hdus, path, image, options.mask, key, "mask")
    if header is None:
        return mask, weight, 0
    is_dq = own_dq or (isinstance(key, str) and key.upper().partition(",")[0] == DQ)
    bits = options.mask_bits
    return mask, weight, ignored_flags(str(path), header, hdus[0].header, bits, is_dq)


def _has_dq(hdus: fits.HDUList, image: int) -> bool:
    """Return whether an image of HST, JWST or Roman has data quality of its own."""
    own, primary = hdus[image], hdus[0].header
    return any(
        is_image(hdu)
        and (hdu.name, hdu.ver, hdu.shape) == (DQ, own.ver, own.shape)
        and (primary.get("TELESCOP") == "HST" or is_of_jwst(hdu.header, primary))
        for hdu in hdus
    )


def _find_plane(
    hdus: fits.HDUList, path: Path, image: int, pattern: str | None, key: int | str | None,
    kind: str,
) -> tuple[PlacedPlane, fits.Header | None]:  # fmt: skip
    """Return the place of a plane, and its header; None if neither pattern nor key is given."""
    if pattern is None:
        if key is None:
            return PlacedPlane(), None
        number = hdu_of_image(hdus, path, key, image)
        _check_plane(path, hdus[number], hdus[image], key, kind)
        return PlacedPlane(number), hdus[number].header
    beside = companion(path, pattern)
    if not beside.is_file():
        raise TileError(f"{path}: has no {kind} file {beside.name}; make one, or omit --{kind}")
    with open_fits(beside) as own:
        number = _image_like(own, image) if key is None else hdu_of_image(own, beside, key, 0)
        _check_plane(beside, own[number], hdus[image], number, kind)
        return PlacedPlane(number, beside), own[number].header.copy()


def _image_like(hdus: fits.HDUList, image: int) -> int:
    """Return the HDU with the number of the image, or the first image of the file."""
    images = [number for number, hdu in enumerate(hdus) if is_image(hdu)]
    return image if image in images or not images else images[0]


def _check_plane(path: Path, plane: Any, image: Any, key: int | str, kind: str) -> None:
    option = f"--{kind}-hdu"
    if not is_image(plane):
        raise TileError(f"{path}: HDU {key} holds no {kind}; choose another with {option}")
    try:
        channels, *shape = channels_first_shape(plane.shape)
    except ValueError:
        channels, shape = 0, []
    expected, *image_shape = channels_first_shape(image.shape)
    if shape != image_shape or channels not in (1, expected, expected - 1):
        raise TileError(
            f"{path}: its {kind} has the shape {plane.shape}, the image {tuple(image_shape)}; "
            f"give a {kind} of the image's shape with {option}"
        )
