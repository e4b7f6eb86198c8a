"""Clipped pixels and what they touch are no data; the brightest pixel of a good star is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import Settings, calibrate
from zemosaic.photometry.preview import binning
from zemosaic.photometry.preview.binning import bin_tile
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import make_preview
from zemosaic.photometry.preview.saturation import (
    REACH,
    Ceiling,
    Levels,
    SaturationSearch,
    levels_of_tile,
    shared_levels,
)
from zemosaic.photometry.simulate import Scene, SimulatedTile
from zemosaic.photometry.tiles.encodings import saturation_level
from zemosaic.photometry.tiles.tile import tile_from_array
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded

SHAPE = (64, 96)


def sky(seed: int = 1, channels: int = 1) -> np.ndarray:
    """Return a sky with noise and a star of 5000 ADU at row 30, column 40."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    star = 5000 * np.exp(-((y - 30.2) ** 2 + (x - 40.1) ** 2) / 4)
    return (rng.normal(1000, 10, (channels, *SHAPE)) + star).astype(np.float32)


def search(
    image: np.ndarray, rows: int = 64, header: float = np.inf, levels: Levels = None
) -> SaturationSearch:
    """Search an image ``(C, H, W)`` in strips of some rows."""
    found = SaturationSearch(image.shape, header, levels)
    for top in range(0, image.shape[1], rows):
        found.add(image[:, top : top + rows])
    return found


def touched(clipped: np.ndarray) -> np.ndarray:
    """Return the pixels ``(H, W)`` within REACH of clipped ones."""
    result = np.zeros_like(clipped)
    for y, x in zip(*np.nonzero(clipped), strict=True):
        result[max(0, y - REACH) : y + REACH + 1, max(0, x - REACH) : x + REACH + 1] = True
    return result


# ---- one tile ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 31, 64])
@pytest.mark.parametrize("ceiling", [5000.0, 3000.0, 1500.1])
def test_a_plateau_of_neighbours_is_clipped(ceiling: float, rows: int) -> None:
    """In one of three channels, of two pixels or of dozens, whatever strips it is read in."""
    image = sky(channels=3)
    image[1] = np.minimum(image[1], np.float32(ceiling))
    clipped = image[1] == image[1].max()
    assert clipped.sum() > 1
    found = search(image, rows)
    np.testing.assert_array_equal(found.ceiling.clipped, [False, True, False])
    np.testing.assert_array_equal(found.ceiling.highest, image.max(axis=(1, 2)))
    np.testing.assert_array_equal(found.bins(1), touched(clipped))


@pytest.mark.parametrize("full_scale", [255, 1023, 4095, 16383, 32767, 65535, 65520, 65532])
def test_the_end_of_the_range_of_a_converter_clips_a_single_pixel(full_scale: int) -> None:
    """One pixel with the highest number of 8 to 16 bits is clipped; one count less is a datum."""
    image = np.round(sky() / 100)
    image[0, 30, 40] = full_scale
    found = search(image)
    np.testing.assert_array_equal(found.bins(1), touched(image[0] == full_scale))
    image[0, 30, 40] -= 1
    assert search(image).bins(1) is None


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 64, 96), 5.0),
        np.full((1, 64, 96), 65535.0),
        np.full((1, 64, 96), np.nan),
        np.random.default_rng(1).poisson(0.3, (1, 640, 960)),  # the highest count is frequent
        np.random.default_rng(1).poisson(40.0, (3, 640, 960)),
        np.broadcast_to(np.arange(96.0), (1, 64, 96)),  # a gradient without noise
        np.where(np.arange(96) < 48, 5.0, 6.0) * np.ones((1, 64, 1)),  # a step
        np.random.default_rng(2).normal(9.0, 0.1, (1, 64, 96)),
        sky(),
        sky().repeat(2, 1).repeat(2, 2),  # enlarged: each value occurs four times
    ],
    ids=[
        "constant", "white", "empty", "few counts", "counts", "gradient", "step", "noise", "star",
        "enlarged",
    ],
)  # fmt: skip
def test_unclipped_pixels_are_kept(image: np.ndarray) -> None:
    """A frequent highest value alone is no saturation."""
    assert search(image.astype(np.float32), 16).bins(1) is None


def test_pixels_that_are_no_data_hide_no_plateau() -> None:
    """NaN and infinities are neither the highest value nor clipped."""
    image = np.minimum(sky(), np.float32(3000))
    clipped = image[0] == 3000
    image[0, 5, 5], image[0, 6, 6], image[0, 7, 7] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(search(image).bins(1), touched(clipped))


# ---- the level in the header ------------------------------------------------------------------


@pytest.mark.parametrize("rows", [5, 64])
def test_the_header_gives_the_level(rows: int) -> None:
    """Pixels from 95 % of the level on are no data, even a single one without any plateau."""
    image = sky()
    level = float(image.max()) / 0.96
    found = search(image, rows, header=level)
    np.testing.assert_array_equal(found.bins(1), touched(image[0] >= 0.95 * level))
    assert search(image, rows, header=float(image.max()) / 0.94).bins(1) is None


@pytest.mark.parametrize("level", [1e-3, 500.0, 1000.0])
def test_a_level_below_the_sky_is_ignored(level: float) -> None:
    """Then the plateau is found all the same."""
    assert search(sky(), 16, header=level).bins(1) is None
    image = np.minimum(sky(), np.float32(3000))
    found = search(image, 16, header=level)
    np.testing.assert_array_equal(found.bins(1), touched(image[0] == 3000))


@pytest.mark.parametrize(
    ("cards", "level"),
    [
        ({"SATURATE": 60000.0}, 60000.0),
        ({"SATLEVEL": 60000, "SATURATE": 65535}, 60000.0),
        ({"SATURATA": 170000.0, "SATURATB": 150000.0}, 150000.0),
        ({"SATURATE": 0.0, "SATLEVEL": -1.0}, np.inf),
        ({"SATURATE": "unknown", "SATVAL": True}, np.inf),
        ({"SATURATE": None}, np.inf),
        ({"DATAMAX": 40000.0}, np.inf),  # the highest value of the image, not a limit
        ({}, np.inf),
    ],
)
def test_levels_of_headers(cards: dict[str, object], level: float) -> None:
    """The lowest number above 0 counts; DATAMAX is none, as a good pixel has this value."""
    assert saturation_level(fits.Header(cards)) == level


def test_the_level_may_stand_in_the_primary_header(tmp_path: Path) -> None:
    """It is that of the image in an extension, unless this has a lower one."""
    header = simulated(tiles=1)[0].wcs.to_header()
    primary = fits.PrimaryHDU(header=fits.Header({"SATURATE": 50000.0}))
    for own, expected in ((None, 50000.0), (40000.0, 40000.0)):
        if own:
            header["SATURATE"] = own
        image = fits.ImageHDU(np.ones(SHAPE, np.float32), header)
        fits.HDUList([primary, image]).writeto(tmp_path / "a.fits", overwrite=True)
        assert open_tile(tmp_path / "a.fits").saturation == expected


# ---- levels that tiles share ------------------------------------------------------------------


def ceilings(*highest: float | tuple[float, ...]) -> list[Ceiling]:
    """Return the ceilings of unclipped tiles."""
    rows = [np.atleast_1d(np.array(value, dtype=float)) for value in highest]
    return [Ceiling(row, np.zeros(len(row), dtype=bool)) for row in rows]


@pytest.mark.parametrize(
    ("highest", "level"),
    [
        ((64000.0, 30000.0, 64000.0), 64000.0),
        ((64000.0, 64000.0), 64000.0),
        ((64000.0, 64000.0, 64000.0, 65000.0, 1e30), 64000.0),  # damaged pixels exceed it
        ((64000.0, float(np.nextafter(np.float32(64000), np.float32(0))), 100.0), np.inf),
        ((500.0, 500.0, 600.0, 700.0, 800.0), np.inf),  # a chance: others exceed it
        ((500.0, 600.0, 700.0), np.inf),
        ((500.0,), np.inf),
        ((-np.inf, -np.inf), np.inf),
    ],
)
def test_a_level_is_shared_by_the_brightest_tiles(highest: Sequence[float], level: float) -> None:
    """At least two tiles end there, to the last bit, and hardly any above."""
    np.testing.assert_array_equal(shared_levels(ceilings(*highest)), [level])


def test_channels_have_levels_of_their_own() -> None:
    """As after a white balance; only tiles that reach one and do not show it are named."""
    tiles = ceilings((9.0, 5.0), (9.0, 4.0), (8.0, 5.0), (7.0, 3.0))
    shared = shared_levels(tiles)
    np.testing.assert_array_equal(shared, [9.0, 5.0])
    assert [levels_of_tile(tile, shared) for tile in tiles] == [
        (9.0, 5.0), (9.0, None), (None, 5.0), None,
    ]  # fmt: skip
    shown = replace(tiles[1], clipped=np.array([True, False]))
    assert levels_of_tile(shown, shared) is None


def test_a_shared_level_clips_a_single_pixel() -> None:
    """In the channel that it belongs to; the ceiling is what the tile alone shows."""
    image = sky(channels=2)
    peak = float(image[1].max())
    found = search(image, 16, levels=(None, peak))
    np.testing.assert_array_equal(found.bins(1), touched(image[1] == peak))
    assert not found.ceiling.clipped.any()
    assert search(image, 16, levels=(1e5, None)).bins(1) is None


def test_a_false_shared_level_leaves_the_tile_alone() -> None:
    """A level that much of a tile reaches is none: constant tiles keep their pixels."""
    assert search(np.full((1, *SHAPE), 7.0, np.float32), levels=(7.0,)).bins(1) is None


# ---- previews ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("strip_pixels", [1, 1000, 1 << 18])
def test_bins_that_clipped_pixels_touch_are_invalid(
    side: int, strip_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all channels, across the borders of strips and of bins."""
    monkeypatch.setattr(binning, "STRIP_PIXELS", strip_pixels)
    image = sky(channels=3)
    image[2] = np.minimum(image[2], np.float32(4000))
    tile = tile_from_array(image, simulated(tiles=1)[0].wcs)
    _, valid_fraction = bin_tile(tile, side)
    h, w = SHAPE[0] // side, SHAPE[1] // side
    pixels = touched(image[2] == 4000)[: h * side, : w * side]
    expected = pixels.reshape(h, side, w, side).any(axis=(1, 3))
    assert valid_fraction is not None
    for fraction in valid_fraction:
        np.testing.assert_array_equal(np.isnan(fraction), expected)
        assert (fraction[~expected] == 1).all()


def test_no_cell_depends_on_a_clipped_pixel() -> None:
    """Cells are the same whatever value the clipped pixels have, and are lost near them alone."""
    image = np.minimum(sky(), np.float32(3000))
    wcs = simulated(tiles=1)[0].wcs
    grid = make_grid([tile_from_array(image, wcs)])
    previews = []
    for ceiling in (3000.0, 9000.0):
        data = np.where(image == 3000, np.float32(ceiling), image)
        previews.append(make_preview(tile_from_array(data[0], wcs), grid))
    np.testing.assert_array_equal(previews[0].values, previews[1].values)
    np.testing.assert_array_equal(np.isnan(previews[0].values), np.isnan(previews[0].variance))
    whole = make_preview(tile_from_array(sky()[0], wcs), grid)
    lost = np.isnan(previews[0].values) & ~np.isnan(whole.values)
    assert 1 < lost.sum() < 50
    np.testing.assert_allclose(previews[0].values[~lost], whole.values[~lost], atol=1e-5)


# ---- mosaics ----------------------------------------------------------------------------------


def write_clipped(
    directory: Path, dtype: str = "f4", clipped: Sequence[int] = (0, 1, 2)
) -> list[Path]:
    """Write four tiles, of which some have one pixel of 40321 ADU, and return their paths."""
    tiles = simulated(electrons=10.0)
    for number, tile in enumerate(tiles):
        data = np.minimum(tile.data, 40000)
        if number in clipped:
            data[40 + number, 60] = 40321
        hdu = fits.PrimaryHDU(data.round().astype(dtype), tile.wcs.to_header())
        hdu.writeto(directory / f"{number}.fits", overwrite=True)
    return [directory / f"{number}.fits" for number in range(len(tiles))]


def prepared_names(run: Path) -> list[str]:
    """Return the names of the tiles that the last run in a folder has prepared."""
    ended = [event for event in journal.read(run)[-1].events if isinstance(event, JobEnded)]
    return sorted(str(event.attributes["name"]) for event in ended if event.stage == "tiles")


@pytest.mark.parametrize("dtype", ["f4", "i4", "u2"])
def test_tiles_at_a_shared_level_are_prepared_again(
    tmp_path: Path, intertile: Callable[..., Run], dtype: str
) -> None:
    """Only these, in a job more each, and with one line; a resumed run reads each tile once."""
    paths = write_clipped(tmp_path, dtype)
    result = intertile(*paths, "-v")
    assert result.code == 0
    assert "tiles are all 40321, so they are clipped and count as missing (3 tiles)" in result.err
    run, names = tmp_path / "run", [path.name for path in paths]
    assert prepared_names(run) == sorted(names + names[:3])
    tables = [(run / name).read_bytes() for name in ("corrections.ecsv", "pairs.ecsv")]
    resumed = intertile(*paths, "-v", "--resume")
    assert "6 of 6 pairs are known" in resumed.err
    assert prepared_names(run) == names
    assert tables == [(run / name).read_bytes() for name in ("corrections.ecsv", "pairs.ecsv")]


@pytest.mark.parametrize("clipped", [(), (2,)])
def test_tiles_are_prepared_once_if_none_share_a_level(
    tmp_path: Path, intertile: Callable[..., Run], clipped: tuple[int, ...]
) -> None:
    """A bright pixel of one tile alone is a datum."""
    paths = write_clipped(tmp_path, clipped=clipped)
    assert "are clipped" not in intertile(*paths, "-v").err
    assert prepared_names(tmp_path / "run") == [path.name for path in paths]


def test_a_resumed_run_judges_clipping_by_its_own_tiles(
    tmp_path: Path, intertile: Callable[..., Run]
) -> None:
    """Without the tiles that show the level, a resumed run has the bits of a new one."""
    paths = write_clipped(tmp_path, clipped=(0, 1))
    assert "(2 tiles)" in intertile(*paths, "-v").err
    assert "are clipped" not in intertile(*paths[1:], "-v", "--resume").err
    resumed = (tmp_path / "run" / "pairs.ecsv").read_bytes()
    intertile(*paths[1:])
    assert (tmp_path / "run" / "pairs.ecsv").read_bytes() == resumed


def bright_stars(tile: SimulatedTile) -> np.ndarray:
    """Return the light of stars with peaks about 65000 ADU, as the tile records it."""
    height, width = tile.data.shape
    y, x = np.mgrid[:height, :width]
    light = np.zeros(tile.data.shape)
    centre = np.array(Scene().centre)
    rng = np.random.default_rng(3)
    for _ in range(12):
        offset = rng.uniform(-0.08, 0.08, 2)
        x0, y0 = tile.wcs.all_world2pix([centre + offset], 0)[0]
        peak = rng.uniform(50000, 80000)
        light += peak * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 4.5)
    return (light / tile.gain[0]).astype(np.float32)


@pytest.mark.parametrize("header", [False, True])
def test_gains_do_not_depend_on_clipped_pixels(header: bool) -> None:
    """Whatever number a detector gives for stars that just clip, with and without a header."""
    gains = []
    for ceiling in (65000.0, 90000.0):
        tiles = []
        for tile in simulated(tiles=4, shape=(160, 200), electrons=10.0):
            data = tile.data + bright_stars(tile)
            data[data >= 65000] = ceiling
            level = 65000.0 if header else np.inf
            made = tile_from_array(data, tile.wcs, name=tile.name)
            tiles.append(replace(made, saturation=level))
        assert sum(np.count_nonzero(tile.data == ceiling) > 0 for tile in tiles) > 1
        gains.append(calibrate(tiles, Settings(model="gain+offset"), pool="serial").gain)
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-5)
