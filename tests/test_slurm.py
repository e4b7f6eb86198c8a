"""A run on a cluster of dask-jobqueue: its job scripts, a queue that starts them, a lost job."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.helpers.fakes import Recorder
from zemosaic import Settings, calibrate
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.runtime.events import JobEnded

distributed = pytest.importorskip("distributed")
dask_jobqueue = pytest.importorskip("dask_jobqueue")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the queue needs setsid"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SETTINGS = Settings(neighbours=2)
#: As SLURM does, sbatch keeps a copy of the script, starts it and prints a number.
SBATCH = """#!/bin/sh
cp "$1" {folder}/script.$$ && grep '^#SBATCH' "$1" >>{folder}/directives
setsid sh -c 'echo $$ >{folder}/started.'$$'; exec bash {folder}/script.'$$ \\
  >>{folder}/log 2>&1 </dev/null &
while ! [ -s {folder}/started.$$ ]; do sleep 0.05; done
echo "Submitted batch job $(cat {folder}/started.$$)"
"""
SCANCEL = """#!/bin/bash
kill -9 -- -"$1"
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put sbatch and scancel on the path, and return their folder."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def cluster(queue: Path) -> Iterator[Any]:
    """Start a scheduler and two jobs with a worker each, as docs/cluster.md does."""
    with dask_jobqueue.SLURMCluster(
        cores=1, processes=1, memory="2GB", walltime="00:10:00", account="astro",
        local_directory=str(queue),
        scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    ) as started:  # fmt: skip
        started.scale(jobs=2)
        yield started


class CancelFirst(Recorder):
    """Cancels the job of the first worker that ends a pair."""

    def __init__(self, cluster: Any) -> None:
        super().__init__()
        self._cluster = cluster
        self.cancelled = ""

    def handle_batch(self, events: Any) -> None:
        super().handle_batch(events)
        if not self.cancelled and any(event.stage == "pairs" for event in self.of(JobEnded)):
            self.cancelled = next(iter(self._cluster.workers.values())).job_id
            os.system(f"scancel {self.cancelled}")


def test_a_slurm_cluster_has_the_results_of_processes_although_it_loses_a_job(
    queue: Path, cluster: Any, tmp_path: Path
) -> None:
    """A job that ends at its time limit, or is preempted, costs no pair."""
    paths = []
    for tile in simulate(Scene(tiles=9, shape=(96, 128), overlap=0.35)):
        paths.append(tmp_path / tile.name)
        fits.PrimaryHDU(tile.data, tile.wcs.to_header()).writeto(paths[-1])
    observer = CancelFirst(cluster)
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        solution = calibrate(paths, SETTINGS, client, [observer], folder=tmp_path / "run")
        assert len(client.scheduler_info()["workers"]) == 1
    assert observer.cancelled
    assert {event.outcome for event in observer.of(JobEnded)} == {"measured"}
    assert len({event.pid for event in observer.of(JobEnded)}) >= 2
    expected = calibrate(paths, SETTINGS, "serial", [])
    for name in ("gain", "offset"):
        assert getattr(solution, name).tobytes() == getattr(expected, name).tobytes()
    directives = (queue / "directives").read_text()
    for line in ("#SBATCH -A astro", "#SBATCH -t 00:10:00", "#SBATCH --cpus-per-task=1"):
        assert line in directives
