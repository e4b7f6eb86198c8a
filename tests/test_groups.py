"""Tiles that share their gain or their level: the chips of an exposure, or one chip of several."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers.pairs import without_gain
from tests.test_solve import SHRINKAGE, Truth
from zemosaic import Settings, TileError, calibrate, open_tile
from zemosaic.errors import UserError
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.photometry.simulate.truth import align_truth
from zemosaic.photometry.solver.solve import solve
from zemosaic.photometry.solver.ties import Ties
from zemosaic.photometry.tiles.file_options import SHARED

CHIPS = 2
SCENE = Scene(tiles=12, shape=(96, 128), overlap=0.3, stars=4e-3, seeing=0, electrons=0.3, seed=3)


@cache
def scene() -> tuple[Any, ...]:
    """Return tiles with the same scene through gain 1 and offset 0, and noise."""
    return tuple((tile.data * tile.gain[0] + tile.offset[0], tile.wcs) for tile in simulate(SCENE))


def truth(shared: str) -> tuple[np.ndarray, np.ndarray]:
    """Return true gains and offsets of the tiles, of which the chips of an exposure share some."""
    random = np.random.default_rng(5)
    exposure = np.arange(SCENE.tiles) // CHIPS
    gain = np.exp(random.normal(0, 0.1, SCENE.tiles))
    offset = random.normal(0, 50, SCENE.tiles)
    if "chip" in shared:
        gain = gain[np.arange(SCENE.tiles) % CHIPS]
    elif "gain" in shared:
        gain = gain[exposure * CHIPS]
    if "level" in shared:
        offset = offset[exposure * CHIPS]
    return gain, offset


def write(folder: Path, shared: str, lonely: bool = False) -> list[Path]:
    """Write exposures of two chips; with `lonely`, the first has a third that overlaps nothing."""
    paths = []
    for exposure in range(SCENE.tiles // CHIPS):
        hdus = [fits.PrimaryHDU()]
        for chip in range(CHIPS):
            tile = exposure * CHIPS + chip
            gain, offset = (values[tile] for values in truth(shared))
            data, wcs = scene()[tile]
            hdus.append(image((data - offset) / gain, wcs.to_header(), chip + 1))
        if lonely and exposure == 0:
            header = hdus[1].header.copy()
            header["CRVAL1"] += 10
            hdus.append(image(hdus[1].data, header, 3))
        paths.append(folder / f"e{exposure}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    return paths


def image(data: np.ndarray, header: fits.Header, ver: int) -> fits.ImageHDU:
    """Return a chip, with a keyword of its number."""
    header = fits.Header(header, copy=True)
    header["EXTNAME"], header["EXTVER"], header["CCDNUM"] = "SCI", ver, ver
    return fits.ImageHDU(np.asarray(data, "f4"), header)


@pytest.mark.parametrize("model", ["gain+offset", "gain+plane"])
@pytest.mark.parametrize(
    ("group", "shared"),
    [("exposure", "gain and level"), ("exposure:gain", "gain"), ("exposure:level", "level")],
)
def test_tied_chips_get_one_correction(group: str, shared: str, model: str, tmp_path: Path) -> None:
    """Chips with a common gain or level get exactly the same one, and the truth."""
    paths = write(tmp_path, shared)
    solution = calibrate(paths, Settings(model=model, group=group), pool="serial")
    first, second = slice(0, None, CHIPS), slice(1, None, CHIPS)
    if "gain" in shared:
        np.testing.assert_array_equal(solution.gain[first], solution.gain[second])
        np.testing.assert_array_equal(solution.gain_err[first], solution.gain_err[second])
    if "level" in shared and model == "gain+offset":
        np.testing.assert_allclose(solution.offset[first], solution.offset[second], atol=1e-6)
    gain, _ = align_truth(solution, *(values[:, None] for values in truth(shared)))
    np.testing.assert_allclose(solution.gain, gain, rtol=0.02 if model == "gain+offset" else 0.12)


def solve_grid(seed: int, shared: tuple[str, ...], tied: bool) -> tuple[np.ndarray, ...]:
    """Solve 36 tiles in exposures of three, measured with noise.

    Return the errors of log-gains, and of levels where the scene is 1000, and both in units of
    the claimed errors.
    """
    mosaic = Truth(6, seed)
    exposure = np.arange(36) // 3
    if "gain" in shared:
        mosaic.gain = mosaic.gain[3 * exposure]
    if "level" in shared:
        mosaic.offset = mosaic.offset[3 * exposure]
    mosaic.sky = ((1000 - mosaic.offset) / mosaic.gain)[:, None]
    groups = [exposure.tolist() if kind in shared and tied else [None] * 36 for kind in SHARED]
    solution = solve(
        mosaic.i,
        mosaic.j,
        mosaic.pairs(noise=1.0),
        mosaic.sky,
        ties=Ties.of(*([g] for g in groups)),
    )
    gain, offset = align_truth(solution, mosaic.gain[:, None], mosaic.offset[:, None])
    error = np.log(solution.gain / gain)[:, 0]
    level = ((solution.gain - gain) * mosaic.sky + solution.offset - offset)[:, 0]
    level -= level.mean()
    return error, level, error / (solution.gain_err / solution.gain)[:, 0]


@pytest.mark.parametrize("shared", [("gain", "level"), ("gain",), ("level",)])
def test_ties_add_information(shared: tuple[str, ...]) -> None:
    """Errors of tied tiles are smaller, and as large as claimed."""
    seeds = range(12)
    free = [solve_grid(seed, shared, tied=False) for seed in seeds]
    tied = [solve_grid(seed, shared, tied=True) for seed in seeds]
    gain_rms, level_rms, chi = (np.sqrt(np.mean(np.square(v))) for v in zip(*tied, strict=True))
    free_gain_rms, free_level_rms, _ = (
        np.sqrt(np.mean(np.square(v))) for v in zip(*free, strict=True)
    )
    assert gain_rms < 0.7 * free_gain_rms
    assert level_rms < (0.7 if len(shared) == 2 else 1) * free_level_rms
    assert 0.8 < chi < 1.2


def test_without_a_group_nothing_changes(tmp_path: Path) -> None:
    """Groups of one tile each give the same bits as no groups; a line reports them."""
    paths = write(tmp_path, "")
    plain = calibrate(paths, pool="serial")
    for tile, hdus in enumerate(paths):
        for ver in range(1, CHIPS + 1):
            fits.setval(hdus, "OWN", value=f"{tile}/{ver}", extname="SCI", extver=ver)
    alone = calibrate(paths, Settings(group="OWN"), pool="serial")
    for name in ("gain", "offset", "gain_err", "offset_err", "component", "gain_group"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(plain, name))


def test_a_chip_without_overlap_is_tied_to_its_exposure(tmp_path: Path) -> None:
    """It gets the correction of its exposure, and belongs to the same component."""
    paths = write(tmp_path, "gain and level", lonely=True)
    free = calibrate(paths, pool="serial")
    assert free.pairs[2, 0] == 0
    assert np.isnan(free.gain_err[2, 0])
    assert any("e0.fits[SCI,3]: no overlap" in line for line in free.warnings())
    tied = calibrate(paths, Settings(group="exposure"), pool="serial")
    for name in ("gain", "offset", "gain_err", "offset_err", "component", "gain_group"):
        values = getattr(tied, name)
        assert values[2, 0] == values[0, 0] == values[1, 0]
    assert tied.groups == 1
    assert list(tied.warnings()) == []
    by_gain = calibrate(paths, Settings(group="exposure:gain"), pool="serial")
    assert by_gain.gain[2, 0] == by_gain.gain[0, 0]
    assert np.isfinite(by_gain.gain_err[2, 0])
    assert np.isnan(by_gain.offset_err[2, 0])
    by_level = calibrate(paths, Settings(group="exposure:level"), pool="serial")
    assert by_level.gain[2, 0] == 1
    assert np.isnan(by_level.gain_err[2, 0])
    np.testing.assert_allclose(by_level.offset[2, 0], by_level.offset[0, 0], atol=1e-6)


def test_an_anchor_holds_its_group(tmp_path: Path) -> None:
    """All chips of the anchor's exposure keep gain 1 and offset 0."""
    paths = write(tmp_path, "gain and level")
    for model in ("gain+offset", "gain+plane", "offset", "gain"):
        solution = calibrate(
            paths, Settings(group="exposure", anchor="e2.fits[SCI,2]", model=model), pool="serial"
        )
        np.testing.assert_array_equal(solution.gain[4:6], 1)
        if model != "gain+plane":
            np.testing.assert_allclose(solution.offset[4:6], 0, atol=1e-9)
        assert solution.offset[5, 0] == pytest.approx(0, abs=1e-9)


def test_groups_by_keyword_cross_those_by_exposure(tmp_path: Path) -> None:
    """Chips keep their gain over all exposures while each exposure has its own level."""
    paths = write(tmp_path, "gain of a chip, level")
    solution = calibrate(paths, Settings(group="CCDNUM:gain+exposure:level"), pool="serial")
    assert len(np.unique(solution.gain)) == CHIPS
    np.testing.assert_allclose(solution.offset[::2], solution.offset[1::2], atol=1e-6)


def test_a_missing_keyword_is_one_line(tmp_path: Path) -> None:
    """The error names the file and the keyword."""
    path = write(tmp_path, "gain")[0]
    with pytest.raises(TileError, match=r"e0\.fits: has no keyword NIGHT to group it by; choose"):
        open_tile(path, hdu=1, group="NIGHT")


@pytest.mark.parametrize("group", ["", "exposure:both", ":gain", "exposure+"])
def test_an_invalid_group_is_one_line(group: str) -> None:
    """The error shows what can be given."""
    with pytest.raises(UserError, match="give exposure or a keyword, alone or with :gain or :lev"):
        Settings(group=group)


@pytest.mark.parametrize("anchor", [None, 3])
@pytest.mark.parametrize("shared", [("gain", "level"), ("gain",), ("level",)])
def test_chips_that_never_overlap_are_matched(shared: tuple[str, ...], anchor: int | None) -> None:
    """Two islands, of the first and the second chips of nine exposures, have one gauge."""
    first, second = Truth(3, 1), Truth(3, 2)
    exposures = [*range(9), *range(9)]
    if "gain" in shared:
        second.gain = first.gain
    if "level" in shared:
        second.offset = first.offset
    i, j = np.r_[first.i, first.i + 9], np.r_[first.j, first.j + 9]
    gain, offset = np.r_[first.gain, second.gain], np.r_[first.offset, second.offset]
    sky = ((1000 - offset) / gain)[:, None]
    pairs = first.pairs() + second.pairs()
    ties = Ties.of(*([exposures if kind in shared else [None] * 18] for kind in SHARED))
    solution = solve(i, j, pairs, sky, anchor=anchor, ties=ties)
    free = solve(i, j, pairs, sky, anchor=anchor)
    assert len(np.unique(free.component)) == 2
    if "gain" not in shared:  # the gains of the islands cannot be compared
        np.testing.assert_array_equal(solution.gain, free.gain)
        return
    ratio = solution.gain[:, 0] / gain
    np.testing.assert_allclose(ratio, ratio[0], rtol=SHRINKAGE)
    assert np.isfinite(solution.gain_err).all()
    assert len(np.unique(solution.gain_group)) == 1
    level = solution.offset[:, 0] - ratio * offset
    islands = [slice(None)] if "level" in shared else [slice(9), slice(9, None)]
    assert len(np.unique(solution.component)) == len(islands)
    for island in islands:
        assert np.ptp(level[island]) < 0.02
    if anchor is not None:
        assert (solution.gain[anchor, 0], solution.offset[anchor, 0]) == (1, 0)


def test_levels_alone_are_tied_where_gains_are_known() -> None:
    """Without measured gains, or with planes, each tile keeps a level of its own."""
    mosaic = Truth(3, 1)
    pairs = [[without_gain(line)] for (line,) in mosaic.pairs()]
    exposures = [[tile // 3 for tile in range(9)]]
    ties = Ties.of([[None] * 9], exposures)
    free = solve(mosaic.i, mosaic.j, pairs, mosaic.sky)
    tied = solve(mosaic.i, mosaic.j, pairs, mosaic.sky, ties=ties)
    np.testing.assert_array_equal(tied.offset, free.offset)
    np.testing.assert_array_equal(tied.offset_err, free.offset_err)


def test_groups_that_share_a_tile_are_one() -> None:
    """Two groupings join their groups, in the order of their first tiles."""
    ties = Ties.of([["a", "a", None, "b", "b"]], [["a", "a", None, "b", "b"], [0, 1, 2, 1, 3]])
    assert ties.gain.tolist() == [0, 0, 2, 3, 3]
    assert ties.level.tolist() == [0, 0, 2, 0, 0]
