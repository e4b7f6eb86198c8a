"""Aperture photometry of stars, and the gains of pairs by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from tests.helpers.cli import Run
from zemosaic import Settings, calibrate, tile_from_array
from zemosaic.errors import UserError
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.photometry.stars.aperture import Stars, measure_stars
from zemosaic.photometry.stars.gain import flux_ratio, star_gains, with_star_gains
from zemosaic.photometry.tiles.tile import Tile
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.pipeline.star_gains import stars_facts, stars_line
from zemosaic.report.build import load_run

pytest.importorskip("photutils", reason="photutils is not installed: pip install '.[stars]'")

SIDE, SCALE, SIGMA = 200, 1 / 3600, 1.6
#: Positions (x, y) of the stars of `field`, on a lattice of 30 pixels, and their fluxes.
PLACES = np.stack(np.meshgrid(np.arange(25, 190, 30), np.arange(25, 190, 30)), -1).reshape(-1, 2)
FLUXES = np.geomspace(3e3, 3e4, len(PLACES))


def field(
    gain: float = 1.0, level: float = 500.0, sigma: float = SIGMA, shift: float = 0.3, seed: int = 1
) -> np.ndarray:
    """Return an image of Gaussian stars, ``data = gain * sky + level`` with noise of 3 ADU."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for (x0, y0), flux in zip(PLACES + shift, FLUXES, strict=True):
        image += flux * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    return gain * image / (2 * np.pi * sigma**2) + level + noise


def tile(data: np.ndarray, shift: float = 0.0, scale: float = 1.0) -> Tile:
    """Make a tile whose WCS lies `shift` pixels farther along both axes."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = 150.0, 30.0
    wcs.wcs.cdelt = -SCALE * scale, SCALE * scale
    wcs.wcs.crpix = np.array([100.0, 100.0]) + shift
    return tile_from_array(data, wcs)


def brightest(stars: Stars) -> np.ndarray:
    """Return the fluxes in the smallest aperture, the brightest first, in ADU times pixels."""
    flux = stars.flux[0, 0] / SCALE**2
    return np.sort(flux[np.isfinite(flux)])[::-1]


def test_fluxes_are_those_of_the_stars() -> None:
    """Fluxes are true within noise, but for the brightest stars, which may be cut off."""
    stars = measure_stars(tile(field()))
    assert stars.fwhm * 3600 == pytest.approx(2.355 * SIGMA, rel=0.08)
    flux, true = brightest(stars), np.sort(FLUXES)[::-1]
    dropped = np.count_nonzero(true > 0.85 * true[0])
    assert len(flux) == pytest.approx(len(true) - dropped, abs=1)
    assert flux == pytest.approx(true[len(true) - len(flux) :], rel=0.005, abs=150)


@pytest.mark.parametrize("sigma", [SIGMA, 1.25 * SIGMA])
def test_the_gain_of_a_pair_is_that_of_its_stars(sigma: float) -> None:
    """Shift, pedestal and seeing do not matter, and the error covers the difference."""
    first = measure_stars(tile(field()))
    second = measure_stars(
        tile(field(gain=1.3, level=-80, sigma=sigma, shift=4.7, seed=2), shift=4.4)
    )
    (star,) = star_gains(first, second)
    assert star.stars > 25
    assert star.gain == pytest.approx(1.3, abs=4 * star.gain_err)
    assert star.gain == pytest.approx(1.3, rel=0.01)
    assert star.gain_err < 0.008


def test_a_gain_is_the_ratio_of_surface_brightness() -> None:
    """A tile with larger pixels holds more light in each, as its pixels show."""
    first = measure_stars(tile(field()))
    image = field(seed=3).reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    binned = tile(image, scale=2.0)
    wcs = binned.wcs
    wcs.wcs.crpix = [50.25, 50.25]
    (star,) = star_gains(first, measure_stars(tile_from_array(image, wcs)))
    assert star.stars > 20
    assert star.gain == pytest.approx(1.0, abs=max(4 * star.gain_err, 0.01))


def test_saturated_stars_and_stars_beside_missing_pixels_are_left_out() -> None:
    """Stars cut off in one tile, at its edge or beside NaN do not bend the gain."""
    data = field(gain=1.5, seed=4)
    data = np.minimum(data, np.quantile(data, 0.9985))
    x, y = PLACES[7]
    data[y + 3, x - 2 : x + 3] = np.nan
    (star,) = star_gains(measure_stars(tile(field())), measure_stars(tile(data)))
    clipped = np.count_nonzero(1.5 * FLUXES / (2 * np.pi * SIGMA**2) > np.nanmax(data) - 500)
    assert clipped > 3
    assert 3 <= star.stars < len(PLACES) - clipped
    assert star.gain == pytest.approx(1.5, abs=max(4 * star.gain_err, 0.006))


def test_an_image_without_stars_has_no_gain() -> None:
    """Noise alone, a constant and missing data give no stars, and a pair with them no gain."""
    noise = np.random.default_rng(5).normal(100, 3, (64, 64))
    for data in (noise, np.full((64, 64), 7.0), np.full((64, 64), np.nan)):
        stars = measure_stars(tile(data))
        (star,) = star_gains(stars, measure_stars(tile(field())))
        assert star.stars == 0
        assert np.isnan(star.gain)


def test_errors_of_ratios_are_honest() -> None:
    """Noise, scatter of the stars and faint stars: errors cover the ratio, which is not bent."""
    rng = np.random.default_rng(6)
    for count, scatter, faintest in ((10, 0.05, 50), (40, 0.0, 6), (40, 0.1, 6), (100, 0.05, 50)):
        z = []
        for _ in range(300):
            flux = faintest * rng.pareto(1.0, count) + faintest
            x = flux + rng.normal(0, 1, count)
            y = 2.0 * flux * np.exp(rng.normal(0, scatter, count)) + rng.normal(0, 1, count)
            star = flux_ratio(x, np.ones(count), y, np.ones(count))
            z.append(np.log(star.gain / 2.0) / (star.gain_err / star.gain))
        assert np.mean(np.abs(z) < 1) == pytest.approx(0.7, abs=0.1)
        assert np.mean(np.abs(z) < 2) > 0.88
        assert np.median(z) == pytest.approx(0.0, abs=0.35)


def test_one_star_that_varies_does_not_decide() -> None:
    """A star of twice the flux, brighter than all others, is left out."""
    flux = np.array([1e4, 100.0, 90.0, 80.0, 70.0, 60.0, 50.0])
    y = flux * np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    star = flux_ratio(flux, np.ones(7), y, np.ones(7))
    assert star.stars == 6
    assert star.gain == pytest.approx(1.0, abs=1e-6)


@pytest.fixture(scope="module")
def scene() -> list[Any]:
    """Return the tiles of a simulated mosaic with many stars, and their truth."""
    return list(simulate(Scene(tiles=4, shape=(256, 256), overlap=0.4, stars=6e-3, seeing=0.0)))


def solve(scene: list[Any], **settings: Any) -> PhaseSolution:
    tiles = [tile_from_array(each.data, each.wcs, name=each.name) for each in scene]
    return calibrate(tiles, Settings(**settings), pool="serial", observers=[])


def log_gain_error(solution: PhaseSolution, scene: list[Any]) -> np.ndarray:
    error = np.log(solution.gain[:, 0]) - np.log([each.gain for each in scene]).ravel()
    return error - error.mean()


def test_gains_are_solved_from_stars_alone(scene: list[Any]) -> None:
    """With gain_from="stars" the gains are true even where the pixels show other gains."""
    solution = solve(scene, gain_from="stars", model="gain+offset")
    assert np.abs(log_gain_error(solution, scene)).max() < 0.012
    assert (np.abs(log_gain_error(solution, scene)) < 4 * solution.gain_err[:, 0]).all()
    assert "agree" in stars_line(solution.records, solution.names)


def test_the_comparison_changes_nothing(scene: list[Any]) -> None:
    """With stars=True the solution has the same bits, and every pair has both gains."""
    plain, compared = solve(scene), solve(scene, stars=True)
    for name in ("gain", "offset", "gain_err"):
        assert np.array_equal(getattr(plain, name), getattr(compared, name), equal_nan=True)
    assert not plain.records[0].stars
    assert stars_facts(compared.records) == {"pairs": len(compared.records), "disagreeing": 0}


def test_disagreement_names_the_pair_and_both_gains(scene: list[Any]) -> None:
    """The line of the summary gives the pair that differs most, and both of its gains."""
    solution = solve(scene, stars=True)
    first, *others = solution.records
    line = first.measurements[0]
    assert isinstance(line, PairMeasurement)
    bent = replace(first, measurements=(replace(line, gain=1.1 * line.gain),))
    text = stars_line([bent, *others], solution.names)
    assert "1 disagree" in text
    assert f"{scene[first.i].name} and {scene[first.j].name}" in text
    assert f"{1.1 * line.gain:.4f} ± " in text
    assert f"{first.stars[0].gain:.4f} ± " in text


def test_a_pair_without_stars_keeps_its_level_alone(scene: list[Any]) -> None:
    """Without stars the gain of a pair counts as not measurable."""
    (line,) = solve(scene).records[0].measurements
    (without,) = with_star_gains([line], ())
    assert isinstance(without, PairMeasurement)
    assert isinstance(line, PairMeasurement)
    assert not without.gain_measured
    assert np.isnan(without.gain_err)
    assert (without.x, without.y, without.level_err) == (line.x, line.y, line.level_err)


def test_the_table_of_pairs_has_both_gains(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """pairs.ecsv has star_gain, star_gain_err and stars with --stars, and the summary a line."""
    files = write_tiles(stars=1.5e-2, shape=(128, 160), electrons=20.0)
    assert "star_gain" not in _pairs(intertile(*files, "--no-report"), tmp_path).colnames
    result = intertile(*files, "--stars")
    table = _pairs(result, tmp_path)
    assert "\nstars        gains of " in result.out
    known = table["stars"] > 0
    assert known.any()
    difference = table["star_gain"][known] - table["gain"][known]
    assert (np.abs(difference) < 5 * table["star_gain_err"][known]).all()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "by their overlaps and by their stars" in page


def test_the_report_judges_the_gains_that_were_solved(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """With --gain-from stars the residuals of the page are those of the gains of the stars."""
    files = write_tiles(stars=1.5e-2, shape=(128, 160), electrons=20.0)
    table = _pairs(intertile(*files, "--gain-from", "stars", "--no-report"), tmp_path)
    folder = tmp_path / "run"
    run = load_run(folder)[0]
    residuals = [pair.residuals[0].gain_chi for pair in run.pairs]
    assert np.isfinite(residuals).tolist() == (table["stars"] > 0).tolist()
    gain = {tile.index: tile.gain[0] for tile in run.tiles}
    star = run.star_gains[0]
    residual = np.log(star.star_gain * gain[star.j] / gain[star.i])
    expected = residual / (star.star_gain_err / star.star_gain)
    assert residuals[star.pair - 1] == pytest.approx(expected)


def _pairs(result: Run, folder: Path) -> Table:
    assert result.code == 0
    return Table.read(folder / "run" / "pairs.ecsv", format="ascii.ecsv")


def test_stars_are_measured_when_a_run_is_resumed_with_them(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """--resume --stars after a run without stars gives the table of a run with them."""
    files = write_tiles(stars=1.5e-2, shape=(128, 160), electrons=20.0)
    _pairs(intertile(*files, "--stars", "--no-report"), tmp_path)
    fresh = (tmp_path / "run" / "pairs.ecsv").read_bytes()
    _pairs(intertile(*files, "--no-report"), tmp_path)
    _pairs(intertile(*files, "--stars", "--resume", "--no-report"), tmp_path)
    assert (tmp_path / "run" / "pairs.ecsv").read_bytes() == fresh


def test_settings_without_gains_or_photutils_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the remedy: another model, or the command that installs photutils."""
    with pytest.raises(UserError, match="the model offset has no gains; choose gain"):
        Settings(gain_from="stars", model="offset")
    monkeypatch.setattr("zemosaic.settings.find_spec", lambda name: None)
    assert not Settings().needs_stars
    with pytest.raises(UserError, match=r"pip install 'zemosaic\[stars\]'$"):
        Settings(stars=True)
