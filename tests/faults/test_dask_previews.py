"""Runs on Dask clusters whose workers keep the previews, and die, stop, join late or lose disks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.command import Command, Start
from tests.faults.dask_hosts import Cluster, corrections, processes_of, wait_until
from zemosaic.runtime.events import JobEnded, JobSubmitted, StageStarted

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
KEPT = "--previews", "workers", "--no-report"


def tile_workers(run: Command) -> set[int]:
    """Return the processes that have made previews."""
    return {event.pid for event in run.events(JobEnded, "tiles")}


def wait_for_previews(run: Command) -> None:
    """Wait until all previews are made, and the first pair is submitted."""
    run.wait_for(lambda: run.events(JobSubmitted, "pairs"))
    assert len(tile_workers(run)) == 2


def kept(tmp_path: Path) -> list[Path]:
    """Return the previews in the folders of the workers."""
    return list((tmp_path / "dask").glob("**/*.preview"))


def test_hosts_share_no_run_folder(
    start: Start, cluster: Callable[..., Cluster], expected: str, tmp_path: Path
) -> None:
    """Workers with another disk under its name have the bits of processes; no preview stays."""
    folder = tmp_path / "run"
    folder.mkdir()
    dask = cluster(workers=0)
    hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh")
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode == 0:
            dask.add_worker(*hide)
            dask.add_worker(*hide)
    if not dask.nannies:
        pytest.skip("needs the right to mount")
    run = start(*KEPT, pool=dask.pool)
    assert run.end().code == 0
    assert corrections(folder) == expected
    assert not (folder / "previews").exists()
    assert kept(tmp_path) == []


def lose_a_worker(lost: int, dask: Cluster, number: int, *, with_nanny: bool) -> None:
    """Send a signal to a worker, and to its nanny."""
    (nanny,) = (nanny for nanny in dask.nannies if lost in processes_of(nanny.pid))
    for pid in processes_of(nanny.pid) if with_nanny else [lost]:
        os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_previews_of_a_lost_host_are_made_again(
    number: int, start: Start, cluster: Callable[..., Cluster], expected: str
) -> None:
    """Worker and nanny are killed or cut off between the stages: each pair is measured."""
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start(*KEPT, pool=dask.pool)
    wait_for_previews(run)
    lose_a_worker(min(tile_workers(run)), dask, number, with_nanny=True)
    done = run.end()
    assert (done.code, corrections(run.folder)) == (0, expected), done


def test_previews_behind_a_cut_link_are_made_again(
    start: Start, cluster: Callable[..., Cluster], namespace: str, expected: str
) -> None:
    """Whatever a worker has behind the link; the run has the same bits."""
    dask = cluster(workers=1, host="10.213.7.1", ZEMOSAIC_SLOW="0.4")
    dask.add_worker("ip", "netns", "exec", namespace)
    run = start(*KEPT, pool=dask.pool)
    wait_for_previews(run)
    subprocess.run(["ip", "link", "set", f"{namespace}a", "down"], check=True)
    done = run.end()
    assert (done.code, corrections(run.folder)) == (0, expected), done


def test_a_suspended_run_makes_its_previews_again(
    start: Start, cluster: Callable[..., Cluster], expected: str, tmp_path: Path
) -> None:
    """Without a sign of the run its previews are removed; when it goes on it has the same bits."""
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start(*KEPT, pool=dask.pool)
    wait_for_previews(run)
    run.kill(signal.SIGSTOP)
    wait_until(lambda: not kept(tmp_path))
    run.kill(signal.SIGCONT)
    done = run.end()
    assert (done.code, corrections(run.folder)) == (0, expected), done
    assert any("preview" in event.step_times for event in run.events(JobEnded, "pairs"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_keeps_no_pair_from_its_previews(
    number: int, start: Start, cluster: Callable[..., Cluster]
) -> None:
    """It costs the pair that it had at the most; the others have its previews made again."""
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start(*KEPT, "--pair-timeout", 20, pool=dask.pool)
    wait_for_previews(run)
    lose_a_worker(min(tile_workers(run)), dask, number, with_nanny=False)
    assert run.end().code in (0, 1)
    outcomes = [event.outcome for event in run.events(JobEnded, "pairs")]
    assert outcomes.count("measured") >= len(outcomes) - 1
    assert set(outcomes) <= {"measured", "timeout", "crashed"}
    made = [e for e in run.events(JobEnded, "pairs") if "preview" in e.step_times]
    assert made


def test_a_preview_that_cannot_be_made_again_is_one_line(
    start: Start, cluster: Callable[..., Cluster], tiles: list[str], tmp_path: Path
) -> None:
    """If its tile is gone as well, its pairs fail with the name of the tile; the others do not."""
    copies = [tmp_path / Path(tile).name for tile in tiles]
    for tile, copy in zip(tiles, copies, strict=True):
        copy.write_bytes(Path(tile).read_bytes())
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start(*KEPT, pool=dask.pool, tiles=list(map(str, copies)))
    wait_for_previews(run)
    lost = next(event for event in run.events(JobEnded, "tiles") if event.attributes["index"] == 0)
    copies[0].unlink()
    lose_a_worker(lost.pid, dask, signal.SIGKILL, with_nanny=True)
    done = run.end()
    assert done.code == 1, done
    assert "Traceback" not in done.err
    ended = run.events(JobEnded, "pairs")
    failed = [event for event in ended if event.outcome == "failed"]
    assert failed
    assert all(event.attributes["tile_i"] == 0 for event in failed)
    assert {event.error.type for event in failed} == {"TileError"}
    assert all(event.error.message.startswith(str(copies[0])) for event in failed)
    assert {event.outcome for event in ended} == {"failed", "measured"}


def test_a_late_worker_copies_previews(
    start: Start, cluster: Callable[..., Cluster], expected: str
) -> None:
    """A worker that joins after the previews measures pairs with those of the first."""
    dask = cluster(workers=1, ZEMOSAIC_SLOW="0.5")
    run = start(*KEPT, pool=dask.pool)
    run.wait_for(lambda: len(run.events(JobEnded, "tiles")) == 5)
    first = tile_workers(run)
    dask.add_worker()
    assert run.end().code == 0
    late = [event for event in run.events(JobEnded, "pairs") if event.pid not in first]
    assert late
    assert any("fetch" in event.step_times for event in late)
    assert not any("preview" in event.step_times for event in late)
    assert corrections(run.folder) == expected


@pytest.mark.parametrize("pool", ["processes", "dask"])
def test_a_killed_run_is_resumed(
    pool: str, start: Start, cluster: Callable[..., Cluster], expected: str, tmp_path: Path
) -> None:
    """Its pairs are reused, its previews removed and made again, on a cluster or on processes."""
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start(*KEPT, pool=dask.pool)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 3)
    assert kept(tmp_path)
    run.kill()
    run.process.wait()
    wait_until(lambda: not kept(tmp_path))
    options = KEPT if pool == "dask" else ("--no-report",)
    again = start("--resume", "-v", *options, pool=dask.pool if pool == "dask" else pool)
    done = again.end()
    assert done.code == 0, done
    message = "the previews of an earlier run are not kept; all are made again"
    assert (message in done.err) == (pool == "dask")
    assert "pairs are known from an earlier run" in done.err
    assert len(again.events(JobEnded, "tiles")) == 6
    assert 0 < len(again.events(JobEnded, "pairs")) < again.events(StageStarted, "pairs")[0].total
    assert corrections(again.folder) == expected


def test_a_full_disk_of_a_worker_is_one_line(
    start: Start, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Tiles whose previews a worker cannot keep fail with its folder; the others are used."""
    dask = cluster(workers=0)
    small = tmp_path / "dask" / "small"
    small.mkdir()
    mount = ("unshare", "--mount", "sh", "-c",
             f'mount -t tmpfs -o size=64k none {small} && exec "$@"', "sh")  # fmt: skip
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode == 0:
            dask.add_worker(*mount, folder=small)
    if not dask.nannies:
        pytest.skip("needs the right to mount")
    run = start(*KEPT, pool=dask.pool)
    done = run.end()
    assert done.code == 1, done
    assert "Traceback" not in done.err
    failed = [event for event in run.events(JobEnded, "tiles") if event.outcome == "failed"]
    assert 0 < len(failed) < 5
    for event in failed:
        assert f"its preview cannot be written to {small}/" in event.error.message
        assert "No space left on device" in event.error.message
