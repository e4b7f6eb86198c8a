"""The fine structure of the illumination: found where many tiles overlap, removed and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.test_illumination import full_correction, illumination
from zemosaic import calibrate
from zemosaic.photometry.apply import correct
from zemosaic.photometry.cosine_series import CosineSeries, cosines
from zemosaic.photometry.fine_structure.corrected_blocks import CorrectedBlocks
from zemosaic.photometry.fine_structure.lattice import FEWEST_HALF_WAVES, Lattice
from zemosaic.photometry.fine_structure.removal import without_fine_structure
from zemosaic.photometry.illumination import FineStructure, detector_coordinate
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.photometry.solver.channel import TileFrame
from zemosaic.photometry.solver.channel_pairs import MeasuredPairs
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import Tile, tile_from_array
from zemosaic.pipeline import fine_structure
from zemosaic.pipeline.illumination_file import read_illuminations, write_illuminations
from zemosaic.pipeline.illumination_text import describe_illuminations
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.settings import Settings

MANY = {"tiles": 64, "shape": (160, 200), "overlap": 0.35, "flat_scale": 20.0, "stars": 5e-4}


def series(channels: int = 1, size: float = 0.01) -> CosineSeries:
    """Return a series with terms of 2 to 5 half waves."""
    random = np.random.default_rng(5)
    coefficients = np.zeros((channels, 6, 6))
    coefficients[:, 2:, 2:] = size * random.normal(size=(channels, 4, 4))
    return CosineSeries(coefficients, np.full((channels, 4, 8), 1e-3) * np.arange(1, 9))


def axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the detector coordinates of all columns, and of all rows."""
    y, x = (detector_coordinate(np.arange(length), length) for length in shape)
    return x, y


def solved(**changes: Any) -> tuple[list[SimulatedTile], PhaseSolution, list[str]]:
    """Simulate and calibrate many small tiles; also return the notes of the run."""
    tiles = list(simulate(Scene(**{**MANY, **changes})))
    notes: list[str] = []

    class Notes:
        def handle_batch(self, events: Any) -> None:
            notes.extend(getattr(event, "message", "") for event in events)

    given = [tile_from_array(tile.data, tile.wcs, name=tile.name) for tile in tiles]
    return tiles, calibrate(given, Settings(), "serial", [Notes()]), notes


# ---- the series -------------------------------------------------------------------------------


def test_a_series_is_the_sum_of_its_cosines() -> None:
    """At single places as on a grid; its rms and errors are those of its values."""
    fine = series(channels=2)
    x, y = axes((300, 400))
    values = fine.on_grid(x, y)
    k, m = 3, 4
    expected = np.cos(np.pi * k * (y[:, None] + 1) / 2) * np.cos(np.pi * m * (x + 1) / 2)
    single = np.zeros((1, 6, 6))
    single[0, k, m] = 1.0
    np.testing.assert_allclose(CosineSeries(single, single).on_grid(x, y)[0], expected, atol=1e-12)
    np.testing.assert_allclose(fine.at(*np.meshgrid(x, y)), values, atol=1e-15)
    np.testing.assert_allclose(fine.rms, values.std(axis=(1, 2)), rtol=1e-2)
    errors = fine.errors_on_grid(x, y)
    np.testing.assert_allclose(errors[:, :, 100], 1e-3 * (2 + 0.51), rtol=1e-12)
    np.testing.assert_allclose(errors[:, :, [0, -1]], np.tile([1e-3, 8e-3], (2, 300, 1)))


def test_an_illumination_is_multiplied_by_its_fine_structure() -> None:
    """In its values and in corrected tiles; its digest differs, and its error is larger."""
    smooth = illumination(channels=2)
    light = replace(smooth, fine=FineStructure("log_flat", series(channels=2)))
    x, y = axes(light.shape)
    structure = np.exp(series(channels=2).on_grid(x, y))
    np.testing.assert_allclose(light.factor(), smooth.factor() * structure)
    np.testing.assert_allclose(light.at(*np.meshgrid(x, y))[0], light.factor())
    data = np.random.default_rng(0).normal(1000, 10, (2, *light.shape))
    correction, before = full_correction(light), full_correction(smooth)
    bias, gain = np.reshape(correction.bias, (2, 1, 1)), np.reshape(correction.gain, (2, 1, 1))
    own = gain * (data - light.glow_level()) + np.reshape(correction.offset, (2, 1, 1)) - bias
    change = own / light.factor() - own / smooth.factor()
    np.testing.assert_allclose(correct(data, correction), correct(data, before) + change, rtol=1e-5)
    assert light.digest != smooth.digest
    assert (light.errors_on_grid(x, y)[0] > 0).all()


def test_the_file_of_an_illumination_keeps_its_fine_structure(tmp_path: Path) -> None:
    """All of the series, and F with it in the image."""
    light = replace(illumination(), fine=FineStructure("log_flat", series()))
    solution = type("Solved", (), {"illuminations": (light,), "unit": "adu"})()
    write_illuminations(solution, tmp_path / "a.fits", "run")
    (read,) = read_illuminations(tmp_path / "a.fits")
    assert read.fine is not None
    np.testing.assert_array_equal(read.fine.series.coefficients, series().coefficients)
    np.testing.assert_array_equal(read.fine.series.errors, series().errors)
    assert read.digest == light.digest
    with fits.open(tmp_path / "a.fits") as hdus:
        image, shape = hdus["FLAT1"].data[0], light.shape
    np.testing.assert_allclose(image, light.factor()[0], rtol=1e-5)
    assert image.shape == shape


def test_the_summary_has_the_size_of_the_structure() -> None:
    """Beside the loss in the corners if there is one."""
    light = replace(illumination(), fine=FineStructure("log_flat", series()))
    ((name, text), *_) = describe_illuminations([light], "adu")
    assert name == "illumination"
    assert f"structure of {100 * series().rms[0]:.2g} % (rms), shared by 4 tiles" in text
    assert "light in the corners" in text
    flat = replace(light, log_flat=0 * light.log_flat, glow=0 * light.glow)
    ((_, text),) = describe_illuminations([flat], "adu")
    assert text.startswith("structure of")


# ---- found ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "overlap", "most"), [(0, 0.35, 0.4), (1, 0.25, 0.6)])
def test_the_structure_of_a_flat_is_found_where_many_tiles_overlap(
    seed: int, overlap: float, most: float
) -> None:
    """It explains most of a flat's residual of 1 %, and its error covers the rest.

    The error is larger in the middle of the tiles if narrow overlaps do not reach it.
    """
    tiles, solution, _ = solved(flat_residual=0.01, seed=seed, overlap=overlap)
    (light,) = solution.illuminations
    assert light.fine is not None
    assert light.tiles.tolist() == list(range(64))
    true = np.log(tiles[0].flat)
    left = true - np.log(light.factor()[0])
    smooth = true - np.log(replace(light, fine=None).factor()[0])
    assert left.std() < most * smooth.std()
    # A linear term is a trend of the gains as well.
    y, x = np.indices(left.shape)
    planes = np.stack([np.ones(left.size), x.ravel(), y.ravel()], axis=1)
    rest = left.ravel() - planes @ np.linalg.lstsq(planes, left.ravel(), rcond=None)[0]
    error = light.errors_on_grid(*axes(light.shape))[0][0]
    assert 0.5 < (rest / error.ravel()).std() < 1.6
    assert (error[80, 100] > 1.1 * np.median(error[:, 20])) == (overlap < 0.3)
    gain = solution.gain[:, 0] / [tile.gain[0] for tile in tiles]
    assert gain.std() / gain.mean() < 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sharp_glow_is_a_structure_of_the_glow(seed: int) -> None:
    """Not of F: it adds the same to the data of all tiles, whatever their gains."""
    tiles, solution, _ = solved(glow=200.0, seed=seed)
    (light,) = solution.illuminations
    assert light.fine is not None
    assert light.fine.kind == "glow"
    left, smooth = (
        tiles[0].glow - each.glow_level()[0] for each in (light, replace(light, fine=None))
    )
    assert left.std() < 0.5 * smooth.std()
    assert (light.errors_on_grid(*axes(light.shape))[1] > 0).all()
    ((_, text),) = describe_illuminations([light], "adu")
    assert text.startswith("up to ")
    np.testing.assert_allclose(light.factor(), replace(light, fine=None).factor())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"electrons": 0.0, "read_noise": 0.0, "seeing": 0.0},
        {"vignetting": 0.05},
        {"gradient": True, "trail": True},
        {"overlap": 0.7},
        {"flat_residual": 0.005, "flat_shared": False},
    ],
    ids=["noise", "no noise", "vignetting", "gradients", "deep", "own flats"],
)
def test_other_light_is_no_fine_structure(changes: dict[str, Any]) -> None:
    """Noise of many overlaps, trails, a smooth illumination and each tile's own."""
    _, solution, _ = solved(**changes)
    assert all(light.fine is None for light in solution.illuminations)


def test_few_tiles_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of few tiles is a structure of its own."""

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(fine_structure, "fit_fine_structure", refuse)
    solved(tiles=16, flat_residual=0.01)


def test_a_preview_that_is_lost_costs_the_structure_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tiles are solved without it, and a warning says so."""

    def fail(*_: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(fine_structure.CorrectedBlocks, "of", fail)
    _, solution, notes = solved(flat_residual=0.01)
    assert all(light.fine is None for light in solution.illuminations)
    assert any("is not corrected (gone)" in note for note in notes)
    assert np.isfinite(solution.gain).all()


def test_a_series_is_interpolated_between_the_nodes_of_a_lattice() -> None:
    """Means over blocks of its terms agree to a few per cent of the finest."""
    lattice = Lattice.of((320, 480), 10.0)
    assert (lattice.rows, lattice.columns) == (32, 48)
    half_waves = np.hypot(lattice.degrees[:, 0] * 1.5, lattice.degrees[:, 1])
    assert half_waves.min() >= FEWEST_HALF_WAVES
    random = np.random.default_rng(2)
    x, y = random.uniform(-0.9, 0.9, (2, 300))
    shown = lattice.interpolation(x, y) @ lattice.terms
    counts = lattice.degrees.max(axis=0) + 1
    true = (cosines(y, counts[0])[:, lattice.degrees[:, 0]]
            * cosines(x, counts[1])[:, lattice.degrees[:, 1]])  # fmt: skip
    means = np.sinc(lattice.degrees / (2 * np.array([32, 48]))).prod(axis=1)  # over a block
    assert np.sqrt(np.mean((shown - true * means) ** 2)) < 0.1
    coarse = half_waves < 10
    assert np.abs(shown - true * means)[:, coarse].max() < 0.04


def test_blocks_are_corrected_as_the_pixels_are() -> None:
    """Their means are those of the corrected tile, also if several are merged."""
    (tile, *_) = simulate(Scene(tiles=1, shape=(160, 200), electrons=0, seeing=0, stars=0.0))
    own = tile_from_array(tile.data, tile.wcs)
    grid = make_grid([own])
    preview = make_preview(own, grid)
    one = np.array([1.1])
    correction = Correction(
        one, 30 * one, 0.02 * one, -0.01 * one, bias=5 * one, illumination=illumination((160, 200))
    )
    corrected = make_preview(tile_from_array(correct(tile.data, correction), tile.wcs), grid)
    for side in (1, 2):
        blocks = CorrectedBlocks.of(preview, correction, (160, 200), side)
        neutral = Correction(one / one, 0 * one)
        expected = CorrectedBlocks.of(corrected, neutral, (160, 200), side)
        assert blocks.valid.sum() > 20
        np.testing.assert_allclose(
            blocks.values[:, blocks.valid], expected.values[:, blocks.valid], rtol=5e-4
        )
        np.testing.assert_allclose(blocks.light + 5, blocks.values, atol=5.0)


# ---- removed ----------------------------------------------------------------------------------


def measured(tiles: list[Tile]) -> tuple[MeasuredPairs, TileFrame]:
    """Measure the levels of a pair of tiles, and return their positions as well."""
    grid = make_grid(tiles)
    first, second = (make_preview(tile, grid) for tile in tiles)
    frame = TileFrame(
        np.array([first.centre, second.centre]),
        np.array([first.jacobian, second.jacobian]),
        np.array([tile.shape for tile in tiles]),
    )
    return MeasuredPairs.of([measure_pair(first, second, "offset")[0]], 1), frame


def patches(pairs: MeasuredPairs) -> np.ndarray:
    """Return the levels ``(n, 2)`` of both tiles in each patch of the only pair."""
    found = pairs.rows["patches"].reshape(16, 11)
    return found[found[:, 7] > 0][:, [2, 3]]


@pytest.mark.parametrize(("kind", "size"), [("log_flat", 0.004), ("glow", 4.0)])
def test_levels_without_the_structure_are_those_of_tiles_without_it(kind: str, size: float) -> None:
    """In each patch and at the pivot; F does not act on a level that is no light."""
    bias, fine = 300.0, FineStructure(kind, series(size=size))
    scene = Scene(tiles=2, shape=(160, 200), overlap=0.5, seeing=0, stars=0.0, offset=0.0,
                  gains=(1.0, 1.0))  # fmt: skip
    values = fine.series.on_grid(*axes(scene.shape))[0]
    (clean, _), (disturbed, frame) = (
        measured(
            [
                tile_from_array((tile.data * flat + glow + bias).astype(np.float32), tile.wcs)
                for tile in simulate(scene)
            ]
        )
        for flat, glow in ((1.0, 0.0), (np.exp(values), 0.0) if kind == "log_flat" else (1, values))
    )
    ends = np.array([0]), np.array([1])
    removed, kept = (
        without_fine_structure(disturbed, ends, fine, frame, np.full(2, dark))
        for dark in (bias, np.nan)
    )
    for name in ("x", "y", "patches"):
        np.testing.assert_array_equal(kept.rows[name], disturbed.rows[name])
    before, after = ((patches(p) - patches(clean)) @ [1, -1] for p in (disturbed, removed))
    assert before.std() > 5
    assert after.std() < 0.12 * before.std()
    pivots = [float((p.rows["x"] - p.rows["y"])[0]) for p in (clean, disturbed, removed)]
    assert pivots[2] == pytest.approx(pivots[0], abs=0.3)
