"""The console: progress, failures and advice, as a person reads them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console as Terminal

from tests.helpers.cli import Run
from tests.helpers.fakes import FakeClock, ManualPool
from zemosaic.observe.console import Console
from zemosaic.observe.progress import ProgressRate, format_duration
from zemosaic.runtime.events import (
    Heartbeat,
    JobEnded,
    JobError,
    Note,
    RunEnded,
    SlowJob,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.scheduler import Job, run

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
    running_steps=["fit", ""],
    stack='Thread 0x1 (most recent call first):\n  File "/opt/a/regression.py", line 88 in solve',
    timeout=300.0,
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
    """A console on a stream, which rich takes for a file or for a terminal."""

    def __init__(self, *, terminal: bool = False, **options: Any) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        shown = Terminal(file=self.stream, force_terminal=terminal, width=100)
        self.console = Console(shown, Path("a run"), clock=lambda: self.now, **options)

    def show(self, *events: Any) -> None:
        fan_out = FanOut([self.console])
        for event in events:
            fan_out.dispatch(event)

    @property
    def lines(self) -> list[str]:
        """Return the lines without their times; every line must have one."""
        lines = self.stream.getvalue().splitlines()
        for line in lines:
            assert re.match(r"\d\d:\d\d:\d\d ", line), line
        return [line[9:] for line in lines]


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture(autouse=True)
def any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the environment that affect colours."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(autouse=True)
def no_observer_removed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that the console never raised: an observer that does is removed and logged."""
    yield
    assert [r.getMessage() for r in caplog.records if "taken off" in r.getMessage()] == []


def test_a_good_short_run_prints_nothing_to_a_file(screen: Screen) -> None:
    """A log file gets no bar, and no line while the stages are short and nothing fails."""
    screen.show(
        StageStarted(stage="pairs", time_ns=0, total=2),
        PAIR_ENDED,
        replace(PAIR_ENDED, done=2),
        StageEnded(stage="pairs", time_ns=1_500_000_000),
        RunEnded(state="finished", time_ns=0),
    )
    assert screen.stream.getvalue() == ""


def test_a_long_stage_prints_its_progress_to_a_file(screen: Screen) -> None:
    """Every ten seconds a line has the ended jobs, the failures, the rate and the time left."""
    screen.show(StageStarted(stage="pairs", time_ns=0, total=100))
    error = JobError("ValueError", "no")
    for done in range(1, 31):
        screen.now = float(done)
        bad = {"outcome": "failed", "error": error} if done == 3 else {}
        screen.show(replace(PAIR_ENDED, done=done, total=100, **bad))
    screen.show(StageEnded(stage="pairs", time_ns=33_000_000_000))
    assert [line for line in screen.lines if line.startswith("measuring pairs:")] == [
        "measuring pairs: 10 of 100 (1 failed), 1.0/s, 90 s left",
        "measuring pairs: 20 of 100 (1 failed), 1.0/s, 80 s left",
        "measuring pairs: 30 of 100 (1 failed), 1.0/s, 70 s left",
        "measuring pairs: 30 of 100 (1 failed) in 33.0 s",
    ]


def test_quiet_prints_warnings_and_errors_only() -> None:
    """With -q there is no progress and no note, but every warning and error."""
    screen = Screen(quiet=True, terminal=True)
    screen.show(
        StageStarted(stage="pairs", time_ns=0, total=2),
        PAIR_ENDED,
        Note(level=logging.INFO, message="fine"),
        Note(level=logging.WARNING, message="not fine"),
        replace(PAIR_ENDED, done=2, outcome="failed", error=JobError("ValueError", "no")),
        StageEnded(stage="pairs", time_ns=0),
    )
    assert len(screen.stream.getvalue().splitlines()) == 2
    assert "not fine" in screen.stream.getvalue()
    assert "ValueError: no" in screen.stream.getvalue()


def test_verbose_prints_a_line_for_every_job() -> None:
    """With -v a line has the outcome, seconds and reason of a job; stacks are whole."""
    screen = Screen(verbose=True)
    attributes = {**FILES, "reason": "too few cells"}
    ended = replace(PAIR_ENDED, outcome="rejected", attributes=attributes, ended_ns=20_000_000)
    screen.show(ended, HEARTBEAT)
    assert screen.lines[0] == (
        "pair 348 (a [red].fits, b[/bold].fits) rejected in 0.020 s: too few cells"
    )
    assert any("/opt/a/regression.py" in line for line in screen.lines)


def test_a_heartbeat_names_the_stuck_jobs_and_the_remedies(screen: Screen) -> None:
    """It has pair, files, seconds, step, place in the code, time-out and advice."""
    screen.show(HEARTBEAT)
    assert screen.lines == [
        "no job has finished for 10 s: measuring pairs, 340 of 4342 done, 2 running",
        "  pair 348 (a [red].fits, b[/bold].fits): for 73 s, step fit, in regression.py:88 in "
        "solve, times out in 227 s",
        "  pair 351 (c.fits, d.fits): for 12 s, times out in 288 s",
        "  wait (stuck jobs time out and the rest continue); run \"zemosaic status 'a run'\" in "
        "another terminal for more; or press Ctrl-C and resume with --resume",
    ]


def test_advice_is_not_repeated_at_every_beat(screen: Screen) -> None:
    """Advice comes with the first heartbeat of a stall, and with the first of the next stall."""
    screen.show(HEARTBEAT, HEARTBEAT, PAIR_ENDED, HEARTBEAT)
    assert sum("--resume" in line for line in screen.lines) == 2


def test_a_heartbeat_without_time_out_promises_none(screen: Screen) -> None:
    """Without a time-out the line and the advice state that jobs may never end."""
    screen.show(replace(HEARTBEAT, timeout=0.0))
    assert "never times out (no time-out is set)" in screen.lines[1]
    assert "may never end" in screen.lines[-1]


def test_a_heartbeat_before_any_job_runs_is_printed(screen: Screen) -> None:
    """Before any job runs or has ended, the counts are zero."""
    screen.show(
        replace(
            HEARTBEAT,
            done=0,
            running_indices=[],
            running_time=[],
            running_attributes=[],
            running_steps=[],
            last_completed_index=0,
        )
    )
    assert screen.lines[0].endswith("measuring pairs, 0 of 4342 done, 0 running")


def test_a_stuck_pair_of_a_real_loop_is_named(screen: Screen) -> None:
    """With the real scheduler, a line names the stuck pair after ten silent seconds."""
    pool = ManualPool(workers=1)

    def end_after_a_while(now: float) -> None:
        if now >= 1012.0 and pool.flying:
            pool.end(min(pool.flying))

    jobs = [Job(1, abs, (-1,), FILES)]
    clock = FakeClock(end_after_a_while)
    run(jobs, 1, pool, FanOut([screen.console]), stage="pairs", clock=clock)
    place = next(k for k, line in enumerate(screen.lines) if line.startswith("no job has finished"))
    assert (
        screen.lines[place]
        == "no job has finished for 10 s: measuring pairs, 0 of 1 done, 1 running"
    )
    stuck = screen.lines[place + 1]
    assert re.search(r"pair 1 \(a \[red\]\.fits, b\[/bold\]\.fits\): for \d+ s", stuck)


def test_a_failed_job_is_named(screen: Screen) -> None:
    """A failed pair is reported at once with its number, its files and its error."""
    error = JobError("SIGSEGV", "the worker was killed by SIGSEGV")
    screen.show(replace(PAIR_ENDED, outcome="crashed", error=error))
    assert screen.lines == [
        "pair 348 (a [red].fits, b[/bold].fits): SIGSEGV: the worker was killed by SIGSEGV"
    ]


def test_a_failed_tile_is_named(screen: Screen) -> None:
    """A failed tile is reported by its name, or by its number without one."""
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
    """A slow pair is reported while other pairs continue."""
    slow = SlowJob(stage="pairs", time_ns=0, index=348, running_time=100.4, attributes=FILES)
    screen.show(slow, replace(slow, step="load", stack=HEARTBEAT.stack))
    line = "pair 348 (a [red].fits, b[/bold].fits) has been running for 100 s"
    assert screen.lines == [line, f"{line}, step load, in regression.py:88 in solve"]


def test_notes_are_printed_as_they_are(screen: Screen) -> None:
    """Brackets are not markup, and a long line is not folded, so that grep finds it."""
    text = "tile_[bold]x[/].fits: :smile: 12.5 'quoted' " + "far " * 50 + "away"
    screen.show(Note(level=logging.WARNING, message=text), Note(level=logging.INFO, message="ok"))
    assert screen.lines == [text, "ok"]
    assert "\x1b" not in screen.stream.getvalue()


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    """The bar counts ended jobs under the title of the stage, and restores the cursor."""
    screen = Screen(terminal=True)
    screen.show(
        StageStarted(stage="scan", time_ns=0, total=2),
        replace(PAIR_ENDED, stage="scan", done=2),
        StageEnded(stage="scan", time_ns=0),
    )
    shown = screen.stream.getvalue()
    assert "reading headers" in shown
    assert "2/2" in shown
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert shown.count(hide) == shown.count(show) == 1
    assert shown.rindex(show) > shown.rindex("2/2")


def test_an_interrupted_run_leaves_the_terminal_as_it_was() -> None:
    """Ctrl-C leaves the stage open; the end of the run still restores the cursor."""
    screen = Screen(terminal=True)
    screen.show(
        StageStarted(stage="pairs", time_ns=0, total=2),
        RunEnded(state="interrupted", time_ns=0, error=JobError.of(KeyboardInterrupt())),
    )
    shown = screen.stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_errors_stand_out_on_a_terminal() -> None:
    """Errors and warnings have colours of their own, and their text is unchanged."""
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
    """The seconds of a stage are the time between its start and end, nested stages included."""
    screen.show(
        StageStarted(stage="prepare", time_ns=0),
        StageStarted(stage="tiles", time_ns=1_000_000_000, total=1),
        StageEnded(stage="tiles", time_ns=3_000_000_000),
        StageEnded(stage="prepare", time_ns=3_500_000_000),
    )
    assert screen.console.stage_seconds == {"tiles": 2.0, "prepare": 3.5}


def test_the_rate_falls_while_no_job_ends() -> None:
    """The rate includes the silence since the last job, so a stall does not look like progress."""
    rate = ProgressRate(100, 0.0)
    for done in range(1, 11):
        rate.job_ended(done, float(done))
    assert rate.rate(10.0) == pytest.approx(1.0)
    assert rate.rate(40.0) == pytest.approx(0.25)
    fast, slow = rate.time_left(10.0), rate.time_left(40.0)
    assert fast is not None
    assert slow is not None
    assert slow[1] > 3 * fast[1]


def test_the_bounds_of_the_time_left_hold() -> None:
    """For jobs of random length the true time is within the bounds in 19 of 20 cases."""
    random = Random(3)
    held = 0
    for _ in range(400):
        gaps = [random.expovariate(2.0) for _ in range(200)]
        rate, now = ProgressRate(200, 0.0), 0.0
        for done, gap in enumerate(gaps[:50], 1):
            now += gap
            rate.job_ended(done, now)
        left = rate.time_left(now)
        assert left is not None
        held += left[0] <= sum(gaps[50:]) <= left[1]
    assert 0.9 <= held / 400 <= 0.99


def test_the_time_left_follows_a_change_of_pace() -> None:
    """The rate of more than half a minute ago does not count."""
    rate = ProgressRate(1000, 0.0)
    for done in range(1, 501):
        rate.job_ended(done, done / 100)
    for done in range(501, 541):
        rate.job_ended(done, 5.0 + (done - 500))
    left = rate.time_left(45.0)
    assert left is not None
    assert left == pytest.approx((460, 460), rel=0.01)


@pytest.mark.parametrize("ends", [0, 1, 4])
def test_few_jobs_give_no_time_left(ends: int) -> None:
    """With few ended jobs the time left is unknown."""
    rate = ProgressRate(100, 0.0)
    for done in range(1, ends + 1):
        rate.job_ended(done, float(done))
    assert rate.time_left(10.0) is None
    assert "left" not in rate.describe(10.0) or "left unknown" in rate.describe(10.0)


def test_durations_are_formatted_for_people() -> None:
    """Durations are in seconds, minutes or hours."""
    assert [format_duration(s) for s in (8, 119, 200, 9000)] == ["8 s", "119 s", "3 min", "2.5 h"]


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR an error on a terminal has no colour."""
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(terminal=True)
    screen.show(Note(level=logging.ERROR, message="[a].fits"))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", screen.stream.getvalue())


def test_json_is_one_object(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """With --json standard output is one object; text for people goes to standard error."""
    tiles = write_tiles()
    (tmp_path / "broken.fits").write_bytes(b"no FITS")
    result = intertile(*tiles, tmp_path / "broken.fits", "--json")
    summary = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert (result.code, summary["exit_code"]) == (1, 1)
    assert summary["tiles"]["used"] == 4
    assert list(summary["tiles"]["failed"]) == ["broken.fits"]
    assert summary["pairs"]["measured"] == 6
    assert Path(summary["files"]["report"]).exists()
    assert "corrections  " in result.err


def test_json_of_a_failure_has_the_error(intertile: Callable[..., Run]) -> None:
    """Without a solution the object has the exit code and the line that people read."""
    result = intertile("a.fits", "b.fits", "--json")
    summary = json.loads(result.out)
    assert summary["exit_code"] == result.code == 2
    assert "a.fits: no such file" in summary["error"]


def test_quiet_and_verbose_contradict(intertile: Callable[..., Run]) -> None:
    """Giving both options is refused in one line."""
    result = intertile("a.fits", "b.fits", "-q", "-v")
    assert result.code == 2
    assert "contradict" in result.err


def test_quiet_leaves_standard_output_empty(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]]
) -> None:
    """A good run with -q prints nothing at all."""
    result = intertile(*write_tiles(), "-q")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(("widgets", "bars"), [(True, 1), (False, 0)])
def test_a_notebook_has_a_bar_if_it_has_widgets(
    widgets: bool, bars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook the bar needs ipywidgets; without them progress is lines, and no warning."""
    monkeypatch.setattr("zemosaic.observe.console.find_spec", lambda name: widgets or None)
    started: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: started.append("bar"))
    console = Console(Terminal(file=io.StringIO(), force_jupyter=True))
    console.stage_started(StageStarted(stage="pairs", time_ns=0, total=2))
    console.stage_ended(StageEnded(stage="pairs", time_ns=1))
    assert len(started) == bars
