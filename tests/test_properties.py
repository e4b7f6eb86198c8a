"""Symmetries of the calibration: scale, level, order, position on the sky, anchor, a second run.

Hypothesis searches for counterexamples, the same ones in each run. Tiles without noise and without
differences in seeing show asymmetries of the numerics alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.pairs import turned
from zemosaic import Settings, Tile, calibrate, tile_from_array
from zemosaic.photometry.pairfit.measure import measure_pair
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.preview.preview import Preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.photometry.solver.solve import Solution, solve
from zemosaic.pipeline.solution import PhaseSolution

SMALL = Scene(tiles=5, shape=(128, 160), overlap=0.4, stars=4e-3, seeing=0.0)
#: Previews are float32: at 1000 ADU, levels are exact to 1e-4 ADU and gains to 1e-6.
ROUNDING_GAIN, ROUNDING_ADU = 1e-5, 0.02


def few(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


@cache
def tiles_of(electrons: float) -> tuple[SimulatedTile, ...]:
    return tuple(simulate(replace(SMALL, electrons=electrons)))


def as_tiles(tiles: Sequence[SimulatedTile]) -> list[Tile]:
    return [tile_from_array(tile.data, tile.wcs, name=tile.name) for tile in tiles]


def solution_of(tiles: Sequence[Tile], anchor: int | None = None) -> PhaseSolution:
    options = Settings(model="gain+offset", anchor=anchor)
    return calibrate(tiles, options, pool="serial", observers=[])


@cache
def original_solution(electrons: float, anchor: int | None = None) -> PhaseSolution:
    """Return the solution of the tiles as they are."""
    return solution_of(as_tiles(tiles_of(electrons)), anchor)


def brightness(solution: Solution, tiles: Sequence[SimulatedTile]) -> np.ndarray:
    """Return the corrected sky level of each tile in ADU."""
    sky = np.array([np.median(tile.data) for tile in tiles])
    return solution.gain[:, 0] * sky + solution.offset[:, 0]


def assert_same(solution: Solution, gain: np.ndarray, offset: np.ndarray, sky: np.ndarray) -> None:
    """Compare gains up to rounding or a twentieth of their errors, and skies up to rounding."""
    tolerance = np.maximum(
        ROUNDING_GAIN, 0.05 * np.nan_to_num(solution.gain_err / solution.gain)[:, 0]
    )
    assert (np.abs(np.log(solution.gain[:, 0] / gain)) <= tolerance).all()
    level = solution.gain[:, 0] * sky + solution.offset[:, 0]
    assert np.abs(level - (gain * sky + offset)).max() <= ROUNDING_ADU


def skies(tiles: Sequence[SimulatedTile]) -> np.ndarray:
    return np.array([np.median(tile.data) for tile in tiles], dtype=np.float64)


NOISE = st.sampled_from([0.0, 20.0])


@few(8)
@given(
    electrons=NOISE,
    tile=st.integers(1, 4),
    scale=st.floats(0.2, 5.0),
    shift=st.floats(-500.0, 2000.0),
)
@example(electrons=20.0, tile=2, scale=1.0, shift=-1000.0)
@example(electrons=20.0, tile=2, scale=65535.0, shift=0.0)
def test_scaling_and_shifting_a_tile_changes_its_own_correction_only(
    electrons: float, tile: int, scale: float, shift: float
) -> None:
    """If the data becomes s x + b, the tile's gain is divided by s and its offset follows.

    This holds for a sky of 0, and for a tile whose data is scaled to 16 bits.
    """
    assert_own_correction_follows(electrons, tile, scale, shift)


def test_a_tile_scaled_to_1_changes_its_own_correction_only() -> None:
    """Data without noise may be scaled to 0..1, as some programs store it."""
    assert_own_correction_follows(electrons=0.0, tile=3, scale=1 / 65535.0, shift=0.0)


def assert_own_correction_follows(electrons: float, tile: int, scale: float, shift: float) -> None:
    """Assert that the correction of a changed tile follows, and that no other changes."""
    tiles, first = list(tiles_of(electrons)), original_solution(electrons, 0)
    data = tiles[tile].data.astype(np.float64) * scale + shift
    tiles[tile] = replace(tiles[tile], data=data.astype(np.float32))
    second = solution_of(as_tiles(tiles), 0)
    gain, offset = first.gain[:, 0].copy(), first.offset[:, 0].copy()
    gain[tile] /= scale
    offset[tile] -= gain[tile] * shift
    assert_same(second, gain, offset, skies(tiles))


@few(6)
@given(electrons=NOISE, order=st.permutations(range(5)))
@example(electrons=20.0, order=[4, 3, 2, 1, 0])
def test_the_order_of_the_tiles_does_not_matter(electrons: float, order: list[int]) -> None:
    """Permuted tiles get permuted corrections."""
    tiles, first = tiles_of(electrons), original_solution(electrons)
    second = solution_of(as_tiles([tiles[k] for k in order]))
    assert_same(
        second, first.gain[order, 0], first.offset[order, 0], skies([tiles[k] for k in order])
    )


@few(6)
@given(electrons=NOISE, rotation=st.floats(-720.0, 720.0))
@example(electrons=0.0, rotation=360.0)
@example(electrons=20.0, rotation=167.28)
@example(electrons=20.0, rotation=-192.72)
def test_right_ascension_has_no_special_position(electrons: float, rotation: float) -> None:
    """Moving all tiles in right ascension, also across 0 and 360°, changes nothing."""
    tiles, first = tiles_of(electrons), original_solution(electrons)
    moved = []
    for tile in tiles:
        wcs = tile.wcs.deepcopy()
        wcs.wcs.crval = wcs.wcs.crval + np.array([rotation, 0.0])
        wcs.wcs.set()
        moved.append(replace(tile, wcs=wcs))
    assert_same(solution_of(as_tiles(moved)), first.gain[:, 0], first.offset[:, 0], skies(tiles))


def unit_vector(ra: float, dec: float) -> np.ndarray:
    a, d = np.deg2rad([ra, dec])
    return np.array([np.cos(a) * np.cos(d), np.sin(a) * np.cos(d), np.sin(d)])


def east_and_north(ra: float, dec: float) -> np.ndarray:
    a, d = np.deg2rad([ra, dec])
    east = [-np.sin(a), np.cos(a), 0.0]
    return np.array([east, [-np.cos(a) * np.sin(d), -np.sin(a) * np.sin(d), np.cos(d)]])


def rotated(tile: SimulatedTile, rotation: np.ndarray) -> SimulatedTile:
    """Rotate the sky with a tile on it."""
    ra, dec = tile.wcs.wcs.crval
    x, y, z = rotation @ unit_vector(ra, dec)
    centre = np.rad2deg([np.arctan2(y, x) % (2 * np.pi), np.arcsin(z)])
    # The old directions of east and north in terms of the new ones.
    axes = east_and_north(*centre) @ rotation @ east_and_north(ra, dec).T
    wcs = tile.wcs.deepcopy()
    wcs.wcs.crval, wcs.wcs.cd = centre, axes @ wcs.wcs.cd
    wcs.wcs.set()
    return replace(tile, wcs=wcs)


@few(5)
@given(ra=st.floats(0.0, 360.0), dec=st.floats(-89.9, 89.9), roll=st.floats(0.0, 360.0))
@example(ra=0.0, dec=90.0, roll=0.0)
@example(ra=0.0, dec=-90.0, roll=45.0)
@example(ra=0.0, dec=0.0, roll=90.0)
def test_the_sky_can_be_rotated(ra: float, dec: float, roll: float) -> None:
    """The corrections do not depend on position and rotation of a mosaic, even at a pole.

    The cells lie elsewhere on the tiles then, so that this holds to the accuracy of tiles without
    noise: 2e-4 in gain and 0.2 ADU in level.
    """
    tiles, first = tiles_of(0.0), original_solution(0.0)
    source = np.stack([unit_vector(*SMALL.centre), *east_and_north(*SMALL.centre)])
    angle = np.deg2rad(roll)
    east, north = east_and_north(ra, dec)
    target = np.stack(
        [
            unit_vector(ra, dec),
            np.cos(angle) * east + np.sin(angle) * north,
            np.cos(angle) * north - np.sin(angle) * east,
        ]
    )
    rotation = target.T @ source
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    second = solution_of(as_tiles([rotated(tile, rotation) for tile in tiles]))
    assert not second.failed
    assert np.abs(np.log(second.gain / first.gain)).max() < 2e-4
    # A common level is a matter of the gauge.
    level = brightness(second, tiles) - brightness(first, tiles)
    assert np.ptp(level) < 0.2


@few(5)
@given(electrons=NOISE, anchor=st.integers(0, 4))
def test_the_anchor_sets_the_units_only(electrons: float, anchor: int) -> None:
    """Another anchor multiplies all corrected tiles by one factor and adds one level."""
    tiles, free = tiles_of(electrons), original_solution(electrons)
    anchored = solution_of(as_tiles(tiles), anchor)
    assert (anchored.gain[anchor, 0], anchored.offset[anchor, 0]) == (1.0, 0.0)
    unit = free.gain[anchor, 0]
    assert_same(
        anchored, free.gain[:, 0] / unit, (free.offset[:, 0] - free.offset[anchor, 0]) / unit,
        skies(tiles),
    )  # fmt: skip


@few(4)
@given(electrons=NOISE, seed=st.integers(1, 1000))
@example(electrons=20.0, seed=1)
def test_corrected_tiles_need_no_correction(electrons: float, seed: int) -> None:
    """Calibrating the corrected tiles again yields gain 1 and offset 0 for any sky."""
    tiles = list(simulate(replace(SMALL, tiles=3, electrons=electrons, seed=seed)))
    first = solution_of(as_tiles(tiles))
    corrected = [
        replace(tile, data=(g * tile.data.astype(np.float64) + o).astype(np.float32))
        for tile, g, o in zip(tiles, first.gain[:, 0], first.offset[:, 0], strict=True)
    ]
    second = solution_of(as_tiles(corrected))
    assert_same(second, np.ones(3), np.zeros(3), skies(corrected))


def two_previews(
    seed: int, shape: tuple[int, int], cloud: float, gain: float, level: float,
    noises: tuple[float, float],
) -> tuple[Preview, Preview]:  # fmt: skip
    """Return two previews of a cloud and 30 stars with different noise, gain and level."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = np.full(shape, 1000.0)
    stars = [(min(50 * flux, 9e3), 1.2) for flux in rng.pareto(1.2, 30)]
    for peak, size in ((cloud, 15.0), *stars):
        centre_x, centre_y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        sky += peak * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * size**2))
    previews = []
    for true, noise in ((sky, noises[0]), (gain * sky + level, noises[1])):
        values = (true + noise * rng.normal(size=shape)).astype(np.float32)[None]
        variance = np.full_like(values, noise**2)
        previews.append(Preview(0, 0, values, variance, np.zeros(1), np.zeros(2), np.eye(2)))
    return previews[0], previews[1]


@few(25)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(12, 60), st.integers(12, 60)),
    cloud=st.floats(0.0, 1000.0),
    gain=st.floats(0.3, 3.0),
    level=st.floats(-500.0, 500.0),
    noises=st.tuples(st.floats(0.5, 10.0), st.floats(0.5, 10.0)),
)
@example(4082, (40, 23), 0.0, 1.0, 0.0, (6.0, 1.0))
@example(170, (39, 23), 61.25, 0.459, -447.2, (8.39, 4.27))
@example(1, (12, 12), 0.0, 1.0, 0.0, (10.0, 10.0))
def test_the_order_of_a_pair_does_not_matter(
    seed: int, shape: tuple[int, int], cloud: float, gain: float, level: float,
    noises: tuple[float, float],
) -> None:  # fmt: skip
    """(j, i) has slope 1 / a and exchanged pivots, to a tenth of the errors.

    A tenth adds half a per cent to the scatter due to noise. A gain is measured in both orders or
    in neither.
    """
    pair = two_previews(seed, shape, cloud, gain, level, noises)
    (forward,), (backward,) = measure_pair(*pair), measure_pair(*pair[::-1])
    assert isinstance(forward, PairMeasurement)
    assert isinstance(backward, PairMeasurement)
    assert forward.gain_measured == backward.gain_measured
    assert forward.cells == backward.cells
    if forward.gain_measured:
        error = forward.gain_err / forward.gain
        assert abs(np.log(backward.gain * forward.gain)) < 0.1 * error
        assert abs(np.log(backward.gain_err / backward.gain / error)) < 0.1
    # Levels at the pivot of the first direction.
    level_error = forward.level_err / forward.gain
    level = backward.y + backward.gain * (forward.y - backward.x)
    assert abs(level - forward.x) < 0.1 * level_error + 1e-4
    assert abs(np.log(backward.level_err / level_error)) < 0.1


@few(10)
@given(flips=st.lists(st.booleans(), min_size=10, max_size=10))
def test_the_solver_does_not_depend_on_the_order_in_a_pair(flips: list[bool]) -> None:
    """Pairs given as (j, i) with the inverse line lead to the same solution."""
    first = original_solution(10.0)
    records = first.records
    measured, i, j = [], [], []
    for record, flip in zip(records, flips, strict=False):
        line = record.measurements[0]
        assert isinstance(line, PairMeasurement)
        measured.append([turned(line) if flip else line])
        i.append(record.j if flip else record.i)
        j.append(record.i if flip else record.j)
    sky = skies(tiles_of(10.0))
    original = [list(record.measurements) for record in records[: len(flips)]]
    ends = [np.array([getattr(r, n) for r in records[: len(flips)]]) for n in ("i", "j")]
    expected = solve(*ends, original, sky[:, None])
    solution = solve(np.array(i), np.array(j), measured, sky[:, None])
    assert_same(solution, expected.gain[:, 0], expected.offset[:, 0], sky)
