"""Status: progress, rate and the job of each worker, as far as they are known."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.journals import BEGUN, SECOND, ended, write
from zemosaic.observe.autopsy import Autopsy, StuckJob, examine
from zemosaic.observe.status import describe_rate, status, watch
from zemosaic.runtime import journal
from zemosaic.runtime.events import RunEnded
from zemosaic.runtime.inflight import Row
from zemosaic.runtime.run_folder import claim


@pytest.fixture
def running(tmp_path: Path) -> Autopsy:
    with claim(tmp_path):
        autopsy = examine(write(tmp_path, BEGUN))
    row = Row("pairs", 2, "fit", 77, 1, 104 * SECOND, 105 * SECOND)
    attributes = {"name_i": "a.fits", "name_j": "2.fits"}
    stack = 'Thread 0x1 (most recent call first):\n  File "/x/fit.py", line 9 in solve\n'
    job = StuckJob(row, attributes, 6.0, stack)
    return replace(autopsy, pid=4711, last_ns=110 * SECOND, running_jobs=(job,))


def printed(autopsy: Autopsy) -> str:
    terminal = Console(file=io.StringIO(), width=200)
    terminal.print(status(autopsy))
    return terminal.file.getvalue()  # type: ignore[attr-defined]


def test_status_shows_the_whole_run(running: Autopsy) -> None:
    """The process, the stage and its jobs; for each worker its pair, files, step and line."""
    text = printed(running)
    for words in ("process 4711", "for 10 s", "pairs: 1 of 4 done", "pair 2 (a.fits, 2.fits)",
                  "fit", "77", "6.0", "fit.py:9 in solve"):  # fmt: skip
        assert words in text


def steady(running: Autopsy, first: int, total: int) -> Autopsy:
    """Return a run whose last six jobs of a stage each took a second, the last one at 110 s."""
    start = replace(running.record.events[1], time_ns=104 * SECOND, total=total)
    jobs = [replace(ended(k, 104 + k), done=first + k, total=total) for k in range(6)]
    folder = running.folder / "steady"
    folder.mkdir()
    (record,) = journal.read_columns(write(folder, [running.record.events[0], start, *jobs]))
    return replace(running, record=record)


def test_time_left_is_that_of_the_last_half_minute(running: Autopsy) -> None:
    """At a job a second, fourteen jobs take fourteen seconds."""
    assert describe_rate(steady(running, 1, 20)) == "1.0/s, 14 s left"


def test_few_jobs_give_a_rate_without_a_time_left(running: Autopsy) -> None:
    """One pair in nine seconds is a rate, but no estimate."""
    assert describe_rate(running) == "6.7/min, time left unknown"


def test_silence_makes_the_time_left_unknown(running: Autopsy) -> None:
    """Ten seconds after the last job the rate says nothing."""
    late = replace(steady(running, 1, 20), last_ns=200 * SECOND)
    assert describe_rate(late) == "no job has finished for 90 s; time left unknown"


def test_results_of_an_earlier_run_do_not_count_for_the_rate(running: Autopsy) -> None:
    """Results taken over by --resume took this run no time."""
    assert describe_rate(steady(running, 85, 100)) == "1.0/s, 10 s left"


def test_without_a_terminal_status_is_printed_once(running: Autopsy) -> None:
    """A program that reads it gets one table and an end."""
    terminal, looks = Console(file=io.StringIO(), width=200), []
    watch(lambda: looks.append(1) or running, terminal)  # type: ignore[func-returns-value]
    assert len(looks) == 1
    assert "pairs: 1 of 4 done" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_on_a_terminal_status_is_shown_until_the_end(running: Autopsy, tmp_path: Path) -> None:
    """The last picture is the summary of the run."""
    over = examine(write(tmp_path, [*BEGUN, RunEnded(state="finished", time_ns=120 * SECOND)]))
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    states = iter([running, running, over])
    watch(lambda: next(states), terminal, interval=0.0)
    assert "finished" in terminal.file.getvalue()  # type: ignore[attr-defined]
