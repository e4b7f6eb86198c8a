"""Status: how far, how fast, and who does what, without a word more than is known."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.journals import BEGUN, SECOND, ended, write
from zemosaic.observe.autopsy import Autopsy, Stuck, examine
from zemosaic.observe.status import rate, status, watch
from zemosaic.runtime.events import RunEnded
from zemosaic.runtime.inflight import Row


@pytest.fixture
def running(tmp_path: Path) -> Autopsy:
    found = examine(write(tmp_path, BEGUN), 4711)
    row = Row("pairs", 2, "fit", 77, 1, 104 * SECOND, 105 * SECOND)
    known = {"name_i": "a.fits", "name_j": "2.fits"}
    stack = 'Thread 0x1 (most recent call first):\n  File "/x/fit.py", line 9 in solve\n'
    stuck = Stuck(row, known, 6.0, stack)
    return replace(found, pid=4711, last_ns=110 * SECOND, under_way=(stuck,))


def shown(found: Autopsy) -> str:
    terminal = Console(file=io.StringIO(), width=200)
    terminal.print(status(found))
    return terminal.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_told_in_full(running: Autopsy) -> None:
    """The process, the stage, its jobs, and of each worker the pair, files, part and line."""
    text = shown(running)
    for words in ("process 4711", "for 10 s", "pairs: 1 of 4 done", "pair 2 (a.fits, 2.fits)",
                  "fit", "77", "6.0", "fit.py:9 in solve"):  # fmt: skip
        assert words in text


def test_the_time_left_is_that_of_the_last_half_minute(running: Autopsy) -> None:
    """One pair in six seconds, three to go: eighteen; of none lately it says so."""
    assert "about 18 s left" in rate(running, 1, 4)
    late = replace(running, last_ns=200 * SECOND)
    assert "not known" in rate(late, 1, 4)


def test_results_of_an_earlier_run_do_not_count_for_the_rate(running: Autopsy) -> None:
    """What a resumed run found done has taken it no time."""
    running.record.events.append(replace(ended(3, 105), done=90, total=100))
    assert "about 30 s left" in rate(running, 90, 100)


def test_without_a_terminal_it_is_shown_once(running: Autopsy) -> None:
    """A program that reads it gets one table and an end."""
    terminal, looks = Console(file=io.StringIO(), width=200), []
    watch(lambda: looks.append(1) or running, terminal)  # type: ignore[func-returns-value]
    assert len(looks) == 1
    assert "pairs: 1 of 4 done" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_on_a_terminal_it_is_shown_until_the_end(running: Autopsy, tmp_path: Path) -> None:
    """And then what became of the run."""
    over = examine(
        write(tmp_path, [*BEGUN, RunEnded(state="finished", time_ns=120 * SECOND)]), None
    )
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    states = iter([running, running, over])
    watch(lambda: next(states), terminal, every=0.0)
    assert "finished" in terminal.file.getvalue()  # type: ignore[attr-defined]
