"""The journal: all events can be read back, whatever happened to the file."""

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
from zemosaic.runtime.observers import FanOut

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
    recorder = Journal(folder, about)
    fan_out = FanOut([recorder])
    for event in events:
        fan_out.dispatch(event)
    assert not recorder.failed
    recorder.close()
    return folder / "journal.jsonl"


def test_all_events_are_read_back_unchanged(tmp_path: Path) -> None:
    """Including the last bit of each number and file names outside UTF-8."""
    write(tmp_path, EVENTS, version="1")
    (record,) = journal.read(tmp_path)
    assert record.events == EVENTS
    assert record.about == {"version": "1"}
    assert record.ended == EVENTS[-1]
    assert [e.index for e in record.unfinished()] == [3]
    assert dict(journal.results(tmp_path)) == {"k": [[1.0000000000000002, None, "why"]]}


def test_numpy_scalars_and_arrays_are_written_as_numbers(tmp_path: Path) -> None:
    """Events may hold NumPy scalars and arrays; the journal holds JSON numbers, also NaN."""
    recorder = Journal(tmp_path, {})
    recorder.write({"kind": "x", "a": np.float64(0.1), "b": np.arange(2), "c": [np.nan]})
    recorder.close()
    line = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert (line["a"], line["b"]) == (0.1, [0, 1])


def test_values_beyond_orjson_are_read_back_unchanged(tmp_path: Path) -> None:
    """Non-finite floats, integers over 64 bits, surrogates, and None as None."""
    plain = {"none": None, "gain": [math.nan, None, -math.inf], "id": 2**127 + 1, "null": "null"}
    odd = {"name": "\udcff.fits", "\ud800": "é\u2028\n"}
    pair = replace(EVENTS[3], attributes={**plain, **odd}, result=[math.nan, None])
    write(tmp_path, [RunStarted(run_id="null", time_ns=1), pair], id=2**128 - 1)
    (record,) = journal.read(tmp_path)
    assert record.about == {"id": 2**128 - 1}
    assert repr(record.events[1]) == repr(pair)  # in which NaN is NaN


@given(st.floats(), st.integers(), st.text(), st.none() | st.booleans())
def test_any_value_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, a: float, b: int, c: str, d: bool | None
) -> None:
    """By either serializer, and inside nested values too."""
    folder = tmp_path_factory.mktemp("value")
    attributes = {"a": a, "b": b, "c": c, "d": d, c: {"e": [a, b, c, d]}}
    event = SlowJob(stage="pairs", time_ns=8, index=3, running_time=a, attributes=attributes)
    write(folder, [event])
    (read_event,) = journal.read(folder)[0].events
    assert repr(read_event) == repr(event)


def test_keys_and_tuples_follow_json(tmp_path: Path) -> None:
    """Numeric keys become strings, tuples become lists, NumPy scalars become Python numbers."""
    scalar, array = np.float32(0.1), np.array([np.nan, 0.1])
    about = {
        "keys": {1: "a"},
        "pair": (1, (2.5,)),
        "single": scalar,
        "many": array,
        "n": np.int8(3),
    }
    write(tmp_path, [], **about)
    entries = journal.read(tmp_path)[0].about
    assert [entries["keys"], entries["pair"], entries["n"]] == [{"1": "a"}, [1, [2.5]], 3]
    assert entries["single"] == float(scalar)
    np.testing.assert_array_equal(entries["many"], array)


def test_a_journal_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    """Its lines were written by `json`, with NaN, escapes and the trace's 128-bit id."""
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


def test_any_changed_bit_of_a_line_is_noticed(tmp_path: Path) -> None:
    """The damaged line counts as unknown, all others are read; a torn line is no damage."""
    path = write(tmp_path, EVENTS)
    original = path.read_bytes()
    start = original.index(b'{"kind":"JobEnded"')
    end = original.index(b"\n", start)
    for place in range(start, end):
        damaged = bytearray(original)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        (record,) = journal.read(tmp_path)
        assert [e for e in EVENTS if e not in record.events] == [EVENTS[3]]
        assert record.damaged == 1 + (damaged[place] == ord("\n"))
    path.write_bytes(original[:-40])
    Journal(tmp_path, {}).close()
    assert [(len(r.events), r.damaged) for r in journal.read(tmp_path)] == [
        (len(EVENTS) - 1, 0),
        (0, 0),
    ]


def test_a_run_whose_first_line_is_damaged_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Its events are not taken for those of the run before it."""
    write(tmp_path, EVENTS)
    path = write(tmp_path, EVENTS[:3], version="2")
    path.write_bytes(path.read_bytes().replace(b'"version":"2"', b'"version":"3"'))
    assert [r.events for r in journal.read(tmp_path)] == [EVENTS, EVENTS[:3]]


def test_the_lines_of_an_ordinary_pair_are_written_by_orjson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are thousands of them, so they must not take the slow serializer."""
    submitted = replace(EVENTS[2], attributes={"name_i": "ä.fits"})
    usual = [submitted, replace(EVENTS[3], result=[[0.5]]), replace(EVENTS[5], error=None)]
    monkeypatch.setattr(journal_lines, "_encode_json", full)
    write(tmp_path, usual)
    assert journal.read(tmp_path)[0].events == usual


@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_yields_its_complete_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """A killed run leaves the beginning of a file; the next run loses nothing by the torn line."""
    folder = tmp_path_factory.mktemp("cut")
    path = write(folder, EVENTS)
    raw = path.read_bytes()
    path.write_bytes(raw[: cut % (len(raw) + 1)])
    complete = journal.read(folder)
    assert len(complete) <= 1
    for record in complete:
        assert record.events == EVENTS[: len(record.events)]
    write(folder, EVENTS)
    assert journal.read(folder)[-1].events == EVENTS
    assert len(journal.read(folder)) == len(complete) + 1


def test_lines_of_another_version_are_skipped(tmp_path: Path) -> None:
    """A line with an unknown kind or field is skipped; one without JSON or an object is damaged."""
    path = write(tmp_path, EVENTS)
    lines = [
        b'{"kind":"Eclipse","time_ns":1}', b'{"kind":"Note","level":1,"message":"","colour":"red"}',
        b'{"kind":"Note"}', b"[1]", b"{", b"\xff\xfe", b"null",
        b'{"kind":"delivered","spans":[[1,3]]}', b'{"kind":"delivered","spans":[4]}',
        b'{"kind":"delivered"}', b'{"kind":["Note"]}',
    ]  # fmt: skip
    with path.open("ab") as file:
        for line in lines:
            is_object = line.startswith(b'{"')
            file.write(journal_lines.encode_line(json.loads(line)) if is_object else line + b"\n")
    (record,) = journal.read(tmp_path)
    assert record.events == EVENTS
    assert record.damaged == 3  # the last of four may have been torn
    assert record.delivered == {1, 2, 3}


def test_without_a_journal_there_are_no_runs(tmp_path: Path) -> None:
    """An empty journal holds no run either."""
    assert journal.read(tmp_path) == []
    (tmp_path / "journal.jsonl").write_bytes(b"\n\n")
    assert journal.read(tmp_path) == []


def test_a_full_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised or written any more; the earlier lines can be read."""
    failures: list[str] = []
    recorder = Journal(tmp_path, {}, failures.append)
    fan_out = FanOut([recorder])
    fan_out.dispatch(EVENTS[0])
    monkeypatch.setattr(recorder, "write", full)
    for event in EVENTS[1:]:
        fan_out.dispatch(event)
    assert failures == ["No space left on device"] == [recorder.failed]
    recorder.close()
    assert journal.read(tmp_path)[0].events == EVENTS[:1]


def full(_: Any) -> None:
    raise OSError(28, "No space left on device")


@given(st.sets(st.integers(min_value=1, max_value=60)))
def test_ranges_hold_the_numbers(numbers: set[int]) -> None:
    """They hold all the numbers and no others, in the fewest pairs."""
    entries = journal.ranges(numbers)
    assert {n for first, last in entries for n in range(first, last + 1)} == numbers
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(entries))


def test_a_closed_journal_writes_to_no_other_file(tmp_path: Path) -> None:
    """A late thread may write after the close, and file descriptors are reused."""
    journal = Journal(tmp_path, {})
    journal.close()
    with (tmp_path / "other").open("wb") as other, pytest.raises(OSError, match="descriptor"):
        journal.write({"kind": "delivered", "spans": []})
    assert (tmp_path / "other").read_bytes() == b""
    assert other.closed


def test_a_slow_disk_does_not_delay_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes go on during a sync; `close` waits for it, but not for ever."""
    free, forced = threading.Event(), []

    def fsync(handle: int) -> None:
        assert free.wait(120)
        forced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    recorder = Journal(tmp_path, {})
    for index in range(5):
        recorder.handle_batch([StageEnded(stage=f"stage {index}", time_ns=index)])
    assert len(journal.read(tmp_path)[-1].events) == 5
    assert forced == []
    free.set()
    recorder.close()
    assert forced[-1] == (tmp_path / "journal.jsonl").stat().st_size  # including the last line

    free.clear()
    recorder = Journal(tmp_path, {})
    recorder.handle_batch([StageEnded(stage="dead disk", time_ns=1)])
    recorder.close(timeout=0.05)  # returns
    free.set()


def test_a_failed_sync_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk is."""

    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    failures: list[str] = []
    monkeypatch.setattr(os, "fsync", fsync)
    recorder = Journal(tmp_path, {}, failures.append)
    recorder.handle_batch([StageEnded(stage="s", time_ns=1)])
    recorder.close()
    assert failures == [os.strerror(errno.EIO)]
    assert recorder.failed


def test_a_journal_of_version_0_2_1_can_be_read(tmp_path: Path) -> None:
    """Renamed fields keep their values, so no ended job is lost."""
    common = {"stage": "pairs", "index": 3, "attributes": {}}
    lines: list[dict[str, object]] = [
        {"kind": "about"},
        {"kind": "JobEnded", **common, "done": 1, "total": 2, "outcome": "measured",
         "submitted_ns": 1, "started_ns": 2, "ended_ns": 3, "pid": 4, "stages": {"fit": 0.5}},
        {"kind": "SlowJob", **common, "time_ns": 5, "running_time": 11.0, "part": "fit"},
        {"kind": "Heartbeat", "stage": "pairs", "time_ns": 6, "done": 1, "total": 2, "pending": 1,
         "pending_indices": [3], "running_indices": [3], "running_time": [1.0],
         "running_attributes": [{}], "last_completed_index": 1, "idle_time": 1.0,
         "running_parts": ["fit"]},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "journal.jsonl").write_text(text)
    (record,) = journal.read(tmp_path)
    ended, slow, heartbeat = record.events
    assert isinstance(ended, JobEnded)
    assert ended.step_times == {"fit": 0.5}
    assert isinstance(slow, SlowJob)
    assert slow.step == "fit"
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.running_steps == ["fit"]
