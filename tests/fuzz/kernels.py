"""The compiled kernels against those in numpy, on overlaps of any size, content and damage."""

from __future__ import annotations

import warnings

import numpy as np

from tests.helpers.kernels import use_kernels
from tests.helpers.previews import NOISE, preview, sky
from zemosaic.photometry import _kernels
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import Measurement, PairMeasurement, Rejected
from zemosaic.photometry.preview.preview import Preview

TOLERANCE = 0.02  # of a standard error: where rounding decides about a cell, both are right


def make_pair(rng: np.random.Generator) -> tuple[Preview, Preview]:
    """Return two previews that overlap somehow, or not at all."""
    shape = tuple(rng.integers(1, 90, 2).tolist())
    channels = int(rng.choice([1, 1, 3]))
    scene = sky(shape, int(rng.integers(1 << 30)), stars=float(rng.choice([0.0, 0.003, 0.03])))
    scene = scene * 10.0 ** rng.integers(-6, 7) + rng.choice([0.0, -1000.0, 1e6])
    x0, y0 = rng.integers(-30, 30, 2).tolist()
    return _preview(scene, channels, 0, 0, rng), _preview(scene, channels, x0, y0, rng)


def _preview(
    scene: np.ndarray, channels: int, x0: int, y0: int, rng: np.random.Generator
) -> Preview:
    noise = NOISE * rng.choice([1e-3, 1.0, 100.0])
    values = rng.uniform(0.5, 2.0) * scene + rng.normal(0, noise, (channels, *scene.shape))
    kind = rng.integers(5)
    if kind == 1:
        values[rng.random(values.shape) < rng.random()] = np.nan
    elif kind == 2:
        values[..., : rng.integers(1, values.shape[-1] + 1)] = np.nan
    elif kind == 3:
        values[:] = values.flat[0]
    elif kind == 4:
        values.flat[rng.integers(values.size)] = rng.choice([0.0, 1e12, -1e12])
    return preview(values, noise, x0, y0)


class KernelFuzzer:
    """Measures pairs by both implementations."""

    def run(self, seed: int) -> None:
        """Measure a pair twice, and compare what both have measured."""
        first, second = make_pair(np.random.default_rng(seed))
        results = []
        for implementation in (_kernels.DEFAULT, _kernels.reference):
            with use_kernels(implementation), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of absurd values
                results.append(measure_pair(first, second))
        for one, other in zip(*results, strict=True):
            _compare(one, other)


def _compare(one: Measurement, other: Measurement) -> None:
    if isinstance(one, Rejected) or isinstance(other, Rejected):
        assert type(one) is type(other), (one, other)
        return
    for measured in (one, other):
        assert isinstance(measured, PairMeasurement)
        assert np.isfinite([measured.gain, measured.offset]).all()
    error = max(one.gain_err, abs(one.gain) * 1e-9)
    if one.gain_measured and other.gain_measured and np.isfinite(error):
        assert abs(one.gain - other.gain) <= TOLERANCE * error, (one, other)
