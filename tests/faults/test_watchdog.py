"""A stage of the run itself that hangs is seen, explained and ended, even if it holds the GIL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.command import Start
from zemosaic.runtime.events import Heartbeat
from zemosaic.runtime.watchdog import Watchdog
from zemosaic.runtime.watchdog_process import Watch
from zemosaic.threads import take_reports

posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


@posix
def test_a_stage_that_holds_the_gil_is_ended(start: Start, examine: Any) -> None:
    """Status shows since when there is no sign of life; after the time-out the autopsy the stack.

    The results of all pairs are kept.
    """
    run = start("--stage-timeout", 8, fault="gil@solve")
    dump = run.folder / "stacks" / f"{run.process.pid}.txt"
    run.wait_for(lambda: dump.exists() and "hold_the_lock" in dump.read_text())
    run.wait_for(lambda: "no sign of life since" in examine("status", run.folder).out)
    shown = examine("status", run.folder).out
    assert "stage        in solve for" in shown
    assert "in hold_the_lock" in shown
    done = run.end()
    assert done.code == -signal.SIGABRT
    assert "zemosaic: stage solve has not ended in 8 s (--stage-timeout); the run" in done.err
    told = examine("autopsy", run.folder).out
    assert "cause        stage solve has not ended in 8 s (--stage-timeout)" in told
    assert "in solve for" in told
    assert "in hold_the_lock" in told
    again = start("--resume", "--stage-timeout", 0, pool="serial").end()
    assert again.code == 0
    assert "resumed: 11 of 11 pairs" in again.err


@posix
def test_heartbeats_do_not_prolong_a_stage_without_jobs(start: Start) -> None:
    """Its thread beats on while the stage hangs in C with the interpreter's lock released."""
    run = start("--stage-timeout", 5, fault="c@solve", pool="serial")
    done = run.end()
    assert done.code == -signal.SIGABRT
    assert "stage solve has not ended in" in done.err
    assert len(run.events(Heartbeat, "solve")) >= 2


def test_a_stage_whose_jobs_end_may_take_longer_than_the_timeout(start: Start) -> None:
    """Stages with jobs are timed from event to event."""
    done = start("--stage-timeout", 3, slow=0.7).end()
    assert done.code == 0, done.err


@posix
@pytest.mark.parametrize("place", ["overlap", "corrections.ecsv", "page"])
def test_every_stage_of_the_run_is_timed(start: Start, place: str) -> None:
    """The line names the stage."""
    run = start("--stage-timeout", 3, fault=f"gil@{place}", pool="serial")
    assert run.end().code == -signal.SIGABRT
    stage = "tables" if "." in place else place
    verdict = (run.folder / "stacks" / "watchdog.txt").read_text()
    assert verdict.startswith(f"stage {stage} has not ended in 3 s")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_ends_a_run_that_holds_the_gil(start: Start, number: int) -> None:
    """Within ten seconds without a sign of life; a run that can end in order is left to it."""
    run = start(fault="gil@solve", pool="serial")
    dump = run.folder / "stacks" / f"{run.process.pid}.txt"
    run.wait_for(lambda: dump.exists() and "hold_the_lock" in dump.read_text())
    run.kill(number)
    done = run.end()
    assert done.code == -signal.SIGABRT
    assert "interrupted, but stage solve has not reacted for" in done.err


@posix
def test_sigterm_ends_a_run_that_hangs_in_c(start: Start, examine: Any) -> None:
    """A thread that still gives signs of life changes nothing; the autopsy shows the stack."""
    run = start(fault="c@solve", pool="serial")
    run.wait_for(lambda: [e for e in run.events(Heartbeat, "solve") if "in hang_in_c" in e.stack])
    run.kill(signal.SIGTERM)
    done = run.end()
    assert done.code == -signal.SIGABRT
    assert "interrupted, but stage solve has not reacted for" in done.err
    told = examine("autopsy", run.folder).out
    assert "cause        interrupted, but stage solve has not reacted for" in told
    assert "in hang_in_c" in told
    assert "11 of 11 pairs" in told


def test_a_stage_that_only_waits_has_heartbeats(start: Start) -> None:
    """With the stack of the run, as those of workers have."""
    run = start(fault="sleep@solve", pool="serial")
    run.wait_for(lambda: len([e for e in run.events(Heartbeat, "solve") if e.stack]) >= 2)
    run.kill(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
    done = run.end()
    assert "stage solve has been running for" in done.err
    assert "sitecustomize.py" in run.events(Heartbeat, "solve")[-1].stack


def test_the_run_works_without_a_watchdog(start: Start, tmp_path: Path) -> None:
    """A system without processes to spare costs one line."""
    run = start(pool="serial", ZEMOSAIC_NO_POPEN="1")
    done = run.end()
    assert done.code == 0
    assert done.err.count("no watchdog can be started") == 1


def test_a_frozen_application_has_no_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its executable is the application, which must not start a second time."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with contextlib.closing(Watchdog(tmp_path, 1.0)):
        assert any("no watchdog" in report for report in take_reports())


def test_time_in_which_the_run_was_suspended_does_not_count() -> None:
    """A machine that slept for a day has lost no run; a stage that works as long is ended."""
    watch = Watch(timeout=100.0, grace=10.0)
    watch.receive(b"stage solve\n")
    for _ in range(49):
        watch.count(86_400.0)  # two ticks at most
    assert watch.verdict() == ""
    watch.count(2.0)
    assert "solve has not ended in 100 s" in watch.verdict()
    watch.receive(b"untimed tiles\n")
    for _ in range(200):
        watch.count(1.0)
    assert watch.verdict() == ""
    watch.receive(b"." + bytes([signal.SIGTERM]) + b"!.")
    for _ in range(9):
        watch.count(1.0)
    assert watch.verdict() == ""
    watch.receive(b".")
    watch.count(2.0)
    assert watch.verdict() == ""
    for _ in range(8):
        watch.count(1.0)
    assert "stage tiles has not reacted" in watch.verdict()


def test_signs_of_life_count_once_an_interrupt_was_handled() -> None:
    """Until then those of other threads do not, nor does a second interrupt prolong the grace."""
    number = bytes([signal.SIGINT])
    watch = Watch(timeout=0.0, grace=10.0)
    for _ in range(20):  # silent for long before the interrupt
        watch.count(1.0)
    watch.receive(number)
    assert watch.verdict() == ""
    for _ in range(9):
        watch.count(1.0)
        watch.receive(b".stage solve\n" + number)
    assert watch.verdict() == ""
    watch.receive(b"!")
    for _ in range(20):
        watch.count(1.0)
        watch.receive(b".")
    assert watch.verdict() == ""
    watch.receive(number)  # the end of the run hangs as well
    for _ in range(9):
        watch.count(1.0)
        watch.receive(b".")
    assert watch.verdict() == ""
    watch.count(1.0)
    assert watch.verdict() == "interrupted, but stage solve has not reacted for 10 s"
