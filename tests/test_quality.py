"""Masks, weights, alpha channels and quality flags: which pixels are data, and how good."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import Settings, TileError, calibrate, open_tile, tile_from_array
from zemosaic.photometry.simulate import SimulatedTile
from zemosaic.photometry.tiles.mask_cover import mask_cover

SHAPE = (160, 200)
Intertile = Callable[..., Run]
Planes = Callable[[SimulatedTile, int], list[Any]]


@cache
def scene() -> tuple[SimulatedTile, ...]:
    """Return six tiles with stars and nebulosity."""
    return simulated(tiles=6, shape=SHAPE, overlap=0.4)


def holes(number: int) -> np.ndarray:
    """Return bad pixels: a corner and a few blobs."""
    rng = np.random.default_rng(number)
    bad = np.zeros(SHAPE, dtype=bool)
    bad[:40, :50] = True
    for y, x in rng.integers(0, 150, (20, 2)):
        bad[y : y + 4, x : x + 4] = True
    return bad


def write(
    folder: Path, planes: Planes, primary: dict[str, Any] | None = None, fill: float = 30_000.0
) -> list[Path]:
    """Write the tiles with wild bad pixels, and further HDUs."""
    paths = []
    for number, tile in enumerate(scene()):
        data = np.where(holes(number), np.float32(fill), tile.data)
        image = fits.ImageHDU(data, tile.wcs.to_header(), name="SCI")
        hdus = [fits.PrimaryHDU(), image, *planes(tile, number)]
        hdus[0].header.update(primary or {})
        paths.append(folder / tile.name)
        fits.HDUList(hdus).writeto(paths[-1])
    return paths


def gains(folder: Path) -> np.ndarray:
    """Return the gains in a run folder."""
    return np.asarray(Table.read(folder / "run" / "corrections.ecsv")["gain"])


@cache
def gains_with_nan() -> np.ndarray:
    """Return the gains of the tiles with NaN in place of bad pixels."""
    tiles = [
        (np.where(holes(number), np.nan, tile.data), tile.wcs)
        for number, tile in enumerate(scene())
    ]
    return calibrate(tiles, Settings(), pool="serial", observers=[]).gain[:, 0]


def mask(number: int, dtype: str = "u1", value: int = 1) -> np.ndarray:
    """Return the bad pixels with a value in place of true."""
    return (holes(number) * value).astype(dtype)


@pytest.mark.parametrize(
    ("planes", "options"),
    [
        (lambda t, n: [fits.ImageHDU(mask(n), name="MASK")], ["--mask-hdu", "MASK"]),
        (lambda t, n: [fits.ImageHDU(255 - mask(n) * 255, name="ALPHA")],
         ["--weight-hdu", "ALPHA"]),
        (lambda t, n: [fits.ImageHDU(np.where(holes(n), -1.0, 9.0), name="WHT")],
         ["--weight-hdu", "WHT"]),
        (lambda t, n: [fits.ImageHDU(np.where(holes(n), np.nan, 2e-9), name="IVAR")],
         ["--weight-hdu", "IVAR"]),
        (lambda t, n: [fits.CompImageHDU(mask(n, "i2", 8), name="FLAGS")],
         ["--mask-hdu", "FLAGS", "--mask-bits", "~8"]),
    ],
    ids=["mask", "alpha", "weights", "nan", "bits"],
)  # fmt: skip
def test_bad_pixels_are_those_of_nan(
    planes: Planes, options: list[str], tmp_path: Path, intertile: Intertile
) -> None:
    """A mask or constant weights give the gains of the same tiles with NaN."""
    assert intertile(*write(tmp_path, planes), *options).code == 0
    np.testing.assert_allclose(gains(tmp_path), gains_with_nan(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["mask", "weight"])
def test_companion_files_hold_masks_and_weights(
    kind: str, tmp_path: Path, intertile: Intertile
) -> None:
    """A pattern names the file beside each tile; a missing one costs its tile, with one line."""
    paths = write(tmp_path, lambda t, n: [])
    for number, path in enumerate(paths):
        plane = mask(number) if kind == "mask" else 1 - mask(number)
        fits.writeto(path.with_suffix(f".{kind}.fits"), plane)
    option = f"--{kind}"
    assert intertile(*paths, option, f"{{stem}}.{kind}.fits").code == 0
    np.testing.assert_allclose(gains(tmp_path), gains_with_nan(), rtol=1e-6)
    paths[2].with_suffix(f".{kind}.fits").unlink()
    result = intertile(*paths, option, f"{{stem}}.{kind}.fits")
    assert result.code == 1
    missing = f"{paths[2]}: has no {kind} file {paths[2].stem}.{kind}.fits"
    assert missing in result.err + result.out


def test_a_weight_map_given_as_a_mask_is_refused(tmp_path: Path) -> None:
    """Its zeros are bad, not its other values."""
    path = write(tmp_path, lambda t, n: [fits.ImageHDU(255 - mask(n) * 255, name="ALPHA")])[0]
    with pytest.raises(TileError, match=r"HDU ALPHA holds weights.*--weight-hdu"):
        open_tile(path, mask_hdu="ALPHA")


@pytest.mark.parametrize("highest", [1, 255, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_alpha_plane_is_a_mask(highest: int, channels: int, channels_last: bool) -> None:
    """The last plane of a grey or colour image with one value besides 0 is no channel."""
    tile = scene()[0]
    alpha = np.where(holes(0), 0, highest)
    cube = np.stack([tile.data] * channels + [alpha])
    made = tile_from_array(np.moveaxis(cube, 0, 2) if channels_last else cube, tile.wcs)
    assert made.channels == channels
    pixels = made.pixels()
    np.testing.assert_array_equal(np.isnan(pixels), np.broadcast_to(holes(0), pixels.shape))


def test_a_fourth_channel_with_data_stays_a_channel() -> None:
    """Noise, or a few levels, are data; so is a plane of zeros."""
    tile = scene()[0]
    for last in (tile.data, np.round(tile.data / 500), np.zeros(SHAPE)):
        assert tile_from_array(np.stack([tile.data] * 3 + [last]), tile.wcs).channels == 4


def test_opening_a_monochrome_tile_reads_no_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compressed image is decompressed when it is measured, not when its header is read."""
    tile = scene()[0]
    image = fits.CompImageHDU(tile.data, tile.wcs.to_header(), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "a.fits")
    monkeypatch.setattr(fits.CompImageHDU, "data", property(lambda hdu: pytest.fail("read")))
    assert open_tile(tmp_path / "a.fits").shape == SHAPE


def test_an_opaque_alpha_plane_changes_no_result() -> None:
    """RGBA tiles give the solution of their colours alone."""
    alpha = np.full(SHAPE, 65535.0)
    colours, with_alpha = (
        calibrate(
            [(np.stack([t.data] * 3 + extra), t.wcs) for t in scene()],
            Settings(), pool="serial", observers=[],
        )
        for extra in ([], [alpha])
    )  # fmt: skip
    np.testing.assert_array_equal(with_alpha.gain, colours.gain)


def test_an_inverted_mask_is_reported(tmp_path: Path, intertile: Intertile) -> None:
    """One line names the share of pixels that a mask leaves."""
    paths = write(tmp_path, lambda t, n: [fits.ImageHDU(mask(n) ^ 1, name="MASK")])
    result = intertile(*paths, "--mask-hdu", "MASK")
    assert "and 5 others: mask or weights leave only" in result.err


def test_weights_enter_the_coadd(tmp_path: Path, intertile: Intertile) -> None:
    """Where a bad tile has a low weight the coadd follows the good one."""
    tiles = scene()[:1] * 2
    paths = []
    for number, tile in enumerate(tiles):
        weight = np.full(SHAPE, 1.0)
        weight[:, :100] = 1e-4 if number else 1.0
        data = tile.data + np.where(np.arange(200) < 100, 500 * number, 0)
        hdus = [fits.PrimaryHDU(data, tile.wcs.to_header()), fits.ImageHDU(weight, name="WHT")]
        paths.append(tmp_path / f"{number}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    for options in (["--weight-hdu", "WHT"], []):
        intertile(*paths, *options, "--mosaic", tmp_path / "m.fits", "--model", "offset")
        offset = Table.read(tmp_path / "run" / "corrections.ecsv")["offset"][0] if options else 250
        left = fits.getdata(tmp_path / "m.fits")[:, 20:90]
        assert np.nanmedian(left) - np.median(tiles[0].data[:, 20:90]) == pytest.approx(
            offset, abs=10
        )


# ---- quality flags ----------------------------------------------------------------------------


def jwst(tile: SimulatedTile, number: int) -> list[Any]:
    """Return data quality in which 40 % of the pixels have a harmless flag (JUMP_DET)."""
    jumps = np.random.default_rng(number).random(SHAPE) < 0.4
    quality = (jumps * 4 | holes(number) * 1).astype("u4")
    return [fits.ImageHDU(quality, name="DQ")]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--mask-hdu", "DQ"],
        ["--mask-bits", "~DO_NOT_USE+NON_SCIENCE"],
        ["--mask-hdu", "DQ", "--mask-bits", "~1"],
        ["--mask-hdu", "DQ", "--mask-bits", "JUMP_DET,SATURATED"],
        ["--mask-hdu", "DQ", "--mask-bits", "4"],
    ],
)
def test_the_data_quality_of_jwst_leaves_out_bad_pixels_alone(
    options: list[str], tmp_path: Path, intertile: Intertile
) -> None:
    """By default, by names and by numbers; pixels with a repaired jump are data."""
    paths = write(tmp_path, jwst, {"TELESCOP": "JWST"})
    result = intertile(*paths, *options, "-v")
    assert result.code == 0
    assert ("6 tiles have data quality (DQ)" in result.err) == ("--mask-hdu" not in options)
    np.testing.assert_allclose(gains(tmp_path), gains_with_nan(), rtol=1e-6)


def test_data_quality_can_be_ignored(tmp_path: Path) -> None:
    """--mask-hdu none reads no mask; other observatories have none by default."""
    path = write(tmp_path, jwst, {"TELESCOP": "JWST"})[0]
    assert not open_tile(path, mask_hdu="none").has_mask
    quality = mask(0, "i2")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["TELESCOP"] = "CELESTRON"
        hdus["DQ"] = fits.ImageHDU(quality, name="DQ")
    assert not open_tile(path).has_mask


def test_data_quality_without_a_telescope_is_known_by_its_type(tmp_path: Path) -> None:
    """Flags of 32 bits without sign are those of JWST, also in a file without TELESCOP."""
    tile = open_tile(write(tmp_path, jwst)[0])
    np.testing.assert_array_equal(np.isnan(tile.pixels()[0]), holes(0))


def test_hot_and_warm_pixels_of_hst_are_data(tmp_path: Path) -> None:
    """Saturated pixels and cosmic rays are not."""
    flags = np.zeros(SHAPE, dtype="i2")
    flags[0, :6] = 16, 64, 80, 256, 4096, 4
    path = write(tmp_path, lambda t, n: [fits.ImageHDU(flags, name="DQ")], {"TELESCOP": "HST"})[0]
    bad = np.isnan(open_tile(path).pixels()[0])
    assert bad[0, :6].tolist() == [False, False, False, True, True, True]


def rubin(tile: SimulatedTile, number: int) -> list[Any]:
    """Return a mask with planes by name, DETECTED on all sources."""
    bright = tile.data > np.median(tile.data) + 60
    plane = fits.ImageHDU((bright * 32 | holes(number) * 1).astype("i4"), name="MASK")
    plane.header.update({"MP_BAD": 0, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_NO_DATA": 8})
    return [plane]


def test_detected_sources_are_data(tmp_path: Path, intertile: Intertile) -> None:
    """Of the planes of Rubin only those of bad pixels count."""
    paths = write(tmp_path, rubin)
    assert intertile(*paths, "--mask-hdu", "MASK").code == 0
    np.testing.assert_allclose(gains(tmp_path), gains_with_nan(), rtol=1e-6)
    assert intertile(*paths, "--mask-hdu", "MASK", "--mask-bits", "DETECTED").code == 0
    np.testing.assert_allclose(gains(tmp_path), gains_with_nan(), rtol=1e-6)


def test_a_mask_over_the_sources_is_reported(tmp_path: Path, intertile: Intertile) -> None:
    """If the user wants all flags, one line names the consequence."""
    paths = write(tmp_path, rubin)
    result = intertile(*paths, "--mask-hdu", "MASK", "--mask-bits", "0")
    assert "covers most of the bright pixels" in result.err
    assert "bright pixels" not in intertile(*paths, "--mask-hdu", "MASK").err
    cover = mask_cover(open_tile(paths[0], mask_hdu="MASK", mask_bits=0))
    assert cover is not None
    assert cover.bright > 0.9


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("~WRONG", "WRONG.*its flags are BAD, DETECTED, NO_DATA"),
        ("~4+", "--mask-bits"),
    ],
)
def test_an_unknown_flag_is_named(bits: str, message: str, tmp_path: Path) -> None:
    """The line names the flags that the mask has."""
    with pytest.raises(TileError, match=message) as caught:
        open_tile(write(tmp_path, rubin)[0], mask_hdu="MASK", mask_bits=bits)
    assert "\n" not in str(caught.value)
