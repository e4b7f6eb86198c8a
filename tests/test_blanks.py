"""The fill value of registered frames is no datum; a sky of 0 is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import map_coordinates

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import Settings, Tile, calibrate, tile_from_array
from zemosaic.errors import UserError
from zemosaic.photometry.simulate import SimulatedTile
from zemosaic.photometry.tiles.blanks import find_blanks
from zemosaic.photometry.tiles.file_options import FileOptions
from zemosaic.pipeline.solution import PhaseSolution

SHAPE = (160, 200)
Canvas = Callable[[int], np.ndarray]


def frame(width: int) -> np.ndarray:
    """Return the mask of a border of the given width."""
    mask = np.ones(SHAPE, dtype=bool)
    mask[width:-width, width:-width] = False
    return mask


def ragged(seed: int) -> np.ndarray:
    """Return the mask of a border whose width changes from pixel to pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    left, right = rng.integers(4, 12, (2, SHAPE[0], 1))
    top, bottom = rng.integers(4, 12, (2, 1, SHAPE[1]))
    inside = (x >= left) & (x < SHAPE[1] - right) & (y >= top) & (y < SHAPE[0] - bottom)
    return np.asarray(~inside)


def rotated(seed: int) -> np.ndarray:
    """Return the mask of the corners about a rotated frame."""
    angle = 0.2 + 0.05 * seed
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array(SHAPE).reshape(2, 1, 1) / 2
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.asarray((np.abs(u) > 0.45 * SHAPE[1]) | (np.abs(v) > 0.45 * SHAPE[0]))


def corner(seed: int) -> np.ndarray:
    """Return the mask of one dead corner."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(x + y < 30 + seed)


CANVASES: dict[str, Canvas] = {
    "one pixel": lambda seed: frame(1),
    "frame": lambda seed: frame(8),
    "ragged": ragged,
    "rotated": rotated,
    "corner": corner,
}


def noise(sky: float, sigma: float = 10.0, seed: int = 1) -> np.ndarray:
    """Return a sky with noise and a few stars."""
    rng = np.random.default_rng(seed)
    image = rng.normal(sky, sigma, SHAPE)
    for y, x in rng.uniform(5, 150, (40, 2)):
        image[int(y) : int(y) + 3, int(x) : int(x) + 3] += rng.uniform(50, 5000)
    return image


def tile(image: np.ndarray, **options: str | float) -> Tile:
    """Return an image as a tile."""
    wcs = simulated(tiles=1)[0].wcs
    return tile_from_array(image, wcs, options=FileOptions(**options))


@pytest.mark.parametrize("sky", [1000.0, 10.0, 0.0])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u2"])
@pytest.mark.parametrize("canvas", CANVASES)
def test_a_canvas_of_zeros_is_found_to_the_pixel(canvas: str, dtype: str, sky: float) -> None:
    """All of the canvas is blank, and hardly any datum, even if the sky is clipped at 0."""
    if dtype == "u2" and sky < 1000 and canvas in {"ragged", "one pixel"}:
        pytest.skip("much of the sky is 0: a thin frame of zeros is no different")
    image = noise(sky)
    image = np.clip(np.round(image), 0, 65535) if dtype == "u2" else image
    mask = CANVASES[canvas](3)
    image = np.where(mask, 0, image).astype(dtype)
    blanks = find_blanks(tile(image))
    assert blanks is not None
    assert blanks.value == 0
    # A datum of 0 next to the canvas belongs to it; a tip of the canvas may belong to the sky.
    tolerance = {"f4": 0, "f8": 0, "i2": 0.01, "u2": 0.02}[dtype] if sky < 1000 else 0
    assert np.count_nonzero(blanks.mask ^ mask) <= tolerance * mask.size


@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.5, 2.0, 10.0, 300.0])
@pytest.mark.parametrize("dtype", ["f4", "i2", "u2"])
def test_a_sky_of_zero_is_a_datum(dtype: str, sigma: float) -> None:
    """Integers, clipped or not, and a sky without noise keep their zeros."""
    image = noise(0.0, sigma)
    image = np.clip(image, 0, None) if dtype == "u2" else image
    assert find_blanks(tile(np.round(image).astype(dtype))) is None


@pytest.mark.parametrize("value", [1000.0, 0.0, 65535.0])
def test_a_constant_tile_has_no_blanks(value: float) -> None:
    """A flat sky is a datum; so is one with a few stars and no noise."""
    image = np.full(SHAPE, value)
    assert find_blanks(tile(image)) is None
    image[40:44, 50:54] += 500
    assert find_blanks(tile(image)) is None


def test_zeros_far_below_the_sky_are_blank_anywhere() -> None:
    """A dead row and dead pixels of an image with a high sky are no data."""
    image = noise(1000.0).astype("f4")
    image[80], image[20:30, 33] = 0, 0
    blanks = find_blanks(tile(image))
    assert blanks is not None
    np.testing.assert_array_equal(blanks.mask, image == 0)


@pytest.mark.parametrize("value", [-999.0, -32768.0, 65535.0])
def test_other_fill_values_are_found(value: float) -> None:
    """A value far from the data that fills the border is blank, whatever it is."""
    image = np.where(rotated(1), value, noise(1000.0)).astype("f4")
    blanks = find_blanks(tile(image))
    assert blanks is not None
    assert blanks.value == value
    np.testing.assert_array_equal(blanks.mask, rotated(1))


def test_saturated_stars_at_the_edge_are_no_blanks() -> None:
    """The highest value at the edge is blank only if it fills much of the edge."""
    image = noise(1000.0).astype("f4")
    image[:12, 40:60], image[100:130, -9:] = 60000, 60000
    assert find_blanks(tile(image)) is None


@pytest.mark.parametrize("channels_last", [False, True])
def test_blanks_are_equal_in_all_channels(channels_last: bool) -> None:
    """A channel that is 0 alone is a datum."""
    mask = rotated(2)
    cube = np.stack([np.where(mask, 0, noise(200.0, seed=k)) for k in range(3)]).astype("f4")
    cube[2, :30] = 0
    cube = np.moveaxis(cube, 0, 2) if channels_last else cube
    blanks = find_blanks(tile(cube))
    assert blanks is not None
    np.testing.assert_array_equal(blanks.mask, mask)


def test_the_option_decides() -> None:
    """A number is blank wherever it is; none keeps all numbers; nonsense is refused."""
    image = np.where(frame(6), 0, noise(1000.0)).astype("f4")
    image[70:80, 70:80] = 7
    assert find_blanks(tile(image, blank="none")) is None
    blanks = find_blanks(tile(image, blank=7.0))
    assert blanks is not None
    np.testing.assert_array_equal(blanks.mask, image == 7)
    with pytest.raises(UserError, match="blank is 'zero'; give a number, auto or none"):
        FileOptions(blank="zero")


# ---- mosaics ----------------------------------------------------------------------------------


@cache
def scene() -> tuple[SimulatedTile, ...]:
    """Return nine tiles with a good overlap."""
    return simulated(tiles=9, shape=SHAPE, overlap=0.4)


def solution(images: list[np.ndarray]) -> PhaseSolution:
    """Return the solution of the tiles of the scene with other pixels."""
    tiles = [(image, tile.wcs) for image, tile in zip(images, scene(), strict=True)]
    return calibrate(tiles, Settings(), pool="serial", observers=[])


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("level", [0.0, 990.0])
def test_zeros_give_the_solution_of_nan(canvas: str, level: float) -> None:
    """Exact zeros about the frames change no bit of the solution, also with a low sky."""
    masks = [CANVASES[canvas](k) for k in range(9)]
    images = [tile.data - np.float32(level) for tile in scene()]
    with_zeros = solution([np.where(m, 0, d) for m, d in zip(masks, images, strict=True)])
    with_nan = solution([np.where(m, np.nan, d) for m, d in zip(masks, images, strict=True)])
    np.testing.assert_array_equal(with_zeros.gain, with_nan.gain)
    np.testing.assert_array_equal(with_zeros.offset, with_nan.offset)
    error = np.log(with_zeros.gain[:, 0] / [tile.gain[0] for tile in scene()])
    assert np.std(error) < 0.02


@pytest.mark.parametrize("order", [1, 3])
def test_interpolation_mixes_no_zeros_into_the_data(order: int) -> None:
    """The rim in which a registration has mixed zeros and data is left out."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([[[70.3]], [[90.4]]])
    u, v = np.cos(0.3) * x + np.sin(0.3) * y + 60, np.cos(0.3) * y - np.sin(0.3) * x + 45
    image = map_coordinates(noise(1000.0)[:90, :120], [v, u], order=order, mode="grid-constant")
    image[(u < -2) | (u > 121) | (v < -2) | (v > 91)] = 0
    blanks = find_blanks(tile(image.astype("f4")))
    assert blanks is not None
    assert blanks.rim > 0
    mixed = image < 900
    left = np.count_nonzero(mixed & ~blanks.grown()) / np.count_nonzero(mixed & ~blanks.mask)
    assert left < (0.02 if order == 1 else 0.2)  # a spline has endless tails


def test_the_run_reports_the_fill_value(tmp_path: Path, intertile: Callable[..., Run]) -> None:
    """One line names the value and the number of pixels; --blank none keeps them."""
    paths = []
    for tile in scene()[:4]:
        paths.append(tmp_path / tile.name)
        fits.writeto(paths[-1], np.where(frame(8), 0, tile.data), tile.wcs.to_header())
    pixels = 4 * np.count_nonzero(frame(8))
    result = intertile(*paths, "-v")
    assert f"{pixels} pixels of 4 tiles" in result.err
    assert "have the value 0 and count as missing" in result.err
    assert "count as missing" not in intertile(*paths, "-v", "--blank", "none").err


@pytest.mark.parametrize("kind", ["f4", "u2", "rgba"])
def test_corrected_files_keep_their_blanks(
    kind: str, tmp_path: Path, intertile: Callable[..., Run]
) -> None:
    """A canvas of 0 stays 0, never the offset; an alpha plane stays as it is."""
    paths = []
    for tile in scene()[:4]:
        image = np.where(frame(8), 0, tile.data)
        if kind == "rgba":
            image = np.stack([image, image, image, np.where(frame(8), 0, 255)])
        image = np.round(image).astype("u2") if kind == "u2" else image.astype("f4")
        paths.append(tmp_path / tile.name)
        fits.writeto(paths[-1], image, tile.wcs.to_header())
    assert intertile(*paths, "--apply", tmp_path / "corrected").code == 0
    for path in paths:
        before, after = fits.getdata(path), fits.getdata(tmp_path / "corrected" / path.name)
        if kind == "rgba":
            np.testing.assert_array_equal(after[3], before[3])
            before, after = before[:3], after[:3]
        assert (after[..., frame(8)] == 0).all()
        changed = (after != before)[..., ~frame(8)]
        assert changed.mean() > 0.9
