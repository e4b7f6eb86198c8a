"""The WCS of an image from a file beside it, as astrometry.net and ASTAP write it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers.tiles import simulated
from zemosaic import Settings, TileError, calibrate, open_tile
from zemosaic.cli import run as run_command
from zemosaic.photometry.apply import write_corrected
from zemosaic.photometry.solver.solve import Correction


def astrometry(header: fits.Header) -> bytes:
    """Return a FITS file without data."""
    return fits.PrimaryHDU(header=header).header.tostring().encode()


def astap(header: fits.Header, end: str = "\r\n") -> bytes:
    """Return a text of one card per line, without trailing blanks."""
    cards = fits.PrimaryHDU(header=header).header.cards
    return end.join([*(card.image.rstrip() for card in cards), "END", ""]).encode()


WRITERS = {"astrometry.net": astrometry, "ASTAP": astap, "Unix text": lambda h: astap(h, "\n")}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return tiles without a WCS."""
    paths = []
    for number, tile in enumerate(simulated()):
        paths.append(tmp_path / f"panel {number}.fit")
        fits.writeto(paths[-1], tile.data)
    return paths


@pytest.fixture
def header() -> fits.Header:
    """Return the WCS of the first tile, with distortions and the size of the image."""
    result = simulated(sip=True)[0].wcs.to_header(relax=True)
    result["IMAGEW"], result["IMAGEH"] = 128, 96
    return result


def test_a_comment_that_is_not_ascii_is_harmless(files: list[Path], header: fits.Header) -> None:
    """Programs write degrees and names of places into their comments."""
    text = astap(header).replace(b"IMAGEW  =                  128", b"IMAGEW  = 128 / 2\xb0 \xe9")
    files[0].with_suffix(".wcs").write_bytes(text)
    assert open_tile(files[0]).wcs_path is not None


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_wcs_is_read_from_a_file_beside_the_image(
    write: Callable[[fits.Header], bytes], files: list[Path], header: fits.Header
) -> None:
    """The tile lies where it does with the WCS in its own header."""
    inside = files[1].with_name("inside.fits")
    fits.writeto(inside, simulated()[0].data, header)
    files[0].with_suffix(".wcs").write_bytes(write(header))
    tile, expected = open_tile(files[0]), open_tile(inside)
    assert tile.wcs_path == files[0].with_suffix(".wcs")
    np.testing.assert_array_equal(tile.corners, expected.corners)
    assert (tile.wcs.sip is None) == (expected.wcs.sip is None) is False


@pytest.mark.parametrize("name", ["m31.fits", "m31.fits.gz", "m31.FIT", "m31.fts", "m31.fits.fz"])
def test_the_pattern_names_the_file(name: str, tmp_path: Path, header: fits.Header) -> None:
    """The stem lacks all endings of FITS files; the pattern is relative to the image."""
    path, solved = tmp_path / name, tmp_path / "solved"
    solved.mkdir()
    fits.PrimaryHDU(simulated()[0].data).writeto(path)
    for pattern, wcs_path in (
        ("{stem}.wcs", tmp_path / "m31.wcs"),
        ("solved/{name}.wcs", solved / f"{name}.wcs"),
    ):
        wcs_path.write_bytes(astrometry(header))
        assert open_tile(path, wcs=pattern).wcs_path == wcs_path


def test_the_wcs_of_the_image_itself_counts(files: list[Path], header: fits.Header) -> None:
    """A file beside an image with a WCS of its own is not read."""
    fits.writeto(files[0], simulated()[0].data, header, overwrite=True)
    files[0].with_suffix(".wcs").write_text("anything")
    assert open_tile(files[0]).wcs_path is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"anything\n", r"panel 0\.wcs: (cannot be read as a FITS header|has no celestial WCS)"),
        (b"", r"panel 0\.wcs: cannot be read as a FITS header"),
        (b"SIMPLE  =                    T\nEND\n", r"panel 0\.wcs: has no celestial WCS"),
        (None, r"panel 0\.fit: has no celestial WCS; solve the plate first"),
    ],
)
def test_a_useless_file_is_named(content: bytes | None, message: str, files: list[Path]) -> None:
    """The error is one line that names the file of the WCS."""
    if content is not None:
        files[0].with_suffix(".wcs").write_bytes(content)
    with pytest.raises(TileError, match=message) as caught:
        open_tile(files[0])
    assert "\n" not in str(caught.value)


def test_a_solution_of_another_image_is_refused(files: list[Path], header: fits.Header) -> None:
    """The size of the solved image has to be that of the tile."""
    header["IMAGEW"] = 256
    files[0].with_suffix(".wcs").write_bytes(astrometry(header))
    with pytest.raises(TileError, match="of an image of 256 x 96 pixels, not 128 x 96; solve"):
        open_tile(files[0])


def test_tiles_with_solutions_beside_them_are_calibrated(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They get the corrections of tiles with a WCS of their own; one line reports it."""
    for path, tile in zip(files, simulated(), strict=True):
        path.with_suffix(".wcs").write_bytes(astap(tile.wcs.to_header()))
    expected = calibrate([(tile.data, tile.wcs) for tile in simulated()], pool="serial")
    solution = calibrate(files, pool="serial")
    np.testing.assert_allclose(solution.gain, expected.gain, rtol=1e-6)
    arguments = ["intertile", *map(str, files), "-o", str(tmp_path / "run"), "--no-report"]
    assert run_command([*arguments, "--pool", "serial"]) == 0
    note = "4 tiles have their WCS from files beside them, such as panel 0.wcs"
    assert note in capsys.readouterr().err
    hidden = [path.with_suffix(".wcs").rename(path.with_suffix(".hdr")) for path in files]
    assert all(path.exists() for path in hidden)
    again = calibrate(files, Settings(wcs="{stem}.hdr"), pool="serial")
    np.testing.assert_array_equal(again.gain, solution.gain)


def test_a_corrected_file_has_the_wcs(files: list[Path], header: fits.Header) -> None:
    """The corrected image needs no file beside it; all else in its header stays."""
    fits.setval(files[0], "BUNIT", value="electron")
    files[0].with_suffix(".wcs").write_bytes(astap(header))
    tile = open_tile(files[0])
    correction = Correction(np.ones(1), np.zeros(1))
    corrected = write_corrected([(tile, correction)], files[0].parent / "out")
    after = open_tile(corrected)
    assert after.wcs_path is None
    assert after.unit == "electron"
    np.testing.assert_array_equal(after.corners, tile.corners)


def test_a_new_solution_is_not_resumed_from_the_old(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of a tile depend on the file of its WCS."""
    for path, tile in zip(files, simulated(), strict=True):
        path.with_suffix(".wcs").write_bytes(astap(tile.wcs.to_header()))
    arguments = ["intertile", *map(str, files), "-o", str(tmp_path / "run"), "--no-report"]
    arguments += ["--pool", "serial", "--resume"]
    assert run_command(arguments) == 0
    assert run_command(arguments) == 0
    assert "6 of 6 pairs are known" in capsys.readouterr().err
    changed = files[0].with_suffix(".wcs")
    os.utime(changed, ns=(1, 1))
    assert run_command(arguments) == 0
    assert "3 of 6 pairs are known" in capsys.readouterr().err
