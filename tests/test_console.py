"""What a person reads of a run."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console as Terminal

from tests.fakes import FakeClock, ManualPool
from zemosaic.observe.console import Console
from zemosaic.runtime.events import (
    FanOut,
    Heartbeat,
    JobEnded,
    JobError,
    Note,
    RunEnded,
    SlowJob,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.schedule import Job, run

FILES = {"name_i": "a [red].fits", "name_j": "b[/bold].fits"}
HEARTBEAT = Heartbeat(
    stage="pairs",
    time_ns=0,
    done=340,
    total=4342,
    pending=4002,
    pending_indices=[348, 351],
    running_indices=[348, 351],
    running_time=[73.4, 12.0],
    running_attributes=[FILES, {"name_i": "c.fits", "name_j": "d.fits"}],
    last_completed_index=347,
    idle_time=10.2,
)
PAIR_ENDED = JobEnded(
    stage="pairs",
    index=348,
    done=1,
    total=2,
    outcome="measured",
    attributes=FILES,
    submitted_ns=0,
    started_ns=0,
    ended_ns=0,
    pid=1,
)


class Screen:
    """A console on a stream of the test's: a file, or what rich takes for a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.stream = io.StringIO()
        self.console = Console(Terminal(file=self.stream, force_terminal=terminal, width=80))

    def show(self, *events: Any) -> None:
        fan_out = FanOut([self.console])
        for event in events:
            fan_out.emit(event)

    @property
    def lines(self) -> list[str]:
        """The lines without their times, each of which must have one."""
        lines = self.stream.getvalue().splitlines()
        for line in lines:
            assert re.match(r"\d\d:\d\d:\d\d ", line), line
        return [line[9:] for line in lines]


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture(autouse=True)
def any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests has a say in colours."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(autouse=True)
def nobody_taken_off(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The console raised at nothing: what raises is taken off, and logged."""
    yield
    assert [r.getMessage() for r in caplog.records if "taken off" in r.getMessage()] == []


def test_a_good_run_in_a_file_says_nothing(screen: Screen) -> None:
    """In a log file there is no bar, and no line where nothing is wrong."""
    screen.show(
        StageStarted(stage="pairs", time_ns=0, total=2),
        PAIR_ENDED,
        replace(PAIR_ENDED, done=2),
        StageEnded(stage="pairs", time_ns=0),
        RunEnded(state="finished", time_ns=0),
    )
    assert screen.stream.getvalue() == ""


def test_a_heartbeat_names_the_stuck_pairs(screen: Screen) -> None:
    """How far it is, how long nothing has ended, and what runs: pair, files and seconds."""
    screen.show(HEARTBEAT)
    assert screen.lines == [
        "heartbeat: 340/4342 pairs done, none for 10 s; running: "
        "pair 348 (a [red].fits, b[/bold].fits) for 73 s, pair 351 (c.fits, d.fits) for 12 s; "
        "last to end: 347"
    ]


def test_a_heartbeat_of_nothing_says_none(screen: Screen) -> None:
    """Before anything runs or has ended it says so in words."""
    screen.show(
        replace(
            HEARTBEAT,
            done=0,
            running_indices=[],
            running_time=[],
            running_attributes=[],
            last_completed_index=0,
        )
    )
    assert "running: none; last to end: none" in screen.lines[0]


def test_a_stuck_pair_of_a_real_loop_is_named(screen: Screen) -> None:
    """From the scheduler itself: after ten silent seconds the line has the pair that hangs."""
    pool = ManualPool(workers=1)

    def end_after_a_while(now: float) -> None:
        if now >= 1012.0 and pool.flying:
            pool.end(min(pool.flying))

    jobs = [Job(1, abs, (-1,), FILES)]
    clock = FakeClock(end_after_a_while)
    run(jobs, 1, pool, FanOut([screen.console]), stage="pairs", clock=clock)
    beat, *_ = [line for line in screen.lines if line.startswith("heartbeat")]
    assert beat.startswith("heartbeat: 0/1 pairs done, none for 10 s; running: pair 1 (a [red].")
    assert re.search(r"b\[/bold\]\.fits\) for \d+ s", beat)


def test_a_failed_job_is_named(screen: Screen) -> None:
    """A failed pair is told at once by its number, its files and its error."""
    error = JobError("SIGSEGV", "the worker was killed by SIGSEGV")
    screen.show(replace(PAIR_ENDED, outcome="crashed", error=error))
    assert screen.lines == [
        "pair 348 (a [red].fits, b[/bold].fits): SIGSEGV: the worker was killed by SIGSEGV"
    ]


def test_a_failed_tile_is_named(screen: Screen) -> None:
    """A tile is told by its name, and by its number where it has none."""
    failed = replace(
        PAIR_ENDED,
        stage="tiles",
        outcome="failed",
        attributes={"name": "[a].fits"},
        error=JobError("TileError", "has no [WCS]"),
    )
    screen.show(failed, replace(failed, attributes={}))
    assert screen.lines == [
        "[a].fits: TileError: has no [WCS]",
        "tile 348: TileError: has no [WCS]",
    ]


def test_a_slow_pair_is_named(screen: Screen) -> None:
    """It is told while the others go on."""
    screen.show(SlowJob(stage="pairs", time_ns=0, index=348, running_time=100.4, attributes=FILES))
    assert screen.lines == ["pair 348 (a [red].fits, b[/bold].fits) has been running for 100 s"]


def test_notes_are_printed_as_they_are(screen: Screen) -> None:
    """Brackets in names are no markup, and a long line is one line, for grep."""
    text = "tile_[bold]x[/].fits: :smile: 12.5 'quoted' " + "far " * 50 + "away"
    screen.show(Note(level=logging.WARNING, message=text), Note(level=logging.INFO, message="ok"))
    assert screen.lines == [text, "ok"]
    assert "\x1b" not in screen.stream.getvalue()


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    """The bar counts ended jobs under a person's word for the stage, and leaves the cursor on."""
    screen = Screen(terminal=True)
    screen.show(
        StageStarted(stage="scan", time_ns=0, total=2),
        replace(PAIR_ENDED, stage="scan", done=2),
        StageEnded(stage="scan", time_ns=0),
    )
    shown = screen.stream.getvalue()
    assert "headers" in shown
    assert "2/2" in shown
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert shown.count(hide) == shown.count(show) == 1
    assert shown.rindex(show) > shown.rindex("2/2")


def test_an_interrupted_run_leaves_the_terminal_as_it_was() -> None:
    """Ctrl-C ends no stage; the end of the run brings the cursor back all the same."""
    screen = Screen(terminal=True)
    screen.show(
        StageStarted(stage="pairs", time_ns=0, total=2),
        RunEnded(state="interrupted", time_ns=0, error=JobError.of(KeyboardInterrupt())),
    )
    shown = screen.stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_errors_stand_out_on_a_terminal() -> None:
    """Errors and warnings have a colour of their own, and the text in it is as it was."""
    screen = Screen(terminal=True)
    for level in (logging.ERROR, logging.WARNING, logging.INFO):
        screen.show(Note(level=level, message="[a].fits"))
    error, warning, plain = screen.stream.getvalue().splitlines()
    assert "\x1b[" in error
    assert "\x1b[" in warning
    assert error.split("m")[0] != warning.split("m")[0]
    assert "\x1b[" not in plain
    assert all("[a].fits" in line for line in (error, warning, plain))


def test_stages_are_timed_by_their_events(screen: Screen) -> None:
    """The seconds of the summary are those between start and end, of nested stages too."""
    screen.show(
        StageStarted(stage="prepare", time_ns=0),
        StageStarted(stage="tiles", time_ns=1_000_000_000, total=1),
        StageEnded(stage="tiles", time_ns=3_000_000_000),
        StageEnded(stage="prepare", time_ns=3_500_000_000),
    )
    assert screen.console.stage_seconds == {"tiles": 2.0, "prepare": 3.5}
