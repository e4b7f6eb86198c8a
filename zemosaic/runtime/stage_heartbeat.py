"""Heartbeats of a stage without jobs, from a thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..threads import start_thread
from . import stacks
from .events import Heartbeat
from .observers import FanOut


@contextlib.contextmanager
def beat(observers: FanOut, stage: str, interval: float, folder: Path) -> Iterator[None]:
    """Send a heartbeat with the stack of this thread whenever observers have heard nothing.

    A stage that holds the GIL stops the thread as well; an alarm then still dumps the stack, for
    ``zemosaic status``.

    Parameters
    ----------
    observers : FanOut
        Observers of the run.
    stage : str
        Name of the stage.
    interval : float
        Seconds without an event before a heartbeat, and between two.
    folder : pathlib.Path
        Run folder.
    """
    started, thread, stop = time.monotonic(), threading.get_ident(), threading.Event()
    started_ns = time.time_ns()

    def send() -> None:
        wait = interval
        while not stop.wait(wait):
            now = time.monotonic()
            wait = interval - (now - observers.last_dispatch)
            if wait > 0:
                continue
            wait = interval
            heartbeat = Heartbeat(
                stage=stage,
                time_ns=time.time_ns(),
                done=0,
                total=0,
                pending=0,
                pending_indices=(),
                running_indices=(),
                running_time=(),
                running_attributes=(),
                last_completed_index=0,
                idle_time=now - started,
                stack=stacks.find(folder, os.getpid(), thread, started_ns),
            )
            with observers.lock:  # nothing comes after the end of the stage
                if not stop.is_set():
                    observers.dispatch(heartbeat)

    start_thread(send, "zemosaic-stage", "stages without jobs have no heartbeat")
    stacks.arm_alarm(str(folder), interval)
    try:
        yield
    finally:
        stop.set()
        stacks.cancel()
