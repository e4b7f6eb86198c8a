"""Stacks: dumped while the lock is held, cheap for short jobs, and no harm to the host."""

from __future__ import annotations

import ctypes
import faulthandler
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
from zemosaic.runtime.events import FanOut, Heartbeat, JobEnded, Observer
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.process_pool import ProcessPool
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
FAULT = "Fatal Python error: Segmentation fault\n\n" + DUMP.partition("\n")[2] + "\nExtension: x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    stacks.close()
    # A test of the command may have made this process one that is all ours.
    monkeypatch.setattr(stacks._timer, "by_alarm", False)
    stacks.create_folder(tmp_path)
    yield tmp_path
    stacks.close()


def write(folder: Path, text: str) -> Path:
    path = folder / "stacks" / "1.txt"
    path.write_text(text)
    return path


def test_the_last_stack_of_a_thread_is_read(folder: Path) -> None:
    """Of several dumps the last, of several threads the one that is asked for."""
    path = write(folder, DUMP.format(inner="first") + DUMP.format(inner="second"))
    found = stacks.read_last(path, 0x7F01)
    assert "second" in found
    assert "in first" not in found
    assert "other" not in found
    assert stacks.innermost(found) == "b.py:3 in second"
    assert stacks.read_last(path, 0x7F03) == ""
    assert "other" in stacks.read_last(path)


def test_of_a_fault_the_thread_that_had_it_is_told(folder: Path) -> None:
    """With what Python said, and without its list of modules."""
    found = stacks.read_last(write(folder, FAULT.format(inner="innocent")))
    assert found.startswith("Fatal Python error: Segmentation fault")
    assert "other" in found
    assert "innocent" not in found
    assert "Extension" not in found


def test_a_stack_older_than_the_job_is_none_of_its(folder: Path) -> None:
    """Nor is there one in a missing, empty or torn file; a long file is read from its end."""
    path = write(folder, DUMP.format(inner="old"))
    assert stacks.read_last(path, 0x7F01, path.stat().st_mtime_ns + 10**9) == ""
    assert stacks.read_last(folder / "none") == ""
    assert stacks.read_last(write(folder, "")) == ""
    long = DUMP.format(inner="early") * 5000 + DUMP.format(inner="late")
    assert "late" in stacks.read_last(write(folder, long), 0x7F01)


def test_short_jobs_do_not_set_the_timer_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: at most four times within the patience."""
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
    """A host that has it enabled keeps it; where it is not, it is not afterwards."""
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
    """In somebody else's process the one timer that there is is neither set nor stopped."""
    for name in ("dump_traceback_later", "cancel_dump_traceback_later", "enable", "disable"):
        monkeypatch.setattr(faulthandler, name, lambda *_, **__: pytest.fail("the host's timer"))
    tiles = [(tile.data, tile.wcs) for tile in simulated()]
    found = calibrate(tiles, Settings(workers=2, heartbeat=0.01), pool, observers=[])
    assert np.isfinite(found.gain).all()


def test_a_full_disk_costs_the_stack_alone(tmp_path: Path) -> None:
    """Without its folder nothing can be dumped, and nothing is raised."""
    stacks.arm(str(tmp_path / "gone"), 60.0)
    stacks.dump_on_fault(tmp_path / "gone")
    assert stacks.find(tmp_path / "gone", os.getpid(), threading.get_ident(), 0) == ""
    stacks.close()


def test_a_worker_of_this_process_is_dumped_now(folder: Path) -> None:
    """Without waiting for a timer."""
    found = stacks.find(folder, os.getpid(), threading.get_ident(), time.time_ns())
    assert "test_a_worker_of_this_process_is_dumped_now" in found


def test_a_file_of_dumps_does_not_grow_for_ever(folder: Path) -> None:
    """A stuck thread is dumped again and again: the file is begun anew, after it was read."""
    path = write(folder, DUMP.format(inner="stuck") * 6000)
    assert "stuck" in stacks.find(folder, 1, 0x7F01, 0)
    assert path.stat().st_size == 0


def test_without_an_alarm_a_long_job_is_dumped_once(folder: Path) -> None:
    """Every dump from another thread of what runs meanwhile is a risk; one tells where it is."""
    stacks.arm(str(folder), 0.05)
    path = folder / "stacks" / f"{os.getpid()}.txt"
    deadline = time.monotonic() + 30
    while not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.3)  # six patiences more
    assert path.read_text().count("Timeout (") == 1


DUMPS = 50
PATIENT = 300.0  # seconds that a loaded machine may take


def dumps(folder: Path) -> str:
    """All dumps so far, of whichever process."""
    return "".join(path.read_text() for path in (folder / "stacks").glob("*.txt"))


def busy(folder: str) -> int:
    """Work in Python until it has been dumped DUMPS times; return the work done."""
    end, done = time.monotonic() + PATIENT, 0
    while dumps(Path(folder)).count("Current thread") < DUMPS:
        assert time.monotonic() < end
        done += sum(len([k] * k) for k in range(50))
    return done


def read_slowly(path: str) -> bytes:
    """Read in C, where nobody tries again, from a pipe that is filled little by little."""
    libc, into = ctypes.CDLL(None), ctypes.create_string_buffer(SENT)
    libc.fopen.restype, libc.fread.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 4
    count = libc.fread(into, 1, SENT, libc.fopen(path.encode(), b"rb"))
    return into.raw[:count]


def in_a_worker(folder: Path, function: Any, *args: Any) -> tuple[Any, Path]:
    """What a job in a worker process returns, dumped every 10 ms; and the file of dumps."""
    table = Inflight(folder, 1, 0.01)
    pool = ProcessPool(1)
    try:
        slot = table.allocate("pairs")
        report = pool.submit(run_in_slot, (slot, 1, function, args)).result(PATIENT)
        assert report.error is None
        path = folder / "stacks" / f"{report.pid}.txt"
        size = path.stat().st_size
        time.sleep(0.1)  # ten patiences, in which the worker waits for another job
        assert path.stat().st_size == size
        return report.value, path
    finally:
        pool.close()
        table.close("finished")


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_worker_is_dumped_again_and_again_and_lives(tmp_path: Path) -> None:
    """From within, so that nothing moves meanwhile: many dumps of a job that is busy in Python."""
    done, path = in_a_worker(tmp_path, busy, str(tmp_path))
    assert done
    count = path.read_text().count("Current thread")
    assert count >= DUMPS
    assert path.read_text().count("in busy") == count


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_read_that_an_alarm_interrupts_goes_on(tmp_path: Path) -> None:
    """A tile on a slow disk is read to its end."""
    pipe = tmp_path / "slow"
    os.mkfifo(pipe)
    sent = [bytes([k]) * (SENT // 20) for k in range(20)]

    def fill() -> None:
        with pipe.open("wb", buffering=0) as file:
            for chunk in sent[:-1]:
                before, end = len(dumps(tmp_path)), time.monotonic() + PATIENT
                file.write(chunk)
                while len(dumps(tmp_path)) == before and time.monotonic() < end:
                    time.sleep(0.001)  # until an alarm has interrupted the read
            file.write(sent[-1])  # which ends the job, and with it the alarms

    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    found, path = in_a_worker(tmp_path, read_slowly, str(pipe))
    filler.join()
    assert found == b"".join(sent)
    assert path.read_text().count("in read_slowly") >= 10


CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)


def wait_in_the_kernel(leave: str) -> None:
    """As for a dead disk: for a child made by vfork, in a state that no signal but kill ends."""
    if ctypes.CDLL(None).syscall(CLONE, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        while not Path(leave).exists():
            time.sleep(0.01)
        os._exit(0)


@pytest.mark.skipif(sys.platform != "linux" or not CLONE, reason="only Linux tells")
def test_of_a_worker_that_no_alarm_reaches_the_place_in_the_kernel_is_told(tmp_path: Path) -> None:
    """By the heartbeat, and not of one that merely sleeps."""
    leave, table, pool = tmp_path / "leave", Inflight(tmp_path, 2, 0.05), ProcessPool(2)
    recorder = Recorder()
    jobs = [Job(1, wait_in_the_kernel, (str(leave),)), Job(2, time.sleep, (2.0,))]
    beats: list[Heartbeat] = []

    class Release(Observer):
        def heartbeat(self, event: Heartbeat) -> None:
            # The other may begin later, and needs a moment to be where it waits.
            beats.append(event)
            if (event.done == 1 and event.stack) or len(beats) * 0.2 > PATIENT:
                leave.touch()

    try:
        run(jobs, 2, pool, FanOut([recorder, Release()]), stage="tiles", heartbeat=0.2,
            inflight=table)  # fmt: skip
    finally:
        leave.touch()
        pool.close()
        table.close("finished")
    alone = [b for b in recorder.of(Heartbeat) if b.done == 1]
    assert "Waits in the kernel" in alone[-1].stack
    assert stacks.innermost(alone[-1].stack).startswith("kernel:0 in ")
    assert [e.outcome for e in recorder.of(JobEnded)] == ["measured", "measured"]
    assert stacks.kernel_wait(os.getpid()) == stacks.kernel_wait(0) == ""
