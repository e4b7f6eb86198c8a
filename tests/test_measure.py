"""The pair fit on previews made by hand: symmetric, robust, and honest about what it knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import fourier_shift

from tests.helpers.previews import only, preview
from zemosaic.photometry.pairfit.measure import PairMeasurement, Rejected, measure_pair
from zemosaic.photometry.preview.preview import Preview

pytestmark = pytest.mark.usefixtures("either_way")

SHAPE = (60, 80)


def scene(seed: int, contrast: float = 60.0, stars: int = 60) -> np.ndarray:
    """Smooth clouds and stars, the same for both tiles."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    field = np.full(SHAPE, 1000.0)
    for _ in range(6):
        cx, cy, s = rng.uniform(0, 80), rng.uniform(0, 60), rng.uniform(8, 20)
        field += contrast * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s**2))
    for _ in range(stars):
        cx, cy = rng.uniform(0, 80), rng.uniform(0, 60)
        flux = min(100 * rng.uniform() ** -1.0, 5000)
        field += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2.0)
    return field


def pair(seed: int, gain: float = 1.1, offset: float = -50.0, noise: tuple[float, float] = (3, 3),
         contrast: float = 60.0, stars: int = 60) -> tuple[Preview, Preview]:  # fmt: skip
    """Tile i sees the scene; tile j sees gain * scene + offset."""
    rng = np.random.default_rng([seed, 9])
    true = scene(seed, contrast, stars)
    x = true + noise[0] * rng.normal(size=SHAPE)
    y = gain * true + offset + noise[1] * rng.normal(size=SHAPE)
    return preview(x, noise[0]), preview(y, noise[1])


def test_an_exact_line_is_found_exactly() -> None:
    """Without noise slope, intercept and pivot are those of the line."""
    found = only(measure_pair(*pair(1, 0.9, 123.0, (1e-4, 1e-4))))
    assert found.gain == pytest.approx(0.9, rel=1e-5)
    assert found.offset == pytest.approx(123.0, abs=0.02)
    assert found.y == pytest.approx(found.gain * found.x + found.offset, abs=1e-9)
    assert found.cells == SHAPE[0] * SHAPE[1]
    assert found.gain_measured


@pytest.mark.parametrize("noise", [(4.0, 4.0), (2.0, 9.0), (9.0, 2.0)])
def test_noise_in_both_tiles_does_not_bend_the_line(noise: tuple[float, float]) -> None:
    """The mean slope over 40 pairs is the truth, also with one tile far noisier."""
    found = [only(measure_pair(*pair(seed, 1.2, 10.0, noise))) for seed in range(40)]
    log = np.log([f.gain / 1.2 for f in found])
    error = np.array([f.gain_err / f.gain for f in found])
    mean_error = 1 / np.sqrt((error**-2).sum())
    assert abs((log / error**2).sum() * mean_error**2) < 4 * mean_error
    assert 0.75 < np.sqrt(np.mean((log / error) ** 2)) < 1.35
    level = [f.y - (1.2 * f.x + 10.0) for f in found]
    pull = np.array(level) / [f.level_err for f in found]
    assert 0.75 < np.sqrt(np.mean(pull**2)) < 1.35


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_swapping_the_tiles_inverts_the_line(seed: int) -> None:
    """(i, j) and (j, i): slope 1/a, the same pivot, the same relative error."""
    first, second = pair(seed, 1.3, 200.0, (3.0, 5.0))
    there, back = only(measure_pair(first, second)), only(measure_pair(second, first))
    error = there.gain_err / there.gain
    assert abs(np.log(back.gain * there.gain)) < 0.02 * error
    assert back.plane_gain == pytest.approx(1 / there.plane_gain, rel=1e-6)
    assert (back.x, back.y) == pytest.approx((there.y, there.x), rel=1e-5)
    assert back.gain_err / back.gain == pytest.approx(error, rel=1e-2)


def test_pure_noise_has_no_gain() -> None:
    """Flat sky: no wild number, but "not measurable", and the level difference all the same."""
    for seed in range(20):
        found = only(measure_pair(*pair(seed, 1.0, 30.0, contrast=0.0, stars=0)))
        assert not found.gain_measured
        assert found.gain == 1.0
        assert np.isnan(found.gain_err)
        assert found.y - found.x == pytest.approx(30.0, abs=4 * found.level_err)
        assert found.level_err < 0.3


def test_a_shift_is_measured() -> None:
    """A third of a cell, from a Fourier shift of the scene: its size and sign, from either side."""
    for seed in range(12):
        true = scene(seed)
        padded = np.pad(true, 20, mode="reflect")
        moved = fourier_shift(np.fft.fftn(padded), (-0.2, 0.3))
        rng = np.random.default_rng(seed)
        other = np.fft.ifftn(moved).real[20:-20, 20:-20]
        first = preview(true + 3 * rng.normal(size=SHAPE), 3.0)
        second = preview(1.1 * other + 3 * rng.normal(size=SHAPE), 3.0)
        there, back = only(measure_pair(first, second)), only(measure_pair(second, first))
        # The scene of the second lies 0.3 to the right and 0.2 below that of the first.
        assert there.shift == pytest.approx((0.3, -0.2), abs=0.1)
        assert back.shift == pytest.approx((-0.3, 0.2), abs=0.1)
        assert 0 < max(there.shift_err) < 0.03
    small = only(measure_pair(preview(scene(1)[:15, :15], 3.0), preview(scene(1)[:15, :15], 3.0)))
    assert np.isnan(small.shift).all()
    assert np.isnan(small.shift_err).all()


def test_trails_and_saturated_stars_lose_their_weight() -> None:
    """A bright band in one tile, and stars cut off in the other, change next to nothing."""
    first, second = pair(4, 1.1, 0.0)
    clean = only(measure_pair(first, second))
    trail = first.values.copy()
    trail[0, 20:23] += 300
    cut = np.minimum(second.values, np.float32(1900))
    found = only(measure_pair(preview(trail[0], 3.0), preview(cut[0], 3.0)))
    assert found.gain == pytest.approx(clean.gain, abs=4 * clean.gain_err)
    assert found.y - 1.1 * found.x == pytest.approx(0.0, abs=1.0)


def test_only_the_common_valid_cells_count() -> None:
    """Boxes are cut to what they share, and NaN in either tile takes the cell out."""
    first, second = pair(5)
    values = second.values[:, 10:, 15:].copy()
    values[:, :5, :7] = np.nan
    moved = preview(values[0], 3.0, x0=15, y0=10)
    assert only(measure_pair(first, moved)).cells == 50 * 65 - 35
    assert only(measure_pair(first, moved)).gain == pytest.approx(1.1, rel=0.01)


def test_too_little_in_common_is_rejected_with_a_reason() -> None:
    """Apart, touching in a few cells, or valid nowhere together: a reason for each channel."""
    first, second = pair(6)
    apart = replace(second, x0=500)
    assert measure_pair(first, apart) == (Rejected("no common cells"),)
    corner = replace(second, x0=77, y0=57)
    assert measure_pair(first, corner) == (Rejected("only 9 common cells"),)
    blind = preview(np.where(np.arange(80) < 1, second.values[0], np.nan), 3.0)
    half = preview(np.where(np.arange(80) < 1, np.nan, first.values[0]), 3.0)
    assert measure_pair(half, blind) == (Rejected("only 0 common cells"),)


def test_channels_are_measured_apart() -> None:
    """Each colour has a gain of its own; one blind channel does not take the others along."""
    true = scene(7)
    first = preview(np.stack([true, true, true]), 0.01)
    dead = np.full(SHAPE, np.nan)
    second = preview(np.stack([0.9 * true, dead, 1.4 * true + 7]), 0.01)
    red, green, blue = measure_pair(first, second)
    assert isinstance(red, PairMeasurement)
    assert isinstance(blue, PairMeasurement)
    assert red.gain == pytest.approx(0.9, rel=1e-4)
    assert isinstance(green, Rejected)
    assert blue.gain == pytest.approx(1.4, rel=1e-4)


def test_models_hold_what_they_promise() -> None:
    """ "offset" holds the slope at 1, "gain" the intercept at 0."""
    offset = only(measure_pair(*pair(8, 1.0, 77.0), model="offset"))
    assert (offset.gain, offset.gain_measured) == (1.0, False)
    assert offset.offset == pytest.approx(77.0, abs=0.5)
    gain = only(measure_pair(*pair(8, 1.25, 0.0), model="gain"))
    assert gain.gain == pytest.approx(1.25, rel=1e-3)
    assert gain.offset == pytest.approx(0.0, abs=1e-6)


def test_constant_tiles_are_matched_in_level() -> None:
    """No contrast and no noise at all: the level difference, and no division by zero."""
    first, second = preview(np.full(SHAPE, 500.0), 0.0), preview(np.full(SHAPE, 520.0), 0.0)
    found = only(measure_pair(first, second))
    assert not found.gain_measured
    assert found.offset == pytest.approx(20.0, abs=1e-3)


def test_scaling_a_tile_scales_the_line() -> None:
    """Tile j times 3 plus 40: slope times 3, the same cells, the same relative error."""
    first, second = pair(9)
    scaled = replace(second, values=3 * second.values + 40, variance=9 * second.variance)
    one, three = only(measure_pair(first, second)), only(measure_pair(first, scaled))
    assert three.gain == pytest.approx(3 * one.gain, rel=1e-5)
    assert three.offset == pytest.approx(3 * one.offset + 40, abs=0.05)
    assert three.gain_err == pytest.approx(3 * one.gain_err, rel=1e-3)


def test_a_measurement_holds_python_numbers() -> None:
    """Numbers of numpy would warn where Python raises, and cost more to send and to write."""
    scene = np.random.default_rng(5).normal(1000, 50, (60, 60))
    measured = only(measure_pair(preview(scene, 1.0), preview(1.1 * scene + 7, 1.0)))
    for value in vars(measured).values():
        for number in value if isinstance(value, tuple) else (value,):
            assert type(number) in (float, int, bool)
