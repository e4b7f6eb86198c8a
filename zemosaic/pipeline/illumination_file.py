"""illumination.fits in a run folder: illumination and glow of each instrument.

For instrument k it has the images ``FLATk``, F in C channels, and ``FLATERRk``; with a glow also
``GLOWk`` and ``GLOWERRk``; with fine structure of ln F or of the glow ``FINEk`` and ``FINEERRk``,
the coefficients of a cosine series in C channels and its errors; and the tables ``TERMSk``, the
Legendre coefficients with their covariances, and ``TILESk``, the indices of the tiles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from .._version import __version__
from ..files import atomic_write
from ..photometry.cosine_series import CosineSeries
from ..photometry.illumination import TERMS, FineStructure, Illumination, detector_coordinate
from .solution import PhaseSolution

__all__ = ["Illumination", "read_illuminations", "write_illuminations"]

#: Longest side of an image, which shows F; the tables and the series have all of it.
LONGEST = 128


def write_illuminations(solution: PhaseSolution, path: Path, run: str) -> None:
    """Write illumination and glow of the instruments; without any, remove the file.

    Parameters
    ----------
    solution : PhaseSolution
        The solution.
    path : pathlib.Path
        Replaced only when it is complete.
    run : str
        Name of the run, for the header.
    """
    if not solution.illuminations:
        path.unlink(missing_ok=True)
        return
    primary = fits.PrimaryHDU()
    primary.header["ZERUN"] = (run, "of the SHA-256 of corrections.ecsv")
    primary.header["CREATOR"] = f"zemosaic {__version__}"
    hdus = fits.HDUList([primary])
    for number, light in enumerate(solution.illuminations, 1):
        hdus += _images(light, number, solution.unit)
        hdus += _fine(light, number)
        hdus += _tables(light, number, solution.unit)
    with atomic_write(path) as temporary:
        hdus.writeto(temporary, overwrite=True)


def read_illuminations(path: Path) -> list[Illumination]:
    """Read the illuminations from a file of `write_illuminations`; none without a file."""
    illuminations: list[Illumination] = []
    if not path.exists():
        return illuminations
    with fits.open(path, memmap=False) as hdus:
        names = {hdu.name for hdu in hdus}
        while f"TERMS{len(illuminations) + 1}" in names:
            number = len(illuminations) + 1
            terms, header = Table(hdus[f"TERMS{number}"].data), hdus[f"TERMS{number}"].header
            log_flat, glow, log_flat_cov, glow_cov = (
                np.array(terms[name], dtype=np.float64).swapaxes(0, 1)
                for name in ("log_flat", "glow", "log_flat_cov", "glow_cov")
            )
            tiles = np.array(hdus[f"TILES{number}"].data["tile"], dtype=np.int64)
            shape = header["HEIGHT"], header["WIDTH"]
            fine = None
            if f"FINE{number}" in names:
                parts = (hdus[f"{name}{number}"].data for name in ("FINE", "FINEERR"))
                series = CosineSeries(*(np.array(part, dtype=np.float64) for part in parts))
                fine = FineStructure(hdus[f"FINE{number}"].header["ZEKIND"], series)
            illuminations.append(
                Illumination(
                    header["INSTRUME"], tiles, shape, log_flat, glow, log_flat_cov, glow_cov, fine
                )
            )
    return illuminations


def _images(light: Illumination, number: int, unit: str) -> list[fits.ImageHDU]:
    scale = max(1.0, max(light.shape) / LONGEST)
    shape = [max(1, round(length / scale)) for length in light.shape]
    y, x = (
        detector_coordinate((np.arange(cells) + 0.5) * length / cells - 0.5, length)
        for cells, length in zip(shape, light.shape, strict=True)
    )
    images = dict(zip(("FLAT", "GLOW"), light.on_grid(x, y), strict=True))
    images |= dict(zip(("FLATERR", "GLOWERR"), light.errors_on_grid(x, y), strict=True))
    kinds = ["FLAT", "FLATERR", *(["GLOW", "GLOWERR"] if light.has_glow else [])]
    hdus = []
    for kind in kinds:
        hdu = fits.ImageHDU(images[kind].astype(np.float32), name=f"{kind}{number}")
        hdu.header["BUNIT"] = (unit or "adu") if kind.startswith("GLOW") else ""
        for axis, cells, length in zip((1, 2), shape[::-1], light.shape[::-1], strict=True):
            hdu.header[f"CTYPE{axis}"] = ("XY"[axis - 1], "pixel of the tile, the first is 1")
            hdu.header[f"CRPIX{axis}"] = hdu.header[f"CRVAL{axis}"] = 0.5
            hdu.header[f"CDELT{axis}"] = length / cells
        _describe(hdu.header, light)
        hdus.append(hdu)
    return hdus


def _fine(light: Illumination, number: int) -> list[fits.ImageHDU]:
    if light.fine is None:
        return []
    parts = {"FINE": light.fine.series.coefficients, "FINEERR": light.fine.series.errors}
    hdus = [fits.ImageHDU(part, name=f"{name}{number}") for name, part in parts.items()]
    for hdu in hdus:
        hdu.header["ZEKIND"] = (light.fine.kind, "of which it is the structure")
        _describe(hdu.header, light)
    return hdus


def _tables(light: Illumination, number: int, unit: str) -> list[fits.BinTableHDU]:
    columns = {"degree_x": TERMS[:, 0], "degree_y": TERMS[:, 1]}
    columns |= {
        name: getattr(light, name).swapaxes(0, 1)
        for name in ("log_flat", "glow", "log_flat_cov", "glow_cov")
    }
    terms = fits.BinTableHDU(Table(columns), name=f"TERMS{number}")
    tiles = fits.BinTableHDU(Table({"tile": light.tiles}), name=f"TILES{number}")
    terms.header["GLOWUNIT"] = unit or "adu"
    for hdu in (terms, tiles):
        _describe(hdu.header, light)
    return [terms, tiles]


def _describe(header: fits.Header, light: Illumination) -> None:
    name = light.name.encode("ascii", "backslashreplace").decode()
    header["INSTRUME"] = "".join(letter if letter.isprintable() else "?" for letter in name)
    header["HEIGHT"], header["WIDTH"] = light.shape
    header["NTILES"] = (len(light.tiles), "tiles that share it")
    header["ZEILLUM"] = (light.digest, "of the SHA-256 of the coefficients")
