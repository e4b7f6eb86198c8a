"""The journal: all that happened comes back, whatever became of the file."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zemosaic.runtime import journal, journal_lines
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
        submitted_ns=3, started_ns=4, ended_ns=5, pid=6, step_times={"fit": 1e-300}, key="k",
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
        idle_time=1.0, running_steps=["fit"], stack="Thread", timeout=300.0,
    ),
    SlowJob(stage="pairs", time_ns=8, index=3, running_time=11.0, attributes={}, step="fit"),
    Note(level=20, message="hello"),
    StageEnded(stage="pairs", time_ns=9, attributes={"solve.rms": 1.0}),
    RunEnded(state="failed", time_ns=10, error=ERROR),
]  # fmt: skip


def write(folder: Path, events: list[Any], **about: Any) -> Path:
    book = Journal(folder, about)
    fan_out = FanOut([book])
    for event in events:
        fan_out.dispatch(event)
    assert not book.failed
    book.close()
    return folder / "journal.jsonl"


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
    line = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert (line["a"], line["b"]) == (0.1, [0, 1])


def test_what_orjson_has_no_form_for_comes_back_as_well(tmp_path: Path) -> None:
    """Numbers that are not finite, those beyond 64 bits, halves of characters, and None as None."""
    known = {"none": None, "gain": [math.nan, None, -math.inf], "id": 2**127 + 1, "null": "null"}
    odd = {"name": "\udcff.fits", "\ud800": "é\u2028\n"}
    pair = replace(EVENTS[3], attributes={**known, **odd}, result=[math.nan, None])
    write(tmp_path, [RunStarted(run_id="null", time_ns=1), pair], id=2**128 - 1)
    (record,) = journal.read(tmp_path)
    assert record.about == {"id": 2**128 - 1}
    assert repr(record.events[1]) == repr(pair)  # in which NaN is NaN


@given(st.floats(), st.integers(), st.text(), st.none() | st.booleans())
def test_every_value_comes_back(
    tmp_path_factory: pytest.TempPathFactory, a: float, b: int, c: str, d: bool | None
) -> None:
    """Whichever of the two ways it is written; the parts of what is nested as well."""
    folder = tmp_path_factory.mktemp("value")
    attributes = {"a": a, "b": b, "c": c, "d": d, c: {"e": [a, b, c, d]}}
    event = SlowJob(stage="pairs", time_ns=8, index=3, running_time=a, attributes=attributes)
    write(folder, [event])
    (found,) = journal.read(folder)[0].events
    assert repr(found) == repr(event)


def test_keys_and_tuples_are_as_json_has_them(tmp_path: Path) -> None:
    """Numbers as keys are texts, tuples lists, and numbers of numpy are those of Python."""
    single, many = np.float32(0.1), np.array([np.nan, 0.1])
    about = {"keys": {1: "a"}, "pair": (1, (2.5,)), "single": single, "many": many, "n": np.int8(3)}
    write(tmp_path, [], **about)
    found = journal.read(tmp_path)[0].about
    assert [found["keys"], found["pair"], found["n"]] == [{"1": "a"}, [1, [2.5]], 3]
    assert found["single"] == float(single)
    np.testing.assert_array_equal(found["many"], many)


def test_a_journal_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its lines were all by `json`, with NaN, escapes and the long number of the trace."""
    lines = [
        b'{"kind":"about","trace":{"id":170141183460469231731687303715884105729}}',
        b'{"kind":"Note","level":20,"message":"\\u00e4\\udcff"}',
        b'{"kind":"StageEnded","stage":"solve","time_ns":9,"attributes":{"rms":NaN,"n":Infinity}}',
    ]
    (tmp_path / "journal.jsonl").write_bytes(b"\n" + b"\n".join(lines) + b"\n")
    (record,) = journal.read(tmp_path)
    assert record.about["trace"]["id"] == 2**127 + 1
    note, stage = record.events
    assert note == Note(level=20, message="ä\udcff")
    assert repr(stage.attributes) == "{'rms': nan, 'n': inf}"


def test_the_line_of_a_usual_pair_is_orjsons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are thousands, and the slow way is not for them."""
    submitted = replace(EVENTS[2], attributes={"name_i": "ä.fits"})
    usual = [submitted, replace(EVENTS[3], result=[[0.5]]), replace(EVENTS[5], error=None)]
    monkeypatch.setattr(journal_lines, "_encode_json", full)
    write(tmp_path, usual)
    assert journal.read(tmp_path)[0].events == usual


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
    (tmp_path / "journal.jsonl").write_bytes(b"\n\n")
    assert journal.read(tmp_path) == []


def test_a_journal_that_stops_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: told once, no exception, nothing more is written; what was there can be read."""
    told: list[str] = []
    book = Journal(tmp_path, {}, told.append)
    fan_out = FanOut([book])
    fan_out.dispatch(EVENTS[0])
    monkeypatch.setattr(book, "write", full)
    for event in EVENTS[1:]:
        fan_out.dispatch(event)
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


def test_a_disk_that_takes_long_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop writes on while it forces; at the end it is waited for, though not for ever."""
    free, forced = threading.Event(), []

    def fsync(handle: int) -> None:
        assert free.wait(30)
        forced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    book = Journal(tmp_path, {})
    for index in range(5):
        book.handle_batch([StageEnded(stage=f"stage {index}", time_ns=index)])
    assert len(journal.read(tmp_path)[-1].events) == 5
    assert forced == []
    free.set()
    book.close()
    assert forced[-1] == (tmp_path / "journal.jsonl").stat().st_size  # the last of it as well

    free.clear()
    book = Journal(tmp_path, {})
    book.handle_batch([StageEnded(stage="dead disk", time_ns=1)])
    book.close(timeout=0.05)  # comes back
    free.set()


def test_a_disk_that_fails_when_forced_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is full when written to."""

    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    told: list[str] = []
    monkeypatch.setattr(os, "fsync", fsync)
    book = Journal(tmp_path, {}, told.append)
    book.handle_batch([StageEnded(stage="s", time_ns=1)])
    book.close()
    assert told == [os.strerror(errno.EIO)]
    assert book.failed
