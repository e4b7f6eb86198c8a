"""Where workers are in their code, dumped to files by a thread in C.

`faulthandler` does it: its timer runs also while the work holds the interpreter's lock for ever.
The timer is set again at the start of a job, though at most four times within its patience, and
never stopped: short jobs pay nothing, and a job that lasts is dumped before the heartbeat that
tells of it. Once: the dump reads frames that the job changes meanwhile. Of a job that hangs or
waits that is safe; of one that is busy in Python, one dump in 100 to 2,000 was seen to end the
process by a segmentation fault (CPython 3.11).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

STACKS = "stacks"
LONGEST = 1 << 16  # characters looked at; a dump of one worker has about 1,000
LARGEST = 1 << 20  # bytes of a file of dumps, before it is begun anew
BEFORE = 0.8  # of the patience: after the job's start, and before the heartbeat


def clear(folder: Path) -> None:
    """Make the folder of stacks anew."""
    shutil.rmtree(folder / STACKS, ignore_errors=True)
    (folder / STACKS).mkdir(parents=True)


@dataclass
class _Timer:
    """The timer of this process: of `faulthandler` there is but one."""

    file: str = ""
    handle: int = -1
    set_at: float = 0.0
    place: tuple[str, int] = ("", 0)  # the folder and the process that it was set for
    enabled: bool = False  # by us, not by the host application


_timer = _Timer()
_lock = threading.Lock()


def arm(folder: str, patience: float) -> None:
    """Have the stacks of this process dumped unless another job begins before long."""
    now, place = time.monotonic(), (folder, os.getpid())
    if _timer.place == place and now - _timer.set_at < patience / 4:
        return
    path = _file(Path(folder))
    with _lock, contextlib.suppress(OSError):  # no room: the work matters more than its stack
        _use(path)
        os.truncate(path, 0)
        faulthandler.dump_traceback_later(BEFORE * patience, file=_timer.handle)
        _timer.set_at, _timer.place = now, place


def enable(folder: Path) -> None:
    """Have this process say where it is when a segmentation fault ends it."""
    with _lock, contextlib.suppress(OSError):
        _use(_file(folder))


def _file(folder: Path) -> str:
    return f"{folder / STACKS / str(os.getpid())}.txt"


def _use(path: str) -> None:
    if _timer.file == path:
        return
    disarm()
    _timer.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _timer.file = path
    if not faulthandler.is_enabled():
        faulthandler.enable(_timer.handle)
        _timer.enabled = True


def disarm() -> None:
    """Stop the timer of this process, which outlives the run where threads did the work."""
    if _timer.handle < 0:
        return
    faulthandler.cancel_dump_traceback_later()
    if _timer.enabled:
        faulthandler.disable()
    os.close(_timer.handle)
    _timer.file, _timer.handle, _timer.set_at, _timer.enabled = "", -1, 0.0, False
    _timer.place = ("", 0)


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
    path = folder / STACKS / f"{pid}.txt"
    if pid == os.getpid():
        try:
            with path.open("a") as file:
                faulthandler.dump_traceback(file)
        except OSError:  # a full disk must not end the run for want of a stack
            return ""
    found = last(path, thread, since_ns)
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
