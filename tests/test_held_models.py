"""Models that hold gains or offsets: they find what is free and report what they leave."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import Settings, calibrate
from zemosaic.photometry.simulate import SimulatedTile


@cache
def scene() -> tuple[SimulatedTile, ...]:
    """Return nine tiles with stars and nebulosity on a sky."""
    return simulated(tiles=9, shape=(160, 200), overlap=0.3)


def with_sky(level: float) -> list[np.ndarray]:
    """Return the scene with another sky and no offsets: the tiles differ by their gains alone."""
    sky = np.median([np.median(t.data * t.gain[0] + t.offset[0]) for t in scene()])
    return [t.data + (t.offset[0] - sky + level) / t.gain[0] for t in scene()]


@pytest.mark.parametrize("level", [1000.0, 10.0, 0.0, -10.0, -1000.0])
def test_the_model_gain_finds_gains_on_any_sky(level: float) -> None:
    """A sky of 0, or a negative one, does not hide the gains of the stars."""
    tiles = [(image, tile.wcs) for image, tile in zip(with_sky(level), scene(), strict=True)]
    solution = calibrate(tiles, Settings(model="gain"), pool="serial", observers=[])
    error = np.log(solution.gain[:, 0] / [tile.gain[0] for tile in scene()])
    error -= error.mean()
    tolerance = 4 * solution.gain_err[:, 0] / solution.gain[:, 0]
    assert np.isfinite(tolerance).all()
    assert np.abs(error).max() < 0.05
    assert (np.abs(error) < tolerance + 0.005).all()


@pytest.mark.parametrize("model", ["offset", "offset+plane"])
@pytest.mark.parametrize("factor", [1.0, 1.1, 100.0])
def test_a_model_with_held_gains_reports_gains(
    model: str, factor: float, tmp_path: Path, intertile: Callable[..., Run]
) -> None:
    """Every second tile has other gains: one line names their difference and the remedy."""
    paths = []
    for number, tile in enumerate(scene()):
        image = (tile.data * tile.gain[0] + tile.offset[0]) * factor ** (number % 2)
        paths.append(tmp_path / tile.name)
        fits.writeto(paths[-1], image.astype("f4"), tile.wcs.to_header())
    result = intertile(*paths, "--model", model)
    reported = re.search("the gains of the tiles differ by a factor of ([0-9.]+)", result.err)
    if factor == 1:
        assert reported is None
    else:
        assert reported is not None
        assert float(reported[1]) == pytest.approx(factor, rel=0.05)
