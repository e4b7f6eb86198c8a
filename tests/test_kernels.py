"""The compiled kernels compute the same as those in numpy, with the same bits in any thread."""

from __future__ import annotations

import inspect
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
from tests.helpers.kernels import use_kernels
from tests.helpers.previews import in_colours, pair, preview
from zemosaic.photometry import _kernels
from zemosaic.photometry._kernels import reference
from zemosaic.photometry._kernels.algebra import median, thin
from zemosaic.photometry._kernels.fit_summary import FIT_SUMMARY
from zemosaic.photometry._kernels.layout import has_scene
from zemosaic.photometry._kernels.nodes import NODE_STEP
from zemosaic.photometry.overlap.graph import find_overlaps, repetition
from zemosaic.photometry.pairfit.design import design_matrix
from zemosaic.photometry.pairfit.estimates import FitSummary
from zemosaic.photometry.pairfit.initial_slope import initial_slope
from zemosaic.photometry.pairfit.irls import fit_irls, summarize_bands, summarize_fit
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS, PairMeasurement, Rejected
from zemosaic.photometry.pairfit.overlap_blocks import common_samples
from zemosaic.photometry.pairfit.samples import PairSamples
from zemosaic.photometry.preview.preview import Preview
from zemosaic.photometry.preview.resampling import sample
from zemosaic.pipeline import tasks
from zemosaic.pipeline.tasks import cache_key

pytestmark = pytest.mark.skipif(not _kernels.COMPILED, reason="the kernels were not compiled")

Pair = tuple[Preview, Preview]


def colours(shape: tuple[int, int], seed: int = 1) -> Pair:
    """Return a pair of three channels with different gains."""
    return in_colours([pair(shape, gain, seed) for gain in (0.8, 1.1, 1.5)])


def with_holes(pair: Pair) -> Pair:
    """Cut holes into the first tile; remove single cells from the second."""
    first, second = pair
    rng = np.random.default_rng(1)
    first.values[:, 5:19, 7:30] = np.nan
    second.values[:, rng.random(second.values.shape[1:]) < 0.01] = np.nan
    return first, second


def moved(pair: Pair, x0: int, y0: int) -> Pair:
    """Move a pair off the lattice of blocks, on either side of the origin of the grid."""
    first, second = pair
    return replace(first, x0=x0, y0=y0), replace(second, x0=x0, y0=y0)


def with_different_masks(pair: Pair) -> Pair:
    """Make the channels valid in different cells."""
    pair[1].values[1, :40] = np.nan
    return pair


def flat() -> Pair:
    rng = np.random.default_rng(2)
    first, second = (preview(1000 + 3 * rng.normal(size=(90, 120)), 3.0) for _ in range(2))
    return first, second


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
    "colours apart": lambda: with_different_masks(colours((90, 120))),
    "flat sky": flat,
    "constant": constant,
    "too few": lambda: pair((4, 5)),
}


@pytest.fixture(params=PAIRS)
def some_pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]()


def in_numpy(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function with the kernels in numpy."""
    with use_kernels(reference):
        return function(*args)


def assert_close(actual: Any, expected: Any) -> None:
    """Compare numbers up to rounding."""
    actual, expected = (np.asarray(values, dtype=float) for values in (actual, expected))
    size = np.nanmax(np.abs(expected[np.isfinite(expected)]), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11 * size)


@pytest.mark.parametrize("name", reference.__all__)
def test_both_implementations_have_the_same_signature(name: str) -> None:
    """A kernel can be exchanged without any change to its calls."""
    implementations = _kernels.DEFAULT, reference
    first, second = (inspect.signature(getattr(module, name)) for module in implementations)
    assert first == second


def test_a_summary_has_the_fields_of_its_record() -> None:
    """They are in the same order, so that a record unpacks into it."""
    assert FitSummary._fields == FIT_SUMMARY.names


def test_selected_kernels_are_called() -> None:
    """`select` exchanges all kernels, and back."""
    for implementation in (reference, _kernels.DEFAULT):
        _kernels.select(implementation)
        for name in reference.__all__:
            assert getattr(_kernels, name) is getattr(implementation, name)


def assert_same_patches(
    actual: tuple[float, ...], expected: tuple[float, ...], level: float
) -> None:
    """Compare patches; covariances of places, and of levels with them, are rounded like moments."""
    found, wanted = (np.reshape(numbers, (-1, PATCH_NUMBERS)) for numbers in (actual, expected))
    moments = np.zeros(PATCH_NUMBERS)
    farthest = np.abs(wanted[:, :2]).max()
    moments[4:7], moments[-2:] = farthest**2, level * farthest
    difference = np.abs(found - wanted)
    assert (difference <= 1e-9 * np.abs(wanted) + 1e-14 * moments).all()


@pytest.mark.parametrize("model", ["gain+offset", "offset", "gain"])
def test_pairs_are_measured_alike(some_pair: Pair, model: str) -> None:
    """Every field of every channel agrees, or the reason for a rejection."""
    measured = measure_pair(*some_pair, model)
    for actual, expected in zip(measured, in_numpy(measure_pair, *some_pair, model), strict=True):
        if isinstance(expected, Rejected):
            assert actual == expected
            continue
        assert isinstance(actual, PairMeasurement)
        # The tolerance of differences near zero is relative to their terms.
        scale = {
            "offset": abs(expected.x) + abs(expected.y),
            "rms": 1e-3 * abs(expected.y),
        }
        for name, value in asdict(expected).items():
            tolerance = 1e-9 * scale.get(name, 0.0)
            if name == "patches":
                assert_same_patches(actual.patches, value, abs(expected.x))
                continue
            near = pytest.approx(value, rel=1e-9, abs=tolerance, nan_ok=True)
            assert getattr(actual, name) == near, name


def test_samples_are_gathered_alike(some_pair: Pair) -> None:
    """The same blocks and cells are chosen, in the same order, with the same values."""
    gathered, reference_samples = common_samples(*some_pair), in_numpy(common_samples, *some_pair)
    assert gathered is not None
    for actual, expected in zip(gathered, reference_samples, strict=True):
        for name in (
            "patch", "bright", "block_index", "cell_count", "cell_block", "cell_position",
        ):  # fmt: skip
            assert np.array_equal(getattr(actual, name), getattr(expected, name)), name
        for name in (
            "x", "y", "variance", "derivatives", "star_cells", "u", "v", "typical_variance",
            "planes",
        ):  # fmt: skip
            assert_close(getattr(actual, name), getattr(expected, name))
        assert actual.cells == expected.cells
        assert actual.side == expected.side
        assert actual.frame_shape == expected.frame_shape


def test_each_step_of_the_fit_is_alike(some_pair: Pair) -> None:
    """Initial slope, design, rounds and summary agree for the same input."""
    for samples in in_numpy(common_samples, *some_pair):
        if samples.cells < 25:
            continue
        slope = in_numpy(initial_slope, samples)
        assert_close(initial_slope(samples), slope)
        if not np.ptp(samples.x):
            continue  # the residuals of constant tiles are rounding
        slope = np.where(np.isfinite(slope), slope, 1.0)
        for model in ("free", "gain"):
            compare_fits(samples, slope, model)


def compare_fits(samples: PairSamples, slope: np.ndarray, model: str) -> None:
    design = in_numpy(design_matrix, samples, slope, model)
    assert_close(design_matrix(samples, slope, model), design)
    # The scene of a flat sky is a plane, which the plane's own terms explain: its slope is
    # rounding.
    nuisance, scene = design[0, 3:].T, design[0, 2]
    residual = scene - nuisance @ np.linalg.lstsq(nuisance, scene, rcond=None)[0]
    flat = model == "free" and np.abs(residual).max() < 1e-9 * np.ptp(samples.x)
    for fixed_slope in (True,) if flat else (False, True):
        expected = in_numpy(fit_irls, samples, design, slope, fixed_slope)
        if np.isnan(expected.slope).any():
            continue
        actual = fit_irls(samples, design, slope, fixed_slope)
        for name, values in expected._asdict().items():
            assert_close(getattr(actual, name), values)
        summary = in_numpy(summarize_fit, samples, expected)
        actual_summary = summarize_fit(samples, expected)
        assert_close(
            actual_summary.view(np.float64).reshape(len(slope), -1),
            summary.view(np.float64).reshape(len(slope), -1),
        )
        if flat:
            continue  # the slopes of bands are free
        sums = in_numpy(summarize_bands, samples, expected)
        for actual_sums, expected_sums in zip(
            summarize_bands(samples, expected), sums, strict=True
        ):
            assert_close(actual_sums, expected_sums)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("model", ["free", "gain"])
@pytest.mark.parametrize("shape", [(15, 16), (60, 80)])
def test_a_fit_leaves_its_inputs_as_they_are(shape: tuple[int, int], model: str) -> None:
    """The instrument of York's points is set in a copy of the design matrix."""
    samples = only_samples(*pair(shape))
    slope = np.array([1.1])
    design = design_matrix(samples, slope, model)
    before = design.copy(), slope.copy()
    fit = fit_irls(samples, design, slope, False)
    summarize_fit(samples, fit)
    summarize_bands(samples, fit)
    assert np.array_equal(design, before[0])
    assert np.array_equal(slope, before[1])
    assert np.array_equal(fit.design, design) == has_scene(design)


def only_samples(first: Preview, second: Preview) -> PairSamples:
    (samples,) = common_samples(first, second) or []
    return samples


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_blocks_are_sampled_alike(channels: int, holes: bool) -> None:
    """The same cells get the same values, also next to holes and edges and off the sky."""
    rng = np.random.default_rng(3)
    means = rng.normal(1000, 30, (channels, 70, 90)).astype(np.float32)
    fraction = None
    if holes:
        fraction = np.ones_like(means)
        fraction[:, 20:26, 40:55] = 0
    x, y = np.meshgrid(np.arange(4) * NODE_STEP, np.arange(5) * NODE_STEP)
    nodes = np.stack([1.9 * x - 0.3 * y - 2, 0.3 * x + 1.9 * y - 7])
    nodes[:, 3, 1] = np.nan
    sampled = sample(means, fraction, nodes, (61, 47))
    expected = in_numpy(sample, means, fraction, nodes, (61, 47))
    for actual, numpy_values in zip(sampled, expected, strict=True):
        np.testing.assert_allclose(actual, numpy_values, rtol=3e-6, atol=1e-6)
    assert 0.2 < np.isfinite(sampled[0]).mean() < 0.8


def test_overlaps_of_three_are_alike() -> None:
    """Areas of triples agree for tiles that are rotated, identical, touching and disjoint."""
    corners = np.concatenate([scattered(8), scattered(8)[:3]])
    graph = find_overlaps(corners)
    factor = repetition(graph, corners)
    assert_close(factor, in_numpy(repetition, graph, corners))
    assert (factor > 1.2).any()


@pytest.mark.parametrize("levels", [1, 2, 7, 10**9])
def test_medians_have_the_same_bits(levels: int) -> None:
    """For any number of values, with ties, the median is that of numpy on the same sample."""
    rng = np.random.default_rng(levels)
    for n in [*range(1, 30), 599, 600, 601, 1200, 1999]:
        means = rng.integers(0, levels, (5, 2, 1, n)) / 3.0
        of_values, of_variances = median(means[:2, ..., thin(n)])
        noise = _kernels.block_weights(
            means, means[0].copy(), np.ones(n), shared_noise=1.0, block_cells=1
        )
        expected = of_variances + (1e-60 + (1e-6 * of_values) ** 2)
        assert np.array_equal(noise.typical_variance[..., 0], expected)


def test_threads_and_processes_give_the_same_bits() -> None:
    """Pairs are measured side by side in threads, and again in another process."""
    names = [name for name in PAIRS if name != "too few"]
    expected = [measured_digits(PAIRS[name]()) for name in names]
    pairs = [PAIRS[name]() for name in names] * 6
    for first, second in pairs:  # computed before the threads start, which then do nothing but fit
        assert first.blocks.dtype == second.blocks.dtype == np.float32
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(measured_digits, pairs)) == expected * 6
    program = (
        "import json; from tests.test_kernels import PAIRS, measured_digits; "
        f"print(json.dumps([measured_digits(PAIRS[name]()) for name in {names!r}]))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(process.stdout) == expected


def measured_digits(pair: Pair) -> list[str]:
    """Return the measurements of a pair to the last bit."""
    return [repr(measurement) for measurement in measure_pair(*pair)]


def fused() -> Any:
    return pytest.importorskip("zemosaic.photometry._kernels._fused")


def test_arrays_that_do_not_fit_are_refused() -> None:
    """A wrong type, shape or layout, a read-only or a missing array raises an error."""
    x = np.arange(8.0)[None]
    u, bright, planes = np.arange(8.0), np.zeros(8, dtype=np.intp), np.empty((3, 2, 1, 1))
    arguments = [x, x, u, u, bright, planes, np.empty(8)]
    fused().sky_planes(*arguments)
    read_only = planes.copy()
    read_only.flags.writeable = False
    for place, wrong in (
        (0, x.astype(np.float32)), (0, x[:, ::2]), (1, x[:, :7]), (2, x), (4, bright > 0),
        (5, read_only), (5, planes[:2]), (6, np.empty(9)), (6, 3.0),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError, BufferError)):
            fused().sky_planes(*arguments[:place], wrong, *arguments[place + 1 :])
    with pytest.raises(TypeError, match="missing"):
        fused().sky_planes(*arguments[:-1])


@pytest.mark.parametrize("name", ["block_index", "cell_block"])
def test_indices_outside_the_samples_are_refused(name: str) -> None:
    """An index of a block that does not exist raises ValueError."""
    samples = only_samples(*pair((60, 80)))
    beyond = {"block_index": math.prod(samples.frame_shape), "cell_block": len(samples.u)}
    getattr(samples, name)[0] = beyond[name]
    with pytest.raises(ValueError, match="fit together"):
        design_matrix(samples, np.ones(1), "free")


@pytest.mark.parametrize("change", [{"shift_u": -40}, {"units_v": 2}, {"areas_u": 17}])
def test_lattices_that_do_not_cover_the_blocks_are_refused(change: dict[str, int]) -> None:
    """Blocks outside the units, or too many areas, raise ValueError."""
    samples = only_samples(*pair((60, 80)))
    fit = fit_irls(samples, design_matrix(samples, np.ones(1), "free"), np.ones(1), False)
    samples.lattice = samples.lattice._replace(**change)
    with pytest.raises(ValueError, match="fit together"):
        summarize_bands(samples, fit)


@pytest.mark.parametrize(("polygon", "tile"), [(2, 0), (-1, 0), (0, 3)])
def test_indices_outside_the_polygons_are_refused(polygon: int, tile: int) -> None:
    """An index of a polygon or a tile that does not exist raises ValueError."""
    polygons, normals = np.ones((2, 4, 3)), np.ones((3, 4, 3))
    with pytest.raises(ValueError, match="fit together"):
        _kernels.overlap_areas(polygons, normals, np.array([polygon]), np.array([tile]))


def test_nodes_that_do_not_cover_the_cells_are_refused() -> None:
    """Nodes that end before the last cell raise ValueError."""
    smoothed = np.ones((1, 9, 9), dtype=np.float32)
    with pytest.raises(ValueError, match="fit together"):
        _kernels.sample_spline(smoothed, np.ones((2, 2, 2)), (17, 5))


def test_a_journal_from_the_other_kernels_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key depends on the kernels, because their results differ in the last bits."""
    key = cache_key("a pair")
    assert cache_key("a pair") == key
    monkeypatch.setattr(tasks, "COMPILED", not tasks.COMPILED)
    assert cache_key("a pair") != key
