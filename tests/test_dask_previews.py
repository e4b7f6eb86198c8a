"""Previews that stay with the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.cli import Run
from tests.helpers.fakes import Recorder
from tests.helpers.tiles import simulated
from zemosaic import Settings, calibrate
from zemosaic.errors import UserError
from zemosaic.pipeline.mosaic_stage import MosaicOptions
from zemosaic.runtime.dask_pool import DaskPool
from zemosaic.runtime.events import JobEnded, StageStarted
from zemosaic.runtime.kept_files import Call, KeptFile, find_file, folder_of, new_file
from zemosaic.runtime.make_pool import make_pool
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.scheduler import Job, run

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be replaced there"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE = 120.0


@pytest.fixture
def client() -> Iterator[Any]:
    """Start three workers."""
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as started,
    ):
        started.wait_for_workers(3, timeout=PATIENCE)
        yield started


@pytest.fixture
def pool(client: Any, tmp_path: Path) -> Iterator[DaskPool]:
    """Join the cluster with all its workers; `make_again` makes lost files."""
    made = make_pool(client)
    assert isinstance(made, DaskPool)
    deadline = time.monotonic() + PATIENCE
    while made.workers < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    made.keep_files(tmp_path / "here", make_again)
    yield made
    made.close()


def write(file: KeptFile, text: str) -> int:
    time.sleep(0.05)  # so that all workers have some
    with new_file(file) as path:
        path.write_text(f"{text} of {file}")
    return os.getpid()


def read(first: KeptFile, second: KeptFile) -> tuple[int, str, bool]:
    """Return the process, the contents, and whether the process had both files."""
    time.sleep(0.07)  # so that each is a task of its own
    here = all((folder_of(file) / file).exists() for file in (first, second))
    texts = [Path(find_file(file)).read_text() for file in (first, second)]
    return os.getpid(), ", ".join(texts), here


def make_again(name: str) -> Call | None:
    """Return the call that makes a file; one does not come back."""
    return None if name == "mortal" else (write, (KeptFile(name), "text"))


def outcomes(pool: DaskPool, calls: list[Call]) -> list[Any]:
    jobs = [Job(k, function, arguments) for k, (function, arguments) in enumerate(calls, 1)]
    return run(jobs, len(jobs), pool, FanOut([]), stage="pairs", timeout=60.0)


def test_tasks_go_to_workers_that_have_their_files(pool: DaskPool) -> None:
    """Most are read by the worker that made them."""
    files = [KeptFile(f"{k}") for k in range(24)]
    makers = [outcome.value for outcome in outcomes(pool, [(write, (f, "text")) for f in files])]
    assert len(set(makers)) == 3
    readers = [o.value for o in outcomes(pool, [(read, (f, f)) for f in files])]
    assert [text for _, text, _ in readers] == [f"text of {f}, text of {f}" for f in files]
    assert sum(here for _, _, here in readers) > 16  # 8 by chance


@pytest.mark.parametrize("count", [2, 60])
def test_lost_files_are_made_again(pool: DaskPool, client: Any, count: int) -> None:
    """Files that vanish from all workers are made by the tasks that need them, also in batches."""
    files = [KeptFile(f"{k}") for k in range(10)]
    outcomes(pool, [(write, (file, "text")) for file in files])
    client.run(remove_kept_files)
    calls = [(read, (files[k % 10], files[(k + 3) % 10])) for k in range(count)]
    ended = outcomes(pool, calls)
    assert [outcome.error for outcome in ended] == [None] * count
    assert [outcome.value[1] for outcome in ended] == [
        f"text of {first}, text of {second}" for _, (first, second) in calls
    ]
    assert pool.find_kept(files[0]).read_text() == "text of 0"


def remove_kept_files(dask_worker: Any) -> None:
    for folder in Path(dask_worker.local_directory).glob("zemosaic-*"):
        for file in folder.iterdir():
            file.unlink()


def test_a_file_that_cannot_be_made_again_fails_its_job_alone(pool: DaskPool, client: Any) -> None:
    """In one line with its name, once, and the run ends."""
    outcomes(pool, [(write, (KeptFile("mortal"), "text"))])
    client.run(remove_kept_files)
    lost, found = outcomes(
        pool, [(read, (KeptFile(one), KeptFile("other"))) for one in ("mortal", "other")]
    )
    assert str(lost.error) == "FileLostError: mortal: was lost with the worker that had it"
    assert found.value[1] == "text of other, text of other"


def clipped_tiles() -> list[Any]:
    """Return tiles of which three reach the same level in one pixel, and one is mirrored."""
    tiles = simulated(tiles=9, shape=(200, 260), electrons=10, seeing=0.1, overlap=0.3)
    arrays = [tile.data.copy() for tile in tiles]
    for array in arrays[:3]:
        array[100, 130] = array[20, 30] = 40321.0
    arrays[4] = arrays[4][::-1]
    return [(array, tile.wcs) for array, tile in zip(arrays, tiles, strict=True)]


class LoseFiles(Recorder):
    """Removes the files of all workers before the solution, which looks at some previews."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._client = client

    def handle_batch(self, events: Any) -> None:
        super().handle_batch(events)
        if any(isinstance(event, StageStarted) and event.stage == "solve" for event in events):
            self._client.run(remove_kept_files)


class KillWorker(Recorder):
    """Kills a worker that has made previews, while the run finds the overlaps."""

    def __init__(self, _client: Any) -> None:
        super().__init__()

    def handle_batch(self, events: Any) -> None:
        super().handle_batch(events)
        if any(isinstance(event, StageStarted) and event.stage == "overlap" for event in events):
            os.kill(self.of(JobEnded)[-1].pid, signal.SIGKILL)


class LoseNothing(Recorder):
    def __init__(self, _client: Any) -> None:
        super().__init__()


@pytest.mark.parametrize("fault", [LoseNothing, LoseFiles, KillWorker])
def test_every_stage_has_the_results_of_one_process(client: Any, fault: Any) -> None:
    """Tiles that are prepared again, the check of the sky and stars: the same bits."""
    settings = Settings(stars=True)
    observer = fault(client)
    solution = calibrate(clipped_tiles(), settings, client, [observer], previews="workers")
    expected = calibrate(clipped_tiles(), settings, "serial", [])
    assert len([e for e in observer.of(JobEnded) if e.stage == "tiles"]) == 9 + 3
    assert expected.sky_check.tiles
    assert solution.sky_check == expected.sky_check
    for name in ("gain", "offset", "gain_err"):
        assert getattr(solution, name).tobytes() == getattr(expected, name).tobytes()
    for one, other in zip(solution.records, expected.records, strict=True):
        assert one.stars
        assert repr(one.stars) == repr(other.stars)
    assert not np.isnan(solution.gain).any()


def test_a_pool_of_two_runs_does_not_mix_their_previews(pool: DaskPool) -> None:
    """The second run has its own, although the numbers of its tiles are the same."""
    for tiles in (clipped_tiles()[:4], clipped_tiles()[5:]):
        solution = calibrate(tiles, pool=pool, observers=[], previews="workers")
        expected = calibrate(tiles, pool="serial", observers=[])
        assert solution.gain.tobytes() == expected.gain.tobytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--previews", "workers"], "only the workers of a Dask cluster keep previews; choose"),
        (["--previews", "workers", "--pool", "threads"], "only the workers of a Dask cluster"),
        (
            ["--previews", "workers", "--pool", "dask", "--mosaic", "m.fits"],
            "a mosaic needs a run folder that all workers share; leave out",
        ),
    ],
)
def test_previews_that_no_worker_can_keep_are_one_line(
    arguments: list[str], line: str, intertile: Callable[..., Run], tmp_path: Path
) -> None:
    """Exit code 2 before anything is written."""
    (tmp_path / "a.fits").touch()
    (tmp_path / "b.fits").touch()
    result = intertile(tmp_path / "a.fits", tmp_path / "b.fits", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert line in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"previews": "disk"}, "previews is 'disk'; choose one of folder, workers"),
        ({"previews": "workers"}, "only the workers of a Dask cluster keep previews"),
        ({"previews": "workers", "pool": "dask", "mosaic": MosaicOptions(Path("m.fits"))},
         "a mosaic needs a run folder"),
    ],
)  # fmt: skip
def test_the_library_refuses_them_as_well(options: dict[str, Any], line: str) -> None:
    """Before a pool is made."""
    with pytest.raises(UserError, match=line):
        calibrate(clipped_tiles(), observers=[], **options)
