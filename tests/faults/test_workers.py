"""A fault that kills a worker costs one job, is named, and the run continues."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.command import Start
from tests.helpers.spans import spans
from zemosaic.runtime.events import JobEnded, JobSubmitted, SlowJob

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the faults are those of POSIX")


FAULTS = {
    "raise": ("failed", "ZeroDivisionError"),
    "kill": ("crashed", "SIGKILL"),
    "segfault": ("crashed", "SIGSEGV"),
    "exit": ("crashed", "WorkerExit"),
    "memory": ("failed", "MemoryError"),
}
if sys.platform == "linux":  # the fault uses its limit of memory
    FAULTS["exhaust"] = ("failed", "MemoryError")


def test_each_fault_costs_one_pair(start: Start) -> None:
    """Of several faults in one run each has its own pair and span; all others are measured."""
    pairs = ["0-1", "1-2", "3-4", "4-5", "0-3", "2-5"]
    at = dict(zip(pairs, FAULTS, strict=False))
    run = start(fault=",".join(f"{fault}@{pair}" for pair, fault in at.items()))
    done = run.end()
    assert done.code == 1
    assert "Traceback" not in done.err
    submitted = {e.index: e for e in run.events(JobSubmitted, "pairs")}
    ended = run.events(JobEnded, "pairs")
    assert len(ended) == len(submitted) > len(at)  # no pair was tried twice
    told = {s["known"]["zemosaic.pair.index"]: s for s in spans(run.folder)
            if s["name"] == "phase5_intertile.pair"}  # fmt: skip
    seen = set()
    for event in ended:
        pair = f"{event.attributes['tile_i']}-{event.attributes['tile_j']}"
        span = told[str(event.index)]
        if pair not in at:
            assert event.outcome == "measured"
            assert span["status"].get("code", 0) == 0
            continue
        seen.add(pair)
        outcome, error = FAULTS[at[pair]]
        assert (event.outcome, event.error.type) == (outcome, error), pair
        assert span["status"]["code"] == 2
        assert span["known"]["error.type"] == error
        # The process and the start of a dead worker's job come from its row in the table.
        assert int(span["known"]["process.pid"]) not in (0, run.process.pid)
        assert submitted[event.index].time_ns <= event.started_ns <= event.ended_ns
        assert f"({event.attributes['name_i']}, {event.attributes['name_j']}): {error}" in done.err
        if at[pair] == "segfault":
            assert "Segmentation fault" in event.error.traceback
            assert "string_at" in event.error.traceback
    assert seen == set(at)


def test_a_tile_that_kills_its_worker_costs_no_other_tile(start: Start) -> None:
    """The other tiles are solved; the span of the tile is an error with the signal's name."""
    run = start(fault="segfault@tile1,kill@scan5")
    done = run.end()
    assert done.code == 1
    assert "tiles        4 of 6" in done.out
    lost = {s["known"]["zemosaic.tile.name"]: s["known"]["error.type"]
            for s in spans(run.folder) if "error.type" in s["known"]}  # fmt: skip
    assert lost == {"tile_0001.fits": "SIGSEGV", "tile_0005.fits": "SIGKILL"}


@pytest.mark.parametrize("option", ["--pair-timeout", "--tile-timeout"])
def test_a_job_that_holds_the_gil_for_ever_times_out(start: Start, option: str) -> None:
    """Its worker is killed after the time-out; it was reported as slow, with its stack, before."""
    where, stage = ("3-4", "pairs") if option == "--pair-timeout" else ("tile3", "tiles")
    run = start(option, 6, fault=f"gil@{where}")
    done = run.end()
    assert done.code == 1
    (lost,) = [e for e in run.events(JobEnded, stage) if e.error]
    assert (lost.outcome, lost.error.type) == ("timeout", "TimeoutError")
    assert "hold_the_lock" in lost.error.traceback
    assert lost.pid not in (0, run.process.pid)
    assert (lost.ended_ns - lost.started_ns) / 1e9 >= 5.9
    (slow,) = run.events(SlowJob, stage)
    assert slow.index == lost.index
    assert "hold_the_lock" in slow.stack
    (span,) = [s for s in spans(run.folder) if s["known"].get("error.type") == "TimeoutError"]
    (raised,) = span["events"]
    texts = {a["key"]: a["value"]["stringValue"] for a in raised["attributes"]}
    assert "hold_the_lock" in texts["exception.stacktrace"]


def test_tiles_that_kill_every_worker_end_in_a_clear_failure(start: Start) -> None:
    """After some deaths in a row, the remaining jobs fail with a clear error."""
    # Not "*", which is the page as well, and that is written by the run itself.
    run = start(fault=",".join(f"kill@scan{tile}" for tile in range(6)))
    done = run.end()
    assert done.code in (2, 3)
    assert "Traceback" not in done.err
    assert "SIGKILL" in done.err
    deaths = [e for e in run.events(JobEnded) if e.outcome == "crashed"]
    assert len(deaths) <= 8


def test_pairs_that_kill_every_worker_end_in_a_clear_failure(start: Start) -> None:
    """After the eighth death the remaining pairs fail as "WorkersDie"; exit 3."""
    pairs = [f"kill@{i}-{j}" for i in range(6) for j in range(i + 1, 6)]
    run = start(fault=",".join(pairs))
    done = run.end()
    assert done.code == 3
    errors = [e.error.type for e in run.events(JobEnded, "pairs")]
    assert errors.count("SIGKILL") == 8
    assert set(errors) <= {"SIGKILL", "WorkersDie"}
    assert "zemosaic: no solution" in done.err


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="workers are spawned there")
def test_the_death_of_the_forkserver_costs_one_pair(start: Start) -> None:
    """The worker that killed it times out, and a new forkserver starts the next worker."""
    run = start("--pair-timeout", 6, fault="forkserver@0-1")
    done = run.end()
    assert done.code == 1
    assert "Traceback" not in done.err
    ended = run.events(JobEnded, "pairs")
    assert len(ended) == ended[-1].total
    assert [e.outcome for e in ended if e.error] == ["timeout"]
    assert ended[-1].pid not in {0, run.process.pid}
