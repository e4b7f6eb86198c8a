"""Invented mosaics: gains, surfaces and illumination are found, with honest errors."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.mosaics import InventedMosaic
from tests.helpers.pairs import flatten, pair_line, patches_of, without_gain
from zemosaic.photometry.illumination import TERMS, Instruments
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS
from zemosaic.photometry.solver import alternatives, hierarchy, hierarchy_solver
from zemosaic.photometry.solver.hierarchy_solver import HierarchySolver
from zemosaic.photometry.solver.pair_rows import State
from zemosaic.photometry.solver.solve import Solution, solve
from zemosaic.photometry.solver.spreads import USUAL_GAIN, Spreads, scored_variance
from zemosaic.photometry.solver.surfaces import ORDERS, SURFACE_POWERS

SEEDS = range(4)


def gain_errors(mosaic: InventedMosaic, solution: Solution) -> np.ndarray:
    """Return the errors of log-gains about their mean."""
    error = np.log(solution.gain[:, 0] / mosaic.gain)
    return error - error.mean()


def rms(values: object) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def without_trend(mosaic: InventedMosaic, values: np.ndarray) -> np.ndarray:
    """Subtract a plane on the sky: a slope of F has nearly the effect of a slope of the gains."""
    design = np.column_stack([np.ones(mosaic.tiles), mosaic.centre])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def matched_levels(mosaic: InventedMosaic, solution: Solution) -> np.ndarray:
    """Return the differences ``(P, 16)`` of corrected tiles in the overlaps, without noise."""
    differences = []
    for i, j, (line,) in zip(mosaic.i, mosaic.j, mosaic.measure(), strict=True):
        place = patches_of(line)[:, :2]
        first, second = (
            corrected(mosaic, solution, k, place, mosaic.data(k, place)) for k in (i, j)
        )
        differences.append(second - first)
    return np.array(differences)


def corrected(
    mosaic: InventedMosaic,
    solution: Solution,
    tile: int,
    place: np.ndarray,
    data: np.ndarray,
    first: int = 0,
) -> np.ndarray:
    """Return corrected data of a tile at places ``(n, 2)`` in cells.

    `first` is the index of the mosaic's first tile in the solution.
    """
    correction = solution.correction(first + tile)
    x, y = ((place - mosaic.centre[tile]) * mosaic.cell).T
    flat, glow = 1.0, 0.0
    if correction.illumination is not None:
        half = mosaic.half * mosaic.cell
        flat, glow = (values[0] for values in correction.illumination.at(x / half[0], y / half[1]))
    surface = sum(
        getattr(correction, name)[0] * x**a * y**b for name, (a, b) in SURFACE_POWERS.items()
    )
    bias = correction.bias[0]
    level = correction.gain[0] * (data - glow) + correction.offset[0] - bias
    return np.asarray(level / flat + bias + surface)


def test_noise_alone_gives_no_surfaces_and_no_illumination() -> None:
    """Gains are found with honest errors, and no other term is."""
    deviations = []
    for seed in SEEDS:
        mosaic = InventedMosaic(5, seed)
        solution = mosaic.solve()
        assert not solution.illuminations
        assert not solution.planes.any()
        for name in SURFACE_POWERS:
            assert not getattr(solution, name).any()
        deviations.append(gain_errors(mosaic, solution) / solution.gain_err[:, 0])
    assert 0.8 < rms(deviations) < 1.2


def test_gradients_of_the_tiles_are_found() -> None:
    """Slopes of 5 ADU are found up to one that is common to all tiles, and match the tiles."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(5, seed, slope=5.0)
        solution = mosaic.solve()
        assert solution.planes.all()
        assert not solution.illuminations
        assert np.sqrt(solution.spreads[0].surface[0]) == pytest.approx(5, rel=0.4)
        slopes = np.column_stack([solution.slope_x, solution.slope_y])
        error = slopes * mosaic.cell * mosaic.unit - mosaic.surface[:, :2]
        assert (error - error.mean(axis=0)).std() < 1
        assert rms(gain_errors(mosaic, solution)) < 5e-3
        assert rms(matched_levels(mosaic, solution)) < 0.3


def test_gradients_alone_are_no_illumination_and_no_glow() -> None:
    """All surfaces would lean towards a chance one, and the mosaic become a bowl."""
    for seed in range(4, 16):
        (found,) = InventedMosaic(8, seed, slope=5.0).solve().spreads
        assert not found.log_flat.any()
        assert not found.glow.any()


def test_a_trend_of_the_gains_is_no_illumination() -> None:
    """Gains that rise across the mosaic are found under a dark sky, if no light falls off."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(8, seed, sky=5.0, level=1.0, structure=3.0, level_err=0.03)
        mosaic.gain *= np.exp(0.3 * mosaic.centre[:, 0] / np.ptp(mosaic.centre[:, 0]))
        solution = mosaic.solve()
        assert not solution.spreads[0].log_flat.any()
        assert rms(gain_errors(mosaic, solution) / solution.gain_err[:, 0]) < 1.5


def test_a_trend_of_the_gains_is_no_slope_of_an_illumination() -> None:
    """Gains that drift by 40 % across the mosaic are found behind a vignetting as well."""
    deviations = []
    for seed in SEEDS:
        mosaic = InventedMosaic(8, seed, corner=0.1)
        x = mosaic.centre[:, 0]
        mosaic.gain = np.exp(0.2 * np.log(mosaic.gain) + 0.4 * (x - x.mean()) / np.ptp(x))
        solution = mosaic.solve()
        steps = 2 * mosaic.half[0] / np.ptp(x)
        assert 2 * np.sqrt(2 * solution.spreads[0].trend) == pytest.approx(0.4 * steps, rel=0.3)
        error = gain_errors(mosaic, solution)
        assert rms(error) < 0.06
        deviations.append(error / solution.gain_err[:, 0])
    assert 0.4 < rms(deviations) < 1.8


@pytest.mark.parametrize("instruments", [1, 2])
def test_an_illumination_is_found(instruments: int) -> None:
    """Vignetting off the centre of each instrument, with gains and levels, with honest errors."""
    deviations, losses = [], []
    for seed in SEEDS:
        mosaic = InventedMosaic(5, seed, corner=0.2, instruments=instruments)
        solution = mosaic.solve()
        assert [light.name for light in solution.illuminations] == list(mosaic.instruments.names)
        assert not solution.planes.any()
        error = gain_errors(mosaic, solution)
        deviations.append(error / solution.gain_err[:, 0])
        assert rms(without_trend(mosaic, error)) < 2e-3 * instruments
        assert rms(matched_levels(mosaic, solution)) < 0.5
        for number, light in enumerate(solution.illuminations):
            assert light.tiles.tolist() == np.flatnonzero(mosaic.labels == number).tolist()
            loss, _ = light.corner_loss(0)
            truth, _ = replace(light, log_flat=mosaic.log_flat[number][None]).corner_loss(0)
            losses.append(loss - truth)
    assert 0.4 < rms(deviations) < 1.8  # few trends, each common to all tiles
    assert np.abs(losses).max() < 8e-3


@pytest.mark.parametrize("terms", [{}, {"slope": 5.0}, {"slope": 5.0, "corner": 0.2}], ids=str)
def test_errors_of_seams_are_honest(terms: dict[str, float]) -> None:
    """Corrected tiles differ in their overlaps by as much as the errors of the seams admit."""
    deviations = []
    for seed in SEEDS:
        mosaic = InventedMosaic(5, seed, **terms)
        solution = mosaic.solve()
        seam = matched_levels(mosaic, solution).mean(axis=1)
        deviations.append(seam / solution.seam_err[:, 0])
    assert 0.85 < rms(deviations) < 1.2
    assert np.abs(deviations).max() < 5


def test_errors_of_offsets_are_honest() -> None:
    """A trend of the gains that a slope of F hides moves offsets less than levels."""
    deviations = []
    for seed in SEEDS:
        mosaic = InventedMosaic(5, seed, corner=0.2, slope=5.0)
        solution = mosaic.solve()
        factor = np.exp(np.log(solution.gain[:, 0] / mosaic.gain).mean())
        error = solution.offset[:, 0] - factor * mosaic.offset
        deviations.append((error - error.mean()) / solution.offset_err[:, 0])
    assert 0.5 < rms(deviations) < 1.8  # few trends, each common to all tiles


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_gains_do_not_hang_on_equal_skies(share: float) -> None:
    """Overlaps show gains to 30 %, or not at all; the light that F takes, if skies are equal."""
    pulls = []
    for seed in SEEDS:
        mosaic = InventedMosaic(
            6, seed, gain=0.09, sky=2e4, own_bias=1000.0, corner=0.1, slope=100.0,
            gain_err=0.3, level_err=1.5,
        )  # fmt: skip
        dark = mosaic.rng.uniform(size=len(mosaic.i)) < share
        lines = [
            [without_gain(line)] if none else [line]
            for none, (line,) in zip(dark, mosaic.measure(), strict=True)
        ]
        given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
        solution = solve(mosaic.i, mosaic.j, lines, mosaic.sky(), "auto", **given)
        known = np.isfinite(solution.gain_err[:, 0])
        error = np.log(solution.gain[:, 0] / mosaic.gain)[known]
        pulls.append((error - error.mean()) / solution.gain_err[known, 0])
    assert 0.6 < rms(np.concatenate(pulls)) < 1.6


def test_a_suspect_does_not_enlarge_the_errors_of_others() -> None:
    """The gauge holds a median level, which does not depend on how wrong one tile is."""
    deviations = []
    for seed in SEEDS:
        mosaic = InventedMosaic(4, seed)
        mosaic.surface[5] = 150 * mosaic.rng.normal(size=mosaic.surface.shape[1])
        solution, sound = mosaic.solve(), np.arange(mosaic.tiles) != 5
        assert np.flatnonzero(solution.suspect[:, 0]).tolist() == [5]
        factor = np.exp(np.log(solution.gain[sound, 0] / mosaic.gain[sound]).mean())
        error = (solution.offset[:, 0] - factor * mosaic.offset)[sound]
        deviations.append((error - np.median(error)) / solution.offset_err[sound, 0])
    assert 0.7 < rms(deviations) < 1.3


@pytest.mark.parametrize(("corner", "growth"), [(0.0, 3.0), (0.2, 1.25)])
def test_an_illumination_explains_errors_of_levels(corner: float, growth: float) -> None:
    """Where F bends the lines of pairs, levels have the errors that the solution shows."""
    seams = []
    for claimed in (1, 3):
        mosaic = InventedMosaic(8, corner=corner)
        lines = [
            [replace(line, patches=flatten(patches_of(line) / weights_grow(claimed)))]
            for (line,) in mosaic.measure()
        ]
        given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
        solution = solve(mosaic.i, mosaic.j, lines, mosaic.sky(), "auto", **given)
        seams.append(np.median(solution.seam_err))
    assert seams[1] / seams[0] == pytest.approx(growth, rel=0.15)


def weights_grow(errors: float) -> np.ndarray:
    """Return factors ``(11,)`` on the numbers of a patch whose level has errors so much larger."""
    factors = np.ones(PATCH_NUMBERS)
    factors[7] = errors**2
    return factors


@pytest.mark.parametrize("corner", [0.0, 0.2])
@pytest.mark.parametrize("size", [5.0, 30.0])
def test_a_glow_is_found_beside_an_illumination(corner: float, size: float) -> None:
    """A glow of 19 or 117 ADU, off the centre, is no part of F, and the tiles match."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(5, seed, corner=corner)
        degrees = [(2, 0), (0, 2), (1, 0), (0, 3)]
        terms = [TERMS.tolist().index(list(degree)) for degree in degrees]
        mosaic.glow[0, terms] = size * np.array([1.0, 1.0, 0.5, 1 / 3])
        solution = mosaic.solve()
        (light,) = solution.illuminations
        assert bool(light.log_flat.any()) == (corner > 0)
        truth, _ = replace(light, glow=mosaic.glow).glow_range(0)
        found, error = light.glow_range(0)
        assert found == pytest.approx(truth, abs=max(4 * error, 0.03 * truth))
        assert rms(matched_levels(mosaic, solution)) < 0.2


@pytest.mark.parametrize(
    ("growth", "likelier", "better"), [(1.0, False, True), (4.0, False, False), (4.0, True, True)]
)
def test_a_glow_that_takes_gains_apart_is_none(growth: float, likelier: bool, better: bool) -> None:
    """It explains what levels leave, but with gains that nothing else shows."""

    def fit(gain: float, excess: float, glow: float) -> Any:
        none = Spreads(gain, np.zeros(4), np.zeros(3), np.full(3, glow), level_excess=excess)
        return SimpleNamespace(spreads=none, residuals=SimpleNamespace(gain_chi=np.ones(5)))

    without, with_glow = fit(1e-3, 10.0, 0.0), fit(growth * 1e-3, 0.0, 4.0)
    assert alternatives.explains_more(with_glow, without, lambda: likelier) == better


def test_a_glow_is_no_illumination_if_few_stars_show_the_gains() -> None:
    """With gains of nearly 1 an illumination describes it as well, but the pairs do not."""
    for seed in SEEDS:
        mosaic = InventedMosaic(6, seed, gain=0.09, gain_err=0.05, level_err=0.03, structure=3.0)
        mosaic.glow[0, [TERMS.tolist().index([1, 0]), TERMS.tolist().index([2, 0])]] = 30.0
        solution = mosaic.solve()
        (light,) = solution.illuminations
        assert not light.log_flat.any()
        assert rms(gain_errors(mosaic, solution) / solution.gain_err[:, 0]) < 1.4


def test_gradients_and_illumination_are_separated() -> None:
    """With both, F and the slopes are found."""
    mosaic = InventedMosaic(5, 1, corner=0.2, slope=5.0)
    solution = mosaic.solve()
    assert solution.planes.all()
    loss, error = solution.illuminations[0].corner_loss(0)
    truth, _ = replace(solution.illuminations[0], log_flat=mosaic.log_flat[:1]).corner_loss(0)
    assert loss == pytest.approx(truth, abs=4 * error)
    assert rms(matched_levels(mosaic, solution)) < 0.5


def test_a_bias_that_is_left_does_not_spoil_the_illumination() -> None:
    """F acts on light alone, so 300 ADU of 1000 that are no light leave F as it is."""
    mosaic = InventedMosaic(5, 1, corner=0.2, bias=300.0)
    solution = mosaic.solve()
    (light,) = solution.illuminations
    assert solution.bias == pytest.approx(300, abs=60)
    truth, _ = replace(light, log_flat=mosaic.log_flat).corner_loss(0)
    loss, error = light.corner_loss(0)
    assert loss == pytest.approx(truth, abs=max(4 * error, 5e-3))
    assert rms(matched_levels(mosaic, solution)) < 0.5


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_brighter_skies_lose_more_light(slope: float) -> None:
    """F acts on the sky of each tile, which differs by 10 %; gains and errors are right."""
    gains, levels = [], []
    for seed in SEEDS:
        mosaic = InventedMosaic(6, seed, corner=0.2, own_bias=100.0, slope=slope)
        solution = mosaic.solve()
        found = np.sqrt(solution.spreads[0].own_bias)
        assert found == pytest.approx(mosaic.bias.std(), rel=0.2)
        assert (solution.bias[:, 0] - mosaic.bias).std() < 15
        gains.append(gain_errors(mosaic, solution) / solution.gain_err[:, 0])
        levels.append(matched_levels(mosaic, solution))
    assert 0.6 < rms(gains) < 1.3
    assert rms(levels) < 0.2


def test_tiles_without_stars_do_not_spoil_an_illumination() -> None:
    """A third of the tiles has no measured gain; F and the gains of all others are right."""
    pulls = []
    for seed in SEEDS:
        mosaic = InventedMosaic(6, seed, gain=0.09, corner=0.2)
        dark = mosaic.rng.permutation(mosaic.tiles) < mosaic.tiles // 3
        lines = [
            [without_gain(line)] if dark[i] or dark[j] else [line]
            for i, j, (line,) in zip(mosaic.i, mosaic.j, mosaic.measure(), strict=True)
        ]
        given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
        solution = solve(mosaic.i, mosaic.j, lines, mosaic.sky(), "auto", **given)
        (light,) = solution.illuminations
        truth, _ = replace(light, log_flat=mosaic.log_flat).corner_loss(0)
        assert light.corner_loss(0)[0] == pytest.approx(truth, abs=0.01)
        known = np.isfinite(solution.gain_err[:, 0])
        error = np.log(solution.gain[:, 0] / mosaic.gain)
        pulls.append((error - error[known].mean())[known] / solution.gain_err[known, 0])
        assert rms(matched_levels(mosaic, solution)) < 0.3
    assert rms(np.concatenate(pulls)) < 1.3


def test_the_error_of_a_suspect_includes_the_trend() -> None:
    """It is no smaller than that of its neighbours, which drift with it from a distant anchor."""
    for seed in (0, 2, 4):
        mosaic = InventedMosaic(6, seed, corner=0.2, slope=5.0)
        mosaic.surface[1] = 150 * mosaic.rng.normal(size=mosaic.surface.shape[1])
        mosaic.offset[1] += 300
        solution = mosaic.solve(anchor=35)
        assert np.flatnonzero(solution.suspect[:, 0]).tolist() == [1]
        assert solution.gain_err[1, 0] > 0.9 * solution.gain_err[[0, 2, 6, 7, 8], 0].mean()


@pytest.mark.parametrize("changes", [{}, {"slope": 5.0}])
def test_equal_skies_stay_equal(changes: dict[str, float]) -> None:
    """No tile has a bias of its own if none is needed, and gains are as true as without them."""
    for seed in SEEDS:
        mosaic = InventedMosaic(6, seed, corner=0.2, **changes)
        assert mosaic.solve().spreads[0].own_bias == 0


@pytest.mark.parametrize("changes", [{}, {"corner": 0.2}, {"corner": 0.2, "own_bias": 100.0}])
def test_an_anchor_keeps_its_values(changes: dict[str, float]) -> None:
    """Gain 1 and offset 0; all tiles are as without an anchor, but for its units."""
    mosaic = InventedMosaic(4, 3, slope=5.0, **changes)
    lines, sky = mosaic.measure(), mosaic.sky()
    given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
    free = solve(mosaic.i, mosaic.j, lines, sky, "auto", **given)
    anchored = solve(mosaic.i, mosaic.j, lines, sky, "auto", anchor=5, **given)
    assert (anchored.gain[5, 0], anchored.offset[5, 0]) == (1.0, pytest.approx(0.0, abs=1e-9))
    assert (anchored.gain_err[5, 0], anchored.offset_err[5, 0]) == (0, 0)
    place = mosaic.centre[:, None] + np.array([[-20.0, 0.0], [0.0, 0.0], [15.0, 25.0]])
    values = np.array([
        [corrected(mosaic, s, k, p, mosaic.data(k, p)) for k, p in enumerate(place)]
        for s in (free, anchored)
    ]).reshape(2, -1)  # fmt: skip
    unit = 1 / free.gain[5, 0]
    assert anchored.gain == pytest.approx(unit * free.gain, rel=1e-12)
    assert np.ptp(values[1] - unit * values[0]) < 1e-8


@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_errors_relative_to_an_anchor_are_honest(drift: float) -> None:
    """Tiles far from an anchor at the corner own to the trend that an illumination leaves free."""
    gains, offsets = [], []
    for seed in SEEDS:
        mosaic = InventedMosaic(7, seed, corner=0.2)
        mosaic.gain *= np.exp(drift * mosaic.centre[:, 0] / np.ptp(mosaic.centre[:, 0]))
        solution = mosaic.solve(anchor=0)
        gain = mosaic.gain / mosaic.gain[0]
        offset = (mosaic.offset - mosaic.offset[0]) / mosaic.gain[0]
        gains.append((solution.gain[:, 0] - gain)[1:] / solution.gain_err[1:, 0])
        offsets.append((solution.offset[:, 0] - offset)[1:] / solution.offset_err[1:, 0])
    assert 0.6 < rms(gains) < 1.3
    assert 0.6 < rms(offsets) < 1.3


def test_equal_gains_stay_equal_in_poor_overlaps() -> None:
    """Pairs that know gains to 10 % make those of equal tiles wrong by 1 % at most, as claimed."""
    errors, claims = [], []
    for seed in SEEDS:
        mosaic = InventedMosaic(4, seed, gain=0.0, level=0.0, gain_err=0.1, structure=0.0)
        solution = mosaic.solve()
        errors.append(gain_errors(mosaic, solution))
        claims.append(solution.gain_err[:, 0])
    assert rms(errors) < 0.012
    assert 0.004 < np.median(claims) < 0.02


def solve_islands(
    first: InventedMosaic, second: InventedMosaic, anchor: int | None = None
) -> Solution:
    """Solve two mosaics of 16 tiles with one instrument that do not overlap."""
    frame = replace(
        first.frame,
        centre=np.concatenate([first.centre, second.centre + 1e4]),
        jacobian=np.concatenate([first.frame.jacobian, second.frame.jacobian]),
        shape=np.concatenate([first.frame.shape, second.frame.shape]),
    )
    second_lines = second.measure()
    moved = []
    for (line,) in second_lines:
        patches = np.array(line.patches).reshape(16, PATCH_NUMBERS)
        patches[:, :2] += 1e4
        moved.append([replace(line, patches=tuple(patches.ravel().tolist()))])
    return solve(
        np.r_[first.i, second.i + 16], np.r_[first.j, second.j + 16],
        [*first.measure(), *moved], np.concatenate([first.sky(), second.sky()]), "auto", anchor,
        frame=frame, instruments=Instruments(np.zeros(32, dtype=int), ("camera 0",)),
    )  # fmt: skip


def test_islands_are_solved_separately() -> None:
    """Two mosaics with one instrument have one F, and a gauge each."""
    first, second = (InventedMosaic(4, seed, corner=0.2) for seed in (1, 2))
    solution = solve_islands(first, second)
    assert solution.component[:, 0].tolist() == [0] * 16 + [1] * 16
    for mosaic, part in ((first, slice(16)), (second, slice(16, None))):
        log_gain = np.log(solution.gain[part, 0])
        assert log_gain.mean() == pytest.approx(0, abs=1e-9)
        error = log_gain - np.log(mosaic.gain)
        assert rms(without_trend(mosaic, error)) < 3e-3
    (light,) = solution.illuminations
    truth, _ = replace(light, log_flat=first.log_flat).corner_loss(0)
    loss, error = light.corner_loss(0)
    assert loss == pytest.approx(truth, abs=4 * error)


def test_an_anchor_leaves_other_islands_as_they_are() -> None:
    """Their gains are relative to themselves, and their tiles match as well as its own."""
    free, anchored = (
        solve_islands(*(InventedMosaic(4, seed, corner=0.2, bias=200.0) for seed in (1, 2)), anchor)
        for anchor in (None, 5)
    )
    assert (anchored.gain[5, 0], anchored.offset[5, 0]) == (1.0, pytest.approx(0.0, abs=1e-9))
    for first, unit in ((0, 1 / free.gain[5, 0]), (16, 1.0)):
        mosaic = InventedMosaic(4, 1 + first // 16, corner=0.2, bias=200.0)
        place = mosaic.centre[:, None] + np.array([[-20.0, 0.0], [0.0, 0.0], [15.0, 25.0]])
        before, after = (
            [corrected(mosaic, s, k, p, mosaic.data(k, p), first) for k, p in enumerate(place)]
            for s in (free, anchored)
        )
        assert np.ptp(np.array(after) - unit * np.array(before)) < 1e-8


def test_the_sizes_of_a_sample_of_tiles_serve_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """196 tiles have the gains of the full estimate within a third of their errors."""
    mosaic = InventedMosaic(14, 1, slope=5.0, corner=0.1)
    lines, sky = mosaic.measure(), mosaic.sky()
    given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
    sampled = solve(mosaic.i, mosaic.j, lines, sky, "auto", **given)
    monkeypatch.setattr(hierarchy, "SAMPLE", 1000)
    full = solve(mosaic.i, mosaic.j, lines, sky, "auto", **given)
    change = np.log(sampled.gain / full.gain)[:, 0]
    assert rms(change - change.mean()) < rms(full.gain_err) / 3
    assert sampled.gain_err == pytest.approx(full.gain_err, rel=0.5)
    assert rms(matched_levels(mosaic, sampled)) < 0.5


def test_part_of_the_pairs_of_a_sample_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes by two thirds of the pairs change gains by less than a third of their errors."""
    mosaic = InventedMosaic(14, 1, slope=5.0, corner=0.1)
    lines, sky = mosaic.measure(), mosaic.sky()
    given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
    full = solve(mosaic.i, mosaic.j, lines, sky, "auto", **given)
    samples, choose = [], hierarchy.sample_pairs
    monkeypatch.setattr(hierarchy, "SAMPLE_PAIRS", 150)
    monkeypatch.setattr(
        hierarchy, "sample_pairs", lambda channel: samples.append(choose(channel)) or samples[-1]
    )
    part = solve(mosaic.i, mosaic.j, lines, sky, "auto", **given)
    assert [sample.sum() for sample in samples] == [150]
    change = np.log(part.gain / full.gain)[:, 0]
    assert 0 < rms(change - change.mean()) < rms(full.gain_err) / 3


def test_the_last_rounds_change_nothing_beside_the_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Further rounds change no gain and no offset by more than a twentieth of its error."""
    mosaic = InventedMosaic(10, 3)
    lines, sky, rng = mosaic.measure(), mosaic.sky(), np.random.default_rng(5)
    for k in range(len(lines)):  # at all distances from the border of outliers
        (line,) = lines[k]
        lines[k] = [replace(line, gain=line.gain * np.exp(line.gain_err * rng.standard_t(1.5)))]
    ended = solve(mosaic.i, mosaic.j, lines, sky, "gain+offset")
    monkeypatch.setattr(hierarchy_solver, "STEADY", 1e-9)
    further = solve(mosaic.i, mosaic.j, lines, sky, "gain+offset")
    assert (np.abs(further.gain - ended.gain) < ended.gain_err / 20).all()
    assert (np.abs(further.offset - ended.offset) < ended.offset_err / 20).all()


def test_a_bad_tile_of_many_is_found_near_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 196 tiles contradicts all others: it alone is left out, after a search of a part."""
    searches, find = [], hierarchy.find_doubtful

    def find_and_keep(solver: HierarchySolver, state: State, spreads: Spreads) -> State:
        searches.append(solver)
        return find(solver, state, spreads)

    monkeypatch.setattr(hierarchy, "find_doubtful", find_and_keep)
    mosaic, bad = InventedMosaic(14, 2), 90
    lines, rng = mosaic.measure(), np.random.default_rng(4)
    for k in np.flatnonzero((mosaic.i == bad) | (mosaic.j == bad)):
        (line,) = lines[k]
        patches, cloud = patches_of(line), rng.uniform(20, 60)
        patches[:, 3] += cloud
        gain = line.gain * rng.uniform(0.7, 0.9)
        lines[k] = [replace(line, gain=gain, y=line.y + cloud, patches=tuple(patches.ravel()))]
    solution = solve(
        mosaic.i, mosaic.j, lines, mosaic.sky(), "auto", frame=mosaic.frame,
        instruments=mosaic.instruments,
    )  # fmt: skip
    (search,) = searches
    assert np.flatnonzero(search.doubtful).tolist() == [bad]
    assert len(search.channel.pairs.i) < len(mosaic.i) / 2
    assert np.flatnonzero(solution.suspect).tolist() == [bad]
    sound = np.arange(mosaic.tiles) != bad
    pull = gain_errors(mosaic, solution)[sound] / (solution.gain_err / solution.gain)[sound, 0]
    assert 0.5 < rms(pull) < 1.5


def test_the_same_measurements_give_the_same_bits() -> None:
    """Solved twice, all terms are equal bit by bit."""
    mosaic = InventedMosaic(4, 1, slope=5.0, corner=0.2)
    lines, sky = mosaic.measure(), mosaic.sky()
    given = {"frame": mosaic.frame, "instruments": mosaic.instruments}
    one, two = (solve(mosaic.i, mosaic.j, lines, sky, "auto", **given) for _ in range(2))
    for name, values in vars(one).items():
        if isinstance(values, np.ndarray):
            assert values.tobytes() == getattr(two, name).tobytes(), name
    assert one.illuminations[0].digest == two.illuminations[0].digest


def test_a_pair_without_patches_is_none() -> None:
    """A pair in which no level was measured joins gains alone."""
    line = replace(pair_line(1.1, 100.0, 110.0), patches=flatten(np.zeros((0, PATCH_NUMBERS))))
    solution = solve(np.array([0]), np.array([1]), [[line]], np.array([[100.0], [110.0]]))
    assert np.isfinite(solution.gain).all()
    assert solution.gain[0, 0] / solution.gain[1, 0] == pytest.approx(1.1, rel=0.01)


def test_surfaces_of_fourth_order_are_found() -> None:
    """Light that falls to one side by orders is found to the fourth, and the tiles match."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(5, seed)
        size = np.array([50.0, 25.0, 12.0, 6.0])[ORDERS - 1]
        mosaic.surface = mosaic.rng.normal(size=mosaic.surface.shape) * size
        solution = mosaic.solve()
        found = np.sqrt(solution.spreads[0].surface)
        assert found == pytest.approx([50, 25, 12, 6], rel=0.4)
        assert rms(matched_levels(mosaic, solution)) < 0.3
        assert rms(gain_errors(mosaic, solution) / solution.gain_err[:, 0]) < 1.5


def test_surfaces_without_gradients_are_found() -> None:
    """Second order alone is found, and the tiles match."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(5, seed)
        mosaic.surface = 30.0 * mosaic.rng.normal(size=mosaic.surface.shape) * (ORDERS == 2)
        solution = mosaic.solve()
        gradient, second, *higher = np.sqrt(solution.spreads[0].surface)
        assert second == pytest.approx(30, rel=0.2)
        assert max(gradient, *higher) < 1
        assert rms(matched_levels(mosaic, solution)) < 0.3
        assert rms(gain_errors(mosaic, solution) / solution.gain_err[:, 0]) < 1.5


@pytest.mark.parametrize(("side", "size"), [(5, 3.0), (8, 60.0)])
@pytest.mark.parametrize("orders", [(1, 2, 3, 4), (2, 3), (3,), (3, 4)], ids=str)
def test_structure_smaller_than_a_tile_is_no_surface(
    orders: tuple[int, ...], side: int, size: float
) -> None:
    """Surfaces of high orders are scatter of the levels, and gains keep honest errors."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(side, seed)
        mosaic.surface = size * mosaic.rng.normal(size=mosaic.surface.shape)
        mosaic.surface *= np.isin(ORDERS, orders)
        solution = mosaic.solve()
        assert not solution.spreads[0].surface.any()
        assert solution.spreads[0].level_excess > 0
        assert rms(gain_errors(mosaic, solution) / solution.gain_err[:, 0]) < 1.5


@pytest.mark.parametrize("seed", [1, 2])
def test_rounds_that_diverge_raise_no_warnings(seed: int) -> None:
    """Gains that structure drives away end an attempt before any exponential overflows."""
    mosaic = InventedMosaic(6, seed, corner=0.1)
    mosaic.surface = 30.0 * mosaic.rng.normal(size=mosaic.surface.shape)
    mosaic.surface *= np.isin(ORDERS, (3, 4))
    assert np.abs(gain_errors(mosaic, mosaic.solve())).max() < 0.1


def test_pairs_without_trust_do_not_hide_the_scatter_of_levels() -> None:
    """Where most pairs may show another sky, the others tell the structure of the tiles."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(6, seed)
        mosaic.surface = 3.0 * mosaic.rng.normal(size=mosaic.surface.shape)
        different = (mosaic.i % 6 < 3) | (mosaic.j % 6 < 3)
        assert different.mean() > 0.5
        solution = mosaic.solve(different=different)
        found = solution.spreads[0]
        assert found.level_excess > 1 or np.sqrt(found.surface[0]) == pytest.approx(3, rel=0.5)
        assert found.gain < 0.1**2
        known = np.isfinite(solution.gain_err[:, 0])
        error = np.log(solution.gain[:, 0] / mosaic.gain)
        error -= error[known].mean()
        assert rms((error / solution.gain_err[:, 0])[known]) < 1.5


def test_the_bias_does_not_shrink_a_fine_illumination() -> None:
    """An illumination with terms up to the fourth degree has its size, and no bias."""
    for seed in SEEDS[:2]:
        mosaic = InventedMosaic(5, seed)
        fine = TERMS.sum(axis=1) <= 4
        mosaic.log_flat[0, fine] = 0.006 * mosaic.rng.normal(size=np.count_nonzero(fine))
        solution = mosaic.solve()
        (light,) = solution.illuminations
        curved = fine & (TERMS.sum(axis=1) > 1)
        assert light.log_flat[0, curved] == pytest.approx(mosaic.log_flat[0, curved], abs=2e-3)


def test_the_slopes_of_a_fine_illumination_are_as_large_as_its_cubic_terms() -> None:
    """No overlap tells them from a trend of the gains, so their errors must allow for it."""
    pulls = []
    for seed in range(8):
        mosaic = InventedMosaic(6, seed)
        fine = TERMS.sum(axis=1) <= 4
        mosaic.log_flat[0, fine] = 0.006 * mosaic.rng.normal(size=np.count_nonzero(fine))
        (light,) = mosaic.solve().illuminations
        error = np.sqrt(light.log_flat_cov[0].diagonal()[:2])
        pulls.append((light.log_flat - mosaic.log_flat)[0, :2] / error)
    assert 0.5 < rms(pulls) < 1.5


def scatter_of(true: float, error: float) -> float:
    """Return the scatter that is estimated for log-gains of 400 tiles with known errors."""
    measured = np.random.default_rng(5).normal(0, np.hypot(true, error), 400)
    variance = USUAL_GAIN**2
    for _ in range(60):
        known = variance / (variance + error**2)
        squares, errors = np.square(known * measured), np.full(400, known * error**2)
        variance, _ = scored_variance(variance, squares, errors, usual=USUAL_GAIN**2)
    return float(np.sqrt(variance))


@pytest.mark.parametrize(("true", "error"), [(0.013, 0.025), (0.08, 0.02), (0.3, 0.01)])
def test_the_scatter_of_gains_is_that_of_the_tiles(true: float, error: float) -> None:
    """A usual scatter decides only where overlaps show none."""
    assert scatter_of(true, error) == pytest.approx(true, rel=0.15)
    assert scatter_of(true, 10.0) == pytest.approx(USUAL_GAIN, rel=0.5)


@pytest.mark.parametrize(
    ("orders", "excess", "orders_before", "excess_before", "simpler"),
    [
        ((), 0.0, (1,), 0.0, True),
        ((1, 2), 0.0, (1, 2), 0.0, False),
        ((2,), 0.0, (1, 2), 0.0, False),
        ((), 1.0, (1,), 2.0, True),
        ((1,), 0.0, (), 1.0, True),
        ((1, 2), 0.0, (), 1.0, False),
        ((2,), 0.0, (), 1.0, False),
        ((1, 2, 3), 0.0, (1, 2, 3), 1.0, True),
        ((), 1.0, (1, 2, 3, 4), 0.0, False),
        ((1,), 1.0, (), 2.0, False),
    ],
)
def test_a_fit_is_simpler_with_a_lower_order_or_no_excess(
    orders: tuple[int, ...],
    excess: float,
    orders_before: tuple[int, ...],
    excess_before: float,
    simpler: bool,
) -> None:
    """Planes may take the place of an excess, higher orders may not; no excess is new."""
    none = Spreads(0.1, np.zeros(4), np.zeros(3), np.zeros(3))
    again, before = (
        none.replace(surface=np.isin(np.arange(1, 5), found) * 1.0, level_excess=size)
        for found, size in ((orders, excess), (orders_before, excess_before))
    )
    assert hierarchy.is_simpler(again, before) == simpler


@pytest.mark.parametrize(
    ("beside", "before", "excess", "surface", "spoils"),
    [
        (60.0, 10.0, 0.0, 1.0, True),  # simpler
        (30.0, 100.0, 0.0, 1.0, False),
        (60.0, -1.0, 0.0, 1.0, False),
        (60.0, 10.0, 0.0, 1e3, False),  # with planes of far more light
        (60.0, 100.0, 0.5, 0.0, False),  # not simpler
        (200.0, 300.0, 0.5, 0.0, False),
        (100.0, 600.0, 0.5, 0.0, False),
        (200.0, 600.0, 0.5, 0.0, True),
        (200.0, 600.0, 3.0, 0.0, False),
    ],
)
def test_a_tile_spoils_a_fit_that_is_simpler_or_far_likelier_without_it(
    beside: float, before: float, excess: float, surface: float, spoils: bool
) -> None:
    """The scatter of the levels must not grow in any case."""
    fit = Spreads(0.1, np.zeros(4), np.zeros(3), np.zeros(3), level_excess=1.0)
    again = fit.replace(level_excess=excess, surface=np.array([surface, 0.0, 0.0, 0.0]))
    assert hierarchy.spoils(beside, before, again, fit) == spoils
