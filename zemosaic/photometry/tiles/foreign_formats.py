"""Files other than FITS: their format by the first bytes, and how to make FITS of them."""

from __future__ import annotations

from pathlib import Path

_SOLVE = "and solve the plate"
_RAW = f"a raw frame of a camera; convert it to FITS (Siril, ASTAP, rawpy), debayer {_SOLVE}"
_PICTURE = f"a picture; save the linear data as FITS instead {_SOLVE}"
_TIFF = f"a TIFF image; save it as FITS with linear values {_SOLVE}"

#: Start of a file, offset of the bytes, and the format and the needs of the file.
_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"#ASDF", 0, "an ASDF file; save its image and WCS as FITS (asdf, astropy)"),
    (b"XISF0100", 0, "an XISF file; save it as FITS in PixInsight or Siril"),
    (b"CR", 8, _RAW),  # CR2, with the start of TIFF
    (b"ftypcrx", 4, _RAW),  # CR3
    (b"FUJIFILMCCD-RAW", 0, _RAW),
    (b"HEAPCCDR", 6, _RAW),  # CRW
    (b"FOVb", 0, _RAW),  # X3F
    (b"\0MRM", 0, _RAW),
    (b"IIRO", 0, _RAW),
    (b"IIRS", 0, _RAW),
    (b"MMOR", 0, _RAW),
    (b"IIU\0", 0, _RAW),  # RW2
    (b"II*\0", 0, _TIFF),
    (b"MM\0*", 0, _TIFF),
    (b"II+\0", 0, _TIFF),
    (b"MM\0+", 0, _TIFF),
    (b"\x89PNG", 0, _PICTURE),
    (b"\xff\xd8\xff", 0, _PICTURE),
    (b"GIF8", 0, _PICTURE),
    (b"BM", 0, _PICTURE),
    (b"WEBP", 8, _PICTURE),
    (b"ftyphei", 4, _PICTURE),
    (b"ftypavif", 4, _PICTURE),
    (b"\x89HDF", 0, "an HDF5 file; save its image and WCS as FITS (h5py, astropy)"),
    (b"LUCAM-RECORDER", 0, "a SER video; stack its frames, save the stack as FITS " + _SOLVE),
    (b"8BPS", 0, _PICTURE),
)
#: Suffixes of raw frames that start like TIFF.
_RAW_SUFFIXES = (".nef", ".nrw", ".arw", ".sr2", ".dng", ".pef", ".3fr", ".iiq", ".srw", ".erf")
_LONGEST = 32


def foreign_format(path: Path) -> str:
    """Return the format of a file and how to convert it, in words; empty if it is unknown."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST)
    except OSError:
        return ""
    for signature, offset, words in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            if words is _TIFF and path.suffix.lower() in _RAW_SUFFIXES:
                return _RAW
            if offset == 8 and words is _RAW and start[:2] not in (b"II", b"MM"):
                continue
            return words
    return ""
