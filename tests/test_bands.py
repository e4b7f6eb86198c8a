"""The gain of a pair in two bands of scales, and the levels of both tiles on patches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.helpers.pairs import patches_of
from tests.helpers.previews import NOISE, only, pair, preview, sky
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.preview.preview import Preview
from zemosaic.photometry.solver.bands import combine_bands

pytestmark = pytest.mark.usefixtures("either_way")
SMALL_GAIN, SMALL_ERROR, SMALL_SHARE, MIDDLE_GAIN, MIDDLE_ERROR, MIDDLE_SHARE, _ = range(7)


def noisy(scene: np.ndarray, seed: int, noise: float = NOISE) -> Preview:
    return preview(scene + np.random.default_rng([seed, 9]).normal(0, noise, scene.shape), noise)


def second_order(shape: tuple[int, int], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return 1, u, v, uu, uv and vv at positions in cells, counted from -1 to 1 over the shape."""
    u, v = 2 * u / (shape[1] - 1) - 1, 2 * v / (shape[0] - 1) - 1
    return np.array([np.ones_like(u), u, v, u * u, u * v, v * v])


def surface(shape: tuple[int, int], *coefficients: float) -> np.ndarray:
    """Return a surface with coefficients of `second_order` without the 1."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
    return np.asarray(np.tensordot(coefficients, second_order(shape, u, v)[1:], axes=1))


def ripples(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return waves of 75 cells in random directions."""
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    v, u = np.mgrid[: shape[0], : shape[1]]
    for angle, phase in rng.uniform(0, 2 * np.pi, (6, 2)):
        total += 15 * np.sin((u * np.cos(angle) + v * np.sin(angle)) / 12 + phase)
    return total


def one_star(shape: tuple[int, int], peak: float) -> np.ndarray:
    v, u = np.mgrid[: shape[0], : shape[1]]
    square = (u - shape[1] / 2) ** 2 + (v - shape[0] / 2) ** 2
    return np.asarray(1000 + peak * np.exp(-square / 4))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((12, 15), 2), ((40, 50), 16), ((40, 20), 12), ((120, 160), 16), ((20, 300), 16)],
)
def test_an_overlap_has_as_many_patches_as_it_can_fill(
    shape: tuple[int, int], expected: int
) -> None:
    """Patches are nearly square, cover the overlap, and lie where their means are."""
    measured = only(measure_pair(*pair(shape)))
    patches = patches_of(measured)
    assert 0.7 * expected <= len(patches) <= expected
    assert patches[:, 8].sum() == pytest.approx(float(measured.gain_measured))
    assert (np.ptp(patches[:, :2], axis=0) <= np.array(shape[::-1])).all()


def test_patches_hold_the_levels_of_both_tiles() -> None:
    """A surface of one tile appears in the levels, whose errors are those of the noise."""
    shape, added, squares = (120, 160), (30, -20, 10, 5, -15), []
    for seed in range(8):
        scene = sky(shape, seed)
        second = noisy(1.1 * scene + surface(shape, *added), seed + 100)
        measured = only(measure_pair(noisy(scene, seed), second))
        u, v, x, y, _, _, _, weight, *_ = patches_of(measured).T
        terms = second_order(shape, u, v) * np.sqrt(weight)
        values = (y - 1.1 * x) * np.sqrt(weight)
        fitted = np.linalg.lstsq(terms.T, values, rcond=None)[0]
        np.testing.assert_allclose(fitted[1:], added, atol=2)
        squares.append(np.sum((values - fitted @ terms) ** 2) / (len(u) - 6))
    assert 0.5 < np.mean(squares) < 1.5


def test_patches_know_the_slopes_of_the_levels() -> None:
    """A ramp of the sky adds its slopes, in the levels of the first tile, to those of the scene."""
    shape, seed, slopes = (120, 160), 3, []
    row, column = np.indices(shape)
    for ramp in (0.0, 1.0):
        scene = sky(shape, seed) + ramp * (2.0 * column - 3.0 * row)
        measured = only(measure_pair(noisy(scene, seed), noisy(1.1 * scene, seed + 100)))
        _, _, _, _, uu, uv, vv, _, _, xu, xv = patches_of(measured).T
        spread = np.array([[uu, uv], [uv, vv]]).transpose(2, 0, 1)
        slopes.append(np.linalg.solve(spread, np.stack([xu, xv], axis=1)[..., None])[..., 0])
    added = np.median(slopes[1] - slopes[0], axis=0)
    np.testing.assert_allclose(added, [2.0, -3.0], rtol=0.05)


def test_surfaces_and_steps_between_patches_do_not_bend_the_gain() -> None:
    """The gain is the same with any second-order surface in one tile, and honest."""
    shape, deviations = (120, 160), []
    for seed in range(12):
        scene = sky(shape, seed)
        first, second = noisy(scene, seed), noisy(1.1 * scene, seed + 100)
        plain = only(measure_pair(first, second))
        bent = preview(second.values[0] + surface(shape, 90, -70, 40, -30, 60), NOISE)
        curved = only(measure_pair(first, bent))
        assert curved.gain == pytest.approx(plain.gain, abs=plain.gain_err)
        deviations.append((curved.gain - 1.1) / curved.gain_err)
    assert 0.4 < np.sqrt(np.mean(np.square(deviations))) < 1.4


@pytest.mark.parametrize("shape", [(40, 50), (120, 160)])
def test_exchanging_the_tiles_inverts_the_bands(shape: tuple[int, int]) -> None:
    """Gains are inverted and x and y of the patches exchanged, up to a tenth of the errors."""
    first, second = pair(shape)
    one, other = only(measure_pair(first, second)), only(measure_pair(second, first))
    relative = one.gain_err / one.gain
    assert abs(math.log(one.gain * other.gain)) < 0.1 * relative
    assert other.gain_err / other.gain == pytest.approx(relative, rel=0.05)
    assert other.concentration == pytest.approx(one.concentration, rel=0.1)
    np.testing.assert_allclose(
        patches_of(other)[:, [0, 1, 3, 2]], patches_of(one)[:, :4], rtol=1e-3
    )


@pytest.mark.parametrize("shape", [(6, 7), (9, 11), (15, 16)])
@pytest.mark.parametrize("stars", [0.0, 0.02])
def test_surfaces_of_small_overlaps_are_not_taken_for_contrast(
    shape: tuple[int, int], stars: float
) -> None:
    """Where tiles have surfaces of their own, the gain of a corner is true within its error."""
    pulls = []
    for seed in range(30):
        scene, rng = sky(shape, seed, stars=stars), np.random.default_rng([seed, 5])
        first, second = (surface(shape, *rng.normal(0, 2 * shape[1], 5)) for _ in range(2))
        measured = only(
            measure_pair(noisy(scene + first, seed), noisy(1.1 * scene + second, seed + 100))
        )
        if isinstance(measured, PairMeasurement) and measured.gain_measured:
            pulls.append(math.log(measured.gain / 1.1) / (measured.gain_err / measured.gain))
    assert not pulls or np.sqrt(np.mean(np.square(pulls))) < 1.5, len(pulls)


def test_a_gain_from_one_star_is_concentrated() -> None:
    """One star has all of the information, many stars share it, and the error is enlarged."""
    shape = (120, 160)
    scene = one_star(shape, 20_000)
    alone = only(measure_pair(noisy(scene, 1), noisy(1.1 * scene, 2)))
    many = only(measure_pair(*pair(shape)))
    assert alone.concentration > 0.35
    assert many.concentration < 0.2
    assert abs(alone.gain / 1.1 - 1) < 3 * alone.gain_err


def test_a_flat_residual_disturbs_the_middle_band_alone() -> None:
    """Structure wider than 16 px leaves the small band as it is; pairs together show which errs."""
    shape, truth = (120, 160), 1.1
    rows = []
    for seed in range(12):
        scene = sky(shape, seed, stars=0.02)
        second = noisy(truth * scene + ripples(shape, seed), seed + 100)
        rows.append(only(measure_pair(noisy(scene, seed), second)).bands)
    bands = np.array(rows)
    small = np.log(bands[:, SMALL_GAIN] / truth)
    middle = np.log(bands[:, MIDDLE_GAIN] / truth)
    assert np.std(small) < 0.3 * np.std(middle)
    combined = combine_bands(bands)
    z = (combined.gain - truth) / combined.gain_err
    assert np.sqrt(np.mean(z**2)) < 1.6
    assert np.std(np.log(combined.gain)) < 0.5 * np.std(middle)


def test_bands_that_agree_keep_their_errors() -> None:
    """Combining many pairs with noise alone enlarges no error, and leaves a lone band as it is."""
    rng = np.random.default_rng(1)
    deviation = rng.normal(size=(400, 2)) * [0.01, 0.02]
    bands = np.zeros((400, 7))
    bands[:, [SMALL_GAIN, MIDDLE_GAIN]] = 1.2 * np.exp(deviation)
    bands[:, [SMALL_ERROR, MIDDLE_ERROR]] = 1.2 * np.array([0.01, 0.02])
    bands[:, [SMALL_SHARE, MIDDLE_SHARE]] = 0.1
    bands[0, [SMALL_GAIN, SMALL_ERROR]] = np.nan
    bands[1, [SMALL_GAIN, SMALL_ERROR, MIDDLE_GAIN, MIDDLE_ERROR]] = np.nan
    combined = combine_bands(bands)
    assert combined.middle_factor < 1.2
    z = (np.log(combined.gain) - math.log(1.2)) / (combined.gain_err / combined.gain)
    assert 0.9 < np.sqrt(np.nanmean(z**2)) < 1.1
    assert combined.gain[0] == pytest.approx(bands[0, MIDDLE_GAIN])
    assert math.isnan(combined.gain[1])
    assert math.isnan(combined.gain_err[1])
