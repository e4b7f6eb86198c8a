"""The watch of our own stages, for a loop that somebody else owns."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

from .observe.telemetry import Telemetry
from .reporting import CallbackReporter
from .runtime import stacks
from .runtime.events import JobError, RunEnded, RunStarted, StageEnded, StageStarted
from .runtime.inflight import Inflight
from .runtime.kept_folder import KeptFolder, keep_folder
from .runtime.loop_watch import STAGE, LoopWatch
from .runtime.observers import FanOut, Observer

ROWS = 64  # running futures in the table of running jobs


@contextmanager
def watch(
    name: str,
    total: int | None = None,
    progress: Callable[..., Any] | None = None,
    logger: logging.Logger | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    prefix: str | None = None,
    heartbeat: float = 10.0,
    observers: Sequence[Observer] = (),
) -> Iterator[LoopWatch]:
    """Watch a loop over futures; its results and their order are the owner's.

    ::

        with zemosaic.watch("phase5_intertile", progress=callback, logger=logger) as watcher:
            for future in watcher.as_completed(future_map):
                ...

    The phase has a span, and so has each future. While none ends, heartbeats name the pending
    futures, running ones first, with the stack of the oldest, if a thread of this process runs it.
    They come from a thread of the watch, also while the body of the loop is stuck.

    Parameters
    ----------
    name : str
        Name of the phase.
    total : int, optional
        Number of futures, if more will follow.
    progress : callable, optional
        Called with ``(name, done, total)`` for each future that ended and with
        ``(line, None, level)`` for each log line. Its exceptions are ignored.
    logger : logging.Logger, optional
        Receives the log lines.
    folder : path-like, optional
        Run folder for ``zemosaic status`` and ``zemosaic autopsy``. By default a folder in the
        temporary directory, which the first log line names, and which is removed unless the loop
        raises or the process dies.
    prefix : str, optional
        Start of each log line; by default the name in brackets and a space.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    observers : sequence of Observer
        Receive all events, in addition to the application's tracer provider.

    Yields
    ------
    LoopWatch
        Its `as_completed` takes futures of any executor or of Dask, and their labels.
    """
    reporter = _LoopReporter(name, progress, logger, f"[{name}] " if prefix is None else prefix)
    with ExitStack() as stack:
        about = {"loop": name, "settings": {}}
        kept = stack.enter_context(keep_folder(folder, about, reporter.log))
        journals = kept.journals if kept else []
        fan_out = FanOut([*journals, reporter, Telemetry(name=name), *observers])
        inflight = stack.enter_context(_inflight(kept, reporter))
        watcher = LoopWatch(fan_out, total or 0, heartbeat, inflight, progress=reporter.progress)
        reporter.labels = watcher.label
        stack.enter_context(_run(fan_out, watcher, total or 0))
        yield watcher


def watched(
    iterable: Iterable[Any],
    name: str,
    total: int | None = None,
    progress: Callable[..., Any] | None = None,
    logger: logging.Logger | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Yield the items of an iterable, and watch the loop that works on them.

    Each item runs from the moment it is yielded until the loop asks for the next; heartbeats have
    its number, or the item itself if it is a string or an integer, and the stack of the loop.

    Parameters
    ----------
    iterable : iterable
        What to loop over.
    name, total, progress, logger, options
        As for `watch`; the total is ``len(iterable)``, if it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with watch(name, total, progress, logger, **options) as watcher:
        yield from watcher.items(iterable)


class _LoopReporter(CallbackReporter):
    """Also reports the progress of the loop."""

    def __init__(
        self,
        name: str,
        callback: Callable[..., Any] | None,
        logger: logging.Logger | None,
        prefix: str,
    ) -> None:
        super().__init__(logger, callback, prefix)
        self._name = name

    def progress(self, done: int, total: int) -> None:
        """Report the number of futures that ended."""
        self.call_back(self._name, done, total)


@contextmanager
def _inflight(kept: KeptFolder | None, reporter: CallbackReporter) -> Iterator[Inflight | None]:
    """Yield the table of running jobs in the run folder; None without one."""
    if kept is None:
        yield None
        return
    try:
        table = Inflight(kept.path, ROWS, 0.0)
    except OSError as error:
        reporter.log(logging.WARNING, f"{kept.path}: no table of running jobs ({error.strerror})")
        yield None
        return
    stacks.dump_on_fault(kept.path)
    state = "failed"
    try:
        yield table
        state = "finished"
    finally:
        table.close(state)
        stacks.close()


@contextmanager
def _run(observers: FanOut, watcher: LoopWatch, total: int) -> Iterator[None]:
    """Report the start and the end of the run, and watch in between."""
    observers.dispatch(
        RunStarted(run_id=uuid.uuid4().hex, time_ns=time.time_ns()),
        StageStarted(stage=STAGE, time_ns=time.time_ns(), total=total),
    )
    watcher.start()
    state, failure = "finished", None
    try:
        yield
    except GeneratorExit:  # a break in a watched loop
        raise
    except BaseException as error:
        failure = JobError.of(error)
        state = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
        raise
    finally:
        watcher.stop()
        now = time.time_ns()
        observers.dispatch(
            StageEnded(stage=STAGE, time_ns=now),
            RunEnded(state=state, time_ns=now, error=failure),
        )
