"""The journal: all that happened comes back, whatever became of the file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zemosaic.runtime import journal
from zemosaic.runtime.events import (
    FanOut,
    Heartbeat,
    JobEnded,
    JobError,
    JobSubmitted,
    Note,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from zemosaic.runtime.journal import Journal

ERROR = JobError("ValueError", "no «good»\ud800", "Traceback\n  line")
EVENTS: list[Any] = [
    RunStarted(run_id="a", time_ns=1, attributes={"tiles.total": 4, "pool.kind": "serial"}),
    StageStarted(stage="pairs", time_ns=2, total=3),
    JobSubmitted(stage="pairs", index=1, time_ns=3, attributes={"name_i": "ä\udcff.fits"}),
    JobEnded(
        stage="pairs", index=1, done=1, total=3, outcome="measured", attributes={"gain": 0.1 + 0.2},
        submitted_ns=3, started_ns=4, ended_ns=5, pid=6, stages={"fit": 1e-300}, key="k",
        result=[[1.0000000000000002, None, "why"]],
    ),
    JobSubmitted(stage="pairs", index=2, time_ns=3),
    JobEnded(
        stage="pairs", index=2, done=2, total=3, outcome="failed", attributes={}, submitted_ns=3,
        started_ns=4, ended_ns=5, pid=6, error=ERROR,
    ),
    JobSubmitted(stage="pairs", index=3, time_ns=3),
    Heartbeat(
        stage="pairs", time_ns=7, done=2, total=3, pending=1, pending_indices=[3],
        running_indices=[3], running_time=[1.5], running_attributes=[{}], last_completed_index=2,
        idle_time=1.0, running_parts=["fit"], stack="Thread", timeout=300.0,
    ),
    SlowJob(stage="pairs", time_ns=8, index=3, running_time=11.0, attributes={}, part="fit"),
    Note(level=20, message="hello"),
    StageEnded(stage="pairs", time_ns=9, attributes={"solve.rms": 1.0}),
    RunEnded(state="failed", time_ns=10, error=ERROR),
]  # fmt: skip


def write(folder: Path, events: list[Any], **about: Any) -> Path:
    book = Journal(folder, about)
    fan_out = FanOut([book])
    for event in events:
        fan_out.emit(event)
    assert not book.failed
    book.close()
    return folder / journal.JOURNAL


def test_every_event_comes_back_as_it_was(tmp_path: Path) -> None:
    """To the last bit of every number and the oddest byte of a name."""
    write(tmp_path, EVENTS, version="1")
    (record,) = journal.read(tmp_path)
    assert record.events == EVENTS
    assert record.about == {"version": "1"}
    assert record.ended == EVENTS[-1]
    assert [e.index for e in record.unfinished()] == [3]
    assert journal.results([record]) == {"k": [[1.0000000000000002, None, "why"]]}


def test_numbers_and_arrays_of_numpy_are_plain(tmp_path: Path) -> None:
    """Observers may be told numpy's; the journal holds numbers, not finite ones too."""
    book = Journal(tmp_path, {})
    book.write({"kind": "x", "a": np.float64(0.1), "b": np.arange(2), "c": [np.nan]})
    book.close()
    line = json.loads((tmp_path / journal.JOURNAL).read_text().splitlines()[-1])
    assert (line["a"], line["b"]) == (0.1, [0, 1])


@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_tells_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """What a death leaves is a beginning; the next run adds to it, and nothing of that is lost."""
    folder = tmp_path_factory.mktemp("cut")
    path = write(folder, EVENTS)
    raw = path.read_bytes()
    path.write_bytes(raw[: cut % (len(raw) + 1)])
    whole = journal.read(folder)
    assert len(whole) <= 1
    for record in whole:
        assert record.events == EVENTS[: len(record.events)]
    write(folder, EVENTS)
    assert journal.read(folder)[-1].events == EVENTS
    assert len(journal.read(folder)) == len(whole) + 1


def test_another_versions_events_are_skipped(tmp_path: Path) -> None:
    """An unknown kind or field costs its line; so does what is no JSON and no event."""
    path = write(tmp_path, EVENTS)
    lines = [
        b'{"kind":"Eclipse","time_ns":1}', b'{"kind":"Note","level":1,"message":"","colour":"red"}',
        b'{"kind":"Note"}', b"[1]", b"{", b"\xff\xfe", b"null",
        b'{"kind":"delivered","spans":[[1,3]]}',
    ]  # fmt: skip
    with path.open("ab") as file:
        file.write(b"\n".join(lines) + b"\n")
    (record,) = journal.read(tmp_path)
    assert record.events == EVENTS
    assert record.delivered == {1, 2, 3}


def test_without_a_journal_there_are_no_runs(tmp_path: Path) -> None:
    """Nor in an empty one."""
    assert journal.read(tmp_path) == []
    (tmp_path / journal.JOURNAL).write_bytes(b"\n\n")
    assert journal.read(tmp_path) == []


def test_a_journal_that_stops_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: told once, no exception, nothing more is written; what was there can be read."""
    told: list[str] = []
    book = Journal(tmp_path, {}, told.append)
    fan_out = FanOut([book])
    fan_out.emit(EVENTS[0])
    monkeypatch.setattr(book, "write", full)
    for event in EVENTS[1:]:
        fan_out.emit(event)
    assert told == ["No space left on device"] == [book.failed]
    book.close()
    assert journal.read(tmp_path)[0].events == EVENTS[:1]


def full(_: Any) -> None:
    raise OSError(28, "No space left on device")


@given(st.sets(st.integers(min_value=1, max_value=60)))
def test_ranges_hold_the_numbers(numbers: set[int]) -> None:
    """All of them and no other, in as few pairs as there are gaps."""
    found = journal.ranges(numbers)
    assert {n for first, last in found for n in range(first, last + 1)} == numbers
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(found))


def test_a_closed_journal_writes_into_no_other_file(tmp_path: Path) -> None:
    """A thread that still tells of spans may be late, and numbers of files are used again."""
    journal = Journal(tmp_path, {})
    journal.close()
    with (tmp_path / "other").open("wb") as other, pytest.raises(OSError, match="descriptor"):
        journal.write({"kind": "delivered", "spans": []})
    assert (tmp_path / "other").read_bytes() == b""
    assert other.closed
