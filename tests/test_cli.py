"""The command line: its files, its output, and the accuracy of its results."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic import __version__
from zemosaic.cli import main
from zemosaic.photometry._kernels import COMPILED
from zemosaic.photometry.mosaic import write_mosaic
from zemosaic.photometry.simulate import Scene
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile_files import open_tile
from zemosaic.report.build import load_run

Command = Callable[..., Run]
WriteTiles = Callable[..., list[Path]]

COLUMNS = [
    "tile", "file", "channel", "gain", "gain_err", "offset", "offset_err", "bias", "slope_x",
    "slope_y", "curve_xx", "curve_xy", "curve_yy",
    "cubic_xxx", "cubic_xxy", "cubic_xyy", "cubic_yyy",
    "quartic_xxxx", "quartic_xxxy", "quartic_xxyy", "quartic_xyyy", "quartic_yyyy",
    "component", "gain_group", "pairs", "suspect", "shift",
]  # fmt: skip


def table(path: Path) -> Table:
    return Table.read(path, format="ascii.ecsv")


def column(corrections: Table, name: str) -> np.ndarray:
    """Return a column of corrections.ecsv with shape (tile, channel)."""
    channels = corrections["channel"].max() + 1
    return np.asarray(corrections[name], dtype=float).reshape(-1, channels)


def truth(**changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the true gains and offsets of `simulated`, with shape (tile, channel)."""
    tiles = simulated(**changes)
    return np.array([t.gain for t in tiles]), np.array([t.offset for t in tiles])


def relative_to(first: int, gain: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same corrections with gain 1 and offset 0 for one of the tiles."""
    return gain / gain[first], (offset - offset[first]) / gain[first]


def assert_recovered(corrections: Table, tolerance: float = 1e-3, **changes: Any) -> None:
    """Compare gains, and levels at the sky (1000 ADU), with the truth to a relative tolerance."""
    gain, offset = relative_to(0, *truth(**changes))
    solved_gain, solved_offset = relative_to(
        0, column(corrections, "gain"), column(corrections, "offset")
    )
    np.testing.assert_allclose(solved_gain, gain, rtol=tolerance)
    solved_level, level = solved_gain * 1000 + solved_offset, gain * 1000 + offset
    np.testing.assert_allclose(solved_level, level, rtol=tolerance)


def process(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in another process, with the default pool."""
    start = [sys.executable, "-c", "from zemosaic.cli import main; main()"]
    return subprocess.run(
        [*start, *(str(argument) for argument in arguments)],
        capture_output=True, encoding="utf-8", timeout=120, check=False, **options,
    )  # fmt: skip


# ---- tables -----------------------------------------------------------------------------------


def test_corrections_have_these_columns_and_a_row_per_tile_and_channel(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """corrections.ecsv has these columns in this order, units, and a row per tile and channel."""
    files = write_tiles(rgb=True)
    assert intertile(*files).code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert corrections.colnames == COLUMNS
    units = {name: corrections[name].unit for name in COLUMNS if corrections[name].unit}
    assert units == {
        "offset": u.adu,
        "offset_err": u.adu,
        "bias": u.adu,
        "slope_x": u.adu / u.pix,
        "slope_y": u.adu / u.pix,
        **{f"curve_{powers}": u.adu / u.pix**2 for powers in ("xx", "xy", "yy")},
        **{f"cubic_{powers}": u.adu / u.pix**3 for powers in ("xxx", "xxy", "xyy", "yyy")},
        **{
            f"quartic_{powers}": u.adu / u.pix**4
            for powers in ("xxxx", "xxxy", "xxyy", "xyyy", "yyyy")
        },
        "shift": u.pix,
    }
    assert corrections["tile"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert corrections["channel"].tolist() == [0, 1, 2] * 4
    assert corrections["file"].tolist() == [path.name for path in files for _ in range(3)]
    assert corrections.meta["formula"].startswith("corrected = gain * data + offset + slope_x")
    assert corrections.meta["zemosaic"] == __version__
    assert (corrections["component"] == 0).all()
    assert (corrections["pairs"] == 3).all()


@pytest.mark.parametrize("model", [None, "gain+offset"])
@pytest.mark.parametrize("changes", [{}, {"trail": True}, {"sip": True}, {"seed": 5}], ids=str)
def test_the_truth_is_recovered(
    changes: dict[str, Any],
    model: str | None,
    write_tiles: WriteTiles,
    intertile: Command,
    tmp_path: Path,
) -> None:
    """Without noise, gains are accurate to 1e-3, and levels to 1 ADU of 1000."""
    options = ["--model", model] if model else []
    assert intertile(*write_tiles(**changes), *options).code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert_recovered(corrections, **changes)
    gain = column(corrections, "gain")
    assert gain.std() > 0.05, "the true gains differ"
    assert np.log(gain).mean() == pytest.approx(0, abs=1e-12)
    for name in ("gain_err", "offset_err"):
        assert (column(corrections, name) > 0).all()
    if model:  # without planes
        assert not corrections["slope_x"].any()
        assert not corrections["slope_y"].any()


def test_every_colour_has_its_own_truth(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Each channel has its own gain, rather than one luminance gain."""
    assert intertile(*write_tiles(rgb=True, seed=2)).code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert_recovered(corrections, rgb=True, seed=2)
    assert np.ptp(column(corrections, "gain"), axis=1).max() > 0.1, "the colours differ"


def test_pairs_have_a_row_per_pair_and_channel(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """pairs.ecsv has tiles, outcome, reason and the measured line, which agrees with the truth."""
    files = write_tiles(rgb=True, seed=2)
    intertile(*files)
    pairs = table(tmp_path / "run" / "pairs.ecsv")
    assert pairs.colnames[:9] == [
        "pair", "tile_i", "tile_j", "file_i", "file_j", "channel", "outcome", "reason", "area",
    ]  # fmt: skip
    ends = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs["pair"].tolist() == [k for k in range(1, 7) for _ in range(3)]
    assert list(zip(pairs["tile_i"], pairs["tile_j"], strict=True)) == [
        end for end in ends for _ in range(3)
    ]
    assert pairs["channel"].tolist() == [0, 1, 2] * 6
    assert pairs["file_i"].tolist() == [files[i].name for i in pairs["tile_i"]]
    assert pairs["file_j"].tolist() == [files[j].name for j in pairs["tile_j"]]
    assert set(pairs["outcome"]) == {"measured"}
    assert pairs["area"].unit == u.deg**2
    assert {pairs[name].unit for name in ("offset", "x", "y", "rms", "residual")} == {u.adu}
    gain, _ = truth(rgb=True, seed=2)
    i, j, c = pairs["tile_i"], pairs["tile_j"], pairs["channel"]
    np.testing.assert_allclose(pairs["gain"], gain[i, c] / gain[j, c], rtol=0.02)
    on_the_line = pairs["gain"] * pairs["x"] + pairs["offset"]
    np.testing.assert_allclose(on_the_line, pairs["y"], rtol=1e-9)


def test_pairs_that_could_not_be_measured_have_a_row_with_the_reason(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """A pair without common cells has a row: "rejected", the reason, and no numbers."""
    files = write_tiles()
    tile = fits.getdata(files[0])
    tile[:, 20:] = tile[20:] = np.nan  # tile 0 keeps a corner that no other tile overlaps
    fits.update(files[0], tile, fits.getheader(files[0]))
    result = intertile(*files)
    pairs = table(tmp_path / "run" / "pairs.ecsv")
    rejected = pairs[pairs["tile_i"] == 0]
    assert set(rejected["outcome"]) == {"rejected"}
    assert all("common cells" in reason for reason in rejected["reason"])
    assert np.isnan(rejected["gain"]).all()
    assert np.isnan(rejected["residual"]).all()
    assert set(pairs[pairs["tile_i"] > 0]["outcome"]) == {"measured"}
    assert "3 measured, 3 rejected" in result.out
    assert "tile_0000.fits: no overlap with another tile could be measured" in result.err
    assert result.code == 0


def test_neighbours_prunes_pairs_and_keeps_the_mosaic_in_one_piece(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """With one neighbour each, 9 tiles have fewer pairs, one group, and accurate gains."""
    files = write_tiles(tiles=9)
    intertile(*files, "--neighbours", 0)
    everything = len(table(tmp_path / "run" / "pairs.ecsv"))
    result = intertile(*files, "--neighbours", 1)
    assert 8 <= len(table(tmp_path / "run" / "pairs.ecsv")) < everything
    assert "9 of 9, in 1 group\n" in result.out
    assert f"of {everything} overlaps" in result.out
    assert_recovered(table(tmp_path / "run" / "corrections.ecsv"), 5e-3, tiles=9)


def test_small_overlaps_can_be_left_out(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """`--min-overlap` is a fraction of the smaller tile: 0.3 excludes the diagonals."""
    files = write_tiles()
    intertile(*files, "--min-overlap", 0.3)
    pairs = table(tmp_path / "run" / "pairs.ecsv")
    assert 3 <= len(pairs) < 6
    full = 96 * 128 * 6.6e-4**2
    assert pairs["area"].min() >= 0.3 * full * 0.999


# ---- corrected tiles and the mosaic -----------------------------------------------------------


def test_apply_writes_tiles_that_agree_with_the_scene(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The corrected tiles are gain * data + offset, and a linear function of the scene."""
    files = write_tiles(rgb=True, seed=2)
    before = {path: path.read_bytes() for path in files}
    result = intertile(*files, "--apply", tmp_path / "out")
    assert result.code == 0
    assert f"corrected    {tmp_path / 'out'}\n" in result.out
    assert {path: path.read_bytes() for path in files} == before, "the inputs changed"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [p.name for p in files]
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    gain, offset = column(corrections, "gain"), column(corrections, "offset")
    true_gain, true_offset = truth(rgb=True, seed=2)
    for c in range(3):
        corrected, scene = [], []
        for t, path in enumerate(files):
            raw = fits.getdata(path)[c].astype(float)
            data, header = fits.getdata(tmp_path / "out" / path.name, header=True)
            np.testing.assert_allclose(data[c], gain[t, c] * raw + offset[t, c], rtol=1e-6)
            assert header[f"ZEGAIN{c}"] == gain[t, c]
            assert header[f"ZEOFFS{c}"] == offset[t, c]
            corrected.append(data[c].ravel())
            scene.append((true_gain[t, c] * raw + true_offset[t, c]).ravel())
        assert_linear(np.concatenate(scene), np.concatenate(corrected))


def assert_linear(x: np.ndarray, y: np.ndarray) -> None:
    residual = y - np.polyval(np.polyfit(x, y, 1), x)
    assert np.abs(residual).max() < 2e-3 * np.ptp(y)
    assert np.median(np.abs(residual)) < 1.0


def seams(mosaic: np.ndarray, scene: np.ndarray) -> float:
    """Return the standard deviation in ADU of a mosaic about its linear fit to the scene."""
    both = np.isfinite(mosaic) & np.isfinite(scene)
    x, y = scene[both], mosaic[both]
    faint = x < np.quantile(x, 0.95)
    return float(np.std((y - np.polyval(np.polyfit(x, y, 1), x))[faint]))


def test_mosaic_coadds_without_seams(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The coadd is finite where there are tiles, and corrections remove its seams."""
    files = write_tiles()
    uncorrected = [(open_tile(path), Correction(np.ones(1), np.zeros(1))) for path in files]
    write_mosaic(uncorrected, tmp_path / "before.fits")
    result = intertile(*files, "--mosaic", tmp_path / "new" / "after.fits")
    assert result.code == 0
    assert result.out.endswith(f"mosaic       {tmp_path / 'new' / 'after.fits'}\n")
    # The same sky through the same optics, each tile with gain 1 and offset 0.
    for path, t in zip(files, simulated(), strict=True):
        fits.update(path, t.data * t.gain[0] + t.offset[0], fits.getheader(path))
    write_mosaic(uncorrected, tmp_path / "scene.fits")
    before, after, scene = (
        fits.getdata(tmp_path / name).astype(float)
        for name in ("before.fits", "new/after.fits", "scene.fits")
    )
    np.testing.assert_array_equal(np.isfinite(after), np.isfinite(scene))
    assert 0.5 < np.isfinite(after).mean() < 1, "tiles are rotated: corners stay empty"
    for t in simulated():
        middle = WCS(fits.getheader(tmp_path / "new" / "after.fits")).world_to_array_index(
            t.wcs.pixel_to_world(64, 48)
        )
        assert np.isfinite(after[middle])
    assert seams(before, scene) > 20
    assert seams(after, scene) < 0.5
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"after.fits", "after.png"}
    _, pictures = load_run(tmp_path / "run")
    assert pictures is not None
    np.testing.assert_array_equal(pictures.after, after[np.newaxis])
    # The weights differ a little, because they follow the gains.
    np.testing.assert_allclose(np.nanmedian(pictures.before - before), 0, atol=20)
    assert seams(pictures.before[0].astype(float), scene) > 20


# ---- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["path", "name"])
def test_the_anchor_keeps_gain_1_and_offset_0(
    by: str, write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The anchor, given by path or base name, is unchanged; the others are matched to it."""
    files = write_tiles()
    anchor = files[2] if by == "path" else files[2].name
    assert intertile(*files, "--anchor", anchor).code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert (corrections["gain"][2], corrections["offset"][2]) == (1.0, 0.0)
    assert (corrections["gain_err"][2], corrections["offset_err"][2]) == (0.0, 0.0)
    gain, offset = relative_to(2, *truth())
    np.testing.assert_allclose(column(corrections, "gain"), gain, rtol=1e-3)
    level = column(corrections, "gain") * 1000 + column(corrections, "offset")
    np.testing.assert_allclose(level, gain * 1000 + offset, rtol=1e-3)


def test_model_offset_keeps_gain_1(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """For tiles that differ only in level, every gain is 1 and the levels are accurate."""
    assert intertile(*write_tiles(gains=(1.0, 1.0)), "--model", "offset").code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert (corrections["gain"] == 1).all()
    assert (corrections["gain_err"] == 0).all()
    offset = column(corrections, "offset")
    true = truth(gains=(1.0, 1.0))[1]
    assert np.ptp(true) > 100
    np.testing.assert_allclose(offset - offset[0], true - true[0], atol=0.2)


def test_model_gain_keeps_offset_0(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """For tiles that differ only by a factor, every offset is 0 and the gains are accurate."""
    assert intertile(*write_tiles(offset=0.0), "--model", "gain").code == 0
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert (corrections["offset"] == 0).all()
    gain = column(corrections, "gain")
    true = truth(offset=0.0)[0]
    np.testing.assert_allclose(gain / gain[0], true / true[0], rtol=1e-4)


@pytest.mark.parametrize(("image", "mask"), [("1", "2"), ("SCI", "MASK")])
def test_image_and_mask_are_chosen_by_number_or_name(
    image: str, mask: str, write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Another image in the first HDU and a masked area do not change the result."""
    files = write_tiles()
    decoy = np.random.default_rng(1).normal(9000, 100, (96, 128)).astype(np.float32)
    for path in files:
        data, header = fits.getdata(path, header=True)
        bad = np.zeros(data.shape, dtype=np.uint8)
        bad[30:60, 40:90] = 1
        data[bad > 0] = 40_000
        hdus = [fits.PrimaryHDU(decoy, header), fits.ImageHDU(data, header, name="SCI")]
        fits.HDUList([*hdus, fits.ImageHDU(bad, name="MASK")]).writeto(path, overwrite=True)
    chosen = ("--hdu", image, "--mask-hdu", mask, "--mosaic", tmp_path / "m.fits")
    assert intertile(*files, *chosen).code == 0
    assert_recovered(table(tmp_path / "run" / "corrections.ecsv"))
    coadd = fits.getdata(tmp_path / "m.fits")
    assert np.nanmax(coadd) < 20_000, "the mask counts in the coadd as well"
    assert np.nanmedian(coadd) < 2_000, "and so does the choice of the image"


# ---- pools and run folders --------------------------------------------------------------------


def test_every_pool_gives_the_same_bits(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """A serial run, two threads and the default processes write equal tables and tiles."""
    files = write_tiles(rgb=True, sip=True, border=True)
    results = []
    for pool in ("serial", "threads", "processes"):
        run, out = tmp_path / pool / "run", tmp_path / pool / "out"
        if pool == "processes":
            code = process("intertile", *files, "-o", run, "--apply", out).returncode
        else:
            result = intertile(*files, "-o", run, "--apply", out, "--workers", 2, pool=pool)
            code = result.code
        assert code == 0
        written = [run / "corrections.ecsv", run / "pairs.ecsv", *sorted(out.iterdir())]
        assert len(written) == 6
        results.append([path.read_bytes() for path in written])
    assert results[0] == results[1]
    assert results[0] == results[2]


def test_a_run_folder_has_results_and_no_temporary_files(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """After a failed run, a run, and a second run in the same folder."""
    files = write_tiles()
    kept = {".lock", "corrections.ecsv", "pairs.ecsv", "trace.jsonl", "journal.jsonl"}
    kept |= {"inflight.bin", "stacks", "thumbs.npy", "report.html"}
    intertile(*files[:1])
    assert {path.name for path in (tmp_path / "run").iterdir()} <= kept
    for tiles in (files[:3], files):
        intertile(*tiles)
        assert {path.name for path in (tmp_path / "run").iterdir()} == kept
        assert len(table(tmp_path / "run" / "corrections.ecsv")) == len(tiles)
    for line in (tmp_path / "run" / "trace.jsonl").read_text(encoding="utf-8").splitlines():
        assert "resourceSpans" in json.loads(line)


def test_thumbnails_that_cannot_be_written_affect_only_the_pictures(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """One line reports it; the run succeeds, and its page has everything else."""
    (tmp_path / "run" / "thumbs.npy").mkdir(parents=True)
    result = intertile(*write_tiles())
    assert result.code == 0
    assert result.err.count("thumbs.npy: cannot be written (") == 1
    assert "the report will have no pictures" in " ".join(result.err.split())
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '<img alt="' not in page
    assert "Where the time went" in page


# ---- output -----------------------------------------------------------------------------------


def test_results_go_to_standard_output_and_all_else_to_standard_error(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Without warnings standard error is empty; warnings are not on standard output."""
    files = write_tiles(islands=2)
    good = intertile(*files[:2])
    assert good.err == ""
    run = tmp_path / "run"
    lines = good.out.splitlines()
    assert lines[:3] == [
        "tiles        2 of 2, in 1 group",
        "pairs        1 of 1 overlaps: 1 measured",
        "model        auto: gains scatter 8.1 %, no gradients",
    ]
    assert re.fullmatch(r"seams        typical step \S+ before, \S+ after, in units .*", lines[3])
    assert re.fullmatch(
        r"time         prepare \d+\.\d\d s, overlap \S+ s, pairs \S+ s, solve \S+ s", lines[4]
    )
    assert lines[5:] == [
        f"corrections  {run / 'corrections.ecsv'}",
        f"pairs        {run / 'pairs.ecsv'}",
        f"report       {run / 'report.html'}",
        f"trace        {run / 'trace.jsonl'}",
    ]
    islands = intertile(*files)
    assert "the tiles form 2 separate groups" in islands.err
    assert "separate" not in islands.out
    assert "4 of 4, in 2 groups" in islands.out


def test_worker_processes_print_nothing(write_tiles: WriteTiles, tmp_path: Path) -> None:
    """With a bad tile there is one line on standard error, and the exit code is 1."""
    files = write_tiles()
    (tmp_path / "bad.fits").write_text("no FITS at all")
    run = tmp_path / "run"
    result = process("intertile", *files, tmp_path / "bad.fits", "-o", run, "--workers", 2)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path / "bad.fits") in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "4 of 5, in 1 group" in result.stdout


def test_exit_codes(write_tiles: WriteTiles, zemosaic: Command, tmp_path: Path) -> None:
    """0 solved, 1 some tiles failed, 2 bad input or usage, 3 no solution."""
    files = write_tiles(islands=2)
    serial = ("--pool", "serial", "-o", tmp_path / "run")
    assert zemosaic("intertile", *files, *serial).code == 0
    assert zemosaic("intertile", *files, tmp_path / "missing.fits", *serial).code == 1
    assert zemosaic("intertile", *files, *serial, "--model", "magic").code == 2
    assert zemosaic("intertile", files[0], *serial).code == 2
    assert zemosaic("intertile", files[0], files[3], *serial).code == 3


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script is `main`, which exits with the code of the run."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="zemosaic")
    assert script.load() is main
    for arguments, code in (["--version"], 0), (["--nonsense"], 2):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code


def test_version_and_help_go_to_standard_output(zemosaic: Command) -> None:
    """`--version` shows the kernels; `-h` and `--help` work for every command."""
    kernels = "compiled kernels" if COMPILED else "no compiled kernels"
    assert zemosaic("--version").out == f"zemosaic, version {__version__} ({kernels})\n"
    for flag in ("-h", "--help"):
        shown = zemosaic(flag)
        assert (shown.code, shown.err) == (0, "")
        assert all(command in shown.out for command in ("intertile", "simulate", "demo"))
        for command in ("intertile", "simulate", "demo"):
            assert zemosaic(command, flag).out.startswith(f"Usage: zemosaic {command} ")


# ---- simulate ---------------------------------------------------------------------------------

SMALL = ("--tiles", 4, "--size", "128x96")


def read_tiles(folder: Path) -> list[np.ndarray]:
    return [fits.getdata(path) for path in sorted(folder.glob("tile_*.fits"))]


def test_simulate_writes_tiles_and_their_truth(zemosaic: Command, tmp_path: Path) -> None:
    """The tiles have the requested size and a celestial WCS, and truth.ecsv has units."""
    folder = tmp_path / "new" / "sim"
    result = zemosaic("simulate", folder, "--tiles", 3, "--size", "130x90")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"3 tiles and their truth in {folder}\n"
    names = ["tile_0000.fits", "tile_0001.fits", "tile_0002.fits"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "truth.ecsv"]
    for name in names:
        with fits.open(folder / name) as hdus:
            assert hdus[0].data.shape == (90, 130)
            assert hdus[0].header["BITPIX"] == -32
            assert hdus[0].header["BUNIT"] == "adu"
            assert np.isfinite(hdus[0].data).all()
            assert WCS(hdus[0].header).wcs.ctype[0] == "RA---TAN"
    true = table(folder / "truth.ecsv")
    assert true.colnames == ["tile", "file", "channel", "gain", "offset", "fwhm"]
    assert (true["offset"].unit, true["fwhm"].unit) == (u.adu, u.pix)
    assert true["file"].tolist() == names
    assert true.meta["formula"] == "scene = gain * data + offset"


def test_tiles_corrected_by_their_truth_match(
    zemosaic: Command, intertile: Command, tmp_path: Path
) -> None:
    """Tiles corrected by truth.ecsv need no further correction."""
    zemosaic("simulate", tmp_path / "sim", *SMALL, "--no-noise", "--overlap", 0.4)
    true = table(tmp_path / "sim" / "truth.ecsv")
    files = [tmp_path / "sim" / name for name in true["file"]]
    for path, gain, offset in zip(files, true["gain"], true["offset"], strict=True):
        data, header = fits.getdata(path, header=True)
        fits.update(path, (gain * data + offset).astype(np.float32), header)
    assert intertile(*files).code == 0
    solved = table(tmp_path / "run" / "corrections.ecsv")
    np.testing.assert_allclose(solved["gain"], 1, atol=3e-3)
    np.testing.assert_allclose(solved["gain"] * 1000 + solved["offset"], 1000, atol=0.5)
    assert true["gain"].std() > 0.05


def test_the_same_seed_gives_the_same_bits(zemosaic: Command, tmp_path: Path) -> None:
    """The seed determines everything; another seed gives another sky and other gains."""
    for name, seed in ("a", 7), ("b", 7), ("c", 8):
        zemosaic("simulate", tmp_path / name, *SMALL, "--seed", seed)
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_noise_is_photon_and_read_noise(zemosaic: Command, tmp_path: Path) -> None:
    """Tiles with noise scatter about those without as photon and read noise predict."""
    zemosaic("simulate", tmp_path / "a", *SMALL)
    zemosaic("simulate", tmp_path / "b", *SMALL, "--no-noise")
    true = table(tmp_path / "a" / "truth.ecsv")
    for t, (noisy, clean) in enumerate(
        zip(read_tiles(tmp_path / "a"), read_tiles(tmp_path / "b"), strict=True)
    ):
        added = -true["offset"][t] / true["gain"][t]
        sigma = np.sqrt((clean - added) / Scene.electrons + Scene.read_noise**2)
        assert np.std((noisy - clean) / sigma) == pytest.approx(1, abs=0.03)


def test_border_affects_only_the_borders(zemosaic: Command, tmp_path: Path) -> None:
    """`--border` puts NaN on all four sides, and none in the middle."""
    zemosaic("simulate", tmp_path, *SMALL, "--border")
    for data in read_tiles(tmp_path):
        missing = np.isnan(data)
        for side in (missing[0], missing[-1], missing[:, 0], missing[:, -1]):
            assert side.mean() > 0.5
        assert not missing[14:-14, 18:-18].any()


def test_sip_distorts(zemosaic: Command, tmp_path: Path) -> None:
    """`--sip` writes SIP headers that astropy reads, and moves the corners."""
    zemosaic("simulate", tmp_path, *SMALL, "--sip")
    for path in sorted(tmp_path.glob("tile_*.fits")):
        header = fits.getheader(path)
        assert header["CTYPE1"] == "RA---TAN-SIP"
        assert header["A_ORDER"] == 2
        wcs = WCS(header)
        assert np.abs(wcs.all_pix2world(0, 0, 0)[1] - wcs.wcs_pix2world(0, 0, 0)[1]) > 1e-7


def test_rgb_has_three_channels_of_different_gain(zemosaic: Command, tmp_path: Path) -> None:
    """`--rgb` writes arrays of shape (3, H, W), and a row of truth per channel."""
    zemosaic("simulate", tmp_path, *SMALL, "--rgb")
    assert {data.shape for data in read_tiles(tmp_path)} == {(3, 96, 128)}
    true = table(tmp_path / "truth.ecsv")
    assert true["channel"].tolist() == [0, 1, 2] * 4
    assert len(set(true["gain"])) == 12


def test_islands_are_separate_components(
    zemosaic: Command, intertile: Command, tmp_path: Path
) -> None:
    """With `--islands 2` the tiles form two groups, numbered in corrections.ecsv."""
    zemosaic("simulate", tmp_path / "sim", *SMALL, "--islands", 2, "--rgb")
    result = intertile(*sorted((tmp_path / "sim").glob("tile_*.fits")))
    assert "in 2 groups" in result.out
    corrections = table(tmp_path / "run" / "corrections.ecsv")
    assert corrections["component"].tolist() == [0] * 6 + [1] * 6


def test_trail_crosses_every_third_tile(zemosaic: Command, tmp_path: Path) -> None:
    """`--trail` adds a bright line to tiles 0 and 3, and changes no bit of the others."""
    zemosaic("simulate", tmp_path / "a", *SMALL, "--no-noise")
    zemosaic("simulate", tmp_path / "b", *SMALL, "--no-noise", "--trail")
    scenes = []
    for name in "ab":
        true = table(tmp_path / name / "truth.ecsv")
        scenes.append([g * data + o for g, o, data in zip(
            true["gain"], true["offset"], read_tiles(tmp_path / name), strict=True)])  # fmt: skip
    for t, (plain, crossed) in enumerate(zip(*scenes, strict=True)):
        trail = crossed - plain
        if t % 3:
            assert not trail.any()
        else:
            assert trail.max() == pytest.approx(400, abs=40)
            assert 0.005 < (trail > 100).mean() < 0.1


def test_gradient_tilts_every_tile_by_itself(zemosaic: Command, tmp_path: Path) -> None:
    """`--gradient` adds a different plane to each tile, of at most 60 ADU in total."""
    zemosaic("simulate", tmp_path / "a", *SMALL, "--no-noise")
    zemosaic("simulate", tmp_path / "b", *SMALL, "--no-noise", "--gradient")
    y, x = np.mgrid[:96, :128]
    slopes = []
    for t in range(4):
        scene = []
        for name in "ab":
            true = table(tmp_path / name / "truth.ecsv")
            data = read_tiles(tmp_path / name)[t].astype(float)
            scene.append(true["gain"][t] * data + true["offset"][t])
        added = scene[1] - scene[0]
        design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], axis=1)
        plane, *_ = np.linalg.lstsq(design, added.ravel(), rcond=None)
        np.testing.assert_allclose(design @ plane, added.ravel(), atol=0.01)
        assert 1 < np.ptp(added) <= 60
        slopes.append(plane[1:])
    assert np.ptp(slopes, axis=0).min() > 0.01


def test_the_instrument_is_written_with_the_truth(zemosaic: Command, tmp_path: Path) -> None:
    """With `--vignetting`, `--flat-residual` and `--glow` the formula in truth.ecsv holds."""
    zemosaic("simulate", tmp_path / "a", *SMALL, "--no-noise")
    zemosaic(
        "simulate", tmp_path / "b", *SMALL, "--no-noise",
        "--vignetting", 0.1, "--flat-residual", 0.01, "--glow", 50,
    )  # fmt: skip
    plain, lit = (table(tmp_path / name / "truth.ecsv") for name in "ab")
    assert plain.meta["formula"] == "scene = gain * data + offset"
    expression = "scene = (gain * (data - GLOW) + offset) / FLAT, see truth/illumination.fits"
    assert lit.meta["formula"] == expression
    flat, glow = (fits.getdata(tmp_path / "b/truth/illumination.fits", n) for n in ("FLAT", "GLOW"))
    assert flat.min() < 0.95
    assert glow.max() > 45
    pairs = zip(read_tiles(tmp_path / "b"), read_tiles(tmp_path / "a"), strict=True)
    for t, (data, true) in enumerate(pairs):
        scene = (lit["gain"][t] * (data - glow) + lit["offset"][t]) / flat
        np.testing.assert_allclose(scene, plain["gain"][t] * true + plain["offset"][t], rtol=1e-5)
    assert len(list((tmp_path / "b").glob("*.fits"))) == 4


def test_overlap_and_rotation_are_as_requested(zemosaic: Command, tmp_path: Path) -> None:
    """Neighbours overlap by about the fraction of a side; without rotation none is rotated."""
    for overlap in (0.2, 0.6):
        folder = tmp_path / str(overlap)
        zemosaic("simulate", folder, *SMALL, "--overlap", overlap, "--rotation", 0)
        frames = [WCS(fits.getheader(folder / f"tile_000{t}.fits")) for t in (0, 1)]
        centre = frames[1].pixel_to_world(63.5, 47.5)
        across, along = (float(v) for v in frames[0].world_to_pixel(centre))
        # Tile 1 is next to tile 0; each is shifted by up to a quarter of the overlap.
        assert (across - 63.5) / 128 == pytest.approx(1 - overlap, abs=overlap / 2)
        assert abs(along - 47.5) / 96 <= overlap / 2
        matrix = frames[0].pixel_scale_matrix
        assert abs(matrix[0, 1]) < 1e-6 * abs(matrix[0, 0])


# ---- demo -------------------------------------------------------------------------------------


def test_demo_prints_solution_and_truth(zemosaic: Command, tmp_path: Path) -> None:
    """The demo prints the values of corrections.ecsv and truth.ecsv, and a small error."""
    folder = tmp_path / "demo"
    result = zemosaic("demo", folder, "--pool", "serial")
    assert (result.code, result.err) == (0, "")
    row = r"^ +(\d+) +(\S+) +(\S+) ± (\S+) +(\S+) +(\S+) ± (\S+)$"
    rows = re.findall(row, result.out, re.M)
    shown = np.array(rows, dtype=float)
    assert shown[:, 0].tolist() == list(range(12))
    corrections = table(folder / "corrections.ecsv")
    true = table(folder / "tiles" / "truth.ecsv")
    for column, name in ((2, "gain"), (5, "offset")):
        # The errors have two digits, and the values as many decimals.
        error = corrections[f"{name}_err"]
        assert np.all(np.abs(shown[:, column] - corrections[name]) <= 0.051 * error)
        np.testing.assert_allclose(shown[:, column + 1], error, rtol=0.051)
    np.testing.assert_allclose(shown[:, 1] / shown[0, 1], true["gain"] / true["gain"][0], rtol=2e-4)
    error = (shown[:, 2] / shown[:, 1]).std() * 100
    assert "\n\ntile  true gain" in result.out, "an empty line before the table"
    printed = re.search(r"rms gain error (\S+) %; the true gains vary by (\S+) %\n$", result.out)
    assert printed is not None
    assert float(printed[1]) == pytest.approx(error, abs=0.02)
    assert float(printed[1]) < 0.4 * float(printed[2])
