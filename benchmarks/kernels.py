"""Benchmark the numerics one by one, without files, workers or spans.

    python -m pytest benchmarks/kernels.py --benchmark-only [--benchmark-columns=min,median]

Needs ``pip install '.[bench]'``. The benchmarks are the fit of a pair by the number of common cells
and of channels, with the compiled kernels and without; the block mean and the sampling of a tile of
1080 x 1920; and the solver on 200 tiles. Compare the minima of runs on one machine, because other
programs lengthen everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from zemosaic.photometry import _kernels
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.preview.binning import bin_strip
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview, make_preview
from zemosaic.photometry.solver.solve import solve
from zemosaic.photometry.tiles.tile import tile_from_array

NOISE = 3.0  # ADU per cell


def sky(height: int, width: int) -> np.ndarray:
    """Return an image of clouds and stars, with a star for every hundredth cell."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    scene = 1000 + 100 * np.sin(x / 40) * np.cos(y / 30)
    for _ in range(height * width // 100):
        star_x, star_y = rng.uniform(0, width), rng.uniform(0, height)
        left, top = max(0, int(star_x) - 4), max(0, int(star_y) - 4)
        stamp = np.s_[top : int(star_y) + 5, left : int(star_x) + 5]
        peak = min(20 / rng.uniform(), 5000)
        square = (x[stamp] - star_x) ** 2 + (y[stamp] - star_y) ** 2
        scene[stamp] += peak * np.exp(-square / 2)
    return scene


def preview(scene: np.ndarray, channels: int, gain: float, seed: int) -> Preview:
    """Return the preview of a tile of that gain, with noise."""
    noise = np.random.default_rng(seed).normal(0, NOISE, (channels, *scene.shape))
    values = (gain * scene + noise).astype(np.float32)
    variance = np.full_like(values, NOISE**2)
    unused = np.zeros(channels)
    return Preview(0, 0, values, variance, unused, np.zeros(2), np.eye(2))


@pytest.fixture(params=["compiled", "reference"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use the compiled kernels, then those in numpy."""
    if request.param == "compiled" and not _kernels.COMPILED:
        pytest.skip("the kernels were not compiled")
    _kernels.select(getattr(_kernels, request.param))
    yield
    _kernels.select(_kernels.DEFAULT)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(50, 100), (120, 250), (200, 350)], ids=["5k", "30k", "70k"])
def test_pair_fit(benchmark: Any, shape: tuple[int, int], channels: int) -> None:
    """Fit one pair in all channels, with the compiled kernels and without."""
    scene = sky(*shape)
    pair = preview(scene, channels, 1.0, 1), preview(scene, channels, 1.1, 2)
    measurements = benchmark(measure_pair, *pair)
    assert all(isinstance(m, PairMeasurement) and m.gain_measured for m in measurements)


def test_bin_strip(benchmark: Any) -> None:
    """Average a tile of 1080 x 1920 over bins of 2 pixels."""
    channels = np.random.default_rng(1).normal(1000, 10, (1, 1080, 1920)).astype(np.float32)
    means, _ = benchmark(bin_strip, channels, 2)
    assert means.shape == (1, 540, 960)


def test_preview(benchmark: Any) -> None:
    """Resample the same tile to the grid: binning, positions and sampling."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = (190.0, 40.0), (960.0, 540.0)
    wcs.wcs.cd = 6.6e-4 * np.array([[-1, 0.03], [0.03, 1]])
    data = np.random.default_rng(1).normal(1000, 10, (1080, 1920)).astype(np.float32)
    tile = tile_from_array(data, wcs, name="tile")
    resampled = benchmark(make_preview, tile, make_grid([tile]))
    assert np.isfinite(resampled.values).any()


def test_solve(benchmark: Any) -> None:
    """Solve for 200 tiles in 20 columns, each matched to its 8 neighbours."""
    rng = np.random.default_rng(1)
    index = np.arange(200).reshape(10, 20)
    pairs = [
        (index[row, column], index[row + down, column + right])
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
        for row in range(10 - down)
        for column in range(max(0, -right), 20 - max(0, right))
    ]
    i, j = np.array(pairs).T
    gain, level = rng.uniform(0.9, 1.1, 200), rng.uniform(-100, 100, 200)
    matches = []
    for a, b in pairs:
        slope, x = gain[b] / gain[a] * rng.normal(1, 1e-3), 1000.0
        y = slope * x + level[b] - level[a] + rng.normal(0, 0.05)
        matches.append((
            PairMeasurement(
                slope, 1e-3 * slope, y - slope * x, x, y, 0.05, 0.0, 0.0, 10_000,
                3.0, 0.9, True,
            ),
        ))  # fmt: skip
    solution = benchmark(solve, i, j, matches, np.full((200, 1), 1000.0))
    assert np.isfinite(solution.gain).all()
