"""Real frames: gains against the fluxes of stars and of a nebula, and parts of the sky unseen."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.helpers.real_frames import (
    FLUX,
    M94,
    M94_FLUX,
    NGC7023,
    NGC7023_FLUX,
    SHARED,
    VISTA,
    crops,
    frames,
    gain_ratio_errors,
    gain_ratios,
    gain_times_flux,
    solve,
    star_fluxes,
    unseen_difference,
)
from zemosaic.photometry.tiles.tile import Tile

pytestmark = pytest.mark.skipif(
    not all((SHARED / folder).is_dir() for folder in FLUX),
    reason=f"no real frames in {SHARED}; set ZEMOSAIC_SHARED_DATA",
)

MODELS = ("auto", "gain+offset", "gain+plane")


@cache
def tiles_of(folder: str) -> tuple[Tile, ...]:
    return tuple(frames(folder))


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (2, 1), (1, 2), (2, 2)], ids=["whole", "halves", "sides", "four"]
)
def test_gains_of_nights_are_those_of_the_stars(rows: int, columns: int) -> None:
    """By default, the gains of M94's nights are true to 3 %, in frames and in parts of them."""
    parts = [part for tile in tiles_of(M94) for part in crops(tile, rows, columns)]
    solution = solve(parts)
    for night in ("s2", "s3"):
        assert gain_ratios(solution, "s1", night) == pytest.approx(M94_FLUX[night], rel=0.03)
        assert np.isfinite(gain_ratio_errors(solution, "s1", night)).all()


def test_our_photometry_finds_the_fluxes_of_the_nights() -> None:
    """Our fluxes of M94's stars are those of other photometry, to 3.5 % and 4 errors."""
    pytest.importorskip("photutils", reason="photutils is not installed: pip install '.[stars]'")
    fluxes, errors = star_fluxes(tiles_of(M94))
    for (night, flux), error in zip(fluxes.items(), errors, strict=True):
        off = flux / M94_FLUX[night] - 1
        assert (np.abs(off) < 0.035).all()
        assert (np.abs(off) <= 4 * np.hypot(error, 0.01)).all()


def test_two_nights_agree_with_their_nebula() -> None:
    """The gains of NGC 7023's nights are true to 8 %, with errors that cover the difference."""
    solution = solve(tiles_of(NGC7023))
    ratio = gain_ratios(solution, "10.0s", "20.0s")
    error = gain_ratio_errors(solution, "10.0s", "20.0s")
    assert ratio == pytest.approx(NGC7023_FLUX["20.0s"], rel=0.08)
    assert (np.abs(np.log(ratio / NGC7023_FLUX["20.0s"])) < 2.5 * error).all()


@pytest.mark.parametrize("model", MODELS)
def test_gains_of_calibrated_frames_stay_near_one(model: str) -> None:
    """Gain times flux of VISTA is constant to 1.5 % by default, and no model has a wild gain."""
    product = gain_times_flux(solve(tiles_of(VISTA), model), VISTA)
    assert np.abs(np.log(product)).max() < 0.25
    if model == "auto":
        assert np.log(product).std() < 0.015


@pytest.mark.parametrize("folder", FLUX)
def test_unseen_squares_match_no_worse_than_with_offsets_alone(folder: str) -> None:
    """Solved on the squares of one colour, the default matches the others as well as `offset`."""
    tiles = tiles_of(folder)
    assert unseen_difference(tiles, "auto") < 1.005 * unseen_difference(tiles, "offset")
