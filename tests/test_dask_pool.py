"""The pool of a Dask cluster, with faults injected into real workers, nannies and schedulers."""

from __future__ import annotations

import asyncio
import collections
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fakes import HeldClock, Recorder
from zemosaic import calibrate
from zemosaic.errors import UserError
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.runtime import dask_cluster, dask_lookout, dask_pool, dask_worker, stacks
from zemosaic.runtime.events import Heartbeat, JobEnded, WorkerStarted
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.make_pool import make_pool
from zemosaic.runtime.observers import FanOut
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.run_folder import RunFolder
from zemosaic.runtime.scheduler import Job, Outcome, run
from zemosaic.runtime.worker import timed_step

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="faults are injected by POSIX signals"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE = 120.0


def square(x: int) -> int:
    return x * x


def slow_square(x: int) -> int:
    time.sleep(0.1)
    return x * x


def sleep(_: int) -> None:
    with timed_step("asleep"):
        time.sleep(3600)


def hold_the_lock(_: int) -> None:
    collections.deque(itertools.repeat(None), maxlen=0)


def kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(_: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)  # other threads go on until the signal has reached all


def wait_for(path: str) -> int:
    while not os.path.exists(path):
        time.sleep(0.02)
    return os.getpid()


def append_line(path: str, number: int) -> None:
    with open(path, "a") as file:
        file.write(f"{number}\n")


def worker_process(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def shift_clock(seconds: float) -> None:
    clock = time.time_ns
    time.time_ns = lambda: clock() + int(seconds * 1e9)  # type: ignore[assignment]


@pytest.fixture(params=[3, 0])
def failures(request: pytest.FixtureRequest) -> int:
    """How often Dask may try a killed task again; 3 by default, and 0 in clusters of our own."""
    return int(request.param)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Start two workers with Dask's own settings, which try a killed task three times more."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as started:
        yield started


@pytest.fixture
def pool(cluster: Any) -> Iterator[Pool]:
    """Join the cluster through a client, as users of dask-jobqueue do."""
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        made = make_pool(client)
        yield made
        made.close()
        assert client.status == "running"  # it belongs to its owner


def run_jobs(
    pool: Pool, functions: list[Callable[..., Any]], folder: Path, **options: Any
) -> tuple[list[Outcome], Recorder]:
    recorder = Recorder()
    table = Inflight(folder, pool.rows, options.get("heartbeat", 10.0))
    jobs = [Job(k, function, (k,), {"name": f"job {k}"}) for k, function in enumerate(functions, 1)]
    outcomes = run(
        jobs, len(jobs), pool, FanOut([recorder]), stage="pairs", inflight=table, **options
    )
    table.close("finished")
    return outcomes, recorder


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def test_short_jobs_are_measured_in_batches(pool: Pool, tmp_path: Path) -> None:
    """Two thousand jobs have the right values, in order, from workers with a host."""
    outcomes, recorder = run_jobs(pool, [square] * 2000, tmp_path)
    assert [outcome.value for outcome in outcomes] == [k * k for k in range(1, 2001)]
    both = [*recorder.of(JobEnded), *recorder.of(WorkerStarted)]
    assert {event.host for event in both} == {os.uname().nodename}
    assert {event.clock_offset for event in recorder.of(JobEnded)} == {0.0}
    assert recorder.of(WorkerStarted)


@pytest.mark.parametrize("count", [8, 600])
def test_a_killed_worker_costs_the_job_that_killed_it(
    cluster: Any, pool: Pool, tmp_path: Path, count: int, failures: int
) -> None:
    """It crashed by SIGKILL, alone or in a batch, and no other; Dask itself may try it again."""
    cluster.scheduler.allowed_failures = failures
    functions: list[Callable[..., Any]] = [square] * count
    functions[count // 2] = kill
    outcomes, _ = run_jobs(pool, functions, tmp_path)
    expected = ["measured"] * count
    expected[count // 2] = "crashed"
    assert states(outcomes) == expected
    error = outcomes[count // 2].error
    assert error is not None
    assert error.type == "SIGKILL"


def test_a_worker_of_two_threads_costs_the_job_that_kills_it(tmp_path: Path) -> None:
    """The job that ran beside it is done again."""
    functions: list[Callable[..., Any]] = [slow_square] * 24
    functions[12] = kill
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pool = make_pool(client)
        outcomes, _ = run_jobs(pool, functions, tmp_path)
        pool.close()
    assert states(outcomes) == [*["measured"] * 12, "crashed", *["measured"] * 11]


@pytest.mark.parametrize(
    ("fault", "line"), [(sleep, "in sleep"), (hold_the_lock, "in hold_the_lock"), (stop, "")]
)
def test_a_stuck_job_is_named_with_its_stack_and_times_out(
    pool: Pool, tmp_path: Path, fault: Callable[..., Any], line: str
) -> None:
    """Asleep, with the GIL held, or stopped: heartbeats name it, and its worker is replaced."""
    recorder = Recorder()
    clock = HeldClock(lambda: list(running(table)) == [2])
    table = Inflight(tmp_path, pool.rows, 0.5)
    functions = [square, fault, *[square] * 6]
    jobs = [Job(k, function, (k,)) for k, function in enumerate(functions, 1)]
    outcomes = run(
        jobs, 8, pool, FanOut([recorder]), stage="pairs", inflight=table, heartbeat=20.0,
        timeout=120.0, clock=clock,
    )  # fmt: skip
    assert states(outcomes) == ["measured", "timeout", *["measured"] * 6]
    assert outcomes[1].error is not None
    assert line in outcomes[1].error.traceback
    files = {path.name.rpartition("-")[0] for path in RunFolder(tmp_path).stacks.iterdir()}
    assert files <= {os.uname().nodename}
    assert files or not line
    assert {tuple(beat.running_indices) for beat in recorder.of(Heartbeat)} == {(2,)}
    if fault is sleep:
        assert "asleep" in {beat.running_steps[0] for beat in recorder.of(Heartbeat)}


def running(table: Inflight) -> Iterator[int]:
    """Yield the indices of the jobs in a table."""
    for row in range(table._table.rows):
        if (job := table._table.read(row)) is not None:
            yield job.index


@pytest.mark.parametrize(
    "functions", [[square] * 600, [slow_square] * 6, [kill, *[slow_square] * 5]]
)
def test_a_worker_with_a_shifted_clock_has_times_of_the_run(
    cluster: Any, tmp_path: Path, functions: list[Callable[..., Any]]
) -> None:
    """A clock that is an hour slow is measured, and jobs keep their place among the others."""
    with distributed.Client(cluster, set_as_default=False) as client:
        slow, right = client.scheduler_info()["workers"]
        client.run(shift_clock, -3600.0, workers=[slow])
        pids = client.run(os.getpid)
        pool = make_pool(client)
        before = time.time_ns()
        _, recorder = run_jobs(pool, functions, tmp_path)
        after = time.time_ns()
        pool.close()
    ended = {pid: [e for e in recorder.of(JobEnded) if e.pid == pid] for pid in pids.values()}
    for event in (e for events in ended.values() for e in events):
        assert before <= event.submitted_ns <= event.started_ns <= event.ended_ns <= after
    for event in ended[pids[slow]]:
        assert event.clock_offset == pytest.approx(-3600.0, abs=0.5)
    assert {event.clock_offset for event in ended[pids[right]]} <= {0.0}
    for events in ended.values():
        assert events
        events.sort(key=lambda event: event.started_ns)
        for one, next_one in itertools.pairwise(events):
            assert one.ended_ns <= next_one.started_ns + 50_000_000


def test_a_clock_that_is_set_during_the_run_is_measured_again(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offsets that the run knows follow the clocks of its workers."""
    monkeypatch.setattr(dask_lookout, "COMPARE_CLOCKS", 0.1)
    with distributed.Client(cluster, set_as_default=False) as client:
        pool = make_pool(client)
        client.run(shift_clock, 600.0)
        assert isinstance(pool, dask_pool.DaskPool)
        workers = pool._crew.workers.values()
        deadline = time.monotonic() + PATIENCE
        while not all(abs(worker.host.offset_ns - 600 * 10**9) < 10**9 for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pool.close()


def touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(3600)


def test_the_executor_of_a_client_has_no_way_to_a_stuck_or_dead_worker(
    cluster: Any, tmp_path: Path
) -> None:
    """A stuck job times out; a dead worker fails its job, and others beside it, by Dask's error."""
    cluster.scheduler.allowed_failures = 0
    began = tmp_path / "began"
    jobs = [Job(1, touch_and_sleep, (str(began),)), *(Job(k, square, (k,)) for k in range(2, 9)),
            Job(9, kill, (9,))]  # fmt: skip
    recorder = Recorder()
    with distributed.Client(cluster, set_as_default=False) as client:
        pool = make_pool(client.get_executor(pure=False), 2)
        assert (pool.kind, pool.workers) == ("ClientExecutor", 2)
        outcomes = run(
            jobs, 9, pool, FanOut([recorder]), stage="pairs", heartbeat=5.0, timeout=30.0,
            clock=HeldClock(lambda: began.exists() and len(recorder.of(JobEnded)) == 8),
        )  # fmt: skip
    failed = {outcome.job.index: outcome.error for outcome in outcomes if outcome.error is not None}
    assert {outcomes[index - 1].state for index in failed.keys() - {1}} == {"failed"}
    assert failed.pop(1).type == "TimeoutError"
    assert 9 in failed
    assert {error.type for error in failed.values()} == {"KilledWorker"}
    assert next(tuple(beat.running_indices) for beat in recorder.of(Heartbeat)) == (1,)
    hosts = {event.host for event in recorder.of(JobEnded) if event.outcome == "measured"}
    assert hosts == {os.uname().nodename}


def test_the_executor_of_a_client_has_the_results_of_processes(cluster: Any) -> None:
    """`calibrate(..., pool=client.get_executor())` has the same bits as any other pool."""
    tiles = [(tile.data, tile.wcs) for tile in simulate(Scene(tiles=4, shape=(64, 80)))]
    with distributed.Client(cluster, set_as_default=False) as client:
        solution = calibrate(tiles, pool=client.get_executor(), observers=[])
    expected = calibrate(tiles, pool="serial", observers=[])
    assert solution.gain.tobytes() == expected.gain.tobytes()
    assert solution.offset.tobytes() == expected.offset.tobytes()


def test_a_worker_that_joins_late_gets_jobs(tmp_path: Path) -> None:
    """It is introduced while the other is busy, and does the jobs that wait behind it."""
    leave = tmp_path / "leave"
    jobs = [Job(1, wait_for, (str(leave),)), *(Job(k, worker_process, (k,)) for k in range(2, 5))]

    class Join(Recorder):
        def handle_batch(self, events: Any) -> None:
            super().handle_batch(events)
            if self.of(Heartbeat) and len(cluster.workers) == 1:
                cluster.scale(2)
            if len(self.of(JobEnded)) == 3:
                leave.touch()

    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pool = make_pool(client)
        outcomes = run(jobs, 4, pool, FanOut([Join()]), stage="pairs", heartbeat=0.3)
        assert len(pool.worker_starts()) == 0  # the loop has reported both
        pool.close()
    assert set(states(outcomes)) == {"measured"}
    assert outcomes[0].value not in {outcome.value for outcome in outcomes[1:]}


def test_a_worker_that_is_stopped_while_idle_loses_its_jobs_to_the_other(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job is charged with it: others do what it does not begin, and its nanny replaces it."""
    monkeypatch.setattr(dask_lookout, "SILENCE", 1.0)
    monkeypatch.setattr(dask_cluster, "ANSWER_TIME", 2.0)
    assert isinstance(pool, dask_pool.DaskPool)
    deadline = time.monotonic() + PATIENCE
    while len(pool._crew.workers) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopped = next(iter(pool._crew.workers.values())).about.pid
    os.kill(stopped, signal.SIGSTOP)
    outcomes, recorder = run_jobs(pool, [slow_square] * 100, tmp_path, heartbeat=0.5, timeout=60)
    assert [outcome.value for outcome in outcomes] == [k * k for k in range(1, 101)]
    assert stopped not in {event.pid for event in recorder.of(JobEnded)}
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)


def test_results_that_are_slow_to_fetch_are_not_computed_again(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that passes results on seconds later delays them, and each job runs once."""
    assert isinstance(pool, dask_pool.DaskPool)
    scheduler = pool._cluster.client.cluster.scheduler
    gather = scheduler.handlers["gather"]

    async def slow_gather(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(4.0)
        return await gather(*args, **options)

    monkeypatch.setitem(scheduler.handlers, "gather", slow_gather)
    jobs = [Job(k, append_line, (str(tmp_path / "runs"), k)) for k in range(1, 5)]
    outcomes = run(jobs, 4, pool, FanOut([]), stage="pairs", heartbeat=0.5)
    assert states(outcomes) == ["measured"] * 4
    assert sorted((tmp_path / "runs").read_text().split()) == ["1", "2", "3", "4"]


def stop_once_after_the_end(path: str, number: int) -> int:
    if number == 1 and not os.path.exists(path):
        Path(path).touch()
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    return number


def test_a_result_at_a_stopped_worker_is_computed_again(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stops after the end of a job, with its result, is the fault of no job."""
    monkeypatch.setattr(dask_lookout, "SILENCE", 1.0)
    monkeypatch.setattr(dask_cluster, "ANSWER_TIME", 2.0)
    assert isinstance(pool, dask_pool.DaskPool)
    scheduler = pool._cluster.client.cluster.scheduler
    gather = scheduler.handlers["gather"]

    async def slow_gather(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(3.0)
        return await gather(*args, **options)

    monkeypatch.setitem(scheduler.handlers, "gather", slow_gather)
    once = str(tmp_path / "once")
    jobs = [Job(k, stop_once_after_the_end, (once, k)) for k in (1, 2)]
    outcomes = run(jobs, 2, pool, FanOut([]), stage="pairs", heartbeat=0.5, timeout=60.0)
    assert [outcome.value for outcome in outcomes] == [1, 2]
    assert os.path.exists(once)


def test_a_folder_that_a_host_does_not_see_is_one_line(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the host and the folder; a folder that all see passes."""
    pool.use_folders([tmp_path])
    assert isinstance(pool, dask_pool.DaskPool)
    token = next(tmp_path.glob(".zemosaic-*"))
    token.write_text("another disk under the same name")
    monkeypatch.setattr(pool._cluster, "place_tokens", lambda folders: None)
    with pytest.raises(UserError, match=f"{os.uname().nodename}: .* do not see {tmp_path}"):
        pool.use_folders([tmp_path])


def other_package() -> str:
    return f"zemosaic 0 in process {os.getpid()}"


def test_workers_with_another_package_end_the_run_with_one_line(cluster: Any) -> None:
    """The line names both packages."""
    with (
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(UserError, match=r"have imported zemosaic 0 .*, but the run zemosaic 0"),
    ):
        make_pool(client, identify=other_package)


def test_no_scheduler_is_one_line() -> None:
    """An address at which nothing listens is a mistake of the user."""
    with pytest.raises(UserError, match=r"tcp://127.0.0.1:1: no Dask scheduler answers"):
        make_pool("dask://127.0.0.1:1")


#: A worker whose job calls Python all the time, as an import does: its frames never rest.
BUSY = """
import inspect, sys, threading, time
from pathlib import Path
import astropy.io.registry.compat as module
from zemosaic.runtime.dask_worker import record_stacks

def job():
    while True:
        exec(compile(inspect.getsource(module), "job", "exec"), {"__package__": module.__package__})

record_stacks(Path(sys.argv[1]))
threading.Thread(target=job, daemon=True).start()
print("busy", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not dask_worker.CAN_DUMP, reason="this Python cannot dump a busy worker")
def test_dumps_of_a_busy_worker_do_not_end_it(tmp_path: Path) -> None:
    """Its nanny has its stack for each heartbeat; without the GIL every hundredth dump faulted."""
    stacks.create_folder(tmp_path)
    command = [sys.executable, "-c", BUSY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline()
            for _ in range(600):
                worker.send_signal(dask_worker.DUMP)
                time.sleep(0.004)
            assert worker.poll() is None
        finally:
            worker.kill()
    assert "in job" in RunFolder(tmp_path).stack(worker.pid).read_text()


@pytest.mark.parametrize("quiet", [dask_cluster.quiet, asyncio.ensure_future])
def test_an_answer_that_fails_too_late_is_not_logged(quiet: Any) -> None:
    """A connection that ends with the run fails questions that nobody waits for any more."""
    logged: list[str] = []

    async def fail() -> None:
        raise OSError("the connection is closed")

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: logged.append(context["message"]))
        quiet(asyncio.gather(fail()))
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(ask())
    assert bool(logged) == (quiet is asyncio.ensure_future)
