"""The table of jobs under way: readable by anybody at any time, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.fakes import Gate, Recorder
from zemosaic.runtime import inflight
from zemosaic.runtime.events import FanOut
from zemosaic.runtime.inflight import Inflight, Slot
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.runtime.worker import timed_step


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Inflight]:
    made = Inflight(tmp_path, 4, 0.0)
    yield made
    made.close("finished")


def slot(table: Inflight) -> Slot:
    found = table.allocate("pairs")
    assert found is not None
    return found


def test_a_row_tells_the_job_its_part_and_who_does_it(table: Inflight, tmp_path: Path) -> None:
    """A reader of the file sees what the worker wrote, until the job ends."""
    table.write_progress("pairs", 3, 9)
    mine = slot(table)
    assert inflight.read(tmp_path).rows == ()
    mine.start(7)
    mine.enter_step("fit")
    found = inflight.read(tmp_path)
    assert (found.pid, found.stage, found.done, found.total) == (os.getpid(), "pairs", 3, 9)
    (row,) = found.rows
    assert (row.stage, row.index, row.step, row.pid) == ("pairs", 7, "fit", os.getpid())
    assert row.thread == threading.get_ident()
    assert row.started_ns <= row.step_ns
    mine.finish()
    assert inflight.read(tmp_path).rows == ()
    assert table.release(mine) is None


def test_a_thread_that_comes_back_writes_in_no_other_jobs_row(table: Inflight) -> None:
    """Neither its parts nor its end change the row that it had, be it even of the same index."""
    old = slot(table)
    old.start(1)
    old.enter_step("load")
    table.release(old)
    seats = [slot(table) for _ in range(4)]
    new = next(s for s in seats if s.row == old.row)
    old.start(1)
    assert table.read_row(new) is None
    new.start(1)
    new.enter_step("fit")
    old.enter_step("load")
    old.finish()
    row = table.read_row(new)
    assert row is not None
    assert row.step == "fit"


def test_a_thread_of_an_earlier_run_writes_in_no_row_of_the_next(tmp_path: Path) -> None:
    """Two runs, one after the other, in one folder and one process."""
    first = Inflight(tmp_path, 2, 0.0)
    old = slot(first)
    old.start(1)
    first.close("finished")
    second = Inflight(tmp_path, 2, 0.0)
    new = slot(second)
    new.start(1)
    old.enter_step("load")
    old.finish()
    row = second.read_row(new)
    assert row is not None
    assert row.step == ""
    new.enter_step("fit")
    assert inflight.read(tmp_path).rows[0].step == "fit"
    second.close("finished")


def test_more_jobs_than_rows_are_done_without(tmp_path: Path) -> None:
    """A job without a row runs all the same."""
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
def test_a_table_that_is_gone_keeps_no_job(tmp_path: Path, pool: Callable[[int], Pool]) -> None:
    """Somebody deleted it before the workers had opened it: the jobs go on."""
    table, workers = Inflight(tmp_path, 2, 0.0), pool(1)
    (tmp_path / "inflight.bin").unlink()
    try:
        outcomes = run([Job(1, in_part, (3,))], 1, workers, FanOut(), stage="pairs", inflight=table)
    finally:
        workers.close()
    assert [o.value for o in outcomes] == [3]


def in_part(value: int) -> int:
    with timed_step("fit"):
        return value


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    """Missing, empty, or of somebody else."""
    with pytest.raises(OSError, match="inflight"):
        inflight.read(tmp_path)
    for junk in (b"", b"x" * 640, b"ZMFLY1\0\0"):
        (tmp_path / "inflight.bin").write_bytes(junk)
        with pytest.raises(ValueError, match="not a table of running jobs"):
            inflight.read(tmp_path)


def write_for_ever(mine: Slot) -> None:
    mine.start(9)
    while True:
        mine.enter_step("a" * 24)
        mine.enter_step("b" * 24)


def test_a_reader_never_sees_half_a_row_also_after_a_kill(table: Inflight, tmp_path: Path) -> None:
    """Read while another process writes as fast as it can, and after it was killed."""
    if sys.platform == "win32":
        pytest.skip("kills as POSIX does")
    worker = multiprocessing.get_context("spawn").Process(
        target=write_for_ever, args=(slot(table),)
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
    for row in inflight.read(tmp_path).rows:  # none, if the kill came in the middle of a change
        assert (row.index, row.pid) == (9, worker.pid)


def test_a_reader_needs_no_right_to_write(table: Inflight, tmp_path: Path) -> None:
    """Another user may look, and changes nothing."""
    slot(table).start(2)
    path = tmp_path / "inflight.bin"
    before = path.read_bytes()
    path.chmod(0o444)
    assert [row.index for row in inflight.read(tmp_path).rows] == [2]
    assert path.read_bytes() == before


def test_the_job_left_behind_by_a_thread_pool_does_not_disturb_the_next(tmp_path: Path) -> None:
    """A job that was given up comes back while its row is another's."""
    gate, table, pool, recorder = Gate(), Inflight(tmp_path, 1, 0.0), ThreadPool(1), Recorder()

    def late() -> None:
        gate.pass_through()
        with timed_step("late"):
            pass

    try:
        outcomes = run([Job(1, late, ())], 1, pool, FanOut([recorder]), stage="pairs",
                       inflight=table, timeout=0.05)  # fmt: skip
        assert outcomes[0].state == "timeout"
        mine = slot(table)
        mine.start(2)
        mine.enter_step("fit")
        gate.open()
        for _ in range(3):
            run([Job(3, pow, (2, 2))], 1, pool, FanOut(), stage="pairs")
        assert [row.step for row in inflight.read(tmp_path).rows] == ["fit"]
    finally:
        gate.open()
        pool.close()
        table.close("finished")
