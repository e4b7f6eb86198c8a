"""The scatter of the gain from star to star: found where it is, and allowed for in errors."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from zemosaic import tile_from_array
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.pairfit.star_scatter import star_scatter
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import make_preview
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.photometry.tiles.tile import Tile

NOISE = 12.0  # ADU of a pixel of one colour


@pytest.mark.parametrize("scatter", [0.05, 0.2])
def test_the_scatter_of_stars_is_found(scatter: float) -> None:
    """Of 200 stars 10 to 300 times as bright as their noise the scatter is found to 15 %."""
    rng = np.random.default_rng(1)
    light = 10 * 30 ** rng.uniform(size=200)
    residual = rng.standard_normal(200) * np.hypot(1, scatter * light)
    square = star_scatter(light, residual, np.ones(200), np.zeros(200))
    assert np.sqrt(square) == pytest.approx(scatter, rel=0.15)


def test_noise_has_no_scatter() -> None:
    """Of 400 skies of 30 stars with noise alone at most 3 % show a scatter, of less than 1 %."""
    rng = np.random.default_rng(2)
    light = 10 * 30 ** rng.uniform(size=(400, 30))
    residual = rng.standard_normal(light.shape)
    found = [
        star_scatter(a, r, np.ones(30), np.zeros(30)) for a, r in zip(light, residual, strict=True)
    ]
    assert np.count_nonzero(found) <= 12
    assert max(found) < 0.01**2


def test_no_stars_have_no_scatter() -> None:
    """Without a star there is none."""
    assert star_scatter(*np.zeros((4, 0))) == 0


def one_colour(seed: int) -> tuple[list[Tile], list[float]]:
    """Return tiles of one pixel of each 2 x 2 of sharp frames, and the gains of these."""
    scene = Scene(
        tiles=4, shape=(960, 760), overlap=0.45, stars=3e-5, fluxes=(2e4, 5e5), nebula=0, sky=200,
        fwhm=1.6, seeing=0.05, electrons=0, read_noise=0, seed=seed,
    )  # fmt: skip
    rng, tiles, gains = np.random.default_rng(seed), [], []
    for frame in simulate(scene):
        data, wcs = frame.data[1::2, 1::2], frame.wcs.deepcopy()
        wcs.wcs.crpix, wcs.wcs.cd = frame.wcs.wcs.crpix / 2, 2 * frame.wcs.wcs.cd
        noise = NOISE * rng.standard_normal(data.shape, dtype=np.float32)
        tiles.append(tile_from_array(data + noise, wcs, name=frame.name))
        gains.append(float(frame.gain[0]))
    return tiles, gains


def pulls(seed: int) -> list[float]:
    """Return the errors of the gains of all pairs in units of their standard errors."""
    tiles, gains = one_colour(seed)
    grid = make_grid(tiles)
    previews = [make_preview(tile, grid) for tile in tiles]
    errors = []
    for i, j in combinations(range(len(tiles)), 2):
        line = measure_pair(previews[i], previews[j])[0]
        if isinstance(line, PairMeasurement) and line.gain_measured:
            relative = line.gain_err / line.gain
            errors.append(np.log(line.gain * gains[j] / gains[i]) / relative)
    return errors


def test_stars_that_fall_between_pixels_do_not_fool_the_errors() -> None:
    """In a colour that has one pixel of four, errors of gains are honest to a factor of 3.

    Without an allowance for the scatter of the stars they are 5 times too small, and single ones 17
    times.
    """
    pull = np.array([value for seed in range(1, 4) for value in pulls(seed)])
    assert len(pull) >= 10
    assert np.sqrt(np.mean(pull**2)) < 3
    assert np.abs(pull).max() < 8
