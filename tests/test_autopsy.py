"""The autopsy reads what a run left, however little that is."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from tests.helpers.fakes import Recorder
from tests.helpers.journals import BEGUN, SECOND, write
from zemosaic.errors import UserError
from zemosaic.observe.autopsy import examine, replay, summary_lines
from zemosaic.runtime import stacks
from zemosaic.runtime.events import (
    Heartbeat,
    JobEnded,
    RunEnded,
    StageEnded,
)
from zemosaic.runtime.inflight import Inflight


def test_a_dead_run_tells_when_it_died_and_what_was_lost(tmp_path: Path) -> None:
    """What was given to the pool and had not begun is not said to have been under way."""
    table = Inflight(tmp_path, 4, 0.0)
    slot = table.slot("pairs")
    assert slot is not None
    slot.take(2)
    slot.at("fit")
    found = examine(write(tmp_path, BEGUN), None)
    assert (found.state, found.stage, found.pid) == ("died", "pairs", os.getpid())
    assert found.ended("pairs") == (1, 4)
    assert [(s.row.index, s.row.step) for s in found.under_way] == [(2, "fit")]
    text = "\n".join(summary_lines(found))
    assert "pair 2 (a.fits, 2.fits): pairs at fit" in text
    assert "1 of 4 pairs" in text
    assert "zemosaic intertile a.fits b.fits -o run --resume" in text
    told = Recorder()
    replay(found, told)
    (lost,) = [e for e in told.of(JobEnded) if e.error is not None]
    assert (lost.index, lost.error.type) == (2, "RunDied")
    assert [e.stage for e in told.of(StageEnded)] == ["pairs"]
    assert told.of(RunEnded)[0].state == "died"


def test_without_a_table_the_journal_alone_tells(tmp_path: Path) -> None:
    """The last sign of life is the newest event, a heartbeat included."""
    beat = Heartbeat(
        stage="pairs", time_ns=130 * SECOND, done=1, total=4, pending=3, pending_indices=[2, 3],
        running_indices=[2], running_time=[20.0], running_attributes=[{}], last_completed_index=1,
        idle_time=20.0,
    )  # fmt: skip
    found = examine(write(tmp_path, [*BEGUN, beat]), None)
    assert (found.pid, found.under_way) == (0, ())
    assert found.last_ns == 130 * SECOND
    assert "after 30.0 s" in summary_lines(found)[1]


def test_rows_of_an_earlier_run_are_not_those_of_this(tmp_path: Path) -> None:
    """A run that died before it made its table finds that of another there."""
    table = Inflight(tmp_path, 4, 0.0)
    slot = table.slot("pairs")
    assert slot is not None
    slot.take(9)
    assert examine(write(tmp_path, BEGUN), None).under_way == ()


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_a_run_whose_journal_stops_did_not_die(tmp_path: Path, state: str) -> None:
    """Its table has the end that the full disk had no room for, and so has the trace."""
    write(tmp_path, BEGUN)
    Inflight(tmp_path, 1, 0.0).close(state)
    found = examine(tmp_path, None)
    assert found.state == state
    assert "a full disk" in found.cause
    told = Recorder()
    replay(found, told)
    (end,) = told.of(RunEnded)
    assert (end.state, end.error) == (state, None)


def test_the_end_of_an_earlier_run_is_not_that_of_this(tmp_path: Path) -> None:
    """A run that died before it made its table finds there how another ended."""
    Inflight(tmp_path, 1, 0.0).close("finished")
    late = dataclasses.replace(BEGUN[0], time_ns=time.time_ns() + SECOND)
    assert examine(write(tmp_path, [late]), None).state == "died"


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_a_run_that_ended_says_how(tmp_path: Path, state: str) -> None:
    """Only one that has not finished is told how to go on."""
    over = [*BEGUN, RunEnded(state=state, time_ns=140 * SECOND)]
    found = examine(write(tmp_path, over), None)
    assert found.state == state
    assert ("go on" in "\n".join(summary_lines(found))) == (state != "finished")
    told = Recorder()
    replay(found, told)
    assert told.events == over


def test_a_held_folder_is_a_run_that_goes_on(tmp_path: Path) -> None:
    """The lock tells, not the age of anything."""
    assert examine(write(tmp_path, BEGUN), 4711).state == "running"


@pytest.mark.parametrize("junk", [None, b"", b"\0\1\2", b'{"kind":"Note"}\n'])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, junk: bytes | None) -> None:
    """In one line, whatever else lies there."""
    if junk is not None:
        (tmp_path / "journal.jsonl").write_bytes(junk)
    (tmp_path / "inflight.bin").write_bytes(b"junk")
    with pytest.raises(UserError, match="holds no run"):
        examine(tmp_path, None)


def test_a_run_that_died_at_once_is_told(tmp_path: Path) -> None:
    """With nothing but the first line of its journal."""
    stacks.clear(tmp_path)
    found = examine(write(tmp_path, []), None)
    assert found.state == "died"
    assert "no tiles and no pairs" in "\n".join(summary_lines(found))
