"""The compiled kernels say what numpy says, the same bits whatever runs beside them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.footprints import scattered
from tests.helpers.previews import in_colours, pair, preview
from zemosaic.photometry._kernels import compiled
from zemosaic.photometry._kernels.fit_summary import FIT_SUMMARY
from zemosaic.photometry.overlap.graph import find_overlaps, repetition
from zemosaic.photometry.pairfit.algebra import median, thin
from zemosaic.photometry.pairfit.initial_slope import initial_slope
from zemosaic.photometry.pairfit.irls import design_matrix, fit_irls, summarize_fit
from zemosaic.photometry.pairfit.measure import FitSummary, PairMeasurement, Rejected, measure_pair
from zemosaic.photometry.pairfit.samples import PairSamples, common_samples
from zemosaic.photometry.preview.preview import Preview
from zemosaic.photometry.preview.resampling import NODE_STEP, sample
from zemosaic.pipeline import tasks
from zemosaic.pipeline.tasks import cache_key

pytestmark = pytest.mark.skipif(compiled.fused is None, reason="the kernels were not compiled")

Pair = tuple[Preview, Preview]


def colours(shape: tuple[int, int], seed: int = 1) -> Pair:
    """Three channels, each with a gain of its own."""
    return in_colours([pair(shape, gain, seed) for gain in (0.8, 1.1, 1.5)])


def with_holes(pair: Pair) -> Pair:
    """Blocks that are cut, and cells that one tile alone has."""
    first, second = pair
    rng = np.random.default_rng(1)
    first.values[:, 5:19, 7:30] = np.nan
    second.values[:, rng.random(second.values.shape[1:]) < 0.01] = np.nan
    return first, second


def moved(pair: Pair, x0: int, y0: int) -> Pair:
    """Off the lattice of blocks, on either side of the grid's corner."""
    first, second = pair
    return replace(first, x0=x0, y0=y0), replace(second, x0=x0, y0=y0)


def apart(pair: Pair) -> Pair:
    """Channels that are valid in other cells each."""
    pair[1].values[1, :40] = np.nan
    return pair


def flat() -> Pair:
    rng = np.random.default_rng(2)
    one, other = (preview(1000 + 3 * rng.normal(size=(90, 120)), 3.0) for _ in range(2))
    return one, other


def constant() -> Pair:
    return preview(np.full((60, 80), 500.0), 0.0), preview(np.full((60, 80), 520.0), 0.0)


PAIRS: dict[str, Callable[[], Pair]] = {
    "few cells": lambda: pair((9, 11)),
    "without nuisance terms": lambda: pair((15, 16)),
    "cell by cell": lambda: pair((40, 50)),
    "off the lattice": lambda: moved(pair((61, 83)), -33, 7),
    "blocks of 4": lambda: pair((120, 160)),
    "blocks of 8": lambda: moved(pair((190, 240)), 3, -50),
    "blocks of 16": lambda: pair((400, 500)),
    "holes": lambda: with_holes(pair((61, 83))),
    "holes in large": lambda: with_holes(pair((190, 240))),
    "colours": lambda: with_holes(colours((90, 120))),
    "few colours": lambda: colours((30, 40)),
    "colours apart": lambda: apart(colours((90, 120))),
    "flat sky": flat,
    "constant": constant,
    "too few": lambda: pair((4, 5)),
}


def numbers(summary: np.ndarray) -> np.ndarray:
    """The fields of a fit's summary as a plain array."""
    return summary.view(np.float64).reshape(len(summary), -1)


def test_a_summary_has_the_fields_of_its_record() -> None:
    """In the same order, so that a record unpacks into it."""
    assert FitSummary._fields == FIT_SUMMARY.names


@pytest.fixture(params=PAIRS)
def some_pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]()


def in_numpy(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], *args: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "fused", None)
        return function(*args)


def close(one: Any, other: Any) -> None:
    """The same numbers but for rounding."""
    one, other = (np.asarray(z, dtype=float) for z in (one, other))
    size = np.nanmax(np.abs(other[np.isfinite(other)]), initial=0.0)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11 * size)


@pytest.mark.parametrize("model", ["gain+offset", "offset", "gain"])
def test_pairs_are_measured_alike(
    some_pair: Pair, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field of every channel, or the same reason for a rejection."""
    found = measure_pair(*some_pair, model)
    expected = in_numpy(monkeypatch, measure_pair, *some_pair, model)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, Rejected):
            assert one == other
            continue
        assert isinstance(one, PairMeasurement)
        # What is zero but for rounding is measured against what it is the difference of.
        scale = {"offset": abs(other.x) + abs(other.y)} | {
            name: math.sqrt(other.tilt_cov[0] + other.tilt_cov[2]) for name in ("x_tilt", "y_tilt")
        }
        scale |= {"tilt_cov": other.tilt_cov[0], "rms": 1e-3 * abs(other.y)}
        for name, value in asdict(other).items():
            least = 1e-9 * scale.get(name, 0.0)
            near = pytest.approx(value, rel=1e-9, abs=least, nan_ok=True)
            assert getattr(one, name) == near, name


def test_rows_are_gathered_alike(some_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same blocks and cells are chosen, in the same order, and hold the same."""
    found, expected = common_samples(*some_pair), in_numpy(monkeypatch, common_samples, *some_pair)
    assert found is not None
    for one, other in zip(found, expected, strict=True):
        for name in ("cluster", "bright", "at", "count", "block", "place"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        for name in ("x", "y", "variance", "derivatives", "fine", "u", "v", "typical", "planes"):
            close(getattr(one, name), getattr(other, name))
        assert (one.cells, one.shape, one.side) == (other.cells, other.shape, other.side)


def test_each_step_of_the_fit_is_alike(some_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """First slope, columns, rounds and sums: from the same input the same result."""
    rows: PairSamples
    for rows in in_numpy(monkeypatch, common_samples, *some_pair):
        if rows.cells < 25:
            continue
        slope = in_numpy(monkeypatch, initial_slope, rows)
        close(initial_slope(rows), slope)
        if not np.ptp(rows.x):
            continue  # what a line leaves of constant tiles is rounding
        slope = np.where(np.isfinite(slope), slope, 1.0)
        for model in ("free", "gain"):
            columns = in_numpy(monkeypatch, design_matrix, rows, slope, model)
            close(design_matrix(rows, slope, model), columns)
            # Of a flat sky a plane is left, which its own terms explain: its slope is rounding.
            smooth, scene = columns[0, 3:].T, columns[0, 2]
            left = scene - smooth @ np.linalg.lstsq(smooth, scene)[0]
            flat = model == "free" and np.abs(left).max() < 1e-9 * np.ptp(rows.x)
            for free in (False,) if flat else (True, False):
                state = in_numpy(monkeypatch, fit_irls, rows, columns, slope, free)
                if np.isnan(state.slope).any():
                    continue
                for one, other in zip(fit_irls(rows, columns, slope, free), state, strict=True):
                    close(one, other)
                sums = in_numpy(monkeypatch, summarize_fit, rows, columns, state, free)
                close(numbers(summarize_fit(rows, columns, state, free)), numbers(sums))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_blocks_are_sampled_alike(
    channels: int, holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cells hold the same, also next to holes, edges and where there is no sky."""
    rng = np.random.default_rng(3)
    means = rng.normal(1000, 30, (channels, 70, 90)).astype(np.float32)
    fraction = None
    if holes:
        fraction = np.ones_like(means)
        fraction[:, 20:26, 40:55] = 0
    x, y = np.meshgrid(np.arange(4) * NODE_STEP, np.arange(5) * NODE_STEP)
    nodes = np.stack([1.9 * x - 0.3 * y - 2, 0.3 * x + 1.9 * y - 7])
    nodes[:, 3, 1] = np.nan
    found = sample(means, fraction, nodes, (61, 47))
    expected = in_numpy(monkeypatch, sample, means, fraction, nodes, (61, 47))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-6, atol=1e-6)
    assert 0.2 < np.isfinite(found[0]).mean() < 0.8


def test_overlaps_of_three_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Areas of triples: tiles turned against each other, alike, touching and apart."""
    corners = np.concatenate([scattered(8), scattered(8)[:3]])
    graph = find_overlaps(corners)
    found = repetition(graph, corners)
    close(found, in_numpy(monkeypatch, repetition, graph, corners))
    assert (found > 1.2).any()


@pytest.mark.parametrize("levels", [1, 2, 7, 10**9])
def test_medians_are_the_very_same(levels: int) -> None:
    """Of any number of values, equal ones among them: the bits of numpy's, from the same sample."""
    rng = np.random.default_rng(levels)
    for n in [*range(1, 30), 599, 600, 601, 1200, 1999]:
        z = rng.integers(0, levels, (5, 2, 1, n)) / 3.0
        typical, above = np.empty((2, 1, 1)), np.empty(n)
        of_values, of_variances = median(z[:2, ..., thin(n)])
        kernel().block_weights(z, z[0].copy(), np.ones(n), typical, above, np.empty(n), 1, 1)
        assert np.array_equal(typical[..., 0], of_variances + (1e-12 + (1e-6 * of_values) ** 2))


def test_threads_and_processes_find_the_same_bits() -> None:
    """Pairs measured side by side in threads, and again in another process."""
    names = [name for name in PAIRS if name != "too few"]
    alone = [told(PAIRS[name]()) for name in names]
    pairs = [PAIRS[name]() for name in names] * 6
    for first, second in pairs:  # made before the threads start, so that these do nothing but fit
        assert first.blocks.dtype == second.blocks.dtype == np.float32
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(told, pairs)) == alone * 6
    program = (
        "import json; from tests.test_fused import PAIRS, told; "
        f"print(json.dumps([told(PAIRS[name]()) for name in {names!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == alone


def told(pair: Pair) -> list[str]:
    """A pair's measurements to the last bit."""
    return [repr(line) for line in measure_pair(*pair)]


def kernel() -> Any:
    assert compiled.fused is not None
    return compiled.fused


def test_arrays_that_do_not_fit_are_refused() -> None:
    """Another type, shape or layout, one that is read-only, or one too few: an error, no crash."""
    x = np.arange(8.0)[None]
    u, bright, plane = np.arange(8.0), np.zeros(8, dtype=np.intp), np.empty((3, 2, 1, 1))
    good = [x, x, u, u, bright, plane, np.empty(8)]
    kernel().sky_planes(*good)
    fixed = plane.copy()
    fixed.flags.writeable = False
    for place, wrong in (
        (0, x.astype(np.float32)), (0, x[:, ::2]), (1, x[:, :7]), (2, x), (4, bright > 0),
        (5, fixed), (5, plane[:2]), (6, np.empty(9)), (6, 3.0),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError, BufferError)):
            kernel().sky_planes(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(TypeError, match="missing"):
        kernel().sky_planes(*good[:-1])


def test_places_outside_the_arrays_are_refused() -> None:
    """An index of a row that is none."""
    rows = common_samples(*pair((60, 80)))
    assert rows is not None
    for name, beyond in (("at", np.prod(rows[0].shape)), ("block", len(rows[0].u))):
        good = getattr(rows[0], name)[0]
        getattr(rows[0], name)[0] = beyond
        with pytest.raises(ValueError, match="fit together"):
            design_matrix(rows[0], np.ones(1), "free")
        getattr(rows[0], name)[0] = good
    square, normals, area = np.ones((2, 4, 3)), np.ones((3, 4, 3)), np.empty(1)
    for polygon, tile in ((2, 0), (-1, 0), (0, 3)):
        which = np.array([polygon]), np.array([tile])
        with pytest.raises(ValueError, match="fit together"):
            kernel().overlap_areas(square, normals, *which, area)
    planes = np.ones((1, 9, 9), dtype=np.float32)
    values, factor = np.empty((1, 17, 5), dtype=np.float32), np.empty((17, 5), dtype=np.float32)
    work = np.empty((8, 5), dtype=np.float32), np.empty((3, 5))
    with pytest.raises(ValueError, match="fit together"):  # nodes end before the cells
        kernel().sample_spline(planes, np.ones((2, 2, 2)), values, factor, *work)


def test_a_journal_of_the_other_way_is_not_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured once differs in its last bits, so its key is another."""
    before = cache_key("a pair")
    assert cache_key("a pair") == before
    monkeypatch.setattr(tasks, "COMPILED", not tasks.COMPILED)
    assert cache_key("a pair") != before
