"""The table of running jobs: readable by any process at any time, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.fakes import FakeClock, Gate, Recorder
from zemosaic.runtime import inflight, stacks
from zemosaic.runtime.inflight import Inflight, Slot
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.run_folder import RunFolder
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.runtime.worker import timed_step


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Inflight]:
    inflight_table = Inflight(tmp_path, 4, 0.0)
    yield inflight_table
    inflight_table.close("finished")


def allocate(table: Inflight) -> Slot:
    slot = table.allocate("pairs")
    assert slot is not None
    return slot


@pytest.mark.parametrize("name", ["far", "a" * 30 + "b" * 30])
def test_a_row_names_the_machine_of_its_worker(
    table: Inflight, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with a long name, whose ends it has; the next worker in the row is here."""
    slot = allocate(table)
    with monkeypatch.context() as there:
        there.setattr(inflight, "HOST", name)
        slot.start(7)
    (row,) = inflight.read(tmp_path).rows
    assert row.host == (name if name == "far" else "a" * 22 + "b" * 22)
    slot.finish()
    table.release(slot)
    slots = [allocate(table) for _ in range(4)]
    for next_slot in slots:
        next_slot.start(8)
    assert [row.host for row in inflight.read(tmp_path).rows] == [""] * 4


def test_the_stack_of_another_machine_is_not_that_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may have the same number; each process dumps to a file of its own."""
    table = Inflight(tmp_path, 4, 600.0)
    slot = allocate(table)
    monkeypatch.setattr(inflight, "HOST", "far/away")
    slot.start(7)
    row = table.read_row(slot)
    assert row is not None
    path = RunFolder(tmp_path).stacks / f"far_away-{os.getpid()}.txt"
    assert list(RunFolder(tmp_path).stacks.iterdir()) == [path]
    assert table.stack(row) == ""
    path.write_text(f'Thread 0x{row.thread:x}:\n  File "a.py", line 1 in far\n')
    assert "in far" in table.stack(row)
    slot.finish()
    stacks.close()
    table.close("finished")


def test_a_row_names_the_job_its_step_and_its_worker(table: Inflight, tmp_path: Path) -> None:
    """A reader of the file sees the entries of the worker, until the job ends."""
    table.write_progress("pairs", 3, 9)
    slot = allocate(table)
    assert inflight.read(tmp_path).rows == ()
    slot.start(7)
    slot.enter_step("fit")
    snapshot = inflight.read(tmp_path)
    assert (snapshot.pid, snapshot.stage, snapshot.done, snapshot.total) == (
        os.getpid(),
        "pairs",
        3,
        9,
    )
    (row,) = snapshot.rows
    assert (row.stage, row.index, row.step, row.pid) == ("pairs", 7, "fit", os.getpid())
    assert row.thread == threading.get_ident()
    assert row.started_ns <= row.step_ns
    slot.finish()
    assert inflight.read(tmp_path).rows == ()
    assert table.release(slot) is None


def test_an_abandoned_thread_writes_to_no_row_of_another_job(table: Inflight) -> None:
    """Neither its steps nor its end change its former row, even for a job of the same index."""
    old = allocate(table)
    old.start(1)
    old.enter_step("load")
    table.release(old)
    slots = [allocate(table) for _ in range(4)]
    new = next(slot for slot in slots if slot.row == old.row)
    old.start(1)
    assert table.read_row(new) is None
    new.start(1)
    new.enter_step("fit")
    old.enter_step("load")
    old.finish()
    row = table.read_row(new)
    assert row is not None
    assert row.step == "fit"


def test_a_thread_of_an_earlier_run_writes_to_no_row_of_the_next(tmp_path: Path) -> None:
    """As for two runs in the same folder and process, one after the other."""
    first = Inflight(tmp_path, 2, 0.0)
    old = allocate(first)
    old.start(1)
    first.close("finished")
    second = Inflight(tmp_path, 2, 0.0)
    new = allocate(second)
    new.start(1)
    old.enter_step("load")
    old.finish()
    row = second.read_row(new)
    assert row is not None
    assert row.step == ""
    new.enter_step("fit")
    assert inflight.read(tmp_path).rows[0].step == "fit"
    second.close("finished")


def test_jobs_without_a_row_are_measured(tmp_path: Path) -> None:
    """A table with too few rows delays no job."""
    table = Inflight(tmp_path, 1, 0.0)
    pool = ThreadPool(3)
    try:
        outcomes = run(
            [Job(k, pow, (k, 2)) for k in range(1, 41)], 40, pool, FanOut(), stage="pairs",
            inflight=table,
        )  # fmt: skip
    finally:
        pool.close()
    assert [o.value for o in outcomes] == [k * k for k in range(1, 41)]
    assert inflight.read(tmp_path).rows == ()
    table.close("finished")


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is mapped")
@pytest.mark.parametrize("pool", [ThreadPool, ProcessPool, lambda workers: SerialPool()])
def test_a_deleted_table_stops_no_job(tmp_path: Path, pool: Callable[[int], Pool]) -> None:
    """If the file is deleted before the workers open it, the jobs run without it."""
    table, workers = Inflight(tmp_path, 2, 0.0), pool(1)
    (tmp_path / "inflight.bin").unlink()
    try:
        outcomes = run([Job(1, in_step, (3,))], 1, workers, FanOut(), stage="pairs", inflight=table)
    finally:
        workers.close()
    assert [o.value for o in outcomes] == [3]


def in_step(value: int) -> int:
    with timed_step("fit"):
        return value


def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    """A missing, empty or foreign file is an error."""
    with pytest.raises(OSError, match="inflight"):
        inflight.read(tmp_path)
    for junk in (b"", b"x" * 640, b"ZMFLY1\0\0"):
        (tmp_path / "inflight.bin").write_bytes(junk)
        with pytest.raises(ValueError, match="not a table of running jobs"):
            inflight.read(tmp_path)


def write_for_ever(slot: Slot) -> None:
    slot.start(9)
    while True:
        slot.enter_step("a" * 24)
        slot.enter_step("b" * 24)


def test_a_reader_never_sees_a_torn_row(table: Inflight, tmp_path: Path) -> None:
    """Neither while another process writes as fast as it can, nor after that is killed."""
    if sys.platform == "win32":
        pytest.skip("kills as POSIX does")
    worker = multiprocessing.get_context("spawn").Process(
        target=write_for_ever, args=(allocate(table),)
    )
    worker.start()
    try:
        seen = set()
        while len(seen & {"a" * 24, "b" * 24}) < 2:
            seen |= {row.step for row in inflight.read(tmp_path).rows}
        for _ in range(2000):
            seen |= {row.step for row in inflight.read(tmp_path).rows}
    finally:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert seen <= {"", "a" * 24, "b" * 24}
    for row in inflight.read(tmp_path).rows:  # none, if it was killed during a change
        assert (row.index, row.pid) == (9, worker.pid)


def test_a_reader_needs_no_write_permission(table: Inflight, tmp_path: Path) -> None:
    """Another user can read the table and does not change it."""
    allocate(table).start(2)
    path = tmp_path / "inflight.bin"
    before = path.read_bytes()
    path.chmod(0o444)
    assert [row.index for row in inflight.read(tmp_path).rows] == [2]
    assert path.read_bytes() == before


def test_an_abandoned_job_does_not_disturb_the_next_one(tmp_path: Path) -> None:
    """A job that timed out continues while another job has its row."""
    gate, table, pool, recorder = Gate(), Inflight(tmp_path, 1, 0.0), ThreadPool(1), Recorder()

    def late() -> None:
        gate.pass_through()
        with timed_step("late"):
            pass

    try:
        outcomes = run([Job(1, late, ())], 1, pool, FanOut([recorder]), stage="pairs",
                       inflight=table, timeout=60.0, clock=FakeClock())  # fmt: skip
        assert outcomes[0].state == "timeout"
        slot = allocate(table)
        slot.start(2)
        slot.enter_step("fit")
        gate.open()
        for _ in range(3):
            run([Job(3, pow, (2, 2))], 1, pool, FanOut(), stage="pairs")
        assert [row.step for row in inflight.read(tmp_path).rows] == ["fit"]
    finally:
        gate.open()
        pool.close()
        table.close("finished")
