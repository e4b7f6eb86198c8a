"""Runs on Dask clusters whose workers, nannies, scheduler, links, folders or run fail."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.command import Command, Start
from tests.faults.dask_hosts import (
    Cluster,
    commands_of,
    corrections,
    is_alive,
    processes_of,
    wait_until,
)
from tests.helpers.spans import spans
from zemosaic.runtime import inflight
from zemosaic.runtime.events import JobEnded, JobSubmitted

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def running_pids(run: Command) -> set[int]:
    """Return the processes of the jobs that run, as the table of the run names them."""
    with contextlib.suppress(OSError, ValueError):
        return {row.pid for row in inflight.read(run.folder).rows}
    return set()


@pytest.mark.parametrize("fault", ["gil", "stop"])
def test_workers_end_with_a_killed_run_and_processes_resume_it(
    fault: str, start: Start, expected: str
) -> None:
    """Also a worker that holds the GIL or is stopped ends; the results so far are reused."""
    run = start("--no-report", pool="dask", fault=f"{fault}@3-4", slow=0.05)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 4)
    run.kill()
    run.process.wait()
    wait_until(lambda: not processes_of(run.process.pid))
    again = start("--resume", "--no-report", pool="processes")
    done = again.end()
    assert done.code == 0
    assert "resumed: " in done.err
    assert corrections(again.folder) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_run_leaves_no_process(number: int, code: int, start: Start) -> None:
    """Ctrl-C reaches its workers as well, of which one holds the GIL."""
    run = start("--no-report", pool="dask", fault="gil@3-4", slow=0.05)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 4)
    os.killpg(run.process.pid, number)
    done = run.end()
    assert (done.code, commands_of(run.process.pid)) == (code, [])
    assert "Traceback" not in done.err


def test_a_finished_run_leaves_no_process_and_no_folder(start: Start, expected: str) -> None:
    """A cluster of our own has the results of processes, and nothing of it stays."""
    run = start("--no-report", pool="dask")
    done = run.end()
    assert (done.code, commands_of(run.process.pid)) == (0, [])
    assert corrections(run.folder) == expected


def test_a_cluster_resumes_a_killed_run_of_processes(
    start: Start, cluster: Callable[..., Cluster], expected: str
) -> None:
    """A run that was killed on processes has the same bits when a cluster resumes it."""
    run = start("--no-report", fault="sleep@3-4", slow=0.05)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 4)
    run.kill()
    run.process.wait()
    again = start("--resume", "--no-report", pool=cluster().pool)
    assert again.end().code == 0
    assert corrections(again.folder) == expected


@pytest.mark.parametrize("fault", ["none", "gil", "stop"])
def test_a_killed_nanny_costs_no_job(
    fault: str, start: Start, cluster: Callable[..., Cluster], expected: str, tmp_path: Path
) -> None:
    """Its worker ends with it, also a stuck one; what it had goes to the other worker."""
    dask = cluster(ZEMOSAIC_FAULT=f"{fault}@3-4", ZEMOSAIC_SLOW="0.2",
                   ZEMOSAIC_ONCE=str(tmp_path / "once"))  # fmt: skip
    run = start("--no-report", pool=dask.pool)
    if fault == "none":
        run.wait_for(lambda: run.events(JobEnded, "pairs"))
        killed = dask.nannies[0]
    else:
        run.wait_for((tmp_path / "once").exists)
        run.wait_for(lambda: running_pids(run))
        (stuck,) = running_pids(run)
        (killed,) = (nanny for nanny in dask.nannies if stuck in processes_of(nanny.pid))
    killed.kill()
    assert run.end().code == 0
    assert processes_of(killed.pid) == []
    assert corrections(run.folder) == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_scheduler_ends_the_run_with_the_way_to_resume(
    number: int, start: Start, cluster: Callable[..., Cluster], expected: str
) -> None:
    """Killed or stopped: jobs in flight fail, and the last line, as it is, completes the run."""
    dask = cluster(ZEMOSAIC_SLOW="0.4")
    run = start("--no-report", pool=dask.pool)
    run.wait_for(lambda: run.events(JobEnded, "pairs"))
    dask.scheduler.send_signal(number)
    lost = run.end()
    assert lost.code == 3, lost
    assert "Traceback" not in lost.err
    *_, problem, command = lost.err.splitlines()
    assert "has not answered for" in problem
    ends = run.events(JobEnded, "pairs")
    assert {end.error.type for end in ends if end.outcome == "failed"} == {"ClusterLostError"}
    submitted = {event.index for event in run.events(JobSubmitted, "pairs")}
    assert submitted == {end.index for end in ends}
    words = shlex.split(command)
    assert words[:3] == ["zemosaic", "intertile", "--resume"]
    words[words.index(dask.pool)] = "processes"
    again = subprocess.run([sys.executable, "-m", *words], capture_output=True, check=False)
    assert again.returncode == 0, again
    assert corrections(run.folder) == expected


def test_a_killed_run_ends_its_jobs_on_a_cluster_that_stays(
    start: Start, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """A worker that holds the GIL is replaced by its nanny, whose lease nobody renews."""
    dask = cluster(ZEMOSAIC_FAULT="gil@3-4", ZEMOSAIC_ONCE=str(tmp_path / "once"))
    run = start("--no-report", pool=dask.pool)
    run.wait_for((tmp_path / "once").exists)
    run.wait_for(lambda: running_pids(run))
    (stuck,) = running_pids(run)
    run.kill()
    run.process.wait()
    wait_until(lambda: not is_alive(stuck))
    again = start("--resume", "--no-report", pool=dask.pool)
    assert again.end().code == 0


def test_a_link_that_is_cut_costs_no_job(
    start: Start, cluster: Callable[..., Cluster], namespace: str, expected: str
) -> None:
    """What a worker has behind the cut link goes to the other one; the run has the same bits."""
    dask = cluster(workers=1, host="10.213.7.1", ZEMOSAIC_SLOW="0.3")
    dask.add_worker("ip", "netns", "exec", namespace)
    run = start("--no-report", pool=dask.pool)
    run.wait_for(lambda: len({event.pid for event in run.events(JobEnded)}) == 2)
    subprocess.run(["ip", "link", "set", f"{namespace}a", "down"], check=True)
    assert run.end().code == 0
    assert corrections(run.folder) == expected


def test_a_host_whose_clock_is_wrong_has_its_spans_in_place(
    start: Start, cluster: Callable[..., Cluster], expected: str
) -> None:
    """Its jobs have the offset of its clock, and lie within their parents, after overlap."""
    dask = cluster(workers=1, ZEMOSAIC_SLOW="0.2")
    dask.add_worker("env", "ZEMOSAIC_CLOCK=-3600")
    run = start("--no-report", pool=dask.pool)
    assert run.end().code == 0
    assert corrections(run.folder) == expected
    traced = spans(run.folder)
    parents = {span["spanId"]: span for span in traced}
    (overlap,) = (span for span in traced if span["name"] == "phase5_intertile.overlap")
    offsets = {}
    for span in traced:
        if (parent := parents.get(span.get("parentSpanId"))) is not None:
            assert int(parent["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
            assert int(span["endTimeUnixNano"]) <= int(parent["endTimeUnixNano"])
        if span["name"] == "phase5_intertile.pair":
            assert int(overlap["endTimeUnixNano"]) <= int(span["startTimeUnixNano"])
            known = span["known"]
            offsets[known["process.pid"]] = known.get("zemosaic.host.clock_offset")
    assert sorted(offsets.values(), key=bool) == [None, pytest.approx(-3600.0, abs=0.5)]


def test_a_host_without_the_folder_is_one_line(
    start: Start, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """A worker with another disk under the name of the run folder: exit 2 before any job."""
    folder = tmp_path / "run"
    folder.mkdir()
    dask = cluster(workers=0)
    hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh")
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode == 0:
            dask.add_worker(*hide)
    if not dask.nannies:
        pytest.skip("needs the right to mount")
    run = start("--no-report", pool=dask.pool)
    done = run.end()
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert f"do not see {folder}" in done.err
    assert not run.events(JobSubmitted)
    assert not list(folder.glob(".zemosaic-*"))
