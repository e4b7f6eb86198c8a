"""Tiles in any unit: the same gains, errors and rejections, and the unit in the results."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from tests.helpers.cli import Run
from zemosaic import Settings, calibrate, tile_from_array
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.photometry.solver.surfaces import SURFACE_POWERS
from zemosaic.pipeline.solution import PhaseSolution

SCENE = Scene(tiles=6, shape=(160, 200), gradient=True, trail=True, border=True)
MODELS = ("auto", "gain+offset", "offset", "gain")
#: Results that do not depend on the unit, and levels, which are proportional to it.
PURE = ("gain", "gain_err", "chi", "suspect", "planes", "shift")
LEVELS = ("offset", "offset_err", "residual", *SURFACE_POWERS)


@cache
def solved(model: str, factor: float, dtype: str = "f4") -> PhaseSolution:
    """Return the solution of the simulated tiles times a factor."""
    tiles = [
        tile_from_array((tile.data * np.float64(factor)).astype(dtype), tile.wcs, name=tile.name)
        for tile in simulate(SCENE)
    ]
    return calibrate(tiles, Settings(model=model), pool="serial", observers=[])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("power", [-100, -62, -17, 9, 31, 90])
def test_powers_of_two_give_the_same_bits(model: str, power: int) -> None:
    """Results are those of the unscaled tiles, and levels are scaled exactly."""
    plain, scaled = solved(model, 1.0), solved(model, 2.0**power)
    for name in PURE:
        assert getattr(scaled, name).tobytes() == getattr(plain, name).tobytes(), name
    for name in LEVELS:
        expected = np.ldexp(getattr(plain, name), power)
        assert getattr(scaled, name).tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("factor", [1e-30, 1e-19, 1e-8, 1e-3, 1e12, 1e30])
def test_any_factor_gives_the_same_numbers(model: str, factor: float) -> None:
    """Results agree to the precision of the pixels, which are rounded to float32 again."""
    plain, scaled = solved(model, 1.0), solved(model, factor)
    np.testing.assert_allclose(scaled.gain, plain.gain, rtol=1e-6)
    np.testing.assert_allclose(scaled.gain_err, plain.gain_err, rtol=1e-4)
    np.testing.assert_allclose(scaled.offset_err, factor * plain.offset_err, rtol=1e-4)
    error = factor * np.nan_to_num(plain.offset_err)
    assert (np.abs(scaled.offset - factor * plain.offset) <= 1e-3 * error).all()
    for name in ("suspect", "planes", "pairs"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(plain, name), err_msg=name)


Write = Callable[[list[str]], list[Path]]
Zemosaic = Callable[..., Run]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes three tiles with the given units (BUNIT)."""

    def write_tiles(names: list[str]) -> list[Path]:
        paths = []
        for unit, tile in zip(names, simulate(Scene(tiles=3, shape=(120, 140))), strict=True):
            paths.append(tmp_path / tile.name)
            header = tile.wcs.to_header()
            header["BUNIT"] = unit
            fits.writeto(paths[-1], tile.data, header)
        return paths

    return write_tiles


@pytest.mark.parametrize(
    ("bunit", "unit", "label"),
    [
        ("MJy/sr", u.MJy / u.sr, "offset, MJy / sr"),
        ("electron/s", u.electron / u.s, "offset, electron / s"),
        ("10**-6.Jy/beam", None, "offset, "),
        ("DN!", None, "offset, DN!"),
        ("", u.adu, "offset, ADU"),
    ],
)
def test_the_unit_reaches_tables_and_report(
    bunit: str,
    unit: u.UnitBase | None,
    label: str,
    write: Write,
    tmp_path: Path,
    zemosaic: Zemosaic,
) -> None:
    """Offsets, slopes and the page have the unit of the files, known to astropy or not."""
    run = tmp_path / "run"
    assert zemosaic("intertile", *write([bunit] * 3), "-o", run, "--pool", "serial").code == 0
    offset = Table.read(run / "corrections.ecsv")["offset"].unit
    slope = Table.read(run / "corrections.ecsv")["slope_x"].unit
    assert (run / "report.html").read_text(encoding="utf-8").count(label) >= 1
    if unit is not None:
        assert offset == unit
        assert slope == unit / u.pix


def test_different_units_are_reported(write: Write, tmp_path: Path, zemosaic: Zemosaic) -> None:
    """Levels have no unit then, nor has the mosaic; spellings of ADU do not differ."""
    paths, mosaic = write(["MJy/sr", "", "MJy/sr"]), tmp_path / "m.fits"
    run = ("-o", tmp_path / "run", "--pool", "serial", "--mosaic", mosaic)
    result = zemosaic("intertile", *paths, *run)
    assert "the tiles have different units: MJy/sr (2), adu (1)" in result.err
    assert Table.read(tmp_path / "run" / "corrections.ecsv")["offset"].unit is None
    assert "BUNIT" not in fits.getheader(mosaic)
    assert zemosaic("intertile", paths[0], paths[2], *run).code == 0
    assert fits.getheader(mosaic)["BUNIT"] == "MJy/sr"
