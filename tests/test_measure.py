"""The fit of a pair of synthetic previews: unbiased, symmetric, robust, with honest errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import fourier_shift

from tests.helpers.previews import only, preview
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement, Rejected
from zemosaic.photometry.preview.preview import Preview

pytestmark = pytest.mark.usefixtures("either_way")

SHAPE = (60, 80)


def scene(seed: int, contrast: float = 60.0, stars: int = 60) -> np.ndarray:
    """Return smooth clouds and stars, the same for both tiles."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = np.full(SHAPE, 1000.0)
    for _ in range(6):
        cloud_x, cloud_y, size = rng.uniform(0, 80), rng.uniform(0, 60), rng.uniform(8, 20)
        sky += contrast * np.exp(-((x - cloud_x) ** 2 + (y - cloud_y) ** 2) / (2 * size**2))
    for _ in range(stars):
        star_x, star_y = rng.uniform(0, 80), rng.uniform(0, 60)
        flux = min(100 * rng.uniform() ** -1.0, 5000)
        sky += flux * np.exp(-((x - star_x) ** 2 + (y - star_y) ** 2) / 2.0)
    return sky


def pair(seed: int, gain: float = 1.1, offset: float = -50.0, noise: tuple[float, float] = (3, 3),
         contrast: float = 60.0, stars: int = 60) -> tuple[Preview, Preview]:  # fmt: skip
    """Return tile i with the scene and tile j with gain * scene + offset, both with noise."""
    rng = np.random.default_rng([seed, 9])
    true = scene(seed, contrast, stars)
    x = true + noise[0] * rng.normal(size=SHAPE)
    y = gain * true + offset + noise[1] * rng.normal(size=SHAPE)
    return preview(x, noise[0]), preview(y, noise[1])


def test_a_measurement_holds_python_numbers() -> None:
    """The journal and the tables need not convert types of numpy."""
    for name, value in vars(only(measure_pair(*pair(1)))).items():
        for number in value if isinstance(value, tuple) else (value,):
            assert type(number) in (float, int, bool), name


def test_a_line_without_noise_is_exact() -> None:
    """Slope, intercept and pivot are those of the line."""
    line = only(measure_pair(*pair(1, 0.9, 123.0, (1e-4, 1e-4))))
    assert line.gain == pytest.approx(0.9, rel=1e-5)
    assert line.offset == pytest.approx(123.0, abs=0.02)
    assert line.y == pytest.approx(line.gain * line.x + line.offset, abs=1e-9)
    assert line.cells == SHAPE[0] * SHAPE[1]
    assert line.gain_measured


@pytest.mark.parametrize("noise", [(4.0, 4.0), (2.0, 9.0), (9.0, 2.0)])
def test_noise_in_both_tiles_does_not_bend_the_line(noise: tuple[float, float]) -> None:
    """The mean slope of 40 pairs is the truth, even if one tile is far noisier."""
    lines = [only(measure_pair(*pair(seed, 1.2, 10.0, noise))) for seed in range(40)]
    log_ratio = np.log([line.gain / 1.2 for line in lines])
    error = np.array([line.gain_err / line.gain for line in lines])
    mean_error = 1 / np.sqrt((error**-2).sum())
    assert abs((log_ratio / error**2).sum() * mean_error**2) < 4 * mean_error
    assert 0.75 < np.sqrt(np.mean((log_ratio / error) ** 2)) < 1.35
    level = [line.y - (1.2 * line.x + 10.0) for line in lines]
    pull = np.array(level) / [line.level_err for line in lines]
    assert 0.75 < np.sqrt(np.mean(pull**2)) < 1.35


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_exchanging_the_tiles_inverts_the_line(seed: int) -> None:
    """(j, i) has slope 1 / a, the same pivot and the same relative error as (i, j)."""
    first, second = pair(seed, 1.3, 200.0, (3.0, 5.0))
    forward, backward = only(measure_pair(first, second)), only(measure_pair(second, first))
    error = forward.gain_err / forward.gain
    assert abs(np.log(backward.gain * forward.gain)) < 0.02 * error
    assert (backward.x, backward.y) == pytest.approx((forward.y, forward.x), rel=1e-5)
    assert backward.gain_err / backward.gain == pytest.approx(error, rel=1e-2)


def test_pure_noise_has_no_gain() -> None:
    """The gain of a flat sky is reported as not measured; the level difference is measured."""
    for seed in range(20):
        line = only(measure_pair(*pair(seed, 1.0, 30.0, contrast=0.0, stars=0)))
        assert not line.gain_measured
        assert line.gain == 1.0
        assert np.isnan(line.gain_err)
        assert line.y - line.x == pytest.approx(30.0, abs=4 * line.level_err)
        assert line.level_err < 0.3


def test_a_shift_is_measured() -> None:
    """Size and sign of a shift of a third of a cell are measured in either order of the tiles."""
    for seed in range(12):
        true = scene(seed)
        padded = np.pad(true, 20, mode="reflect")
        shifted = fourier_shift(np.fft.fftn(padded), (-0.2, 0.3))
        rng = np.random.default_rng(seed)
        other = np.fft.ifftn(shifted).real[20:-20, 20:-20]
        first = preview(true + 3 * rng.normal(size=SHAPE), 3.0)
        second = preview(1.1 * other + 3 * rng.normal(size=SHAPE), 3.0)
        forward, backward = only(measure_pair(first, second)), only(measure_pair(second, first))
        # The scene of the second lies 0.3 to the right and 0.2 below that of the first.
        assert forward.shift == pytest.approx((0.3, -0.2), abs=0.1)
        assert backward.shift == pytest.approx((-0.3, 0.2), abs=0.1)
        assert 0 < max(forward.shift_err) < 0.03
    held = only(measure_pair(preview(scene(1), 3.0), preview(scene(1), 3.0), "gain"))
    assert np.isnan(held.shift).all()
    assert np.isnan(held.shift_err).all()


def test_trails_and_saturated_stars_lose_their_weight() -> None:
    """A bright band in one tile and saturated stars in the other hardly change the line."""
    first, second = pair(4, 1.1, 0.0)
    clean = only(measure_pair(first, second))
    trail = first.values.copy()
    trail[0, 20:23] += 300
    saturated = np.minimum(second.values, np.float32(1900))
    line = only(measure_pair(preview(trail[0], 3.0), preview(saturated[0], 3.0)))
    assert line.gain == pytest.approx(clean.gain, abs=4 * clean.gain_err)
    assert line.y - 1.1 * line.x == pytest.approx(0.0, abs=1.0)


def test_only_common_valid_cells_count() -> None:
    """Cells outside the overlap and cells that are NaN in either tile are ignored."""
    first, second = pair(5)
    values = second.values[:, 10:, 15:].copy()
    values[:, :5, :7] = np.nan
    moved = preview(values[0], 3.0, x0=15, y0=10)
    assert only(measure_pair(first, moved)).cells == 50 * 65 - 35
    assert only(measure_pair(first, moved)).gain == pytest.approx(1.1, rel=0.01)


def test_too_few_common_cells_are_rejected_with_a_reason() -> None:
    """Disjoint tiles, a few common cells, or none that is valid in both: each has a reason."""
    first, second = pair(6)
    disjoint = replace(second, x0=500)
    assert measure_pair(first, disjoint) == (Rejected("no common cells"),)
    corner = replace(second, x0=77, y0=57)
    assert measure_pair(first, corner) == (Rejected("only 9 common cells"),)
    first_column = np.arange(80) < 1
    with_column = preview(np.where(first_column, second.values[0], np.nan), 3.0)
    without_column = preview(np.where(first_column, np.nan, first.values[0]), 3.0)
    assert measure_pair(without_column, with_column) == (Rejected("only 0 common cells"),)


def test_channels_are_measured_separately() -> None:
    """Each colour has its own gain; one invalid channel does not affect the others."""
    true = scene(7)
    first = preview(np.stack([true, true, true]), 0.01)
    invalid = np.full(SHAPE, np.nan)
    second = preview(np.stack([0.9 * true, invalid, 1.4 * true + 7]), 0.01)
    red, green, blue = measure_pair(first, second)
    assert isinstance(red, PairMeasurement)
    assert isinstance(blue, PairMeasurement)
    assert red.gain == pytest.approx(0.9, rel=1e-4)
    assert isinstance(green, Rejected)
    assert blue.gain == pytest.approx(1.4, rel=1e-4)


def test_models_fix_slope_or_intercept() -> None:
    """The model "offset" has slope 1, "gain" has intercept 0."""
    offset = only(measure_pair(*pair(8, 1.0, 77.0), model="offset"))
    assert (offset.gain, offset.gain_measured) == (1.0, False)
    assert offset.offset == pytest.approx(77.0, abs=0.5)
    gain = only(measure_pair(*pair(8, 1.25, 0.0), model="gain"))
    assert gain.gain == pytest.approx(1.25, rel=1e-3)
    assert gain.offset == pytest.approx(0.0, abs=1e-6)


def test_a_tilt_between_tiles_is_no_noise_of_their_levels() -> None:
    """Where no gain shows, the level has the error that it has without the tilt."""
    first, second = pair(8, 1.0, 77.0, contrast=0.0, stars=0)
    tilt = np.linspace(-100, 100, SHAPE[1], dtype=np.float32)
    tilted = replace(second, values=second.values + tilt)
    even, other = (only(measure_pair(first, p)) for p in (second, tilted))
    assert not other.gain_measured
    assert other.level_err < 1.3 * even.level_err
    assert other.rms < 1.3 * even.rms


def test_constant_tiles_are_matched_in_level() -> None:
    """Without contrast and noise, the level difference is measured without division by zero."""
    first, second = preview(np.full(SHAPE, 500.0), 0.0), preview(np.full(SHAPE, 520.0), 0.0)
    line = only(measure_pair(first, second))
    assert not line.gain_measured
    assert line.offset == pytest.approx(20.0, abs=1e-3)


def test_scaling_a_tile_scales_the_line() -> None:
    """If tile j is 3 y + 40, slope and error are multiplied by 3."""
    first, second = pair(9)
    scaled = replace(second, values=3 * second.values + 40, variance=9 * second.variance)
    original, tripled = only(measure_pair(first, second)), only(measure_pair(first, scaled))
    assert tripled.gain == pytest.approx(3 * original.gain, rel=1e-5)
    assert tripled.offset == pytest.approx(3 * original.offset + 40, abs=0.05)
    assert tripled.gain_err == pytest.approx(3 * original.gain_err, rel=1e-3)


@pytest.mark.parametrize("model", ["auto", "offset", "gain"])
@pytest.mark.parametrize("exponents", [(-44, 38), (30, 38), (-44, -30)])
def test_a_measurement_is_finite_or_rejected(exponents: tuple[int, int], model: str) -> None:
    """Absurd values in half of a tile overflow sums, but no infinite number comes out."""
    first, second = pair(3)
    random = np.random.default_rng(2)
    absurd = first.values.copy()
    sign, exponent = random.choice([-1, 1], SHAPE), random.uniform(*exponents, SHAPE)
    half = np.arange(SHAPE[0]) > SHAPE[0] // 2
    with np.errstate(all="ignore"):
        absurd[0, half] = (sign * 10.0**exponent)[half]
        (line,) = measure_pair(replace(first, values=absurd), second, model)
    if isinstance(line, PairMeasurement):
        numbers = [line.gain, line.offset, line.x, line.y, line.level_err, line.u, line.v, line.rms]
        assert np.isfinite([*numbers, line.correlation, *line.patches]).all()
    else:
        assert line.reason
