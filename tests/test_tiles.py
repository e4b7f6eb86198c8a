"""Tiles: every kind of FITS image and array gives the same pixels and the same sky positions."""

from __future__ import annotations

import gc
import gzip
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.helpers.tiles import simulated
from zemosaic.photometry.tiles.axes import channel_axis, from_channels_first, to_channels_first
from zemosaic.photometry.tiles.sky import pixel_to_sky, unit_vectors
from zemosaic.photometry.tiles.tile import Tile, TileError, tile_from_array
from zemosaic.photometry.tiles.tile_files import open_tile

Save = Callable[..., Path]
IMAGE = simulated()[0].data
WCS_OF_IMAGE = simulated()[0].wcs
HEADER = WCS_OF_IMAGE.to_header()
COLOURS = simulated(rgb=True)[0].data
MASK = np.zeros(IMAGE.shape, dtype=np.uint8)
MASK[:7, 3:50] = 1


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes HDUs to a FITS file."""

    def write(*hdus: Any, name: str = "tile.fits") -> Path:
        fits.HDUList(list(hdus)).writeto(tmp_path / name)
        return tmp_path / name

    return write


def primary(data: np.ndarray, header: fits.Header = HEADER, **cards: Any) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(data, header)
    hdu.header.update(cards)
    return hdu


def image(data: np.ndarray | None, name: str, header: fits.Header | None = None) -> fits.ImageHDU:
    return fits.ImageHDU(data, header, name=name)


def add_cards(path: Path, *cards: bytes) -> None:
    """Append raw cards to the first header, including cards that astropy refuses to write."""
    data = bytearray(path.read_bytes())
    end = data.index(b"END" + b" " * 77)
    added = b"".join(card.ljust(80) for card in (*cards, b"END"))
    assert end + len(added) <= 2880, "the header would need another block"
    data[end : end + len(added)] = added
    path.write_bytes(data)


def separation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the angles in degrees between sky positions ``(N, 2)`` in degrees."""
    u, v = unit_vectors(np.deg2rad(a)), unit_vectors(np.deg2rad(b))
    return np.rad2deg(2 * np.arcsin(np.linalg.norm(u - v, axis=-1) / 2))


def corners_by_astropy(wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Return the outer corners, computed with astropy's high-level interface instead of ours."""
    h, w = shape
    sky = wcs.pixel_to_world([-0.5, w - 0.5, w - 0.5, -0.5], [-0.5, -0.5, h - 0.5, h - 0.5])
    return np.stack([sky.icrs.ra.deg, sky.icrs.dec.deg], axis=1)


# ---- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (IMAGE, IMAGE[None]),
        (IMAGE[None], IMAGE[None]),
        (IMAGE[..., None], IMAGE[None]),
        (COLOURS, COLOURS),
        (COLOURS[:2], COLOURS[:2]),
        (np.moveaxis(COLOURS, 0, -1), COLOURS),
        (COLOURS[None], COLOURS),
        (COLOURS[:, None], COLOURS),
        (IMAGE[None, None], IMAGE[None]),
    ],
    ids=["HW", "1HW", "HW1", "CHW", "2HW", "HWC", "1CHW", "C1HW", "11HW"],
)
def test_every_layout_gives_the_same_channels(
    data: np.ndarray, expected: np.ndarray, save: Save
) -> None:
    """Monochrome, channels first or last, degenerate axes: in a file as in an array."""
    for tile in (open_tile(save(primary(data))), tile_from_array(data, WCS_OF_IMAGE)):
        assert (tile.channels, tile.shape) == (len(expected), IMAGE.shape)
        pixels = tile.pixels()
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6), (5, 6, 3), (1, 1, 5, 6), (3, 1, 5, 6)])
def test_channels_first_is_inverted_for_every_layout(shape: tuple[int, ...]) -> None:
    """`from_channels_first` inverts `to_channels_first`: corrected files keep their shape."""
    data = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(from_channels_first(to_channels_first(data), shape), data)


@pytest.mark.parametrize("shape", [(7, 96, 128), (2, 3, 96, 128), (5,), ()])
def test_an_array_that_is_not_an_image_is_refused(shape: tuple[int, ...], save: Save) -> None:
    """An array with more than four channels or less than two axes; the error has its shape."""
    with pytest.raises(TileError, match=r"^array: shape \(.*\) is neither \(H, W\)"):
        tile_from_array(np.zeros(shape), WCS_OF_IMAGE)
    with pytest.raises(ValueError, match="neither"):
        channel_axis(shape)
    if len(shape) > 2:
        with pytest.raises(TileError, match=r"tile\.fits: shape .* another HDU with --hdu$"):
            open_tile(save(primary(np.zeros(shape, dtype=np.float32))))


def test_an_image_of_zero_size_is_refused(save: Save) -> None:
    """A file or an array without pixels is refused."""
    with pytest.raises(TileError, match=r"tile\.fits: has no pixels .* leave it out$"):
        open_tile(save(primary(np.zeros((0, 5), dtype=np.float32))))
    with pytest.raises(TileError, match=r"^array: has no pixels"):
        tile_from_array(np.zeros((3, 0, 5)), WCS_OF_IMAGE)


# ---- selection of the HDU ---------------------------------------------------------------------


def test_the_first_image_is_the_default(save: Save) -> None:
    """The first HDU with an image is read unless another is selected by number or name."""
    path = save(
        fits.PrimaryHDU(),
        fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.ones(3))], name="STARS"),
        image(IMAGE, "SCI", HEADER),
        image(IMAGE + 1, "OTHER", HEADER),
    )
    for hdu, offset in ((None, 0), (2, 0), ("SCI", 0), ("sci", 0), (3, 1), ("OTHER", 1)):
        np.testing.assert_array_equal(open_tile(path, hdu=hdu).pixels()[0], IMAGE + offset)


@pytest.mark.parametrize(
    ("hdu", "message"),
    [
        (9, "has no HDU 9; it has 0 PRIMARY, 1 STARS$"),
        ("SCI", "has no HDU SCI; it has 0 PRIMARY, 1 STARS$"),
        (1, "HDU 1 holds no image; choose another with --hdu$"),
    ],
)
def test_an_unusable_hdu_is_named(hdu: int | str, message: str, save: Save) -> None:
    """The error names the file, the selected HDU and the available ones."""
    column = fits.Column("a", "E", array=np.ones(3))
    path = save(primary(IMAGE), fits.BinTableHDU.from_columns([column], name="STARS"))
    with pytest.raises(TileError, match=r"tile\.fits: " + message):
        open_tile(path, hdu=hdu)


# ---- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_every_pixel_type_is_read_in_adu(kind: str, save: Save) -> None:
    """Signed and unsigned integers (with BZERO) and floats keep their values."""
    data = np.clip(IMAGE, 0, 250 if kind == "u1" else 30_000).astype(kind)
    if kind == "u2":
        data[:9] += 30_000
    path = save(primary(data))
    assert ("BZERO" in fits.getheader(path)) == (kind in ("u2", "u4"))
    np.testing.assert_array_equal(open_tile(path).pixels()[0], data.astype(np.float32))


def test_scaled_pixels_and_blanks_are_converted(save: Save) -> None:
    """BSCALE and BZERO are applied, and BLANK becomes NaN."""
    raw = np.arange(IMAGE.size, dtype=np.int16).reshape(IMAGE.shape)
    path = save(primary(raw))
    add_cards(path, b"BSCALE  = 0.5", b"BZERO   = 100.0", b"BLANK   = 77")
    pixels = open_tile(path).pixels()[0]
    assert np.isnan(pixels[raw == 77]).all()
    np.testing.assert_array_equal(pixels[raw != 77], 100 + 0.5 * raw[raw != 77])


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_compressed_images_are_read(kind: str, save: Save) -> None:
    """A tile-compressed image has the same pixels and corners as the plain one."""
    data = IMAGE.astype(kind)
    # Without quantization, floats are compressed without loss.
    hdu = fits.CompImageHDU(data, HEADER, compression_type="GZIP_1", quantize_level=0)
    tile = open_tile(save(fits.PrimaryHDU(), hdu))
    np.testing.assert_array_equal(tile.pixels()[0], data)
    np.testing.assert_array_equal(tile.corners, open_tile(save(primary(data), name="a")).corners)


def test_a_gzipped_file_is_read(save: Save, tmp_path: Path) -> None:
    """A ``.fits.gz`` file has the pixels of the plain one."""
    compressed = tmp_path / "tile.fits.gz"
    compressed.write_bytes(gzip.compress(save(primary(IMAGE)).read_bytes()))
    np.testing.assert_array_equal(open_tile(compressed).pixels()[0], IMAGE)


def test_values_that_are_not_finite_become_nan(save: Save) -> None:
    """NaN, infinities and values beyond the range of float32 become NaN without a warning."""
    data = IMAGE.astype(np.float64)
    data[0, :4] = np.nan, np.inf, -np.inf, 1e300
    for tile in (open_tile(save(primary(data))), tile_from_array(data, WCS_OF_IMAGE)):
        pixels = tile.pixels()[0]
        assert np.isnan(pixels[0, :4]).all()
        assert np.isnan(pixels).sum() == 4


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 96, 500])
@pytest.mark.parametrize(
    "data",
    [
        IMAGE, IMAGE.astype(">f8"), IMAGE.astype("i2"), IMAGE.astype("u2"), IMAGE[None, None],
        COLOURS, COLOURS[:, None], np.moveaxis(COLOURS, 0, -1), np.moveaxis(COLOURS, 0, -1)[None],
    ],
    ids=["f4", "f8", "i2", "u2", "11HW", "CHW", "C1HW", "HWC", "1HWC"],
)  # fmt: skip
def test_strips_are_the_tile_from_top_to_bottom(data: np.ndarray, rows: int, save: Save) -> None:
    """Strips of any height, of plain and compressed files and of arrays, all with a mask."""
    mask = image(MASK, "MASK")
    plain = save(primary(data), mask)
    compressed = plain.with_name("tile.fits.gz")
    compressed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    whole = open_tile(plain, mask_hdu="MASK").pixels()
    assert np.isnan(whole).any()
    for tile in (
        open_tile(plain, mask_hdu="MASK"),
        open_tile(compressed, mask_hdu="MASK"),
        tile_from_array(data, WCS_OF_IMAGE, MASK),
    ):
        strips = list(tile.strips(rows))
        assert {strip.shape[1] for strip in strips[:-1]} <= {rows}
        assert all(strip.dtype == np.float32 for strip in strips)
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), whole)


def test_strips_of_scaled_and_compressed_pixels(save: Save) -> None:
    """BSCALE, BZERO, BLANK and compression apply to strips as to the whole image."""
    raw = np.arange(IMAGE.size, dtype=np.int16).reshape(IMAGE.shape)
    path = save(primary(raw))
    add_cards(path, b"BSCALE  = 0.5", b"BZERO   = 100.0", b"BLANK   = 77")
    compressed = fits.CompImageHDU(IMAGE, HEADER, compression_type="GZIP_1", quantize_level=0)
    compressed_path = save(fits.PrimaryHDU(), compressed, name="compressed.fits")
    for tile in (open_tile(path), open_tile(compressed_path)):
        strips = np.concatenate(list(tile.strips(10)), axis=1)
        np.testing.assert_array_equal(strips, tile.pixels())
        assert np.isfinite(strips).any()


def test_a_truncated_file_is_a_one_line_error(save: Save) -> None:
    """Missing pixels are never invented, whether the file is read as a whole or in strips."""
    path = save(primary(IMAGE))
    path.write_bytes(path.read_bytes()[:-6_000])
    for read in (Tile.pixels, lambda tile: list(tile.strips(10))):
        with pytest.raises(
            TileError, match=r"tile\.fits: cannot be read as FITS .*; copy"
        ) as caught:
            read(open_tile(path))
        assert "\n" not in str(caught.value)


def test_a_file_with_a_damaged_header_is_closed(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file stays open until the garbage collector finds it."""
    path = save(primary(IMAGE))
    path.write_bytes(path.read_bytes().replace(b"NAXIS1", b"NAXISX", 1))
    left_open: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", left_open.append)
    with pytest.raises(TileError, match="cannot be read as FITS"):
        open_tile(path)
    gc.collect()
    assert not left_open


def test_pixels_are_a_copy() -> None:
    """Changing the result of `pixels` does not change the array of the tile."""
    data = IMAGE.copy()
    tile = tile_from_array(data, WCS_OF_IMAGE)
    tile.pixels()[:] = 0
    np.testing.assert_array_equal(data, IMAGE)


# ---- masks and weights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hdu",
    [
        image(MASK, "MASK"),
        image(MASK.astype(np.float32) * -0.5, "MASK"),
        fits.CompImageHDU(MASK, name="MASK"),
        image(MASK[None], "MASK"),
    ],
    ids=["uint8", "float", "compressed", "1HW"],
)
def test_masked_pixels_become_nan(hdu: Any, save: Save) -> None:
    """Pixels are NaN exactly where the mask is not 0; its HDU is selected by number or name."""
    path = save(primary(IMAGE), hdu)
    for mask_hdu in (1, "MASK"):
        pixels = open_tile(path, mask_hdu=mask_hdu).pixels()[0]
        np.testing.assert_array_equal(np.isnan(pixels), MASK != 0)
    assert np.isfinite(open_tile(path).pixels()).all()


def test_a_mask_applies_to_all_channels_or_to_each() -> None:
    """A mask ``(H, W)`` applies to all channels, a mask of the image's shape to each its own."""
    own = np.zeros(COLOURS.shape, dtype=bool)
    own[1, :9] = True
    for mask, expected in ((MASK, np.broadcast_to(MASK != 0, COLOURS.shape)), (own, own)):
        pixels = tile_from_array(COLOURS, WCS_OF_IMAGE, mask).pixels()
        np.testing.assert_array_equal(np.isnan(pixels), expected)
    last = tile_from_array(np.moveaxis(COLOURS, 0, -1), WCS_OF_IMAGE, np.moveaxis(own, 0, -1))
    np.testing.assert_array_equal(np.isnan(last.pixels()), own)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (image(MASK[:5], "MASK"), r"mask has the shape \(5, 128\), the image \(96, 128\); give a"),
        (image(None, "MASK"), "HDU MASK holds no mask; choose another with --mask-hdu$"),
        (
            fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.ones(3))], name="MASK"),
            "HDU MASK holds no mask; choose another with --mask-hdu$",
        ),
        (image(MASK, "FLAGS"), "has no HDU MASK; it has 0 PRIMARY, 1 FLAGS$"),
    ],
    ids=["shape", "empty", "table", "missing"],
)
def test_an_unusable_mask_is_a_one_line_error(mask: Any, message: str, save: Save) -> None:
    """A requested mask is never ignored silently."""
    path = save(primary(IMAGE), mask)
    # The shape is checked when pixels are read, everything else when the tile is opened.
    use = Tile.pixels if "shape" in message else repr
    with pytest.raises(TileError, match=r"tile\.fits: .*" + message) as caught:
        use(open_tile(path, mask_hdu="MASK"))
    assert "\n" not in str(caught.value)


def test_pixels_without_weight_become_nan() -> None:
    """Pixels are NaN unless their weight is above 0; weights of another shape are refused."""
    weight = np.ones(IMAGE.shape)
    weight[0, :3] = 0, -1, np.nan
    pixels = tile_from_array(IMAGE, WCS_OF_IMAGE, weight=weight).pixels()
    assert np.argwhere(np.isnan(pixels[0])).tolist() == [[0, 0], [0, 1], [0, 2]]
    with pytest.raises(TileError, match=r"^array: its weights have the shape \(5, 128\)"):
        tile_from_array(IMAGE, WCS_OF_IMAGE, weight=weight[:5])


# ---- WCS --------------------------------------------------------------------------------------


def move_axes(
    header: fits.Header, new_axes: dict[int, int], *cards: tuple[str, Any]
) -> fits.Header:
    """Return a header with its celestial axes at other positions, and with more cards."""
    moved = fits.Header()
    for old, new in new_axes.items():
        for keyword in ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT"):
            moved[f"{keyword}{new}"] = header[f"{keyword}{old}"]
        for old_other, new_other in new_axes.items():
            pc = header.get(f"PC{old}_{old_other}", float(old == old_other))
            moved[f"PC{new}_{new_other}"] = pc
    moved.update(dict(cards))
    return moved


FREQ = [("CTYPE", "FREQ"), ("CRVAL", 1.4e9), ("CDELT", 1e6), ("CRPIX", 1.0), ("CUNIT", "Hz")]
STOKES = [("CTYPE", "STOKES"), ("CRVAL", 1.0), ("CDELT", 1.0), ("CRPIX", 1.0)]


def number_cards(axis: int, cards: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(f"{keyword}{axis}", value) for keyword, value in cards]


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (COLOURS, move_axes(HEADER, {1: 1, 2: 2}, *number_cards(3, FREQ))),
        (
            IMAGE[None, None],
            move_axes(HEADER, {1: 1, 2: 2}, *number_cards(3, FREQ), *number_cards(4, STOKES)),
        ),
        (
            COLOURS[:, None],
            move_axes(HEADER, {1: 1, 2: 2}, *number_cards(3, STOKES), *number_cards(4, FREQ)),
        ),
        (np.moveaxis(COLOURS, 0, -1), move_axes(HEADER, {1: 2, 2: 3}, *number_cards(1, FREQ))),
    ],
    ids=["spectral cube", "radio 4-D", "radio 4-D, Stokes first", "spectral axis first"],
)
def test_the_celestial_axes_are_selected(data: np.ndarray, header: fits.Header, save: Save) -> None:
    """Spectral and degenerate axes, before or after the celestial ones, have no effect."""
    tile = open_tile(save(primary(data, header)))
    expected = corners_by_astropy(WCS_OF_IMAGE, IMAGE.shape)
    assert tile.wcs.naxis == 2
    assert separation(tile.corners, expected).max() < 1e-9
    assert tile.scale == pytest.approx(6.6e-4, rel=1e-6)


def test_a_colour_cube_with_sip_opens(save: Save) -> None:
    """A cube of three channels with SIP, which `WCS(header)` rejects, is read including SIP."""
    truth = simulated(rgb=True, sip=True)[0]
    path = save(primary(truth.data, truth.wcs.to_header(relax=True)))
    with pytest.raises(ValueError, match="SIP"):
        WCS(fits.getheader(path))
    tile = open_tile(path)
    expected = corners_by_astropy(truth.wcs, IMAGE.shape)
    assert separation(tile.corners, expected).max() < 1e-9
    h, w = IMAGE.shape
    undistorted = truth.wcs.wcs_pix2world(np.array([[w - 0.5, h - 0.5]]), 0)
    assert separation(tile.corners[2], undistorted) > 0.001 * tile.scale


def test_tpv_distortion_is_applied(save: Save) -> None:
    """The polynomial of TPV, as written by SCAMP, moves the image."""
    cards = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV2_1": 1.0}
    plain = open_tile(save(primary(IMAGE, **cards), name="a.fits"))
    distorted = open_tile(save(primary(IMAGE, **cards, PV1_0=0.01), name="b.fits"))
    centre = np.array([[(IMAGE.shape[1] - 1) / 2, (IMAGE.shape[0] - 1) / 2]])
    assert separation(plain.corners, tile_from_array(IMAGE, WCS_OF_IMAGE).corners).max() < 1e-9
    moved = separation(pixel_to_sky(plain.wcs, centre), pixel_to_sky(distorted.wcs, centre))
    assert moved == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("centre", [(0.0, 10.0), (359.999, -45.0), (83.0, 89.97), (12.0, -90.0)])
def test_corners_are_right_everywhere_on_the_sky(centre: tuple[float, float], save: Save) -> None:
    """At right ascension 0 and at the poles, a tile has the same size as elsewhere."""
    wcs = WCS_OF_IMAGE.deepcopy()
    wcs.wcs.crval = centre
    tile = open_tile(save(primary(IMAGE, wcs.to_header())))
    assert separation(tile.corners, corners_by_astropy(wcs, IMAGE.shape)).max() < 1e-9
    sides = separation(tile.corners, np.roll(tile.corners, -1, axis=0)) / 6.6e-4
    np.testing.assert_allclose(sides, [128, 96, 128, 96], rtol=1e-5)
    assert separation(tile.corners, np.array([centre])).max() < 81 * 6.6e-4


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CTYPE1": "", "CTYPE2": ""}, "has no celestial WCS; solve the plate first$"),
        ({"CTYPE1": "RA---FOO"}, "its WCS cannot be read .*; solve the plate again$"),
        ({"CTYPE2": "VELO"}, "its WCS cannot be read .*; solve the plate again$"),
        (
            {"PC1_1": 0.0, "PC1_2": 0.0},
            "singular, so its pixels have no area; solve the plate again$",
        ),
        ({"CRVAL1": "twelve"}, "its CRVAL1 is not a number; solve the plate again$"),
        (
            {"PC1_1": 9.0, "PC2_2": 9.0, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
            "spans .* degrees",
        ),
        (
            {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 41.1, "CRVAL2": 192.7},
            "has the declination first; swap the axes of the image$",
        ),
    ],
    ids=["none", "projection", "one axis", "singular", "text", "too large", "swapped"],
)
def test_an_unusable_wcs_is_a_one_line_error(
    cards: dict[str, Any], message: str, save: Save
) -> None:
    """The error of any defect of a WCS names the file and the remedy in one line."""
    with pytest.raises(TileError, match=r"tile\.fits: .*" + message) as caught:
        open_tile(save(primary(IMAGE, **cards)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wcs", [None, "TAN", WCS(naxis=2)], ids=["None", "text", "not celestial"])
def test_an_array_needs_a_celestial_wcs(wcs: Any) -> None:
    """Anything but a celestial WCS is refused, with the name of the tile."""
    with pytest.raises(
        TileError, match=r"^M 31: .*(give an astropy\.wcs\.WCS|solve the plate first)$"
    ):
        tile_from_array(IMAGE, wcs, name="M 31")


# ---- transfer between processes ---------------------------------------------------------------


@pytest.mark.parametrize("sip", [False, True])
def test_a_pickled_tile_keeps_its_position(sip: bool, save: Save) -> None:
    """The sky positions of files and arrays are bitwise equal in a worker and in its parent."""
    truth = simulated(sip=sip)[0]
    path = save(primary(truth.data, truth.wcs.to_header(relax=True)))
    pixels = np.array([[0, 0], [127.3, 95.7], [-0.5, 200.1]])
    for tile in (open_tile(path), tile_from_array(truth.data, truth.wcs)):
        expected = pixel_to_sky(tile.wcs, pixels)
        copy: Tile = pickle.loads(pickle.dumps(tile))
        np.testing.assert_array_equal(pixel_to_sky(copy.wcs, pixels), expected)
        np.testing.assert_array_equal(copy.corners, tile.corners)
        np.testing.assert_array_equal(copy.pixels(), tile.pixels())


def without_pc(**cards: Any) -> fits.Header:
    """Return the header without its PC matrix, and with other cards."""
    header = HEADER.copy()
    for key in ("PC1_1", "PC1_2", "PC2_1", "PC2_2"):
        header.remove(key, ignore_missing=True)
    header.update(cards)
    return header


@pytest.mark.parametrize(
    ("header", "has_parameters"),
    [
        (HEADER, True),
        (without_pc(CD1_1=-6.6e-4, CD1_2=1e-5 / 3, CD2_1=1e-5 / 7, CD2_2=6.6e-4), True),
        (without_pc(LONPOLE=170.0, RADESYS="FK5", EQUINOX=1975.0), True),
        (without_pc(CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", PV2_1=1.0, PV2_3=1 / 3), True),
        (without_pc(CROTA2=12.345), False),
        (
            without_pc(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_1=1.0, PV2_1=1.0, PV1_4=1 / 70),
            False,
        ),
    ],
    ids=["PC", "CD", "frame", "ZPN", "CROTA", "TPV"],
)
def test_every_kind_of_wcs_is_the_same_in_a_worker(
    header: fits.Header, has_parameters: bool, save: Save
) -> None:
    """Bitwise, whether its parameters suffice or the file has to be opened again."""
    path = save(primary(IMAGE, header))
    tile = open_tile(path)
    copy: Tile = pickle.loads(pickle.dumps(tile))
    if has_parameters:
        path.unlink()
    xy = np.random.default_rng(1).uniform(-50, 200, (100, 2))
    assert (copy.wcs_parameters is not None) == has_parameters
    truth = WCS(header) if has_parameters else open_tile(path).wcs
    np.testing.assert_array_equal(pixel_to_sky(copy.wcs, xy), pixel_to_sky(truth, xy))
    assert copy.wcs.wcs.radesys == truth.wcs.radesys
    np.testing.assert_array_equal(copy.corners, tile.corners)


def test_a_pickled_file_tile_is_small_and_holds_no_pixels(save: Save) -> None:
    """A tile in a file is sent to a worker as a path, however large the file is."""
    tile = open_tile(save(primary(IMAGE)))
    assert tile.wcs is tile.wcs, "read twice"
    assert len(pickle.dumps(tile)) < IMAGE.nbytes / 20


# ---- files of other programs ------------------------------------------------------------------

ODD_CARDS = {
    "float with BLANK": b"BLANK   =               -32768",
    "lower case": b"object  = 'M94     '",
    "not a number": b"BADCARD =  12 abc x",
    "unclosed text": b"BADCARD = 'unclosed",
    "Latin-1 comment": b"COMMENT J\xfcrgen",
    "comma": b"EXPTIME = 1,5",
    "NaN": b"CCDTEMP = NaN",
    "old date": b"DATE-OBS= '26/03/99'",
    "old frame": b"RADECSYS= 'FK5     '",
}


@pytest.mark.parametrize("card", ODD_CARDS.values(), ids=ODD_CARDS)
def test_invalid_cards_of_other_programs_are_ignored(card: bytes, save: Save) -> None:
    """Cards that astropy warns about or refuses to print cause neither warnings nor errors."""
    path = save(primary(IMAGE))
    add_cards(path, card)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(open_tile(path).pixels()[0], IMAGE)


def test_damaged_compression_is_a_one_line_error(save: Save, tmp_path: Path) -> None:
    """Errors of zlib, zip and cfitsio become a `TileError` that names the file."""
    rng = np.random.default_rng(1)
    gz = bytearray(gzip.compress(save(primary(rng.normal(size=IMAGE.shape))).read_bytes()))
    gz[len(gz) // 2 : len(gz) // 2 + 600] = b"\xff" * 600
    hdu = fits.CompImageHDU(IMAGE, HEADER, name="SCI")
    compressed = bytearray(save(fits.PrimaryHDU(), hdu, name="compressed.fits").read_bytes())
    compressed[-9_000:-2_880] = rng.bytes(6_120)
    cases = {"a.fits.gz": gz, "b.fits": compressed, "c.fits": b"PK\x03\x04" + rng.bytes(4_000)}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        message = rf"{name}: cannot be read as FITS .*copy it again"
        with pytest.raises(TileError, match=message) as caught:
            open_tile(tmp_path / name).pixels()
        assert "\n" not in str(caught.value)
