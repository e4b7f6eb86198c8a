"""A run that is killed at any moment goes on where it was, to the same bits."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Command, Start
from tests.helpers.cli import Run
from zemosaic.pipeline.records import load_thumbnails
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded, JobSubmitted, RunEnded, StageStarted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")

TABLES = ("corrections.ecsv", "pairs.ecsv")
# Moments of which no event tells.
LATE = ("kill@solve", "kill@corrections.ecsv", "kill@pairs.ecsv")


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def nothing_twice(folder: Path) -> int:
    """Check that no result of a run was made again by a later one; how many there are."""
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
def whole(tmp_path_factory: pytest.TempPathFactory, tiles: list[str]) -> Path:
    """The folder of a run that nobody interrupted."""
    from zemosaic.cli import run

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(["intertile", "-o", str(folder), "--pool", "serial", *tiles]) == 0
    return folder


@pytest.mark.parametrize(
    ("seed", "pool"), [(1, "processes"), (2, "threads"), (3, "serial"), (4, "serial")]
)
def test_killed_at_random_moments_it_ends_in_the_same_bits(
    start: Start, whole: Path, seed: int, pool: str
) -> None:
    """Five kills of one run and the next, twenty in all: same tables, nothing measured twice.

    Four of the five come from outside, after so many jobs of a stage that the run has done itself.
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
    assert tables(run.folder) == tables(whole)
    assert nothing_twice(run.folder) == 6 + 11
    small, expected = load_thumbnails(run.folder), load_thumbnails(whole)
    assert small.keys() == expected.keys() == set(range(6))
    for index, picture in expected.items():
        assert np.array_equal(small[index], picture, equal_nan=True)
    assert not (run.folder / "previews").exists()


def tile_folder(tiles: list[str], folder: Path) -> list[str]:
    folder.mkdir()
    return [shutil.copy2(tile, folder) for tile in tiles]


def made(folder: Path) -> dict[str, set[int]]:
    """Indices of the tiles and pairs that the last run in a folder had done."""
    events = [e for e in journal.read(folder)[-1].events if isinstance(e, JobEnded)]
    return {stage: {e.index for e in events if e.stage == stage} for stage in ("tiles", "pairs")}


@pytest.fixture
def dead(start: Start, tiles: list[str], tmp_path: Path) -> list[str]:
    """The words for a run that died when it had measured all; its tiles may be changed."""
    words = tile_folder(tiles, tmp_path / "tiles")
    assert start(tiles=words, pool="serial", fault="kill@solve").end().code == -9
    return words


Intertile = Callable[..., Run]
ALL = set(range(1, 12))


def test_nothing_is_done_again_without_need(dead: list[str], intertile: Intertile) -> None:
    """Resumed unchanged, all is known; a second time, of the finished run, the pairs are."""
    assert intertile("--resume", *dead).code == 0
    folder = Path(dead[0]).parents[1] / "run"
    assert made(folder) == {"tiles": set(), "pairs": set()}
    again = intertile("--resume", *dead)
    assert again.code == 0
    assert made(folder)["pairs"] == set()


@pytest.mark.parametrize("change", ["time", "content", "preview", "lost preview"])
def test_a_changed_tile_is_measured_anew(
    dead: list[str], intertile: Intertile, change: str
) -> None:
    """Its preview and, where its file is another, its pairs; of the others nothing."""
    folder = Path(dead[0]).parents[1] / "run"
    tile, preview = Path(dead[2]), folder / "previews" / "2.npy"
    if change == "time":
        os.utime(tile, ns=(1, 1))
    elif change == "content":  # one bit, at the same size and time
        told = tile.stat()
        raw = bytearray(tile.read_bytes())
        raw[2880 + 8] ^= 1
        tile.write_bytes(raw)
        os.utime(tile, ns=(told.st_atime_ns, told.st_mtime_ns))
    elif change == "preview":
        raw = bytearray(preview.read_bytes())
        raw[200] ^= 1
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
    done = made(folder)
    assert done["tiles"] == {3}
    of_tile = {k for k, name in names.items() if "2" in name.split("-")}
    assert done["pairs"] == (set() if "preview" in change else of_tile)


def test_other_settings_are_measured_anew(dead: list[str], intertile: Intertile) -> None:
    """Another model needs other pairs; another anchor needs none."""
    folder = Path(dead[0]).parents[1] / "run"
    assert intertile("--resume", "--anchor", "tile_0001.fits", *dead).code == 0
    assert made(folder) == {"tiles": set(), "pairs": set()}
    assert intertile("--resume", "--model", "offset", *dead).code == 0
    assert made(folder)["pairs"] == ALL


def test_another_version_is_measured_anew(
    dead: list[str], intertile: Intertile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another version measured is not taken."""
    monkeypatch.setattr("zemosaic.pipeline.tasks.__version__", "0.0.0")
    assert intertile("--resume", *dead).code == 0
    assert made(Path(dead[0]).parents[1] / "run")["pairs"] == ALL


def test_without_resume_a_dead_run_is_told_and_kept(dead: list[str], intertile: Intertile) -> None:
    """One line names the dead run; what it journalled can be taken even after the next death."""
    folder = Path(dead[0]).parents[1] / "run"
    known = journal.results(journal.read(folder))
    done = intertile(*dead)
    (line,) = [line for line in done.err.splitlines() if "the previous run died" in line]
    assert "zemosaic autopsy" in line
    assert "17 results" in line
    assert done.code == 0
    assert made(folder)["pairs"] == ALL
    assert known.keys() <= journal.results(journal.read(folder)).keys()
    # Of a finished run the tables tell, so the next one begins a new journal, in silence.
    again = intertile(*dead)
    assert "previous run" not in again.err
    assert len(journal.read(folder)) == 1


def test_resume_of_nothing_is_a_run(intertile: Intertile, tiles: list[str]) -> None:
    """In an empty folder --resume takes nothing and says nothing of it."""
    done = intertile("--resume", *tiles)
    assert done.code == 0
    assert "resumed" not in done.err


def test_the_second_run_in_a_folder_is_refused(start: Start, tiles: list[str]) -> None:
    """With the first one's process, exit 2; the first goes on."""
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
