"""The numerics one by one, without files, workers and spans.

    python -m pytest benchmarks/kernels.py --benchmark-only [--benchmark-columns=min,median]

Needs ``pip install '.[bench]'``. What is measured: the fit of a pair by common cells and colours,
with the compiled kernels and without, the block mean and the sampling of a tile of 1080 x 1920, and
the solver on 200 tiles. Compare the minima of runs on one machine; other programs on it lengthen
all else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zemosaic.photometry._kernels import compiled
from zemosaic.photometry.pairfit.measure import PairMeasurement, measure_pair
from zemosaic.photometry.preview.block_means import block_mean
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview, make_preview
from zemosaic.photometry.solver.solve import solve
from zemosaic.photometry.tiles.tile import tile_from_array

NOISE = 3.0  # ADU per cell


def sky(height: int, width: int) -> np.ndarray:
    """Clouds and stars, a star on every hundredth cell."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    scene = 1000 + 100 * np.sin(x / 40) * np.cos(y / 30)
    for _ in range(height * width // 100):
        at_x, at_y = rng.uniform(0, width), rng.uniform(0, height)
        near = np.s_[max(0, int(at_y) - 4) : int(at_y) + 5, max(0, int(at_x) - 4) : int(at_x) + 5]
        peak = min(20 / rng.uniform(), 5000)
        scene[near] += peak * np.exp(-((x[near] - at_x) ** 2 + (y[near] - at_y) ** 2) / 2)
    return scene


def preview(scene: np.ndarray, channels: int, gain: float, seed: int) -> Preview:
    """The sky through a gain, with noise."""
    noise = np.random.default_rng(seed).normal(0, NOISE, (channels, *scene.shape))
    values = (gain * scene + noise).astype(np.float32)
    variance = np.full_like(values, NOISE**2)
    unused = np.zeros(channels)
    return Preview(0, 0, values, variance, unused, np.zeros(2), np.eye(2))


@pytest.mark.parametrize("way", ["compiled", "numpy"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(50, 100), (120, 250), (200, 350)], ids=["5k", "30k", "70k"])
def test_pair_fit(
    benchmark: Any, shape: tuple[int, int], channels: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair, all its colours, with the compiled kernels and without."""
    if way == "numpy":
        monkeypatch.setattr(compiled, "fused", None)
    elif compiled.fused is None:
        pytest.skip("the kernels were not compiled")
    scene = sky(*shape)
    pair = preview(scene, channels, 1.0, 1), preview(scene, channels, 1.1, 2)
    found = benchmark(measure_pair, *pair)
    assert all(isinstance(line, PairMeasurement) and line.gain_measured for line in found)


def test_block_mean(benchmark: Any) -> None:
    """A tile of 1080 x 1920 over blocks of 2 pixels."""
    planes = np.random.default_rng(1).normal(1000, 10, (1, 1080, 1920)).astype(np.float32)
    means, _ = benchmark(block_mean, planes, 2)
    assert means.shape == (1, 540, 960)


def test_preview(benchmark: Any) -> None:
    """The way of that tile to the grid: block mean, positions and sampling."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = (190.0, 40.0), (960.0, 540.0)
    wcs.wcs.cd = 6.6e-4 * np.array([[-1, 0.03], [0.03, 1]])
    data = np.random.default_rng(1).normal(1000, 10, (1080, 1920)).astype(np.float32)
    tile = tile_from_array(data, wcs, name="tile")
    made = benchmark(make_preview, tile, make_grid([tile]))
    assert np.isfinite(made.values).any()


def test_solve(benchmark: Any) -> None:
    """200 tiles in 20 columns, each matched to its 8 neighbours."""
    rng = np.random.default_rng(1)
    places = np.arange(200).reshape(10, 20)
    ends = [
        (places[r, c], places[r + dr, c + dc])
        for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1))
        for r in range(10 - dr)
        for c in range(max(0, -dc), 20 - max(0, dc))
    ]
    i, j = np.array(ends).T
    gain, level = rng.uniform(0.9, 1.1, 200), rng.uniform(-100, 100, 200)
    lines = []
    for a, b in ends:
        slope, x = gain[b] / gain[a] * rng.normal(1, 1e-3), 1000.0
        y = slope * x + level[b] - level[a] + rng.normal(0, 0.05)
        lines.append((
            PairMeasurement(
                slope, 1e-3 * slope, slope, 2e-3 * slope, y - slope * x, x, y, 0.05, 0.0, 0.0,
                (0.0, 0.0), (0.0, 0.0), (1e-6, 0.0, 1e-6), 10_000, 3.0, 0.9, True,
            ),
        ))  # fmt: skip
    solution = benchmark(solve, i, j, lines, np.full((200, 1), 1000.0))
    assert np.isfinite(solution.gain).all()
