"""Previews made of arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.preview.preview import Preview


def preview(values: np.ndarray, noise: float, x0: int = 0, y0: int = 0) -> Preview:
    values = np.asarray(values, dtype=np.float32)
    values = values if values.ndim == 3 else values[None]
    variance = np.where(np.isnan(values), np.nan, noise**2)
    unused = np.zeros(len(values))
    return Preview(x0, y0, values, variance.astype(np.float32), unused, np.zeros(2), np.eye(2))


def only(measured: object) -> PairMeasurement:
    assert isinstance(measured, tuple)
    assert isinstance(measured[0], PairMeasurement), measured[0]
    return measured[0]


NOISE = 3.0


def sky(shape: tuple[int, int], seed: int = 1, stars: float = 0.01) -> np.ndarray:
    """Clouds 40 cells wide, and stars on some of the cells."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    scene = 1000 + 80 * np.sin(x / 40) * np.cos(y / 30)
    for _ in range(int(stars * scene.size)):
        at_x, at_y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        near = np.s_[max(0, int(at_y) - 4) : int(at_y) + 5, max(0, int(at_x) - 4) : int(at_x) + 5]
        peak = min(20 / rng.uniform(), 5000)
        scene[near] += peak * np.exp(-((x[near] - at_x) ** 2 + (y[near] - at_y) ** 2) / 2)
    return scene


def pair(shape: tuple[int, int], gain: float = 1.1, seed: int = 1) -> tuple[Preview, Preview]:
    rng = np.random.default_rng([seed, 5])
    scene = sky(shape, seed)
    one, other = (
        preview(factor * scene + rng.normal(0, NOISE, shape), NOISE) for factor in (1.0, gain)
    )
    return one, other


def in_colours(pairs: list[tuple[Preview, Preview]]) -> tuple[Preview, Preview]:
    """Pairs of one channel as one pair of several."""
    first, second = (
        replace(
            pairs[0][k],
            values=np.concatenate([p[k].values for p in pairs]),
            variance=np.concatenate([p[k].variance for p in pairs]),
        )
        for k in range(2)
    )
    return first, second
