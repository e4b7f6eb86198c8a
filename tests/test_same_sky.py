"""Overlaps that do not show the same sky: a wrong WCS, or images mirrored under it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic.photometry.simulate import SimulatedTile
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.settings import Settings

SCENE: dict[str, Any] = {
    "tiles": 9, "shape": (200, 260), "electrons": 10, "seeing": 0.1, "overlap": 0.3,
}  # fmt: skip
LIE = "the overlaps do not show the same sky: the WCS of most tiles, or their orientation, is wrong"
MIDDLE = 4  # the tile at the centre of nine


def solve(tiles: list[tuple[np.ndarray, WCS]]) -> PhaseSolution:
    return calibrate(tiles, Settings(workers=1), "serial", [])


def with_matrix(wcs: WCS, matrix: np.ndarray) -> WCS:
    """Return a WCS with another CD matrix."""
    changed = WCS(naxis=2)
    for name in ("ctype", "crval", "crpix"):
        setattr(changed.wcs, name, getattr(wcs.wcs, name))
    changed.wcs.cd = matrix
    changed.wcs.set()
    return changed


def opposite_rotation(tile: SimulatedTile) -> tuple[np.ndarray, WCS]:
    matrix = tile.wcs.pixel_scale_matrix * [[1, -1], [-1, 1]]
    return tile.data, with_matrix(tile.wcs, matrix)


LIES: dict[str, tuple[Callable[[SimulatedTile], tuple[np.ndarray, WCS]], str]] = {
    "upside down": (lambda tile: (tile.data[::-1], tile.wcs), "mirrored top to bottom"),
    "left to right": (lambda tile: (tile.data[:, ::-1], tile.wcs), "mirrored left to right"),
    "half a turn": (lambda tile: (tile.data[::-1, ::-1], tile.wcs), "rotated by 180 degrees"),
    "rotation": (opposite_rotation, "rotated by the opposite angle"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_wrong_orientation_of_all_tiles_is_named(name: str) -> None:
    """One line calls the WCS wrong and names the orientation that would explain it."""
    lie, explanation = LIES[name]
    solution = solve([lie(tile) for tile in simulated(**SCENE, rotation=20)])
    assert solution.sky_check.doubt.startswith(LIE)
    assert explanation in solution.sky_check.doubt


@pytest.mark.parametrize("changes", [{"stars": 0.0}, {"stars": 5e-5}])
def test_a_wrong_orientation_is_named_with_few_stars(changes: dict[str, Any]) -> None:
    """Where there are hardly any stars, the smooth scene shows that images are mirrored."""
    tiles = simulated(**SCENE | {"shape": (240, 320), "overlap": 0.25} | changes, seed=2)
    solution = solve([(tile.data[::-1], tile.wcs) for tile in tiles])
    assert "mirrored top to bottom" in solution.sky_check.doubt


def test_turned_square_tiles_are_named() -> None:
    """A quarter of a turn is found as well; its sense is that of the image."""
    tiles = simulated(**SCENE | {"shape": (220, 220)})
    solution = solve([(np.rot90(tile.data), tile.wcs) for tile in tiles])
    assert "rotated by " in solution.sky_check.doubt


def test_wrong_positions_are_doubted_without_an_explanation() -> None:
    """Where no orientation explains the disagreement, none is named."""
    tiles = simulated(**SCENE)
    random = np.random.default_rng(1)
    solution = solve([(np.roll(t.data, random.integers(30, 90, 2), (0, 1)), t.wcs) for t in tiles])
    assert solution.sky_check.doubt == LIE + "; solve the plates again"


@pytest.mark.parametrize("seed", [1, 3, 10])
@pytest.mark.parametrize("change", ["mirrored", "scale"])
def test_one_tile_that_lies_is_suspect(change: str, seed: int) -> None:
    """Only the tile with a wrong orientation or scale is suspect, and the reason says so."""
    tiles = [(tile.data, tile.wcs) for tile in simulated(**SCENE | {"seed": seed})]
    data, wcs = tiles[MIDDLE]
    scaled = with_matrix(wcs, 2 * wcs.pixel_scale_matrix)
    tiles[MIDDLE] = (data[::-1], wcs) if change == "mirrored" else (data, scaled)
    solution = solve(tiles)
    assert solution.suspects == [MIDDLE]
    assert not solution.sky_check.doubt
    reason = solution.why_suspect(MIDDLE)
    assert reason.startswith("its overlaps do not show the same sky")
    assert ("mirrored top to bottom" in reason) == (change == "mirrored")


@pytest.mark.parametrize("mirrored", [[1, 7], [0, 3, 6], [0, 8]])
def test_several_tiles_that_lie_are_suspect(mirrored: list[int]) -> None:
    """A minority of mirrored tiles is suspect, and no other tile."""
    tiles = [
        (tile.data[::-1] if index in mirrored else tile.data, tile.wcs)
        for index, tile in enumerate(simulated(**SCENE))
    ]
    assert sorted(solve(tiles).sky_check.tiles) == mirrored


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient": True, "trail": True, "border": True},
        {"stars": 5e-5, "trail": True},
        {"stars": 0.0, "gradient": True},
        {"electrons": 0.05, "trail": True},
        {"rotation": 180.0},
        {"rgb": True, "overlap": 0.1},
    ],
    ids=["all", "few stars", "no stars", "shallow", "turned", "narrow"],
)
def test_ordinary_tiles_are_not_doubted(changes: dict[str, Any]) -> None:
    """Gradients, trails, noise and a lack of stars are no reason to doubt a WCS."""
    solution = solve([(tile.data, tile.wcs) for tile in simulated(**SCENE | changes)])
    assert not solution.sky_check.doubt
    assert not solution.sky_check.tiles


@pytest.mark.parametrize("seed", range(2))
def test_tiles_with_structure_of_their_own_are_not_doubted(seed: int) -> None:
    """What the flat left in each tile hides the correlation of the sky, but not its stars."""
    tiles = simulated(
        tiles=16, shape=(360, 400), overlap=0.34, rotation=20, stars=2e-4, nebula=0.0, sky=3000.0,
        electrons=12, flat_residual=0.006, flat_shared=False, vignetting=0.15, seed=seed,
    )  # fmt: skip
    check = solve([(tile.data, tile.wcs) for tile in tiles]).sky_check
    assert not check.doubt
    assert not check.tiles


@pytest.mark.parametrize("hot", [0.0, 0.002], ids=["noise", "hot pixels"])
def test_a_sky_of_noise_is_not_doubted(hot: float) -> None:
    """Overlaps without any star, even with hot pixels, differ by nature."""
    random = np.random.default_rng(5)
    shape = SCENE["shape"]
    hot_pixels = 3000.0 * (random.random(shape) < hot)
    tiles = [(random.normal(1000, 10, shape) + hot_pixels, tile.wcs) for tile in simulated(**SCENE)]
    solution = solve(tiles)
    assert not solution.sky_check.doubt
    assert not solution.sky_check.tiles


def test_a_lie_of_all_tiles_ends_with_exit_code_1(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Summary, JSON, standard error and report have the line; tables are written."""
    paths = write_tiles(**SCENE)
    for path in paths:
        with fits.open(path, mode="update", memmap=False) as hdus:
            hdus[0].data = hdus[0].data[::-1].copy()
    result = intertile(*paths)
    assert result.code == 1
    assert f"doubt        {LIE}" in result.out
    assert LIE in result.err
    assert (tmp_path / "run" / "corrections.ecsv").exists()
    assert LIE in (tmp_path / "run" / "report.html").read_text()


LIARS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda data: data[::-1],
    "half a turn": lambda data: data[::-1, ::-1],
    "half an overlap": lambda data: np.roll(data, data.shape[1] * 3 // 20, axis=1),
}


@pytest.mark.parametrize("model", ["auto", "gain+offset"])
@pytest.mark.parametrize("name", LIARS)
def test_a_tile_that_lies_in_a_small_mosaic_bends_no_gain_in_silence(name: str, model: str) -> None:
    """Of four small tiles the gains of the good ones are right, or the solution has a doubt."""
    for seed, liar in itertools.product((6, 11, 26), (1, 3)):
        tiles = list(simulated(tiles=4, shape=(80, 96), overlap=0.3, electrons=10, seed=seed))
        data = [LIARS[name](t.data) if k == liar else t.data for k, t in enumerate(tiles)]
        solution = calibrate(
            [(image, tile.wcs) for image, tile in zip(data, tiles, strict=True)],
            Settings(model=model), "serial", [],
        )  # fmt: skip
        good = [k for k in range(4) if k != liar and np.isfinite(solution.gain_err[k, 0])]
        error = solution.gain[good, 0] / [tiles[k].gain[0] for k in good]
        doubted = solution.suspects or solution.sky_check.doubt or any(solution.warnings())
        assert doubted or np.abs(error / np.median(error) - 1).max() < 0.05


def test_gains_of_a_mosaic_are_kept_from_a_tile_that_lies() -> None:
    """The gains of the good tiles are those without the tile that lies."""
    tiles = list(simulated(tiles=4, shape=(80, 96), overlap=0.3, electrons=10, seed=11))
    data = [(t.data[:, ::-1] if k == 3 else t.data, t.wcs) for k, t in enumerate(tiles)]
    solution = solve(data)
    assert solution.suspects == [3]
    ratio = solution.gain[:3, 0] / solve(data[:3]).gain[:, 0]
    assert ratio == pytest.approx(ratio[0], rel=2e-3)
    assert 0.8 < solution.gain[3, 0] < 1.25
