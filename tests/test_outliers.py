"""What is wrong with one tile stays with it, and what cannot be measured is said not to be.

Noise is the same with and without the fault, so that the shift of the solution is the fault's
work alone. It is held against what noise does anyway: for gains the errors reported without the
fault, for levels those of a pair.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from zemosaic import Settings, Tile, calibrate, tile_from_array
from zemosaic.photometry.overlap.graph import component_labels
from zemosaic.photometry.pairfit.measure import PairMeasurement
from zemosaic.photometry.simulate import Scene, SimulatedTile, compare, simulate
from zemosaic.photometry.solver.suspects import SUSPECT_CHI
from zemosaic.pipeline.solution import PhaseSolution

SCENE = Scene(tiles=12, shape=(192, 256), overlap=0.35, stars=3e-3)
MODELS = ("gain+offset", "auto")
SEEDS = (1, 2)
INNER = 4  # a tile with neighbours on all sides


@cache
def tiles_of(seed: int, **changes: Any) -> tuple[SimulatedTile, ...]:
    return tuple(simulate(replace(SCENE, seed=seed, **changes)))


def solve(tiles: Sequence[SimulatedTile], model: str, **options: Any) -> PhaseSolution:
    given = [tile_from_array(tile.data, tile.wcs, name=tile.name) for tile in tiles]
    return calibrate(given, Settings(model=model, **options), pool="threads", observers=[])


@cache
def clean(seed: int, model: str) -> PhaseSolution:
    return solve(tiles_of(seed), model)


def lines(found: PhaseSolution) -> list[PairMeasurement]:
    """What was measured of the first channel."""
    measured = [record.measurements[0] for record in found.records]
    return [line for line in measured if isinstance(line, PairMeasurement)]


def truth(tiles: Sequence[SimulatedTile], found: PhaseSolution) -> tuple[np.ndarray, np.ndarray]:
    """True gains and offsets in the gauge of a solution."""
    return compare(
        found, np.array([tile.gain for tile in tiles]), np.array([tile.offset for tile in tiles])
    )


def shifts(
    seed: int, model: str, found: PhaseSolution, but: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How far a fault moves gains and levels, in the errors that they have without it.

    `but` is a tile that does not count. Levels are those of the corrected skies.
    """
    tiles, before = tiles_of(seed), clean(seed, model)
    good = np.arange(len(tiles)) != but
    sky = np.array([np.median(tile.data) for tile in tiles])[good]
    log_gain = np.log(found.gain[good, 0] / before.gain[good, 0])
    common = np.exp(log_gain.mean())
    level = (found.gain[good, 0] / common - before.gain[good, 0]) * sky
    level += found.offset[good, 0] / common - before.offset[good, 0]
    unit = np.median([line.level_err for line in lines(before)])
    relative = (before.gain_err / before.gain)[good, 0]
    return (log_gain - log_gain.mean()) / relative, (level - level.mean()) / unit


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def assert_only_noise(gain: np.ndarray, level: np.ndarray) -> None:
    """A fault may move the others by less than noise does on the whole, and nobody by 3 errors."""
    for moved in (gain, level):
        assert rms(moved) < 1
        assert np.abs(moved).max() < 3


@cache
def left_out(seed: int, model: str, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Shifts of the others where a tile is not there at all."""
    tiles = tiles_of(seed)
    found = solve([*tiles[:tile], *tiles[tile + 1 :]], model)
    gain, offset = (np.insert(a, tile, 1.0, axis=0) for a in (found.gain, found.offset))
    return shifts(seed, model, replace(found, gain=gain, offset=offset), but=tile)


def assert_as_if_left_out(seed: int, model: str, found: PhaseSolution, tile: int) -> None:
    """What a bad tile takes from the others is no more than its pairs, which held them together."""
    without = left_out(seed, model, tile)
    for moved, allowed in zip(shifts(seed, model, found, but=tile), without, strict=True):
        assert rms(moved) < max(1.0, rms(allowed))
        assert np.abs(moved).max() < max(3.0, np.abs(allowed).max())


def with_trails(tiles: Sequence[SimulatedTile]) -> list[SimulatedTile]:
    """A satellite's trail of 400 ADU and 5 pixels across every third tile."""
    changed = list(tiles)
    for k in range(0, len(tiles), 3):
        rng = np.random.default_rng([9, k])
        h, w = tiles[k].data.shape
        y, x = np.mgrid[:h, :w]
        angle, (at_x, at_y) = rng.uniform(0, np.pi), rng.uniform(0.3, 0.7, 2) * [w, h]
        distance = (x - at_x) * np.sin(angle) - (y - at_y) * np.cos(angle)
        light = 400 * np.exp(-(distance**2) / 8)
        changed[k] = replace(tiles[k], data=tiles[k].data + light.astype(np.float32))
    return changed


def saturated(tiles: Sequence[SimulatedTile]) -> list[SimulatedTile]:
    """Everything above 2500 ADU is cut off, which is another level of the sky in each tile."""
    return [replace(tile, data=np.minimum(tile.data, np.float32(2500))) for tile in tiles]


def with_hot_columns(tiles: Sequence[SimulatedTile]) -> list[SimulatedTile]:
    """One column of every tile is brighter by 200 to 2000 ADU."""
    changed = []
    for k, tile in enumerate(tiles):
        rng, data = np.random.default_rng([8, k]), tile.data.copy()
        data[:, rng.integers(data.shape[1])] += rng.uniform(200, 2000)
        changed.append(replace(tile, data=data))
    return changed


def with_variable_star(tiles: Sequence[SimulatedTile]) -> list[SimulatedTile]:
    """A star of 1e5 ADU near a side of tile 4, three times as bright while that was exposed."""
    radec = tiles[INNER].wcs.all_pix2world([[25.0, 96.0]], 0)
    changed = []
    for k, tile in enumerate(tiles):
        h, w = tile.data.shape
        (x, y), sigma = tile.wcs.all_world2pix(radec, 0)[0], tile.fwhm / 2.3548
        rows, columns = np.mgrid[:h, :w]
        shape = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        flux = (3e5 if k == INNER else 1e5) / tile.gain[0]
        star = flux / (2 * np.pi * sigma**2) * shape
        changed.append(replace(tile, data=tile.data + star.astype(np.float32)))
    assert sum((a.data != b.data).any() for a, b in zip(tiles, changed, strict=True)) > 1
    return changed


def shifted_wcs(wcs: WCS, x: float, y: float) -> WCS:
    moved = wcs.deepcopy()
    moved.wcs.crpix = moved.wcs.crpix + np.array([x, y])
    moved.wcs.set()
    return moved


FAULTS = {
    "satellite trails": with_trails,
    "saturated stars": saturated,
    "hot columns": with_hot_columns,
    "variable star": with_variable_star,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model", MODELS)
def test_bad_pixels_change_less_than_noise_does(fault: str, seed: int, model: str) -> None:
    """Trails, saturation, hot columns and a variable star lose their weight; nobody is blamed."""
    found = solve(FAULTS[fault](tiles_of(seed)), model)
    assert_only_noise(*shifts(seed, model, found))
    assert not found.suspect.any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model", MODELS)
def test_a_cloud_stays_with_its_tile(model: str, seed: int) -> None:
    """A cloud takes up to 60 % of a tile's light and glows: that tile is named and no other moves.

    No gain and plane can mend it, hence its pairs contradict all others.
    """
    found = solve(tiles_of(seed, bad=True), model)
    assert np.flatnonzero(found.suspect[:, 0]).tolist() == [1]
    assert_as_if_left_out(seed, model, found, 1)


@cache
def everything_wrong(seed: int) -> tuple[SimulatedTile, ...]:
    scene = Scene(
        tiles=16, shape=(512, 512), overlap=0.3, seed=seed,
        gradient=True, trail=True, border=True, bad=True, sip=True,
    )  # fmt: skip
    return tuple(simulate(scene))


@pytest.mark.parametrize("seed", [2, 3])
def test_a_model_that_cannot_hold_gives_no_wild_gain(seed: int) -> None:
    """Gains and levels without planes where there are gradients: they contradict each other.

    Solved together they would run away, to 1e35 in the first of these skies.
    """
    tiles = everything_wrong(seed)
    found = solve(tiles, "gain+offset")
    gain, _ = truth(tiles, found)
    good = np.arange(len(tiles)) != 1
    error = np.log(found.gain[good, 0] / gain[good, 0])
    assert np.abs(error - np.median(error)).max() < 0.5


@pytest.mark.parametrize("seed", [3, 8, 13])
def test_trails_along_overlaps_do_not_bend_gains(seed: int) -> None:
    """Through a third of the tiles; gains are as true as in the same skies without trails.

    Those are 0.21, 0.30 and 0.32 %. With trails that merely lost their weight they were 0.47, 0.50
    and 0.66 %, by their faint edges and their share of the scene.
    """
    tiles = everything_wrong(seed)
    found = solve(tiles, "auto")
    gain, _ = truth(tiles, found)
    good = np.arange(len(tiles)) != 1
    error = np.log(found.gain[good, 0] / gain[good, 0])
    assert error.std() < 0.004


@pytest.mark.parametrize("seed", [5, 7, 8])
def test_a_cloud_does_not_tilt_the_mosaic(seed: int) -> None:
    """What all slopes have in common no overlap tells, and the cloud's has no say in it.

    Gradients of single tiles are up to 60 ADU; with the cloud's among the slopes whose mean is 0,
    levels were off by 20 to 30 ADU.
    """
    tiles = everything_wrong(seed)
    found = solve(tiles, "gain+plane")
    _, offset = truth(tiles, found)
    good = np.arange(len(tiles)) != 1
    error = found.offset[good, 0] - offset[good, 0]
    assert error.std() < 6


@pytest.mark.parametrize("seed", [1, 4, 24])
def test_everything_wrong_at_once_leaves_the_blame_where_it_belongs(seed: int) -> None:
    """Gradients, trails, torn borders, SIP and a cloud: only pairs of the cloudy tile contradict.

    In the last two skies a corner tile has one of its three pairs with the cloudy one, and the
    wrong one is as precise as the others.
    """
    tiles = everything_wrong(seed)
    found = solve(tiles, "auto")
    assert np.flatnonzero(found.suspect[:, 0]).tolist() == [1]
    worst = np.flatnonzero(found.chi[:, 0] > SUSPECT_CHI)
    assert all(1 in (found.records[k].i, found.records[k].j) for k in worst)
    gain, _ = truth(tiles, found)
    good = np.arange(len(tiles)) != 1
    error = np.log(found.gain[good, 0] / gain[good, 0])
    assert (error - error.mean()).std() < 0.01


@pytest.mark.parametrize("seed", [*SEEDS, 3])
@pytest.mark.parametrize("model", MODELS)
def test_a_wrong_wcs_stays_with_its_tile(model: str, seed: int) -> None:
    """A WCS that is off by 5 pixels: that tile is named, and its pairs alone contradict the others.

    The pairs are linear in the shift, so they tell of a little less than it is.
    """
    tiles = list(tiles_of(seed))
    tiles[INNER] = replace(tiles[INNER], wcs=shifted_wcs(tiles[INNER].wcs, 3, 4))
    found = solve(tiles, model)
    worst = np.flatnonzero(found.chi[:, 0] > SUSPECT_CHI)
    assert len(worst) >= 2
    assert all(INNER in (found.records[k].i, found.records[k].j) for k in worst)
    assert np.flatnonzero(found.suspect[:, 0]).tolist() == [INNER]
    assert 3.5 < found.shift[INNER, 0] < 5.5
    assert np.delete(found.shift, INNER, axis=0).max() < 0.4
    told = re.fullmatch(
        r"lies at least (\d) pixels from where its WCS says", found.why_suspect(INNER)
    )
    assert told is not None
    assert 3 <= int(told[1]) <= 5
    assert_as_if_left_out(seed, model, found, INNER)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_wrong_wcs_does_not_bend_the_planes_of_others(seed: int) -> None:
    """With planes the others are solved without it: levels move by a few errors, not by ten."""
    tiles = list(tiles_of(seed))
    tiles[INNER] = replace(tiles[INNER], wcs=shifted_wcs(tiles[INNER].wcs, 3, 4))
    found = solve(tiles, "gain+plane")
    assert np.flatnonzero(found.suspect[:, 0]).tolist() == [INNER]
    gain, level = shifts(seed, "gain+plane", found, but=INNER)
    assert rms(gain) < 1
    assert rms(level) < 3
    # The tile itself has a gain in the gauge of the others, and pairs with their residuals.
    true, _ = truth(tiles, found)
    assert found.gain[INNER, 0] == pytest.approx(true[INNER, 0], rel=0.05)
    of_it = [k for k, record in enumerate(found.records) if INNER in (record.i, record.j)]
    assert np.isfinite(found.residual[of_it]).all()


def test_a_misplaced_tile_that_joins_two_others_keeps_its_pairs() -> None:
    """Without it the others would fall apart; it is named all the same."""
    row = list(simulate(Scene(tiles=2, shape=(300, 400), overlap=0.3, seed=3)))
    third = replace(row[1], name="third", wcs=shifted_wcs(row[1].wcs, 280, 0))
    tiles = [row[0], replace(row[1], wcs=shifted_wcs(row[1].wcs, 4, 3)), third]
    found = solve(tiles, "gain+plane")
    assert found.groups == 1
    assert np.isfinite(found.gain).all()


FLAT = {"nebula": 0.0, "stars": 0.0}


@pytest.mark.parametrize("model", MODELS)
def test_a_flat_sky_has_no_gain(model: str) -> None:
    """Noise alone: no pair measures a gain, all keep 1 and say so, and levels match all the same.

    Gains between 0.85 and 1.15 are there but cannot be seen. What remains is one level per tile,
    and the corrected skies agree within a few of the errors of the pairs.
    """
    tiles = tiles_of(3, **FLAT)
    found = solve(tiles, model)
    assert not found.suspect.any()
    assert np.isnan(found.shift).all()
    assert len(lines(found)) == len(found.records)
    assert not any(line.gain_measured for line in lines(found))
    assert (found.gain == 1).all()
    assert np.isnan(found.gain_err).all()
    sky = np.array([tile.data.mean(dtype=np.float64) for tile in tiles])
    level = sky + found.offset[:, 0]
    unit = np.median([line.level_err for line in lines(found)])
    assert unit < 0.3
    assert np.abs(level - level.mean()).max() < 4 * unit


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_with_few_stars_errors_cover_the_truth(model: str, seed: int) -> None:
    """A star or two per overlap: a gain is either not known or within a few of its errors.

    Some pairs measure none, so that tiles may fall into groups whose gains are known to one
    another alone. Errors of 5 to 20 % then are no reason for a gain further from the truth than
    the largest that not measuring makes.
    """
    tiles = tiles_of(seed, nebula=0.0, stars=2e-4)
    found = solve(tiles, model)
    measured = [
        (record.i, record.j)
        for record in found.records
        if isinstance(line := record.measurements[0], PairMeasurement) and line.gain_measured
    ]
    assert 5 < len(measured) < len(found.records)
    error = np.log(found.gain[:, 0] * [1 / tile.gain[0] for tile in tiles])
    assert np.abs(error - error.mean()).max() < np.log(1.15 / 0.85)
    group = component_labels(len(tiles), *np.array(measured).T)
    # Errors are given to the largest group, which most tiles are tied to.
    tied = group == np.bincount(group).argmax()
    assert (np.isfinite(found.gain_err[:, 0]) == tied).all()
    error -= (np.bincount(group, error) / np.bincount(group))[group]
    pull = (error / (found.gain_err / found.gain)[:, 0])[tied]
    assert rms(pull) < 1.5
    assert np.abs(pull).max() < 4


def test_gains_reach_around_an_overlap_without_contrast() -> None:
    """Four tiles in a square: one overlap is bare sky, the gain goes the other way round.

    Each of the other three overlaps holds a small cloud.
    """
    scene = replace(SCENE, tiles=4, rotation=0.0, overlap=0.3, shape=(224, 224), **FLAT)
    tiles = list(simulate(scene))
    middle = [tile.wcs.wcs.crval for tile in tiles]
    for one, other in ((0, 2), (2, 3), (1, 3)):
        radec = (middle[one] + middle[other])[None] / 2
        for k, tile in enumerate(tiles):
            x, y = tile.wcs.all_world2pix(radec, 0)[0]
            rows, columns = np.mgrid[:224, :224]
            cloud = 300 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 9.0**2))
            added = (cloud / tile.gain[0]).astype(np.float32)
            tiles[k] = replace(tile, data=tile.data + added)
    found = solve(tiles, "gain+offset")
    bare = {
        (record.i, record.j): not record.measurements[0].gain_measured
        for record in found.records
        if isinstance(record.measurements[0], PairMeasurement)
    }
    assert bare[0, 1]
    assert not any(bare[ends] for ends in ((0, 2), (2, 3), (1, 3)))
    pull = np.log(found.gain / truth(tiles, found)[0]) / (found.gain_err / found.gain)
    assert np.isfinite(pull).all()
    assert np.abs(pull).max() < 4
    assert (found.gain_err < 0.02).all()


@pytest.mark.parametrize("model", MODELS)
def test_twice_the_fwhm_does_not_bias_a_gain(model: str) -> None:
    """Seeing that differs by up to a factor of 2: gains are true to 0.5 %, and bend by no more.

    The bias is the slope of the gains' errors with the logarithm of the FWHM, times that of 2.
    """
    slopes, errors = [], []
    for seed in SEEDS:
        tiles = tiles_of(seed, seeing=1 / 3)
        fwhm = np.log([tile.fwhm for tile in tiles])
        assert np.ptp(fwhm) > np.log(1.7)
        found = solve(tiles, model)
        error = np.log(found.gain / truth(tiles, found)[0])[:, 0]
        slopes.append(np.polyfit(fwhm, error, 1)[0] * np.log(2))
        errors.append(error)
    assert abs(np.mean(slopes)) < 0.005
    assert rms(np.concatenate(errors)) < 0.005


PROJECT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", PROJECT.parent / "shared" / "data"))
FRAMES = SHARED / "seestar_m94_rgb"
#: Flux over that of session 1 by photometry of matched stars, in R, G and B.
STARS = {"s2": (1.18, 1.22, 1.32), "s3": (1.35, 1.36, 1.41)}


def m94_crops() -> tuple[list[Tile], list[str]]:
    """A sparse mosaic: each frame gives two tiles at opposite corners; which ones, takes turns."""
    tiles, sessions = [], []
    for k, path in enumerate(sorted(FRAMES.glob("*.fits"))):
        with fits.open(path) as hdus:
            data, wcs = hdus[0].data.astype(np.float32), WCS(hdus[0].header, naxis=2)
        _, h, w = data.shape
        left, right = slice(0, 360), slice(w - 360, w)
        low, high = slice(0, 640), slice(h - 640, h)
        for rows, columns in ((low, (left, right)[k % 2]), (high, (right, left)[k % 2])):
            cut = np.ascontiguousarray(data[:, rows, columns])
            tiles.append(tile_from_array(cut, wcs[rows, columns], name=f"{path.stem}_{len(tiles)}"))
            sessions.append(path.name.split("_")[1])
    return tiles, sessions


@cache
def m94(model: str) -> tuple[PhaseSolution, list[str]]:
    """What we find in these crops, and the night of each."""
    tiles, sessions = m94_crops()
    return calibrate(tiles, Settings(model=model), pool="threads", observers=[]), sessions


def m94_flux(model: str) -> dict[str, np.ndarray]:
    """Flux of each night over that of the first, in R, G and B, by the gains that are known."""
    found, sessions = m94(model)
    log_gain = np.where(np.isfinite(found.gain_err), np.log(found.gain), np.nan)
    of_night = {
        night: np.nanmean(log_gain[[s == night for s in sessions]], axis=0)
        for night in ("s1", *STARS)
    }
    return {night: np.exp(of_night["s1"] - of_night[night]) for night in STARS}


needs_frames = pytest.mark.skipif(
    not FRAMES.is_dir(), reason=f"no real frames in {FRAMES}; set ZEMOSAIC_SHARED_DATA"
)


@needs_frames
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            "gain+offset",
            marks=pytest.mark.xfail(
                strict=True,
                reason="the sky's gradient is another each night: without planes s2 over s1 is off "
                "by -1, 0 and -5 % in R, G and B, s3 by -5, -3 and -6 %",
            ),
        ),
        "gain+plane",
        "auto",
    ],
)
def test_session_gains_of_m94_are_those_of_its_stars(model: str) -> None:
    """Three nights of M94 in crops: each colour's gains agree with photometry of stars to 3 %.

    All colours are judged at once. Crops of one night share one gain, but for what the air does.
    Half of the crops hold too few stars and nothing of the galaxy: their gains are not known, and
    they are said not to be.
    """
    found, _ = m94(model)
    assert (np.isfinite(found.gain_err).sum(axis=0) >= 9).all()
    for night, flux in STARS.items():
        assert m94_flux(model)[night] == pytest.approx(flux, rel=0.03)


@needs_frames
@pytest.mark.parametrize("model", ["gain+offset", "gain+plane"])
def test_noisy_real_frames_give_no_wild_gain(model: str) -> None:
    """Three nights under another sky gradient each: gains may be unknown, but never beyond 2."""
    found, _ = m94(model)
    assert ((found.gain > 0.5) & (found.gain < 2)).all()
