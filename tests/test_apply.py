"""Corrected tiles and the coadd: the numbers, what is kept of a file, and what is never lost."""

from __future__ import annotations

import bz2
import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.helpers.tiles import simulated
from zemosaic.photometry.apply import correct, write_corrected
from zemosaic.photometry.mosaic import write_mosaic
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import TileError, open_tile, tile_from_array
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.settings import Settings

IMAGE = simulated()[0].data
HEADER = simulated()[0].wcs.to_header()
COLOURS = simulated(rgb=True)[0].data
GAIN, OFFSET = np.array([1.25]), np.array([-40.0])
TABLE = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(5.0))], name="STARS")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for corrected tiles."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves HDUs as a FITS file."""

    def write(*hdus: Any, name: str = "tile.fits", **options: Any) -> Path:
        fits.HDUList(list(hdus)).writeto(tmp_path / name, **options)
        return tmp_path / name

    return write


def corrected(path: Path, out: Path, **chosen: Any) -> Path:
    return write_corrected(open_tile(path, **chosen), Correction(GAIN, OFFSET), out)


# ---- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["HW", "CHW", "HWC", "1CHW"])
def test_each_channel_has_its_own_gain_and_offset(layout: str) -> None:
    """``gain * data + offset`` channel by channel, as float32, in the shape of the input."""
    gain, offset = np.array([1.5, 0.5, 2.0]), np.array([1.0, -2.0, 3.0])
    if layout == "HW":
        data, expected = IMAGE, IMAGE * 1.5 + 1.0
        gain, offset = gain[:1], offset[:1]
    else:
        data, expected = COLOURS, COLOURS * gain[:, None, None] + offset[:, None, None]
    if layout == "HWC":
        data, expected = np.moveaxis(data, 0, -1), np.moveaxis(expected, 0, -1)
    if layout == "1CHW":
        data, expected = data[None], expected[None]
    result = correct(data, Correction(gain, offset))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_no_datum_stays_no_datum_and_integers_do_not_overflow() -> None:
    """NaN stays NaN and nothing else becomes it; 65535 times 2 is 131070."""
    holed = IMAGE.copy()
    holed[3, 5] = np.nan
    assert np.argwhere(np.isnan(correct(holed, Correction(GAIN, OFFSET)))).tolist() == [[3, 5]]
    bright = np.full((20, 20), 65535, dtype=np.uint16)
    assert correct(bright, Correction(np.array([2.0]), np.array([0.0]))).max() == 131070


# ---- what a corrected file keeps --------------------------------------------------------------


def test_the_header_is_kept_and_says_what_was_done(save: Callable[..., Path], out: Path) -> None:
    """All cards with their comments stay, in order; gain, offset and HISTORY are added."""
    header = HEADER.copy()
    header["OBJECT"] = ("M94", "what was looked at")
    header["COMMENT"] = "first"
    header["COMMENT"] = "second"
    header["HISTORY"] = "stacked"
    header["LONGTEXT"] = "x" * 100
    header["HIERARCH ESO DET TEMP"] = (-10.5, "[C] cold")
    path = save(fits.PrimaryHDU(COLOURS, header))
    gain, offset = np.array([1.1, 0.9, 1 / 3]), np.array([5.0, -7.5, 1e-3])
    result = write_corrected(open_tile(path), Correction(gain, offset), out)
    before, after = fits.getheader(path), fits.getheader(result)
    kept = [card for card in after.cards if not card.keyword.startswith(("ZEGAIN", "ZEOFFS"))]
    kept = [card for card in kept if not str(card.value).startswith("zemosaic: ")]
    assert [tuple(card) for card in kept] == [tuple(card) for card in before.cards]
    assert [after[f"ZEGAIN{c}"] for c in range(3)] == gain.tolist()
    assert [after[f"ZEOFFS{c}"] for c in range(3)] == offset.tolist()
    assert list(after["HISTORY"]) == [
        "stacked",
        "zemosaic: channel 0 = 1.1 * data + 5",
        "zemosaic: channel 1 = 0.9 * data + -7.5",
        "zemosaic: channel 2 = 0.33333333 * data + 0.001",
    ]


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_any_type_of_pixel_becomes_float32(kind: str, save: Callable[..., Path], out: Path) -> None:
    """Scaling of integers is gone from the header along with the integers."""
    data = np.clip(IMAGE, 0, 250 if kind == "u1" else 30_000).astype(kind)
    result = corrected(save(fits.PrimaryHDU(data, HEADER)), out)
    with fits.open(result, do_not_scale_image_data=True) as hdus:
        assert not {"BZERO", "BSCALE", "BLANK"} & set(hdus[0].header)
        assert hdus[0].header["BITPIX"] == -32
        np.testing.assert_allclose(hdus[0].data, 1.25 * data - 40.0, rtol=1e-6)


def test_blank_pixels_of_integers_become_nan(save: Callable[..., Path], out: Path) -> None:
    """BLANK means "no datum" in integers; in the floats that come out NaN does."""
    data = IMAGE.astype(np.int16)
    blank = int(data[40, 40])
    hdu = fits.PrimaryHDU(data, HEADER)
    hdu.header["BLANK"] = blank
    result = fits.getdata(corrected(save(hdu), out))
    np.testing.assert_array_equal(np.isnan(result), data == blank)


@pytest.mark.parametrize("chosen", [None, 1, "SCI"])
def test_other_hdus_are_kept(
    chosen: int | str | None, save: Callable[..., Path], out: Path
) -> None:
    """Only the image changes: tables, masks and a second image stay as they are, in order."""
    mask = np.greater(IMAGE, np.median(IMAGE)).astype(np.uint8)
    empty = fits.PrimaryHDU()
    empty.header["INSTRUME"] = "Seestar S50"
    sci, other = fits.ImageHDU(IMAGE, HEADER, name="SCI"), fits.ImageHDU(IMAGE * 2, name="OTHER")
    path = save(empty, sci, fits.ImageHDU(mask, name="MASK"), TABLE, other)
    with fits.open(path) as before, fits.open(corrected(path, out, hdu=chosen)) as after:
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before]
        assert after[0].header["INSTRUME"] == "Seestar S50"
        np.testing.assert_allclose(after["SCI"].data, 1.25 * IMAGE - 40, rtol=1e-6)
        np.testing.assert_array_equal(after["MASK"].data, mask)
        np.testing.assert_array_equal(after["STARS"].data, before["STARS"].data)
        np.testing.assert_array_equal(after["OTHER"].data, IMAGE * 2)
        assert repr(after["OTHER"].header) == repr(before["OTHER"].header)


def test_a_tile_compressed_image_is_written_plain(save: Callable[..., Path], out: Path) -> None:
    """Lossy compression would undo the match, so the image comes out as float32 as it is."""
    first = fits.CompImageHDU(IMAGE.astype(np.int16), HEADER, name="SCI")
    second = fits.CompImageHDU(np.int32(7) * np.ones(IMAGE.shape, np.int32), name="FLAGS")
    result = corrected(save(fits.PrimaryHDU(), first, second, TABLE), out)
    with fits.open(result) as hdus:
        assert [type(hdu) for hdu in hdus[1:]] == [
            fits.ImageHDU,
            fits.CompImageHDU,
            fits.BinTableHDU,
        ]
        np.testing.assert_allclose(hdus[1].data, 1.25 * IMAGE.astype(np.int16) - 40, rtol=1e-6)
        assert (hdus[2].data == 7).all()
        assert not [key for key in hdus[1].header if key.startswith("ZTILE")]


@pytest.mark.parametrize(("ending", "unpack"), [("gz", gzip.decompress), ("bz2", bz2.decompress)])
def test_a_file_compressed_as_a_whole_stays_so(
    ending: str, unpack: Any, save: Callable[..., Path], out: Path
) -> None:
    """What is called ``.fits.gz`` can be unpacked by gunzip, and what is called ``.bz2`` too."""
    result = corrected(save(fits.PrimaryHDU(IMAGE, HEADER), name=f"tile.fits.{ending}"), out)
    assert result.name == f"tile.fits.{ending}"
    assert unpack(result.read_bytes()).startswith(b"SIMPLE  =")
    np.testing.assert_allclose(open_tile(result).pixels()[0], 1.25 * IMAGE - 40, rtol=1e-6)


def test_checksums_are_those_of_the_corrected_image(save: Callable[..., Path], out: Path) -> None:
    """A checksum that the file had is renewed, not left to accuse the file; none is added."""
    flags = fits.CompImageHDU(IMAGE.astype(np.int32), name="FLAGS")
    path = save(fits.PrimaryHDU(IMAGE, HEADER), TABLE.copy(), flags, checksum=True)
    with fits.open(corrected(path, out), checksum=True) as hdus:  # a wrong one warns
        assert [int(hdu.header["DATASUM"]) > 0 for hdu in hdus[:2]] == [True, True]
        assert hdus[0].verify_checksum() == hdus[0].verify_datasum() == 1
    path = save(fits.PrimaryHDU(IMAGE, HEADER), name="plain.fits")
    assert "CHECKSUM" not in fits.getheader(corrected(path, out))


def test_the_corrected_tile_lies_where_the_tile_lay(save: Callable[..., Path], out: Path) -> None:
    """SIP and all: the WCS of a corrected file is that of its input to the bit."""
    tile = simulated(rgb=True, sip=True)[0]
    path = save(fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)))
    result = write_corrected(open_tile(path), Correction(np.ones(3), np.zeros(3)), out)
    np.testing.assert_array_equal(open_tile(result).corners, open_tile(path).corners)


def test_correcting_by_nothing_twice_changes_nothing(
    save: Callable[..., Path], out: Path, tmp_path: Path
) -> None:
    """A corrected file is a tile like any other: it opens, and goes through again."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    once = write_corrected(open_tile(path), Correction(np.ones(1), np.zeros(1)), out)
    twice = write_corrected(
        open_tile(once), Correction(np.ones(1), np.zeros(1)), tmp_path / "new" / "folder"
    )
    np.testing.assert_array_equal(fits.getdata(twice), IMAGE)
    assert len(fits.getheader(twice)["HISTORY"]) == 2


# ---- what is never lost -----------------------------------------------------------------------


def test_the_input_is_never_overwritten(save: Callable[..., Path], tmp_path: Path) -> None:
    """Its own folder is refused, under its name and under another; the file stays as it was."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    before = path.read_bytes()
    folders = [tmp_path, tmp_path / "out" / ".."]
    (tmp_path / "out").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        folders.append(tmp_path / "link")
    except OSError:  # Windows without the right to make links
        pass
    for folder in folders:
        with pytest.raises(TileError, match=r"tile\.fits: would be overwritten; choose another"):
            corrected(path, folder)
    assert path.read_bytes() == before


def test_an_array_has_no_file_to_correct(out: Path) -> None:
    """A tile that was given as an array is refused by its name."""
    tile = tile_from_array(IMAGE, simulated()[0].wcs, name="M 31")
    with pytest.raises(TileError, match=r"^M 31: is an array"):
        write_corrected(tile, Correction(GAIN, OFFSET), out)


def test_what_cannot_be_written_is_named_and_nothing_is_left_behind(
    save: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up costs the tile, not the file that was there, and blames the target."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    (out / "tile.fits").write_text("of an earlier run")
    before = path.read_bytes()

    def full(_: Any, name: Path, **options: Any) -> None:
        Path(name).write_text("half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fits.HDUList, "writeto", full)
    with pytest.raises(TileError, match="cannot be written") as caught:
        corrected(path, out)
    assert str(caught.value).startswith(f"{out / 'tile.fits'}: ")
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert [item.name for item in out.iterdir()] == ["tile.fits"]
    assert (out / "tile.fits").read_text() == "of an earlier run"
    assert path.read_bytes() == before


def test_a_folder_in_the_way_is_named(save: Callable[..., Path], out: Path) -> None:
    """A folder that has the name of the corrected tile is an error of one line, and stays."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    (out / "tile.fits").mkdir()
    with pytest.raises(TileError, match="cannot be written") as caught:
        corrected(path, out)
    assert str(out / "tile.fits") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [item.name for item in out.iterdir()] == ["tile.fits"]


def test_the_library_makes_the_folder_for_corrected_tiles(
    write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """`calibrate` writes the files among its tiles to a folder that need not exist, no arrays."""
    files = write_tiles()
    tile = simulated()[3]
    given = [*files[:3], (tile.data, tile.wcs)]
    solution = calibrate(given, Settings(), "serial", [], apply_to=tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        path.name for path in files[:3]
    ]
    assert solution.failed == {}
    expected = correct(fits.getdata(files[1]), solution.correction(1))
    np.testing.assert_array_equal(fits.getdata(tmp_path / "a" / "b" / files[1].name), expected)


# ---- the coadd --------------------------------------------------------------------------------


def flat(path: Path, level: Any, crpix: tuple[float, float], **more: Any) -> Path:
    """A file of one level, or one per channel, on an unrotated grid of its own."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [120.0, 30.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-1e-3, 1e-3], crpix
    level = np.asarray(level, dtype=np.float32)
    data = np.broadcast_to(level[..., None, None], (*level.shape, 40, 50)).copy()
    data[..., 20:, :] *= more.get("upper", 1.0)
    hdus = [fits.PrimaryHDU(data, wcs.to_header())]
    if "mask" in more:
        hdus.append(fits.ImageHDU(more["mask"], name="MASK"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_the_coadd_is_the_mean_of_the_corrected_tiles(tmp_path: Path) -> None:
    """Each alone where it is alone, the mean where both are, no datum elsewhere."""
    files = [flat(tmp_path / "a.fits", 100.0, (25, 20)), flat(tmp_path / "b.fits", 10.0, (-5, 5))]
    corrections = [(np.array([1.0]), np.array([1.0])), (np.array([2.0]), np.array([85.0]))]
    output = tmp_path / "m.fits"
    write_mosaic([(f, Correction(*c)) for f, c in zip(files, corrections, strict=True)], output)
    data, header = fits.getdata(output, header=True)
    assert data.dtype == np.dtype(">f4")
    wcs = WCS(header)
    for path, x, y, expected in (
        (files[0], 5, 5, 101.0),
        (files[1], 45, 35, 105.0),
        (files[0], 42, 32, 103.0),
    ):
        sky = open_tile(path).wcs.pixel_to_world(x, y)
        column, row = wcs.world_to_array_index(sky)[::-1]
        assert data[row, column] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(data[0, -1])
    assert np.isnan(data[-1, 0])
    covered = np.isfinite(data).sum()
    assert covered == pytest.approx(2 * 40 * 50 - 20 * 25, rel=0.1)


def test_masked_pixels_and_nan_do_not_count_in_the_coadd(tmp_path: Path) -> None:
    """Where one tile has no datum, the other alone counts; the mask hides what it marks."""
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[20:] = 1
    bad = flat(tmp_path / "a.fits", 100.0, (25, 20), upper=1e6, mask=mask)
    good = flat(tmp_path / "b.fits", 100.0, (25, 20), upper=0.5, mask=mask * 0)
    tiles = [(path, Correction(np.ones(1), np.zeros(1))) for path in (bad, good)]
    write_mosaic(tiles, tmp_path / "m.fits", mask_hdu="MASK")
    data = fits.getdata(tmp_path / "m.fits")
    assert np.nanmax(data) == pytest.approx(100.0)
    assert np.nanmin(data) == pytest.approx(50.0)
    assert (np.isclose(data, 100) | np.isclose(data, 50) | np.isnan(data)).all()


def test_a_colour_coadd_has_three_planes(tmp_path: Path) -> None:
    """Every channel is coadded with gains of its own."""
    path = flat(tmp_path / "a.fits", [10.0, 20.0, 30.0], (25, 20))
    other = flat(tmp_path / "b.fits", [10.0, 20.0, 30.0], (20, 20))
    gain, offset = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 5.0])
    write_mosaic(
        [(path, Correction(gain, offset)), (other, Correction(gain, offset))], tmp_path / "m.fits"
    )
    data = fits.getdata(tmp_path / "m.fits")
    assert data.shape[0] == 3
    np.testing.assert_allclose(np.nanmedian(data, axis=(1, 2)), [10, 40, 95], rtol=1e-6)


def test_a_coadd_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file appears whole or not at all."""
    path = flat(tmp_path / "a.fits", 100.0, (25, 20))
    output = tmp_path / "m.fits"
    output.write_text("of an earlier run")

    def full(_: Any, name: Path, **options: Any) -> None:
        Path(name).write_text("half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fits.HDUList, "writeto", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_mosaic([(path, Correction(np.ones(1), np.zeros(1)))] * 2, output)
    assert output.read_text() == "of an earlier run"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.fits", "m.fits"]


def test_a_coadd_called_gz_is_gzipped(tmp_path: Path) -> None:
    """The ending of the output says how it is compressed."""
    path = flat(tmp_path / "a.fits", 100.0, (25, 20))
    write_mosaic([(path, Correction(np.ones(1), np.zeros(1)))] * 2, tmp_path / "m.fits.gz")
    assert gzip.decompress((tmp_path / "m.fits.gz").read_bytes()).startswith(b"SIMPLE  =")
