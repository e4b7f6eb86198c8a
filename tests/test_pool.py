"""Pools: a worker's death or a stuck thread costs its own job, and never the exit."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes import Recorder
from zemosaic.runtime.events import FanOut, JobEnded
from zemosaic.runtime.pool import (
    ExecutorPool,
    ProcessPool,
    SerialPool,
    ThreadPool,
    make_pool,
    part,
    perform,
)
from zemosaic.runtime.schedule import Job, run


def pid_of(_: int) -> int:
    return os.getpid()


def segfault(_: int) -> None:
    ctypes.string_at(0)


def kill_me(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: int) -> None:
    os._exit(7)


def sleep_for_ever(_: int) -> None:
    while True:
        time.sleep(3600)


def exit_politely(_: int) -> None:
    raise SystemExit(3)


def in_parts() -> int:
    with part("read"):
        time.sleep(0.002)
    with part("fit"):
        pass
    with part("read"):
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
    pool = ProcessPool(1)
    try:
        jobs = [Job(k, sleep_for_ever if k == 2 else pid_of, (k,)) for k in range(1, 5)]
        outcomes = run(jobs, 4, pool, FanOut(), stage="pairs", timeout=0.3)
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
        from zemosaic.runtime.pool import ThreadPool
        from zemosaic.runtime.schedule import Job, run

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
    from tests.fakes import FakeClock, ManualPool

    def interrupt(now: float) -> None:
        raise KeyboardInterrupt

    pool = ManualPool(workers=2)
    jobs = [Job(k, pid_of, (k,)) for k in range(1, 9)]
    with pytest.raises(KeyboardInterrupt):
        run(jobs, 8, pool, FanOut(), stage="pairs", clock=FakeClock(interrupt))
    assert len(pool.given_up) == pool.window


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
    report = perform(in_parts, ())
    assert set(report.stages) == {"read", "fit"}
    assert report.stages["read"] >= 0.002
    assert perform(pid_of, (1,)).stages == {}


def test_an_unknown_kind_is_refused_by_name() -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match="'fibers'; choose one of processes, threads, serial"):
        make_pool("fibers", 1)
