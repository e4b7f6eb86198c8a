"""A run killed at any moment can be resumed, and its results have the same bits."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.faults.command import Command, Start
from tests.helpers.cli import Run
from zemosaic.pipeline.records import load_thumbnails
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded, JobSubmitted, RunEnded, StageStarted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")

TABLES = ("corrections.ecsv", "pairs.ecsv")
# Moments without an event.
LATE = ("kill@solve", "kill@corrections.ecsv", "kill@pairs.ecsv")


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def count_unique_results(folder: Path) -> int:
    """Check that no run repeated a result of an earlier one; return their number."""
    ended: set[tuple[str, int]] = set()
    keys: set[str] = set()
    for record in journal.read(folder):
        begun = {(e.stage, e.index) for e in record.events if isinstance(e, JobSubmitted)}
        assert not begun & ended
        for event in record.events:
            if isinstance(event, JobEnded) and event.key:
                assert event.key not in keys
                keys.add(event.key)
                ended.add((event.stage, event.index))
    return len(keys)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiles: list[str]) -> Path:
    """Return the folder of an uninterrupted run."""
    from zemosaic.cli import run

    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(["intertile", "-o", str(folder), "--pool", "serial", *tiles]) == 0
    return folder


@pytest.mark.parametrize(
    ("seed", "pool"), [(1, "processes"), (2, "threads"), (3, "serial"), (4, "serial")]
)
def test_a_run_killed_at_random_moments_has_the_same_bits(
    start: Start, uninterrupted: Path, seed: int, pool: str
) -> None:
    """After five kills, the tables are the same and nothing was measured twice.

    Four of the kills come from outside, after a random number of jobs of a stage.
    """
    chance = random.Random(seed)
    moments = [("scan", chance.randrange(6)), ("tiles", chance.randrange(1, 5))]
    moments += [("pairs", chance.randrange(4)), ("pairs", chance.randrange(1, 4))]
    resume: list[str] = []
    for killed, (stage, count) in enumerate(moments):
        run = start(*resume, pool=pool, slow=0.08)

        def there(
            run: Command = run, before: int = killed, stage: str = stage, count: int = count
        ) -> bool:
            begun = len(journal.read(run.folder)) > before and run.events(StageStarted, stage)
            return bool(begun) and len(run.events(JobEnded, stage)) >= count

        run.wait_for(there)
        run.kill()
        assert run.end().code == -9
        resume = ["--resume"]
    assert start("--resume", pool=pool, fault=LATE[seed % 3]).end().code == -9
    done = start("--resume", pool=pool).end()
    assert done.code == 0, done.err
    assert tables(run.folder) == tables(uninterrupted)
    assert count_unique_results(run.folder) == 6 + 11
    small, expected = load_thumbnails(run.folder), load_thumbnails(uninterrupted)
    assert small.keys() == expected.keys() == set(range(6))
    for index, picture in expected.items():
        assert np.array_equal(small[index], picture, equal_nan=True)
    assert not (run.folder / "previews").exists()


def tile_folder(tiles: list[str], folder: Path) -> list[str]:
    folder.mkdir()
    return [shutil.copy2(tile, folder) for tile in tiles]


def jobs_done(folder: Path) -> dict[str, set[int]]:
    """Return the indices of the tiles and pairs that the last run in a folder has done."""
    events = [e for e in journal.read(folder)[-1].events if isinstance(e, JobEnded)]
    return {stage: {e.index for e in events if e.stage == stage} for stage in ("tiles", "pairs")}


@pytest.fixture
def dead(start: Start, tiles: list[str], tmp_path: Path) -> list[str]:
    """Return the tiles of a run that died after all measurements; tests may change them."""
    words = tile_folder(tiles, tmp_path / "tiles")
    assert start(tiles=words, pool="serial", fault="kill@solve").end().code == -9
    return words


Intertile = Callable[..., Run]
ALL = set(range(1, 12))


def test_unchanged_results_are_reused(dead: list[str], intertile: Intertile) -> None:
    """A resumed run reuses all results; after a finished run, those of the pairs."""
    assert intertile("--resume", *dead).code == 0
    folder = Path(dead[0]).parents[1] / "run"
    assert jobs_done(folder) == {"tiles": set(), "pairs": set()}
    again = intertile("--resume", *dead)
    assert again.code == 0
    assert jobs_done(folder)["pairs"] == set()


def test_tiles_that_were_prepared_twice_are_reused(
    start: Start, tiles: list[str], tmp_path: Path, intertile: Intertile
) -> None:
    """The level at which they clip follows from the journal, and their last previews serve."""
    words = tile_folder(tiles, tmp_path / "tiles")
    for word in words[:2]:
        with fits.open(word, mode="update") as hdus:
            hdus[0].data[40, 60] = 1e5
    dead = start(tiles=words, pool="serial", fault="kill@solve")
    assert dead.end().code == -9
    folder = tmp_path / "run"
    assert jobs_done(folder)["tiles"] == set(range(1, 7)) | {7, 8}
    assert intertile("--resume", *words).code == 0
    assert jobs_done(folder) == {"tiles": set(), "pairs": set()}


@pytest.mark.parametrize("change", ["time", "content", "preview", "lost preview"])
def test_a_changed_tile_is_measured_again(
    dead: list[str], intertile: Intertile, change: str
) -> None:
    """Its preview is made again, and its pairs are measured if its file has changed; no others."""
    folder = Path(dead[0]).parents[1] / "run"
    tile, preview = Path(dead[2]), folder / "previews" / "2.preview"
    if change == "time":
        os.utime(tile, ns=(1, 1))
    elif change == "content":  # one bit, with the same size and time
        told = tile.stat()
        raw = bytearray(tile.read_bytes())
        raw[2880 + 8] ^= 1
        tile.write_bytes(raw)
        os.utime(tile, ns=(told.st_atime_ns, told.st_mtime_ns))
    elif change == "preview":
        raw = bytearray(preview.read_bytes())
        raw[1024:1536] = bytes(512)  # a sector that the disk lost
        preview.write_bytes(raw)
    else:
        preview.unlink()
    assert intertile("--resume", *dead).code == 0
    names = {
        e.index: f"{e.attributes['tile_i']}-{e.attributes['tile_j']}"
        for record in journal.read(folder)
        for e in record.events
        if isinstance(e, JobSubmitted) and e.stage == "pairs"
    }
    done = jobs_done(folder)
    assert done["tiles"] == {3}
    of_tile = {k for k, name in names.items() if "2" in name.split("-")}
    assert done["pairs"] == (set() if "preview" in change else of_tile)


def test_pairs_are_measured_again_only_for_another_model(
    dead: list[str], intertile: Intertile
) -> None:
    """Another model needs other measurements; another anchor does not."""
    folder = Path(dead[0]).parents[1] / "run"
    assert intertile("--resume", "--anchor", "tile_0001.fits", *dead).code == 0
    assert jobs_done(folder) == {"tiles": set(), "pairs": set()}
    assert intertile("--resume", "--model", "offset", *dead).code == 0
    assert jobs_done(folder)["pairs"] == ALL


def test_results_of_another_version_are_measured_again(
    dead: list[str], intertile: Intertile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of another version are not reused."""
    monkeypatch.setattr("zemosaic.pipeline.tasks.__version__", "0.0.0")
    assert intertile("--resume", *dead).code == 0
    assert jobs_done(Path(dead[0]).parents[1] / "run")["pairs"] == ALL


def test_without_resume_a_dead_run_is_reported_and_kept(
    dead: list[str], intertile: Intertile
) -> None:
    """One line names the dead run; its results can be reused, even after the next death."""
    folder = Path(dead[0]).parents[1] / "run"
    known = journal.results(folder)
    done = intertile(*dead)
    (line,) = [line for line in done.err.splitlines() if "the previous run died" in line]
    assert "zemosaic autopsy" in line
    assert "17 results" in line
    assert done.code == 0
    assert jobs_done(folder)["pairs"] == ALL
    assert known.keys() <= journal.results(folder).keys()
    # A finished run has its tables, so the next one silently starts a new journal.
    again = intertile(*dead)
    assert "previous run" not in again.err
    assert len(journal.read(folder)) == 1


def test_resume_in_an_empty_folder_is_a_new_run(intertile: Intertile, tiles: list[str]) -> None:
    """With nothing to resume, --resume prints nothing about it."""
    done = intertile("--resume", *tiles)
    assert done.code == 0
    assert "resumed" not in done.err


def test_a_second_run_in_a_folder_is_refused(start: Start, tiles: list[str]) -> None:
    """Exit 2 with the process of the first run, which continues."""
    first = start(fault="wait@0-1", pool="threads", ZEMOSAIC_LEAVE=tiles[0] + ".go")
    first.wait_for(lambda: first.events(JobSubmitted, "pairs"))
    second = start("--resume", pool="serial").end()
    assert second.code == 2
    assert f"in use by another run (process {first.process.pid})" in second.err
    Path(tiles[0] + ".go").touch()
    try:
        assert first.end().code == 0
        assert first.events(RunEnded)[-1].state == "finished"
    finally:
        Path(tiles[0] + ".go").unlink()
