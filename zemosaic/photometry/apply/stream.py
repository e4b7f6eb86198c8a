"""Writing a FITS file of which some HDUs change, strip by strip.

The other HDUs are copied byte by byte, so the memory does not grow with the size of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from ..tiles.axes import channel_axis, channels_first_shape, row_axis, squeeze_shape
from ..tiles.fits_files import ignore_astropy_warnings, name_read_errors, open_hdus
from .arrays import row_strips

#: FITS files consist of blocks of this many bytes.
BLOCK = 2880
#: Bytes copied at once.
CHUNK = 1 << 22

#: Gives the new values of some rows: ``(C, rows, W)`` as in the file, and which rows these are.
StripChange = Callable[[np.ndarray, slice], np.ndarray]


@dataclass(frozen=True)
class HduChange:
    """The new header of an HDU and, unless its data stays, how its pixels change.

    The pixels become floats of the size that the header states.
    """

    header: fits.Header
    change_strip: StripChange | None = None


def write_changed(
    hdus: fits.HDUList, source: Path, changes: Mapping[int, HduChange], target: Path
) -> None:
    """Write a file with some HDUs changed; their checksums, if any, are renewed.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open file, not compressed as a whole.
    source : pathlib.Path
        The name of the open file, for errors.
    changes : Mapping
        The changes by HDU number.
    target : pathlib.Path
        The file to write, not compressed as a whole.

    Raises
    ------
    TileError
        The file cannot be read to its end.
    OSError
        The new one cannot be written.
    """
    with target.open("wb") as out:
        for index, hdu in enumerate(hdus):
            change = changes.get(index)
            if change is None:
                _copy_header(hdu, source, out)
            else:
                out.write(_header_bytes(change.header))
            if change is None or change.change_strip is None:
                _copy_data(hdu, source, out)
            else:
                _write_image(hdu, source, change.change_strip, change.header["BITPIX"], out)
    _renew_checksums(target, changes)


def _header_bytes(header: fits.Header) -> bytes:
    with ignore_astropy_warnings():
        return header.tostring().encode("ascii")


def _copy_header(hdu: Any, source: Path, out: BinaryIO) -> None:
    place = hdu.fileinfo()
    size = place["datLoc"] - place["hdrLoc"]
    _copy(place["file"], source, place["hdrLoc"], size, size, out)


def _copy_data(hdu: Any, source: Path, out: BinaryIO) -> None:
    place = hdu.fileinfo()
    # Some programs leave out the padding of the last block.
    required = min(hdu.size, place["datSpan"])
    _copy(place["file"], source, place["datLoc"], place["datSpan"], required, out)


def _copy(file: Any, source: Path, start: int, size: int, required: int, out: BinaryIO) -> None:
    """Copy bytes of an open file; bytes beyond the required ones may be missing."""
    copied = 0
    with name_read_errors(source):
        file.seek(start)
    while copied < size:
        with name_read_errors(source):
            chunk = file.read(min(CHUNK, size - copied))
            if not chunk and copied < required:
                raise EOFError("it ends too early")
        chunk = chunk or bytes(size - copied)
        out.write(chunk)
        copied += len(chunk)


def _write_image(
    hdu: Any, source: Path, change_strip: StripChange, bitpix: int, out: BinaryIO
) -> None:
    """Write the changed pixels of an image, channel by channel of each strip."""
    shape = tuple(int(length) for length in hdu.shape)
    dtype = np.dtype(f">f{-bitpix // 8}")
    axis, start = row_axis(shape), out.tell()
    row_pixels, height = prod(shape[axis + 1 :]), shape[axis]
    for rows, strip in _read_strips(hdu, source, shape):
        changed = change_strip(strip, rows)
        planes = np.moveaxis(changed, 0, -1)[None] if _channels_last(shape) else changed
        for number, plane in enumerate(planes):
            out.seek(start + (number * height + rows.start) * row_pixels * dtype.itemsize)
            with np.errstate(over="ignore"):
                out.write(plane.astype(dtype, order="C").data)
    out.seek(start + prod(shape) * dtype.itemsize)
    out.write(bytes(-out.tell() % BLOCK))


def _read_strips(
    hdu: Any, source: Path, shape: tuple[int, ...]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows and the values of each strip, ``(C, rows, W)`` of any type."""
    channels, height, width = channels_first_shape(shape)
    axis, pixels_per_row = row_axis(shape), channels * width
    # A compressed image is decompressed by tiles, which a section must not divide.
    tile_rows = int(hdu.tile_shape[axis]) if isinstance(hdu, fits.CompImageHDU) else 1
    for section in row_strips(height, pixels_per_row, tile_rows):
        with name_read_errors(source):
            raw = hdu.section[(*(slice(None),) * axis, section)]
        if _channels_last(shape):
            raw = np.moveaxis(raw.reshape(-1, width, channels), 2, 0)
        else:
            raw = raw.reshape(channels, -1, width)
        for rows in row_strips(raw.shape[1], pixels_per_row):
            yield slice(section.start + rows.start, section.start + rows.stop), raw[:, rows]


def _channels_last(shape: tuple[int, ...]) -> bool:
    return channel_axis(squeeze_shape(shape)) == 2


def _renew_checksums(path: Path, indices: Collection[int]) -> None:
    """Replace the checksums in the headers of some HDUs, without the time of day."""
    headers = {}
    with open_hdus(path, disable_image_compression=True) as hdus, ignore_astropy_warnings():
        for index in indices:
            hdu, comment = hdus[index], "updated by zemosaic"
            if "CHECKSUM" in hdu.header:
                hdu.add_checksum(comment)
            elif "DATASUM" in hdu.header:
                hdu.add_datasum(comment)
            else:
                continue
            headers[hdu.fileinfo()["hdrLoc"]] = hdu.header.tostring().encode("ascii")
    if headers:
        with path.open("r+b") as out:
            for position, header in headers.items():
                out.seek(position)
                out.write(header)
