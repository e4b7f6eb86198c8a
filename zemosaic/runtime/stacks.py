"""Where workers are in their code, dumped to files without Python's help.

`faulthandler` does it, also while the work holds the interpreter's lock for ever. A worker process
of ours has the kernel interrupt it by an alarm, where there are signals, and writes its stack from
within: nothing moves meanwhile, and a job that lasts is dumped again and again, each time before
the heartbeat that tells of it. Elsewhere a thread in C does it, once: it reads frames that the job
changes meanwhile. Of a job that hangs or waits that is safe; of one that is busy in Python, one
dump in 100 to 2,000 was seen to end the process by a segmentation fault (CPython 3.11).

The alarm is set when a worker begins with some jobs, at most four times within its patience while
it is at them, and off when they have ended: short jobs pay next to nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .run_folder import RunFolder

LONGEST = 1 << 16  # characters looked at; a dump of one worker has about 1,000
LARGEST = 1 << 20  # bytes of a file of dumps, before it is begun anew
BEFORE = 0.8  # of the patience: after the job's start, and before the heartbeat


def clear(folder: Path) -> None:
    """Make the folder of stacks anew."""
    shutil.rmtree(RunFolder(folder).stacks, ignore_errors=True)
    RunFolder(folder).stacks.mkdir(parents=True)


@dataclass
class _Timer:
    """The timer of this process: of `faulthandler` there is but one."""

    file: str = ""
    handle: int = -1
    set_at: float = -math.inf
    place: tuple[str, int] = ("", 0)  # the folder and the process that it was set for
    enabled: bool = False  # by us, not by the host application
    by_alarm: bool = False


_timer = _Timer()
_lock = threading.Lock()


def use_alarm() -> None:
    """Have the kernel's alarm tell when to dump, where it can: in a process that is all ours.

    It is for the main thread to call, and to do the jobs.
    """
    if hasattr(faulthandler, "register"):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # whenever there is no file for it
        _timer.by_alarm = True


def arm(folder: str, patience: float) -> None:
    """Have the stacks of this process dumped unless `arm` or `rest` is called before long."""
    now, place = time.monotonic(), (folder, os.getpid())
    if _timer.place == place and now - _timer.set_at < patience / 4:
        return
    path = _file(Path(folder))
    with _lock, contextlib.suppress(OSError):  # no room: the work matters more than its stack
        _use(path)
        os.truncate(path, 0)
        if _timer.by_alarm:
            signal.setitimer(signal.ITIMER_REAL, BEFORE * patience, patience)
        else:
            faulthandler.dump_traceback_later(BEFORE * patience, file=_timer.handle)
        _timer.set_at, _timer.place = now, place


def rest() -> None:
    """Have nothing dumped until `arm` is called again."""
    if _timer.set_at < 0:
        return
    _timer.set_at = -math.inf
    if _timer.by_alarm:
        signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        faulthandler.cancel_dump_traceback_later()


def enable(folder: Path) -> None:
    """Have this process say where it is when a segmentation fault ends it."""
    with _lock, contextlib.suppress(OSError):
        _use(_file(folder))


def _file(folder: Path) -> str:
    return str(RunFolder(folder).stack(os.getpid()))


def _use(path: str) -> None:
    if _timer.file == path:
        return
    disarm()
    _timer.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _timer.file = path
    if not faulthandler.is_enabled():
        faulthandler.enable(_timer.handle)
        _timer.enabled = True
    if _timer.by_alarm:
        # Not chained, so that the kernel goes on with a read that it interrupts.
        faulthandler.register(signal.SIGALRM, _timer.handle, all_threads=True, chain=False)


def disarm() -> None:
    """Stop the timer of this process, which outlives the run where threads did the work."""
    if _timer.handle < 0:
        return
    rest()
    if _timer.by_alarm:
        faulthandler.unregister(signal.SIGALRM)
    if _timer.enabled:
        faulthandler.disable()
    os.close(_timer.handle)
    _timer.file, _timer.handle, _timer.enabled, _timer.place = "", -1, False, ("", 0)


def of(folder: Path, pid: int, thread: int, since_ns: int) -> str:
    """Where a worker was when its stack was last dumped since a time; empty where none was.

    A worker of this very process is dumped now.

    Parameters
    ----------
    folder : pathlib.Path
        Of the run.
    pid, thread : int
        The worker.
    since_ns : int
        Start of its job, in nanoseconds since the epoch.
    """
    path = RunFolder(folder).stack(pid)
    if pid == os.getpid():
        try:
            with path.open("a") as file:
                faulthandler.dump_traceback(file)
        except OSError:  # a full disk must not end the run for want of a stack
            return ""
    found = last(path, thread, since_ns) or in_kernel(pid)
    with contextlib.suppress(OSError):  # a thread that hangs for a day is dumped at every heartbeat
        if path.stat().st_size > LARGEST:
            os.truncate(path, 0)
    return found


def last(path: Path, thread: int = 0, since_ns: int = 0) -> str:
    """The last stack of a thread (0: the current one) in a file of dumps, if not older."""
    try:
        # The clock of files may be some milliseconds behind.
        if path.stat().st_mtime_ns + 50_000_000 < since_ns:
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LONGEST))
            text = file.read(LONGEST).decode(errors="replace")
    except OSError:
        return ""
    fatal = [m.start() for m in re.finditer(r"(?m)^(Fatal Python error|Windows fatal)", text)]
    if fatal:
        text = text[fatal[-1] :]
    # A dump is followed by a blank line, and by the head of the next.
    blocks = [
        re.split(r"\n\s*\n|\n(?=Timeout \()", block)[0].strip()
        for block in re.split(r"(?m)^(?=(?:Current thread|Thread) 0x)", text)
    ]
    mine = [block for block in blocks[1:] if not thread or _ident(block) == thread]
    if not mine:
        return ""
    if not thread:  # the one that a fault ended is the current one
        mine = ["\n".join([b for b in mine if b.startswith("Current")] or mine)]
    return f"{blocks[0]}\n{mine[-1]}" if fatal else mine[-1]


def in_kernel(pid: int) -> str:
    """Where in the kernel a process waits whom no alarm can reach; empty where it does not.

    Only Linux tells.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        place = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""
    if state != "D":
        return ""
    said = "Waits in the kernel, as for a disk that does not answer"
    return f'{said}:\n  File "kernel", line 0 in {place}'


def innermost(stack: str) -> str:
    """The innermost line of a dumped stack, without its folder; empty where there is none."""
    match = re.search(r'File "([^"]*)", line (\d+) in (.*)', stack)
    if match is None:
        return ""
    name = re.split(r"[/\\]", match[1])[-1]
    return f"{name}:{match[2]} in {match[3].strip()}"


def _ident(block: str) -> int:
    match = re.match(r"(?:Current thread|Thread) 0x([0-9a-fA-F]+)", block)
    return int(match[1], 16) if match else 0
