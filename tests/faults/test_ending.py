"""Interrupts, collectors and disks: the run ends in order, with one line, and can be resumed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from astropy.table import Table

from tests.faults.command import Start, events_of
from tests.helpers.otlp_receiver import dead_port, http_receiver, mute_port, plain
from tests.helpers.spans import spans
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded, JobSubmitted, RunEnded, StageEnded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")

ENDINGS = [
    # Stage, pool, fault, signal: every pool, every stage, and workers that ignore signals.
    ("scan", "processes", "sleep@scan1", signal.SIGINT),
    ("tiles", "threads", "sleep@tile1", signal.SIGTERM),
    ("tiles", "serial", "sleep@tile1", signal.SIGINT),
    ("pairs", "serial", "sleep@3-4", signal.SIGTERM),
    ("pairs", "processes", "gil@3-4,gil@4-5", signal.SIGTERM),
    ("pairs", "threads", "sleep@3-4,sleep@4-5", signal.SIGINT),
]


@pytest.mark.parametrize(("stage", "pool", "fault", "number"), ENDINGS)
def test_an_interrupt_ends_the_run_in_order(
    start: Start, stage: str, pool: str, fault: str, number: int
) -> None:
    """Exit 130, though workers are stuck; one line, complete spans, and the run can be resumed."""
    stuck = fault.count("@")
    with http_receiver() as (url, received):
        run = start("--otlp", url, pool=pool, fault=fault)

        def frozen() -> bool:
            begun, ended = (run.events(kind, stage) for kind in (JobSubmitted, JobEnded))
            total = 11 if stage == "pairs" else 6
            return len(begun) == total if pool != "serial" else len(begun) > len(ended)

        def stands_still() -> bool:
            return frozen() and len(run.events(JobSubmitted)) - len(run.events(JobEnded)) == stuck

        run.wait_for(stands_still)
        if pool == "processes":  # until then the workers may not have started
            run.wait_for(lambda: "heartbeat" in (run.folder / "journal.jsonl").read_text().lower())
        run.kill(number)
        done = run.end()
        assert done.code == 130
        assert done.err.splitlines()[-1] == "zemosaic: interrupted"
        assert "Traceback" not in done.err
        assert events_of(run.folder, RunEnded)[-1].state == "interrupted"
        names = [s.name for s in received.spans]
        ended = events_of(run.folder, JobEnded, "pairs")
        assert names.count("phase5_intertile.pair") == len(ended)
        assert names[-1] == "phase5_intertile"
        assert len(spans(run.folder)) == len({s.span_id for s in received.spans})
    again = start("--resume", pool="serial").end()
    assert again.code == 0, again.err
    if stage == "pairs":
        assert f"resumed: {len(ended)} of 11 pairs" in again.err


def test_a_second_interrupt_changes_nothing(start: Start) -> None:
    """A second one during the orderly end causes no traceback."""
    with mute_port() as port:  # so that the end takes some time
        run = start("--otlp", f"http://127.0.0.1:{port}", pool="threads", fault="sleep@3-4")
        run.wait_for(lambda: len(run.events(JobEnded, "pairs")) == 10)
        run.kill(signal.SIGINT)
        run.wait_for(lambda: run.events(RunEnded))
        run.kill(signal.SIGINT)
        done = run.end()
    assert done.code == 130
    assert "Traceback" not in done.err
    assert run.events(RunEnded)[-1].state == "interrupted"


@pytest.mark.parametrize("kind", ["absent", "mute"])
def test_a_collector_that_does_not_answer_costs_one_line(start: Start, kind: str) -> None:
    """Exit 0, the complete trace in the file, and one line with its name."""
    with (dead_port if kind == "absent" else mute_port)() as port:
        run = start("--otlp", f"http://127.0.0.1:{port}", "--live", "snapshot", pool="serial")
        done = run.end()
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "delivered" in line]
    assert "trace.jsonl" in line
    assert len(spans(run.folder)) == 23
    stages = {e.stage: e.time_ns for e in run.events(StageEnded)}
    assert run.events(RunEnded)[-1].time_ns - stages["solve"] < 9e9  # waits for no snapshot


def test_the_autopsy_sends_undelivered_spans(start: Start, examine: Any) -> None:
    """It sends the spans that the collector did not receive during the run, each once."""
    with socket.socket() as held:  # refuses connections at first
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        run = start("--otlp", f"http://127.0.0.1:{port}", pool="serial")
        assert run.end().code == 0
    lost = len(spans(run.folder))
    with http_receiver(port=port) as (url, received):
        assert f"sent         {lost} spans" in examine("autopsy", run.folder, "--otlp").out
        assert "sent         0 spans" in examine("autopsy", run.folder, "--otlp", url).out
        assert len({s.span_id for s in received.spans}) == len(received.spans) == lost


def test_a_flapping_collector_loses_no_span(start: Start, examine: Any) -> None:
    """It accepts, refuses, is mute and accepts again: in the end each span has arrived once."""
    with http_receiver() as (url, first):
        run = start("--otlp", url, pool="serial", slow=0.3)
        run.wait_for(lambda: len(first.spans) > 2)
    for away in (nullcontext(), mute_port(urlsplit(url).port or 0)):
        with away:
            ended = len(run.events(JobEnded))
            run.wait_for(lambda ended=ended: len(run.events(JobEnded)) > ended + 4)
    with http_receiver(port=urlsplit(url).port or 0) as (_, last):
        done = run.end()
        assert done.code == 0
        assert len([line for line in done.err.splitlines() if "delivered" in line]) <= 1
        assert examine("autopsy", run.folder, "--otlp").code == 0
    names = {bytes.fromhex(s["spanId"]): s["name"] for s in spans(run.folder)}
    came = [s.span_id for s in (*first.spans, *last.spans)]
    # Snapshots of the phase's span are sent before it ends.
    once = [s for s in came if names[s] != "phase5_intertile"]
    assert len(once) == len(set(once))
    assert set(came) == names.keys()


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a file system in memory, of as many kilobytes as the parameter."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs to mount a file system: root on Linux")
    place = tmp_path / "small"
    place.mkdir()
    size = request.param * 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def check_tables_are_complete(folder: Path) -> None:
    """Check that each table is complete or missing, and that no temporary file is left."""
    for name in ("corrections.ecsv", "pairs.ecsv"):
        if (folder / name).exists():
            table = Table.read(folder / name, format="ascii.ecsv")
            assert len(table) in (6, 11)
            assert np.isfinite(table["gain"]).all()
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize(
    ("small_disk", "pool", "lost"),
    # The previews alone take 116 kB.
    [(40, "serial", True), (144, "processes", False), (152, "serial", False)],
    indirect=["small_disk"],
)
def test_a_full_disk_leaves_no_torn_table(
    start: Start, small_disk: Path, pool: str, lost: bool, examine: Any
) -> None:
    """There is no traceback and no bus error, and the journal can be read."""
    run = start(folder=small_disk / "run", pool=pool)
    done = run.end()
    assert done.code in (1, 2, 3), done.err
    assert "Traceback" not in done.err
    assert "No space left" in done.err
    line = (
        r"\.fits: its preview cannot be written to \S+ \(No space left on device\); make room there"
    )
    assert bool(re.search(line, done.err)) == lost
    assert "SIGBUS" not in done.err
    check_tables_are_complete(run.folder)
    journal.read(run.folder)
    assert examine("autopsy", run.folder).code in (0, 2)


def test_a_limit_on_file_sizes_is_handled_as_a_full_disk(start: Start, examine: Any) -> None:
    """The journal stops, but the tables are written, and the run finishes.

    The autopsy and the trace that it sends report the run as finished.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (18_000, before[1]))  # previews fit
    try:
        run = start(pool="serial")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    done = run.end()
    assert "Traceback" not in done.err
    assert done.code == 1, done.err
    (line,) = [line for line in done.err.splitlines() if "the run continues" in line]
    assert "cannot" in line or "not all of it can be resumed" in line
    assert (run.folder / "corrections.ecsv").exists()
    check_tables_are_complete(run.folder)
    assert events_of(run.folder, RunEnded) == []
    with http_receiver() as (url, received):
        done = examine("autopsy", run.folder, "--otlp", url)
    assert done.code == 0, done.err
    assert "finished after" in done.out
    assert "a full disk, most likely" in done.out
    (phase,) = [s for s in received.spans if s.name == "phase5_intertile"]
    assert plain(phase.attributes)["zemosaic.run.state"] == "finished"
    assert phase.status.code == 0
