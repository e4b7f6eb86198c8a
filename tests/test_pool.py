"""Pools: a worker's death or a stuck thread costs its own job, and never the exit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.fakes import HeldClock, Recorder
from zemosaic.runtime.events import FanOut, Heartbeat, JobEnded, Note, Observer
from zemosaic.runtime.executor_pool import ExecutorPool
from zemosaic.runtime.inflight import Inflight, read
from zemosaic.runtime.make_pool import make_pool
from zemosaic.runtime.process_pool import ProcessPool, WorkerLostError
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.runtime.worker import run_task, timed_step


def pid_of(_: int) -> int:
    return os.getpid()


def said(index: int) -> tuple[int, bytes]:
    return index, bytes(20_000)


def segfault(_: int) -> None:
    ctypes.string_at(0)


def kill_me(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: int) -> None:
    os._exit(7)


def hang(mark: str) -> None:
    """Leave a mark, and never return."""
    Path(mark).touch()
    sleep_for_ever(0)


def sleep_for_ever(_: int) -> None:
    while True:
        time.sleep(3600)


def exit_politely(_: int) -> None:
    raise SystemExit(3)


def in_parts() -> int:
    with timed_step("read"):
        time.sleep(0.002)
    with timed_step("fit"):
        pass
    with timed_step("read"):
        pass
    return 5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(
            kill_me,
            "SIGKILL",
            marks=pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows"),
        ),
        pytest.param(
            segfault,
            "SIGSEGV",
            marks=pytest.mark.skipif(os.name == "nt", reason="no signals on Windows"),
        ),
        (leave, "WorkerExit"),
    ],
)
def test_the_death_of_a_worker_costs_its_own_job(fault: object, error: str) -> None:
    """One of 12 jobs kills its worker: it is "crashed" by name, the other 11 are measured."""
    pool, recorder = ProcessPool(2), Recorder()
    try:
        jobs = [Job(k, fault if k == 5 else pid_of, (k,)) for k in range(1, 13)]
        outcomes = run(jobs, 12, pool, FanOut([recorder]), stage="pairs")
    finally:
        pool.close()
    assert [o.state for o in outcomes] == ["measured"] * 4 + ["crashed"] + ["measured"] * 7
    assert outcomes[4].error is not None
    assert outcomes[4].error.type == error
    assert recorder.of(JobEnded)[-1].done == 12
    assert os.getpid() not in {o.value for o in outcomes}


def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    """After the time-out the worker is gone, and its successor does the rest."""
    pool, recorder = ProcessPool(1), Recorder()
    clock = HeldClock(lambda: [e.index for e in recorder.of(JobEnded)] == [1])
    try:
        jobs = [Job(k, sleep_for_ever if k == 2 else pid_of, (k,)) for k in range(1, 5)]
        outcomes = run(jobs, 4, pool, FanOut([recorder]), stage="pairs", timeout=30.0, clock=clock)
    finally:
        pool.close()
    assert [o.state for o in outcomes] == ["measured", "timeout", "measured", "measured"]
    assert outcomes[0].value != outcomes[2].value


def test_system_exit_in_a_job_is_a_failure_like_any_other() -> None:
    """A job cannot end its worker by SystemExit, in any pool."""
    for pool in (SerialPool(), ThreadPool(1)):
        outcomes = run([Job(1, exit_politely, (1,)), Job(2, pid_of, (2,))], 2, pool, FanOut(),
                       stage="pairs")  # fmt: skip
        assert [o.state for o in outcomes] == ["failed", "measured"]
        pool.close()


def test_a_stuck_thread_keeps_neither_the_run_nor_the_interpreter() -> None:
    """A thread that never comes back is joined by nobody: the program ends."""
    program = textwrap.dedent(
        """
        import threading
        from zemosaic.runtime.events import FanOut
        from zemosaic.runtime.thread_pool import ThreadPool
        from zemosaic.runtime.scheduler import Job, run

        pool = ThreadPool(2)
        jobs = [Job(1, threading.Event().wait, ()), Job(2, int, ("7",))]
        outcomes = run(jobs, 2, pool, FanOut(), stage="pairs", timeout=0.2)
        pool.close()
        print([outcome.state for outcome in outcomes])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['timeout', 'measured']"


def test_an_interrupt_lets_go_of_what_runs() -> None:
    """Ctrl-C in the loop leaves no job behind that somebody waits for."""
    from tests.helpers.fakes import FakeClock, ManualPool

    def interrupt(now: float) -> None:
        raise KeyboardInterrupt

    pool = ManualPool(workers=2)
    jobs = [Job(k, pid_of, (k,)) for k in range(1, 9)]
    with pytest.raises(KeyboardInterrupt):
        run(jobs, 8, pool, FanOut(), stage="pairs", clock=FakeClock(interrupt))
    assert len(pool.abandoned) == pool.window


def test_any_executor_serves_and_is_not_shut_down() -> None:
    """A host's own executor runs the jobs and stays open."""
    with ThreadPoolExecutor(3) as executor:
        pool = make_pool(executor, 99)
        assert isinstance(pool, ExecutorPool)
        assert (pool.kind, pool.workers) == ("ThreadPoolExecutor", 3)
        outcomes = run([Job(k, pid_of, (k,)) for k in range(1, 6)], 5, pool, FanOut(), stage="x")
        pool.close()
        assert executor.submit(int, "3").result() == 3
    assert {o.value for o in outcomes} == {os.getpid()}


def test_parts_of_a_job_are_timed_and_summed() -> None:
    """Seconds per named part come back with the report, and belong to one job alone."""
    report = run_task(in_parts, ())
    assert set(report.step_times) == {"read", "fit"}
    assert report.step_times["read"] >= 0.002
    assert run_task(pid_of, (1,)).step_times == {}


def test_an_unknown_kind_is_refused_by_name() -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match="'fibers'; choose one of processes, threads, serial"):
        make_pool("fibers", 1)


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
@pytest.mark.parametrize("run_in_slot", [True, False])
def test_workers_killed_at_any_moment_lose_what_they_were_at(
    tmp_path: Path, run_in_slot: bool
) -> None:
    """At a job, between two, while they read or write: a job at most for a kill, and no other."""
    pool, killed, rng = ProcessPool(2), [], random.Random(3)
    table = Inflight(tmp_path, pool.window, 0.0) if run_in_slot else None

    class Killer(Observer):
        def job_ended(self, event: JobEnded) -> None:
            if event.pid and len(killed) < 40 and rng.random() < 0.01:
                time.sleep(rng.uniform(0, 0.01))
                # It may be dead already, and then is not a second time.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(event.pid, signal.SIGKILL)
                    killed.append(event.pid)

    try:
        jobs = [Job(k, said, (k,)) for k in range(1, 4001)]
        outcomes = run(jobs, 4000, pool, FanOut([Killer()]), stage="x", inflight=table)
    finally:
        pool.close()
    assert len(killed) > 10
    lost = [outcome for outcome in outcomes if outcome.error is not None]
    assert {outcome.state for outcome in lost} <= {"crashed"}
    assert len(lost) <= len(killed)
    assert all(o.value == (o.job.index, bytes(20_000)) for o in outcomes if o.error is None)
    if table is not None:
        assert read(tmp_path).rows == ()
        table.close("finished")


class SlowToRead:
    """Takes half a second to be unpickled."""

    def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:
        return time.sleep, (0.5,)


def slow_to_read(_: int) -> SlowToRead:
    return SlowToRead()


def test_a_worker_has_its_next_job_before_its_report_is_read() -> None:
    """Reading a long report keeps nobody from working."""
    pool, read_at = ProcessPool(1), []
    try:
        first = pool.submit(slow_to_read, (1,))
        first.add_done_callback(lambda _: read_at.append(time.time_ns()))
        second = pool.submit(pid_of, (2,)).result(30)
        first.result(30)
    finally:
        pool.close()
    assert second.started_ns < read_at[0] - 200_000_000


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_the_death_of_a_worker_that_waits_is_told() -> None:
    """It costs no job, and is no secret: one line, once."""
    pool, recorder = ProcessPool(2), Recorder()
    try:
        (first,) = run([Job(1, pid_of, (1,))], 1, pool, FanOut([recorder]), stage="x")
        os.kill(first.value, signal.SIGKILL)
        jobs = [Job(k, said, (k,)) for k in range(1, 51)]
        outcomes = run(jobs, 50, pool, FanOut([recorder]), stage="x")
        run(jobs, 50, pool, FanOut([recorder]), stage="x")
    finally:
        pool.close()
    lost = [outcome for outcome in outcomes if outcome.error is not None]
    notes = [note.message for note in recorder.of(Note)]
    if not lost:  # it may have had the first job by then
        assert len(notes) == 1
        assert notes[0].startswith("SIGKILL: the worker was killed by SIGKILL, while it was idle")
    assert len(lost) + len(notes) == 1


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("run_in_slot", [True, False])
def test_a_death_among_jobs_sent_together_is_that_of_its_own_job(
    tmp_path: Path, run_in_slot: bool
) -> None:
    """Also where no table says which one it was, the others are measured."""
    pool, recorder = ProcessPool(2), Recorder()
    table = Inflight(tmp_path, pool.window, 0.0) if run_in_slot else None
    try:
        jobs = [Job(k, kill_me if k % 100 == 0 else pid_of, (k,)) for k in range(1, 601)]
        outcomes = run(jobs, 600, pool, FanOut([recorder]), stage="pairs", inflight=table)
    finally:
        pool.close()
    assert [o.job.index for o in outcomes if o.state != "measured"] == [
        100,
        200,
        300,
        400,
        500,
        600,
    ]
    assert {o.error.type for o in outcomes if o.error} == {"SIGKILL"}
    ended = recorder.of(JobEnded)
    assert sorted(event.index for event in ended) == list(range(1, 601))
    assert [event.done for event in ended] == list(range(1, 601))


@pytest.mark.parametrize("run_in_slot", [True, False])
def test_a_job_that_hangs_keeps_none_behind_it(tmp_path: Path, run_in_slot: bool) -> None:
    """Of jobs that were sent together the one that hangs is given up, and the others are done."""
    pool, recorder = ProcessPool(2), Recorder()
    table = Inflight(tmp_path, pool.window, 0.0) if run_in_slot else None
    hanging = tmp_path / "hanging"

    def stuck() -> bool:
        """Long enough to take the others from behind the job, and again once they have ended."""
        recalled = clock.now < 1005.0
        return hanging.exists() and (recalled or len(recorder.of(JobEnded)) == 599)

    clock = HeldClock(stuck)
    try:
        jobs = [
            Job(k, hang, (str(hanging),)) if k == 300 else Job(k, pid_of, (k,))
            for k in range(1, 601)
        ]
        outcomes = run(jobs, 600, pool, FanOut([recorder]), stage="pairs", inflight=table,
                       timeout=30.0 if run_in_slot else 5.0,
                       heartbeat=5.0, clock=clock if run_in_slot else None)  # fmt: skip
    finally:
        pool.close()
    assert [(o.job.index, o.state) for o in outcomes if o.state != "measured"] == [(300, "timeout")]
    if run_in_slot:  # those behind it did not wait for the time-out
        last = recorder.of(JobEnded)[-1]
        assert (last.index, last.done) == (300, 600)
        assert recorder.of(Heartbeat)[-1].running_indices == [300]


def test_workers_that_cannot_start_are_a_clear_failure(tmp_path: Path) -> None:
    """Each of them imports the program, and ends there: no loop."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from zemosaic.runtime.events import FanOut
            from zemosaic.runtime.process_pool import ProcessPool
            from zemosaic.runtime.scheduler import Job, run

            if __name__ != "__main__":
                raise SystemExit(3)
            pool = ProcessPool(2)
            jobs = [Job(k, int, ("7",)) for k in range(1, 100)]
            print({str(o.error.type) for o in run(jobs, 99, pool, FanOut(), stage="x")})
            pool.close()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() in ("{'WorkerExit', 'WorkersDie'}", "{'WorkersDie', 'WorkerExit'}")


def unpicklable(_: int) -> object:
    return lambda: None


def test_what_cannot_be_sent_is_the_failure_of_its_own_job() -> None:
    """An argument or a result that pickle refuses costs no worker."""
    pool = ProcessPool(1)
    try:
        jobs = [
            Job(1, pid_of, (1,)), Job(2, pid_of, (lambda: None,)), Job(3, unpicklable, (3,)),
            Job(4, pid_of, (4,)),
        ]  # fmt: skip
        outcomes = run(jobs, 4, pool, FanOut(), stage="x")
    finally:
        pool.close()
    assert [o.state for o in outcomes] == ["measured", "failed", "failed", "measured"]
    assert outcomes[0].value == outcomes[3].value


def test_a_result_that_cannot_be_sent_spoils_none_that_is_sent_with_it() -> None:
    """Of jobs that were done together."""
    pool, recorder = ProcessPool(2), Recorder()
    try:
        jobs = [Job(k, unpicklable if k == 300 else pid_of, (k,)) for k in range(1, 601)]
        outcomes = run(jobs, 600, pool, FanOut([recorder]), stage="x")
    finally:
        pool.close()
    assert [(o.job.index, o.state) for o in outcomes if o.state != "measured"] == [(300, "failed")]
    assert any("done again alone" in note.message for note in recorder.of(Note))


def test_a_closed_pool_takes_no_job() -> None:
    """And what it had not done has an end."""
    pool = ProcessPool(1)
    future = pool.submit(sleep_for_ever, (1,))
    pool.close()
    with pytest.raises((CancelledError, WorkerLostError)):
        future.result(timeout=0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(pid_of, (1,))
