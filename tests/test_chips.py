"""Files with several images: each chip of a camera is a tile, error and mask planes are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from tests.helpers.tiles import simulated
from zemosaic import Settings, TileError, calibrate, open_tile, open_tiles
from zemosaic.cli import run as run_command
from zemosaic.errors import UserError
from zemosaic.report.build import load_run

#: Tiles of the scene that are the chips of each exposure.
EXPOSURES = ((0, 1), (2, 3))


def image(data: np.ndarray, name: str = "", ver: int = 1, **cards: Any) -> fits.ImageHDU:
    """Return an image with a WCS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [30, 20], [-1e-3, 1e-3]
    hdu = fits.ImageHDU(data, wcs.to_header())
    if name:
        hdu.header["EXTNAME"], hdu.header["EXTVER"] = name, ver
    hdu.header.update(cards)
    return hdu


def flat(level: float = 1.0, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Return an image of one level."""
    return np.full(shape, level, dtype=np.float32)


def write(path: Path, *hdus: Any) -> Path:
    """Write HDUs after an empty primary HDU."""
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path


def hst(path: Path) -> Path:
    """Write two chips with their errors and flags, as of HST's cameras."""
    hdus = []
    for ver in (1, 2):
        hdus.append(image(flat(ver), "SCI", ver, CRPIX1=40.0 * ver))
        hdus.append(image(flat(0.5), "ERR", ver, CRPIX1=40.0 * ver))
        hdus.append(fits.ImageHDU(np.zeros((20, 30), "i2"), name="DQ", ver=ver))
    return write(path, *hdus)


@pytest.fixture
def exposures(tmp_path: Path) -> list[Path]:
    """Two files with two chips each, which overlap as the four tiles of a scene do."""
    files = []
    for number, chips in enumerate(EXPOSURES):
        hdus = [
            fits.ImageHDU(simulated()[k].data, simulated()[k].wcs.to_header(), name="SCI", ver=v)
            for v, k in enumerate(chips, 1)
        ]
        files.append(write(tmp_path / f"e{number}.fits", *hdus))
    return files


def names(path: Path, hdu: Any = None) -> list[str]:
    """Return what distinguishes the tiles of a file in their names."""
    return [tile.name.removeprefix(path.name) for tile in open_tiles(path, hdu=hdu)]


def test_all_chips_of_one_name_are_tiles(tmp_path: Path) -> None:
    """SCI,1 and SCI,2 are two tiles with their own pixels; ERR and DQ are none."""
    path = hst(tmp_path / "a.fits")
    tiles = open_tiles(path)
    assert [tile.name for tile in tiles] == ["a.fits[SCI,1]", "a.fits[SCI,2]"]
    assert [tile.pixels()[0, 0, 0] for tile in tiles] == [1, 2]


@pytest.mark.parametrize(
    ("hdu", "expected"),
    [
        ("SCI", ["[SCI,1]", "[SCI,2]"]),
        ("sci", ["[SCI,1]", "[SCI,2]"]),
        ("SCI,1,2", ["[SCI,1]", "[SCI,2]"]),
        ("SCI,2+SCI,1", ["[SCI,2]", "[SCI,1]"]),
        ("1,4", ["[SCI,1]", "[SCI,2]"]),
        ("1+SCI", ["[SCI,1]", "[SCI,2]"]),
        ("all", ["[SCI,1]", "[SCI,2]"]),
        ("SCI,2", [""]),
        (("SCI", 2), [""]),
        (4, [""]),
        ("4", [""]),
    ],
)
def test_images_are_selected(hdu: Any, expected: list[str], tmp_path: Path) -> None:
    """By name, name and version, numbers, or all; a file with one tile keeps its plain name."""
    path = hst(tmp_path / "a.fits")
    assert names(path, hdu) == expected
    if expected == [""]:
        assert open_tile(path, hdu=hdu).pixels()[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("hdu", "message"),
    [
        ("SCI,3", "has no HDU SCI,3; it has 0 PRIMARY, 1 SCI,1, 2 ERR,1, .*6 DQ,2$"),
        ("SCI,x", "'SCI,x' is no HDU; give it like SCI,2 or SCI or 1,4 or all$"),
        ("0", "HDU 0 holds no image; choose another with --hdu$"),
        (9, "has no HDU 9; "),
        (None, r"holds 2 images; choose one, as in a\.fits\[SCI,1\], or use open_tiles$"),
    ],
)
def test_a_selection_that_fails_is_one_line(hdu: Any, message: str, tmp_path: Path) -> None:
    """The error names the file, the selection and what there is."""
    with pytest.raises(TileError, match=r"a\.fits: " + message):
        open_tile(hst(tmp_path / "a.fits"), hdu=hdu)


def test_chips_with_numbered_names_are_tiles(tmp_path: Path) -> None:
    """As of DECam (S1, N1) or unnamed and compressed; planes at the same place are none."""
    chips = [image(flat(), name, CRPIX1=40.0 * k) for k, name in enumerate(("S29", "S30", "N1"))]
    planes = [image(flat(), "S29_WHT"), image(flat(), "BPM7", CRPIX1=40.0), image(flat(), "S5")]
    assert names(write(tmp_path / "a.fits", *chips, *planes)) == ["[S29]", "[S30]", "[N1]"]
    euclid = [
        image(flat(), f"CCDID {k}-1.{plane}", CRPIX1=40.0 * k)
        for k in (1, 2)
        for plane in ("SCI", "RMS", "FLG")
    ]
    assert names(write(tmp_path / "c.fits", *euclid)) == ["[CCDID 1-1.SCI]", "[CCDID 2-1.SCI]"]
    packed = [
        fits.CompImageHDU(flat(), image(flat(), CRPIX1=40.0 * k).header, compression_type="RICE_1")
        for k in range(3)
    ]
    assert names(write(tmp_path / "b.fits.fz", *packed)) == ["[1]", "[2]", "[3]"]


@pytest.mark.parametrize(
    "other",
    [
        image(flat(), "WHT"),
        image(flat(), "VAR_POISSON", CRPIX1=9.0),
        image(flat(), "TEMPLATE", CRPIX1=9.0),
        image(flat(), "SCI_ERR", CRPIX1=9.0),
        image(flat(shape=(5, 7)), "SCI2", CRPIX1=9.0),
        image(flat(), "SCI2", CD1_1=-1e-3, CD2_2=1e-3, CDELT1=1.0, CDELT2=1.0),
        fits.ImageHDU(flat(), name="SCI", ver=2),
        fits.ImageHDU(flat()),
    ],
    ids=["weight", "variance", "template", "error", "thumbnail", "same place", "no WCS", "unnamed"],
)
def test_other_images_are_no_tiles(other: Any, tmp_path: Path) -> None:
    """Planes, previews and images without a place on the sky; the file keeps its plain name."""
    for name in ("SCI", "SCI1"):
        assert names(write(tmp_path / "a.fits", image(flat(), name), other)) == [""]


def test_an_image_without_wcs_gives_way_to_one_with_it(tmp_path: Path) -> None:
    """A preview in the primary HDU is not taken for the tile."""
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(flat(7)), image(flat(3), "SCI")]).writeto(path)
    assert open_tile(path).pixels()[0, 0, 0] == 3


def test_a_mask_is_that_of_its_chip(tmp_path: Path) -> None:
    """A mask is found by the EXTVER of the image; one that is missing is an error."""
    path = hst(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus["DQ", 1].data[0, 0] = hdus["DQ", 2].data[1, 1] = 4
    first, second = (np.isnan(tile.pixels()[0]) for tile in open_tiles(path, mask_hdu="DQ"))
    assert np.argwhere(first).tolist() == [[0, 0]]
    assert np.argwhere(second).tolist() == [[1, 1]]
    with pytest.raises(TileError, match="HDU 3 cannot be the mask of several images; give a name"):
        open_tiles(path, mask_hdu=3)
    with fits.open(path, mode="update") as hdus:
        hdus["DQ", 2].header["EXTVER"] = 3
    with pytest.raises(TileError, match=r"has 0 HDUs DQ for the image SCI,2; give one of the same"):
        open_tiles(path, mask_hdu="DQ")


def test_every_chip_is_calibrated(exposures: list[Path], tmp_path: Path) -> None:
    """Chips give the corrections of the same images in files of their own, and are so numbered."""
    singles = [
        write(tmp_path / f"t{k}.fits", fits.ImageHDU(tile.data, tile.wcs.to_header()))
        for k, tile in enumerate(simulated())
    ]
    expected, solution = calibrate(singles, pool="serial"), calibrate(exposures, pool="serial")
    for name in ("gain", "offset", "gain_err", "offset_err"):
        np.testing.assert_array_equal(getattr(solution, name), getattr(expected, name))
    assert solution.names == (
        "e0.fits[SCI,1]",
        "e0.fits[SCI,2]",
        "e1.fits[SCI,1]",
        "e1.fits[SCI,2]",
    )
    assert [tile.name for tile in solution.tiles.values()] == list(solution.names)


@pytest.mark.parametrize("anchor", [1, "e1.fits", "e1.fits[SCI,1]", "e1.fits[sci,1]", "e1.fits[1]"])
def test_an_anchor_is_a_file_or_a_chip(anchor: int | str, exposures: list[Path]) -> None:
    """A file with several chips stands for its first."""
    solution = calibrate(exposures, Settings(anchor=anchor), pool="serial")
    assert (solution.gain[2, 0], solution.offset[2, 0]) == (1, 0)


@pytest.mark.parametrize("anchor", ["e1.fits[SCI,3]", "e2.fits"])
def test_an_unknown_anchor_is_a_mistake_of_the_user(anchor: str, exposures: list[Path]) -> None:
    """It is named in one line."""
    with pytest.raises(UserError, match="is none of the tiles; give one as it stands"):
        calibrate(exposures, Settings(anchor=anchor), pool="serial")


def test_a_bad_chip_costs_itself(exposures: list[Path]) -> None:
    """A chip without a usable WCS fails under its own name; the indices stay as they are."""
    fits.setval(exposures[0], "CRVAL1", value="text", extname="SCI", extver=1)
    unreadable = exposures[0].with_name("broken.fits")
    unreadable.write_text("no FITS file")
    solution = calibrate([unreadable, *exposures], pool="serial")
    assert set(solution.failed) == {0, 1}
    assert "e0.fits[SCI,1]: its CRVAL1 is not a number" in solution.failed[1]
    assert np.isfinite(solution.gain[2:]).all()
    assert np.isnan(solution.gain[:2]).all()


def test_the_command_corrects_all_chips(
    exposures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One corrected file per input, each chip with its correction; the report has all tiles."""
    run, out = tmp_path / "run", tmp_path / "out"
    arguments = ["intertile", *map(str, exposures), "-o", str(run), "--apply", str(out)]
    mosaic = tmp_path / "m.fits"
    assert run_command([*arguments, "--mosaic", str(mosaic), "--pool", "serial"]) == 0
    output = capsys.readouterr()
    assert "4 tiles in 2 files" in output.err
    assert "4 of 4, in 1 group" in output.out
    table = Table.read(run / "corrections.ecsv")
    assert list(table["file"]) == [f"e{e}.fits[SCI,{v}]" for e in (0, 1) for v in (1, 2)]
    corrected = sorted(out.iterdir())
    assert [path.name for path in corrected] == ["e0.fits", "e1.fits"]
    rows = iter(table)
    for before, after in zip(exposures, corrected, strict=True):
        for ver in (1, 2):
            row = next(rows)
            expected = row["gain"] * fits.getdata(before, ("SCI", ver)) + row["offset"]
            np.testing.assert_allclose(fits.getdata(after, ("SCI", ver)), expected, rtol=1e-5)
    data = load_run(run)[0]
    assert [tile.name for tile in data.tiles] == list(table["file"])
    assert all(tile.placement and not tile.failed for tile in data.tiles)
    assert np.isfinite(fits.getdata(mosaic)).mean() > 0.5


def test_the_report_numbers_tiles_by_file_and_chip(exposures: list[Path], tmp_path: Path) -> None:
    """Also after files that cannot be read, and with chips that cannot."""
    fits.setval(exposures[0], "CRVAL1", value="text", extname="SCI", extver=2)
    broken, other = (exposures[0].with_name(f"broken{k}.fits") for k in (1, 2))
    for file in (broken, other):
        file.write_text("no FITS file")
    run, inputs = tmp_path / "run", [broken, exposures[0], other, exposures[1]]
    arguments = ["intertile", *map(str, inputs), "-o", str(run), "--pool", "serial"]
    assert run_command(arguments) == 1
    data = load_run(run)[0]
    expected = ["broken1.fits", "e0.fits[SCI,1]", "e0.fits[SCI,2]", "broken2.fits"]
    assert [t.name for t in data.tiles] == [*expected, "e1.fits[SCI,1]", "e1.fits[SCI,2]"]
    assert [bool(tile.failed) for tile in data.tiles] == [True, False, True, True, False, False]
    assert [len(tile.gain) for tile in data.tiles] == [1] * 6
    assert (run / "report.html").exists()


def test_a_chip_that_stays_raw_is_named(
    exposures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corrected file keeps a chip that failed as it was, and a line says which."""
    fits.setval(exposures[1], "CRVAL1", value="text", extname="SCI", extver=2)
    arguments = ["intertile", *map(str, exposures), "-o", str(tmp_path / "run"), "--no-report"]
    arguments += ["--pool", "serial", "--apply", str(tmp_path / "out")]
    assert run_command(arguments) == 1
    assert f"e1.fits[SCI,2]: is not corrected in {tmp_path / 'out'}" in capsys.readouterr().err
    for ver, changed in ((1, True), (2, False)):
        data = [
            fits.getdata(path / "e1.fits", ("SCI", ver)) for path in (tmp_path, tmp_path / "out")
        ]
        assert np.array_equal(*data) != changed


def test_a_chip_is_given_with_its_file(exposures: list[Path], tmp_path: Path) -> None:
    """``file.fits[SCI,2]`` is that chip alone, unless a file has that very name."""
    inputs = [f"{exposures[0]}[SCI,2]", f"{exposures[1]}[1]", f"{exposures[0]}[1]"]
    solution = calibrate(inputs, pool="serial")
    assert solution.names == ("e0.fits[SCI,2]", "e1.fits[SCI,1]", "e0.fits[SCI,1]")
    for text, index in zip(inputs, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(open_tile(text).pixels()[0], simulated()[index].data)
    literal = write(tmp_path / "e0.fits[SCI,2]", image(flat(5)))
    assert open_tile(literal).pixels()[0, 0, 0] == 5
