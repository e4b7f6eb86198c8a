"""The mosaic: constant at every edge, weighted, calibrated, and where its header says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from tests.helpers.collisions import call_at_once
from tests.helpers.kernels import use_kernels
from tests.helpers.tiles import simulated
from zemosaic.errors import UserError
from zemosaic.photometry import _kernels
from zemosaic.photometry._kernels import reference
from zemosaic.photometry.mosaic import survey, write_mosaic
from zemosaic.photometry.mosaic.canvas import Box, Canvas, choose_canvas, divide
from zemosaic.photometry.mosaic.coadd import coadd_block, plan_coadd
from zemosaic.photometry.mosaic.combine import Coadd
from zemosaic.photometry.mosaic.picture import PictureFile, north_up, shrink
from zemosaic.photometry.mosaic.resample import lattice
from zemosaic.photometry.mosaic.survey import feather, survey_tile
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import Tile, tile_from_array
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.pipeline.mosaic_stage import MosaicOptions

UNIT = Correction(np.ones(1), np.zeros(1))
SHAPE = (90, 120)
LEVEL = 1000.1  # no number of float32


def wcs_at(
    x: float = 0.0, y: float = 0.0, turn: float = 0.0, scale: float = 1e-3, flip: bool = False
) -> WCS:
    """Return the WCS of a tile that is moved by pixels, turned by degrees and maybe mirrored."""
    wcs, angle = WCS(naxis=2), np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 60.0]
    wcs.wcs.crpix = [60.5 - x, 45.5 - y]
    wcs.wcs.cd = rotation @ np.diag([scale if flip else -scale, scale])
    wcs.wcs.set()
    return wcs


def with_frame(data: np.ndarray) -> dict[str, Any]:
    data[:7] = data[:, -11:] = np.nan
    return {}


def with_bad_pixels(data: np.ndarray) -> dict[str, Any]:
    data[np.random.default_rng(1).random(data.shape) < 0.03] = np.nan
    return {}


def with_infinities(data: np.ndarray) -> dict[str, Any]:
    data[np.random.default_rng(2).random(data.shape) < 0.01] = np.inf
    return {}


def with_mask(data: np.ndarray) -> dict[str, Any]:
    mask = np.zeros(data.shape, dtype=np.uint8)
    mask[30:45, 50:70] = mask[::17, ::13] = 1
    data[mask == 1] = 1e6
    return {"mask": mask}


def with_weights(data: np.ndarray) -> dict[str, Any]:
    weight = np.random.default_rng(3).uniform(0, 5, data.shape)
    weight[:20] = 0
    data[weight == 0] = -1e5
    return {"weight": weight}


def with_zeros(data: np.ndarray) -> dict[str, Any]:
    data[:9] = 0
    return {}


DEFECTS: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "none": lambda data: {}, "frame": with_frame, "bad pixels": with_bad_pixels,
    "infinities": with_infinities, "mask": with_mask, "weights": with_weights,
    "zeros": with_zeros,
}  # fmt: skip


def flat_tile(wcs: WCS, defect: str = "none", level: float = LEVEL) -> Tile:
    data = np.full(SHAPE, level, dtype=np.float32)
    return tile_from_array(data, wcs, **DEFECTS[defect](data))


def mosaic_of(tiles: list[Tile], folder: Path, **options: Any) -> Any:
    """Write the mosaic of tiles without correction, and return its HDUs."""
    path = folder / "m.fits"
    write_mosaic([(tile, UNIT) for tile in tiles], path, **options)
    with fits.open(path, memmap=False) as hdus:
        return [hdu.copy() for hdu in hdus]


# ---- edges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0.0, 3.0, 45.0, 90.0, 171.0])
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("combination", ["mean", "clip"])
def test_a_constant_sky_is_constant(
    defect: str, turn: float, combination: str, tmp_path: Path
) -> None:
    """At any rotation, beside bad pixels, frames, masks and weights, to 1e-6."""
    tiles = [flat_tile(wcs_at(), "bad pixels"), flat_tile(wcs_at(40.3, 10.7, turn), defect)]
    tiles += [flat_tile(wcs_at(20.1, -15.2, -turn, flip=True), defect)] * (combination == "clip")
    data = mosaic_of(tiles, tmp_path, combination=combination)[0].data
    assert np.isfinite(data).sum() > 1.2 * np.prod(SHAPE)
    assert np.nanmax(np.abs(data - LEVEL)) < 1e-6 * LEVEL


@pytest.mark.parametrize("defect", ["frame", "bad pixels", "mask"])
def test_no_pixel_with_data_is_lost(defect: str, tmp_path: Path) -> None:
    """A pixel of the mosaic whose place is on a valid pixel of a tile has a value."""
    tiles = [flat_tile(wcs_at(), defect), flat_tile(wcs_at(60.4, 8.3, 12.0), defect)]
    image, _, coverage, _ = mosaic_of(tiles, tmp_path)
    y, x = np.mgrid[: image.data.shape[0], : image.data.shape[1]]
    expected = np.zeros(image.data.shape, dtype=bool)
    for tile in tiles:
        valid = np.isfinite(tile.pixels()[0])
        places = tile.wcs.all_world2pix(*WCS(image.header).all_pix2world(x, y, 0), 0)
        column, row = (np.rint(place).astype(int) for place in places)
        inside = (column >= 0) & (row >= 0) & (column < SHAPE[1]) & (row < SHAPE[0])
        expected[inside] |= valid[row[inside], column[inside]]
    assert not (expected & np.isnan(image.data)).any()
    assert ((coverage.data > 0) == np.isfinite(image.data)).all()


def test_no_pixel_is_beyond_those_of_its_tiles(tmp_path: Path) -> None:
    """Beside stars, bad pixels and borders there is no ringing and no dark outline."""
    tiles = [tile_from_array(tile.data.copy(), tile.wcs) for tile in simulated()]
    for tile in tiles:
        tile.data[np.random.default_rng(1).random(tile.shape) < 0.02] = np.nan
    image = mosaic_of(tiles, tmp_path)[0]
    y, x = np.nonzero(np.isfinite(image.data))
    low, high = np.full((2, len(x)), np.nan)
    for tile in tiles:
        padded = np.pad(tile.data, 1, constant_values=np.nan)
        places = tile.wcs.all_world2pix(*WCS(image.header).all_pix2world(x, y, 0), 0)
        column, row = (np.floor(place).astype(int) for place in places)
        for shift in np.ndindex(2, 2):
            at = row + 1 + shift[0], column + 1 + shift[1]
            inside = [(a >= 0) & (a < n) for a, n in zip(at, padded.shape, strict=True)]
            # Where a position is outside, any pixel of the pad stands for it.
            pixels = tuple(np.where(all_in, a, 0) for all_in, a in zip(inside, at, strict=True))
            value = np.where(inside[0] & inside[1], padded[pixels], np.nan)
            low, high = np.fmin(low, value), np.fmax(high, value)
    value = image.data[y, x]
    assert (value >= low - 1e-3).all()
    assert (value <= high + 1e-3).all()


@pytest.mark.skipif(not _kernels.COMPILED, reason="the kernels were not compiled")
@pytest.mark.parametrize("step", [1, 4, 16])
def test_both_kernels_sample_alike(step: int) -> None:
    """At, between and beyond nodes and pixels, valid or not, up to rounding."""
    rng = np.random.default_rng(step)
    image = rng.normal(1000, 10, (2, 33, 41)).astype(np.float32)
    image[0][rng.random((33, 41)) < 0.2], image[1, 5:9] = np.nan, np.inf
    y, x = np.mgrid[0 : 48 // step + 1, 0 : 48 // step + 1] * float(step)
    nodes = np.stack([0.9 * x - 0.2 * y + 1.2517, 0.2 * x + 0.9 * y - 3.5093])
    nodes[:, 0, 0] = np.nan
    results = [_kernels.sample_linear(image, nodes, (45, 46), step)]
    with use_kernels(reference):
        results.append(_kernels.sample_linear(image, nodes, (45, 46), step))
    np.testing.assert_allclose(*results, rtol=3e-7)
    assert 0.2 < np.isfinite(results[0]).mean() < 0.95


# ---- weights ----------------------------------------------------------------------------------


def noisy_tile(noise: float, seed: int, wcs: WCS | None = None, level: float = 0.0) -> Tile:
    rng = np.random.default_rng(seed)
    return tile_from_array((level + rng.normal(0, noise, SHAPE)).astype("f4"), wcs or wcs_at())


def test_tiles_are_weighted_by_their_noise_after_correction(tmp_path: Path) -> None:
    """The noise of the mosaic is the smallest possible, and ERROR has it."""
    gains = (1.0, 2.0, 0.5)
    tiles = [noisy_tile(3.0 / gain * factor, seed) for seed, (gain, factor) in
             enumerate(zip(gains, (1, 2, 4), strict=True))]  # fmt: skip
    pairs = [(tile, Correction(np.array([g]), np.zeros(1)))
             for tile, g in zip(tiles, gains, strict=True)]  # fmt: skip
    write_mosaic(pairs, tmp_path / "m.fits")
    with fits.open(tmp_path / "m.fits") as hdus:
        middle = np.s_[30:60, 30:90]
        expected = (1 / 9 + 1 / 36 + 1 / 144) ** -0.5
        assert hdus["ERROR"].data[middle] == pytest.approx(expected, rel=0.05)
        assert hdus[0].data.std() == pytest.approx(expected, rel=0.05)
        assert hdus["TILES"].data["noise"].ravel() == pytest.approx([3, 6, 12], rel=0.1)


def test_the_weight_of_a_tile_falls_to_its_border(tmp_path: Path) -> None:
    """Beside another tile it counts nothing at its border, and alone it counts wholly."""
    low, high = noisy_tile(0.1, 1), noisy_tile(0.1, 2, wcs_at(60), level=100.0)
    data = mosaic_of([low, high], tmp_path)[0].data
    row = np.median(data[30:60], axis=0)
    assert row[:59] == pytest.approx(0, abs=0.1)
    assert row[60] == pytest.approx(0, abs=2)  # the first column of the other tile
    assert row[119] == pytest.approx(100, abs=2)
    assert row[121:] == pytest.approx(100, abs=0.1)
    assert np.abs(np.diff(row)).max() < 12


def test_a_single_bad_pixel_is_no_border() -> None:
    """The weight falls towards borders and large holes, not towards single pixels."""
    data = np.ones((256, 256), dtype=np.float32)
    data[::40, ::40] = np.nan
    data[100:140, 100:140] = np.nan
    distance = survey_tile(tile_from_array(data, wcs_at())).distance
    assert distance.shape == (66, 66)
    assert distance[15, 15] == pytest.approx(4 * 14.5)
    assert (distance[26:34, 26:34] < 0).all()
    assert distance[32, 0] == pytest.approx(-2)
    assert distance[32, 1] == pytest.approx(2)
    weight = feather(np.array([-3, 0.5, 2, 16, 40, np.nan], dtype=np.float32), (256, 256))
    assert weight == pytest.approx([1e-5, 7e-4, 0.0114, 0.5, 1, 0], rel=0.05)


def test_a_last_strip_of_one_row_is_surveyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise comes from the other strips, whatever the height of the tile."""
    monkeypatch.setattr(survey, "STRIP_PIXELS", 4 * SHAPE[1])
    monkeypatch.setattr(survey, "NOISE_PIXELS", SHAPE[1] * SHAPE[0])
    for height in (1, 2, 81, 89, 90):
        data = noisy_tile(5.0, 1).data[:height]
        noise = survey_tile(tile_from_array(data, wcs_at())).noise
        assert noise.shape == (1,)
        if height > 2:
            assert noise[0] == pytest.approx(5.0, rel=0.1)


def test_clip_leaves_out_trails_and_hot_pixels(tmp_path: Path) -> None:
    """Where three or more tiles cover; stars of different seeing keep their light."""
    tiles = [noisy_tile(1.0, seed, wcs_at(0.3 * seed, 0.2 * seed, seed)) for seed in range(5)]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = []
    for seed, tile in enumerate(tiles):
        place = tile.wcs.all_world2pix(*wcs_at().all_pix2world([[60, 40]], 0).T, 0)
        radius = np.hypot(x - place[0], y - place[1])
        width = 1.6 + 0.1 * seed
        star = 2000 / width**2 * np.exp(-(radius**2) / (2 * width**2))
        tile.data[:] += star
        truth.append(star.sum())
    clean = mosaic_of(tiles, tmp_path)[0].data
    tiles[1].data[np.abs(y - 0.4 * x - 40) < 2] += 60  # a satellite
    for seed, tile in enumerate(tiles):
        tile.data[20 + 3 * seed, 90:93] = 900.0
    plain = mosaic_of(tiles, tmp_path)[0].data
    clipped = mosaic_of(tiles, tmp_path, combination="clip")[0].data
    inner = np.s_[12:80, 12:108]
    assert np.nanmax(np.abs(plain - clean)[inner]) > 100
    assert np.nanmax(np.abs(clipped - clean)[inner]) < 3
    star = np.s_[30:52, 50:72]
    assert np.nansum(clipped[star]) == pytest.approx(np.nansum(clean[star]), rel=0.01)


def test_clip_keeps_two_tiles_as_they_are(tmp_path: Path) -> None:
    """Of two values none is known to be the outlier."""
    tiles = [noisy_tile(1.0, seed) for seed in range(2)]
    tiles[0].data[40:50] += 500
    mean, clipped = (
        mosaic_of(tiles, tmp_path, combination=how)[0].data for how in ("mean", "clip")
    )
    np.testing.assert_array_equal(mean, clipped)


# ---- canvas -----------------------------------------------------------------------------------


def test_tiles_of_one_grid_are_not_resampled(tmp_path: Path) -> None:
    """Registered frames keep their bits and their grid, turned and distorted as it may be."""
    whole = np.random.default_rng(1).normal(100, 5, (140, 200)).astype("f4")
    tiles = [
        tile_from_array(whole[y : y + 90, x : x + 120].copy(), wcs_at(x, y, 33.0, flip=True))
        for x, y in ((0, 0), (80, 50), (40, 20))
    ]
    image = mosaic_of(tiles, tmp_path)[0]
    assert image.data.shape == whole.shape
    covered = np.isfinite(image.data)
    np.testing.assert_allclose(image.data[covered], whole[covered], rtol=1e-6)
    sky = WCS(image.header).all_pix2world([[100, 60]], 0)
    np.testing.assert_allclose(sky, wcs_at(0, 0, 33.0, flip=True).all_pix2world([[100, 60]], 0))


@pytest.mark.parametrize("scale", [0.5e-3, 1e-3, 4.2e-3])
def test_the_mosaic_may_have_the_place_of_another_file(scale: float, tmp_path: Path) -> None:
    """With its WCS and its size; pixels larger than those of the tiles have their means."""
    like = tmp_path / "like.fits"
    header = wcs_at(3.3, 5.5, 20.0, scale).to_header()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((70, 80)), header)]).writeto(like)
    tiles = [noisy_tile(10.0, 1, level=50.0), noisy_tile(10.0, 2, wcs_at(30.5, 3), level=50.0)]
    image = mosaic_of(tiles, tmp_path, like=like)[0]
    assert image.data.shape == (70, 80)
    np.testing.assert_allclose(image.header["CRPIX1"], header["CRPIX1"])
    assert np.nanmean(image.data) == pytest.approx(50, abs=1)
    if scale > 1e-3:
        assert np.nanstd(image.data) < 4  # of 16 to 18 pixels and of one or two tiles


def test_a_map_of_the_sky_has_all_tiles(tmp_path: Path) -> None:
    """Positions are exact where the projection is far from linear."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---AIT", "DEC--AIT"], [0.0, 0.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [180.5, 90.5], [-1.0, 1.0]
    fits.PrimaryHDU(np.zeros((180, 360)), wcs.to_header()).writeto(tmp_path / "sky.fits")
    tiles = []
    for ra, dec in ((178.0, 5.0), (60.0, 70.0)):
        own = WCS(naxis=2)
        own.wcs.ctype, own.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
        own.wcs.crpix, own.wcs.cdelt = [60.5, 45.5], [-0.15, 0.15]
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        declination = own.all_pix2world(x, y, 0)[1]
        tiles.append(tile_from_array(declination.astype("f4"), own))
    image = mosaic_of(tiles, tmp_path, like=tmp_path / "sky.fits")[0]
    # A pixel that a tile covers in part has the mean of that part.
    y, x = np.nonzero(ndimage.binary_erosion(np.isfinite(image.data)))
    assert len(x) > 200
    assert np.abs(image.data[y, x] - wcs.all_pix2world(x, y, 0)[1]).max() < 0.05


def test_a_canvas_too_large_is_refused_before_any_allocation() -> None:
    """The line has its size, the tile that lies far off, and how far."""
    near = [flat_tile(wcs_at(x)) for x in (0, 50, 100)]
    far = wcs_at()
    far.wcs.crval = [100.0, 10.0]
    lost = tile_from_array(np.zeros(SHAPE), far.deepcopy(), name="x.fits")
    with pytest.raises(
        UserError, match=r"would be .*[\d,]+ × [\d,]+ pixels: tile x\.fits lies 6\d"
    ):
        choose_canvas([*near, lost])
    far.wcs.crval = [150.0, -60.0]
    far.wcs.set()
    lost = tile_from_array(np.zeros(SHAPE), far.deepcopy(), name="x.fits")
    with pytest.raises(UserError, match=r"half the sky: tile x\.fits lies 1[12]"):
        choose_canvas([*near, lost])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("multiple", [1, 7])
def test_blocks_cover_every_pixel_once(stacked: bool, multiple: int) -> None:
    """Whatever the number of tiles; those of deep stacks are small."""
    canvas = Canvas("", (1500, 2100))
    boxes = [Box(100, 100, 1800, 1200)] * 60
    count = np.zeros(canvas.shape, dtype=int)
    for block in divide(canvas, boxes, 3, stacked, multiple):
        count[block.slices_in(canvas.box)] += 1
        assert block.x0 % multiple == block.y0 % multiple == 0
        if stacked and block.common(boxes[0]):
            assert 60 * 3 * np.prod(block.shape) <= 1 << 23
    assert (count == 1).all()


# ---- files ------------------------------------------------------------------------------------


def write_exposure(path: Path, seed: int, **cards: Any) -> Path:
    rng = np.random.default_rng(seed)
    header = wcs_at(20.3 * seed, 0, 2.0 * seed).to_header()
    header.update(cards)
    fits.PrimaryHDU(rng.normal(500, 4, SHAPE).astype("f4"), header).writeto(path)
    return path


def test_the_header_has_what_went_in(tmp_path: Path) -> None:
    """Unit, object, filter, dates, exposure, the number of tiles, and a table of them."""
    common = {"BUNIT": "adu", "OBJECT": "M 1", "EXPTIME": 20.0}
    dates = "2025-03-27T01:20:30", "2025-03-27T01:22:00.5", "2025-03-26T23:00:00"
    paths = [
        write_exposure(
            tmp_path / f"{k}.fits", k, **common, **{"FILTER": "RG"[k > 1], "DATE-OBS": date}
        )
        for k, date in enumerate(dates)
    ]
    tiles = [(open_tile(path), UNIT) for path in paths]
    write_mosaic(tiles, tmp_path / "m.fits", run="0123456789abcdef", combination="clip")
    with fits.open(tmp_path / "m.fits") as hdus:
        hdus.verify("exception")
        header, table = hdus[0].header, hdus["TILES"].data
        assert hdus["ERROR"].header["BUNIT"] == "adu"
        places = [WCS(hdu.header).celestial.all_pix2world([[9, 7]], 0) for hdu in hdus[:3]]
        np.testing.assert_array_equal(places[1:], [places[0]] * 2)
    expected = {
        "BUNIT": "adu", "OBJECT": "M 1", "FILTER": "R, G", "TEXPTIME": 60.0, "NCOMBINE": 3,
        "DATE-OBS": "2025-03-26T23:00:00.000", "DATE-END": "2025-03-27T01:22:20.500",
        "ZERUN": "0123456789abcdef", "COMBINET": "clip",
    }  # fmt: skip
    assert {key: header[key] for key in expected} == expected
    assert list(table["tile"]) == ["0.fits", "1.fits", "2.fits"]
    assert table["exposure"].tolist() == [20, 20, 20]


@pytest.mark.parametrize("name", ["m.fits.fz", "m.fits.gz"])
def test_the_name_selects_the_compression(name: str, tmp_path: Path) -> None:
    """Compressed as fpack does or as a whole, with the same planes; the unfinished file is gone."""
    paths = [write_exposure(tmp_path / f"{k}.fits", k) for k in range(2)]
    tiles = [(open_tile(path), UNIT) for path in paths]
    for output in ("plain.fits", name):
        write_mosaic(tiles, tmp_path / output)
    with fits.open(tmp_path / "plain.fits") as plain, fits.open(tmp_path / name) as packed:
        images = [hdu for hdu in packed if hdu.is_image and hdu.shape]
        for one, other in zip(list(plain)[:3], images, strict=True):
            error = 0.0 if name.endswith("gz") or one.name == "COVERAGE" else 0.5
            np.testing.assert_allclose(other.data, one.data, atol=error, equal_nan=True)
            assert WCS(other.header).wcs.compare(WCS(one.header).wcs, tolerance=1e-9)
        assert len(packed["TILES"].data) == 2
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["0.fits", "1.fits", name, "plain.fits"]


def test_the_disk_needs_space_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the file, and what it needs and has."""
    from zemosaic.photometry.mosaic import store

    class Disk:
        free = 1000

    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: Disk)
    tiles = [(flat_tile(wcs_at(x)), UNIT) for x in (0, 30)]
    with pytest.raises(UserError, match=r"m\.fits: needs .* GB, and its disk has 1e-06 GB free"):
        write_mosaic(tiles, tmp_path / "m.fits")
    assert not list(tmp_path.iterdir())


# ---- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turn", [0, 1, 30, 90, 110, 135, 180, -90, -20])
def test_pictures_have_north_up_and_east_left(turn: float, flip: bool) -> None:
    """However the mosaic is turned or mirrored."""
    wcs = wcs_at(turn=turn, flip=flip)
    sky = [(150.0, 60.0), (150.0, 60.025), (150.05, 60.0)]  # the middle, north and east of it
    image = np.zeros((3, *SHAPE), dtype=np.float32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for channel, place in zip(image, sky, strict=True):
        column, row = wcs.all_world2pix(*place, 0)
        channel[np.hypot(x - column, y - row) < 4] = 1
    turned = north_up(image, Canvas.of(wcs, SHAPE))
    middle, north, east = (np.array(np.nonzero(np.nan_to_num(c))).mean(axis=1) for c in turned)
    np.testing.assert_allclose(north - middle, [-25, 0], atol=1.5)
    np.testing.assert_allclose(east - middle, [0, -25], atol=1.5)


def test_the_change_by_the_correction_is_that_of_the_tiles() -> None:
    """At the middles of squares, also where a tile touches a block without any of them."""
    correction = Correction(np.array([1.2]), np.array([-150.0]), np.array([0.5]))
    tiles = [flat_tile(wcs_at(), level=1000.0), flat_tile(wcs_at(61.3, 20.2, 5.0), level=1000.0)]
    pairs = [(tile, correction) for tile in tiles]
    plan = plan_coadd(pairs, [survey_tile(tile) for tile in tiles], choose_canvas(tiles))
    for step in (1, 7):
        whole = coadd_block(plan, plan.canvas.box, step)
        rows, columns = lattice(plan.canvas.box, step)
        at = np.ix_([0], rows, columns)
        np.testing.assert_allclose(whole.change, whole.data[at] - 1000, atol=1e-3)
        for block in divide(Canvas("", plan.canvas.shape), [], 1 << 10, False, step):
            part = coadd_block(plan, block, step)
            own = whole.data[(slice(None), *block.slices_in(plan.canvas.box))]
            np.testing.assert_array_equal(np.isfinite(part.data), np.isfinite(own))
            at = np.ix_([0], *lattice(block, step))
            np.testing.assert_allclose(part.change, part.data[at] - 1000, atol=1e-3)


def test_threads_write_blocks_of_a_picture_at_once(tmp_path: Path) -> None:
    """Each block is where it belongs, below and above the correction."""
    canvas = Canvas.of(wcs_at(), (40, 60))
    picture = PictureFile.create(tmp_path / "picture.npy", canvas, channels=2)
    pixels = np.arange(2 * 40 * 60, dtype=np.float32).reshape(2, 40, 60)

    def write() -> None:
        for box in (Box(0, 0, 60, 20), Box(0, 20, 60, 40)):
            block = pixels[:, box.y0 : box.y1]
            change = np.ones_like(block)
            picture.write(box, Coadd(block, block, np.ones(block.shape[1:], np.int16), change))

    call_at_once(write)
    np.testing.assert_array_equal(np.load(picture.path), [pixels, pixels - 1])


def test_a_picture_has_the_means_of_valid_pixels() -> None:
    """Of whole squares and of those cut by the edge; NaN without any."""
    image = np.arange(35, dtype=np.float32).reshape(1, 5, 7)
    image[0, :2, :2] = np.nan
    image[0, 0, 2] = np.nan
    small = shrink(image, 2)
    assert small.shape == (1, 3, 4)
    assert np.isnan(small[0, 0, 0])
    assert small[0, 0, 1] == pytest.approx((3 + 9 + 10) / 3)
    assert small[0, 2, 3] == 34


def test_a_canvas_like_a_file_without_a_wcs_is_refused(tmp_path: Path) -> None:
    """The line names the file."""
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "like.fits")
    options = MosaicOptions(tmp_path / "m.fits", tmp_path / "like.fits")
    with pytest.raises(UserError, match=r"like\.fits: no image in it has a celestial WCS"):
        options.canvas([flat_tile(wcs_at())])
