"""Corrections of simulated tiles, from files to offsets, against the truth."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from zemosaic import Settings, calibrate, tile_from_array
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.simulate import Scene, SimulatedTile, align_truth, simulate

#: Without noise and with equal seeing, because different seeing makes the skies differ.
EXACT = Scene(tiles=9, shape=(192, 256), electrons=0, seeing=0, stars=4e-3, overlap=0.3)


def solve(tiles: list[SimulatedTile], **options: Any) -> Any:
    given = [tile_from_array(tile.data, tile.wcs, name=tile.name) for tile in tiles]
    return calibrate(given, Settings(**options), pool="serial", observers=[])


def errors(tiles: list[SimulatedTile], solution: Any) -> tuple[float, float]:
    """Return the largest relative gain error and offset error in ADU, up to the gauge."""
    gain, offset = align_truth(
        solution, np.array([tile.gain for tile in tiles]), np.array([tile.offset for tile in tiles])
    )
    return np.abs(solution.gain / gain - 1).max(), np.abs(solution.offset - offset).max()


LAYOUTS = {
    "plain": {},
    "one row": {"shape": (192, 900), "tiles": 4},
    "turned at random": {"rotation": 180.0, "overlap": 0.45},
    "large overlaps": {"overlap": 0.7},
    "SIP": {"sip": True},
    "NaN borders": {"border": True},
    "RGB": {"rgb": True},
    "islands": {"islands": 3},
    "RA 0": {"centre": (0.0, 20.0)},
    "near the pole": {"centre": (120.0, 89.7)},
    "other gains": {"gains": (0.5, 2.0)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_noise_the_truth_is_recovered(layout: str) -> None:
    """Gains to 1e-4 and offsets to 0.1 ADU, on any layout."""
    tiles = list(simulate(dataclasses.replace(EXACT, **LAYOUTS[layout])))
    solution = solve(tiles)
    assert not solution.failed
    gain, offset = errors(tiles, solution)
    assert gain < 1e-4
    assert offset < 0.1


def test_islands_are_labelled_and_a_lone_tile_is_unchanged() -> None:
    """Components do not mix; a tile without overlap has gain 1, offset 0 and no pairs."""
    tiles = list(simulate(dataclasses.replace(EXACT, tiles=7, islands=3)))
    solution = solve(tiles)
    assert solution.component[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert (solution.gain[6, 0], solution.offset[6, 0], solution.pairs[6, 0]) == (1.0, 0.0, 0)
    assert solution.groups == 3


def test_the_order_of_tiles_does_not_matter() -> None:
    """A permutation of the tiles permutes the corrections."""
    tiles = list(simulate(EXACT))
    order = np.random.default_rng(1).permutation(len(tiles))
    original, permuted = solve(tiles), solve([tiles[k] for k in order])
    assert np.allclose(permuted.gain, original.gain[order], rtol=1e-6)
    assert np.allclose(permuted.offset, original.offset[order], atol=1e-3)


def test_corrected_tiles_need_no_correction() -> None:
    """Corrected tiles calibrated again have gain 1 and offset 0."""
    tiles = list(simulate(EXACT))
    solution = solve(tiles)
    again = [
        dataclasses.replace(
            tile, data=(solution.gain[k, 0] * tile.data + solution.offset[k, 0]).astype(np.float32)
        )
        for k, tile in enumerate(tiles)
    ]
    second = solve(again)
    assert np.abs(second.gain - 1).max() < 1e-5
    assert np.abs(second.offset).max() < 0.02


def test_gain_errors_are_honest() -> None:
    """With noise, gains are within a few errors of the truth."""
    tiles = list(simulate(dataclasses.replace(EXACT, electrons=1.0, shape=(360, 480), nebula=600)))
    solution = solve(tiles)
    gain, _ = align_truth(
        solution, np.array([t.gain for t in tiles]), np.array([t.offset for t in tiles])
    )
    pull = (solution.gain / gain - 1) / (solution.gain_err / solution.gain)
    assert np.sqrt(np.mean(pull**2)) < 2.0
    assert np.abs(solution.gain / gain - 1).max() < 0.01


def test_simulated_tiles_agree_with_their_truth() -> None:
    """Tiles times their true gain plus their true offset agree on the shared sky."""
    scene = dataclasses.replace(EXACT, rotation=0.0, tiles=2, overlap=0.5)
    one, other = simulate(scene)
    corrected = [tile.gain[0] * tile.data + tile.offset[0] for tile in (one, other)]
    y, x = np.mgrid[40:150:7, 100:240:7]
    sky = one.wcs.all_pix2world(np.stack([x.ravel(), y.ravel()], axis=1), 0)
    place = other.wcs.all_world2pix(sky, 0)
    inside = ((place > 5) & (place < [250, 186])).all(axis=1)
    assert inside.sum() > 20
    from scipy.ndimage import map_coordinates

    second = map_coordinates(corrected[1].astype(float), place[inside][:, ::-1].T, order=3)
    first = corrected[0][y.ravel()[inside], x.ravel()[inside]]
    assert np.median(np.abs(second - first)) < 0.1


def test_the_first_tiles_do_not_depend_on_how_many_there_are() -> None:
    """Each tile has its own random numbers, so its noise is reproducible."""
    few = next(iter(simulate(Scene(tiles=4, shape=(64, 64), seed=3))))
    again = next(iter(simulate(Scene(tiles=4, shape=(64, 64), seed=3))))
    assert np.array_equal(few.data, again.data)
    other = next(iter(simulate(Scene(tiles=4, shape=(64, 64), seed=4))))
    assert not np.array_equal(few.data, other.data)


def test_errors_of_gains_cover_flats_of_the_tiles_own() -> None:
    """Where a tile's flat disturbs one pair, it disturbs all pairs there, and levels alike."""
    pulls = []
    for seed in (1, 2, 3):
        scene = Scene(
            tiles=36, shape=(320, 320), overlap=0.28, flat_residual=2e-3, flat_shared=False,
            seed=seed,
        )  # fmt: skip
        tiles = list(simulate(scene))
        solution = solve(tiles)
        error = np.log(solution.gain[:, 0] * [1 / tile.gain[0] for tile in tiles])
        pulls.append((error - error.mean()) / (solution.gain_err / solution.gain)[:, 0])
    assert 0.5 < np.square(pulls).mean() < 1.5


def dimmed_gains(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of log-gains of tiles that share an illumination, and the claimed ones."""
    tiles = list(simulate(scene))
    solution = solve(tiles)
    dimmed = [np.exp(np.log(tile.flat).mean()) / tile.gain[0] for tile in tiles]
    error = np.log(solution.gain[:, 0] * dimmed)
    return error - error.mean(), (solution.gain_err / solution.gain)[:, 0]


@pytest.mark.parametrize("overlap", [0.12, 0.3])
def test_errors_of_levels_hold_the_noise_that_cells_share(overlap: float) -> None:
    """Neighbouring cells of previews are correlated; few patches of a narrow overlap hide it."""
    pulls = []
    for seed in range(4):
        scene = Scene(
            tiles=16, shape=(240, 320), overlap=overlap, gains=(1.0, 1.0), offset=0.0, stars=1e-5,
            nebula=0.0, seed=seed,
        )  # fmt: skip
        for record in solve(list(simulate(scene)), model="offset").records:
            (line,) = record.measurements
            if isinstance(line, PairMeasurement):
                pulls.append((line.y - line.x) / line.level_err)
    assert 0.85 < np.sqrt(np.mean(np.square(pulls))) < 1.2


def test_a_strong_illumination_is_no_noise_of_the_levels() -> None:
    """With 20 % less light in the corners gains are true to 1 %, and their errors honest."""
    pulls = []
    for seed in (1, 2, 3):
        scene = Scene(
            tiles=36, shape=(320, 320), overlap=0.28, vignetting=0.2, quartic=True, seed=seed
        )
        error, claimed = dimmed_gains(scene)
        assert error.std() < 0.008
        pulls.append(error / claimed)
    assert 0.5 < np.square(pulls).mean() < 1.5


@pytest.mark.parametrize("overlap", [0.25, 0.6])
def test_light_that_changes_within_patches_does_not_bend_the_levels(overlap: float) -> None:
    """Under a dark sky and 30 % less light in the corners levels are right to the noise.

    The nebula is brighter than the sky. Divided by the mean of F, the mean of a patch would be off
    by 3 of its errors.
    """
    pulls = []
    for seed in (1, 2, 3):
        scene = Scene(tiles=25, overlap=overlap, vignetting=0.3, sky=200.0, seed=seed)
        error, claimed = dimmed_gains(scene)
        assert error.std() < 0.008
        pulls.append(error / claimed)
    assert np.square(pulls).mean() < 1.5
    assert np.abs(pulls).max() < 3.5


def test_a_tile_keeps_the_level_of_its_only_pair() -> None:
    """Nothing contradicts a single pair, however much it disagrees until the others have settled.

    Of these tiles with strong vignetting and few stars, two have one usable overlap.
    """
    scene = Scene(
        tiles=9, shape=(304, 331), overlap=0.212, rotation=3.0, stars=1.8e-4, nebula=100.0,
        sky=1600.0, fwhm=4.77, seeing=0.13, border=True, gradient=30.0, vignetting=0.2,
        flat_residual=2e-3, flat_shared=False, seed=12,
    )  # fmt: skip
    solution = solve(list(simulate(scene)))
    ends = np.array([(record.i, record.j) for record in solution.records])
    lonely = (solution.pairs[ends, 0] == 1).any(axis=1)
    residual = solution.residual[lonely, 0]
    assert np.count_nonzero(np.isfinite(residual)) == 2
    assert np.nanmax(np.abs(residual)) < 5
