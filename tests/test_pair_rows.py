"""The linearized equations of pairs: their derivatives, their terms, and the classes' spreads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.mosaics import InventedMosaic
from tests.helpers.pairs import pair_line
from zemosaic.photometry.illumination import TERMS
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS, Measurement
from zemosaic.photometry.solver.channel import Channel, TileFrame
from zemosaic.photometry.solver.channel_pairs import MeasuredPairs
from zemosaic.photometry.solver.initial import reference_levels
from zemosaic.photometry.solver.pair_ends import patch_points
from zemosaic.photometry.solver.pair_rows import (
    PairEquations,
    Rows,
    State,
    Unknowns,
)
from zemosaic.photometry.solver.spreads import scored_variance
from zemosaic.photometry.solver.surfaces import (
    ORDERS,
    PIXEL_POWERS,
    SURFACE_POWERS,
    pixel_polynomials,
    surface_basis,
)
from zemosaic.photometry.solver.ties import Ties

STEP = 1e-4


def measured(lines: Iterable[Measurement]) -> MeasuredPairs:
    """Return pairs of one channel as arrays."""
    given = list(lines)
    return MeasuredPairs.of(given, len(given))


def equations(instruments: int, tied: bool) -> tuple[PairEquations, State]:
    """Return the equations of nine tiles, and a random state."""
    mosaic = InventedMosaic(3, instruments=instruments, corner=0.2)
    ties = Ties.of([[None] * 9], [[k // 3 for k in range(9)]]) if tied else None
    channel = Channel.of(
        mosaic.i, mosaic.j, measured(line for (line,) in mosaic.measure()), np.ones(len(mosaic.i)),
        sky=mosaic.sky()[:, 0], model="auto", anchor=None, frame=mosaic.frame, ties=ties,
        instruments=mosaic.instruments,
    )  # fmt: skip
    reference = reference_levels(channel)
    rng, unit = np.random.default_rng(2), channel.pairs.unit
    state = State(
        log_gain=np.log(mosaic.gain),
        level=(mosaic.gain * reference + mosaic.offset / unit),
        surface=rng.normal(size=(9, len(ORDERS))),
        log_flat=0.02 * rng.normal(size=(instruments, len(TERMS))),
        glow=rng.normal(size=(instruments, len(TERMS))),
        bias=100 * rng.normal(size=instruments),
        own_bias=10 * rng.normal(size=9),
        trend=np.zeros(2),
    )
    return PairEquations(channel, reference), state


ALL = Unknowns(
    np.ones(len(ORDERS), dtype=bool),
    np.ones(len(TERMS), dtype=bool),
    np.ones(len(TERMS), dtype=bool),
    own_bias=True,
)


def rows_of(equations: PairEquations, state: State, active: Unknowns = ALL) -> list[Rows]:
    return list(equations.rows(state, active, (0.0, 0.0)))


def changed(state: State, name: str, index: tuple[int, ...], step: float) -> State:
    """Return a state with one value changed."""
    values = getattr(state, name).copy()
    values[index] += step
    return replace(state, **{name: values})


def derivatives(
    equations: PairEquations, state: State, name: str, index: tuple[int, ...]
) -> list[np.ndarray]:
    """Return minus the derivatives of all residuals by one value, by finite differences."""
    sides = []
    for sign in (1, -1):
        parts = rows_of(equations, changed(state, name, index, sign * STEP))
        sides.append([part.residual for part in parts])
    return [(low - high) / (2 * STEP) for high, low in zip(*sides, strict=True)]


def agreeing(equations: PairEquations, state: State) -> PairEquations:
    """Return equations with levels of the second tiles that agree with the first in a state."""
    pairs = equations.channel.pairs
    y_level, gain = pairs.y_level.copy(), np.exp(state.log_gain)[pairs.j]
    for part in rows_of(equations, state):
        by_level = gain[part.pairs, None] * part.derivatives.second_by_level
        y_level[part.pairs] += part.residual[:, :-1] / by_level
    pairs = replace(pairs, y_level=y_level)
    return PairEquations(replace(equations.channel, pairs=pairs), equations.reference)


def _ends(equations: PairEquations) -> tuple[np.ndarray, np.ndarray]:
    return equations.channel.pairs.i, equations.channel.pairs.j


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("instruments", [1, 2])
def test_derivatives_by_the_terms_of_tiles_are_those_of_the_residuals(
    instruments: int, tied: bool
) -> None:
    """For gain, level, all terms of the surface and bias of either tile, also of tied tiles."""
    pair_equations, state = equations(instruments, tied)
    pair_equations = agreeing(pair_equations, state)
    found = rows_of(pair_equations, state)
    names = ["log_gain", "level", *["surface"] * len(ORDERS), "own_bias"]
    width = len(names)
    for column, name in enumerate(names):
        for tile in (0, 4, 8):
            index = (tile, column - 2) if name == "surface" else (tile,)
            expected = derivatives(pair_equations, state, name, index)
            for part, numbers in zip(found, expected, strict=True):
                for side, ends in enumerate(_ends(pair_equations)):
                    mine = ends[part.pairs] == tile
                    np.testing.assert_allclose(
                        part.own[mine][..., width * side + column], numbers[mine],
                        rtol=1e-5, atol=1e-4,
                    )  # fmt: skip


def test_noise_does_not_tell_a_slope_of_the_illumination_from_a_trend_of_the_gains() -> None:
    """Parallel tiles do not at all: gains, levels and bias can take the place of any slope."""
    pair_equations, state = equations(1, tied=False)
    log_flat = state.log_flat * (TERMS.sum(axis=1) == 1)
    state = replace(
        state, surface=0 * state.surface, log_flat=log_flat, glow=0 * state.glow,
        own_bias=np.zeros(9),
    )  # fmt: skip
    pairs, rng = pair_equations.channel.pairs, np.random.default_rng(7)
    noisy = replace(pairs, y_level=pairs.y_level + 20 * rng.normal(size=pairs.y_level.shape))
    noisy_channel = replace(pair_equations.channel, pairs=noisy)
    none = np.zeros(len(ORDERS), dtype=bool)
    active = Unknowns(none, TERMS.sum(axis=1) == 1, ALL.glow & False, own_bias=False)
    (rows,) = rows_of(PairEquations(noisy_channel, pair_equations.reference), state, active)
    ends = np.stack([pairs.i, pairs.j], axis=1)
    own = np.zeros((*rows.residual.shape, 9, 2))
    for end in (0, 1):
        own[np.arange(len(ends)), :, ends[:, end]] += rows.own[..., 2 * end : 2 * end + 2]
    others = np.concatenate([own.reshape(-1, 18), rows.shared[..., 2:].reshape(-1, 1)], axis=1)
    for slope in rows.shared[..., :2].reshape(-1, 2).T:
        left = slope - others @ np.linalg.lstsq(others, slope, rcond=1e-10)[0]
        assert np.abs(left).max() < 1e-3 * np.abs(slope).max()


@pytest.mark.parametrize("instruments", [1, 2])
def test_derivatives_by_the_shared_terms_are_those_of_the_residuals(instruments: int) -> None:
    """For ln F, glow and bias, of pairs with the same instrument and with two."""
    pair_equations, state = equations(instruments, tied=False)
    pair_equations = agreeing(pair_equations, state)
    found = rows_of(pair_equations, state)
    assert sorted(part.instruments for part in found) == sorted(
        {tuple(dict.fromkeys(part.instruments)) for part in found}
    )
    assert len(found) == (1 if instruments == 1 else 4)
    terms = len(TERMS)
    for label in range(instruments):
        for name, index, column in (
            *(("log_flat", (label, k), k) for k in (0, 1, 4, terms - 1)),
            *(("glow", (label, k), terms + k) for k in (0, 1, 4, terms - 1)),
            ("bias", (label,), 2 * terms),
        ):
            expected = derivatives(pair_equations, state, name, index)
            for part, numbers in zip(found, expected, strict=True):
                if label not in part.instruments:
                    assert not numbers.any()
                    continue
                start = part.instruments.index(label) * (2 * terms + 1)
                np.testing.assert_allclose(
                    part.shared[..., start + column], numbers, rtol=1e-5, atol=1e-4
                )


def test_columns_are_those_of_the_terms_that_are_solved_for() -> None:
    """Other terms have no column, and the columns of these are the same."""
    pair_equations, state = equations(1, tied=False)
    rng = np.random.default_rng(3)
    shared = rng.random(len(TERMS)) < 0.5, rng.random(len(TERMS)) < 0.2
    active = Unknowns(ORDERS == 2, *shared, own_bias=True)
    state = replace(
        state, surface=state.surface * active.surface, log_flat=state.log_flat * active.log_flat,
        glow=state.glow * active.glow,
    )  # fmt: skip
    (few,), (every,) = rows_of(pair_equations, state, active), rows_of(pair_equations, state)
    np.testing.assert_allclose(few.residual, every.residual, atol=1e-9)
    own = np.r_[True, True, active.surface, True]
    np.testing.assert_allclose(few.own, every.own[..., np.r_[own, own]], atol=1e-9)
    shared = np.r_[active.log_flat, active.glow, True]
    np.testing.assert_allclose(few.shared, every.shared[..., shared], atol=1e-9)


@pytest.mark.parametrize("structure", [0.0, 100.0])
def test_the_truth_has_no_residuals(structure: float) -> None:
    """With true gains, levels, surfaces and F the pairs agree but for their noise."""
    mosaic = InventedMosaic(3, corner=0.2, slope=5.0, bias=50.0, own_bias=70.0, structure=structure)
    mosaic.glow[0, :5] = [3.0, -2.0, 1.0, 4.0, 2.0]
    lines = [line for (line,) in mosaic.measure(noise=0.0)]
    channel = Channel.of(
        mosaic.i, mosaic.j, measured(lines), np.ones(len(lines)), sky=mosaic.sky()[:, 0],
        model="auto", anchor=None, frame=mosaic.frame, instruments=mosaic.instruments,
    )  # fmt: skip
    pair_equations = PairEquations(channel, np.zeros(9))
    unit, half_tile = channel.pairs.unit, pair_equations.half_tile
    assert half_tile == pytest.approx(mosaic.unit)
    state = State(
        np.log(mosaic.gain), mosaic.offset / unit, mosaic.surface / unit, mosaic.log_flat,
        mosaic.glow / unit, np.array([50.0]) / unit, (mosaic.bias - 50) / unit, np.zeros(2),
    )  # fmt: skip
    (rows,) = rows_of(pair_equations, state)
    # Changes of F and of the light within a patch count to second order.
    assert np.abs(rows.residual[:, :-1]).max() * unit < 0.15
    assert np.abs(rows.residual[:, -1]).max() < 1e-10
    patches = channel.pairs.patches.copy()
    patches[..., 9:] = 0.0
    untilted = replace(channel.pairs, patches=patches)
    without_tilt = PairEquations(replace(channel, pairs=untilted), np.zeros(9))
    (rows,) = rows_of(without_tilt, state)
    assert np.abs(rows.residual[:, :-1]).max() * unit > 0.25
    for name in ("log_gain", "level", "surface", "log_flat", "glow", "bias", "own_bias"):
        without = replace(state, **{name: np.zeros_like(getattr(state, name))})
        (rows,) = rows_of(pair_equations, without)
        assert np.abs(rows.residual[:, :-1]).max() * unit > 2


def test_an_excess_is_shared_by_half_of_the_patches_in_use() -> None:
    """It counts more where patches or pairs are alike, and once where a pair has one patch."""
    corners = np.array([(0.0, 0.0), (9.0, 0.0), (0.0, 9.0), (9.0, 9.0)])
    patches = np.zeros((4, PATCH_NUMBERS))
    patches[:, :2], patches[:, 7] = corners, 1.0
    lines = [pair_line(1.0, 0.0, 0.0, patches=patches[:number]) for number in (1, 2, 3, 4)]
    channel = Channel.of(
        np.arange(4), np.arange(1, 5), measured(lines), np.array([1.0, 1.0, 2.0, 1.0]),
        sky=np.zeros(5), model="auto", anchor=None, frame=None,
    )  # fmt: skip
    assert channel.pairs.alike.tolist() == [1.0, 1.0, 3.0, 2.0]


@pytest.mark.parametrize("tied", [False, True])
def test_a_part_of_a_mosaic_has_the_equations_of_its_pairs(tied: bool) -> None:
    """Its tiles are those of the pairs and those they are tied to, numbered anew."""
    whole, state = equations(1, tied)
    i, j = _ends(whole)
    chosen = (i >= 4) & (j >= 4)
    part, tiles = whole.channel.part(chosen)
    assert tiles.tolist() == ([3] if tied else []) + [4, 5, 6, 7, 8]
    assert np.array_equal(tiles[part.pairs.i], i[chosen])
    assert np.array_equal(tiles[part.ties.level], whole.channel.ties.level[tiles])
    names = "log_gain", "level", "surface", "own_bias"
    of_part = replace(state, **{name: getattr(state, name)[tiles] for name in names})
    (rows,) = rows_of(PairEquations(part, whole.reference[tiles]), of_part)
    (expected,) = rows_of(whole, state)
    assert rows.residual == pytest.approx(expected.residual[chosen], rel=1e-12)
    assert rows.own == pytest.approx(expected.own[chosen], rel=1e-12)


def test_patch_points_have_the_moments_of_a_rectangle() -> None:
    """Their mean and covariance are exact, and so are third moments of a rotated rectangle."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        side, angle = rng.uniform(0.1, 5, 2), rng.uniform(0, np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        cov = turn @ np.diag(side**2 / 3) @ turn.T
        mean = rng.normal(0, 100, 2)
        points = patch_points(mean, cov[[0, 0, 1], [0, 1, 1]])
        np.testing.assert_allclose(points.mean(axis=0), mean, rtol=1e-12)
        np.testing.assert_allclose(np.cov(points.T, bias=True), cov, atol=1e-9)
        cubes = ((points - mean) @ rng.normal(size=2)) ** 3
        assert abs(cubes.mean()) < 1e-9
    line = patch_points(np.zeros((2, 2)), np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(line).all()
    np.testing.assert_allclose(np.abs(line[0, :, 1]), 2.0)


def test_polynomials_of_pixels_are_the_surfaces() -> None:
    """At any pixel of rotated, skewed and mirrored tiles, about any origin."""
    rng = np.random.default_rng(6)
    tiles, unit = 5, 37.0
    frame = TileFrame(
        rng.normal(0, 300, (tiles, 2)),
        rng.normal(0, 0.1, (tiles, 2, 2)),
        rng.integers(50, 3000, (tiles, 2)),
    )
    coefficients = rng.normal(size=(tiles, len(ORDERS)))
    origin = frame.centre + rng.normal(0, 20, (tiles, 2))
    polynomial = pixel_polynomials(coefficients, frame, origin, unit)
    assert polynomial.shape == (tiles, 1 + len(SURFACE_POWERS))
    for tile in range(tiles):
        pixel = rng.uniform(-0.5, 0.5, (40, 2)) * frame.shape[tile, ::-1]
        place = (pixel @ frame.jacobian[tile].T + frame.centre[tile] - origin[tile]) / unit
        direct = surface_basis(place) @ coefficients[tile]
        powers = np.prod(pixel[:, None] ** PIXEL_POWERS, axis=-1)
        np.testing.assert_allclose(powers @ polynomial[tile], direct, rtol=1e-6, atol=1e-6)


def test_terms_of_higher_order_have_no_mean_and_no_slope() -> None:
    """Over a square tile the terms of a surface are orthogonal."""
    node, weight = np.polynomial.legendre.leggauss(6)
    place = np.stack(np.meshgrid(node, node), axis=-1)
    basis = np.column_stack([np.ones(36), surface_basis(place).reshape(36, -1)])
    product = (basis * np.outer(weight, weight).reshape(36, 1)).T @ basis
    np.testing.assert_allclose(product - np.diag(np.diag(product)), 0, atol=1e-12)


def scored(values: np.ndarray, noise: np.ndarray, first: float) -> float:
    """Iterate the scoring of the variance of terms, each measured with some noise."""
    variance = first
    for _ in range(200):
        if variance == 0:
            break
        precision = 1 / variance + 1 / noise**2
        posterior = values / noise**2 / precision
        variance, evident = scored_variance(variance, posterior**2, 1 / precision)
        if not evident:
            return 0.0
    return variance


@pytest.mark.parametrize("first", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
def test_scoring_recovers_a_variance(spread: float, first: float) -> None:
    """It is the estimate of maximum likelihood, from any first value that is not far too small."""
    rng = np.random.default_rng(8)
    noise = rng.uniform(0.5, 1.0, 4000)
    values = spread * rng.normal(size=4000) + noise * rng.normal(size=4000)
    assert scored(values, noise, first) == pytest.approx(spread**2, rel=0.1)


def test_scoring_finds_no_variance_in_noise() -> None:
    """Nor in few terms that noise explains; at most a tenth of the noise's in one of ten sets."""
    rng, found = np.random.default_rng(9), []
    for _ in range(60):
        noise = np.ones(60)
        found.append(scored(rng.normal(size=60), noise, 1.0))
    assert np.mean(np.array(found) > 0) <= 0.1
