"""Corrected tiles and the coadd: their pixels, their headers, and the safety of existing files."""

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
from zemosaic._version import __version__
from zemosaic.errors import UserError
from zemosaic.photometry.apply import correct, files, write_corrected
from zemosaic.photometry.mosaic import store, write_mosaic
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import TileError, tile_from_array
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.settings import Settings

IMAGE = simulated()[0].data
HEADER = simulated()[0].wcs.to_header()
COLOURS = simulated(rgb=True)[0].data
GAIN, OFFSET = np.array([1.25]), np.array([-40.0])
TABLE = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(5.0))], name="STARS")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder for corrected tiles."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes HDUs to a FITS file."""

    def write(*hdus: Any, name: str = "tile.fits", **options: Any) -> Path:
        fits.HDUList(list(hdus)).writeto(tmp_path / name, **options)
        return tmp_path / name

    return write


def write_with_gain(path: Path, out: Path, **options: Any) -> Path:
    return write_corrected([(open_tile(path, **options), Correction(GAIN, OFFSET))], out)


# ---- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["HW", "CHW", "HWC", "1CHW"])
def test_each_channel_has_its_own_gain_and_offset(layout: str) -> None:
    """``gain * data + offset`` of each channel is float32 and has the shape of the input."""
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


def test_nan_is_kept_and_integers_do_not_overflow() -> None:
    """NaN stays NaN and no other pixel becomes NaN; 65535 times 2 is 131070."""
    data = IMAGE.copy()
    data[3, 5] = np.nan
    assert np.argwhere(np.isnan(correct(data, Correction(GAIN, OFFSET)))).tolist() == [[3, 5]]
    bright = np.full((20, 20), 65535, dtype=np.uint16)
    assert correct(bright, Correction(np.array([2.0]), np.array([0.0]))).max() == 131070


# ---- contents of a corrected file -------------------------------------------------------------


def test_the_header_is_kept_and_records_the_correction(
    save: Callable[..., Path], out: Path
) -> None:
    """All cards are kept in order with their comments; gain, offset and HISTORY are added."""
    header = HEADER.copy()
    header["OBJECT"] = ("M94", "target")
    header["COMMENT"] = "first"
    header["COMMENT"] = "second"
    header["HISTORY"] = "stacked"
    header["LONGTEXT"] = "x" * 100
    header["HIERARCH ESO DET TEMP"] = (-10.5, "[C] cold")
    path = save(fits.PrimaryHDU(COLOURS, header))
    gain, offset = np.array([1.1, 0.9, 1 / 3]), np.array([5.0, -7.5, 1e-3])
    result = write_corrected([(open_tile(path), Correction(gain, offset))], out)
    before, after = fits.getheader(path), fits.getheader(result)
    kept = [card for card in after.cards if not card.keyword.startswith(("ZEGAIN", "ZEOFFS"))]
    kept = [card for card in kept if not str(card.value).startswith("zemosaic: ")]
    assert [tuple(card) for card in kept] == [tuple(card) for card in before.cards]
    assert [after[f"ZEGAIN{c}"] for c in range(3)] == gain.tolist()
    assert [after[f"ZEOFFS{c}"] for c in range(3)] == offset.tolist()
    assert list(after["HISTORY"]) == [
        "stacked",
        f"zemosaic: corrected by version {__version__}",
        "zemosaic: channel 0 = 1.1 * data + 5",
        "zemosaic: channel 1 = 0.9 * data + -7.5",
        "zemosaic: channel 2 = 0.33333333 * data + 0.001",
    ]


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_any_type_of_pixel_becomes_float32(kind: str, save: Callable[..., Path], out: Path) -> None:
    """The scaling of integers is removed from the header."""
    data = np.clip(IMAGE, 0, 250 if kind == "u1" else 30_000).astype(kind)
    result = write_with_gain(save(fits.PrimaryHDU(data, HEADER)), out)
    with fits.open(result, do_not_scale_image_data=True) as hdus:
        assert not {"BZERO", "BSCALE", "BLANK"} & set(hdus[0].header)
        assert hdus[0].header["BITPIX"] == -32
        np.testing.assert_allclose(hdus[0].data, 1.25 * data - 40.0, rtol=1e-6)


def test_blank_pixels_of_integers_become_nan(save: Callable[..., Path], out: Path) -> None:
    """Pixels that BLANK marks as missing are NaN in the corrected image."""
    data = IMAGE.astype(np.int16)
    blank = int(data[40, 40])
    hdu = fits.PrimaryHDU(data, HEADER)
    hdu.header["BLANK"] = blank
    result = fits.getdata(write_with_gain(save(hdu), out))
    np.testing.assert_array_equal(np.isnan(result), data == blank)


@pytest.mark.parametrize("hdu", [None, 1, "SCI"])
def test_other_hdus_are_kept(hdu: int | str | None, save: Callable[..., Path], out: Path) -> None:
    """Only the image changes; tables, masks and other images are kept in order."""
    mask = np.greater(IMAGE, np.median(IMAGE)).astype(np.uint8)
    empty = fits.PrimaryHDU()
    empty.header["INSTRUME"] = "Seestar S50"
    sci, other = fits.ImageHDU(IMAGE, HEADER, name="SCI"), fits.ImageHDU(IMAGE * 2, name="OTHER")
    path = save(empty, sci, fits.ImageHDU(mask, name="MASK"), TABLE, other)
    with fits.open(path) as before, fits.open(write_with_gain(path, out, hdu=hdu)) as after:
        assert [item.name for item in after] == [item.name for item in before]
        assert after[0].header["INSTRUME"] == "Seestar S50"
        np.testing.assert_allclose(after["SCI"].data, 1.25 * IMAGE - 40, rtol=1e-6)
        np.testing.assert_array_equal(after["MASK"].data, mask)
        np.testing.assert_array_equal(after["STARS"].data, before["STARS"].data)
        np.testing.assert_array_equal(after["OTHER"].data, IMAGE * 2)
        assert repr(after["OTHER"].header) == repr(before["OTHER"].header)


def test_a_tile_compressed_image_is_written_plain(save: Callable[..., Path], out: Path) -> None:
    """Lossy compression would undo the correction, so the image is written as plain float32."""
    first = fits.CompImageHDU(IMAGE.astype(np.int16), HEADER, name="SCI")
    second = fits.CompImageHDU(np.int32(7) * np.ones(IMAGE.shape, np.int32), name="FLAGS")
    result = write_with_gain(save(fits.PrimaryHDU(), first, second, TABLE), out)
    with fits.open(result) as hdus:
        assert [type(hdu) for hdu in hdus[1:]] == [
            fits.ImageHDU,
            fits.CompImageHDU,
            fits.BinTableHDU,
        ]
        np.testing.assert_allclose(hdus[1].data, 1.25 * IMAGE.astype(np.int16) - 40, rtol=1e-6)
        assert (hdus[2].data == 7).all()
        assert not [key for key in hdus[1].header if key.startswith("ZTILE")]


@pytest.mark.parametrize(
    ("suffix", "decompress"), [("gz", gzip.decompress), ("bz2", bz2.decompress)]
)
def test_a_compressed_file_stays_compressed(
    suffix: str, decompress: Any, save: Callable[..., Path], out: Path
) -> None:
    """A file named ``.fits.gz`` is compressed with gzip, one named ``.fits.bz2`` with bzip2."""
    result = write_with_gain(save(fits.PrimaryHDU(IMAGE, HEADER), name=f"tile.fits.{suffix}"), out)
    assert result.name == f"tile.fits.{suffix}"
    assert decompress(result.read_bytes()).startswith(b"SIMPLE  =")
    np.testing.assert_allclose(open_tile(result).pixels()[0], 1.25 * IMAGE - 40, rtol=1e-6)


def test_checksums_are_those_of_the_corrected_image(save: Callable[..., Path], out: Path) -> None:
    """Checksums of the file are recomputed; a file without any gets none."""
    flags = fits.CompImageHDU(IMAGE.astype(np.int32), name="FLAGS")
    path = save(fits.PrimaryHDU(IMAGE, HEADER), TABLE.copy(), flags, checksum=True)
    with fits.open(write_with_gain(path, out), checksum=True) as hdus:  # a wrong one warns
        assert [int(hdu.header["DATASUM"]) > 0 for hdu in hdus[:2]] == [True, True]
        assert hdus[0].verify_checksum() == hdus[0].verify_datasum() == 1
    path = save(fits.PrimaryHDU(IMAGE, HEADER), name="plain.fits")
    assert "CHECKSUM" not in fits.getheader(write_with_gain(path, out))


def test_a_corrected_tile_keeps_its_wcs(save: Callable[..., Path], out: Path) -> None:
    """The corners of a corrected file with SIP are bitwise equal to those of its input."""
    tile = simulated(rgb=True, sip=True)[0]
    path = save(fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)))
    result = write_corrected([(open_tile(path), Correction(np.ones(3), np.zeros(3)))], out)
    np.testing.assert_array_equal(open_tile(result).corners, open_tile(path).corners)


def test_a_unit_correction_changes_no_pixel(
    save: Callable[..., Path], out: Path, tmp_path: Path
) -> None:
    """Also if it is applied twice: a corrected file is a valid tile."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    once = write_corrected([(open_tile(path), Correction(np.ones(1), np.zeros(1)))], out)
    twice = write_corrected(
        [(open_tile(once), Correction(np.ones(1), np.zeros(1)))], tmp_path / "new" / "folder"
    )
    np.testing.assert_array_equal(fits.getdata(twice), IMAGE)
    history = list(fits.getheader(twice)["HISTORY"])
    assert history[: len(history) // 2] == history[len(history) // 2 :]


# ---- safety of existing files -----------------------------------------------------------------


def test_the_input_is_never_overwritten(save: Callable[..., Path], tmp_path: Path) -> None:
    """The folder of the tile is refused under any path, and the file is unchanged."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    before = path.read_bytes()
    folders = [tmp_path, tmp_path / "out" / ".."]
    (tmp_path / "out").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        folders.append(tmp_path / "link")
    except OSError:  # Windows without the privilege to create links
        pass
    for folder in folders:
        with pytest.raises(TileError, match=r"tile\.fits: would be overwritten; choose another"):
            write_with_gain(path, folder)
    assert path.read_bytes() == before


def test_an_array_cannot_be_written(out: Path) -> None:
    """A tile given as an array is refused with its name."""
    tile = tile_from_array(IMAGE, simulated()[0].wcs, name="M 31")
    with pytest.raises(TileError, match=r"^M 31: is an array"):
        write_corrected([(tile, Correction(GAIN, OFFSET))], out)


def test_a_full_disk_leaves_the_old_file(
    save: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the target; the file of an earlier run is kept and no temporary file."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    (out / "tile.fits").write_text("of an earlier run")
    before = path.read_bytes()

    def fail(_hdus: Any, _source: Path, _changes: Any, target: Path) -> None:
        target.write_text("half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_changed", fail)
    with pytest.raises(TileError, match="cannot be written") as caught:
        write_with_gain(path, out)
    assert str(caught.value).startswith(f"{out / 'tile.fits'}: ")
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert [item.name for item in out.iterdir()] == ["tile.fits"]
    assert (out / "tile.fits").read_text() == "of an earlier run"
    assert path.read_bytes() == before


def test_a_folder_with_the_name_of_the_target_is_an_error(
    save: Callable[..., Path], out: Path
) -> None:
    """The error has one line and names the target; the folder is kept."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER))
    (out / "tile.fits").mkdir()
    with pytest.raises(TileError, match="cannot be written") as caught:
        write_with_gain(path, out)
    assert str(out / "tile.fits") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [item.name for item in out.iterdir()] == ["tile.fits"]


def test_calibrate_creates_the_folder_for_corrected_tiles(
    write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """`calibrate` writes corrected files to a folder that need not exist, and skips arrays."""
    files = write_tiles()
    tile = simulated()[3]
    tiles = [*files[:3], (tile.data, tile.wcs)]
    solution = calibrate(tiles, Settings(), "serial", [], apply_to=tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        path.name for path in files[:3]
    ]
    assert solution.failed == {}
    expected = correct(fits.getdata(files[1]), solution.correction(1))
    np.testing.assert_array_equal(fits.getdata(tmp_path / "a" / "b" / files[1].name), expected)


# ---- the coadd --------------------------------------------------------------------------------


def write_flat(
    path: Path,
    level: Any,
    crpix: tuple[float, float],
    upper_factor: float = 1.0,
    mask: np.ndarray | None = None,
) -> Path:
    """Write a tile of one level, or one per channel; its upper half is multiplied by a factor."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [120.0, 30.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-1e-3, 1e-3], crpix
    level = np.asarray(level, dtype=np.float32)
    data = np.broadcast_to(level[..., None, None], (*level.shape, 40, 50)).copy()
    data[..., 20:, :] *= upper_factor
    hdus = [fits.PrimaryHDU(data, wcs.to_header())]
    if mask is not None:
        hdus.append(fits.ImageHDU(mask, name="MASK"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_the_coadd_is_the_mean_of_the_corrected_tiles(tmp_path: Path) -> None:
    """The mean where tiles overlap, the tile where there is only one, NaN elsewhere."""
    files = [
        write_flat(tmp_path / "a.fits", 100.0, (25, 20)),
        write_flat(tmp_path / "b.fits", 10.0, (-5, 5)),
    ]
    corrections = [(np.array([1.0]), np.array([1.0])), (np.array([2.0]), np.array([85.0]))]
    output = tmp_path / "m.fits"
    tiles = [open_tile(path) for path in files]
    write_mosaic([(t, Correction(*c)) for t, c in zip(tiles, corrections, strict=True)], output)
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


def test_masked_pixels_are_excluded_from_the_coadd(tmp_path: Path) -> None:
    """The coadd equals one tile where the other is masked."""
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[20:] = 1
    bad = write_flat(tmp_path / "a.fits", 100.0, (25, 20), upper_factor=1e6, mask=mask)
    good = write_flat(tmp_path / "b.fits", 100.0, (25, 20), upper_factor=0.5, mask=mask * 0)
    tiles = [open_tile(path, mask_hdu="MASK") for path in (bad, good)]
    unit = Correction(np.ones(1), np.zeros(1))
    write_mosaic([(tile, unit) for tile in tiles], tmp_path / "m.fits")
    data = fits.getdata(tmp_path / "m.fits")
    assert np.nanmax(data) == pytest.approx(100.0)
    assert np.nanmin(data) == pytest.approx(50.0)
    assert (np.isclose(data, 100) | np.isclose(data, 50) | np.isnan(data)).all()


def test_a_colour_coadd_has_three_channels(tmp_path: Path) -> None:
    """Each channel is coadded with its own gains."""
    tile = open_tile(write_flat(tmp_path / "a.fits", [10.0, 20.0, 30.0], (25, 20)))
    other = open_tile(write_flat(tmp_path / "b.fits", [10.0, 20.0, 30.0], (20, 20)))
    gain, offset = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 5.0])
    write_mosaic(
        [(tile, Correction(gain, offset)), (other, Correction(gain, offset))], tmp_path / "m.fits"
    )
    data = fits.getdata(tmp_path / "m.fits")
    assert data.shape[0] == 3
    np.testing.assert_allclose(np.nanmedian(data, axis=(1, 2)), [10, 40, 95], rtol=1e-6)


def test_a_full_disk_leaves_the_old_coadd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coadd of an earlier run is kept, and no temporary file."""
    path = write_flat(tmp_path / "a.fits", 100.0, (25, 20))
    output = tmp_path / "m.fits"
    output.write_text("of an earlier run")

    def fail(file: Any, data: memoryview) -> None:
        file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_write_all", fail)
    with pytest.raises(UserError, match=rf"m\.fits: .*{os.strerror(errno.ENOSPC)}"):
        write_mosaic([(open_tile(path), Correction(np.ones(1), np.zeros(1)))] * 2, output)
    assert output.read_text() == "of an earlier run"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.fits", "m.fits"]


def test_a_coadd_named_gz_is_compressed(tmp_path: Path) -> None:
    """The suffix of the output selects its compression."""
    path = write_flat(tmp_path / "a.fits", 100.0, (25, 20))
    write_mosaic(
        [(open_tile(path), Correction(np.ones(1), np.zeros(1)))] * 2, tmp_path / "m.fits.gz"
    )
    assert gzip.decompress((tmp_path / "m.fits.gz").read_bytes()).startswith(b"SIMPLE  =")
