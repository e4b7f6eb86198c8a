"""Files beside an image that hold its WCS, as astrometry.net and ASTAP write them."""

from __future__ import annotations

import re
from pathlib import Path

from astropy.io import fits

from ...errors import TileError
from .fits_files import ignore_astropy_warnings

#: Endings of FITS files, removed for the stem of a name.
ENDINGS = re.compile(r"\.(fits|fit|fts)?(\.(gz|bz2|fz|xz|Z))?$", re.IGNORECASE)
#: Cards that describe a file, not a WCS.
OF_FILE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|[PG]COUNT|B(SCALE|ZERO|UNIT)|BLANK|DATE|"
    r"CHECKSUM|DATASUM|COMMENT|HISTORY|END|"
)
LARGEST_HEADER = 1 << 22  # bytes; a larger file is no header


def companion(path: Path, pattern: str) -> Path:
    """Return the path of a file that belongs to an image.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    pattern : str
        Path relative to the folder of the image. ``{stem}`` stands for its name without ending
        (``.fits``, ``.fit.gz``), ``{name}`` for all of its name.
    """
    stem = ENDINGS.sub("", path.name)
    return path.parent / pattern.replace("{stem}", stem).replace("{name}", path.name)


def read_sidecar(path: Path) -> fits.Header:
    """Return the header in a FITS file without data, or in a text file with one card per line.

    Raises
    ------
    TileError
        The file holds no header.
    """
    try:
        content = path.read_bytes()[:LARGEST_HEADER]
        with ignore_astropy_warnings():
            if b"\n" in content[:2880]:
                text = content.decode("ascii", "replace").replace("\ufffd", "?")
                return fits.Header.fromstring("\n".join(text.splitlines()), sep="\n")
            return fits.Header.fromfile(str(path), padding=False)
    except Exception as error:  # noqa: BLE001 - astropy raises several kinds
        reason = " ".join(str(error).split())
        raise TileError(
            f"{path}: cannot be read as a FITS header ({reason}); solve the plate again"
        ) from None


def require_same_size(path: Path, header: fits.Header, shape: tuple[int, int]) -> None:
    """Raise `TileError` if a plate solution is of an image with another size."""
    for width, height in (("IMAGEW", "IMAGEH"), ("NAXIS1", "NAXIS2")):
        size = header.get(height), header.get(width)
        if None not in size and size != shape:
            raise TileError(
                f"{path}: is the WCS of an image of {size[1]} x {size[0]} pixels, not "
                f"{shape[1]} x {shape[0]}; solve the plate again"
            )


def add_wcs(header: fits.Header, solution: fits.Header) -> None:
    """Add the cards of a plate solution to the header of its image, in which they replace others.

    Cards that describe the file of the solution are left out.
    """
    header.update([card for card in solution.cards if not OF_FILE.fullmatch(card.keyword)])
