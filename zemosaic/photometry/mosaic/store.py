"""The file of a mosaic, written block by block by several processes.

The blocks go to their places in an unfinished file beside the output, which becomes the output when
it is complete. The unfinished file stays if the run dies, and another run can go on with it.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from ...errors import UserError
from ...files import NAME_END, atomic_write
from ..apply.compression import WRITERS, compress
from .canvas import Box, Canvas
from .combine import Coadd

BLOCK = 2880
#: A compressed mosaic has 16 steps in each standard deviation of the noise, dithered.
QUANTIZATION = {"quantize_level": 16.0, "quantize_method": 2, "dither_seed": 1}


@dataclass(frozen=True)
class Plane:
    """A plane of pixels in a file: the place of its first byte, and its type."""

    start: int
    dtype: str


@dataclass(frozen=True)
class MosaicFile:
    """The unfinished file of a mosaic.

    Parameters
    ----------
    output : pathlib.Path
        The file that it becomes.
    shape : tuple of int
        Height and width.
    planes : tuple of Plane
        Data and errors of all channels, and the coverage.
    """

    output: Path
    shape: tuple[int, int]
    planes: tuple[Plane, ...] = ()

    @property
    def path(self) -> Path:
        """The unfinished file, of which there is one for each output."""
        return unfinished(self.output)

    def write(self, box: Box, coadd: Coadd) -> int:
        """Write a block to its place, and return its checksum.

        Raises
        ------
        UserError
            The disk is full, or the file is gone.
        """
        layers = [*coadd.data, *coadd.error, coadd.coverage]
        checksum = 0
        with name_write_errors(self.output), self.path.open("r+b", buffering=0) as file:
            for plane, layer in zip(self.planes, layers, strict=True):
                pixels = np.ascontiguousarray(layer, dtype=plane.dtype)
                checksum = zlib.crc32(pixels.data, checksum)
                for start, row in zip(self._row_places(plane, box), pixels, strict=True):
                    file.seek(start)
                    _write_all(file, row.data.cast("B"))
        return checksum

    def checksum(self, box: Box) -> int:
        """Return the checksum of a block in the file; it differs if the file is too short."""
        checksum = 0
        with self.path.open("rb", buffering=0) as file:
            for plane in self.planes:
                size = box.shape[1] * np.dtype(plane.dtype).itemsize
                for start in self._row_places(plane, box):
                    file.seek(start)
                    checksum = zlib.crc32(file.read(size), checksum)
        return checksum

    def _row_places(self, plane: Plane, box: Box) -> Iterator[int]:
        size = np.dtype(plane.dtype).itemsize
        for y in range(box.y0, box.y1):
            yield plane.start + (y * self.shape[1] + box.x0) * size


def unfinished(output: Path) -> Path:
    """Return the path of the unfinished file of an output."""
    return output.with_name(f".unfinished.{output.name[-NAME_END:]}")


def create(
    output: Path, canvas: Canvas, header: fits.Header, channels: int, table: fits.BinTableHDU
) -> MosaicFile:
    """Create the unfinished file, or bring its headers up to date if it exists.

    Parameters
    ----------
    output : pathlib.Path
        The file that it becomes.
    canvas : Canvas
        The canvas.
    header : astropy.io.fits.Header
        Header of the mosaic.
    channels : int
        Number of channels.
    table : astropy.io.fits.BinTableHDU
        The last HDU.

    Raises
    ------
    UserError
        The file cannot be written, or the disk has not enough space.
    """
    cube = canvas.shape if channels == 1 else (channels, *canvas.shape)
    place = fits.Header.fromstring(canvas.header)
    with_unit = place.copy()
    if "BUNIT" in header:
        with_unit["BUNIT"] = header["BUNIT"]
    hdus = [
        (fits.PrimaryHDU, "", ">f4", cube, header),
        (fits.ImageHDU, "ERROR", ">f4", cube, with_unit),
        (fits.ImageHDU, "COVERAGE", ">i2", canvas.shape, place),
    ]
    planes, parts, end = [], [], 0
    for kind, name, dtype, shape, cards in hdus:
        hdu = kind(np.broadcast_to(np.zeros((), dtype), shape), cards)
        if name:
            hdu.name = name
        else:
            hdu.header["EXTEND"] = True
        parts.append((end, hdu.header.tostring().encode("ascii")))
        start = end + len(parts[-1][1])
        size = math.prod(canvas.shape) * np.dtype(dtype).itemsize
        end = start + math.prod(shape[:-2]) * size
        planes += [Plane(place, dtype) for place in range(start, end, size)]
        end += -end % BLOCK
    tail = _bytes_of(table)
    file = MosaicFile(output, canvas.shape, tuple(planes))
    _require_space(file, end + len(tail))
    with name_write_errors(output):
        descriptor = os.open(file.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "r+b") as raw:
            for start, text in [*parts, (end, tail)]:
                raw.seek(start)
                raw.write(text)
            raw.truncate(end + len(tail))
            if hasattr(os, "posix_fallocate"):  # a disk that becomes full must not stop it midway
                raw.flush()
                os.posix_fallocate(raw.fileno(), 0, end + len(tail))
    return file


def finish(file: MosaicFile) -> None:
    """Make a complete file the output, compressed as its name says.

    Raises
    ------
    UserError
        The output cannot be written.
    """
    output = file.output
    with name_write_errors(output):
        suffix = output.suffix.lower()
        if suffix not in WRITERS and suffix != ".fz":
            os.replace(file.path, output)
            return
        with atomic_write(output) as temporary:
            if suffix == ".fz":
                _compress_images(file.path, temporary)
            else:
                compress(file.path, temporary, suffix)
        file.path.unlink()


def _compress_images(path: Path, target: Path) -> None:
    """Write the images of a file compressed; floats are quantized in small steps of their noise."""
    with fits.open(path, memmap=True) as plain, fits.open(target, mode="append") as hdus:
        hdus.append(fits.PrimaryHDU())
        for hdu in plain:
            if isinstance(hdu, fits.BinTableHDU):
                hdus.append(hdu.copy())
                continue
            options = QUANTIZATION if hdu.data.dtype.kind == "f" else {}
            name = hdu.name or "MOSAIC"
            hdus.append(fits.CompImageHDU(hdu.data, hdu.header, name, "RICE_1", **options))
            hdus.flush()


def _require_space(file: MosaicFile, size: int) -> None:
    try:
        own = file.path.stat().st_size if file.path.exists() else 0
        free = shutil.disk_usage(file.output.parent).free
    except OSError:  # the error comes with its name when the file is written
        return
    if size - own > free:
        raise UserError(
            f"{file.output}: needs {size / 1e9:.3g} GB, and its disk has {free / 1e9:.3g} GB free; "
            "make room there, or choose another place"
        )


@contextmanager
def name_write_errors(output: Path) -> Iterator[None]:
    """Raise errors of the disk as a one-line `UserError` with the name of the output."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or error}); make room there or choose "
            "another place, and --resume"
        ) from None


def _write_all(file: BinaryIO, data: memoryview) -> None:
    """Write all bytes of a row; an unbuffered file may take fewer at once."""
    while len(data):
        data = data[file.write(data) :]


def _bytes_of(table: fits.BinTableHDU) -> bytes:
    memory = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(memory)
    return memory.getvalue()[BLOCK:]
