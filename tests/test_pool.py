"""Pools: a dead or stuck worker costs its own job only, and never keeps the program alive."""

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
from zemosaic.runtime.events import Heartbeat, JobEnded, Note
from zemosaic.runtime.executor_pool import ExecutorPool
from zemosaic.runtime.inflight import Inflight, read
from zemosaic.runtime.make_pool import make_pool
from zemosaic.runtime.observers import FanOut, Observer
from zemosaic.runtime.process_pool import ProcessPool, WorkerLostError
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.serial_pool import SerialPool
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.runtime.worker import run_task, timed_step

PATIENCE = 120.0  # seconds that a loaded machine may take; only failures last as long


def pid_of(_: int) -> int:
    return os.getpid()


def echo(index: int) -> tuple[int, bytes]:
    return index, bytes(20_000)


def segfault(_: int) -> None:
    ctypes.string_at(0)


def kill_me(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_at_once(_: int) -> None:
    os._exit(7)


def hang(folder: Path) -> None:
    """Create a file named after this process, and never return."""
    (folder / str(os.getpid())).touch()
    sleep_for_ever(0)


def sleep_for_ever(_: int) -> None:
    while True:
        time.sleep(3600)


def raise_system_exit(_: int) -> None:
    raise SystemExit(3)


def in_steps() -> int:
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
        (exit_at_once, "WorkerExit"),
    ],
)
def test_the_death_of_a_worker_costs_its_own_job(fault: object, error: str) -> None:
    """If one of 12 jobs kills its worker, it has "crashed" with the signal's name, and only it."""
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
    """After the time-out the worker is killed, and its successor runs the remaining jobs."""
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
    """No job can end its worker by SystemExit, in any pool."""
    for pool in (SerialPool(), ThreadPool(1)):
        outcomes = run([Job(1, raise_system_exit, (1,)), Job(2, pid_of, (2,))], 2, pool, FanOut(),
                       stage="pairs")  # fmt: skip
        assert [o.state for o in outcomes] == ["failed", "measured"]
        pool.close()


def test_a_stuck_thread_does_not_keep_the_program_from_ending() -> None:
    """Nobody joins a thread that never returns, so the run and the interpreter end."""
    program = textwrap.dedent(
        """
        import threading
        from tests.helpers.fakes import HeldClock, Recorder
        from zemosaic.runtime.events import JobEnded
        from zemosaic.runtime.observers import FanOut
        from zemosaic.runtime.thread_pool import ThreadPool
        from zemosaic.runtime.scheduler import Job, run

        pool, recorder = ThreadPool(2), Recorder()
        clock = HeldClock(lambda: recorder.of(JobEnded))
        jobs = [Job(1, threading.Event().wait, ()), Job(2, int, ("7",))]
        outcomes = run(
            jobs, 2, pool, FanOut([recorder]), stage="pairs", timeout=3.0, clock=clock
        )
        pool.close()
        print([outcome.state for outcome in outcomes])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.strip() == "['timeout', 'measured']"


def test_an_interrupt_abandons_all_running_jobs() -> None:
    """After Ctrl-C in the loop nothing waits for a running job."""
    from tests.helpers.fakes import FakeClock, ManualPool

    def interrupt(now: float) -> None:
        raise KeyboardInterrupt

    pool = ManualPool(workers=2)
    jobs = [Job(k, pid_of, (k,)) for k in range(1, 9)]
    with pytest.raises(KeyboardInterrupt):
        run(jobs, 8, pool, FanOut(), stage="pairs", clock=FakeClock(interrupt))
    assert len(pool.abandoned) == pool.window


def test_a_foreign_executor_runs_jobs_and_stays_open() -> None:
    """An executor of the host application runs the jobs and is not shut down."""
    with ThreadPoolExecutor(3) as executor:
        pool = make_pool(executor, 99)
        assert isinstance(pool, ExecutorPool)
        assert (pool.kind, pool.workers) == ("ThreadPoolExecutor", 3)
        outcomes = run([Job(k, pid_of, (k,)) for k in range(1, 6)], 5, pool, FanOut(), stage="x")
        pool.close()
        assert executor.submit(int, "3").result() == 3
    assert {o.value for o in outcomes} == {os.getpid()}


def test_steps_of_a_job_are_timed_and_summed() -> None:
    """The result holds the seconds of each step, and of no other job's steps."""
    report = run_task(in_steps, ())
    assert set(report.step_times) == {"read", "fit"}
    assert report.step_times["read"] >= 0.002
    assert run_task(pid_of, (1,)).step_times == {}


def test_an_unknown_kind_of_pool_is_refused() -> None:
    """The error names the unknown kind and lists the known ones."""
    with pytest.raises(ValueError, match="'fibers'; choose one of processes, threads, serial"):
        make_pool("fibers", 1)


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
@pytest.mark.parametrize("run_in_slot", [True, False])
def test_workers_killed_at_any_moment_lose_their_current_job_only(
    tmp_path: Path, run_in_slot: bool
) -> None:
    """In a job, between two, while reading or writing: each kill costs one job at most."""
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
        jobs = [Job(k, echo, (k,)) for k in range(1, 4001)]
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


class LoadedAfter:
    """Is unpickled as soon as a file exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], bool], tuple[Path]]:
        return wait_for_file, (self.path,)


def wait_for_file(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, "the next job has not run"
        time.sleep(0.01)
    return True


def test_a_worker_receives_its_next_job_before_its_result_is_unpickled(tmp_path: Path) -> None:
    """Unpickling a long result keeps no worker idle."""
    pool, path = ProcessPool(1), tmp_path / "second job has run"
    try:
        first = pool.submit(LoadedAfter, (path,))
        second = pool.submit(path.touch, ())
        assert first.result(2 * PATIENCE).value is True
        assert second.result(PATIENCE).error is None
    finally:
        pool.close()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_the_death_of_an_idle_worker_is_reported() -> None:
    """It costs no job and is reported in one note."""
    pool, recorder = ProcessPool(2), Recorder()
    try:
        (first,) = run([Job(1, pid_of, (1,))], 1, pool, FanOut([recorder]), stage="x")
        os.kill(first.value, signal.SIGKILL)
        jobs = [Job(k, echo, (k,)) for k in range(1, 51)]
        outcomes = run(jobs, 50, pool, FanOut([recorder]), stage="x")
        run(jobs, 50, pool, FanOut([recorder]), stage="x")
    finally:
        pool.close()
    lost = [outcome for outcome in outcomes if outcome.error is not None]
    notes = [note.message for note in recorder.of(Note)]
    if not lost:  # it may have received a job by then
        assert len(notes) == 1
        assert notes[0].startswith("SIGKILL: the worker was killed by SIGKILL, while it was idle")
    assert len(lost) + len(notes) == 1


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("run_in_slot", [True, False])
def test_a_death_in_a_batch_is_the_failure_of_the_current_job(
    tmp_path: Path, run_in_slot: bool
) -> None:
    """The others are measured, even without a table that names the current job."""
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
def test_a_stuck_job_does_not_hold_up_the_others_of_its_batch(
    tmp_path: Path, run_in_slot: bool
) -> None:
    """The stuck job times out, and the other jobs of its batch are measured."""
    pool, recorder = ProcessPool(2), Recorder()
    table = Inflight(tmp_path, pool.window, 0.0) if run_in_slot else None
    hanging = tmp_path / "hanging"
    hanging.mkdir()

    def recalled_or_alone() -> bool:
        """Let the others be recalled from behind the job, then wait until they have ended."""
        is_recalled = clock.now < 1005.0
        return any(hanging.iterdir()) and (is_recalled or len(recorder.of(JobEnded)) == 599)

    def all_busy_workers_hang() -> bool:
        busy = {worker.process.pid for worker in pool._live_workers if worker.task}
        return bool(busy) and busy <= {int(path.name) for path in hanging.iterdir()}

    # Without a table, the jobs before the stuck one wait until their batch has timed out.
    clock = HeldClock(recalled_or_alone if run_in_slot else all_busy_workers_hang)
    try:
        jobs = [
            Job(k, hang, (hanging,)) if k == 300 else Job(k, pid_of, (k,)) for k in range(1, 601)
        ]
        outcomes = run(jobs, 600, pool, FanOut([recorder]), stage="pairs", inflight=table,
                       timeout=30.0, heartbeat=5.0, clock=clock)  # fmt: skip
    finally:
        pool.close()
    assert [(o.job.index, o.state) for o in outcomes if o.state != "measured"] == [(300, "timeout")]
    if run_in_slot:  # the jobs behind it did not wait for its time-out
        last = recorder.of(JobEnded)[-1]
        assert (last.index, last.done) == (300, 600)
        assert recorder.of(Heartbeat)[-1].running_indices == [300]


def test_workers_unable_to_start_end_the_run_with_a_clear_error(tmp_path: Path) -> None:
    """Workers that exit during their imports are not replaced for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from zemosaic.runtime.observers import FanOut
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
        [sys.executable, script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.strip() in ("{'WorkerExit', 'WorkersDie'}", "{'WorkersDie', 'WorkerExit'}")


def unpicklable(_: int) -> object:
    return lambda: None


def test_an_unpicklable_argument_or_result_fails_its_own_job() -> None:
    """The job fails, its worker goes on, and the other jobs are measured."""
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


def test_an_unpicklable_result_fails_no_other_job_of_its_batch() -> None:
    """The other jobs of the batch are run again, each alone, and measured."""
    pool, recorder = ProcessPool(2), Recorder()
    try:
        jobs = [Job(k, unpicklable if k == 300 else pid_of, (k,)) for k in range(1, 601)]
        outcomes = run(jobs, 600, pool, FanOut([recorder]), stage="x")
    finally:
        pool.close()
    assert [(o.job.index, o.state) for o in outcomes if o.state != "measured"] == [(300, "failed")]
    assert any("done again alone" in note.message for note in recorder.of(Note))


def test_a_closed_pool_refuses_tasks() -> None:
    """Its unfinished tasks fail, and it accepts no others."""
    pool = ProcessPool(1)
    future = pool.submit(sleep_for_ever, (1,))
    pool.close()
    with pytest.raises((CancelledError, WorkerLostError)):
        future.result(timeout=0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(pid_of, (1,))
