"""The illumination, the glow and the second order: applied, written, and shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from tests.helpers.cli import Run
from tests.helpers.synthetic_run import SyntheticRun, grid_graph
from tests.helpers.tiles import simulated
from zemosaic import calibrate
from zemosaic.errors import UserError
from zemosaic.photometry.apply import correct, write_corrected
from zemosaic.photometry.illumination import TERMS, Illumination
from zemosaic.photometry.mosaic import write_mosaic
from zemosaic.photometry.solver.solve import Correction, Solution
from zemosaic.photometry.tiles.tile import tile_from_array
from zemosaic.photometry.tiles.tile_files import open_tile, open_tiles
from zemosaic.pipeline import solve_stage
from zemosaic.pipeline.illumination_file import read_illuminations
from zemosaic.pipeline.illumination_text import describe_illuminations
from zemosaic.report import coadd
from zemosaic.report.build import load_run, write_report
from zemosaic.report.images import coadd_mosaic
from zemosaic.settings import Settings

SHAPE = simulated()[0].data.shape
GAIN, OFFSET, BIAS = 1.25, -40.0, 12.0


def illumination(
    shape: tuple[int, int] = SHAPE, channels: int = 1, tiles: int = 4, glow: float = 3.0
) -> Illumination:
    """Return an illumination of second order with a linear term, and a linear glow."""
    random = np.random.default_rng(1)
    count = len(TERMS)
    log_flat, of_glow = np.zeros((2, channels, count))
    log_flat[:, TERMS.tolist().index([1, 0])] = 0.01
    for degrees in ([2, 0], [0, 2]):
        log_flat[:, TERMS.tolist().index(degrees)] = -0.02 * (1 + np.arange(channels))
    of_glow[:, TERMS.tolist().index([0, 1])] = glow
    roots = random.normal(0, 1e-3, (2, channels, count, count))
    covariances = roots @ roots.swapaxes(-1, -2) / count
    return Illumination("Camera", np.arange(tiles), shape, log_flat, of_glow, *covariances)


def full_correction(light: Illumination) -> Correction:
    """Return a correction with every term, the same in all channels."""
    terms = (GAIN, OFFSET, 0.1, -0.2, 1e-3, -2e-3, 3e-3, 1e-5, -2e-5, 3e-5, -4e-5)
    channels = len(light.log_flat)
    bias = np.full(channels, BIAS * light.glow.any())
    return Correction(*(np.full(channels, term) for term in terms), bias=bias, illumination=light)


def true_flat(shape: tuple[int, int], channel: int = 0) -> np.ndarray:
    """Return F of `illumination` by its formula."""
    y, x = ((np.arange(length) - (length - 1) / 2) / (length / 2) for length in shape)
    strength = -0.02 * (1 + channel)
    second = [strength * (3 * axis**2 - 1) / 2 for axis in (x, y)]
    return np.exp(0.01 * x + second[0] + second[1][:, None])


def truth(data: np.ndarray, channel: int = 0) -> np.ndarray:
    """Return the corrected pixels ``(H, W)`` by the formula."""
    y, x = (np.arange(length) - (length - 1) / 2 for length in data.shape)
    y = y[:, None]
    glow = 3.0 * y / (data.shape[0] / 2)
    surface = 0.1 * x - 0.2 * y + 1e-3 * x**2 - 2e-3 * x * y + 3e-3 * y**2
    surface = surface + 1e-5 * x**3 - 2e-5 * x**2 * y + 3e-5 * x * y**2 - 4e-5 * y**3
    light = GAIN * (data.astype(float) - glow) + OFFSET - BIAS
    return light / true_flat(data.shape, channel) + BIAS + surface


# ---- applied ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_correction_has_the_published_formula(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Glow, F, slopes and second order are applied, in strips as in one piece."""
    data = np.stack([simulated()[0].data] * channels)
    correction = full_correction(illumination(channels=channels))
    expected = np.stack([truth(plane, channel) for channel, plane in enumerate(data)])
    np.testing.assert_allclose(correct(data, correction), expected, rtol=1e-6)
    monkeypatch.setattr("zemosaic.photometry.apply.arrays.STRIP_PIXELS", 700)
    np.testing.assert_allclose(correct(data, correction), expected, rtol=1e-6)


def save_with_companions(path: Path) -> Path:
    """Write an image with its error, variance, weight and mask."""
    tile = simulated()[0]
    header = tile.wcs.to_header()
    header.update({"MAGZERO": 25.0, "SKY": 1000.0})
    images = [fits.PrimaryHDU(), fits.ImageHDU(tile.data, header, "SCI")]
    for name in ("ERR", "VAR", "WHT", "DQ"):
        images.append(fits.ImageHDU(np.full(SHAPE, 2, np.float32), name=name))
    fits.HDUList(images).writeto(path)
    return path


def test_companions_follow_gain_and_illumination_pixel_by_pixel(tmp_path: Path) -> None:
    """Errors by gain / F, variances by its square, weights by its inverse square."""
    path = save_with_companions(tmp_path / "a.fits")
    tile = open_tile(path, hdu=1)
    out = write_corrected([(tile, full_correction(illumination()))], tmp_path / "out", run="12ab")
    factor = GAIN / true_flat(SHAPE)
    with fits.open(out) as hdus:
        np.testing.assert_allclose(hdus["SCI"].data, truth(simulated()[0].data), rtol=1e-6)
        for name, power in (("ERR", 1), ("VAR", 2), ("WHT", -2), ("DQ", 0)):
            np.testing.assert_allclose(hdus[name].data, 2 * factor**power, rtol=1e-6)
        header = hdus["SCI"].header
    curves = [header[f"ZECU{axes}0"] for axes in ("XX", "XY", "YY")]
    assert curves == [1e-3, -2e-3, 3e-3]
    assert [header[f"ZE{axes}0"] for axes in ("XXX", "XYY")] == [1e-5, 3e-5]
    assert header["ZEILLUM"] == illumination().digest
    assert header["MAGZERO"] == pytest.approx(25 + 2.5 * np.log10(GAIN))
    assert header.comments["SKY"].startswith("before correction")
    history = "".join(header["HISTORY"])
    assert "(1.25 * (data - glow) + -40 - 12) / F + 12 + 0.1 * (x - x0)" in history


def test_one_error_image_for_channels_of_different_illumination_stays(tmp_path: Path) -> None:
    """It cannot follow all channels, and HISTORY says so."""
    data = np.stack([simulated()[0].data] * 3)
    image = fits.ImageHDU(data, simulated()[0].wcs.to_header(), "SCI")
    error = fits.ImageHDU(np.full(SHAPE, 2, np.float32), name="ERR")
    fits.HDUList([fits.PrimaryHDU(), image, error]).writeto(tmp_path / "a.fits")
    tile = open_tile(tmp_path / "a.fits", hdu=1)
    light = illumination(channels=3)
    out = write_corrected([(tile, full_correction(light))], tmp_path / "out")
    with fits.open(out) as hdus:
        assert (hdus["ERR"].data == 2).all()
        assert "whose channels differ" in "".join(hdus["ERR"].header["HISTORY"])


def test_the_mosaic_is_free_of_the_illumination(tmp_path: Path) -> None:
    """A sky of one level that tiles record through F is flat in the coadd."""
    flat = 1000 * true_flat(SHAPE)
    light = replace(illumination(glow=0), tiles=np.arange(2))
    correction = Correction(np.ones(1), np.zeros(1), illumination=light)
    tiles = [tile_from_array(flat, tile.wcs) for tile in simulated()[:2]]
    write_mosaic([(tile, correction) for tile in tiles], tmp_path / "m.fits")
    assert np.nanmax(np.abs(fits.getdata(tmp_path / "m.fits") - 1000)) < 0.01


# ---- figures ----------------------------------------------------------------------------------


def test_the_loss_in_the_corners_is_that_of_the_polynomial() -> None:
    """Without the linear term; its error is that of many draws of the coefficients."""
    light = illumination(channels=2)
    assert light.corner_loss(0)[0] == pytest.approx(1 - np.exp(-0.06), abs=1e-12)
    assert light.corner_loss(1)[0] == pytest.approx(1 - np.exp(-0.12), abs=1e-12)
    random = np.random.default_rng(2)
    draws = random.multivariate_normal(light.log_flat[0], light.log_flat_cov[0], 3000)
    losses = [replace(light, log_flat=draw[None]).corner_loss(0)[0] for draw in draws]
    assert light.corner_loss(0)[1] == pytest.approx(np.std(losses), rel=0.06)
    assert light.glow_range(0)[0] == pytest.approx(6.0)


def test_the_summary_has_a_line_for_each_kind() -> None:
    """Less or more light, for each channel; the instrument only if there are several."""
    light = illumination()
    lines = dict(describe_illuminations([light], "adu"))
    assert lines["illumination"].startswith("5.8 % less light in the corners (± ")
    assert lines["illumination"].endswith("shared by 4 tiles")
    assert lines["glow"].startswith("up to 6 adu (± ")
    brighter = replace(light, log_flat=-light.log_flat, glow=0 * light.glow)
    ((kind, text),) = describe_illuminations([brighter], "adu")
    assert kind == "illumination"
    assert text.startswith("6.2 % more light")
    texts = [text for _, text in describe_illuminations([light, brighter], "adu")]
    assert all(text.endswith("of Camera") for text in texts)


# ---- a run ------------------------------------------------------------------------------------


@pytest.fixture
def with_illumination(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives every later solution some illuminations."""

    def give(*lights: Illumination) -> None:
        solve = solve_stage.solve

        def solve_with(*arguments: Any, **named: Any) -> Solution:
            solution = solve(*arguments, **named)
            curve, bias = (np.full_like(solution.gain, value) for value in (1e-3, BIAS))
            return replace(solution, illuminations=lights, curve_xx=curve, bias=bias)

        monkeypatch.setattr(solve_stage, "solve", solve_with)

    return give


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Write four tiles, and return their paths."""
    paths = []
    for number, tile in enumerate(simulated()):
        header = tile.wcs.to_header()
        header.update({"INSTRUME": "Camera", "FILTER": "R" if number < 3 else "V"})
        paths.append(str(tmp_path / f"t{number}.fits"))
        fits.PrimaryHDU(tile.data, header).writeto(paths[-1])
    return paths


def test_a_run_writes_and_applies_what_the_tiles_share(
    files: list[str],
    tmp_path: Path,
    zemosaic: Callable[..., Run],
    with_illumination: Callable[..., None],
) -> None:
    """Summary, tables, illumination.fits, corrected files and report agree with one another."""
    light = illumination()
    with_illumination(light)
    folder, out = tmp_path / "run", tmp_path / "out"
    run = zemosaic("intertile", *files, "-o", str(folder), "--pool", "serial", "--apply", str(out))
    assert run.code == 0, run.err
    assert "illumination 5.8 % less light in the corners" in run.out + run.err
    table = Table.read(folder / "corrections.ecsv", format="ascii.ecsv")
    assert (table["curve_xx"] == 1e-3).all()
    assert str(table["curve_xx"].unit) == "adu / pix2"
    assert "- bias) / F + bias + slope_x" in table.meta["formula"]
    assert "instrument" not in table.colnames
    (read,) = read_illuminations(folder / "illumination.fits")
    np.testing.assert_array_equal(read.factor(), light.factor())
    np.testing.assert_array_equal(read.glow_cov, light.glow_cov)
    assert read.tiles.tolist() == [0, 1, 2, 3]
    assert read.digest == light.digest
    assert replace(light, glow=light.glow + 1).digest != light.digest
    assert (table["bias"] == BIAS).all()
    solution = calibrate(files, Settings(), "serial", [])
    corrected = fits.getdata(out / "t2.fits")
    expected = correct(simulated()[2].data, solution.correction(2))
    np.testing.assert_allclose(corrected, expected, rtol=1e-6)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Illumination: 5.8 % less light in the corners" in page
    assert 'alt="Illumination"' in page
    assert 'alt="Glow, adu"' in page.replace("ADU", "adu")
    assert "offset − bias) / illumination + bias + a surface per tile" in page


def test_illumination_fits_has_images_with_errors(
    files: list[str],
    tmp_path: Path,
    zemosaic: Callable[..., Run],
    with_illumination: Callable[..., None],
) -> None:
    """F on a grid of at most 128 cells that its keywords place on the tile; two instruments."""
    large = illumination(shape=(300, 500), tiles=3)
    with_illumination(large, replace(illumination(glow=0), tiles=np.array([3]), name="Other"))
    folder = tmp_path / "run"
    assert zemosaic("intertile", *files, "-o", str(folder), "--pool", "serial").code == 0
    with fits.open(folder / "illumination.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        flat, error, header = hdus["FLAT1"].data, hdus["FLATERR1"].data, hdus["FLAT1"].header
    assert names[1:7] == ["FLAT1", "FLATERR1", "GLOW1", "GLOWERR1", "TERMS1", "TILES1"]
    assert names[7:] == ["FLAT2", "FLATERR2", "TERMS2", "TILES2"]
    assert flat.shape == (1, 77, 128)
    assert header["INSTRUME"] == "Camera"
    assert header["NTILES"] == 3
    x = header["CRVAL1"] + (100 + 1 - header["CRPIX1"]) * header["CDELT1"]
    y = header["CRVAL2"] + (30 + 1 - header["CRPIX2"]) * header["CDELT2"]
    place = (2 * (x - 0.5) / 500 - 1, 2 * (y - 0.5) / 300 - 1)
    assert flat[0, 30, 100] == pytest.approx(large.at(*map(np.array, place))[0][0], rel=1e-6)
    assert (error > 0).all()
    assert np.isfinite(error).all()
    table = Table.read(folder / "corrections.ecsv", format="ascii.ecsv")
    assert list(table["instrument"]) == ["Camera"] * 3 + ["Other"]


def test_a_run_without_illumination_leaves_no_file_of_an_earlier_one(
    files: list[str], tmp_path: Path, zemosaic: Callable[..., Run]
) -> None:
    """No file, no line in the summary, no part of the page."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "illumination.fits").write_bytes(b"old")
    run = zemosaic("intertile", *files, "-o", str(folder), "--pool", "serial", "--model", "offset")
    assert run.code == 0
    assert not (folder / "illumination.fits").exists()
    assert "illumination" not in run.out + run.err
    assert "What the tiles share" not in (folder / "report.html").read_text(encoding="utf-8")


# ---- instruments ------------------------------------------------------------------------------


def labels(monkeypatch: pytest.MonkeyPatch, tiles: Any, **options: Any) -> tuple[Any, list[str]]:
    """Return the instruments of the tiles of a run, and its notes."""
    seen, solve, notes = [], solve_stage.solve, []

    def spy(*arguments: Any, **named: Any) -> Solution:
        seen.append(named["instruments"])
        return solve(*arguments, **named)

    class Notes:
        def handle_batch(self, events: Any) -> None:
            notes.extend(getattr(event, "message", "") for event in events)

    monkeypatch.setattr(solve_stage, "solve", spy)
    calibrate(tiles, Settings(**options), "serial", [Notes()])
    return seen[0], notes


@pytest.mark.parametrize(
    ("option", "expected"),
    [("auto", [0, 0, 0, 1]), ("INSTRUME", [0] * 4), ("instrume, filter", [0, 0, 0, 1]),
     ("none", [-1] * 4)],
)  # fmt: skip
def test_headers_distinguish_instruments(
    option: str, expected: list[int], files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the filter counts; given keywords count alone; none shares nothing."""
    instruments, _ = labels(monkeypatch, files, instrument=option)
    assert instruments.labels.tolist() == expected
    if option == "auto":
        assert instruments.names == ("Camera R 128x96", "Camera V 128x96")


def test_shape_and_parity_distinguish_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop and a mirrored array are of other instruments."""
    tiles = [(tile.data, tile.wcs) for tile in simulated()]
    tiles[2] = tiles[2][0][:80], tiles[2][1]
    data, wcs = tiles[3]
    header = wcs.to_header()
    header["CRPIX1"] = data.shape[1] + 1 - header["CRPIX1"]
    header["CDELT1"] = -header["CDELT1"]
    for cross in ("PC1_2", "PC2_1"):
        header[cross] = -header.get(cross, 0.0)
    tiles[3] = data[:, ::-1], WCS(header)
    instruments, _ = labels(monkeypatch, tiles)
    assert instruments.labels.tolist() == [0, 0, 1, 2]
    assert instruments.names == ("128x96", "128x80", "128x96 mirrored")


def test_each_chip_of_a_file_is_an_instrument(tmp_path: Path) -> None:
    """The names of the extensions count in a file with several images, and only there."""
    images = [fits.PrimaryHDU()]
    for name, tile in zip(("CCD1", "CCD2"), simulated(), strict=False):
        images.append(fits.ImageHDU(tile.data, tile.wcs.to_header(), name))
    fits.HDUList(images).writeto(tmp_path / "chips.fits")
    first, second = open_tiles(tmp_path / "chips.fits", hdu="all")
    assert "CCD1" in first.instrument
    assert "CCD2" in second.instrument
    fits.HDUList(images[:2]).writeto(tmp_path / "one.fits")
    assert "CCD1" not in open_tile(tmp_path / "one.fits").instrument


def test_a_keyword_that_no_header_has_is_reported(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names it, and the other keywords count."""
    instruments, notes = labels(monkeypatch, files, instrument="FILTER,CHIPNO")
    assert instruments.labels.tolist() == [0, 0, 0, 1]
    (warning,) = [note for note in notes if "CHIPNO" in note]
    assert warning.startswith("no tile has the keyword CHIPNO")


def test_an_empty_keyword_is_a_usage_error() -> None:
    """A comma too many is an error of one line."""
    with pytest.raises(UserError, match="instrument is 'A,,B'"):
        Settings(instrument="A,,B")


# ---- the report -------------------------------------------------------------------------------


def test_the_picture_after_correction_is_free_of_the_illumination(tmp_path: Path) -> None:
    """Thumbnails are divided by F, so tiles that were recorded through it agree."""
    synthetic = SyntheticRun(tmp_path, grid_graph(4, 6), faults=False)
    synthetic.write()
    run, before = load_run(tmp_path)
    assert before is not None
    assert before.seams_after is not None
    shape = tuple(run.tiles[0].placement.shape)  # type: ignore[union-attr]
    light = illumination(shape, glow=0)
    light = replace(light, tiles=np.arange(len(run.tiles)))
    after = coadd_mosaic(tmp_path, replace(run, illuminations=[light]))
    assert after is not None
    assert after.after is not None
    assert before.after is not None
    ratio = before.after / after.after
    assert np.nanmax(ratio) == pytest.approx(light.factor().max(), rel=0.01)
    assert write_report(tmp_path)


def test_the_page_interpolates_an_illumination_finely() -> None:
    """Its table has F and the glow of every channel, at all places and on the edges."""
    rng = np.random.default_rng(3)
    light = illumination(channels=2)
    light.log_flat[:] = 0.02 * rng.normal(size=light.log_flat.shape)
    x, y = rng.uniform(-1, 1, (2, 3, 40, 50)).astype(np.float32)
    x[0, 0, :2], y[0, 0, :2] = (-1, 1), (1, -1)
    for found, exact in zip(coadd._light_at(light, x, y), light.at(x, y), strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-4)
