"""What else a corrected file holds: errors, weights, keywords, checksums and its provenance."""

from __future__ import annotations

import hashlib
import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic._version import __version__
from zemosaic.photometry.apply import arrays, write_corrected
from zemosaic.photometry.apply.keywords import RULES, Transform, update_keywords
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.fits_files import TileError
from zemosaic.photometry.tiles.tile_files import open_tile

TILE = simulated()[0]
IMAGE, HEADER = TILE.data, TILE.wcs.to_header()
GAIN, OFFSET = 1.25, -40.0
CORRECTION = Correction(np.array([GAIN]), np.array([OFFSET]))
DOCS = Path(__file__).parent.parent / "docs" / "applied.md"

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes HDUs to a FITS file."""

    def write(*hdus: Any, name: str = "tile.fits", **options: Any) -> Path:
        fits.HDUList(list(hdus)).writeto(tmp_path / name, **options)
        return tmp_path / name

    return write


def corrected(path: Path, correction: Correction = CORRECTION, **options: Any) -> Path:
    """Write the corrected file of a tile to the folder ``out`` beside it."""
    return write_corrected([(open_tile(path, **options), correction)], path.parent / "out")


def image(name: str, value: Any = IMAGE, **keywords: Any) -> fits.ImageHDU:
    """Return an image HDU; a number fills it."""
    data = value if isinstance(value, np.ndarray) else np.full(IMAGE.shape, value, np.float32)
    hdu = fits.ImageHDU(data, HEADER if data is IMAGE else None, name=name)
    hdu.header.update(keywords)
    return hdu


# ---- errors, variances and weights ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "power"),
    [
        *[(name, 1) for name in ("ERR", "error", "SIGMA", "UNCERT", "STDDEV", "RMS", "SCI_ERR")],
        *[(name, 2) for name in ("VAR", "VARIANCE", "VAR_RNOISE", "VAR_POISSON", "VAR_FLAT")],
        *[(name, -2) for name in ("WHT", "WEIGHT", "IVAR", "INVVAR", "SCI_IVAR")],
        *[(name, 0) for name in ("DQ", "MASK", "CTX", "EXP", "COVERAGE", "TIME", "VARIABLES")],
    ],
)
def test_a_companion_scales_by_a_power_of_the_gain(name: str, power: int, save: Save) -> None:
    """Errors by the gain, variances by its square, weights by its inverse square; the rest not."""
    values = IMAGE * 0 + np.linspace(1, 9, IMAGE.shape[1], dtype=np.float32)
    values[5, 6], values[7, 8] = np.nan, 0
    path = save(fits.PrimaryHDU(), image("SCI"), image(name, values))
    with fits.open(corrected(path)) as hdus:
        np.testing.assert_allclose(hdus[2].data, values * GAIN**power, rtol=1e-6)
        assert hdus[2].header["EXTNAME"].upper() == name.upper()
        assert ("HISTORY" in hdus[2].header) == (power != 0)
        np.testing.assert_allclose(hdus["SCI"].data, GAIN * IMAGE + OFFSET, rtol=1e-6)


@pytest.mark.parametrize(
    ("uncertainty", "power"),
    [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)],
)
def test_the_uncertainty_of_a_ccddata_stays_right(
    uncertainty: type, power: int, tmp_path: Path
) -> None:
    """All kinds are in an HDU of one name, and its UTYPE tells them apart."""
    values = np.full(IMAGE.shape, 4.0)
    data = CCDData(IMAGE, unit=u.adu, wcs=TILE.wcs, uncertainty=uncertainty(values))
    path = tmp_path / "ccd.fits"
    data.write(path)
    after = CCDData.read(corrected(path))
    assert isinstance(after.uncertainty, uncertainty)
    np.testing.assert_allclose(after.uncertainty.array, values * GAIN**power)


def test_chips_have_their_own_errors(save: Save) -> None:
    """Each chip of a file is scaled by its own gain, and so are its errors, by EXTVER."""
    hdus = [fits.PrimaryHDU()]
    hdus[0].header["MAGZERO"] = 25.0
    for version in (1, 2, 3):
        for hdu in (image("SCI"), image("ERR", 2), image("DQ", np.ones(IMAGE.shape, np.int16))):
            hdu.ver = version
            hdus.append(hdu)
    path = save(*hdus)
    gains = {1: 1.25, 4: 0.8}
    tiles = [
        (open_tile(path, hdu=number), Correction(np.array([gain]), np.array([1.0])))
        for number, gain in gains.items()
    ]
    with fits.open(write_corrected(tiles, path.parent / "out")) as after, fits.open(path) as before:
        for sci, gain in {**gains, 7: None}.items():
            if gain is None:  # no tile
                np.testing.assert_array_equal(after[sci].data, before[sci].data)
                assert after[sci].header == before[sci].header
            else:
                np.testing.assert_allclose(after[sci].data, gain * IMAGE + 1, rtol=1e-6)
                assert after[sci].header["ZEGAIN0"] == gain
            np.testing.assert_allclose(after[sci + 1].data, 2 * (gain or 1), rtol=1e-6)
            assert (after[sci + 2].data == 1).all()
        assert after[0].header["MAGZERO"] == 25.0, "no one value fits both chips"
        assert "before correction" in after[0].header.comments["MAGZERO"]


def test_chips_of_different_names_have_their_own_errors(save: Save) -> None:
    """An error image belongs to the image in its name, or else to the one before it."""
    path = save(
        fits.PrimaryHDU(), image("N4"), image("S29"), image("S29_ERR", 2), image("N4_ERR", 2)
    )
    with fits.open(corrected(path, hdu="N4")) as hdus:
        assert hdus["N4_ERR"].data[0, 0] == 2 * GAIN
        assert hdus["S29_ERR"].data[0, 0] == 2
    path = save(
        fits.PrimaryHDU(),
        image("N4"),
        image("ERR", 2),
        image("S29"),
        image("VAR", 2),
        name="2.fits",
    )
    with fits.open(corrected(path, hdu="N4")) as hdus:
        assert (hdus["ERR"].data[0, 0], hdus["VAR"].data[0, 0]) == (2 * GAIN, 2)


def test_an_image_of_another_size_is_no_companion(save: Save) -> None:
    """An ERR of another shape belongs to something else, and stays byte by byte."""
    other = image("ERR", np.ones((10, 12), np.float32))
    result = corrected(save(fits.PrimaryHDU(), image("SCI"), other))
    assert (fits.getdata(result, "ERR") == 1).all()


def test_a_mask_named_like_an_error_stays(save: Save) -> None:
    """The image that --mask-hdu names is a mask, and its values are flags."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER), image("SIGMA", np.ones(IMAGE.shape, np.int16)))
    assert (fits.getdata(corrected(path, mask_hdu="SIGMA"), 1) == 1).all()
    assert fits.getheader(corrected(path, mask_hdu="SIGMA"), 1)["BITPIX"] == 16


def test_a_colour_tile_has_one_factor_per_channel(save: Save) -> None:
    """A cube of variances is scaled by channel; one plane for all channels is marked."""
    cube = simulated(rgb=True)[0].data
    gain = np.array([1.0, 2.0, 0.5])
    path = save(
        fits.PrimaryHDU(cube, HEADER),
        image("VAR", np.ones(cube.shape)),
        image("ERR", 2),
        image("DQ", np.ones(IMAGE.shape, np.uint8)),
    )
    with fits.open(corrected(path, Correction(gain, np.zeros(3)))) as hdus:
        assert hdus["VAR"].data[:, 3, 4].tolist() == [1, 4, 0.25]
        assert hdus["VAR"].header["BITPIX"] == -64, "variances need the range of float64"
        assert (hdus["ERR"].data == 2).all()
        assert "uncorrected" in str(hdus["ERR"].header["HISTORY"])
    with fits.open(corrected(path, Correction(np.full(3, 2.0), np.arange(3.0)))) as hdus:
        assert (hdus["ERR"].data == 4).all(), "a gain that all channels share"


def test_a_compressed_error_image_becomes_a_plain_one(save: Save) -> None:
    """Its quantization was chosen for other values; compressed flags beside it stay as they are."""
    errors = fits.CompImageHDU(np.full(IMAGE.shape, 3, np.int16), name="ERR", tile_shape=(40, 40))
    flags = fits.CompImageHDU(np.full(IMAGE.shape, 7, np.int16), name="DQ")
    path = save(fits.PrimaryHDU(), image("SCI"), errors, flags)
    with fits.open(corrected(path)) as hdus:
        assert type(hdus["ERR"]) is fits.ImageHDU
        assert (hdus["ERR"].data == 3 * GAIN).all()
        assert type(hdus["DQ"]) is fits.CompImageHDU
        assert (hdus["DQ"].data == 7).all()


# ---- keywords ---------------------------------------------------------------------------------


def header_of(keywords: dict[str, Any]) -> fits.Header:
    """Return a header with values or (value, comment) tuples."""
    header = fits.Header()
    for keyword, value in keywords.items():
        header[keyword] = value
    return header


def update(header: dict[str, Any], correction: Correction = CORRECTION) -> fits.Header:
    """Return a header after a correction."""
    changed = header_of(header)
    update_keywords(changed, Transform.of(correction))
    return changed


def test_measurements_of_a_source_stay_the_same() -> None:
    """Its magnitude, its flux in physical units and its electrons, whatever the gain."""
    before = {"MAGZERO": 25.0, "PHOTFLAM": 1e-20, "EGAIN": 2.0, "FLUXMAG0": 1e10}
    after = update(before)
    counts, scaled = 1234.5, 1234.5 * GAIN

    def magnitude(header: Any, flux: float) -> float:
        return header["MAGZERO"] - 2.5 * math.log10(flux)

    assert magnitude(after, scaled) == pytest.approx(magnitude(before, counts), abs=1e-12)
    for keyword in ("PHOTFLAM", "EGAIN"):
        assert after[keyword] * scaled == pytest.approx(before[keyword] * counts, rel=1e-12)
    assert after["FLUXMAG0"] / scaled == pytest.approx(before["FLUXMAG0"] / counts, rel=1e-12)


def test_levels_follow_the_pixels() -> None:
    """Sky and saturation as the pixels do, noise without the offset; comments are kept."""
    after = update(
        {"SKY": (1000.0, "median"), "SATURATE": 60000, "SKYSIGMA": 10.0, "OBJECT": "M42"}
    )
    assert after["SKY"] == GAIN * 1000 + OFFSET
    assert after.comments["SKY"] == "median"
    assert after["SATURATE"] == GAIN * 60000 + OFFSET
    assert after["SKYSIGMA"] == GAIN * 10
    assert list(after["HISTORY"]) == ["zemosaic: changed with the pixels: SKY, SATURATE, SKYSIGMA"]


def test_a_level_under_a_plane_is_marked() -> None:
    """One number does not describe it; a zero point is independent of the plane."""
    tilted = Correction(np.array([GAIN]), np.array([OFFSET]), np.array([0.1]), np.array([0.0]))
    after = update({"SKY": (1000.0, "median"), "MAGZERO": 25.0}, tilted)
    assert (after["SKY"], after.comments["SKY"]) == (1000.0, "before correction: median")
    assert after["MAGZERO"] == 25.0 + 2.5 * math.log10(GAIN)
    again = after.copy()
    update_keywords(again, Transform.of(tilted))
    assert again.comments["SKY"].count("before correction") == 1


def test_channels_of_different_gains_have_no_common_zero_point() -> None:
    """The keyword keeps its value and is marked; equal channels have one."""
    two = Correction(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    after = update({"MAGZERO": 25.0, "GAIN": 1.5}, two)
    assert after["MAGZERO"] == 25.0
    assert {after.comments[key] for key in ("MAGZERO", "GAIN")} == {"before correction"}
    assert update({"MAGZERO": 25.0}, Correction(np.full(3, 10.0), np.arange(3)))["MAGZERO"] == 27.5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"GAIN": (2.0, "e-/ADU")}, 1.6),
        ({"GAIN": (2, "[e/ADU] gain")}, 1.6),
        ({"GAIN": 2.0}, 1.6),
        ({"GAIN": 80}, None),
        ({"GAIN": (120.0, "Camera gain setting")}, None),
        ({"GAIN": 120.0, "EGAIN": 1.0}, None),
        ({"RDNOISE": (5.0, "[e-] read noise")}, 5.0),
        ({"RDNOISE": (5.0, "read noise in ADU")}, 6.25),
        ({"RDNOISE": 5.0}, None),
        ({"PHOTZPT": -21.1, "PHOTFLAM": 1e-20}, -21.1),
        ({"PHOTMJSR": 0.5, "BUNIT": "DN/s"}, 0.4),
        ({"PHOTMJSR": 0.5, "BUNIT": "MJy/sr"}, None),
        ({"PEDESTAL": 100.0}, None),
        ({"SKY": "dark"}, "dark"),
        ({"HIERARCH ESO DET OUT1 CONAD": 2.0}, 1.6),
        ({"HIERARCH ESO DET OUT1 GAIN": 0.5}, 0.625),
    ],
)
def test_the_meaning_of_a_keyword_depends_on_its_header(
    header: dict[str, Any], expected: float | str | None
) -> None:
    """A gain in electrons changes and the setting of a camera does not; None stands for a mark."""
    keyword = next(iter(header)).removeprefix("HIERARCH ")
    before, after = header_of(header), update(header)
    if expected is None:
        assert after[keyword] == before[keyword]
        assert after.comments[keyword].startswith("before correction")
    else:
        assert after[keyword] == (
            expected if isinstance(expected, str) else pytest.approx(expected)
        )
        assert after.comments[keyword] == before.comments[keyword]


def test_the_primary_header_above_an_image_follows(save: Save) -> None:
    """Keywords of the whole file are in the primary header; one without any is kept as it was."""
    primary = fits.PrimaryHDU()
    primary.header["MAGZERO"], primary.header["OBJECT"] = 25.0, "M42"
    header = fits.getheader(corrected(save(primary, image("SCI"))))
    assert header["MAGZERO"] == 25.0 + 2.5 * math.log10(GAIN)
    path = save(fits.PrimaryHDU(), image("SCI"), name="plain.fits")
    assert corrected(path).read_bytes()[:2880] == path.read_bytes()[:2880]


def test_the_documentation_has_all_keywords() -> None:
    """docs/applied.md has a row for every rule, with its keywords as in the code."""
    text = DOCS.read_text(encoding="utf-8").replace("\\|", "|")
    rows = dict(re.findall(r"^\| `([^`]+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert rows == {keywords: rule.__name__ for keywords, rule in RULES.items()}


# ---- provenance and bytes ---------------------------------------------------------------------


def test_the_header_names_the_run_and_the_unit(
    zemosaic: Callable[..., Run], tmp_path: Path
) -> None:
    """ZERUN is the checksum of the run's table, so that the run can be found; BUNIT is the unit."""
    files = []
    for tile in simulated():
        header = tile.wcs.to_header()
        header["BUNIT"] = "electron/s"
        files.append(tmp_path / tile.name)
        fits.PrimaryHDU(tile.data, header).writeto(files[-1])
    run, out = tmp_path / "run", tmp_path / "out"
    assert zemosaic("intertile", *files, "--pool", "serial", "-o", run, "--apply", out).code == 0
    header = fits.getheader(out / files[0].name)
    digest = hashlib.sha256((run / "corrections.ecsv").read_bytes()).hexdigest()
    assert header["ZERUN"] == digest[:16]
    assert f"zemosaic: corrected by version {__version__}, run {digest[:16]}" in header["HISTORY"]
    assert header.comments["ZEOFFS0"].startswith("[electron/s] ")


@pytest.mark.parametrize("name", ["tile.fits", "tile.fits.gz"])
def test_the_same_correction_gives_the_same_bytes(
    name: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No date and no name of a folder is in the file, however high the strips are."""
    path = save(fits.PrimaryHDU(IMAGE, HEADER), image("ERR", 1), name=name, checksum=True)
    first = corrected(path).read_bytes()
    monkeypatch.setattr(arrays, "STRIP_PIXELS", 1000)
    tile = open_tile(path)
    second = write_corrected([(tile, CORRECTION)], path.parent / "elsewhere").read_bytes()
    assert first == second


@pytest.mark.parametrize("compressed", [False, True])
def test_all_checksums_are_right(compressed: bool, save: Save) -> None:
    """Those of changed HDUs are new, those of the others as they were; none is added."""
    sci = fits.CompImageHDU(IMAGE.astype(np.int16), HEADER, name="SCI") if compressed else None
    primary = fits.PrimaryHDU()
    primary.header["MAGZERO"] = 25.0
    path = save(primary, sci or image("SCI"), image("ERR", 1), image("DQ", 0), checksum=True)
    with fits.open(corrected(path)) as hdus:
        for hdu in hdus:
            assert hdu.verify_checksum() == hdu.verify_datasum() == 1
    hdus = fits.PrimaryHDU(), image("SCI"), image("ERR", 1)
    with fits.open(corrected(save(*hdus, checksum="datasum", overwrite=True))) as hdus:
        assert [hdu.verify_datasum() for hdu in hdus] == [1] * 3
        assert not any("CHECKSUM" in hdu.header for hdu in hdus)


@pytest.mark.parametrize("layout", ["HW", "CHW", "HWC", "1CHW"])
def test_a_file_is_written_in_less_memory_than_it_has(
    layout: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the layout, the strips bound the memory."""
    shape = {"HW": (1200, 900), "CHW": (3, 600, 600), "HWC": (600, 600, 3)}.get(layout)
    data = np.random.default_rng(3).normal(1e3, 10, shape or (1, 3, 600, 600)).astype(np.float32)
    path = save(fits.PrimaryHDU(data, HEADER))
    channels = 1 if layout == "HW" else 3
    correction = Correction(np.arange(1.0, channels + 1), np.arange(channels), 1e-3, 2e-3)
    tile = open_tile(path)
    expected = arrays.correct(data, correction)
    monkeypatch.setattr(arrays, "STRIP_PIXELS", 1 << 13)
    tracemalloc.start()
    try:
        result = write_corrected([(tile, correction)], path.parent / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 2
    np.testing.assert_array_equal(fits.getdata(result), expected)


def test_the_same_image_twice_is_refused(save: Save) -> None:
    """Two corrections of one image contradict each other."""
    tile = open_tile(save(fits.PrimaryHDU(IMAGE, HEADER)))
    with pytest.raises(TileError, match="HDU 0 is a tile twice; give it once"):
        write_corrected([(tile, CORRECTION)] * 2, tile.path.parent / "out")


@pytest.mark.parametrize("last", [None, "table", "compressed"])
def test_a_truncated_file_is_named(last: str | None, save: Save) -> None:
    """The error names the tile, not the output, and no part of an output is left."""
    column = fits.Column("x", "D", array=np.arange(1000.0))
    hdus = {
        None: [],
        "table": [fits.BinTableHDU.from_columns([column])],
        "compressed": [fits.CompImageHDU(np.arange(10_000, dtype=np.int32).reshape(100, 100))],
    }
    path = save(fits.PrimaryHDU(IMAGE, HEADER), *hdus[last])
    tile = open_tile(path)
    path.write_bytes(path.read_bytes()[:-2900])
    with pytest.raises(TileError, match="cannot be read") as caught:
        write_corrected([(tile, CORRECTION)], path.parent / "out")
    assert str(caught.value).startswith(str(path))
    assert list((path.parent / "out").iterdir()) == []


def test_missing_padding_is_added(save: Save) -> None:
    """A file whose last block is not filled up is a valid one after its correction."""
    column = fits.Column("x", "D", array=np.arange(10.0))
    path = save(fits.PrimaryHDU(IMAGE, HEADER), fits.BinTableHDU.from_columns([column]))
    path.write_bytes(path.read_bytes()[: 80 - 2880])
    result = corrected(path)
    assert result.stat().st_size % 2880 == 0
    assert fits.getdata(result, 1)["x"].tolist() == list(range(10))
