"""Stack dumps of busy processes, in files readable by any process.

Uses `faulthandler`, which works even while the GIL is held. On POSIX each worker process arms
SIGALRM and dumps its own stack: nothing moves meanwhile, so a long job is dumped again and again,
each time shortly before the heartbeat reporting it. Elsewhere, and in the process of the run, a
watchdog thread in C dumps once, because it reads frames that may be changing. This is safe for a
job that hangs or waits; for jobs busy in Python, one dump in 100 to 2,000 ended the
process with a segmentation fault (CPython 3.11).

In Python 3.13.0 alone a dump also faults if it comes as C calls Python (python/cpython#123967): in
busy jobs, every hundredth. There the alarm has a handler in Python, and a thread dumps only a job
that keeps the handler waiting, so is stuck in C; without alarms nothing is dumped.

A worker arms the timer when it starts a job, at most four times per interval, and cancels it after
its last one, so short jobs cost almost nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ..files import no_follow
from .run_folder import RunFolder

MAX_READ = 1 << 16  # bytes from the end of a file; a dump of one worker has about 1,000
MAX_FILE = 1 << 20  # bytes of dumps before a file is truncated
DUMP_POINT = 0.8  # share of the interval: after the start of the job, before the heartbeat
HANDLER_LAG = 1.0  # seconds after which a job that keeps the handler waiting is stuck in C
DUMPS_IN_PYTHON = sys.version_info[:3] == (3, 13, 0)
FILE_CLOCK_LAG = 50_000_000  # ns by which the time of a file may be behind the clock


@dataclass
class _Timer:
    """State of the only timer of this process: `faulthandler` has no second one."""

    path: str = ""
    descriptor: int = -1
    armed_at: float = -math.inf
    armed_for: tuple[str, int] = ("", 0)  # folder and process
    enabled: bool = False  # whether we, not the host application, enabled `faulthandler`
    by_alarm: bool = False
    stuck_after: float = 0.0  # seconds


_timer = _Timer()
_lock = threading.Lock()


def create_folder(folder: Path) -> None:
    """Create the folder of stacks in a run folder, empty."""
    shutil.rmtree(RunFolder(folder).stacks, ignore_errors=True)
    # Windows cannot remove a file that a worker of a dead run still has open.
    RunFolder(folder).stacks.mkdir(parents=True, exist_ok=True)


def use_alarm() -> None:
    """Dump on SIGALRM, if it exists: only in a process of the run's own.

    The main thread must call this, and must run the jobs.
    """
    if hasattr(faulthandler, "register"):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # while no file is open
        if DUMPS_IN_PYTHON:
            signal.signal(signal.SIGALRM, _handle_alarm)
            signal.siginterrupt(signal.SIGALRM, False)
        _timer.by_alarm = True


def arm(folder: str, interval: float, host: str = "") -> None:
    """Dump the stacks of this process after most of `interval` seconds, unless armed again.

    `host` is the name of this machine if the run is on another.
    """
    now, target = time.monotonic(), (folder, os.getpid())
    if _timer.armed_for == target and now - _timer.armed_at < interval / 4:
        return
    path = _own_path(Path(folder), host)
    with _lock, contextlib.suppress(OSError):  # a full disk must not end the job
        _open(path)
        os.truncate(path, 0)
        if _timer.by_alarm:
            signal.setitimer(signal.ITIMER_REAL, DUMP_POINT * interval, interval)
            if DUMPS_IN_PYTHON:
                _timer.stuck_after = interval + HANDLER_LAG
                _dump_if_stuck()
        elif not DUMPS_IN_PYTHON:
            faulthandler.dump_traceback_later(DUMP_POINT * interval, file=_timer.descriptor)
        _timer.armed_at, _timer.armed_for = now, target


def _handle_alarm(signal_number: int, frame: object) -> None:
    if _timer.armed_at > -math.inf:
        faulthandler.dump_traceback(_timer.descriptor)
        _dump_if_stuck()


def _dump_if_stuck() -> None:
    """Dump once from a thread, unless called again in time."""
    with contextlib.suppress(RuntimeError):  # a limit on threads must not end the job
        faulthandler.dump_traceback_later(_timer.stuck_after, file=_timer.descriptor)


def arm_alarm(folder: str, interval: float) -> None:
    """Arm the timer if an alarm dumps the stack, which is safe also while frames change."""
    if _timer.by_alarm and threading.current_thread() is threading.main_thread():
        arm(folder, interval)


def cancel() -> None:
    """Dump nothing until `arm` is called again."""
    if _timer.armed_at < 0:
        return
    _timer.armed_at = -math.inf
    if _timer.by_alarm:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if DUMPS_IN_PYTHON or not _timer.by_alarm:
        faulthandler.cancel_dump_traceback_later()


def dump_on_fault(folder: Path) -> None:
    """Dump the stacks of this process if a fatal signal, such as SIGSEGV, ends it."""
    with _lock, contextlib.suppress(OSError):
        _open(_own_path(folder))


def close() -> None:
    """Cancel the timer, close its file and restore the state of `faulthandler`.

    Needed at the end of a run, because this process lives on.
    """
    if _timer.descriptor < 0:
        return
    cancel()
    if _timer.by_alarm and not DUMPS_IN_PYTHON:
        faulthandler.unregister(signal.SIGALRM)
    if _timer.enabled:
        faulthandler.disable()
    os.close(_timer.descriptor)
    _timer.path, _timer.descriptor, _timer.enabled = "", -1, False
    _timer.armed_for = ("", 0)


def _own_path(folder: Path, host: str = "") -> str:
    return str(RunFolder(folder).stack(os.getpid(), host))


def _open(path: str) -> None:
    if _timer.path == path:
        return
    close()
    _timer.descriptor = no_follow(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _timer.path = path
    if not faulthandler.is_enabled():
        faulthandler.enable(_timer.descriptor)
        _timer.enabled = True
    if _timer.by_alarm and not DUMPS_IN_PYTHON:
        # Not chained, so the kernel restarts an interrupted read.
        faulthandler.register(signal.SIGALRM, _timer.descriptor, all_threads=True, chain=False)


def find(folder: Path, pid: int, thread: int, since_ns: int) -> str:
    """Return the last stack of a worker; dump it first if the worker is in this process.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    pid, thread : int
        Process and thread of the worker.
    since_ns : int
        Start of its job, in nanoseconds since the epoch; earlier dumps are ignored.

    Returns
    -------
    str
        As Python prints it; empty if the worker has not been dumped.
    """
    path = RunFolder(folder).stack(pid)
    if pid == os.getpid():
        try:
            with open(path, "a", opener=no_follow) as file:
                faulthandler.dump_traceback(file)
        except OSError:  # a full disk must not end the run
            return ""
    stack = read_last(path, thread, since_ns) or kernel_wait(pid)
    with contextlib.suppress(OSError):  # a stuck thread adds a dump per heartbeat
        if path.stat().st_size > MAX_FILE:
            os.truncate(path, 0)
    return stack


def read_last(path: Path, thread: int = 0, since_ns: int = 0) -> str:
    """Return the last stack of a thread in a file of dumps.

    Parameters
    ----------
    path : pathlib.Path
        File of dumps; it may be missing or torn.
    thread : int
        Identifier of the thread; 0 selects the one ended by a fatal signal, else the main thread.
    since_ns : int
        Ignore a file last written before, in nanoseconds since the epoch.

    Returns
    -------
    str
        The stack, after the line of the fatal error if there was one; empty if there is no stack.
    """
    text = _read_end(path, since_ns)
    errors = list(re.finditer(r"(?m)^(Fatal Python error|Windows fatal)", text))
    if errors:
        text = text[errors[-1].start() :]
    # A blank line or the heading of the next dump ends a stack.
    heading, *found = (
        re.split(r"\n\s*\n|\n(?=Timeout \()", part)[0].strip()
        for part in re.split(r"(?m)^(?=(?:Current thread|Thread) 0x)", text)
    )
    if thread:
        found = [stack for stack in found if _thread_of(stack) == thread]
    if not found:
        return ""
    if not errors:
        return found[-1]  # of all threads, the main one comes last
    current = [stack for stack in found if stack.startswith("Current")]
    stack = found[-1] if thread else "\n".join(current or found)
    return f"{heading}\n{stack}"


def _read_end(path: Path, since_ns: int) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime_ns + FILE_CLOCK_LAG < since_ns:
                return ""
            file.seek(max(0, status.st_size - MAX_READ))
            return file.read(MAX_READ).decode(errors="replace")
    except OSError:
        return ""


def _thread_of(stack: str) -> int:
    match = re.match(r"(?:Current thread|Thread) 0x([0-9a-fA-F]+)", stack)
    return int(match[1], 16) if match else 0


def kernel_wait(pid: int) -> str:
    """Return the kernel function in which a process waits uninterruptibly, as a stack.

    Empty if the process does not wait so, and everywhere but on Linux.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        function = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""
    if state != "D":
        return ""
    heading = "Waits in the kernel, as for a disk that does not answer"
    return f'{heading}:\n  File "kernel", line 0 in {function}'


def innermost(stack: str) -> str:
    """Return the innermost line of a stack, without its folder; empty if there is none."""
    match = re.search(r'File "([^"]*)", line (\d+) in (.*)', stack)
    if match is None:
        return ""
    name = re.split(r"[/\\]", match[1])[-1]
    return f"{name}:{match[2]} in {match[3].strip()}"
