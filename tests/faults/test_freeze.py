"""A frozen run is visible in its heartbeats, by ``status``, in the collector and by ``autopsy``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.command import PATIENCE, Start
from tests.helpers.otlp_receiver import Received, http_receiver, plain
from zemosaic.runtime import stacks
from zemosaic.runtime.events import Heartbeat, JobEnded, JobSubmitted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")

PHASE = "phase5_intertile"
BEATS = 4 if stacks.DUMPS_IN_PYTHON else 2  # until a job stuck in C has been dumped


def phases(received: Received) -> list[Any]:
    return [span for span in received.spans if span.name == PHASE]


def beats(span: Any) -> list[dict[str, Any]]:
    known = [plain(e.attributes) for e in span.events if e.name == f"{PHASE}.heartbeat"]
    return [beat for beat in known if beat["zemosaic.stage"] == "pairs"]


def state(span: Any) -> str:
    return plain(span.attributes)["zemosaic.run.state"]


def test_a_frozen_run_is_seen_killed_delivered_and_resumed(start: Start, examine: Any) -> None:
    """A worker that holds the GIL for ever can be seen from outside, and its run can be resumed.

    The collector holds the running phase with heartbeats, pending indices and the stack; status
    names the pair; after kill -9 no worker is left; the autopsy sends the missing spans under their
    own ids, once.
    """
    with http_receiver() as (url, received):
        run = start("--otlp", url, "--live", "snapshot", fault="gil@3-4")
        run.wait_for(lambda: [p for p in phases(received) if len(beats(p)) >= BEATS])
        shown = examine("status", run.folder)
        (row,) = [line for line in shown.out.splitlines() if "tile_0003.fits" in line]
        assert "hold_the_lock" in row
        assert "10 of 11 done" in shown.out
        refused = examine("autopsy", run.folder, "--otlp", url)
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        index = run.events(Heartbeat)[-1].running_indices[0]
        worker = int(row.split()[0])
        run.kill()
        assert run.end().code == -9

        pictures = phases(received)
        assert {state(p) for p in pictures} == {"running"}
        assert len({(p.span_id, p.start_time_unix_nano) for p in pictures}) == 1
        newest = pictures[-1]
        # A heartbeat repeats the stack only if it has changed.
        (beat,) = [b for b in beats(newest) if "code.stacktrace" in b]
        assert beat["zemosaic.pairs.pending_indices"] == [index]
        assert beat["zemosaic.pairs.running_indices"] == [index]
        assert "hold_the_lock" in beat["code.stacktrace"]
        assert len(beat["code.stacktrace"]) <= 8192
        if Path("/proc/self").exists():  # on Linux no worker outlives its run
            deadline = time.monotonic() + PATIENCE
            while (at := Path(f"/proc/{worker}/stat")).exists() and ") Z" not in at.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)

        told = examine("autopsy", run.folder, "--otlp")
        assert told.code == 0, told.err
        for words in ("died after", "kill -9", "in stage pairs", "tile_0003.fits, tile_",
                      "hold_the_lock", "6 of 6 tiles and 10 of 11 pairs", "--resume"):  # fmt: skip
            assert words in told.out
        check_trace_is_complete(received, pairs=11)
        again = len(received.spans)
        assert "sent         0 spans" in examine("autopsy", run.folder, "--otlp").out
        assert len(received.spans) == again
        with http_receiver() as (other, fresh):
            assert examine("autopsy", run.folder, "--otlp", other).code == 0
            check_trace_is_complete(fresh, pairs=11)
            starts = [s for s in fresh.spans if s.name == f"{PHASE}.worker_start"]
            stages = ("prepare", "scan", "overlap", "pairs")
            assert len(fresh.spans) == 1 + len(stages) + len(starts) + 6 + 11
    done = start("--resume").end()
    assert done.code == 0
    assert "10 of 11 pairs are known" in done.err


def check_trace_is_complete(received: Received, pairs: int) -> None:
    """Check that each span came once, besides open ones as they stood, and has a parent."""
    spans = received.spans
    finals = [s for s in spans if "zemosaic.run.last_seen" not in plain(s.attributes)]
    ids = [s.span_id for s in finals]
    assert len(ids) == len(set(ids))
    assert len({s.trace_id for s in spans}) == 1
    assert all(s.parent_span_id in ids for s in finals if s.parent_span_id)
    (phase,) = [s for s in finals if s.name == PHASE]
    assert state(phase) == "died"
    assert phase.status.code == 2
    assert sum(s.name == f"{PHASE}.pair" for s in finals) == pairs
    (lost,) = [s for s in finals if s.name == f"{PHASE}.pair" and s.status.code == 2]
    assert plain(lost.attributes)["error.type"] == "RunDied"


@pytest.mark.parametrize("live", ["snapshot", "marker", "off"])
def test_the_final_span_of_a_continued_run_comes_last(
    start: Start, tmp_path: Path, live: str
) -> None:
    """No snapshot follows it; without snapshots the span of the phase is sent once."""
    leave = tmp_path / "leave"
    with http_receiver() as (url, received):
        run = start(
            "--otlp", url, "--live", live,
            fault="wait@3-4", pool="threads", ZEMOSAIC_LEAVE=str(leave),
        )  # fmt: skip
        run.wait_for(lambda: len(run.events(Heartbeat)) >= 2)
        if live == "snapshot":
            run.wait_for(lambda: [p for p in phases(received) if beats(p)])
        leave.touch()
        assert run.end().code == 0
        found = phases(received)
        assert [state(p) for p in found][-1] == "finished"
        assert {state(p) for p in found[:-1]} <= {"running"}
        assert (len(found) > 1) == (live == "snapshot")
        assert received.spans[-1].name == PHASE
        markers = [s for s in received.spans if s.name == f"{PHASE}.heartbeat"]
        assert bool(markers) == (live == "marker")
    assert (run.folder / "trace.jsonl").read_text().count(f'"name":"{PHASE}"') == 1


def test_a_thread_that_holds_the_gil_is_seen_from_outside(start: Start, examine: Any) -> None:
    """The scheduler is frozen too, but the stack is dumped and shown by status."""
    run = start(fault="gil@3-4", pool="threads")
    dump = run.folder / "stacks" / f"{run.process.pid}.txt"
    run.wait_for(lambda: dump.exists() and "hold_the_lock" in dump.read_text())
    assert not [e for e in run.events(Heartbeat) if e.stage == "pairs" and e.stack]
    shown = examine("status", run.folder).out
    # Another pair of tile 3 may be frozen beside it.
    rows = [line for line in shown.splitlines() if "tile_0003.fits" in line]
    (row,) = [line for line in rows if "tile_0004.fits" in line]
    assert "hold_the_lock" in row
    run.kill()
    run.end()
    assert "hold_the_lock" in examine("autopsy", run.folder).out
    assert start("--resume", pool="threads").end().code == 0


def test_a_segfault_of_the_run_is_explained(start: Start, examine: Any) -> None:
    """The autopsy shows the error, the stage and the stack of the run."""
    run = start(fault="segfault@solve", pool="serial")
    assert run.end().code == -11
    told = examine("autopsy", run.folder)
    assert "cause        Segmentation fault" in told.out
    assert "in stage solve" in told.out
    assert "string_at" in told.out
    assert "11 of 11 pairs" in told.out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill@scan3", "no tiles and no pairs"),
        ("kill@tile3", "3 of 6 tiles and no pairs"),
        ("kill@3-4", "6 of 6 tiles"),
        ("kill@solve", "11 of 11 pairs"),
        ("kill@pairs.ecsv", "11 of 11 pairs"),
    ],
)
def test_the_trace_of_a_run_killed_in_any_stage_is_completed(
    start: Start, examine: Any, fault: str, words: str
) -> None:
    """The autopsy lists the saved results; the trace has one phase, and each span a parent."""
    run = start(fault=fault, pool="serial")
    assert run.end().code == -9
    with http_receiver() as (url, received):
        told = examine("autopsy", run.folder, "--otlp", url)
        assert told.code == 0
        assert words in told.out
        spans = received.spans
        ids = [s.span_id for s in spans]
        assert len(ids) == len(set(ids))
        assert all(s.parent_span_id in ids for s in spans if s.parent_span_id)
        assert [state(s) for s in phases(received)] == ["died"]
        open_jobs = len(run.events(JobSubmitted)) - len(run.events(JobEnded))
        assert sum(plain(s.attributes).get("error.type") == "RunDied" for s in spans) >= open_jobs


def test_the_autopsy_of_a_finished_run_and_of_no_run(
    start: Start, examine: Any, tmp_path: Path
) -> None:
    """A finished run is reported as such; without a run there is one line and exit 2."""
    run = start(pool="serial")
    assert run.end().code == 0
    told = examine("autopsy", run.folder)
    assert (told.code, told.err) == (0, "")
    assert "finished" in told.out
    assert "resume  " not in told.out
    assert "finished" in examine("status", run.folder).out
    with http_receiver() as (url, received):
        assert "sent         23 spans" in examine("autopsy", run.folder, "--otlp", url).out
        assert [state(s) for s in phases(received)] == ["finished"]
    for folder in (tmp_path / "none", tmp_path):
        for command in ("autopsy", "status"):
            nothing = examine(command, folder)
            assert nothing.code == 2
            assert nothing.err.count("\n") == 1
            assert "holds no run" in nothing.err
