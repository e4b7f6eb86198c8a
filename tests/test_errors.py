"""Mistakes of the user: one line with the problem and the remedy, and the exit code."""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from tests.helpers.cli import Run
from tests.helpers.tiles import simulated
from zemosaic.runtime.run_folder import FolderError, claim
from zemosaic.settings import MODELS

Command = Callable[..., Run]
WriteTiles = Callable[..., list[Path]]


def refused(result: Run, code: int = 2) -> str:
    """Return the only line of an error."""
    assert result.code == code, result
    assert "Traceback" not in result.out + result.err
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("zemosaic: ")
    return lines[0]


def corrections(folder: Path) -> Table:
    return Table.read(folder / "run" / "corrections.ecsv", format="ascii.ecsv")


# ---- a bad tile among good ones ---------------------------------------------------------------

Spoil = Callable[[Path, np.ndarray, fits.Header], None]


def rewrite(change: Callable[[np.ndarray, fits.Header], np.ndarray | None]) -> Spoil:
    """Rewrite a tile after a change of its image (returned) or header (in place)."""

    def spoil(path: Path, data: np.ndarray, header: fits.Header) -> None:
        changed = change(data, header)
        fits.PrimaryHDU(data if changed is None else changed, header).writeto(path, overwrite=True)

    return spoil


def cards(**changes: Any) -> Spoil:
    return rewrite(lambda data, header: header.update(changes))


def cut(part: float) -> Spoil:
    """Keep the header and a fraction of the data."""

    def spoil(path: Path, data: np.ndarray, header: fits.Header) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) - round((1 - part) * data.nbytes)])

    return spoil


def as_folder(path: Path, data: np.ndarray, header: fits.Header) -> None:
    path.unlink()
    path.mkdir()


def as_table(path: Path, data: np.ndarray, header: fits.Header) -> None:
    column = fits.Column("x", "D", array=np.arange(5.0))
    fits.BinTableHDU.from_columns([column]).writeto(path, overwrite=True)


def as_damaged_gzip(path: Path, data: np.ndarray, header: fits.Header) -> None:
    noise = np.random.default_rng(1).normal(size=data.shape)
    fits.PrimaryHDU(noise, header).writeto(path, overwrite=True)
    packed = bytearray(gzip.compress(path.read_bytes()))
    packed[len(packed) // 2 : len(packed) // 2 + 600] = b"\xff" * 600
    path.write_bytes(packed)


CANNOT_READ = r"cannot be read as FITS \(.+\); copy it again or recreate it"
SPOILED = {
    "missing": (lambda path, *_: path.unlink(), "no such file; check the name"),
    "folder": (as_folder, "is a folder; name the FITS files in it"),
    "text": (lambda path, *_: path.write_text("no FITS\n" * 999), CANNOT_READ),
    "empty": (lambda path, *_: path.write_bytes(b""), CANNOT_READ),
    "cut in half": (cut(0.5), CANNOT_READ),
    "cut in the header": (lambda path, *_: path.write_bytes(b"SIMPLE  =  T"), CANNOT_READ),
    "damaged gzip": (as_damaged_gzip, CANNOT_READ),
    "table": (as_table, "holds no image; give a FITS file with one"),
    "no pixels": (rewrite(lambda data, header: data[:0]), r"has no pixels \(.*\); leave it out"),
    "cube of 7": (rewrite(lambda data, header: np.stack([data] * 7)), "choose another HDU"),
    "no WCS": (rewrite(lambda data, header: header.clear()), "no celestial WCS; solve the plate"),
    "projection": (cards(CTYPE1="RA---FOO"), "its WCS cannot be read .*; solve the plate again"),
    "singular": (cards(PC1_1=0.0, PC1_2=0.0), "its WCS .* is singular.*; solve the plate again"),
    "no scale": (cards(CDELT1=0.0), "matrix of its WCS .* is singular.*; solve the plate again"),
    "infinite": (cards(PC1_1="inf"), "its PC1_1 is not a number; solve the plate again"),
    "far away": (cards(CRVAL1=1e19), r"its CRVAL1 is 1e\+19, no position on the sky .*; solve the"),
    "beyond the pole": (cards(CRVAL2=1e20), "reference value .* no position on the sky; solve the"),
    "scale": (
        cards(CDELT1=300.0, CDELT2=300.0),
        "its pixels are 300 times as large as those of the others by its WCS; solve the plate",
    ),
    "all-sky": (cards(CDELT1=9999.0, CDELT2=9999.0), "spans .* cut out of an all-sky map"),
    "text for a number": (cards(CRVAL1="twelve"), "CRVAL1 is not a number; solve the plate again"),
    "all NaN": (rewrite(lambda data, header: data * np.nan), "has no valid pixel .*; leave it out"),
    "colours": (
        rewrite(lambda data, header: np.stack([data] * 3)),
        "has 3 channels, most others have 1; leave it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SPOILED)
def test_a_bad_tile_affects_no_other(
    fault: str, write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """One line names file and remedy, the exit code is 1, its row is NaN, the rest is solved."""
    files = write_tiles()
    intertile(*files[:1], *files[2:], "--apply", tmp_path / "without")
    expected = corrections(tmp_path)
    spoil, message = SPOILED[fault]
    spoil(files[1], *fits.getdata(files[1], header=True))
    result = intertile(*files, "--apply", tmp_path / "out", "--mosaic", tmp_path / "m.fits")
    assert result.code == 1
    assert "Traceback" not in result.out + result.err
    (error,) = result.err.splitlines()
    (summary,) = [line for line in result.out.splitlines() if line.startswith("failed ")]
    for line in (error, summary):
        assert files[1].name in line
        assert re.search(message, line), line
    assert "tiles        3 of 4, in 1 group\n" in result.out
    solved = corrections(tmp_path)
    bad, good = solved[solved["tile"] == 1], solved[solved["tile"] != 1]
    assert bad["file"][0] == files[1].name
    assert all(np.isnan(bad[name][0]) for name in ("gain", "gain_err", "offset", "offset_err"))
    assert (bad["component"][0], bad["pairs"][0]) == (-1, 0)
    assert good["component"].tolist() == expected["component"].tolist()
    assert good["pairs"].tolist() == expected["pairs"].tolist()
    # The grid covers all tiles with a good header, so the last digits may differ, and the kept
    # median sky level by a little more.
    np.testing.assert_allclose(good["gain"], expected["gain"], rtol=1e-4)
    difference = good["offset"] - expected["offset"]
    np.testing.assert_allclose(difference, difference[0], atol=0.05)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [path.name for path in files if path != files[1]]
    assert np.isfinite(fits.getdata(tmp_path / "m.fits")).any()


def test_a_bad_tile_is_in_no_pair(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """pairs.ecsv has no row with a tile that could not be read."""
    files = write_tiles()
    files[1].unlink()
    intertile(*files)
    pairs = Table.read(tmp_path / "run" / "pairs.ecsv", format="ascii.ecsv")
    assert set(pairs["tile_i"]) | set(pairs["tile_j"]) == {0, 2, 3}


def test_a_tile_without_overlaps_is_a_warning_and_no_failure(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """It keeps gain 1 and offset 0 in a group of its own, and the exit code is 0."""
    files = write_tiles()
    header = fits.getheader(files[1])
    header["CRVAL1"] = 10.0
    fits.update(files[1], fits.getdata(files[1]), header)
    result = intertile(*files)
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert "tile_0001.fits: no overlap with another tile could be measured" in line
    assert "keeps gain 1 and offset 0" in line
    assert "4 of 4, in 2 groups" in result.out
    unmatched = corrections(tmp_path)[1]
    assert (unmatched["gain"], unmatched["offset"], unmatched["pairs"]) == (1.0, 0.0, 0)
    assert np.isnan([unmatched["gain_err"], unmatched["offset_err"]]).all()
    assert corrections(tmp_path)["component"].tolist() == [0, 1, 0, 0]


def test_a_constant_tile_is_matched_in_level_and_affects_no_other(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Its gain cannot be measured, as pairs.ecsv reports; the others are accurate."""
    files = write_tiles()
    fits.update(files[3], np.full((96, 128), 1234.0, np.float32), fits.getheader(files[3]))
    result = intertile(*files)
    assert result.code == 0
    solved = corrections(tmp_path)
    gain, offset = np.asarray(solved["gain"]), np.asarray(solved["offset"])
    assert gain[3] == 1.0
    assert np.isfinite(offset).all()
    true = np.array([tile.gain[0] for tile in simulated()])
    np.testing.assert_allclose(gain[:3] / gain[0], true[:3] / true[0], rtol=2e-3)
    level = gain[3] * 1234.0 + offset[3]
    sky = [gain[t] * np.median(simulated()[t].data) + offset[t] for t in range(3)]
    assert min(sky) - 20 < level < max(sky) + 20
    pairs = Table.read(tmp_path / "run" / "pairs.ecsv", format="ascii.ecsv")
    reasons = pairs["reason"].filled("")  # astropy reads empty text as missing
    assert set(reasons[pairs["tile_j"] == 3]) == {"gain not measurable here"}
    assert set(reasons[pairs["tile_j"] != 3]) == {""}


# ---- nothing to solve -------------------------------------------------------------------------


def test_one_tile_is_refused(write_tiles: WriteTiles, intertile: Command) -> None:
    """One tile cannot be matched to others; the line asks for two."""
    line = refused(intertile(write_tiles()[0]))
    assert line.endswith("1 tile cannot be matched to others; give at least two")


def test_no_good_tile_is_refused(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Each bad tile has a line; the last line gives the number left and a reason; exit 2."""
    files = write_tiles()
    for path in files:
        fits.update(path, np.full((96, 128), np.nan, np.float32), fits.getheader(path))
    missing = tmp_path / "missing.fits"
    result = intertile(missing, *files)
    assert result.code == 2
    assert result.out == ""
    *lines, last = result.err.splitlines()
    assert last.startswith(f"zemosaic: 0 of 5 tiles can be used ({missing}: no such file")
    assert len(lines) == 5
    for path in (missing, *files):
        assert len([line for line in lines if f" {path.name}: " in line]) == 1
    assert "Traceback" not in result.err


def test_one_good_tile_is_not_enough(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """One usable tile of two is bad input: exit 2."""
    result = intertile(write_tiles()[0], tmp_path / "missing.fits")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("zemosaic: 1 of 2 tiles can be used")


def test_tiles_without_any_overlap_have_no_solution(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Exit 3, with the reason, and tables with gain 1, offset 0 and unknown errors."""
    files = write_tiles(islands=2)
    result = intertile(files[0], files[2])
    assert result.code == 3
    last = result.err.splitlines()[-1]
    assert last == (
        "zemosaic: no solution: no two tiles overlap; every tile keeps gain 1, offset 0"
    )
    assert "Traceback" not in result.out + result.err
    solved = corrections(tmp_path)
    assert solved["gain"].tolist() == [1, 1]
    assert solved["offset"].tolist() == [0, 0]
    assert np.isnan(solved["gain_err"]).all()
    pairs = Table.read(tmp_path / "run" / "pairs.ecsv", format="ascii.ecsv")
    assert len(pairs) == 0
    assert pairs["area"].unit == "deg2"


def test_overlaps_without_common_cells_have_no_solution(
    write_tiles: WriteTiles, intertile: Command
) -> None:
    """If footprints overlap but pixels do not, the reason is that no pair was measured."""
    files = write_tiles()[:2]
    for path, part in zip(files, (np.s_[:, 20:], np.s_[:, :-20]), strict=True):
        data = fits.getdata(path)
        data[part] = np.nan
        fits.update(path, data, fits.getheader(path))
    result = intertile(*files)
    assert result.code == 3
    assert "no solution: no pair could be measured" in result.err.splitlines()[-1]


# ---- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--workers", "-1", "workers is -1; give 0 or a positive number"),
        ("--workers", "many", "'many' is not a valid integer"),
        ("--model", "foo", f"'foo' is not one of {', '.join(map(repr, MODELS))}"),
        ("--pool", "gpu", "'gpu' is not one of 'processes', 'threads', 'serial'"),
        ("--min-overlap", "2", "min-overlap is 2.0; give a fraction"),
        ("--min-overlap", "nan", "min-overlap is nan; give a fraction"),
        ("--neighbours", "-3", "neighbours is -3; give 0 or a positive number"),
        ("--pair-timeout", "nan", "pair-timeout is nan; give 0 or a positive number"),
        ("--pair-timeout", "inf", "pair-timeout is inf; give 0 or a positive number"),
        ("--pair-timeout", "-1", "pair-timeout is -1.0; give 0 or a positive number"),
        ("--otlp", "notaurl", "'notaurl' is not an OTLP endpoint; use one like http://"),
        ("--anchor", "elsewhere.fits", "elsewhere.fits is none of the tiles; give one as it"),
        ("--anchor", "tile_0000", "tile_0000 is none of the tiles; give one as it"),
        ("--nonsense", "1", "No such option '--nonsense'"),
    ],
)
def test_an_invalid_option_is_refused_before_any_work(
    option: str,
    value: str,
    message: str,
    write_tiles: WriteTiles,
    zemosaic: Command,
    tmp_path: Path,
) -> None:
    """One line names the option and the valid values; no run folder is created."""
    run = tmp_path / "run"
    result = zemosaic("intertile", *write_tiles(), "-o", run, "--pool", "serial", option, value)
    line = refused(result).replace("_", "-") if "tile_" not in value else refused(result)
    assert message in line
    assert option.strip("-") in line.lower()
    assert result.out == ""
    assert not run.exists()


def test_an_anchor_must_name_one_tile(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The base name of two tiles is refused; the path of one is not."""
    files = write_tiles()
    (tmp_path / "more").mkdir()
    twin = shutil.copy(files[0], tmp_path / "more" / files[0].name)
    line = refused(intertile(*files, twin, "--anchor", files[0].name))
    assert "names more than one tile; give one as it stands in the list" in line
    assert intertile(*files, twin, "--anchor", twin).code == 0
    assert corrections(tmp_path)["gain"][4] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hdu", "99"], "has no HDU 99; it has 0 PRIMARY"),
        (["--hdu", "²"], "has no HDU ²; it has 0 PRIMARY"),
        (["--mask-hdu", "FLAGS"], "has no HDU FLAGS; it has 0 PRIMARY"),
    ],
)
def test_an_hdu_that_no_tile_has_is_refused(
    arguments: list[str], message: str, write_tiles: WriteTiles, intertile: Command
) -> None:
    """The last line names a file, the HDU and the existing ones; exit 2."""
    result = intertile(*write_tiles(), *arguments)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith("zemosaic: 0 of 4 tiles can be used (")
    assert "tile_0000.fits: " + message in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "banana"], "'--size': 'banana' is not like 480x360"),
        (["--size", "12x"], "'--size': '12x' is not like 480x360"),
        (["--size", "8x8"], "at least 16 x 16 pixels"),
        (["--islands", "99"], "99 islands cannot be made of 12 tiles"),
        (["--islands", "0"], "0 islands cannot be made of 12 tiles"),
        (["--overlap", "1.5"], "overlap is 1.5; give a fraction from 0 to below 1"),
        (["--overlap", "nan"], "overlap is nan; give a fraction from 0 to below 1"),
        (["--tiles", "0"], "at least 1 tile"),
        (["--tiles", "x"], "'--tiles': 'x' is not a valid integer"),
        (["--seed", "-1"], "'--seed': -1 is not in the range x>=0"),
    ],
)
def test_an_impossible_scene_is_refused(
    arguments: list[str], message: str, zemosaic: Command, tmp_path: Path
) -> None:
    """`simulate` names the invalid option, and writes nothing."""
    assert message in refused(zemosaic("simulate", tmp_path / "sim", *arguments))
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["calibrate"], "No such command 'calibrate'"),
        (["intertile"], "Missing argument 'TILES...'"),
        (["intertile", "a.fits", "--anchor"], "'--anchor' requires an argument"),
        (["simulate"], "Missing argument 'FOLDER'"),
    ],
)
def test_wrong_usage_points_to_the_help(
    arguments: list[str], message: str, zemosaic: Command
) -> None:
    """One line names the missing or unknown part, and ends with the command for help."""
    line = refused(zemosaic(*arguments))
    assert message in line
    assert line.endswith("; see zemosaic --help")


# ---- output files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "{file}"],
        ["-o", "{file}/run"],
        ["--apply", "{file}"],
        ["--apply", "{file}/out"],
        ["--mosaic", "{file}/m.fits"],
        ["--mosaic", "{folder}"],
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    arguments: list[str], write_tiles: WriteTiles, zemosaic: Command, tmp_path: Path
) -> None:
    """The line names the path. Nobody, not even root, can write below a file."""
    file, folder = tmp_path / "plain.txt", tmp_path / "folder"
    file.write_text("a file")
    folder.mkdir()
    chosen = [str(Path(argument.format(file=file, folder=folder))) for argument in arguments]
    run = [] if "-o" in arguments else ["-o", tmp_path / "run"]
    result = zemosaic("intertile", *write_tiles(), "--pool", "serial", *run, *chosen)
    line = refused(result)
    assert str(folder if "{folder}" in arguments[1] else file) in line
    assert result.out == ""
    assert not (tmp_path / "run").exists()
    assert file.read_text() == "a file"


@pytest.mark.parametrize("command", ["simulate", "demo"])
@pytest.mark.parametrize("below", [False, True])
def test_a_scene_is_not_written_over_or_below_a_file(
    command: str, below: bool, zemosaic: Command, tmp_path: Path
) -> None:
    """`simulate` and `demo` name the path that cannot be a folder."""
    file = tmp_path / "plain.txt"
    file.write_text("a file")
    assert str(file) in refused(zemosaic(command, file / "x" if below else file))
    assert file.read_text() == "a file"


def test_apply_into_the_tiles_own_folder_is_refused(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Inputs are never overwritten: the line names the tile, before any work."""
    files = write_tiles()
    before = [path.read_bytes() for path in files]
    for folder in (files[0].parent, files[0].parent / ".." / "tiles"):
        result = intertile(*files, "--apply", folder)
        assert f"{files[0]}: would be overwritten; choose another" in refused(result)
    assert [path.read_bytes() for path in files] == before
    assert not (tmp_path / "run").exists()


def test_two_tiles_of_one_name_are_written_under_different_names(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The folders that differ go before the names of tiles/x.fits and more/x.fits."""
    files = write_tiles()
    (tmp_path / "more").mkdir()
    twin = Path(shutil.copy(files[2], tmp_path / "more" / files[0].name))
    assert intertile(*files, twin, "--apply", tmp_path / "out").code == 0
    expected = [f"tiles_{files[0].name}", f"more_{twin.name}", *(file.name for file in files[1:])]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(expected)
    for source, name in ((files[0], expected[0]), (twin, expected[1])):
        data, header = fits.getdata(tmp_path / "out" / name, header=True)
        corrected = header["ZEGAIN0"] * fits.getdata(source) + header["ZEOFFS0"]
        np.testing.assert_allclose(data, corrected, rtol=1e-6)


def test_a_tile_given_twice_is_not_written_twice(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Under any spelling of its path; the line names it, before any work."""
    files = write_tiles()
    again = files[0].parent / ".." / "tiles" / files[0].name
    line = refused(intertile(*files, again, "--apply", tmp_path / "out"))
    assert line == f"zemosaic: {again}: is given twice; give each tile once"


def test_a_changed_name_is_not_written_over_a_tile(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The names that two tiles of one name get are checked as well."""
    files = write_tiles()
    (tmp_path / "more").mkdir()
    twin = shutil.copy(files[2], tmp_path / "more" / files[0].name)
    (tmp_path / "out").mkdir()
    victim = Path(shutil.copy(files[3], tmp_path / "out" / f"more_{files[0].name}"))
    before = victim.read_bytes()
    result = intertile(*files, twin, victim, "--apply", tmp_path / "out")
    assert victim.read_bytes() == before
    assert f"{victim}: would be overwritten; choose another" in refused(result)


def test_the_mosaic_is_not_written_over_a_tile(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """Neither an input nor a corrected tile of the same run is overwritten."""
    files = write_tiles()
    before = files[1].read_bytes()
    line = refused(intertile(*files, "--mosaic", files[1]))
    assert f"{files[1]}: would be overwritten; choose another place for --mosaic" in line
    assert files[1].read_bytes() == before
    out = tmp_path / "out"
    line = refused(intertile(*files, "--apply", out, "--mosaic", out / files[1].name))
    assert "would be written twice" in line


HOLD = """
import pathlib, sys
from zemosaic.runtime.run_folder import claim
with claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_run_uses_is_refused_until_that_ends(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """The line names the process that holds it; when that process is killed, the folder is free."""
    files, run = write_tiles(), tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == b"held"
            line = refused(intertile(*files))
            assert f"{run}: is in use by another run (process {holder.pid})" in line
            assert line.endswith("wait for it, or choose another folder")
            assert [path.name for path in run.iterdir()] == [".lock"]
        finally:
            holder.kill()
    assert intertile(*files).code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_run_that_was_refused_has_not_died(intertile: Command, write_tiles: WriteTiles) -> None:
    """The next run in its folder does not warn of it."""
    files = write_tiles()
    refused(intertile(*files, "--pool", "dask://127.0.0.1:1"))
    assert "previous run" not in intertile(*files).err


def test_a_drive_without_locks_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a lock held by another process is an error; a drive may not support locks."""
    import fcntl

    def without_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def held(*_: Any) -> None:
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with claim(tmp_path / "run") as folder:
        assert folder.is_dir()
    monkeypatch.setattr(fcntl, "flock", held)
    with pytest.raises(FolderError, match="is in use by another run"), claim(tmp_path / "run"):
        pass


def test_a_disk_that_fills_up_is_named_and_leaves_the_old_tables(
    write_tiles: WriteTiles,
    intertile: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 1, one line with the reason of the system, and the earlier tables unchanged."""
    files = write_tiles()
    intertile(*files[:3])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.ecsv")}

    open_path = Path.open

    def full(path: Path, mode: str = "r", *options: Any, **others: Any) -> Any:
        opened = open_path(path, mode, *options, **others)
        if ".ecsv" in path.name and "w" in mode:
            opened.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened

    monkeypatch.setattr(Path, "open", full)
    line = refused(intertile(*files), code=1)
    assert line.endswith(f": {os.strerror(errno.ENOSPC)}")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.ecsv")} == before
    assert not list((tmp_path / "run").glob(".*part*"))


# ---- names ------------------------------------------------------------------------------------

ODD = ["a b.fits", "[bold]x.fits", "[red]y[bold][].fits", "M 31 – été 星.fits", "100%s{0}.fits"]
if sys.platform != "win32":  # Windows does not allow these
    ODD += ["<img src=x>.fits", ":smile:.fits", 'quote".fits', "star*?.fits"]


def test_special_characters_in_names_are_kept(
    write_tiles: WriteTiles, intertile: Command, tmp_path: Path
) -> None:
    """No part of a file name is interpreted as markup, a pattern or a format."""
    files = write_tiles(tiles=len(ODD))
    odd = [path.rename(path.with_name(name)) for path, name in zip(files, ODD, strict=True)]
    missing = [tmp_path / f"no {name}" for name in ODD]
    result = intertile(*odd, *missing, "--apply", tmp_path / "out" / "[red]")
    assert result.code == 1
    for path in missing:
        message = f"{path}: no such file; check the name"
        assert len([line for line in result.err.splitlines() if line.endswith(message)]) == 1
        assert f"failed       {message}\n" in result.out
    assert corrections(tmp_path)["file"].tolist() == [path.name for path in odd + missing]
    assert sorted(path.name for path in (tmp_path / "out" / "[red]").iterdir()) == sorted(ODD)
    assert f"corrected    {tmp_path / 'out' / '[red]'}\n" in result.out


def test_long_names_stay_on_one_line(intertile: Command, write_tiles: WriteTiles) -> None:
    """Lines are not wrapped at 80 columns."""
    missing = Path("/no/such/folder") / ("x" * 200 + " y" * 20 + ".fits")
    (line,) = intertile(*write_tiles(), missing).err.splitlines()
    assert line.endswith(f"{missing}: no such file; check the name")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are not UTF-8")
def test_a_name_that_is_not_utf8_does_not_lose_the_results(
    write_tiles: WriteTiles, tmp_path: Path
) -> None:
    """Its bytes, and characters that the output encoding lacks, are printed as escapes."""
    files = [bytes(path) for path in write_tiles()]
    odd = files[0].replace(b"tile_0000", b"caf\xe9")
    Path(files[0].decode()).rename(odd.decode(errors="surrogateescape"))
    command = [sys.executable, "-c", "from zemosaic.cli import main; main()", "intertile"]
    command += [odd, *files[1:], bytes(tmp_path) + b"/\xe9\xe6\x98\x9f.fits", "--pool", "serial"]
    result = subprocess.run(
        [*command, "-o", tmp_path / "run"],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert result.returncode == 1, result.stderr
    assert b"/\\udce9\\u661f.fits: no such file" in result.stdout
    assert b"Traceback" not in result.stderr
    assert corrections(tmp_path)["file"][0] == "caf\\udce9.fits"
