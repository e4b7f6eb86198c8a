"""What the instrument and the sky leave in simulated tiles, against their truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zemosaic.errors import UserError
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate

#: No noise and equal seeing, so that two scenes differ by what an option adds.
PLAIN = {"tiles": 4, "shape": (96, 128), "overlap": 0.4, "electrons": 0, "seeing": 0}
#: Every option that changes the light.
LIT: dict[str, Any] = {
    "gradient": 30.0, "quadratic": 20.0, "lamp": 50.0, "vignetting": 0.2, "quartic": True,
    "sky_scatter": 50.0, "flat_residual": 0.01, "flat_scale": 10.0, "flat_shared": False,
    "glow": 80.0,
}  # fmt: skip


def tiles(**changes: Any) -> list[SimulatedTile]:
    return list(simulate(Scene(**{**PLAIN, **changes})))


def scene_of(tile: SimulatedTile) -> np.ndarray:
    """Return the light in a tile, by its truth."""
    corrected: np.ndarray = (tile.gain * (tile.data - tile.glow) + tile.offset) / tile.flat
    return corrected - tile.sky


def coordinates(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return x.ravel(), y.ravel()


def fit(image: np.ndarray, *terms: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients of terms in an image, and the rms of the rest."""
    design = np.stack(np.broadcast_arrays(*terms, np.ones(image.size))).T
    coefficients, *_ = np.linalg.lstsq(design, image.ravel(), rcond=None)
    return coefficients, float(np.std(image.ravel() - design @ coefficients))


@pytest.mark.parametrize("own", [{}, {"gradient": 30.0, "quadratic": 20.0, "lamp": 50.0}])
def test_the_truth_recovers_the_light_of_every_tile(own: dict[str, Any]) -> None:
    """(gain · (data - glow) + offset) / flat - sky is the scene, with the tile's other light."""
    instrument = {key: LIT[key] for key in LIT if key not in ("gradient", "quadratic", "lamp")}
    perfect = {"gains": (1.0, 1.0), "offset": 0.0}
    for tile, light in zip(tiles(**own, **instrument), tiles(**own, **perfect), strict=True):
        np.testing.assert_allclose(scene_of(tile), light.data, rtol=1e-6)


def test_noise_follows_the_light_that_arrives() -> None:
    """Its variance is that of the light times gain and flat, with the glow, and the read noise."""
    options = {**LIT, "vignetting": 0.4}
    noise = []
    for noisy, quiet in zip(tiles(**options, electrons=10.0), tiles(**options), strict=True):
        received = quiet.data + quiet.offset / quiet.gain
        noise.append((noisy.data - quiet.data) / np.sqrt(received / 10 + 25))
    assert np.std(noise) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("quartic", [False, True])
def test_vignetting_is_shared_and_a_little_off_the_middle(quartic: bool) -> None:
    """It is the stated fraction in the corners, of second and fourth order, with one centre."""
    shape = (96, 128)
    flats = [tile.flat for tile in tiles(vignetting=0.1, quartic=quartic)]
    assert not np.ptp(flats, axis=0).any()
    corners = flats[0][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert 1 - corners.mean() == pytest.approx(0.1, rel=0.02)
    assert corners.min() < 0.9 < corners.max() - 1e-4
    x, y = coordinates(shape)
    square = x**2 + y**2 * (95 / 127) ** 2
    order = (square, x, y) if not quartic else (square, square**2, square * x, square * y, x, y)
    _, rest = fit(flats[0], *order)
    assert rest < (5e-4 if quartic else 1e-12)
    centres = {
        np.unravel_index(tiles(vignetting=0.1, seed=s)[0].flat.argmax(), shape) for s in (1, 2)
    }
    assert len(centres) == 2


def test_a_flat_residual_is_one_pattern_or_each_tiles_own() -> None:
    """Its rms is the stated one, its mean 1, and only the shared one is the same in all tiles."""
    shared, own = (
        np.array([tile.flat for tile in tiles(flat_residual=0.01, flat_scale=8.0, flat_shared=s)])
        for s in (True, False)
    )
    for flats in (shared, own):
        assert flats.mean(axis=(1, 2)) == pytest.approx(1, abs=1e-12)
        assert flats.std(axis=(1, 2)) == pytest.approx(0.01)
    assert not np.ptp(shared, axis=0).any()
    correlation = np.corrcoef(own.reshape(4, -1)) - np.eye(4)
    assert np.abs(correlation).max() < 0.7


def test_surfaces_of_second_order_have_the_stated_scale() -> None:
    """Each tile has five coefficients of its own, normal with the stated standard deviation."""
    found = []
    small = {"tiles": 25, "shape": (32, 48), "stars": 0.0}
    for tile, plain in zip(tiles(quadratic=20.0, **small), tiles(**small), strict=True):
        added = scene_of(tile) - scene_of(plain)
        x, y = coordinates(added.shape)
        coefficients, rest = fit(added, x, y, x**2, x * y, y**2)
        assert rest < 0.01
        assert abs(coefficients[5]) < 0.01
        found.append(coefficients[:5])
    assert np.std(found) == pytest.approx(20, rel=0.2)
    assert np.std(found, axis=0).min() > 10


def test_a_lamp_grows_exponentially_in_a_direction_of_each_tile() -> None:
    """It has the stated level at the centre, and the logarithm of its light is a plane."""
    angles = []
    for tile, plain in zip(tiles(lamp=50.0), tiles(), strict=True):
        added = scene_of(tile) - scene_of(plain)
        x, y = coordinates(added.shape)
        (along, across, level), rest = fit(np.log(added), x, y)
        assert np.exp(level) == pytest.approx(50, rel=1e-3)
        assert np.hypot(along, across) == pytest.approx(1.3, rel=1e-3)
        assert rest < 1e-3
        angles.append(np.arctan2(across, along))
    assert np.ptp(angles) > 0.5


def test_glow_adds_the_same_counts_to_all_tiles() -> None:
    """It peaks at the right side with the stated value, whatever the gain of the tile."""
    added = [
        glowing.data - plain.data for glowing, plain in zip(tiles(glow=80.0), tiles(), strict=True)
    ]
    assert np.ptp(added, axis=0).max() < 0.01
    y, x = np.unravel_index(added[0].argmax(), added[0].shape)
    assert (x, abs(y - 47.5)) == (127, 0.5)
    assert added[0].max() == pytest.approx(80, rel=0.05)
    assert added[0][:, 0].max() < 0.1


def test_the_detector_clips_all_tiles_at_one_value() -> None:
    """Pixels above the saturation have it exactly, and no other pixel changes."""
    options = {"fluxes": (2000.0, 1e6), "stars": 4e-3}
    clipped, whole = tiles(**options, saturation=3000.0), tiles(**options)
    data, true = (np.array([tile.data for tile in of]) for of in (clipped, whole))
    assert (true > 3000).sum() > 5
    np.testing.assert_array_equal(data, np.minimum(true, np.float32(3000)))


def test_stars_without_light_leave_the_nebula() -> None:
    """With fluxes of 0 a scene has the same nebula and no stars."""
    for dark, starry in zip(tiles(fluxes=(0.0, 0.0)), tiles(), strict=True):
        added = starry.data - dark.data
        assert added.min() > -1e-3
        assert np.median(added) < 1
        assert added.max() > 500


def test_borders_are_torn_alike_whatever_their_value() -> None:
    """Blank pixels have the stated value in place of NaN."""
    for nan, zero in zip(tiles(border=True), tiles(border=True, blank=0.0), strict=True):
        np.testing.assert_array_equal(np.isnan(nan.data), zero.data == 0)
        np.testing.assert_array_equal(np.nan_to_num(nan.data), zero.data)


@pytest.mark.parametrize("name", ["vignetting", "flat_residual"])
@pytest.mark.parametrize("value", [-0.1, 0.5, float("nan")])
def test_fractions_out_of_range_are_refused(name: str, value: float) -> None:
    """The message names the option and the value."""
    with pytest.raises(UserError, match=f"{name} is {value}; give a fraction"):
        Scene(**{name: value})


@pytest.mark.parametrize("name", ["gradient", "quadratic", "lamp", "glow", "sky_scatter"])
def test_light_that_is_no_number_is_refused(name: str) -> None:
    """The message names the option."""
    with pytest.raises(UserError, match=f"{name} is nan; give a number"):
        Scene(**{name: float("nan")})
