"""Files compressed as a whole: ``.fits.gz``, ``.fits.bz2`` and ``.fits.xz``."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from astropy.io import fits

from ..tiles.fits_files import name_read_errors, open_hdus

#: Bytes copied at once.
CHUNK = 1 << 22


def _gzip_writer(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)


#: Compressing writers by suffix; none writes a name or the time, so equal input gives equal bytes.
WRITERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": _gzip_writer,
    ".bz2": partial(bz2.BZ2File, mode="wb"),
    ".xz": partial(lzma.LZMAFile, mode="wb"),
}


def is_compressed(hdus: fits.HDUList) -> bool:
    """Return whether an open file is compressed as a whole."""
    return hdus[0].fileinfo()["file"].compression is not None


@contextmanager
def decompressed(hdus: fits.HDUList, source: Path, path: Path) -> Iterator[fits.HDUList]:
    """Decompress an open file to a path, and open it there; errors name `source`."""
    file = hdus[0].fileinfo()["file"]
    with name_read_errors(source):
        file.seek(0)
    with path.open("wb") as out:
        chunk = b"start"
        while chunk:
            with name_read_errors(source):
                chunk = file.read(CHUNK)
            out.write(chunk)
    with open_hdus(path) as plain:
        yield plain


def compress(path: Path, target: Path, suffix: str) -> None:
    """Compress a file to `target` as the suffix says."""
    with path.open("rb") as plain, target.open("wb") as raw, WRITERS[suffix](raw) as out:
        shutil.copyfileobj(plain, out, CHUNK)
