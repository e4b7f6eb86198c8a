"""A FITS file with all its tiles corrected."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..._version import __version__
from ...errors import TileError
from ...files import atomic_write
from ..solver.solve import Correction
from ..tiles.axes import channels_first_shape
from ..tiles.blanks import find_blanks
from ..tiles.fits_files import find_image_hdu, ignore_astropy_warnings, open_fits
from ..tiles.sidecars import add_wcs, read_sidecar
from ..tiles.tile import Tile
from .arrays import correct_rows, per_channel
from .companions import Companion, find_companions
from .compression import WRITERS, compress, decompressed, is_compressed
from .keywords import Transform, scale_limits, update_keywords
from .stream import HduChange, write_changed

#: Keyword of each term of a correction, its title, the divisor of its unit, and its factor.
TERM_KEYWORDS = {
    "gain": ("ZEGAIN", "gain", "", "data"),
    "offset": ("ZEOFFS", "offset", "", ""),
    "slope_x": ("ZESLPX", "slope", "/pix", "(x - x0)"),
    "slope_y": ("ZESLPY", "slope", "/pix", "(y - y0)"),
    "curve_xx": ("ZECUXX", "curvature", "/pix2", "(x - x0)**2"),
    "curve_xy": ("ZECUXY", "curvature", "/pix2", "(x - x0) * (y - y0)"),
    "curve_yy": ("ZECUYY", "curvature", "/pix2", "(y - y0)**2"),
    "cubic_xxx": ("ZEXXX", "third order", "/pix3", "(x - x0)**3"),
    "cubic_xxy": ("ZEXXY", "third order", "/pix3", "(x - x0)**2 * (y - y0)"),
    "cubic_xyy": ("ZEXYY", "third order", "/pix3", "(x - x0) * (y - y0)**2"),
    "cubic_yyy": ("ZEYYY", "third order", "/pix3", "(y - y0)**3"),
    "quartic_xxxx": ("ZEXXXX", "fourth order", "/pix4", "(x - x0)**4"),
    "quartic_xxxy": ("ZEXXXY", "fourth order", "/pix4", "(x - x0)**3 * (y - y0)"),
    "quartic_xxyy": ("ZEXXYY", "fourth order", "/pix4", "(x - x0)**2 * (y - y0)**2"),
    "quartic_xyyy": ("ZEXYYY", "fourth order", "/pix4", "(x - x0) * (y - y0)**3"),
    "quartic_yyyy": ("ZEYYYY", "fourth order", "/pix4", "(y - y0)**4"),
}


def write_corrected(
    tiles: Sequence[tuple[Tile, Correction]], folder: Path, name: str = "", run: str = ""
) -> Path:
    """Write a FITS file with all its tiles corrected.

    The images of the tiles become float32. Images of their errors, variances and weights are scaled
    with them, and keywords that depend on the scale or the level of the pixels follow
    (`zemosaic.photometry.apply.keywords`). All else is kept byte by byte. The headers record the
    correction. A file compressed as a whole (``.fits.gz``) stays compressed. It is written
    atomically, in little memory.

    Parameters
    ----------
    tiles : sequence of (Tile, Correction)
        All tiles of one file, each with its correction.
    folder : pathlib.Path
        Created if necessary.
    name : str
        Name of the new file, by default the name of the tiles' file.
    run : str
        Name of the run, for the header.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TileError
        A tile is an array or asinh-compressed, two tiles are the same image, the file would replace
        the tiles' file, or it cannot be read or written.
    """
    path = tiles[0][0].path
    if path is None:
        raise TileError(f"{tiles[0][0].name}: is an array, not a file; use correct()")
    if any(tile.asinh for tile, _ in tiles):
        raise TileError(
            f"{path}: its pixels are asinh-compressed (BSOFTEN), and a correction would not keep "
            "that; convert it to linear values first"
        )
    target = folder / (name or path.name)
    if target.exists() and target.samefile(path):
        raise TileError(f"{path}: would be overwritten; choose another folder for --apply")
    with open_fits(path) as hdus:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_corrected(hdus, path, tiles, target, run)
        except OSError as error:
            reason = error.strerror or error
            raise TileError(
                f"{target}: cannot be written ({reason}); choose another folder"
            ) from None
    return target


def _write_corrected(
    hdus: fits.HDUList,
    path: Path,
    tiles: Sequence[tuple[Tile, Correction]],
    target: Path,
    run: str,
) -> None:
    suffix = target.suffix.lower()
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_write(target))
        plain = temporary
        if is_compressed(hdus) or suffix in WRITERS:
            folder = stack.enter_context(tempfile.TemporaryDirectory(".part", ".", target.parent))
            if is_compressed(hdus):
                plain_source = Path(folder, "source.fits")
                hdus = stack.enter_context(decompressed(hdus, path, plain_source))
            if suffix in WRITERS:
                plain = Path(folder, "corrected.fits")
        write_changed(hdus, path, _changes(hdus, path, tiles, run), plain)
        if suffix in WRITERS:
            compress(plain, temporary, suffix)


def _changes(
    hdus: fits.HDUList, path: Path, tiles: Sequence[tuple[Tile, Correction]], run: str
) -> dict[int, HduChange]:
    """Return the changes of a file, by HDU number."""
    images: dict[int, tuple[Tile, Correction]] = {}
    for tile, correction in tiles:
        index = hdus.index(find_image_hdu(hdus, path, tile.options.hdu))
        if index in images:
            raise TileError(f"{path}: HDU {index} is a tile twice; give it once")
        images[index] = tile, correction
    changes = {index: _change_image(hdus, index, *image, run) for index, image in images.items()}
    keys = (tile.options.mask_hdu for tile, _ in tiles if tile.mask_path is None)
    masks = {key for key in keys if isinstance(key, int)}
    for companion in find_companions(hdus, list(images), masks):
        tile, correction = images[companion.image]
        changes[companion.hdu] = _change_companion(hdus, companion, tile, correction)
    if 0 not in changes:
        header = _change_primary(hdus[0].header.copy(), list(images.values()))
        if header is not None:
            changes[0] = HduChange(header)
    return changes


def _change_image(
    hdus: fits.HDUList, index: int, tile: Tile, correction: Correction, run: str
) -> HduChange:
    blanks = find_blanks(tile)

    def change_strip(strip: np.ndarray, rows: slice) -> np.ndarray:
        changed = strip.astype(np.float32)
        channels = strip[: tile.channels]  # not an alpha channel
        datum = np.isfinite(channels)
        if blanks is not None:
            datum &= ~blanks.mask[rows]
        if tile.alpha:
            datum &= strip[-1] != 0
        corrected = correct_rows(channels, correction, rows, tile.shape)
        np.copyto(changed[: tile.channels], corrected, where=datum)
        return changed

    header = _float_header(hdus, index, np.float32)
    place = None if tile.wcs_path is None else read_sidecar(tile.wcs_path)
    with ignore_astropy_warnings():
        if place is not None:
            add_wcs(header, place)
        _record_correction(header, tile, correction, run)
        update_keywords(header, Transform.of(correction))
    return HduChange(header, change_strip)


def _change_companion(
    hdus: fits.HDUList, companion: Companion, tile: Tile, correction: Correction
) -> HduChange:
    """Return how an image of errors, variances or weights changes."""
    hdu, light = hdus[companion.hdu], correction.illumination
    gain = np.broadcast_to(np.asarray(correction.gain, dtype=np.float64), (tile.channels,))
    count = channels_first_shape(hdu.shape)[0]
    if count != tile.channels:
        if np.ptp(gain) or (light is not None and light.differs_by_channel):
            header = hdu.header.copy()
            header.add_history("zemosaic: is of the uncorrected data, whose channels differ")
            return HduChange(header)
        gain = gain[:1]
    factor = gain**companion.power

    def change_strip(strip: np.ndarray, rows: slice) -> np.ndarray:
        changed = strip * per_channel(factor)
        if light is None:
            return changed
        return changed / light.factor(rows)[: len(factor)] ** companion.power

    kept = np.float64 if hdu.header["BITPIX"] == -64 else np.float32
    header = _float_header(hdus, companion.hdu, kept)
    with ignore_astropy_warnings():
        if light is None and not np.ptp(factor):
            scale_limits(header, float(factor[0]))
        terms = ", ".join(f"{value:.8g}" for value in factor)
        power = f"gain**{companion.power}"
        if light is not None:
            power += f", and by illumination**{-companion.power}"
        header.add_history(f"zemosaic: multiplied by {terms} ({power})")
    return HduChange(header, change_strip)


def _change_primary(
    header: fits.Header, images: Sequence[tuple[Tile, Correction]]
) -> fits.Header | None:
    """Return the primary header above the images; None if it stays.

    It describes all images of the file.
    """
    transforms = {Transform.of(correction) for _, correction in images}
    transform = transforms.pop() if len(transforms) == 1 else Transform(np.nan, np.nan)
    before = header.copy()
    with ignore_astropy_warnings():
        update_keywords(header, transform, images[0][0].unit)
        return header if repr(header) != repr(before) else None


def _float_header(hdus: fits.HDUList, index: int, kind: type[np.floating]) -> fits.Header:
    """Return the header of an image as a plain one of floats.

    A compressed image becomes a plain one, because lossy compression would undo the correction.
    """
    header = hdus[index].header.copy()
    for keyword in ("BLANK", "BSCALE", "BZERO"):
        header.remove(keyword, ignore_missing=True)
    if isinstance(hdus[index], fits.CompImageHDU) and "CHECKSUM" in hdus[0].header:
        header["CHECKSUM"] = header["DATASUM"] = ""  # astropy hides those of the compressed data
    shape = tuple(int(length) for length in hdus[index].shape)
    without_memory = np.broadcast_to(kind(0), shape)
    hdu_type = fits.PrimaryHDU if index == 0 else fits.ImageHDU
    with ignore_astropy_warnings():
        hdu = hdu_type(without_memory, header)
        hdu.verify("silentfix+ignore")
    return hdu.header


def _record_correction(header: fits.Header, tile: Tile, correction: Correction, run: str) -> None:
    """Add a correction to a header, as keywords and as a line of HISTORY per channel."""
    unit, light = tile.unit or "adu", correction.illumination
    if run:
        header["ZERUN"] = (run, "SHA-256 of the run's corrections.ecsv (16 digits)")
    header.add_history(f"zemosaic: corrected by version {__version__}{run and f', run {run}'}")
    if light is not None:
        header["ZEILLUM"] = (light.digest, "F and glow, in the run's illumination.fits")
        header.add_history(
            f"zemosaic: F and glow are those of {light.digest} in the run's illumination.fits"
        )
    for channel in range(tile.channels):
        formula = []
        for name, (keyword, title, divisor, position) in TERM_KEYWORDS.items():
            values = np.broadcast_to(getattr(correction, name), (tile.channels,))
            value = float(values[channel])
            if name not in ("gain", "offset") and not value:
                continue
            of_unit = f"[{unit}{divisor}] " if name != "gain" else ""
            header[f"{keyword}{channel}"] = value, f"{of_unit}intertile {title}, channel {channel}"
            formula.append(f"{value:.8g} * {position}" if position else f"{value:.8g}")
            if name == "offset" and light is not None:
                line = " + ".join(formula).replace("data", "(data - glow)")
                bias = f"{np.broadcast_to(correction.bias, (tile.channels,))[channel]:.8g}"
                formula = [f"({line} - {bias}) / F + {bias}"]
        header.add_history(f"zemosaic: channel {channel} = {' + '.join(formula)}")
