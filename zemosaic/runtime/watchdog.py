"""Watches the stages of a run from another process, which can end one that hangs in C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..threads import report, start_thread
from . import interrupts, watchdog_process
from .events import Event, RunEnded, RunStarted, StageEnded, StageStarted
from .observers import Observer
from .run_folder import RunFolder

BEAT = 1.0  # seconds between two signs of life
GRACE, GRACE_WITHOUT_BEATS = 10.0, 60.0  # seconds from an interrupt to the end by force
EXIT_TIMEOUT = 2.0


class Watchdog(Observer):
    """Reports the stages of this process, and signs of life, to a process that watches them.

    A stage that takes longer than the time-out is ended together with the run, even if it holds
    the GIL; so is a run whose main thread does not handle an interrupt, or that gives no sign of
    life after it. Signs of life also set the time of the lock file, which ``zemosaic status``
    reads.

    Stages with jobs are timed from event to event, and only with worker processes: other pools run
    jobs of any length in this process.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder, claimed by this process.
    timeout : float
        Seconds that a stage may take; 0 means any time.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self._lock_file = RunFolder(folder).lock
        self._stages: list[tuple[str, bool]] = []  # open stages, and whether each has jobs
        self._times_jobs = True
        self._last_beat = self._last_report = 0.0
        self._stop = threading.Event()
        self._pipe = -1
        self._wakeup: int | None = None  # descriptor to restore, if ours is set
        self._process: subprocess.Popen[bytes] | None = None
        beats = start_thread(self._beat, "zemosaic-beat", "status cannot tell silence from work")
        grace = GRACE if beats is not None else GRACE_WITHOUT_BEATS
        self._start(timeout, grace, RunFolder(folder).verdict)

    def _start(self, timeout: float, grace: float, verdict: Path) -> None:
        if getattr(sys, "frozen", False):  # its executable runs no other script
            report("no watchdog in a frozen application: stages have no time-out")
            return
        script = watchdog_process.__file__
        command = [sys.executable, "-I", "-S", script, str(os.getpid()), str(timeout), str(grace),
                   os.path.abspath(verdict)]  # fmt: skip
        # Out of reach of Ctrl-C.
        group: dict[str, Any] = {"process_group": 0}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **group
            )
        except OSError as error:
            report(f"no watchdog can be started ({error.strerror}): stages have no time-out")
            return
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        with contextlib.suppress(OSError, AttributeError):  # pipes on Windows before Python 3.12
            os.set_blocking(self._pipe, False)
        if interrupts.acknowledge_with(lambda: self._send(watchdog_process.HANDLED)):
            with contextlib.suppress(ValueError):  # not the main thread, or a pipe that blocks
                self._wakeup = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._process is None or self._process.stdin is None:
            return
        interrupts.acknowledge_with(None)
        if self._wakeup is not None:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.set_wakeup_fd(self._wakeup)
        pipe, self._pipe = self._process.stdin, -1
        with contextlib.suppress(OSError):
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage that is no stage of the trace."""
        self._stages.append((name, False))
        self._send_stage()
        try:
            yield
        finally:
            self._stages.pop()
            self._send_stage()

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Report changes of the stage at once, and other events of stages with jobs as progress."""
        changed = False
        for event in events:
            if isinstance(event, RunStarted):
                self._times_jobs = event.attributes.get("pool.kind") in ("processes", "dask")
            elif isinstance(event, StageStarted):
                self._stages.append((event.stage, event.total > 0))
                changed = True
            elif isinstance(event, StageEnded) and self._stages:
                self._stages.pop()
                changed = True
            elif isinstance(event, RunEnded):
                self._stages, changed = [], True
        has_jobs = bool(self._stages) and self._stages[-1][1]
        if changed or (has_jobs and time.monotonic() - self._last_report >= BEAT):
            self._send_stage()
        elif time.monotonic() - self._last_beat >= BEAT:
            self._send(b".")

    def _send_stage(self) -> None:
        name, has_jobs = self._stages[-1] if self._stages else ("end", False)
        kind = "untimed" if has_jobs and not self._times_jobs else "stage"
        self._last_report = time.monotonic()
        self._send(f"{kind} {name}\n".encode())

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._send(b".")

    def _send(self, message: bytes) -> None:
        self._last_beat, now = time.monotonic(), time.time_ns()
        with contextlib.suppress(OSError):  # the folder was removed, or belongs to another user
            os.utime(self._lock_file, ns=(now, now))
        if self._pipe >= 0:
            with contextlib.suppress(OSError):  # the watchdog has ended or is stopped
                os.write(self._pipe, message)
