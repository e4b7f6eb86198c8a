"""Tiles as objects of astropy, and what a solution gives back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.table import QTable
from astropy.wcs import WCS

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import Settings, TileError, calibrate
from zemosaic.errors import UserError
from zemosaic.photometry.apply import correct
from zemosaic.photometry.tiles.file_options import FileOptions
from zemosaic.photometry.tiles.objects import tiles_from_object
from zemosaic.pipeline.seams import seam_line, seam_steps
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.pipeline.tables import corrections_table, write_table


def tile_of(item: Any, **options: Any) -> Any:
    """Return the only tile of an object."""
    ((_, tile),) = tiles_from_object(item, "x", FileOptions(**options))
    return tile


def hdu(tile: Any, **keywords: Any) -> fits.PrimaryHDU:
    """Return a simulated tile as an HDU in memory."""
    header = tile.wcs.to_header(relax=True)
    header.update(keywords)
    return fits.PrimaryHDU(tile.data, header)


def arrays() -> list[tuple[Any, WCS]]:
    """Return the simulated tiles as arrays with the WCS of their headers."""
    return [(tile.data, WCS(hdu(tile).header)) for tile in simulated()]


def solve(tiles: list[Any], **settings: Any) -> PhaseSolution:
    return calibrate(tiles, Settings(**settings), pool="serial")


@pytest.fixture(scope="module")
def reference() -> PhaseSolution:
    """The solution of the same tiles as arrays."""
    return solve(arrays())


def test_all_kinds_of_objects_have_the_same_solution(
    reference: PhaseSolution, tmp_path: Path
) -> None:
    """An HDU, an HDUList, a CCDData and a quantity mean what the array in them means."""
    a, b, c, d = simulated()
    path = tmp_path / "b.fits"
    hdu(b).writeto(path)
    with fits.open(path) as hdus:
        ccd = CCDData(c.data, unit="adu", wcs=arrays()[2][1])
        items = [hdu(a), hdus, ccd, (d.data * u.adu, arrays()[3][1])]
        solution = solve(items)
    assert np.array_equal(solution.gain, reference.gain)
    assert np.array_equal(solution.offset, reference.offset)
    assert solution.names == ("tile 0", "b.fits", "tile 2", "tile 3")


def test_objects_may_stand_beside_files(reference: PhaseSolution, tmp_path: Path) -> None:
    """An open HDU, which no process can be sent, is scanned here, whatever the pool."""
    paths = [tmp_path / f"{k}.fits" for k in range(4)]
    for tile, path in zip(simulated(), paths, strict=True):
        hdu(tile).writeto(path)
    with fits.open(paths[0]) as first:
        solution = calibrate([first[0], *paths[1:]], pool="processes")
    assert np.array_equal(solution.gain, reference.gain)


def test_a_masked_pixel_is_missing() -> None:
    """The masks of NDData and masked arrays are those of the tile."""
    tile = simulated()[0]
    mask = np.zeros(tile.data.shape, dtype=bool)
    mask[10, 20:30] = True
    item = NDData(tile.data, wcs=tile.wcs, mask=mask)
    assert np.array_equal(np.isnan(tile_of(item).pixels()[0]), mask)
    masked = (np.ma.MaskedArray(tile.data, mask), tile.wcs)
    solution = solve([masked, *[(t.data, t.wcs) for t in simulated()[1:]]])
    assert np.array_equal(np.isnan(solution.correct(0).data), mask)


@pytest.mark.parametrize(
    ("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)]
)
def test_an_uncertainty_gives_weights_and_follows_the_correction(kind: Any, power: int) -> None:
    """The weights are the inverse variance; the corrected errors are those times the gain."""
    tiles = simulated()
    sigma = np.full(tiles[0].data.shape, 2.0)
    sigma[:40] = 4.0
    items = [NDData(t.data, wcs=t.wcs, uncertainty=kind(sigma**power), unit="adu") for t in tiles]
    weight = tile_of(items[0]).weight
    assert np.allclose(weight, sigma**-2)
    solution = solve(items)
    corrected = solution.correct(items[1])
    expected = (solution.gain[1, 0] * sigma) ** power
    assert type(corrected.uncertainty) is kind
    assert np.allclose(corrected.uncertainty.array, expected)
    assert corrected.unit == u.adu


def test_an_error_of_zero_is_no_datum() -> None:
    """A pixel whose variance is 0 or not finite has no weight."""
    tile = simulated()[0]
    sigma = np.ones(tile.data.shape)
    sigma[0, :3] = 0.0, np.inf, np.nan
    item = NDData(tile.data, wcs=tile.wcs, uncertainty=StdDevUncertainty(sigma))
    assert np.array_equal(np.flatnonzero(np.isnan(tile_of(item).pixels())), [0, 1, 2])


def test_an_object_that_is_no_tile_fails_alone(reference: PhaseSolution) -> None:
    """Without a WCS, with unknown errors or without pixels a tile fails with one line."""
    tile = simulated()[0]
    unknown = UnknownUncertainty(np.ones(tile.data.shape))
    for item, reason in (
        (NDData(tile.data), "x: has no WCS"),
        (NDData(tile.data, wcs=tile.wcs, uncertainty=unknown), "UnknownUncertainty"),
        (fits.PrimaryHDU(), "x: holds no image"),
    ):
        with pytest.raises(TileError, match=reason):
            tile_of(item)
    others = [(t.data, t.wcs) for t in simulated()[1:]]
    solution = solve([NDData(tile.data), *others])
    assert list(solution.failed) == [0]
    with pytest.raises(UserError, match="tile 0: has no WCS"):
        solution.correct(0)


def test_an_hdulist_has_the_data_quality_and_the_header_of_its_images() -> None:
    """All chips are tiles; their DQ, saturation, unit, group and instrument count as in a file."""
    a, b = simulated()[:2]
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "HST", "FILTER": "F606W"}))
    flags = np.zeros(a.data.shape, dtype=np.int16)
    flags[5, 5] = 4
    images = []
    for version, tile in enumerate((a, b), 1):
        image = fits.ImageHDU(tile.data, tile.wcs.to_header(relax=True), name="SCI", ver=version)
        image.header.update({"BUNIT": "ELECTRONS", "SATURATE": 5e4})
        images += [image, fits.ImageHDU(flags, name="DQ", ver=version)]
    tiles = tiles_from_object(
        fits.HDUList([primary, *images]), "x", FileOptions(group="FILTER", instrument="FILTER")
    )
    assert [name for name, _ in tiles] == ["x[SCI,1]", "x[SCI,2]"]
    for _, tile in tiles:
        assert np.array_equal(np.argwhere(np.isnan(tile.pixels()[0])), [[5, 5]])
        assert (tile.unit, tile.saturation) == ("ELECTRONS", 5e4)
        assert tile.groups == tile.instrument == ("F606W",)


def test_a_corrected_tile_is_of_the_kind_that_was_given() -> None:
    """An array gives an array, a quantity a quantity, an HDU an HDU, and so on; all are equal."""
    a, b, c, d = simulated()
    quantity, image = b.data * u.adu, hdu(c, GAIN=2.0, BLANK=0)
    ccd = CCDData(d.data, unit="adu", wcs=d.wcs, meta={"OBJECT": "M 31"})
    solution = solve([(a.data, a.wcs), (quantity, b.wcs), image, ccd])
    expected = [correct(t.data, solution.correction(k)) for k, t in enumerate(simulated())]
    results = [solution.correct(item) for item in (a.data, quantity, image, ccd)]
    assert [type(r) for r in results] == [np.ndarray, u.Quantity, fits.ImageHDU, CCDData]
    values = [results[0], results[1].value, results[2].data, results[3].data]
    for index, (value, same) in enumerate(zip(values, expected, strict=True)):
        assert np.array_equal(value, same)
        by_index = solution.correct(index)
        assert isinstance(by_index, CCDData)
        assert np.array_equal(by_index.data, same)
    assert results[1].unit == u.adu
    assert results[2].header["GAIN"] == pytest.approx(2.0 / solution.gain[2, 0])
    assert "BLANK" not in results[2].header
    assert results[3].meta == {"OBJECT": "M 31"}
    assert image.header["GAIN"] == 2.0


def test_colours_keep_their_layout() -> None:
    """A cube with its channels last comes back with its channels last, each corrected."""
    tiles = simulated(rgb=True)
    items = [CCDData(np.moveaxis(t.data, 0, 2), unit="adu", wcs=t.wcs) for t in tiles]
    solution = solve(items)
    corrected = solution.correct(items[2])
    assert corrected.shape == items[2].shape
    expected = correct(tiles[2].data, solution.correction(2))
    assert np.array_equal(corrected.data, np.moveaxis(expected, 0, 2))


def test_a_tile_is_found_by_its_name_and_path(write_tiles: Any) -> None:
    """A name or a path stands for its tile; any other is refused in one line."""
    paths = write_tiles()
    solution = solve(paths)
    by_name, by_path = solution.correct(paths[1].name), solution.correct(paths[1])
    assert np.array_equal(by_name.data, by_path.data)
    for wrong in ("other.fits", 4, np.zeros((3, 3))):
        with pytest.raises(UserError, match=r"none of the tiles|there are tiles 0 to 3"):
            solution.correct(wrong)


def test_the_tables_have_units(reference: PhaseSolution) -> None:
    """The columns of both tables with a unit are quantities; an unknown unit stays a text."""
    table, pairs = reference.to_table(), reference.to_pairs_table()
    assert isinstance(table, QTable)
    assert (table["offset"].unit, pairs["area"].unit) == (u.adu, u.deg**2)
    assert np.array_equal(table["offset"].value, reference.offset.ravel())
    strange = solve([hdu(tile, BUNIT="frobs/s") for tile in simulated()])
    assert str(strange.to_table()["offset"].unit) == "frobs/s"


@pytest.mark.parametrize("unit", ["adu", "frobs/s", ""])
@pytest.mark.parametrize("ending", ["fits", "parquet"])
def test_tables_are_also_written_as_fits_and_parquet(
    unit: str, ending: str, tmp_path: Path
) -> None:
    """They have the columns and the values of the ECSV table, and its units where they are."""
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        pytest.importorskip("pandas", reason="pandas is not installed")
    solution = solve([hdu(tile, BUNIT=unit) for tile in simulated()])
    table = corrections_table(solution, solution.settings)
    write_table(table, tmp_path / f"t.{ending}")
    again = QTable.read(tmp_path / f"t.{ending}")
    assert again.colnames == table.colnames
    assert np.array_equal(again["offset"].value, table["offset"])
    if unit == "adu":
        assert again["offset"].unit == u.adu
    assert list(again["file"]) == list(table["file"])


def test_a_run_writes_its_tables_in_other_formats(
    intertile: Callable[..., Run],
    write_tiles: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--tables adds files beside those in ECSV; a format without its package is refused at once."""
    tiles = write_tiles()
    assert intertile(*tiles, "--tables", "fits").code == 0
    for name in ("corrections", "pairs"):
        again, ecsv = (QTable.read(tmp_path / "run" / f"{name}.{end}") for end in ("fits", "ecsv"))
        assert again.colnames == ecsv.colnames
        assert np.array_equal(again["gain"], ecsv["gain"], equal_nan=True)
    monkeypatch.setattr("zemosaic.cli.options.find_spec", lambda name: None)
    refused = intertile(*tiles, "--tables", "parquet")
    assert refused.code == 2
    assert "needs pyarrow; pip install 'zemosaic[parquet]'" in refused.err


def test_progress_reports_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """With progress=True the error of a tile is printed; without it nothing is."""
    tiles: list[Any] = [*arrays(), "none.fits"]
    solve(tiles)
    assert capsys.readouterr() == ("", "")
    calibrate(tiles, pool="serial", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "none.fits: no such file" in err


def test_a_solution_shows_itself(reference: PhaseSolution) -> None:
    """Its HTML has groups, steps before and after, two maps with labels, and all gains."""
    page = reference._repr_html_()
    assert "4 of 4 tiles in 1 group" in page
    assert seam_line(reference) in page
    assert page.count('<svg role="img" aria-label="') == 2
    assert page.count("<tr>") == 5
    before, after = seam_steps(reference)
    assert np.median(before) > 10 * np.median(after)
    assert repr(reference).startswith("<PhaseSolution: 4 of 4 tiles in 1 group")


def test_a_solution_with_problems_shows_them() -> None:
    """A failed tile is named, its row has unknown corrections, and markup in names is text."""
    tiles: list[Any] = [(tile.data, tile.wcs) for tile in simulated()]
    tiles[2] = "<b>none</b>.fits"
    page = solve(tiles)._repr_html_()
    assert "&lt;b&gt;none&lt;/b&gt;.fits: no such file" in page
    assert "<b>none" not in page
    assert "unknown" in page


def test_the_map_has_tiles_and_pairs_on_the_sky(reference: PhaseSolution) -> None:
    """The map has an outline for each tile, a line for each pair, and right ascensions."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    import matplotlib

    matplotlib.use("agg")
    axes = reference.plot_sky()
    outlines, *lines = axes.collections
    assert len(outlines.get_paths()) == 4
    assert sum(len(group.get_paths()) for group in lines) == len(reference.records)
    low, high = axes.get_xlim()
    assert all(low <= x <= high for path in outlines.get_paths() for x in path.vertices[:, 0])
    assert axes.wcs.wcs.ctype[0].startswith("RA")
    matplotlib.pyplot.close(axes.figure)
