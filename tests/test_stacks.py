"""Stacks: dumped while the GIL is held, cheap for short jobs, and harmless to the host."""

from __future__ import annotations

import collections
import ctypes
import faulthandler
import itertools
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.fakes import Recorder
from tests.helpers.tiles import simulated
from zemosaic import calibrate
from zemosaic.runtime import stacks
from zemosaic.runtime.events import Heartbeat, JobEnded
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.observers import FanOut, Observer
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.run_folder import RunFolder
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.worker import run_in_slot
from zemosaic.settings import Settings

DUMP = """Timeout (0:00:08)!
Thread 0x00007f01 (most recent call first):
  File "/a/b.py", line 3 in {inner}
  File "/a/c.py", line 4 in outer

Current thread 0x00007f02 (most recent call first):
  File "/a/d.py", line 5 in other
"""
SENT = 20_000  # bytes
PATIENCE = 120.0  # seconds that a loaded machine may take; only failures last as long
FAULT = "Fatal Python error: Segmentation fault\n\n" + DUMP.partition("\n")[2] + "\nExtension: x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    stacks.close()
    # A test of the command line may have called `use_alarm` in this process.
    monkeypatch.setattr(stacks._timer, "by_alarm", False)
    monkeypatch.setattr(stacks, "DUMPS_IN_PYTHON", False)
    stacks.create_folder(tmp_path)
    yield tmp_path
    stacks.close()


def write(folder: Path, text: str) -> Path:
    path = folder / "stacks" / "1.txt"
    path.write_text(text)
    return path


def test_the_last_stack_of_a_thread_is_read(folder: Path) -> None:
    """The last of several dumps, and the requested one of several threads."""
    path = write(folder, DUMP.format(inner="first") + DUMP.format(inner="second"))
    stack = stacks.read_last(path, 0x7F01)
    assert "second" in stack
    assert "in first" not in stack
    assert "other" not in stack
    assert stacks.innermost(stack) == "b.py:3 in second"
    assert stacks.read_last(path, 0x7F03) == ""
    assert "other" in stacks.read_last(path)


def test_of_a_dump_from_a_thread_the_main_thread_is_read(folder: Path) -> None:
    """Python lists it last; an earlier dump of its own does not hide it."""
    own = DUMP.format(inner="busy")
    from_thread = DUMP.replace("Current thread", "Thread").replace("in other", "in stuck")
    stack = stacks.read_last(write(folder, own + from_thread.format(inner="beat")))
    assert stacks.innermost(stack) == "d.py:5 in stuck"


def test_after_a_fault_the_current_thread_is_read(folder: Path) -> None:
    """With the line of the error, and without Python's list of modules."""
    stack = stacks.read_last(write(folder, FAULT.format(inner="innocent")))
    assert stack.startswith("Fatal Python error: Segmentation fault")
    assert "other" in stack
    assert "innocent" not in stack
    assert "Extension" not in stack


def test_a_stack_older_than_the_job_is_ignored(folder: Path) -> None:
    """So is a missing or empty file; of a long file only the end is read."""
    path = write(folder, DUMP.format(inner="old"))
    assert stacks.read_last(path, 0x7F01, path.stat().st_mtime_ns + 10**9) == ""
    assert stacks.read_last(folder / "none") == ""
    assert stacks.read_last(write(folder, "")) == ""
    long = DUMP.format(inner="early") * 5000 + DUMP.format(inner="late")
    assert "late" in stacks.read_last(write(folder, long), 0x7F01)


def test_short_jobs_rarely_arm_the_timer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, four times per interval at most."""
    calls: list[float] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda timeout, **_: calls.append(timeout)
    )
    for _ in range(10_000):  # a millisecond each, so ten seconds
        stacks.arm(str(folder), 10.0)
        now[0] += 0.001
    assert len(calls) == 4
    assert set(calls) == {8.0}


def test_the_hosts_faulthandler_is_left_as_it_was(folder: Path) -> None:
    """It stays enabled if the host has enabled it, and disabled otherwise."""
    host = faulthandler.is_enabled()
    stacks.dump_on_fault(folder)
    stacks.arm(str(folder), 60.0)
    stacks.close()
    assert faulthandler.is_enabled() == host
    faulthandler.disable()
    try:
        stacks.dump_on_fault(folder)
        assert faulthandler.is_enabled()
        stacks.close()
        assert not faulthandler.is_enabled()
    finally:
        if host:
            faulthandler.enable()


@pytest.mark.parametrize("pool", ["threads", "serial"])
def test_library_use_leaves_the_hosts_timer_running(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only timer of the host's process is neither set nor cancelled."""
    for name in ("dump_traceback_later", "cancel_dump_traceback_later", "enable", "disable"):
        monkeypatch.setattr(faulthandler, name, lambda *_, **__: pytest.fail("the host's timer"))
    tiles = [(tile.data, tile.wcs) for tile in simulated()]
    stack = calibrate(tiles, Settings(workers=2, heartbeat=0.01), pool, observers=[])
    assert np.isfinite(stack.gain).all()


def test_without_a_folder_of_stacks_nothing_is_raised(tmp_path: Path) -> None:
    """As on a full disk: nothing can be dumped, and the job goes on."""
    stacks.arm(str(tmp_path / "gone"), 60.0)
    stacks.dump_on_fault(tmp_path / "gone")
    assert stacks.find(tmp_path / "gone", os.getpid(), threading.get_ident(), 0) == ""
    stacks.close()


def test_a_worker_in_this_process_is_dumped_at_once(folder: Path) -> None:
    """Its stack is known without waiting for the timer."""
    stack = stacks.find(folder, os.getpid(), threading.get_ident(), time.time_ns())
    assert "test_a_worker_in_this_process_is_dumped_at_once" in stack


def test_a_large_file_of_dumps_is_truncated(folder: Path) -> None:
    """A stuck thread is dumped again and again; the file is truncated after it was read."""
    path = write(folder, DUMP.format(inner="stuck") * 6000)
    assert "stuck" in stacks.find(folder, 1, 0x7F01, 0)
    assert path.stat().st_size == 0


def test_without_an_alarm_a_long_job_is_dumped_once(folder: Path) -> None:
    """Each dump of a running thread by another one is a risk, and one dump is enough."""
    stacks.arm(str(folder), 0.05)
    path = folder / "stacks" / f"{os.getpid()}.txt"
    deadline = time.monotonic() + PATIENCE
    while not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.3)  # six more intervals
    assert path.read_text().count("Timeout (") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_handler_in_python_dumps_where_faulthandler_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13.0: again and again; only a job stuck in C is dumped from a thread."""
    monkeypatch.setattr(stacks, "DUMPS_IN_PYTHON", True)
    path = folder / "stacks" / f"{os.getpid()}.txt"
    before = signal.getsignal(signal.SIGALRM)
    try:
        stacks.use_alarm()
        stacks.arm(str(folder), 0.01)
        deadline = time.monotonic() + PATIENCE
        while path.read_text().count("Current thread") < 20:
            assert time.monotonic() < deadline
        assert "Timeout (" not in path.read_text()
        monkeypatch.setattr(stacks, "HANDLER_LAG", 0.05)
        stacks.cancel()
        stacks.arm(str(folder), 0.01)
        collections.deque(itertools.repeat(None, 10**8), maxlen=0)  # long, in C
        assert path.read_text().count("Timeout (") == 1
        stacks.cancel()
        size = path.stat().st_size
        time.sleep(0.1)
        assert path.stat().st_size == size
    finally:
        stacks.close()
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_busy_job_is_not_dumped_from_a_thread_where_that_faults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an alarm, as in the workers of a foreign executor, there is no dump at all."""
    monkeypatch.setattr(stacks, "DUMPS_IN_PYTHON", True)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: pytest.fail("dump"))
    stacks.arm(str(folder), 0.01)
    stacks.cancel()


DUMPS = 50


def dumps(folder: Path) -> str:
    """Return all dumps so far, of all processes."""
    return "".join(path.read_text() for path in (folder / "stacks").glob("*.txt"))


def busy(folder: str) -> int:
    """Work in Python until this function has been dumped `DUMPS` times; return the work done."""
    end, done = time.monotonic() + PATIENCE, 0
    while dumps(Path(folder)).count("in busy") < DUMPS:
        assert time.monotonic() < end
        done += sum(len([k] * k) for k in range(50))
    return done


def read_slowly(path: str) -> bytes:
    """Read from a slowly filled pipe in C, which does not retry an interrupted read."""
    libc, into = ctypes.CDLL(None), ctypes.create_string_buffer(SENT)
    libc.fopen.restype, libc.fread.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 4
    count = libc.fread(into, 1, SENT, libc.fopen(path.encode(), b"rb"))
    return into.raw[:count]


def in_a_worker(folder: Path, function: Any, *args: Any) -> tuple[Any, Path]:
    """Run a job in a worker that is dumped every 10 ms; return its value and the file of dumps."""
    table = Inflight(folder, 1, 0.01)
    pool = ProcessPool(1)
    try:
        slot = table.allocate("pairs")
        result = pool.submit(run_in_slot, (slot, 1, function, args)).result(PATIENCE)
        assert result.error is None
        path = folder / "stacks" / f"{result.pid}.txt"
        size = path.stat().st_size
        time.sleep(0.1)  # ten intervals in which the worker is idle
        assert path.stat().st_size == size
        return result.value, path
    finally:
        pool.close()
        table.close("finished")


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_busy_worker_survives_many_dumps(tmp_path: Path) -> None:
    """It dumps its own stack, so a job that is busy in Python can be dumped again and again."""
    done, path = in_a_worker(tmp_path, busy, str(tmp_path))
    assert done
    text = path.read_text()
    assert text.count("in busy") >= DUMPS
    assert text.count("in run_in_slot") == text.count("Current thread")  # none is torn


@pytest.mark.skipif(
    not hasattr(signal, "SIGALRM") or stacks.DUMPS_IN_PYTHON,
    reason="no alarms on this system, or a handler that waits for the end of the read",
)
def test_a_read_interrupted_by_an_alarm_continues(tmp_path: Path) -> None:
    """A tile on a slow disk is read in full."""
    pipe = tmp_path / "slow"
    os.mkfifo(pipe)
    sent = [bytes([k]) * (SENT // 20) for k in range(20)]

    def fill() -> None:
        with pipe.open("wb", buffering=0) as file:
            for chunk in sent[:-1]:
                before, end = len(dumps(tmp_path)), time.monotonic() + PATIENCE
                file.write(chunk)
                while len(dumps(tmp_path)) == before and time.monotonic() < end:
                    time.sleep(0.001)  # until an alarm has interrupted the read
            file.write(sent[-1])  # which ends the job, and with it the alarms

    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    stack, path = in_a_worker(tmp_path, read_slowly, str(pipe))
    filler.join()
    assert stack == b"".join(sent)
    assert path.read_text().count("in read_slowly") >= 10


CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)


def wait_in_the_kernel(leave: str, folder: Path) -> None:
    """Wait for a child made by vfork, uninterruptibly, as for a dead disk."""
    # A dump from before would hide the wait: remove it, and begin with a long interval.
    faulthandler.cancel_dump_traceback_later()  # armed on Python 3.13.0
    signal.setitimer(signal.ITIMER_REAL, 1.0, 0.05)
    os.truncate(RunFolder(folder).stack(os.getpid()), 0)
    if ctypes.CDLL(None).syscall(CLONE, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        while not Path(leave).exists():
            time.sleep(0.01)
        os._exit(0)


@pytest.mark.skipif(sys.platform != "linux" or not CLONE, reason="only Linux shows it")
def test_an_uninterruptible_worker_is_reported_with_its_place_in_the_kernel(tmp_path: Path) -> None:
    """By the heartbeat; no such place is reported for a process that merely sleeps."""
    leave, table, pool = tmp_path / "leave", Inflight(tmp_path, 2, 0.05), ProcessPool(2)
    recorder = Recorder()
    jobs = [Job(1, wait_in_the_kernel, (str(leave), tmp_path)), Job(2, time.sleep, (2.0,))]
    waits: list[str] = []
    deadline = time.monotonic() + PATIENCE

    class Release(Observer):
        def heartbeat(self, event: Heartbeat) -> None:
            if event.stack.startswith("Waits in the kernel"):
                waits.append(event.stack)
            if len(waits) * 0.2 > 2.0 or time.monotonic() > deadline:  # alarms have been due
                leave.touch()

    try:
        run(jobs, 2, pool, FanOut([recorder, Release()]), stage="tiles", heartbeat=0.2,
            inflight=table)  # fmt: skip
    finally:
        leave.touch()
        pool.close()
        table.close("finished")
    assert waits
    assert stacks.innermost(waits[0]).startswith("kernel:0 in ")
    assert [e.outcome for e in recorder.of(JobEnded)] == ["measured", "measured"]
    assert stacks.kernel_wait(os.getpid()) == stacks.kernel_wait(0) == ""
