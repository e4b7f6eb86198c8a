"""A call when a run falls silent: once per silence, and without any effect on the run."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import Queue

import pytest

from tests.helpers.recorded_traces import HEARTBEAT, PAIR_ENDED, RUN_STARTED
from zemosaic.observe import stall
from zemosaic.observe.heartbeats import sentence
from zemosaic.observe.stall import OnStall, run_command
from zemosaic.runtime.events import Event, Heartbeat, StageEnded

NAMED = replace(
    HEARTBEAT,
    running_attributes=[{"name_i": "a.fits", "name_j": "b.fits"}, {}],
    pending_indices=range(1, 4),
)


def test_a_silence_calls_once() -> None:
    """The first heartbeat of each silence is passed on, with the id of the run."""
    calls: Queue[tuple[Heartbeat, str]] = Queue()
    on_stall = OnStall(lambda beat, run_id: calls.put((beat, run_id)))
    later = replace(HEARTBEAT, idle_time=20.0)
    again = replace(HEARTBEAT, idle_time=11.0)
    events: list[Event] = [RUN_STARTED, HEARTBEAT, later, PAIR_ENDED]
    on_stall.handle_batch(events)
    assert calls.get(timeout=30) == (HEARTBEAT, "r")
    on_stall.handle_batch([again, later])
    assert calls.get(timeout=30) == (again, "r")
    assert calls.empty()


def test_a_stage_without_jobs_calls_once() -> None:
    """Its end is the end of the silence."""
    calls: Queue[str] = Queue()
    on_stall = OnStall(lambda beat, run_id: calls.put(sentence(beat)))
    solve = replace(HEARTBEAT, stage="solve", total=0, running_attributes=[])
    ended = StageEnded(stage="solve", time_ns=HEARTBEAT.time_ns)
    on_stall.handle_batch([RUN_STARTED, solve, solve, ended, HEARTBEAT])
    first, second = sorted(calls.get(timeout=30) for _ in range(2))
    assert first.startswith("no job has finished")
    assert second == "solve has been running for 10 s"
    assert calls.empty()


def test_a_call_that_hangs_or_fails_does_not_delay_the_run() -> None:
    """The caller returns at once, and nothing is raised."""
    release = threading.Event()
    OnStall(lambda beat, run_id: release.wait()).heartbeat(HEARTBEAT)
    OnStall(lambda beat, run_id: 1 / 0).heartbeat(HEARTBEAT)
    release.set()


@pytest.mark.skipif(sys.platform == "win32", reason="cmd.exe cannot copy its standard input")
def test_a_command_reads_the_heartbeat_as_json(tmp_path: Path) -> None:
    """The entry has the fields of the heartbeat, the run and a sentence."""
    target = tmp_path / "call.json"
    run_command(f"cat > '{target}.part'; mv '{target}.part' '{target}'", "run")(NAMED, "r")
    deadline = time.monotonic() + 30
    while not target.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    entry = json.loads(target.read_text())
    assert entry["run_id"] == "r"
    assert entry["folder"] == "run"
    assert entry["pending_indices"] == [1, 2, 3]
    assert entry["running_attributes"][0] == {"name_i": "a.fits", "name_j": "b.fits"}
    assert entry["message"] == sentence(NAMED)
    assert entry["message"] == (
        "no job has finished for 10 s, 4 of 9 pairs done; a.fits and b.fits for 12 s"
    )


@pytest.mark.parametrize("command", ["exit 3", "no-such-command-here", "sleep 100"])
def test_a_command_that_fails_or_hangs_changes_nothing(
    command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on at once; the failure is a line of the log."""
    monkeypatch.setattr(stall, "COMMAND_TIMEOUT", 0.1)
    threads = set(threading.enumerate())
    OnStall(run_command(command, "run")).heartbeat(NAMED)
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
    assert [record.message for record in caplog.records] == ["the call at a stall failed"]
