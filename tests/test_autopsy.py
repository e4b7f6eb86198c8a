"""The autopsy reconstructs a run from its folder, however little it left there."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fakes import Recorder
from tests.helpers.journals import BEGUN, SECOND, write
from zemosaic.errors import UserError
from zemosaic.observe.autopsy import Autopsy, examine
from zemosaic.observe.autopsy_text import summary_lines
from zemosaic.observe.replay import replay
from zemosaic.runtime import inflight, stacks
from zemosaic.runtime.events import Heartbeat, JobEnded, RunEnded, StageEnded
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.run_folder import RunFolder, claim


def summary(autopsy: Autopsy) -> str:
    return "\n".join(summary_lines(autopsy))


def replayed(autopsy: Autopsy) -> Recorder:
    recorder = Recorder()
    replay(autopsy, recorder)
    return recorder


def running_pair(folder: Path, index: int, **changes: Any) -> None:
    """Make a table of running jobs with one pair in it, whose slot may be changed."""
    slot = Inflight(folder, 4, 0.0).allocate("pairs")
    assert slot is not None
    slot = dataclasses.replace(slot, **changes)
    slot.start(index)
    slot.enter_step("fit")


def test_a_dead_run_shows_when_it_died_and_which_jobs_it_lost(tmp_path: Path) -> None:
    """Jobs that were submitted but had not started are not reported as in progress."""
    running_pair(tmp_path, 2)
    autopsy = examine(write(tmp_path, BEGUN))
    assert (autopsy.state, autopsy.stage, autopsy.pid) == ("died", "pairs", os.getpid())
    assert autopsy.job_counts("pairs") == (1, 4)
    assert [(job.row.index, job.row.step) for job in autopsy.running_jobs] == [(2, "fit")]
    text = summary(autopsy)
    assert "in progress  pair 2 (a.fits, 2.fits): measuring pairs, step fit, for " in text
    assert "saved        no tiles and 1 of 4 pairs" in text
    assert "resume       zemosaic intertile a.fits b.fits -o run --resume" in text
    recorder = replayed(autopsy)
    (lost,) = [e for e in recorder.of(JobEnded) if e.error is not None]
    assert (lost.index, lost.error.type) == (2, "RunDied")
    assert [e.stage for e in recorder.of(StageEnded)] == ["pairs"]
    assert recorder.of(RunEnded)[0].state == "died"


def test_a_job_that_died_on_another_machine_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So have its line, and its stack, which is not that of a process of this machine."""
    monkeypatch.setattr(inflight, "HOST", "far")
    running_pair(tmp_path, 2, run_host="here")
    own, far = (RunFolder(tmp_path).stack(os.getpid(), host) for host in ("", "far"))
    for path, function in ((own, "near"), (far, "distant")):
        path.write_text(f'Thread 0x{threading.get_ident():x}:\n  File "a.py", line 1 in {function}')
    autopsy = examine(write(tmp_path, BEGUN))
    assert "in distant" in autopsy.running_jobs[0].stack
    assert f", worker {os.getpid()} on far\n" in summary(autopsy)
    recorder = replayed(autopsy)
    assert {event.index: event.host for event in recorder.of(JobEnded)} == {1: "", 2: "far"}


def test_without_a_table_the_journal_has_the_last_sign_of_life(tmp_path: Path) -> None:
    """The last sign of life is the newest event, a heartbeat included."""
    beat = Heartbeat(
        stage="pairs", time_ns=130 * SECOND, done=1, total=4, pending=3, pending_indices=[2, 3],
        running_indices=[2], running_time=[20.0], running_attributes=[{}], last_completed_index=1,
        idle_time=20.0,
    )  # fmt: skip
    autopsy = examine(write(tmp_path, [*BEGUN, beat]))
    assert (autopsy.pid, autopsy.running_jobs) == (0, ())
    assert autopsy.last_ns == 130 * SECOND
    assert "after 30.0 s" in summary_lines(autopsy)[1]


def test_rows_of_an_earlier_run_are_ignored(tmp_path: Path) -> None:
    """A run that died before it made its table finds that of another run."""
    running_pair(tmp_path, 9)
    assert examine(write(tmp_path, BEGUN)).running_jobs == ()


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_a_run_with_a_truncated_journal_did_not_die(tmp_path: Path, state: str) -> None:
    """Its table has the end for which the full disk had no room, and so has the trace."""
    write(tmp_path, BEGUN)
    Inflight(tmp_path, 1, 0.0).close(state)
    autopsy = examine(tmp_path)
    assert autopsy.state == state
    assert "a full disk" in autopsy.cause
    (end,) = replayed(autopsy).of(RunEnded)
    assert (end.state, end.error) == (state, None)


def test_the_end_of_an_earlier_run_is_ignored(tmp_path: Path) -> None:
    """A run that died before it made its table finds there how another ended."""
    Inflight(tmp_path, 1, 0.0).close("finished")
    late = dataclasses.replace(BEGUN[0], time_ns=time.time_ns() + SECOND)
    assert examine(write(tmp_path, [late])).state == "died"


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_a_run_that_ended_keeps_its_state(tmp_path: Path, state: str) -> None:
    """Unless it has finished, the summary has the command that resumes it."""
    events = [*BEGUN, RunEnded(state=state, time_ns=140 * SECOND)]
    autopsy = examine(write(tmp_path, events))
    assert autopsy.state == state
    assert ("resume  " in summary(autopsy)) == (state != "finished")
    assert replayed(autopsy).events == events


def test_a_run_whose_folder_is_locked_is_running(tmp_path: Path) -> None:
    """The lock decides, not the age of a file; a run that is over is not reported as running."""
    write(tmp_path, BEGUN)
    with claim(tmp_path):
        autopsy = examine(tmp_path)
    assert (autopsy.state, autopsy.cause) == ("running", "")
    assert "state        running for " in summary(autopsy)
    assert examine(tmp_path).state == "died"


@pytest.mark.parametrize("junk", [None, b"", b"\0\1\2", b'{"kind":"Note"}\n'])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, junk: bytes | None) -> None:
    """The error is one line, whatever else is in the folder."""
    if junk is not None:
        (tmp_path / "journal.jsonl").write_bytes(junk)
    (tmp_path / "inflight.bin").write_bytes(b"junk")
    with pytest.raises(UserError, match="holds no run"):
        examine(tmp_path)


def test_a_run_that_died_at_once_has_a_summary(tmp_path: Path) -> None:
    """Its journal has the first line only."""
    stacks.create_folder(tmp_path)
    autopsy = examine(write(tmp_path, []))
    assert autopsy.state == "died"
    assert "no tiles and no pairs" in summary(autopsy)
