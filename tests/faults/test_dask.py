"""Runs on Dask clusters whose nanny, scheduler or run dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.command import PATIENCE, Start
from zemosaic.runtime.events import JobEnded

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


class Scheduler:
    """A scheduler and two workers in processes of their own, as on a cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._environment, self._processes = os.environ | environment, []
        file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        words = "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)
        self.nannies = [
            self._start("worker", "--scheduler-file", str(file), *words) for _ in range(2)
        ]
        address = file.read_text().partition("tcp://")[2].partition('"')[0]
        self.pool = f"dask://{address}"

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment,
            start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Callable[..., Scheduler]]:
    """Start a scheduler with workers; the faults of the workers are given by the environment."""
    started: list[Scheduler] = []

    def start(**environment: str) -> Scheduler:
        started.append(Scheduler(tmp_path, environment))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiles: list[str]) -> str:
    """Return the corrections of a run on processes without a fault."""
    from zemosaic.cli import run

    folder = tmp_path_factory.mktemp("whole")
    assert run(["intertile", "-o", str(folder), "--no-report", *tiles]) == 0
    return (folder / "corrections.ecsv").read_text()


def corrections(folder: Path) -> str:
    return (folder / "corrections.ecsv").read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def processes_of(session: int) -> list[int]:
    """Return the live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if os.getsid(pid) == session and is_alive(pid):
                found.append(pid)
    return found


def test_workers_end_with_a_killed_run_and_processes_resume_it(start: Start, expected: str) -> None:
    """Also a worker that holds the GIL ends with the run; the results so far are reused."""
    run = start("--no-report", pool="dask", fault="gil@3-4", slow=0.05)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 4)
    run.kill()
    run.process.wait()
    deadline = time.monotonic() + PATIENCE
    while processes_of(run.process.pid):
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.1)
    again = start("--resume", "--no-report", pool="processes")
    done = again.end()
    assert done.code == 0
    assert "resumed: " in done.err
    assert corrections(again.folder) == expected


def test_a_cluster_resumes_a_killed_run_of_processes(
    start: Start, scheduler: Callable[..., Scheduler], expected: str
) -> None:
    """A run that was killed on processes has the same bits when a cluster resumes it."""
    run = start("--no-report", fault="sleep@3-4", slow=0.05)
    run.wait_for(lambda: len(run.events(JobEnded, "pairs")) >= 4)
    run.kill()
    run.process.wait()
    again = start("--resume", "--no-report", pool=scheduler().pool)
    assert again.end().code == 0
    assert corrections(again.folder) == expected


def test_a_killed_nanny_costs_no_job(
    start: Start, scheduler: Callable[..., Scheduler], expected: str
) -> None:
    """Its worker ends with it; what it had goes to the other worker."""
    cluster = scheduler(ZEMOSAIC_FAULT="none@none", ZEMOSAIC_SLOW="0.2",
                        PYTHONPATH=str(Path(__file__).parent / "inject"))  # fmt: skip
    run = start("--no-report", pool=cluster.pool)
    run.wait_for(lambda: run.events(JobEnded, "pairs"))
    cluster.nannies[0].kill()
    assert run.end().code == 0
    assert corrections(run.folder) == expected
