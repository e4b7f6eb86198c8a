"""Files that are no plain linear images: other formats, Bayer frames, asinh stacks, duplicates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic.errors import UserError
from zemosaic.photometry.tiles.fits_files import TileError
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.settings import Settings

Command = Callable[..., Run]
WriteTiles = Callable[..., list[Path]]

RAW = "is a raw frame of a camera; convert it to FITS"
FORMATS = {
    "a.asdf": (b"#ASDF 1.0.0\n", "is an ASDF file; save its image and WCS as FITS"),
    "a.xisf": (b"XISF0100\x00\x10\x00\x00", "is an XISF file; save it as FITS in PixInsight or"),
    "a.tif": (b"II*\x00\x08\x00\x00\x00\x10\x00", "is a TIFF image; save it as FITS"),
    "b.tif": (b"MM\x00*\x00\x00\x00\x08", "is a TIFF image; save it as FITS"),
    "a.cr2": (b"II*\x00\x10\x00\x00\x00CR\x02\x00", RAW),
    "a.cr3": (b"\x00\x00\x00\x18ftypcrx \x00", RAW),
    "a.NEF": (b"MM\x00*\x00\x00\x00\x08", RAW),
    "a.arw": (b"II*\x00\x08\x00\x00\x00", RAW),
    "a.dng": (b"II*\x00\x08\x00\x00\x00", RAW),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", RAW),
    "a.png": (b"\x89PNG\r\n\x1a\n", "is a picture; save the linear data as FITS instead"),
    "a.jpg": (b"\xff\xd8\xff\xe0", "is a picture; save the linear data as FITS instead"),
    "a.fits": (b"no FITS", "cannot be read as FITS"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_are_named_with_their_remedy(name: str, tmp_path: Path) -> None:
    """Whatever its suffix, a file of another format gets one line with the way to FITS."""
    start, words = FORMATS[name]
    (tmp_path / name).write_bytes(start + bytes(5000))
    with pytest.raises(TileError, match=words) as caught:
        open_tile(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_same_file_twice_is_refused(
    intertile: Command, write_tiles: WriteTiles, tmp_path: Path
) -> None:
    """A file given twice, also under another path, is a usage error before any work."""
    files = write_tiles()
    again = files[0].parent / ".." / files[0].parent.name / files[0].name
    result = intertile(*files, again)
    assert result.code == 2
    assert result.err == f"zemosaic: {again}: is given twice; give each tile once\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="is given twice"):
        calibrate([*files, files[0]], Settings(workers=1), "serial", [])


@pytest.mark.parametrize(
    ("keyword", "value", "noted"),
    [
        ("BAYERPAT", "RGGB", True),
        ("HIERARCH BAYERPATTERN", "gbrg", True),
        ("COLORTYP", "Bayer BGGR", True),
        ("BAYERPAT", "NONE", False),
        ("COLORTYP", "GRAY", False),
    ],
)
def test_undebayered_frames_are_noted(
    keyword: str, value: str, noted: bool, intertile: Command, write_tiles: WriteTiles
) -> None:
    """One line for all frames with a colour filter pattern; they are solved nevertheless."""
    files = write_tiles()
    for file in files:
        fits.setval(file, keyword, value=value)
    result = intertile(*files)
    assert result.code == 0
    assert result.err.count("are undebayered") == noted


def test_debayered_frames_are_not_noted(intertile: Command, write_tiles: WriteTiles) -> None:
    """A colour image keeps the keyword of its raw frame without a note."""
    files = write_tiles(rgb=True)
    for file in files:
        fits.setval(file, "BAYERPAT", value="RGGB")
    assert "undebayered" not in intertile(*files).err


ALPHA = 1.0857362  # as published


def compress(path: Path) -> None:
    """Store a tile like a Pan-STARRS stack: asinh of its values, as scaled 16-bit integers."""
    data, header = fits.getdata(path, header=True)
    offset, softening = float(np.mean(data)), float(np.sqrt(ALPHA) * np.std(data))
    stored = ALPHA * np.arcsinh((data.astype(float) - offset) / (2 * softening))
    header.update(BOFFSET=offset, BSOFTEN=softening)
    hdu = fits.PrimaryHDU(stored, header)
    hdu.scale(
        "int16",
        bscale=np.ptp(stored) / 60000,
        bzero=float(np.mean([*map(float, (stored.min(), stored.max()))])),
    )
    hdu.writeto(path, overwrite=True)


def test_asinh_stacks_are_linearized(
    intertile: Command, write_tiles: WriteTiles, tmp_path: Path
) -> None:
    """Compressed tiles give the gains of linear ones, and are not written corrected."""
    files = write_tiles()
    expected = [tile.gain[0] for tile in simulated()]
    for file in files:
        compress(file)
    assert open_tile(files[0]).pixels()[0] == pytest.approx(simulated()[0].data, rel=2e-3)
    result = intertile(*files)
    assert result.code == 0
    gain = Table.read(tmp_path / "run" / "corrections.ecsv", format="ascii.ecsv")["gain"]
    ratio = np.array(gain) / expected
    assert ratio / ratio[0] == pytest.approx(1, abs=2e-3)
    result = intertile(*files, "--apply", tmp_path / "out")
    assert result.code == 1
    assert "asinh-compressed (BSOFTEN)" in result.err
    assert not list((tmp_path / "out").glob("*.fits"))


def test_half_of_an_asinh_header_is_refused(write_tiles: WriteTiles) -> None:
    """BSOFTEN without BOFFSET leaves the pixels unknown."""
    file = write_tiles()[0]
    fits.setval(file, "BSOFTEN", value=12.0)
    with pytest.raises(TileError, match="BOFFSET and BSOFTEN are not both numbers"):
        open_tile(file)


def test_small_overlaps_are_the_reason_for_no_planes(
    intertile: Command, write_tiles: WriteTiles
) -> None:
    """Where no overlap is large enough for a plane, the model line gives that as the reason."""
    result = intertile(*write_tiles(shape=(64, 64), overlap=0.12, stars=2e-2, tiles=2))
    assert "overlaps too small to tell" in result.out


def test_a_model_without_a_measured_overlap_has_no_sizes(
    intertile: Command, write_tiles: WriteTiles
) -> None:
    """Where no overlap is measured, the model line gives no size of any term."""
    result = intertile(*write_tiles(shape=(64, 64), overlap=0.06, stars=2e-2, tiles=2))
    assert "auto: no overlap measured" in result.out
